"""An endpoint's driver options and its interface's name: Docker's names of them, and words for what cannot be.

Source: Docker's documentation (``docker network connect --driver-opt``), and the texts of dockerd 28.
"""

import itertools
import re
from collections.abc import Collection, Mapping

from pierhead.errors import InvalidParameter

_ENDPOINT = "com.docker.network.endpoint."
IFNAME = _ENDPOINT + "ifname"
SYSCTLS = _ENDPOINT + "sysctls"
PREFIX = "com.docker.network.container_iface_prefix"
"""A network's option."""

NAME_SIZE = 15
"""Bytes of an interface's name (IFNAMSIZ less the end)."""
_SETTING = re.compile(r"net\.(ipv4|ipv6|mpls)\.[\w-]+\.(IFNAME|ifname)(\.[\w-]+)+=[^\n\0]*", re.ASCII)
"""In lower case too: the docker client makes ``--network name=…,driver-opt=…`` so."""


def interface_name(name: str, option: str) -> str:
    """A name that the kernel takes for an interface. Raises InvalidParameter; option: who gave it, for the words."""
    # With a % the kernel takes the name for a pattern, and makes another.
    bad = not name or name in (".", "..") or any(character in '/:"%' or character.isspace() for character in name)
    if bad or len(name.encode()) > NAME_SIZE:
        raise InvalidParameter(
            f'invalid interface name "{name}" in {option}: at most {NAME_SIZE} bytes, no space, and none of /:%'
        )
    return name


def prefix(network: Mapping[str, str]) -> str:
    """What the names of a network's interfaces in containers begin with; network: its options. Raises
    InvalidParameter."""
    value = network.get(PREFIX) or "eth"
    interface_name(value + "0", PREFIX)
    return value


def problems(options: Mapping[str, str]) -> list[str]:
    """What an endpoint's options ask for that cannot be."""
    found = []
    if IFNAME in options:
        try:
            if interface_name(options[IFNAME], IFNAME) in ("lo", "all", "default"):
                found.append(f'invalid interface name "{options[IFNAME]}" in {IFNAME}: it is taken')
        except InvalidParameter as error:
            found.append(str(error))
    for setting in options.get(SYSCTLS, "").split(",") if SYSCTLS in options else ():
        if not _SETTING.fullmatch(setting):
            found.append(
                f"unrecognised network interface sysctl '{setting}'; represent 'net.X.Y.ethN.Z=V' as "
                "'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
            )
    return found


def sysctls(options: Mapping[str, str], interface: str) -> tuple[tuple[str, str], ...]:
    """(name with dots, value) of the settings that an endpoint's options ask for, of the interface of this name."""
    found = []
    for setting in filter(None, options.get(SYSCTLS, "").split(",")):
        name, _, value = setting.partition("=")
        top, family, kind, _, rest = name.split(".", 4)
        found.append((".".join((top, family, kind, dotted(interface), rest)), value))
    return tuple(found)


def dotted(interface: str) -> str:
    """An interface's name as a part of a sysctl's: there a dot is a slash."""
    return interface.replace(".", "/")


def chosen_name(options: Mapping[str, str]) -> str:
    """The name that an endpoint's user has given its interface, or ""."""
    return options.get(IFNAME, "")


def free_name(network: Mapping[str, str], taken: Collection[str]) -> str:
    """The first name that is not taken, of an interface in a network with these options."""
    begin = prefix(network)
    return next(name for name in (f"{begin}{number}" for number in itertools.count()) if name not in taken)
