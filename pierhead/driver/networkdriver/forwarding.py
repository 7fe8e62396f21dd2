"""Whether the host forwards at all: an engine turns that on, remembers it, and the last engine turns it off again."""

import logging
from collections.abc import Collection
from ipaddress import IPv6Address
from typing import Protocol

from pierhead.driver.networkdriver import sysctls
from pierhead.linux.netlink import Netlink

log = logging.getLogger("pierd")

SETTINGS = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
"""What lets a host forward, by IP version; below /proc/sys/net."""

_HEEDING = "interfaces that heed advertisements"
_HEED = "ipv6/conf/{}/accept_ra"


class Memory(Protocol):
    """Where the driver remembers what it changed on the host beyond its own objects (GraphDB's meta table)."""

    def meta(self, key: str) -> str | None:
        """A remembered value."""

    def set_meta(self, key: str, value: str) -> None:
        """Remember a value; committed before this returns."""


class Forwarding:
    """One instance's part in it."""

    def __init__(self, memory: Memory) -> None:
        """memory: outlives the daemon, so that a killed one knows what it had turned on."""
        self._memory = memory

    def remember(self, versions: Collection[int], turned_on_by_others: Collection[int]) -> tuple[int, ...]:
        """Remember which of these IP versions the host did not forward, or only because of another instance: whichever
        ends last turns it off. Returns those that are new, to be kept from strangers before they are turned on."""
        known = self.turned_on()
        found = tuple(
            version
            for version in sorted(versions)
            if version not in known and (version in turned_on_by_others or sysctls.read(SETTINGS[version]) == "0")
        )
        for version in found:
            self._memory.set_meta(f"forwarding {SETTINGS[version]}", _boot())
        return found

    def turn_on(self, versions: Collection[int]) -> None:
        """Let the host forward. Raises OSError."""
        for version in versions:
            if version == 6 and sysctls.read(SETTINGS[6]) == "0":
                self._heed_advertisements()
            sysctls.write(SETTINGS[version], "1")

    def _heed_advertisements(self) -> None:
        """Let the interfaces whose routers advertise themselves go on heeding them. Raises OSError.

        A host that forwards does not unless it is told so (accept_ra 2), and would lose its own way out at once.
        """
        with Netlink() as link:
            names = {found.index: found.name for found in link.links()}
            routers = [route for route in link.routes() if route.prefix is None and route.interface in names]
        found = {
            names[route.interface]
            for route in routers
            if isinstance(route.gateway, IPv6Address) and route.gateway.is_link_local
        }
        heeding = sorted(name for name in found if sysctls.read(_HEED.format(name)) == "1")
        if heeding:
            self._memory.set_meta(_HEEDING, " ".join((_boot(), *sorted({*heeding, *self._told()}))))
        for name in heeding:
            log.info("%s goes on heeding routers' advertisements, though the host forwards now (accept_ra 2)", name)
            sysctls.write(_HEED.format(name), "2")

    def turned_on(self) -> tuple[int, ...]:
        """The IP versions that an engine turned on since the machine started, not the host's owner."""
        boot = _boot()
        return tuple(
            version for version, setting in SETTINGS.items() if self._memory.meta(f"forwarding {setting}") == boot
        )

    def end(self, versions: Collection[int], *, others: bool) -> None:
        """Turn off what was turned on, unless other instances are at work, and forget it. Raises OSError."""
        for version in versions:
            if not others:
                sysctls.write(SETTINGS[version], "0")
                if version == 6:
                    self._heed_as_before()
            self._memory.set_meta(f"forwarding {SETTINGS[version]}", "")

    def _heed_as_before(self) -> None:
        for name in self._told():
            if sysctls.read(_HEED.format(name)) == "2":
                sysctls.write(_HEED.format(name), "1")
        if self._memory.meta(_HEEDING):
            self._memory.set_meta(_HEEDING, "")

    def _told(self) -> list[str]:
        """The interfaces that were told so since the machine started."""
        boot, *heeding = (self._memory.meta(_HEEDING) or "").split() or [""]
        return heeding if boot == _boot() else []


def _boot() -> str:
    """The boot's id: what was turned on in another boot is off now."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
