"""/etc/hosts and /etc/resolv.conf of a container, in Docker's words."""

import os
import re
from collections.abc import Sequence
from ipaddress import ip_address

from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.jobs import endpoints, links
from pierhead.daemon.jobs.describe import config_of, host_config_of, network_kind
from pierhead.daemon.jobs.files import digest, own_folder
from pierhead.daemon.jobs.network_rows import find_row, pools_of
from pierhead.daemon.jobs.zones import overrides
from pierhead.driver.networkdriver import resolvconf
from pierhead.errors import InvalidParameter
from pierhead.graph.containers import Container
from pierhead.wire.containers import HostConfig

_LOCALHOST = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
_HOST = re.compile(r"[A-Za-z0-9_.*-]{1,255}")
_WORD = re.compile(r"[\x21-\x7e]+")
HOST_GATEWAY = "host-gateway"


async def files(engine: Engine, container_id: str) -> tuple[bytes, bytes]:
    """(hosts, resolv.conf) for a start, after ``prepare``. Raises InvalidParameter for names that could add lines."""
    container = engine.containers.get(container_id)
    host = host_config_of(container)
    kind = network_kind(host.network_mode)
    if kind == "container":
        other = engine.containers.find(host.network_mode.removeprefix("container:"))
        return written(engine, other.id, "hosts"), written(engine, other.id, "resolv.conf")
    return _hosts(engine, container, host, kind), _resolv(engine, container, host, kind)


def check(host: HostConfig) -> None:
    """Raise InvalidParameter for name settings of a HostConfig that are none."""
    extra_hosts(host, ())
    for server in host.dns or ():
        try:
            ip_address(server)
        except ValueError:
            raise InvalidParameter(f"invalid IP address: {server}") from None
    for value in (*(host.dns_search or ()), *(host.dns_options or ())):
        if not _WORD.fullmatch(value):
            raise InvalidParameter(f"invalid DNS search domain or option: {value!r}")


def extra_hosts(host: HostConfig, gateways: Sequence[str]) -> list[tuple[str, str]]:
    """(address, name) of --add-host. gateways: what host-gateway stands for. Raises InvalidParameter."""
    found = []
    for entry in host.extra_hosts or ():
        name, colon, address = entry.partition(":")
        if not colon or not _HOST.fullmatch(name):
            raise InvalidParameter(f'bad format for add-host: "{entry}"')
        if address == HOST_GATEWAY:
            found += [(gateway, name) for gateway in gateways]
            continue
        try:
            ip_address(address)
        except ValueError:
            raise InvalidParameter(f'invalid IP address in add-host: "{address}"') from None
        found.append((address, name))
    return found


def written(engine: Engine, container_id: str, name: str) -> bytes:
    """One of a container's own files ("hosts", "resolv.conf") as it is now; empty if there is none."""
    try:
        descriptor = os.open(
            os.path.join(own_folder(engine, container_id), name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        )
    except FileNotFoundError:
        return b""
    with open(descriptor, "rb") as file:
        return file.read(1 << 20)


def _host_file(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def own_lines(engine: Engine, container: Container) -> list[str]:
    """The container's own names at each of its addresses."""
    config = config_of(container)
    name = config.hostname or container.id[:12]
    full = f"{name}.{config.domainname}" if config.domainname else name
    # With domain, and bare, wherever the user has put the domain; and as `hostname` says it, which Docker leaves out.
    names = " ".join(dict.fromkeys((full, name, full.partition(".")[0] or name)))
    return [
        f"{interface.ip}\t{names}\n"
        for _, endpoint in endpoints.active(engine, container.id)
        for interface in (endpoint.ipv4, endpoint.ipv6)
        if interface is not None
    ]


def _gateways(engine: Engine) -> tuple[str, ...]:
    """What host-gateway stands for: the daemon's setting, else the default bridge's addresses."""
    if engine.config.host_gateway_ips:
        return engine.config.host_gateway_ips
    pools = pools_of(engine, find_row(engine, "bridge")["id"])
    return tuple(str(pool.gateway) for pool in pools if pool.gateway is not None)


def _hosts(engine: Engine, container: Container, host: HostConfig, kind: str) -> bytes:
    base = (_host_file("/etc/hosts") or _LOCALHOST) if kind == "host" else _LOCALHOST
    if not base.endswith("\n"):
        base += "\n"
    gateways = _gateways(engine) if host.extra_hosts else ()
    lines = [f"{address}\t{name}\n" for address, name in extra_hosts(host, gateways)]
    linked = [link.line for link in links.of(engine, container.id)]
    return "".join([base, *lines, *linked, *own_lines(engine, container)]).encode()


def _resolv(engine: Engine, container: Container, host: HostConfig, kind: str) -> bytes:
    given = overrides(engine, host)
    host_file = engine.resolvers.host()
    active = endpoints.active(engine, container.id)
    if any(endpoints.named(engine, network.driver, network.name) for network, _ in active):
        return resolvconf.embedded(host_file, given).encode()
    if kind == "host":
        return resolvconf.hosts(host_file, given).encode()
    if host_file.nameservers == (resolvconf.SYSTEMD_STUB,):
        host_file = resolvconf.parse(_host_file(resolvconf.SYSTEMD_PATH), resolvconf.SYSTEMD_PATH)
    return resolvconf.legacy(host_file, given, ipv6=any(endpoint.ipv6 for _, endpoint in active)).encode()


def rewrite(engine: Engine, container: Container, before: list[str]) -> None:
    """After connect or disconnect: the container's own lines in hosts, and resolv.conf, follow; what the user wrote
    into hosts stays, and a resolv.conf that the user has changed. before: ``own_lines`` of before."""
    folder = own_folder(engine, container.id)
    hosts = written(engine, container.id, "hosts").decode(errors="surrogateescape")
    after = own_lines(engine, container)
    for line in before:
        if line not in after:
            hosts = hosts.replace(line, "", 1)
    for line in after:
        if line not in before:
            hosts += line
    host = host_config_of(container)
    resolv = _resolv(engine, container, host, network_kind(host.network_mode))
    files = {"hosts": hosts.encode(errors="surrogateescape")}
    if digest(written(engine, container.id, "resolv.conf")) == written(engine, container.id, "resolv.conf.hash"):
        files |= {"resolv.conf": resolv, "resolv.conf.hash": digest(resolv)}
    for name, content in files.items():
        _overwrite(os.path.join(folder, name), content)


def relink(engine: Engine, container_id: str, gone: str = "") -> None:
    """The lines of a running container's links in its hosts follow the others' addresses.

    gone: an alias that is no link any longer. Of one that does not run now the line stays as it is.
    """
    path = os.path.join(own_folder(engine, container_id), "hosts")
    lines = written(engine, container_id, "hosts").decode(errors="surrogateescape").splitlines(keepends=True)
    new = {link.alias: link.line for link in links.of(engine, container_id) if link.addresses}
    if gone:
        new[gone] = ""
    kept: list[str] = []
    for line in lines:
        address, tab, names = line.partition("\t")
        alias = names.split(" ")[0].strip() if tab and address and not address.startswith("#") else ""
        if alias not in new:
            kept.append(line)
        elif new[alias]:
            kept.append(new[alias])
            new[alias] = ""  # further lines of it were for its other addresses
    kept += [line for line in new.values() if line]
    _overwrite(path, "".join(kept).encode(errors="surrogateescape"))


def _overwrite(path: str, content: bytes) -> None:
    """In the same inode: it is mounted in the container."""
    flags = os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags), "wb") as file:
        file.write(content)
