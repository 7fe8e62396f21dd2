"""Published ports: what was asked for, what is reserved, and by whom a taken one is held.

A published port is reserved by a bound socket that the container's shim holds.  It is bound with SO_REUSEADDR, so that
old connections in TIME_WAIT do not hinder, and the option is cleared after the bind: else another program that sets it
could bind the same port beside a socket that does not listen.
"""

import errno
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from pierhead.driver.networkdriver.api import PortBinding
from pierhead.errors import InvalidParameter, PierheadError
from pierhead.linux import sockdiag

SOCKETS = 64
"""Ports of one container that are reserved by sockets; with more, all are only looked up once."""

_TYPES = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, 132),
}


@dataclass(frozen=True, slots=True)
class PortRequest:
    """One container port to be published. low and high: allowed host ports, both 0 for any ephemeral one."""

    proto: str
    port: int
    ip: str
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """Sockets that keep the ports. listeners also serve what the kernel cannot translate (::1, IPv6 to IPv4)."""

    ports: tuple[socket.socket, ...]
    listeners: tuple[tuple[socket.socket, tuple[str, int]], ...]

    def close(self) -> None:
        """Give the ports back."""
        for one in (*self.ports, *(listener for listener, _ in self.listeners)):
            one.close()


class PortRefused(OSError):
    """The kernel refuses a port: EADDRINUSE, EADDRNOTAVAIL, EACCES."""

    def __init__(self, binding: PortBinding, port: int, number: int) -> None:
        super().__init__(number, os.strerror(number), f"{binding.proto} {binding.host_ip or '0.0.0.0'}:{port}")
        self.binding = binding
        self.port = port


# What was asked for --------------------------------------------------------------------------------------------------


def _range(text: str, whole: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    if not (low.isascii() and low.isdigit() and (not dash or (high.isascii() and high.isdigit()))):
        raise InvalidParameter(f'invalid port specification: "{whole}"')
    first, last = int(low), int(high or low)
    if not 0 <= first <= last <= 65535:
        raise InvalidParameter(f'invalid port specification: "{whole}"')
    return first, last


def container_ports(key: str) -> tuple[str, int, int]:
    """A key of ExposedPorts or PortBindings ("80", "80/tcp", "80-90/udp") as (proto, low, high).

    Raises InvalidParameter.
    """
    number, _, proto = key.partition("/")
    proto = proto.lower() or "tcp"
    low, high = _range(number, key)
    if not low or proto not in _TYPES:
        raise InvalidParameter(f'invalid port specification: "{key}"')
    return proto, low, high


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
            _check_ip(ip)
            first, last = _range(port.partition("/")[0], port) if port else (0, 0)
            found += _each(proto, low, high, ip, first, last)
            bound |= {(proto, number) for number in range(low, high + 1)}
    if publish_all:
        for key in exposed:
            proto, low, high = container_ports(key)
            found += [
                PortRequest(proto, number, "", 0, 0) for number in range(low, high + 1) if (proto, number) not in bound
            ]
    return sorted(dict.fromkeys(found), key=lambda one: (one.low == 0, one.low != one.high, one.proto, one.ip, one.low))


def _check_ip(ip: str) -> None:
    try:
        if ip:
            ip_address(ip)
    except ValueError:
        raise InvalidParameter(f"invalid IP address: {ip}") from None


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


def dynamic_range() -> tuple[int, int]:
    """The ports that the kernel itself gives out (net.ipv4.ip_local_port_range): Docker takes dynamic ones of them."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            low, high = map(int, file.read().split())
            return low, high
    except (OSError, ValueError):
        return 49153, 65535


# Reserving -----------------------------------------------------------------------------------------------------------


def reserve(bindings: Sequence[PortBinding], ipv4: IPv4Address | None, ipv6: IPv6Address | None) -> Reservation:
    """Keep the ports. Raises PortRefused; then nothing is kept."""
    count = sum(binding.host_high - binding.host_low + 1 for binding in bindings)
    if count > SOCKETS:
        _look(bindings)
        return Reservation((), ())
    held: list[socket.socket] = []
    listeners: list[tuple[socket.socket, tuple[str, int]]] = []
    try:
        for binding in bindings:
            for port in range(binding.host_low, binding.host_high + 1):
                inner = binding.container_low + port - binding.host_low
                one = _bind(binding, port)
                if one is None:
                    continue
                if one.family == socket.AF_INET6 and (target := ipv4 or ipv6) is not None:
                    listeners.append((one, (str(target), inner)))
                    _listen(one, binding, port)
                else:
                    held.append(one)
    except BaseException:
        Reservation(tuple(held), tuple(listeners)).close()
        raise
    return Reservation(tuple(held), tuple(listeners))


def _listen(one: socket.socket, binding: PortBinding, port: int) -> None:
    """A listening socket shares its port with nobody, so SO_REUSEADDR may be set again, and must: listen(2) checks the
    port once more, and connections that it has accepted inherit the option; without it they would keep the port in
    TIME_WAIT for a minute after the container's end."""
    if one.type == socket.SOCK_STREAM:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.listen(128)
        except OSError as error:
            raise PortRefused(binding, port, error.errno or errno.EINVAL) from error


def is_free(binding: PortBinding) -> bool:
    """Whether the kernel would give the binding's first port now. Raises PortRefused for other reasons than its use."""
    try:
        one = _bind(binding, binding.host_low)
    except PortRefused as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise
    if one is not None:
        one.close()
    return True


def _bind(binding: PortBinding, port: int) -> socket.socket | None:
    proto, ip = binding.proto, binding.host_ip
    kind, protocol = _TYPES[proto]
    family = socket.AF_INET6 if ":" in ip or (not ip and dual_stack()) else socket.AF_INET
    try:
        one = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        if proto == "sctp" and error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
            return None  # without SCTP in the kernel no other program can take the port either
        raise
    try:
        if proto == "tcp":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if not ip else 1)
        one.bind((ip or ("::" if family == socket.AF_INET6 else "0.0.0.0"), port))
        if proto == "tcp":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError as error:
        one.close()
        raise PortRefused(binding, port, error.errno or errno.EINVAL) from error
    return one


def dual_stack() -> bool:
    """Whether this namespace has IPv6 at all."""
    try:
        with open("/proc/sys/net/ipv6/conf/all/disable_ipv6") as file:
            return file.read().strip() == "0"
    except FileNotFoundError:
        return False


def _look(bindings: Sequence[PortBinding]) -> None:
    """For more ports than sockets are worth: is one of them taken now?"""
    for proto in {binding.proto for binding in bindings} & {"tcp", "udp"}:
        used = list(sockdiag.bound(_TYPES[proto][1]))
        for binding in bindings:
            wanted = ip_address(binding.host_ip) if binding.host_ip else None
            for one in used if binding.proto == proto else ():
                if binding.host_low <= one.port <= binding.host_high and sockdiag.clashes(one.address, wanted):
                    raise PortRefused(binding, one.port, errno.EADDRINUSE)


# Words ---------------------------------------------------------------------------------------------------------------


def holder(proto: str, ip: str, port: int) -> str:
    """Who holds a port, for a message: "held by nginx (process 123)", or ""."""
    if proto not in ("tcp", "udp"):
        return ""
    found = sockdiag.holder(_TYPES[proto][1], ip_address(ip) if ip else None, port)
    return f"held by {found[1]} (process {found[0]})" if found else ""


def allocated(ip: str, port: int, name: str) -> PierheadError:
    """The error for a port that another container has published."""
    return PierheadError(
        f"Bind for {ip or '0.0.0.0'}:{port} failed: port is already allocated"
        + (f" (by container {name})" if name else "")
    )


def refused(error: PortRefused, target: IPv4Address | IPv6Address | None) -> PierheadError:
    """The same for one that the kernel refuses: taken by a process, or an address that is not the host's."""
    binding, port = error.binding, error.port
    ip = binding.host_ip or "0.0.0.0"
    inner = binding.container_low + port - binding.host_low
    host = f"[{ip}]" if ":" in ip else ip
    said = f"failed to bind host port for {host}:{port}:{target}:{inner}/{binding.proto}: "
    said += os.strerror(error.errno or 0).lower()
    if error.errno == errno.EADDRINUSE and (who := holder(binding.proto, binding.host_ip, port)):
        said += f" ({who})"
    return PierheadError(said)
