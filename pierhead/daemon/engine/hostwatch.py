"""Notices what others do to the host's network: rules flushed, bridges deleted, forwarding switched off.

Rules, links, addresses and routes are announced by the kernel; of its settings (sysctls) some are not, so these are
read twice a second.
"""

import asyncio
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass

from pierhead.linux import changes

SETTLE = 0.1
"""Seconds without a further look after a change: a reload is many changes."""

CALM = 0.5
"""The same for links: containers of ours come and go."""

TICK = 0.5
"""Seconds between two looks at the kernel's settings."""


@dataclass(slots=True)
class Seen:
    """What has been noticed since the last look. rules: somebody changed our table; foreign: tables of others;
    programs: who."""

    rules: bool = False
    foreign: bool = False
    links: bool = False
    settings: bool = False
    programs: "dict[str, None] | None" = None

    def anything(self) -> bool:
        """Whether there is a reason to look."""
        return self.rules or self.foreign or self.links or self.settings

    def with_(self, other: "Seen") -> "Seen":
        """Both."""
        return Seen(
            self.rules or other.rules,
            self.foreign or other.foreign,
            self.links or other.links,
            self.settings or other.settings,
            {**(self.programs or {}), **(other.programs or {})},
        )

    @property
    def who(self) -> str:
        """For a sentence: "nft", or "somebody else"."""
        return ", ".join(self.programs or ()) or "somebody else"


@dataclass(frozen=True, slots=True)
class Reactions:
    """What is called on the running loop.

    guard: at once, when our table has lost rules.  foreign: at once, when rules of others are not what they were.
    drifted: at every tick; whether a setting is not as it should be.  legacy: at every tick; whether rules of the old
    iptables, which nobody announces, were changed.  look: soon after one or many changes.
    """

    guard: Callable[[], None]
    foreign: Callable[[], None]
    drifted: Callable[[], bool]
    legacy: Callable[[], bool]
    look: Callable[[Seen], None]


class HostWatch:
    """Watches the present network namespace on behalf of one instance."""

    def __init__(self, table: str, group: int, reactions: Reactions) -> None:
        """Begin to watch. table, group: the marks of the instance. Raises OSError."""
        self._table = table
        self._group = group
        self._reactions = reactions
        self._seen = Seen()
        self._transactions = changes.Transactions()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._rules = changes.rules()
        self._links = changes.links()
        self._loop.add_reader(self._rules.fileno(), self._rules_changed)
        self._loop.add_reader(self._links.fileno(), self._links_changed)
        self._tick = self._loop.call_later(TICK, self._look_at_settings)

    def _datagrams(self, listener: socket.socket) -> "list[bytes] | None":
        """What has been announced; None if some of it was lost."""
        found: list[bytes] = []
        lost = False
        while True:
            try:
                found.append(listener.recv(1 << 17))
            except BlockingIOError:
                return None if lost else found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True

    def _rules_changed(self) -> None:
        datagrams = self._datagrams(self._rules)
        if datagrams is None:
            self._transactions = changes.Transactions()
            self._seen.rules = self._seen.foreign = True
            self._reactions.foreign()
        for datagram in datagrams or ():
            for transaction in self._transactions.feed(datagram):
                if not transaction.own:
                    self._transaction(transaction)
        self._soon(SETTLE)

    def _transaction(self, transaction: changes.Transaction) -> None:
        if self._table in transaction.tables:
            self._seen.rules = True
            self._seen.programs = {**(self._seen.programs or {}), transaction.program: None}
            if self._table in transaction.bared:
                self._reactions.guard()
        if transaction.tables - {self._table}:
            self._seen.foreign = True
            self._reactions.foreign()

    def _links_changed(self) -> None:
        datagrams = self._datagrams(self._links)
        if datagrams is None or any(changes.concerns_links(one, self._group) for one in datagrams):
            self._seen.links = True
            self._soon(CALM)

    def _look_at_settings(self) -> None:
        self._tick = self._loop.call_later(TICK, self._look_at_settings)
        drifted, legacy = self._reactions.drifted(), self._reactions.legacy()
        self._seen.settings |= drifted
        self._seen.foreign |= legacy
        if drifted or legacy:
            self._soon(0)

    def _soon(self, delay: float) -> None:
        if not self._seen.anything():
            return
        when = self._loop.time() + delay
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        seen, self._seen = self._seen, Seen()
        self._reactions.look(seen)

    def close(self) -> None:
        """Watch no longer."""
        for listener in (self._rules, self._links):
            self._loop.remove_reader(listener.fileno())
            listener.close()
        self._tick.cancel()
        if self._timer is not None:
            self._timer.cancel()
