"""Notices that somebody changes the host's nftables ruleset: a reload of another firewall may flush ours with it."""

import asyncio
import errno
import socket
from collections.abc import Callable

from pierhead.linux import nft

SETTLE = 0.1
"""Seconds without a further look after a change: a reload is many changes, and so is every start of ours."""


class RulesetWatch:
    """Calls ``changed`` on the running loop, soon after one or many changes of anybody's."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """Begin to watch the present network namespace. Raises OSError."""
        self._changed = changed
        self._timer: asyncio.TimerHandle | None = None
        self._socket: socket.socket = nft.watch()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        while True:
            try:
                self._socket.recv(65536)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # so many changes that some were lost: all the more a change
                    raise
        if self._timer is None:
            self._timer = self._loop.call_later(SETTLE, self._look)

    def _look(self) -> None:
        self._timer = None
        self._changed()

    def close(self) -> None:
        """Watch no longer."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        if self._timer is not None:
            self._timer.cancel()
