"""Published ports as they are asked for: a container's configuration becomes requests, and runs of them one binding."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from pierhead.driver.networkdriver.api import PortBinding
from pierhead.errors import InvalidParameter

PROTOCOLS = ("tcp", "udp", "sctp")


@dataclass(frozen=True, slots=True)
class PortRequest:
    """One container port to be published. low and high: allowed host ports, both 0 for any ephemeral one."""

    proto: str
    port: int
    ip: str
    low: int
    high: int

    @property
    def fixed(self) -> bool:
        """Whether it names its one host port."""
        return self.low == self.high != 0


def _range(text: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    if not (low.isascii() and low.isdigit() and (not dash or (high.isascii() and high.isdigit()))):
        raise InvalidParameter(f'invalid port specification: "{text}"')
    first, last = int(low), int(high or low)
    if not 0 <= first <= last <= 65535:
        raise InvalidParameter(f'invalid port specification: "{text}"')
    return first, last


def container_ports(key: str) -> tuple[str, int, int]:
    """A key of ExposedPorts or PortBindings ("80", "80/tcp", "80-90/udp") as (proto, low, high).

    Raises InvalidParameter.
    """
    number, _, proto = key.partition("/")
    proto = proto.lower() or "tcp"
    low, high = _range(number)
    if not low or proto not in PROTOCOLS:
        raise InvalidParameter(f'invalid port specification: "{key}"')
    return proto, low, high


def host_ports(text: str) -> tuple[int, int]:
    """A HostPort ("", "0", "8080", "8080-8090", also "8080/tcp") as (low, high), both 0 for any.

    Raises InvalidParameter.
    """
    number = text.partition("/")[0]
    return _range(number) if number else (0, 0)


def host_ip(text: str) -> str:
    """A HostIp in the one form of its address; IPv4-mapped IPv6 is IPv4. Raises InvalidParameter."""
    if not text:
        return ""
    try:
        address = ip_address(text)
    except ValueError:
        raise InvalidParameter(f"invalid IP address: {text}") from None
    if isinstance(address, IPv6Address):
        if address.scope_id:
            raise InvalidParameter(f"invalid IP address: {text}: an interface's name cannot be part of it")
        return str(address.ipv4_mapped or address)
    return str(address)


def requests(
    bindings: Mapping[str, Sequence[tuple[str, str]] | None],
    exposed: Iterable[str] = (),
    publish_all: bool = False,
) -> list[PortRequest]:
    """PortBindings (key to (host ip, host port) pairs) and, with -P, every exposed port that has none of them.

    Those with a fixed host port come first, so that no dynamic one takes it.  Raises InvalidParameter.
    """
    found: list[PortRequest] = []
    bound: set[tuple[str, int]] = set()
    for key, pairs in bindings.items():
        proto, low, high = container_ports(key)
        for ip, port in pairs or ():
            found += _each(proto, low, high, host_ip(ip), *host_ports(port))
            bound |= {(proto, number) for number in range(low, high + 1)}
    if publish_all:
        for key in exposed:
            proto, low, high = container_ports(key)
            found += [
                PortRequest(proto, number, "", 0, 0) for number in range(low, high + 1) if (proto, number) not in bound
            ]
    return sorted(dict.fromkeys(found), key=lambda one: (one.low == 0, one.low != one.high, one.proto, one.ip, one.low))


def _each(proto: str, low: int, high: int, ip: str, first: int, last: int) -> Iterator[PortRequest]:
    if high > low and first:
        if last - first != high - low:
            raise InvalidParameter(
                f"invalid ranges specified for container and host ports: {low}-{high} and {first}-{last}"
            )
        for offset in range(high - low + 1):
            yield PortRequest(proto, low + offset, ip, first + offset, first + offset)
    else:
        for number in range(low, high + 1):
            yield PortRequest(proto, number, ip, first, last)


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """What is to be published no longer. ip "": whichever; low, high: host ports; inner_low, inner_high: container
    ports; 0: whichever. text: as it was asked for."""

    text: str
    proto: str
    ip: str = ""
    low: int = 0
    high: int = 0
    inner_low: int = 0
    inner_high: int = 0

    def names(self, one: PortRequest, chosen: int) -> bool:
        """Whether a request is among it. chosen: the host port that a request without a fixed one has now, or 0."""
        if self.proto != one.proto or (self.ip and self.ip != one.ip):
            return False
        if self.inner_low and not self.inner_low <= one.port <= self.inner_high:
            return False
        if not self.low:
            return True
        if not one.fixed and one.low and (one.low, one.high) == (self.low, self.high):
            return True
        return self.low <= (one.low if one.fixed else chosen) <= self.high


def withdrawal(text: str) -> Withdrawal:
    """[ip:]host port[:container port][/protocol], each a number or a range; the host's may be empty where the
    container's is given. Raises InvalidParameter."""
    wrong = InvalidParameter(f'invalid port specification: "{text}"')
    body, slash, proto = text.rpartition("/")
    if not slash:
        body, proto = text, "tcp"
    ip = ""
    if body.startswith("["):
        ip, _, body = body[1:].partition("]:")
    elif "." in body.partition(":")[0]:
        ip, _, body = body.partition(":")
    host, _, inner = body.partition(":")
    try:
        (low, high), (inner_low, inner_high) = host_ports(host), host_ports(inner)
    except InvalidParameter:
        raise wrong from None
    if not (low or inner_low) or proto.lower() not in PROTOCOLS:
        raise wrong
    return Withdrawal(text, proto.lower(), host_ip(ip), low, high, inner_low, inner_high)


def groups(found: Iterable[PortRequest]) -> list[list[PortRequest]]:
    """Requests without a fixed port, those together that differ in the address alone: these get the same port, so that
    a client may take whichever address a name gives it (as Docker 28). An address that another one of them includes
    ("127.0.0.1::80" beside "80") cannot have the same, and gets one of its own."""
    grouped: dict[tuple[str, int, int, int], list[list[PortRequest]]] = {}
    for one in found:
        if one.fixed:
            continue
        alike = grouped.setdefault((one.proto, one.port, one.low, one.high), [])
        for group in alike:
            if not any(overlap(one.ip, other.ip) for other in group):
                group.append(one)
                break
        else:
            alike.append([one])
    return [group for alike in grouped.values() for group in alike]


def overlap(one: str, other: str) -> bool:
    """Whether two host addresses have an address in common; "" is every one of both families."""
    if one == other or not one or not other:
        return True
    first, second = ip_address(one), ip_address(other)
    return first.version == second.version and (first.is_unspecified or second.is_unspecified)


def coalesce(bindings: Iterable[PortBinding]) -> list[PortBinding]:
    """Runs of neighbouring ports as one binding each: a range of 10,000 is one row, and one element of a map."""
    found: list[PortBinding] = []
    for one in sorted(bindings, key=lambda one: (one.proto, one.host_ip, one.host_low)):
        last = found[-1] if found else None
        if (
            last is not None
            and (last.proto, last.host_ip) == (one.proto, one.host_ip)
            and last.host_high + 1 == one.host_low
            and last.container_high + 1 == one.container_low
        ):
            found[-1] = PortBinding(
                one.proto, last.container_low, one.container_high, one.host_ip, last.host_low, one.host_high
            )
        else:
            found.append(one)
    return found


def runs(numbers: Iterable[tuple[str, int]]) -> list[tuple[str, int, int]]:
    """(protocol, port) as (protocol, first, last) of neighbours."""
    found: list[tuple[str, int, int]] = []
    for proto, port in sorted(set(numbers)):
        if found and (found[-1][0], found[-1][2]) == (proto, port - 1):
            found[-1] = proto, found[-1][1], port
        else:
            found.append((proto, port, port))
    return found


def without(binding: PortBinding, gone: Callable[[int], bool]) -> list[PortBinding]:
    """What is left of a binding when the host ports that are gone are taken out of it, as few pieces as can be."""
    shift = binding.container_low - binding.host_low
    return coalesce(
        PortBinding(binding.proto, port + shift, port + shift, binding.host_ip, port, port)
        for port in range(binding.host_low, binding.host_high + 1)
        if not gone(port)
    )


def dynamic_range() -> tuple[int, int]:
    """The ports that the kernel itself gives out (net.ipv4.ip_local_port_range): Docker takes dynamic ones of them."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            low, high = map(int, file.read().split())
            return low, high
    except (OSError, ValueError):
        return 49153, 65535
