"""Names between containers: who is found under which name, by whom, and from when on."""

from collections.abc import Iterator
from ipaddress import ip_address

import dns.flags
import pytest

from tests.harness.api import Api
from tests.harness.engines import Engine
from tests.harness.kernel import need
from tests.harness.naming import OUTSIDE, NameServer, asker, name_server

NEIGHBOUR = "192.0.2.20"


@pytest.fixture(scope="module")
def outside(shared_engine: Engine) -> Iterator[NameServer]:
    """The name server that containers are told to ask: the machine's own cannot be reached from the tests' world."""
    with name_server(shared_engine.world.neighbour.path, shared_engine.world.neighbour_address) as served:
        yield served


@pytest.fixture
def served(outside: NameServer) -> NameServer:
    outside.names.clear()
    return outside


@pytest.fixture
def api(engine: Engine, served: NameServer) -> Api:
    return engine.api


def network(api: Api, name: str, *subnets: str, **config: object) -> str:
    if subnets:
        config["IPAM"] = {"Driver": "default", "Config": [{"Subnet": subnet} for subnet in subnets]}
    return str(api.ok("POST", "/networks/create", {"Name": name, **config}).json["Id"])


def start(api: Api, name: str, on: str, *aliases: str, **config: object) -> str:
    """A container that sleeps, and whose name server is the neighbour; returns its id."""
    endpoints = {on: {"Aliases": list(aliases)}} if aliases else {on: {}}
    host = {"NetworkMode": on, "Dns": [NEIGHBOUR], **config.pop("HostConfig", {})}  # type: ignore[dict-item]
    return api.run(
        "sleep", "1000", name=name, HostConfig=host, NetworkingConfig={"EndpointsConfig": endpoints}, **config
    )


def ip(api: Api, container: str, on: str, key: str = "IPAddress") -> str:
    return str(api.inspect(container)["NetworkSettings"]["Networks"][on][key])


def connect(api: Api, container: str, on: str, **settings: object) -> None:
    api.ok("POST", f"/networks/{on}/connect", {"Container": container, "EndpointConfig": settings})


# What a container is called ------------------------------------------------------------------------------------------


def test_a_container_has_its_name_its_short_id_its_aliases_and_each_with_the_networks_name(api: Api) -> None:
    network(api, "n1")
    id = start(api, "Server", "n1", "db", "Data.Base")
    here = asker(api, start(api, "asker", "n1"))
    for name in ("server", "SERVER", id[:12], "db", "data.base"):
        for asked in (name, f"{name}.n1"):
            assert here.addresses(asked) == [ip(api, id, "n1")], asked
            assert here.addresses(asked, tcp=True) == [ip(api, id, "n1")], asked
    reply = here.ask("sErVer")
    assert str(reply.answer[0].name) == "sErVer.", "the case that was asked for comes back"
    assert here.name_of(ip(api, id, "n1")) == "Server.n1"


@pytest.mark.needs_docker28("a hostname is a name")
def test_a_containers_hostname_is_a_name_too(api: Api) -> None:
    network(api, "n1")
    id = start(api, "server", "n1", Hostname="my-host")
    assert asker(api, id).addresses("my-host") == [ip(api, id, "n1")]
    assert api.inspect(id)["NetworkSettings"]["Networks"]["n1"]["DNSNames"] == ["server", id[:12], "my-host"]


def test_containers_find_each_other_over_both_families(api: Api) -> None:
    network(api, "n1", "10.211.0.0/24", "fd00:211::/64", EnableIPv6=True)
    network(api, "n2", "10.212.0.0/24")
    id = start(api, "server", "n1")
    four, six = ip(api, id, "n1"), ip(api, id, "n1", "GlobalIPv6Address")
    here = asker(api, start(api, "asker", "n1"))
    assert (here.addresses("server"), here.addresses("server", "AAAA")) == ([four], [six])
    assert here.name_of(six) == "server.n1"
    only = start(api, "only4", "n2")
    empty = asker(api, only).ask("only4", "AAAA")
    assert empty.rcode() == 0 and not empty.answer, "no address of that family is no error"


@pytest.mark.needs_docker28("a network without IPv4")
def test_names_are_found_where_there_is_no_ipv4(engine: Engine, served: NameServer) -> None:
    api = Api(engine.socket, "v1.48")
    network(api, "n1", "fd00:213::/64", EnableIPv6=True, EnableIPv4=False)
    id = start(api, "server", "n1")
    here = asker(api, start(api, "asker", "n1"))
    assert here.addresses("server", "AAAA") == [ip(api, id, "n1", "GlobalIPv6Address")]
    assert here.addresses("server") == []
    assert "1 packets received" in in_container(api, "asker", "ping", "-c", "1", "-W", "10", "server")


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_names_are_found_on_networks_that_share_an_interface(api: Api, driver: str) -> None:
    need(driver)
    pool = {"IPAM": {"Config": [{"Subnet": "10.214.0.0/24"}]}}
    api.ok("POST", "/networks/create", {"Name": "n1", "Driver": driver, "Options": {"parent": "ens33"}, **pool})
    id = start(api, "server", "n1", "db")
    here = asker(api, start(api, "asker", "n1"))
    assert here.addresses("db") == here.addresses("server.n1") == [ip(api, id, "n1")] == ["10.214.0.2"]
    assert here.name_of("10.214.0.2") == "server.n1"
    assert "1 packets received" in in_container(api, "asker", "ping", "-c", "1", "-W", "10", "db")


@pytest.mark.only_pierhead("Docker asks others for the types that it does not know")
def test_a_known_name_has_nothing_of_other_types_and_nobody_is_asked(api: Api, served: NameServer) -> None:
    network(api, "n1")
    id = start(api, "server", "n1")
    here = asker(api, id)
    for name, kind in (("server", "MX"), ("server", "TXT"), ("server", "HTTPS"), ("_http._tcp.server", "SRV")):
        reply = here.ask(name, kind)
        assert reply.rcode() == 0 and not reply.answer and reply.authority, kind
    assert [str(item) for rrset in here.ask("server", "ANY").answer for item in rrset] == [ip(api, id, "n1")]
    nobody = ip_address(ip(api, id, "n1")) + 200
    assert here.ask(nobody.reverse_pointer, "PTR").rcode() == 3
    assert served.names == []


def test_an_alias_of_several_containers_is_all_of_them_in_turns(api: Api) -> None:
    network(api, "n1")
    ids = [start(api, f"w{number}", "n1", "web") for number in range(3)]
    here = asker(api, ids[0])
    assert here.addresses("web") == sorted(ip(api, id, "n1") for id in ids)
    assert len({here.in_order("web")[0] for _ in range(40)}) == 3
    api.ok("POST", f"/containers/{ids[1]}/stop", t=0)
    assert here.addresses("web") == sorted(ip(api, id, "n1") for id in (ids[0], ids[2]))


@pytest.mark.only_pierhead("Docker lets clients remember an address for 600 seconds")
def test_nobody_remembers_an_address_for_long(api: Api) -> None:
    network(api, "n1")
    id = start(api, "server", "n1")
    assert asker(api, id).ask("server").answer[0].ttl <= 10


def test_more_addresses_than_fit_a_datagram_come_over_tcp(api: Api) -> None:
    network(api, "n1")
    ids = [start(api, f"w{number}", "n1", "web") for number in range(32)]
    here = asker(api, ids[0])
    cut = here.ask("web")
    assert cut.flags & dns.flags.TC and 20 < sum(map(len, cut.answer)) < 32
    assert here.addresses("web", tcp=True) == sorted(ip(api, id, "n1") for id in ids)
    assert "1 packets received" in in_container(api, ids[0], "ping", "-c", "1", "-W", "10", "web")


# Who finds whom ------------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_networks_that_a_container_is_on(api: Api) -> None:
    for name in ("n1", "n2"):
        network(api, name)
    one, two = start(api, "one", "n1", "db"), start(api, "two", "n2", "db")
    assert asker(api, one).addresses("db") == [ip(api, one, "n1")]
    assert asker(api, two).addresses("db") == [ip(api, two, "n2")]
    assert asker(api, one).addresses("two") == [] and asker(api, one).addresses("db.n2") == []
    assert asker(api, one).name_of(ip(api, two, "n2")) == ""
    both = start(api, "both", "n1")
    connect(api, both, "n2")
    here = asker(api, both)
    assert here.addresses("db.n1") == [ip(api, one, "n1")] and here.addresses("db.n2") == [ip(api, two, "n2")]
    assert here.addresses("db") in ([ip(api, one, "n1")], [ip(api, two, "n2")]), "one network's, not a mixture"
    assert here.addresses("one") == [ip(api, one, "n1")] and here.addresses("two") == [ip(api, two, "n2")]
    assert here.name_of(ip(api, two, "n2")) == "two.n2"


def test_a_link_is_a_name_for_the_one_that_has_it(api: Api) -> None:
    network(api, "n1")
    target, other = start(api, "postgres", "n1"), start(api, "other", "n1")
    linking = start(api, "linking", "n1")
    api.ok("POST", "/networks/n1/disconnect", {"Container": linking})
    connect(api, linking, "n1", Links=["postgres:db"])
    address = ip(api, target, "n1")
    assert asker(api, linking).addresses("db") == [address] and asker(api, linking).addresses("db.n1") == [address]
    assert asker(api, other).addresses("db") == []
    api.ok("POST", f"/containers/{target}/restart", t=0)
    assert asker(api, linking).addresses("db") == [ip(api, target, "n1")]


def test_on_the_default_bridge_names_are_not_resolved(api: Api) -> None:
    api.run("sleep", "1000", name="server")
    assert "bad address" in api.output("ping", "-c", "1", "-W", "1", "server", HostConfig={"Dns": [NEIGHBOUR]})


@pytest.mark.only_pierhead("Docker has no such option")
def test_on_the_default_bridge_names_are_resolved_where_the_daemon_is_told_so(own_engine: Engine) -> None:
    own_engine.stop()
    own_engine.start("--default-bridge-names")
    api = own_engine.api
    id = api.run("sleep", "1000", name="server")
    address = str(api.inspect(id)["NetworkSettings"]["IPAddress"])
    assert address in api.output("ping", "-c", "1", "-W", "5", "server")
    for name in ("server", id[:12], "server.bridge"):
        assert asker(api, id).addresses(name) == [address]
    assert "nameserver 127.0.0.11" in api.output("cat", "/etc/resolv.conf")
    assert "nameserver 127.0.0.11" not in api.output("cat", "/etc/resolv.conf", HostConfig={"NetworkMode": "none"})


# From when on --------------------------------------------------------------------------------------------------------


def test_names_come_and_go_with_their_containers(api: Api) -> None:
    network(api, "n1")
    here = asker(api, start(api, "asker", "n1"))
    assert here.addresses("server") == []
    id = start(api, "server", "n1")
    assert here.addresses("server") == [ip(api, id, "n1")]
    api.ok("POST", f"/containers/{id}/pause")
    assert here.addresses("server") == [ip(api, id, "n1")], "a paused one is still there"
    api.ok("POST", f"/containers/{id}/unpause")
    api.ok("POST", f"/containers/{id}/stop", t=0)
    assert here.addresses("server") == []
    api.ok("POST", f"/containers/{id}/start")
    assert here.addresses("server") == [ip(api, id, "n1")]
    api.ok("DELETE", f"/containers/{id}", force=1)
    assert here.addresses("server") == []


def test_names_follow_a_rename_a_connect_and_a_disconnect_at_once(api: Api) -> None:
    for name in ("n1", "n2"):
        network(api, name)
    here = asker(api, start(api, "asker", "n1"))
    id = start(api, "server", "n2")
    assert here.addresses("server") == []
    connect(api, id, "n1", Aliases=["also"])
    assert here.addresses("server") == here.addresses("also") == [ip(api, id, "n1")]
    api.ok("POST", f"/containers/{id}/rename", name="renamed")
    assert here.addresses("server") == [] and here.addresses("renamed") == [ip(api, id, "n1")]
    assert here.name_of(ip(api, id, "n1")) == "renamed.n1"
    api.ok("POST", "/networks/n1/disconnect", {"Container": id})
    assert here.addresses("renamed") == [] and here.addresses("also") == []


def test_a_container_that_joins_its_first_network_with_names_gets_them(api: Api) -> None:
    network(api, "n1")
    server = start(api, "server", "n1")
    id = api.run("sleep", "1000", name="late")
    connect(api, id, "n1")
    assert asker(api, id).addresses("server") == [ip(api, server, "n1")]
    assert "nameserver 127.0.0.11" in in_container(api, id, "cat", "/etc/resolv.conf")


def in_container(api: Api, id: str, *command: str) -> str:
    made = api.ok("POST", f"/containers/{id}/exec", {"Cmd": list(command), "AttachStdout": True, "Tty": True})
    connection = api.hijack(f"/exec/{made.json['Id']}/start", {"Detach": False, "Tty": True})
    with connection.socket:
        return connection.read_all().decode(errors="replace")


# Others' names -------------------------------------------------------------------------------------------------------


def test_other_names_are_asked_of_the_servers_given_for_the_container(api: Api, served: NameServer) -> None:
    network(api, "n1")
    here = asker(api, start(api, "asker", "n1"))
    assert here.addresses("example.com") == here.addresses("example.com", tcp=True) == [OUTSIDE]
    assert here.addresses("asker") and served.names == ["example.com.", "example.com."]


def test_servers_given_are_asked_from_the_containers_own_network(api: Api) -> None:
    """127.0.0.1 is the container's, and another container may be the server, be its network as closed as it will."""
    network(api, "closed", Internal=True)
    server = start(api, "server", "closed", HostConfig={"Dns": ["127.0.0.1"]})
    client = start(api, "client", "closed", HostConfig={"Dns": [ip(api, server, "closed")]})
    with name_server(asker(api, server).netns, "0.0.0.0"):
        for id in (server, client):
            for _ in range(20):
                assert asker(api, id).addresses("example.com") == [OUTSIDE]
            assert asker(api, id).addresses("example.com", tcp=True) == [OUTSIDE]


@pytest.mark.needs_docker28("before it, questions leave internal networks")
def test_an_internal_network_asks_nobody_outside(api: Api, served: NameServer) -> None:
    """CVE-2024-29018: a question is a way out."""
    network(api, "closed", Internal=True)
    network(api, "open")
    id = start(api, "asker", "closed")
    here = asker(api, id)
    assert here.addresses("asker") == [ip(api, id, "closed")]
    assert here.ask("secret.example.com").rcode() in (2, 3) and served.names == []
    connect(api, id, "open")
    assert here.addresses("example.com") == [OUTSIDE]
    api.ok("POST", "/networks/open/disconnect", {"Container": id})
    assert here.ask("secret.example.com").rcode() in (2, 3)
    assert served.names == ["example.com."]


@pytest.mark.only_pierhead("Docker answers SERVFAIL, for which musl's resolver waits five seconds")
def test_on_an_internal_network_an_unknown_name_does_not_exist(api: Api) -> None:
    network(api, "closed", Internal=True)
    reply = asker(api, start(api, "asker", "closed", HostConfig={"Dns": []})).ask("example.com")
    assert reply.rcode() == 3 and reply.authority


def test_with_ndots_a_name_without_a_dot_is_not_asked_of_others(api: Api, served: NameServer) -> None:
    network(api, "n1")
    host = {"DnsOptions": ["ndots:2"], "DnsSearch": ["example.com"]}
    here = asker(api, start(api, "asker", "n1", HostConfig=host))
    assert here.addresses("nobody") == [] and here.addresses("nobody.example.com") == [OUTSIDE]
    assert served.names == ["nobody.example.com."]
