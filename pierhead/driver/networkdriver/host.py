"""The host network: a container that shares the host's interfaces. There is nothing to make."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

from pierhead.driver.networkdriver.api import Census, Endpoint, Known, Neighbours, Network, Passage
from pierhead.errors import Forbidden
from pierhead.libcontainer.spec import NetworkSetup


class HostDriver:
    """Networks of driver "host": exactly one, predefined."""

    name = "host"
    addressed = own_mac = publishes = named = wired = False

    def outward(self, network: Network) -> bool:
        """A container in the host's namespace uses the host's routes."""
        return False

    def next_hops(self, network: Network, endpoint: Endpoint) -> tuple[IPv4Address | IPv6Address, ...]:
        """There is none."""
        return ()

    def binding(self, network: Network) -> str:
        """Nothing is published."""
        return ""

    def hosts(self, network: Network) -> tuple[int, ...]:
        """Nothing is published."""
        return ()

    def apart(self, network: Network) -> bool:
        """Nothing is published."""
        return False

    def gated(self, network: Network) -> bool:
        """There are no subnets."""
        return False

    def device(self, network: Network) -> str:
        """It stands on all of them."""
        return ""

    def validate(self, network: Network, others: Iterable[Network]) -> None:
        """Only the predefined network may be of this driver."""
        if network.name != "host":
            raise Forbidden('only one instance of "host" network is allowed')

    def create(self, network: Network) -> None:
        """The host is there."""

    def delete(self, network: Network, others: Iterable[Network]) -> None:
        """The host stays."""

    def room(self, network: Network, joined: int) -> None:
        """There is no limit."""

    def plan(self, network: Network, endpoint: Endpoint) -> NetworkSetup:
        """A container in the host's namespace needs nothing."""
        return NetworkSetup()

    def publish(self, network: Network, endpoint: Endpoint, before: Endpoint | None = None) -> None:
        """Its server listens on the host's own port."""

    def leave(self, network: Network, endpoint: Endpoint) -> None:
        """Nothing was made."""

    def unplug(self, network: Network, endpoint: Endpoint) -> None:
        """Nothing was made."""

    def withdraw(self, network: Network, endpoint: Endpoint) -> tuple[bytes, ...]:
        """Nothing was made."""
        return ()

    def gateway(self, network: Network, endpoint: Endpoint) -> NetworkSetup:
        """There is no route to give."""
        return NetworkSetup()

    def reconcile(self, networks: Known, others: Iterable[Network] = (), *, sweep: bool = True) -> None:
        """Nothing was made."""

    def damage(self, networks: Known, *, rules: bool) -> tuple[str, ...]:
        """Nothing is made."""
        return ()

    def census(self, networks: Known, others: Iterable[Network] = ()) -> Census:
        """Nothing is made."""
        return Census()

    def guard(self) -> None:
        """There are no rules."""

    def admit(self, neighbours: Neighbours) -> None:
        """Nothing is kept from forwarding."""

    def link(self, passages: Sequence[Passage]) -> None:
        """Nothing keeps containers apart."""

    def drifted(self) -> bool:
        """Nothing of the host's is set."""
        return False

    def clear(self) -> None:
        """Nothing was made."""

    def close(self) -> None:
        """Nothing is held."""
