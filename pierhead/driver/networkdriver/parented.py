"""What macvlan and ipvlan have in common: a container's link stands on a parent interface of the host (``parents``).

The link is born in the container's namespace and has no end on the host, so there is little to take away: it goes with
the namespace, or is deleted inside.  The kernel takes an ended container's namespace apart in its own time and until
then holds what is unique on a parent: its MAC or IP address, or the parent as a whole.  Hence ``NetworkSetup.busy``.
"""

import logging
import os
import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

from pierhead.driver.networkdriver import endpointoptions, inside, marks, parents
from pierhead.driver.networkdriver.api import Census, Endpoint, Known, Neighbours, Network, Passage, gateways
from pierhead.errors import PierheadError
from pierhead.libcontainer.spec import NetworkSetup
from pierhead.linux import netlink, sublinks

log = logging.getLogger("pierd")

PARENT = "parent"


class ParentedDriver:
    """The base of MacvlanDriver and IpvlanDriver: everything but their options and the message that makes a link."""

    name: str
    prefix: str
    """Of the dummies' names, as Docker's."""

    own_mac: bool
    addressed = named = wired = True
    publishes = False

    def __init__(self, instance: str) -> None:
        """instance: 8 hex digits."""
        self._group = marks.group(instance)

    def outward(self, network: Network) -> bool:
        """Without a parent of the user's a network is internal."""
        return not network.internal and bool(network.options.get(PARENT))

    def next_hops(self, network: Network, endpoint: Endpoint) -> tuple[IPv4Address | IPv6Address, ...]:
        """Routers on the parent's wire."""
        return gateways(network, endpoint) if self.outward(network) else ()

    def device(self, network: Network) -> str:
        """The parent."""
        return self._parent(network)

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
        """Only where a default route leads to one."""
        return self.outward(network)

    # Networks --------------------------------------------------------------------------------------------------------

    def validate(self, network: Network, others: Iterable[Network]) -> None:
        """Raise PierheadError in Docker's words and with its status, 500."""
        self._check_options(network)
        endpointoptions.prefix(network.options)
        if network.options.get(PARENT) == "lo":
            raise PierheadError(f"loopback interface is not a valid {self.name} parent link")
        parent = self._parent(network)
        self._check_sharing(
            network, [other for other in others if other.driver == self.name and self._parent(other) == parent]
        )

    def _check_options(self, network: Network) -> None:
        """Raise PierheadError for a mode or flag that there is not."""
        raise NotImplementedError

    def _check_sharing(self, network: Network, others: Sequence[Network]) -> None:
        """Raise PierheadError if a network cannot have its parent in common with these."""
        raise NotImplementedError

    def _parent(self, network: Network) -> str:
        return network.options.get(PARENT) or f"{self.prefix}{network.id[:12]}"

    def create(self, network: Network) -> None:
        """Make the parent, if it is one to be made. Idempotent. Raises OSError, PierheadError."""
        if not sublinks.supported(self.name):
            raise PierheadError(
                f"failed to create network {network.name}: this kernel has no {self.name} (modprobe {self.name}), so "
                f'there can be no network of driver "{self.name}"'
            )
        self._make_parent(network)

    def _make_parent(self, network: Network) -> None:
        parents.make(self._parent(network), driver=self.name, group=self._group, dummy=not network.options.get(PARENT))

    def delete(self, network: Network, others: Iterable[Network]) -> None:
        """Remove the parent if it was made here and no other network stands on it. Idempotent."""
        name = self._parent(network)
        if not any(other.options.get(PARENT) == name for other in others):
            parents.remove(name, group=self._group)

    # Endpoints -------------------------------------------------------------------------------------------------------

    def room(self, network: Network, joined: int) -> None:
        """As many as there are addresses."""

    def plan(self, network: Network, endpoint: Endpoint) -> NetworkSetup:
        """Compute the messages that join a container. Touches nothing; reads the parent's index.

        Raises PierheadError if the parent is not there, OSError if it is one that ``create`` makes again.
        """
        parent = self._parent(network)
        try:
            index = socket.if_nametoindex(parent)
        except OSError as error:
            if parent == network.options.get(PARENT) and "." not in parent:
                raise PierheadError(
                    f"the requested parent interface {parent} was not found on the Docker host"
                ) from error
            raise OSError(error.errno, os.strerror(error.errno or 0), parent) from error
        routes = self._routes(network, endpoint)
        return NetworkSetup(
            host=(self._link(network, endpoint, index),),
            inside=inside.messages(endpoint, *routes, mac=self._mac_inside(network, endpoint), group=0),
            sysctls=inside.sysctls(endpoint, advertised=True),
            busy=self._busy(network),
        )

    def _link(self, network: Network, endpoint: Endpoint, parent: int) -> bytes:
        """The message that makes the container's link; parent: its index."""
        raise NotImplementedError

    def _mac_inside(self, network: Network, endpoint: Endpoint) -> str:
        """The MAC address if it cannot be given in ``_link``."""
        return ""

    def _busy(self, network: Network) -> tuple[int, ...]:
        """What the kernel says while an ended container's link is still there."""
        raise NotImplementedError

    def _routes(self, network: Network, endpoint: Endpoint) -> list[bytes]:
        return inside.routes(endpoint, self.next_hops(network, endpoint))

    def gateway(self, network: Network, endpoint: Endpoint) -> NetworkSetup:
        """The default routes that the endpoint gives."""
        return NetworkSetup(inside=tuple(self._routes(network, endpoint)))

    def publish(self, network: Network, endpoint: Endpoint, before: Endpoint | None = None) -> None:
        """A container is reached at its own address, by the wire: the host cannot publish anything of it."""

    def leave(self, network: Network, endpoint: Endpoint) -> None:
        """The host has no part in it."""

    def withdraw(self, network: Network, endpoint: Endpoint) -> tuple[bytes, ...]:
        """The link, by its number: its name may be another by now."""
        return (netlink.link_delete(index=inside.index(endpoint)),)

    def unplug(self, network: Network, endpoint: Endpoint) -> None:
        """The host has no part in it."""

    # The whole -------------------------------------------------------------------------------------------------------

    def reconcile(self, networks: Known, others: Iterable[Network] = (), *, sweep: bool = True) -> None:
        """Parents that are made here: what is missing comes back, what no network stands on goes.

        A parent of the user's that has gone is told in the log, and again by the next start that needs it.
        """
        for network, _ in networks:
            try:
                self._make_parent(network)
            except (OSError, PierheadError) as error:
                log.warning("network %s has no parent: %s", network.name, error)
        if sweep:
            self._sweep(networks, others)

    def _strays(self, networks: Known, others: Iterable[Network]) -> tuple[str, ...]:
        wanted = {self._parent(network) for network, _ in networks}
        wanted |= {other.options.get(PARENT, "") for other in others}
        return parents.strays(wanted, prefix=self.prefix, group=self._group)

    def _sweep(self, networks: Known, others: Iterable[Network]) -> None:
        for name in (*parents.children(self.name, group=self._group), *self._strays(networks, others)):
            parents.remove(name, group=self._group, kinds=(*parents.MADE, self.name))

    def census(self, networks: Known, others: Iterable[Network] = ()) -> Census:
        """Parents; and containers' links, none of which belongs on the host."""
        gone = parents.absent({self._parent(network) for network, _ in networks})
        missing = [
            f"{self._parent(network)}, the parent of network {network.name}, is not there"
            for network, _ in networks
            if self._parent(network) in gone
        ]
        moving = parents.children(self.name, group=self._group)
        return Census((*self._strays(networks, others), *moving), moving, missing=tuple(missing))

    def damage(self, networks: Known, *, rules: bool) -> tuple[str, ...]:
        """Nothing of theirs is on the host but parents, which a start makes again."""
        return ()

    def guard(self) -> None:
        """There are no rules."""

    def admit(self, neighbours: Neighbours) -> None:
        """Nothing is kept from forwarding."""

    def link(self, passages: Sequence[Passage]) -> None:
        """Links are the default bridge's."""

    def drifted(self) -> bool:
        """Nothing of the host's is set."""
        return False

    def clear(self) -> None:
        """Remove the parents that were made here."""
        self._sweep((), ())

    def close(self) -> None:
        """Nothing is held."""
