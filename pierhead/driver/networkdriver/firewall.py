"""The one nft table of an instance, as it is in the kernel: loaded as a whole, then changed element by element."""

from collections.abc import Iterable, Sequence

from pierhead.driver.networkdriver import rules, tablecheck
from pierhead.driver.networkdriver.api import Endpoint, Neighbours, Passage, PublishPolicy
from pierhead.driver.networkdriver.chains import STRANGERS_OF
from pierhead.driver.networkdriver.marks import TABLE
from pierhead.driver.networkdriver.marks import table as table_of
from pierhead.driver.networkdriver.rules import (
    PROTOCOLS,
    Contents,
    Linked,
    Segment,
    additions,
    published,
    ruleset,
    words,
)
from pierhead.linux import conntrack, nft, nftdump, nftrules
from pierhead.linux.conntrack import Conntrack
from pierhead.linux.libnftables import Rulesets
from pierhead.linux.nft import NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, Element, Netfilter


class Firewall:
    """The table of one instance in the present network namespace."""

    def __init__(self, instance: str, policy: PublishPolicy) -> None:
        """Nothing is touched before the first call."""
        self._instance = instance
        self._policy = policy
        self.table = table_of(instance)
        self._rulesets = Rulesets()
        self._netfilter = Netfilter()
        self._conntrack = Conntrack(self._netfilter)
        self._loaded = ""
        self._neighbours = Neighbours()
        self._linked: tuple[Passage, ...] = ()

    def exists(self) -> bool:
        """Whether the table is there."""
        return self._netfilter.has_table(NFPROTO_INET, self.table)

    def whole(self) -> bool:
        """Whether it has sets to add to: somebody may have just flushed it (``guard`` brings rules alone)."""
        return bool(nftdump.read_sets(self._netfilter, NFPROTO_INET, self.table))

    def others(self) -> tuple[bool, frozenset[int]]:
        """Whether other instances have tables in this namespace, and the IP versions that one of them turned on."""
        chains = [
            chain
            for chain in nftdump.read_chains(self._netfilter)
            if chain.table.startswith(TABLE) and chain.table != self.table
        ]
        names = {chain.name for chain in chains}
        return bool(chains), frozenset(version for version, name in STRANGERS_OF.items() if name in names)

    def load(
        self,
        segments: Sequence[Segment],
        endpoints: Sequence[tuple[Segment, Endpoint]],
        strangers: Iterable[int],
        filtered: Iterable[int],
    ) -> None:
        """Make the table exactly this, in one transaction: there is no moment without rules. strangers, filtered: IP
        versions, as in ``ruleset``."""
        everything = Contents(segments, endpoints, self._neighbours, self._linked)
        self._rulesets.run(ruleset(self._instance, everything, strangers, self._policy, filtered))
        self._loaded = tablecheck.fingerprint(self._netfilter, self.table)

    def guard(self) -> None:
        """The rules are gone: put back, within a millisecond, what must not be missing until they are loaded again."""
        self._netfilter.commit(nftrules.loopback_guard(self.table))

    def damage(self, segments: Sequence[Segment], endpoints: Sequence[tuple[Segment, Endpoint]]) -> list[str]:
        """What of the table is not as it should be, in words. Raises OSError."""
        found = tablecheck.present(self._netfilter, self.table)
        everything = Contents(segments, endpoints, self._neighbours, self._linked)
        wanted = tablecheck.expected(everything, self._policy)
        return tablecheck.differences(self.table, self._loaded, found, wanted)

    def add(self, segment: Segment, strangers: Iterable[int] = ()) -> None:
        """Add a network's elements, and chains for IP versions that are to be forwarded for it. Idempotent for those
        that are not there yet."""
        self._rulesets.run(additions(self._instance, segment, strangers))
        if strangers:
            self._loaded = tablecheck.fingerprint(self._netfilter, self.table)

    def admit(self, neighbours: Neighbours) -> None:
        """Make these the bridges of others that are no strangers. Idempotent."""
        if neighbours == self._neighbours:
            return
        self._neighbours = neighbours
        self._refill(("guests", "alike"), [(name, words(parts)) for name, parts in rules.neighbours(neighbours)])

    def link(self, passages: tuple[Passage, ...]) -> None:
        """Make these the ports that are open between containers which are kept apart. Idempotent."""
        if passages == self._linked:
            return
        self._linked = passages
        self._refill((rules.LINKED,), [(rules.LINKED, Linked(one).text()) for one in passages])

    def _refill(self, names: Iterable[str], elements: Iterable[tuple[str, str]]) -> None:
        """Let sets hold exactly these elements, if the table is there; ``load`` brings them too."""
        if not self._loaded or not self.whole():
            return
        lines = [f"flush set inet {self.table} {name}" for name in names]
        lines += [f"add element inet {self.table} {name} {{ {text} }}" for name, text in elements]
        self._rulesets.run("\n".join(lines))

    def admit_strangers(self, versions: Iterable[int]) -> None:
        """Take the chains away that ``add`` and ``load`` made for these IP versions. Idempotent."""
        for version in versions:
            try:
                self._rulesets.run(f"delete chain inet {self.table} {STRANGERS_OF[version]}")
            except OSError:
                continue  # somebody else has taken it
            self._loaded = tablecheck.fingerprint(self._netfilter, self.table)

    def remove(self, segment: Segment) -> None:
        """Take a network's elements away. Idempotent."""
        lines = [f"delete element inet {self.table} {name} {{ {words(parts)} }}" for name, parts in segment.elements()]
        try:
            self._rulesets.run("\n".join(lines))
        except OSError:
            # One that is missing aborts the transaction: take the others one by one, a missing one is what is wanted.
            for line in lines:
                try:
                    self._rulesets.run(line)
                except OSError:
                    continue

    def publish(self, segment: Segment, endpoint: Endpoint, before: Endpoint | None = None) -> None:
        """Add the elements of an endpoint's ports. Idempotent; replaces a stale element of the same port.

        before: see ``NetworkDriver.publish``.
        """
        wanted = self._elements(segment, endpoint)
        present = self._elements(segment, before) if before is not None else {}
        self._exchange(
            [element for element in present if element not in wanted],
            [element for element in wanted if element not in present],
        )
        if before is not None:
            self._end_connections(before, endpoint)
        # A client's UDP flow that went on meanwhile is tracked as untranslated and would pass the new element by.
        self._conntrack.forget(
            [
                conntrack.flows_to_port(family, PROTOCOLS["udp"], port)
                for binding in endpoint.ports
                if binding.proto == "udp" and not binding.direct and binding.host_high - binding.host_low < 64
                for port in range(binding.host_low, binding.host_high + 1)
                for family in (NFPROTO_IPV4, NFPROTO_IPV6)
            ]
        )

    def _elements(self, segment: Segment, endpoint: Endpoint) -> dict[Element, None]:
        """The elements of an endpoint's ports, each once, in their order."""
        return dict.fromkeys(one.element() for one in published(segment, endpoint, self._policy))

    def _exchange(self, gone: Sequence[Element], elements: Sequence[Element]) -> None:
        """Take elements away and add others, in one transaction where it is not larger than a socket's buffer."""
        table = self.table
        if not gone and not elements:
            return
        try:
            self._netfilter.commit(
                [
                    *nft.delete_elements(NFPROTO_INET, table, gone),
                    *nft.add_elements(NFPROTO_INET, table, elements),
                ]
            )
        except (FileExistsError, FileNotFoundError):
            self._withdraw([*gone, *elements])
            if elements:
                self._netfilter.commit(nft.add_elements(NFPROTO_INET, table, elements))

    def _end_connections(self, before: Endpoint, after: Endpoint) -> None:
        """Forget what was opened to ports that an endpoint has no longer, at the host's addresses or at its own."""
        own = {interface.ip.packed: interface.ip for interface in (before.ipv4, before.ipv6) if interface is not None}
        ended = _numbers(before) - _numbers(after)
        if not ended:
            return

        def lost(address: bytes, kind: int, port: int) -> bool:
            return (kind, port, address in own) in ended

        for address in own.values():
            self._conntrack.forget_to(conntrack.translated_to(address), lost)

    def withdraw(self, segment: Segment, endpoint: Endpoint) -> None:
        """Remove the elements of an endpoint's ports. Idempotent."""
        elements = self._elements(segment, endpoint)
        if elements:
            self._withdraw(list(elements))

    def _withdraw(self, elements: Sequence[Element]) -> None:
        try:
            self._netfilter.commit(nft.delete_elements(NFPROTO_INET, self.table, elements))
        except FileNotFoundError:
            for element in elements:
                try:
                    self._netfilter.commit(nft.delete_elements(NFPROTO_INET, self.table, [element]))
                except FileNotFoundError:
                    continue

    def forget(self, endpoint: Endpoint) -> None:
        """Delete every tracked connection of an endpoint's addresses, so that the next owner inherits none."""
        for interface in (endpoint.ipv4, endpoint.ipv6):
            if interface is not None:
                self._conntrack.forget(conntrack.connections_of(interface.ip))

    def clear(self) -> None:
        """Remove the table. Idempotent."""
        if self.exists():
            self._rulesets.run(f"delete table inet {self.table}")

    def close(self) -> None:
        """Let go of the socket."""
        self._netfilter.close()


def _numbers(endpoint: Endpoint) -> set[tuple[int, int, bool]]:
    """The ports that an endpoint publishes: protocol, port, and whether it is the container's own or the host's.

    What is published directly is the container's own alone.
    """
    found: set[tuple[int, int, bool]] = set()
    for binding in endpoint.ports:
        kind = PROTOCOLS[binding.proto]
        if not binding.direct:
            found |= {(kind, port, False) for port in range(binding.host_low, binding.host_high + 1)}
        found |= {(kind, port, True) for port in range(binding.container_low, binding.container_high + 1)}
    return found
