"""Macvlan networks: each container has a MAC address of its own on the wire of a parent interface.

In mode bridge containers of one parent reach each other, in private they do not, in vepa they do over a switch that
sends frames back; passthru gives the parent to one container as it is. The host itself reaches none of them over the
parent: the kernel does not take a frame from a parent to its own macvlan.
"""

import errno
from collections.abc import Sequence

from pierhead.driver.networkdriver import inside
from pierhead.driver.networkdriver.api import Endpoint, Network
from pierhead.driver.networkdriver.parented import PARENT, ParentedDriver
from pierhead.errors import PierheadError
from pierhead.libcontainer.spec import NETNS_FD
from pierhead.linux import sublinks

MODE = "macvlan_mode"
PASSTHRU = "passthru"


def _mode(network: Network) -> str:
    return network.options.get(MODE) or "bridge"


class MacvlanDriver(ParentedDriver):
    """Networks of driver "macvlan"."""

    name = "macvlan"
    prefix = "dm-"
    own_mac = True

    def _check_options(self, network: Network) -> None:
        if _mode(network) not in sublinks.MACVLAN_MODES:
            raise PierheadError(
                f"requested macvlan mode '{_mode(network)}' is not valid, 'bridge' mode is the macvlan driver default"
            )

    def _check_sharing(self, network: Network, others: Sequence[Network]) -> None:
        for other in others:
            if _mode(network) == PASSTHRU:
                raise PierheadError(
                    f"cannot use mode passthru, macvlan network {other.id} is already using parent interface "
                    f"{self._parent(network)}"
                )
            if _mode(other) == PASSTHRU:
                raise PierheadError(
                    f"macvlan network {other.id} is already using parent interface {self._parent(network)} in mode "
                    "passthru"
                )

    def room(self, network: Network, joined: int) -> None:
        """Passthru gives the whole parent to one container."""
        if joined and _mode(network) == PASSTHRU:
            raise PierheadError(
                f"failed to create the macvlan port: network {network.name} is in mode passthru, which gives the "
                f"parent interface {self._parent(network)} to one container, and it has one"
            )

    def _link(self, network: Network, endpoint: Endpoint, parent: int) -> bytes:
        mode = _mode(network)
        return sublinks.macvlan_into(
            NETNS_FD,
            parent=parent,
            mode=mode,
            inside=endpoint.interface,
            index=inside.index(endpoint),
            group=self._group,
            mac="" if mode == PASSTHRU else endpoint.mac,
        )

    def _mac_inside(self, network: Network, endpoint: Endpoint) -> str:
        # The kernel gives the parent's to a new link in mode passthru. Set later, it becomes the parent's too, until
        # the link goes.
        return endpoint.mac if _mode(network) == PASSTHRU else ""

    def _busy(self, network: Network) -> tuple[int, ...]:
        taken = (errno.EINVAL,) if _mode(network) == PASSTHRU and network.options.get(PARENT) else ()
        return (errno.EBUSY, errno.EADDRINUSE, *taken)
