"""What a user asks of a container's endpoint in a network, checked in Docker's words before anything is made."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from pierhead.daemon.jobs.network_rows import PREDEFINED
from pierhead.driver.networkdriver import endpointoptions
from pierhead.errors import InvalidParameter, listed
from pierhead.wire.networks import EndpointIPAMConfig, EndpointSettings

_LABEL = re.compile(r"[!-~]{1,63}")
_MAC = re.compile(r"([0-9a-f]{2})([:-])" + r"([0-9a-f]{2})\2" * 4 + r"([0-9a-f]{2})|([0-9a-f]{4}\.){2}[0-9a-f]{4}")


@dataclass(frozen=True, slots=True)
class Target:
    """The network that is asked. subnets: None while the network does not exist, and its addresses cannot be judged.

    static: the IP versions whose subnets the user chose; only in these may an address be asked for.
    """

    name: str
    subnets: Sequence[IPv4Network | IPv6Network] | None = None
    static: frozenset[int] = frozenset()


def accepted(target: Target, given: EndpointSettings) -> EndpointSettings:
    """What is kept of a request: only what can be asked for, addresses and the MAC in their usual form.

    Raises InvalidParameter with everything that is wrong.
    """
    errors: list[str] = []
    kept = EndpointSettings(
        links=given.links,
        aliases=given.aliases,
        mac_address=_mac(given.mac_address),
        driver_opts=given.driver_opts,
        gw_priority=given.gw_priority,
    )
    if target.name in PREDEFINED:
        config = given.ipam_config or EndpointIPAMConfig()
        if config.ipv4_address or config.ipv6_address:
            errors.append("user specified IP address is supported on user defined networks only")
        if given.aliases:
            errors.append("network-scoped alias is supported only for containers in user defined networks")
    if given.ipam_config is not None:
        kept.ipam_config = _addresses(target, given.ipam_config, errors)
    errors += endpointoptions.problems(given.driver_opts or {})
    errors += [f"invalid network alias: {alias!r}" for alias in given.aliases or () if not _is_name(alias)]
    if errors:
        raise InvalidParameter("invalid endpoint settings:\n" + listed(errors))
    for link in given.links or ():
        parse_link(link)
    return kept


def _is_name(text: str) -> bool:
    """Whether a resolver can be asked for it."""
    return len(text) <= 253 and all(_LABEL.fullmatch(label) for label in text.split("."))


def _mac(text: str) -> str:
    """A MAC address as six pairs with colons. Raises InvalidParameter."""
    if not text:
        return ""
    lower = text.lower()
    if not _MAC.fullmatch(lower):
        raise InvalidParameter(f"invalid MAC address {text}")
    digits = re.sub(r"[^0-9a-f]", "", lower)
    if int(digits[:2], 16) & 1:
        raise InvalidParameter(f"invalid MAC address {text}: it is a group's, no interface can have it")
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2))


def _addresses(target: Target, config: EndpointIPAMConfig, errors: list[str]) -> EndpointIPAMConfig:
    found = {
        version: _address(text, f"IPv{version}", (version,), errors)
        for version, text in ((4, config.ipv4_address), (6, config.ipv6_address))
    }
    link_local = [_address(text, "link-local IP", (4, 6), errors) for text in config.link_local_ips or ()]
    for address in link_local:
        if address is not None and not address.is_link_local:
            errors.append(f"invalid link local IP address: {address}")
    for version, address in found.items():
        if address is None or target.subnets is None:
            continue
        if version not in target.static:
            errors.append(
                "user specified IP address is supported only when connecting to networks with user configured subnets"
            )
        elif not any(address in subnet for subnet in target.subnets):
            errors.append(f"no configured subnet or ip-range contain the IP address {address}")
    return EndpointIPAMConfig(
        ipv4_address=str(found[4] or ""),
        ipv6_address=str(found[6] or ""),
        link_local_ips=[str(address) for address in link_local] if config.link_local_ips is not None else None,
    )


def _address(text: str, what: str, versions: tuple[int, ...], errors: list[str]) -> IPv4Address | IPv6Address | None:
    if not text:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        errors.append(f"invalid {what} address: {text}")
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None and 4 in versions:
        address = address.ipv4_mapped
    zoned = isinstance(address, IPv6Address) and address.scope_id is not None
    if address.version not in versions or address.is_unspecified or zoned:
        errors.append(f"invalid {what} address: {text}")
        return None
    return address


def parse_link(text: str) -> tuple[str, str]:
    """(container, alias) of a link "container[:alias]"; "/a:/b/c" is how inspect shows it. Raises InvalidParameter."""
    if not text:
        raise InvalidParameter("empty string specified for links")
    parts = text.split(":")
    if len(parts) > 2 or not parts[0]:
        raise InvalidParameter(f"bad format for links: {text}")
    name = parts[0].removeprefix("/")
    alias = parts[-1].rpartition("/")[2]
    if not _is_name(alias):
        raise InvalidParameter(f"bad format for links: {text}")
    return name, alias
