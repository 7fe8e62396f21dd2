"""Published ports as sockets: they keep other programs away, and serve what the kernel cannot translate.

A port is reserved by a bound socket that the container's shim holds.  It is bound with SO_REUSEADDR, so that old
connections in TIME_WAIT do not hinder, and the option is cleared after the bind: else another program that sets it
could bind the same port beside a socket that does not listen.

The kernel translates IPv4 to IPv4 and IPv6 to IPv6.  It cannot translate ::1, nor one family to the other: the sockets
that such clients come to also listen, and the shim copies.  A socket that listens has a Target.  Under the policy
``firewall`` all of them listen: what comes from outside is not translated at all.  So do those of a network that keeps
its containers apart: where its bridged frames pass the IP hooks, its own containers come to them (``chains``).
"""

import errno
import os
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from pierhead.driver.networkdriver.api import Endpoint, PortBinding, PublishPolicy
from pierhead.errors import PierheadError
from pierhead.linux import sockdiag

SOCKETS = 64
"""Ports of one container that are reserved by sockets; those beyond are only looked up once."""

BACKLOG = 4096

Target = tuple[str, str, int]
"""Where the clients of a listening socket are led: the container's IPv4 address or "", its IPv6 address or "", port."""

Held = tuple[socket.socket, Target | None]
"""A reservation socket, and its target if it listens."""

Kept = tuple[int, str, int, Target | None]
"""What a reservation socket is to be, said without it: protocol number, address, port, target."""

_TYPES = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, 132),
}


class PortRefused(OSError):
    """The kernel refuses a port: EADDRINUSE, EADDRNOTAVAIL, EACCES."""

    def __init__(self, binding: PortBinding, port: int, number: int) -> None:
        super().__init__(number, os.strerror(number), f"{binding.proto} {binding.host_ip or '0.0.0.0'}:{port}")
        self.binding = binding
        self.port = port


@dataclass(frozen=True, slots=True)
class Addresses:
    """A container's own addresses, as far as it has them. apart: their network keeps its containers apart."""

    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    apart: bool = False

    def target(self, port: int) -> Target:
        """Where a listening socket leads its clients."""
        return str(self.ipv4 or ""), str(self.ipv6 or ""), port


def addresses_of(endpoint: Endpoint, *, apart: bool) -> Addresses:
    """A container's addresses on the network that carries its ports. Pure."""
    return Addresses(
        endpoint.ipv4.ip if endpoint.ipv4 is not None else None,
        endpoint.ipv6.ip if endpoint.ipv6 is not None else None,
        apart,
    )


# Which ---------------------------------------------------------------------------------------------------------------


def size(binding: PortBinding) -> int:
    """How many ports it is."""
    return binding.host_high - binding.host_low + 1


def split(bindings: Sequence[PortBinding]) -> tuple[list[PortBinding], list[PortBinding]]:
    """Those of a container that sockets reserve, the small ones first, up to SOCKETS ports in all; and the others.
    Neither has what is open at the container's own address."""
    kept: list[PortBinding] = []
    beyond: list[PortBinding] = []
    count = 0
    hosts = (one for one in bindings if not one.direct)
    for binding in sorted(hosts, key=lambda one: (size(one), one.proto, one.host_ip, one.host_low)):
        if count + size(binding) <= SOCKETS:
            count += size(binding)
            kept.append(binding)
        else:
            beyond.append(binding)
    return kept, beyond


def serves(binding: PortBinding, container: Addresses, policy: PublishPolicy = PublishPolicy.ANY) -> bool:
    """Whether its socket must also listen: some client's packets cannot, or must not, be translated."""
    if container.ipv4 is None and container.ipv6 is None:
        return False
    if policy is PublishPolicy.FIREWALL:
        return True
    if not binding.host_ip:
        return True  # ::1 is among all addresses
    host = ip_address(binding.host_ip)
    if container.apart and not host.is_loopback:
        return True
    if host.version == 4:
        return container.ipv4 is None
    return container.ipv6 is None or host.is_loopback or host.is_unspecified


def kept(
    bindings: Sequence[PortBinding], container: Addresses, policy: PublishPolicy = PublishPolicy.ANY
) -> list[Kept]:
    """The reservation sockets of a container as they are to be, whoever holds them."""
    found: list[Kept] = []
    for binding in split(bindings)[0]:
        number = _TYPES[binding.proto][1]
        listens = serves(binding, container, policy)
        for port in range(binding.host_low, binding.host_high + 1):
            target = container.target(binding.container_low + port - binding.host_low) if listens else None
            # A socket of all addresses is of both families where there are two; it may be older than the second.
            ips = [binding.host_ip] if binding.host_ip else ["::", "0.0.0.0"]
            found += [(number, ip, port, target) for ip in ips]
    return found


# Reserving -----------------------------------------------------------------------------------------------------------


def held(bindings: Sequence[PortBinding]) -> set[tuple[str, str, int]]:
    """What sockets of a container hold: (protocol, host address, port)."""
    return {
        (binding.proto, binding.host_ip, port)
        for binding in split(bindings)[0]
        for port in range(binding.host_low, binding.host_high + 1)
    }


def reserve(
    bindings: Sequence[PortBinding],
    container: Addresses,
    kept: Collection[tuple[str, str, int]] = (),
    policy: PublishPolicy = PublishPolicy.ANY,
) -> list[Held]:
    """Keep the ports, but for those that the container's sockets hold already. Raises PortRefused; then nothing new is
    kept."""
    within, beyond = split(bindings)
    _look(beyond, kept)
    held: list[Held] = []
    try:
        for binding in within:
            listens = serves(binding, container, policy)
            for port in range(binding.host_low, binding.host_high + 1):
                if (binding.proto, binding.host_ip, port) in kept:
                    continue
                one = _bind(binding, port)
                if one is None:
                    continue
                target = container.target(binding.container_low + port - binding.host_low) if listens else None
                held.append((one, target))
                if target is not None:
                    _listen(one, binding, port)
    except BaseException:
        release(held)
        raise
    return held


def release(held: Sequence[Held]) -> None:
    """Give the ports back."""
    for one, _ in held:
        one.close()


def _listen(one: socket.socket, binding: PortBinding, port: int) -> None:
    """A listening socket shares its port with nobody, so SO_REUSEADDR may be set again, and must: listen(2) checks the
    port once more, and connections that it has accepted inherit the option; without it they would keep the port in
    TIME_WAIT for a minute after the container's end."""
    if one.type == socket.SOCK_STREAM:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.listen(BACKLOG)
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
        if family == socket.AF_INET6 and error.errno == errno.EAFNOSUPPORT:
            raise PortRefused(binding, port, errno.EADDRNOTAVAIL) from error
        raise
    try:
        if proto != "udp":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if not ip else 1)
        one.bind((ip or ("::" if family == socket.AF_INET6 else "0.0.0.0"), port))
        if proto != "udp":
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


def _look(bindings: Sequence[PortBinding], kept: Collection[tuple[str, str, int]]) -> None:
    """For more ports than sockets are worth: is one of them taken now?"""
    for proto in {binding.proto for binding in bindings} & {"tcp", "udp"}:
        used = list(sockdiag.bound(_TYPES[proto][1]))
        for binding in bindings:
            wanted = ip_address(binding.host_ip) if binding.host_ip else None
            for one in used if binding.proto == proto else ():
                if (
                    binding.host_low <= one.port <= binding.host_high
                    and (proto, binding.host_ip, one.port) not in kept
                    and sockdiag.clashes(one, wanted)
                ):
                    raise PortRefused(binding, one.port, errno.EADDRINUSE)


# Words ---------------------------------------------------------------------------------------------------------------


def holder(error: PortRefused) -> tuple[int, str] | None:
    """The process (pid, name) that holds a port that was refused as being in use, as far as it can be found."""
    binding = error.binding
    if error.errno != errno.EADDRINUSE or binding.proto not in ("tcp", "udp"):
        return None
    wanted = ip_address(binding.host_ip) if binding.host_ip else None
    return sockdiag.holder(_TYPES[binding.proto][1], wanted, error.port)


def allocated(ip: str, port: int, who: str) -> PierheadError:
    """The error for a port that a container has published."""
    return PierheadError(
        f"Bind for {bracketed(ip or '0.0.0.0')}:{port} failed: port is already allocated"
        + (f" (by {who})" if who else "")
    )


def refused(error: PortRefused, container: Addresses, who: str = "") -> PierheadError:
    """The same for one that the kernel refuses: taken by a process, or an address that is not the host's.

    who: a word about who holds it.
    """
    binding, port = error.binding, error.port
    ip = binding.host_ip or "0.0.0.0"
    address = container.ipv6 if ":" in ip and container.ipv6 else container.ipv4 or container.ipv6
    inner = binding.container_low + port - binding.host_low
    inside = f"{bracketed(str(address or ''))}:{inner}"
    said = f"failed to bind host port for {bracketed(ip)}:{port}:{inside}/{binding.proto}: "
    said += os.strerror(error.errno or 0).lower()
    return PierheadError(said + (f" ({who})" if who else ""))


def bracketed(ip: str) -> str:
    """An address as it stands before a port."""
    return f"[{ip}]" if ":" in ip else ip
