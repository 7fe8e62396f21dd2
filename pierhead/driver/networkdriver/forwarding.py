"""Whether the host forwards at all: an engine turns that on, remembers it, and the last engine turns it off again."""

from collections.abc import Collection
from typing import Protocol

from pierhead.driver.networkdriver import sysctls

SETTINGS = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
"""What lets a host forward, by IP version; below /proc/sys/net."""


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
            sysctls.write(SETTINGS[version], "1")

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
            self._memory.set_meta(f"forwarding {SETTINGS[version]}", "")


def _boot() -> str:
    """The boot's id: what was turned on in another boot is off now."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
