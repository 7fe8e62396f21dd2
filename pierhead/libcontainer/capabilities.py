"""Linux capabilities: names, numbers, Docker's default set and Docker's rules for ``--cap-add`` and ``--cap-drop``.

Numbers are those of ``linux/capability.h``; which of them exist at run time is asked of the kernel
(/proc/sys/kernel/cap_last_cap) and of our own permitted set, for a daemon inside a reduced environment cannot hand out
what it has not.
"""

import functools
from collections.abc import Iterable

from pierhead.errors import InvalidParameter

ALL = "ALL"

NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
"""Every capability's name; its index is its number."""

NUMBERS = {name: number for number, name in enumerate(NAMES)}

DEFAULT = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
"""What an ordinary container gets (Docker's oci/caps defaults): mask 0xa80425fb."""


@functools.cache
def available() -> tuple[str, ...]:
    """Every capability that a privileged container gets here, in the order of their numbers.

    That is: known to this module, to the kernel, and in the daemon's own permitted set (as Docker does since 20.10.6).
    """
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    permitted = 0
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("CapPrm:"):
                permitted = int(line.split()[1], 16)
    return tuple(name for number, name in enumerate(NAMES) if number <= last and permitted >> number & 1)


def mask(names: Iterable[str]) -> int:
    """The capabilities as the kernel's 64-bit set. Raises KeyError for an unknown name."""
    value = 0
    for name in names:
        value |= 1 << NUMBERS[name]
    return value


def normalise(names: Iterable[str], existing: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Names in any case, with or without CAP_, as the kernel's names; ALL stays ALL.

    Raises InvalidParameter in Docker's words for what is unknown, or not available in this environment.
    """
    if existing is None:
        existing = available()
    normal = []
    for given in names:
        name = given.upper()
        if name != ALL:
            name = name if name.startswith("CAP_") else f"CAP_{name}"
            if name not in NUMBERS:
                raise InvalidParameter(f'unknown capability: "{name}"')
            if name not in existing:
                raise InvalidParameter(
                    f'capability not supported by your kernel or not available in the current environment: "{name}"'
                )
        normal.append(name)
    return tuple(normal)


def resolve(
    add: Iterable[str] = (),
    drop: Iterable[str] = (),
    privileged: bool = False,
    existing: tuple[str, ...] | None = None,
) -> tuple[str, ...]:
    """The capabilities of a container with this CapAdd and CapDrop, each once.

    A privileged container gets all that are available, whatever is added or dropped (Docker's rule, too); ``--cap-add
    ALL`` gives all but the dropped; ``--cap-drop ALL`` exactly the added.  What this environment has not is left out of
    the defaults silently and refused when asked for by name.

    Raises InvalidParameter ('invalid CapAdd: unknown capability: "CAP_X"').
    """
    if existing is None:
        existing = available()
    added = _checked("CapAdd", add, existing)
    dropped = _checked("CapDrop", drop, existing)
    if privileged:
        return existing
    if ALL in added:
        return tuple(name for name in existing if name not in dropped)
    kept = () if ALL in dropped else tuple(name for name in DEFAULT if name in existing and name not in dropped)
    return tuple(dict.fromkeys(kept + added))


def _checked(field: str, names: Iterable[str], existing: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return normalise(names, existing)
    except InvalidParameter as error:
        raise InvalidParameter(f"invalid {field}: {error}") from None
