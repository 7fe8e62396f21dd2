"""A bridge network's driver options: Docker's names, defaults, and words for what cannot be.

Source: Docker's documentation of the bridge driver, and the texts of dockerd 28.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address

from pierhead.driver.networkdriver.api import Network
from pierhead.driver.networkdriver.endpointoptions import interface_name, prefix
from pierhead.errors import InvalidParameter, PierheadError

_BRIDGE = "com.docker.network.bridge."
NAME = _BRIDGE + "name"
ICC = _BRIDGE + "enable_icc"
MASQUERADE = _BRIDGE + "enable_ip_masquerade"
HOST_BINDING = _BRIDGE + "host_binding_ipv4"
GATEWAY_MODE = {4: _BRIDGE + "gateway_mode_ipv4", 6: _BRIDGE + "gateway_mode_ipv6"}
INHIBIT_IPV4 = _BRIDGE + "inhibit_ipv4"
TRUSTED = _BRIDGE + "trusted_host_interfaces"
DEFAULT = _BRIDGE + "default_bridge"
MTU = "com.docker.network.driver.mtu"

_TRUE, _FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")


class GatewayMode(StrEnum):
    """How the outside and a network's containers reach each other, for one IP version.

    nat: by published ports of the host's addresses; outwards with the host's address.
    nat-unprotected: the same, and every port of a container by its own address.
    routed: published ports by the container's own address; outwards with that as well.
    isolated: of internal networks: not even the host is on it.
    """

    NAT = "nat"
    UNPROTECTED = "nat-unprotected"
    ROUTED = "routed"
    ISOLATED = "isolated"


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """What a network's options say. mtu: 0 follows the host.  binding: where ports without an address are published;
    None is every address of both families.  default: it is a default bridge, where links are more than names."""

    name: str
    icc: bool = True
    masquerade: bool = True
    mode4: GatewayMode = GatewayMode.NAT
    mode6: GatewayMode = GatewayMode.NAT
    inhibit_ipv4: bool = False
    trusted: tuple[str, ...] = ()
    binding: IPv4Address | IPv6Address | None = None
    mtu: int = 0
    default: bool = False

    def mode(self, version: int) -> GatewayMode:
        """Of IP version 4 or 6."""
        return self.mode4 if version == 4 else self.mode6

    def gated(self, version: int) -> bool:
        """Whether the bridge itself has the gateway's address, of IP version 4 or 6."""
        return self.mode(version) is not GatewayMode.ISOLATED and not (version == 4 and self.inhibit_ipv4)


def bridge_name(network: Network) -> str:
    """The network's Linux bridge: as asked for, else br- and twelve digits of the id, as Docker names it."""
    return network.options.get(NAME) or f"br-{network.id[:12]}"


def parse(network: Network) -> BridgeOptions:
    """A network's options. Pure. Raises InvalidParameter, and PierheadError where Docker has no better status."""
    options = network.options
    parsed = BridgeOptions(
        name=interface_name(bridge_name(network), NAME),
        icc=_flag(options, ICC, default=True),
        masquerade=_flag(options, MASQUERADE, default=True),
        mode4=_mode(options, 4),
        mode6=_mode(options, 6),
        inhibit_ipv4=_flag(options, INHIBIT_IPV4, default=False),
        trusted=tuple(name for name in options.get(TRUSTED, "").split(":") if name),
        binding=_binding(options),
        mtu=_mtu(options),
        default=_flag(options, DEFAULT, default=False),
    )
    for name in parsed.trusted:
        interface_name(name, TRUSTED)
    prefix(options)
    if GatewayMode.ISOLATED in (parsed.mode4, parsed.mode6) and not network.internal:
        raise PierheadError("gateway mode 'isolated' can only be used for an internal network")
    return parsed


def _refused(option: str, value: str, why: str) -> InvalidParameter:
    return InvalidParameter(f"failed to parse {option} value: {value} ({why})")


def _flag(options: Mapping[str, str], option: str, *, default: bool) -> bool:
    value = options.get(option)
    if value is None:
        return default
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise _refused(option, value, f'strconv.ParseBool: parsing "{value}": invalid syntax')


def _mode(options: Mapping[str, str], version: int) -> GatewayMode:
    option = GATEWAY_MODE[version]
    value = options.get(option)
    if value is None:
        return GatewayMode.NAT
    try:
        return GatewayMode(value)
    except ValueError:
        raise _refused(option, value, f"unknown gateway mode {value}") from None


def _mtu(options: Mapping[str, str]) -> int:
    value = options.get(MTU)
    if value is None:
        return 0
    digits = value[1:] if value[:1] in "+-" else value
    if not (digits.isascii() and digits.isdigit()):
        raise _refused(MTU, value, f'strconv.Atoi: parsing "{value}": invalid syntax')
    number = int(value)
    # The kernel's limits for IPv4; Docker itself refuses negative numbers only, and fails later.
    if number < 0 or (number and not 68 <= number <= 65535):
        raise InvalidParameter(f"invalid MTU number: {number}")
    return number


def _binding(options: Mapping[str, str]) -> IPv4Address | IPv6Address | None:
    value = options.get(HOST_BINDING)
    if value is None:
        return None
    try:
        address = ip_address(value)
    except ValueError:
        raise _refused(HOST_BINDING, value, "nil ip") from None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    # 0.0.0.0 is every address of both families, :: every IPv6 one.
    return None if address == IPv4Address(0) else address
