"""What a name means to whoever asks: a container's own resolver is asked from inside, as its programs would."""

import asyncio
import secrets
import socket
import struct
from ipaddress import ip_address

from pierhead.daemon.engine.engine import blocking
from pierhead.daemon.jobs import endpoints, netfiles, specs, zones
from pierhead.daemon.jobs.describe import dns_names, host_config_of, network_kind
from pierhead.daemon.jobs.network_places import Address, Place, Places
from pierhead.daemon.jobs.network_stops import RELOAD, Facts, Stop, joining
from pierhead.driver.networkdriver import dns, resolvconf
from pierhead.errors import InvalidParameter, NoSuchContainer
from pierhead.graph.containers import Container

PATIENCE = 5.0
"""Seconds that a name server has, as long as the C library waits."""

Answer = tuple[int, list[Address]]
"""Response code and addresses."""


async def resolve(places: Places, place: Place, name: str, facts: Facts) -> Address:
    """A name as programs in a place understand it. Raises Stop."""
    for address in _hosts(places, place, name):
        facts.add("name", f"{name} is {address}, says /etc/hosts")
        return address
    if place.own:
        return await _of_host(name, facts)
    owner = place.containers[0]
    await places.view(place)  # and its rules: ``_deaf`` looks at them
    written = netfiles.written(places.engine, owner.id, "resolv.conf").decode(errors="replace")
    config = resolvconf.parse(written)
    failures: list[str] = []
    for form in (name, *(f"{name}.{domain}" for domain in config.search if domain != ".")):
        for server in config.nameservers[:3]:
            answered = await _ask(places, place, server, form, failures)
            if answered is None:
                continue
            code, addresses = answered
            if addresses:
                facts.add("name", f"{form} is {', '.join(map(str, addresses))}, says {server}")
                return addresses[0]
            if code in (dns.SERVFAIL, dns.REFUSED):
                failures.append(f"{server} could not tell")
                continue
            break
    raise _unknown(places, place, name, config, failures)


def _hosts(places: Places, place: Place, name: str) -> list[Address]:
    """What the hosts file of a place's containers says."""
    if place.own:
        return []  # the C library reads the host's own
    found = []
    written = netfiles.written(places.engine, place.containers[0].id, "hosts").decode(errors="replace")
    for line in written.splitlines():
        words = line.partition("#")[0].split()
        if name.lower() in map(str.lower, words[1:]):
            try:
                found.append(ip_address(words[0]))
            except ValueError:
                continue
    return sorted(found, key=lambda address: address.version)


async def _of_host(name: str, facts: Facts) -> Address:
    """As the host's own C library understands it."""
    try:
        async with asyncio.timeout(2 * PATIENCE):
            found = await blocking(socket.getaddrinfo, name, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise Stop("name", f"no name server of the host answers for {name}", "look at /etc/resolv.conf") from None
    except OSError as error:
        raise Stop("name", f"the host does not know {name}: {error.strerror}", "look at /etc/resolv.conf") from None
    addresses = [ip_address(str(one[4][0]).partition("%")[0]) for one in found]
    facts.add("name", f"{name} is {addresses[0]}, says the host")
    return addresses[0]


# Questions -----------------------------------------------------------------------------------------------------------


async def _ask(places: Places, place: Place, server: str, name: str, failures: list[str]) -> Answer | None:
    """Ask a server from inside a place for the addresses of a name; None, with the reason, if it does not answer."""
    encoded = dns.encoded(name.rstrip("."))
    if encoded is None:
        raise InvalidParameter(f"invalid name: {name}")
    code, addresses = dns.NOERROR, list[Address]()
    for kind in (dns.A, dns.AAAA):
        head = secrets.token_bytes(2) + struct.pack(">HHHHH", dns.RD, 1, 0, 0, 0)
        query = head + encoded + struct.pack(">HH", kind, dns.IN)
        try:
            reply = await _exchange(places, place, server, query)
        except TimeoutError:
            failures.append(f"{server} does not answer")
            return None
        except OSError as error:
            failures.append(f"{server}: {error.strerror}")
            return None
        code, addresses = dns.code(reply), _addresses(reply, query)
        if addresses or code != dns.NOERROR:
            break
    return code, addresses


async def _exchange(places: Places, place: Place, server: str, query: bytes) -> bytes:
    """One question by UDP. Raises OSError, TimeoutError."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    [asking] = await places.sockets(place, [(int(family), int(socket.SOCK_DGRAM), 0)])
    loop = asyncio.get_running_loop()
    with asking:
        asking.setblocking(False)
        asking.connect((server, 53))
        async with asyncio.timeout(PATIENCE):
            await loop.sock_sendall(asking, query)
            while True:
                reply = await loop.sock_recv(asking, 65535)
                if dns.is_reply(reply, query):
                    return reply


def _addresses(reply: bytes, query: bytes) -> list[Address]:
    """The addresses in the answers of a reply to ``query``."""
    found: list[Address] = []
    at = len(query)
    try:
        for _ in range(struct.unpack_from(">H", reply, 6)[0]):
            while 0 < reply[at] < 64:
                at += 1 + reply[at]
            at += 2 if reply[at] >= 0xC0 else 1
            kind, _, _, length = struct.unpack_from(">HHIH", reply, at)
            at += 10
            if (kind, length) in ((dns.A, 4), (dns.AAAA, 16)):
                found.append(ip_address(reply[at : at + length]))
            at += length
    except (IndexError, struct.error):
        pass  # cut short: what has come is good
    return found


# Reasons -------------------------------------------------------------------------------------------------------------


def called(places: Places, name: str) -> Container | None:
    """The container that somebody means: by name, id, or what it is called in one of its networks."""
    engine = places.engine
    try:
        return engine.containers.find(name)
    except (NoSuchContainer, InvalidParameter):
        pass
    for container in engine.containers.all():
        for row in endpoints.endpoint_rows(engine, container.id):
            names = dns_names(container, endpoints.asked(row))
            if name in names or any(name == f"{one}.{row['network_name']}" for one in names):
                return container
    return None


def _networks(places: Places, container: Container) -> dict[str, bool]:
    """The networks that a container is in: by name, whether containers have names there."""
    rows = endpoints.endpoint_rows(places.engine, container.id)
    return {row["network_name"]: endpoints.named(places.engine, row["driver"], row["network_name"]) for row in rows}


def _unknown(places: Places, place: Place, name: str, config: resolvconf.ResolvConf, failures: list[str]) -> Stop:
    """Why a container does not find a name."""
    engine, asker = places.engine, place.containers[0]
    meant = called(places, name)
    own = str(dns.ADDRESS) in config.nameservers
    if meant is not None and not meant.live:
        return Stop("name", f"{meant.name} is not running ({meant.state})", f"pier start {meant.name}")
    if failures and own and (stop := _deaf(places, place)):
        return stop
    if meant is not None:
        return _apart(places, place, meant, name)
    if failures:
        servers = engine.resolvers.host().nameservers if own else config.nameservers
        others = "" if not own else f"; the name servers behind it: {', '.join(servers) or 'none'}"
        text = f"nobody tells {place.name} what {name} is: {', '.join(dict.fromkeys(failures))}{others}"
        return Stop("name", text, "look at /etc/resolv.conf of the host, or give servers with --dns")
    if not config.nameservers:
        return Stop("name", f"{place.name} has no name server", "give one with --dns")
    rows = [row for row in endpoints.endpoint_rows(engine, asker.id) if row["active"]]
    if own and rows and not any(endpoints.outward(engine, row) for row in rows):
        text = f"no container in its networks is called {name}, and they are internal: nobody else is asked"
        return Stop("name", text, "pier ps shows what there is")
    text = f"there is no such name as {name}, says {', '.join(config.nameservers)}"
    return Stop("name", text, "pier ps shows what there is")


def _deaf(places: Places, place: Place) -> Stop | None:
    """The embedded name server does not answer: what is amiss with it, if it is that."""
    owner = place.containers[0]
    if place.netfilter is not None and not zones.led(place.netfilter):
        text = f"the rule within {place.name} that leads {dns.ADDRESS}:53 to the engine is missing"
        return Stop("name", text, RELOAD)
    if not places.engine.resolvers.serves(owner.id):
        return Stop("name", f"the engine does not serve the names of {place.name}", f"pier restart {owner.name}")
    return None


def _apart(places: Places, place: Place, meant: Container, name: str) -> Stop:
    """A container runs that is meant, and the one that asks does not know it by that name."""
    asker = place.name
    match network_kind(host_config_of(meant).network_mode):
        case "host":
            return Stop("name", f"{name} is in the host's network, where containers have no names", "ask for host")
        case "container":
            owner = specs.network_owner(places.engine, meant, host_config_of(meant))
            present = places.of(owner.id)
            if present is not None and present is not places.of(meant.id):
                text = f"{name} was in the network that {owner.name} had before it was started anew"
                return Stop("name", text, f"pier restart {meant.name}, then ask for {owner.name}")
            text = f"{name} has no name in any network: it shares that of {owner.name}"
            known = "localhost" if owner.id == place.containers[0].id else owner.name
            return Stop("name", text, f"ask for {known}")
    here, there = _networks(places, place.containers[0]), _networks(places, meant)
    named = [network for network, has_names in there.items() if has_names]
    common = [network for network in named if network in here]
    if common:
        text = f"{asker} and {meant.name} are both in {common[0]}, but it is not called {name} there"
        return Stop("name", text, f"its names there: `pier network map`; or {meant.name}.{common[0]}")
    if named:
        text = f"{name} is in {', '.join(there)}, and {asker} in {', '.join(here) or 'no network'}"
        return Stop("name", f"{text}: they have no network in common", joining(places, place, named[0]))
    remedy = f"pier network create NETWORK; {joining(places, place)}; … {meant.name}"
    if both := [network for network in here if network in there]:
        text = f"in {', '.join(both)}, where {asker} and {name} are, containers have no names"
        return Stop("name", text, remedy)
    return Stop("name", f"{asker} and {name} have no network in common where containers have names", remedy)
