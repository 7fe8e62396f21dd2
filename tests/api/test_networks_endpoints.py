"""What a container's endpoints can be told: addresses, the way out, and what inspect shows of them."""

import socket

import pytest

from tests.harness.api import Api, demultiplex
from tests.harness.engines import Engine
from tests.harness.processes import wait_until

IFNAME, SYSCTLS = "com.docker.network.endpoint.ifname", "com.docker.network.endpoint.sysctls"
PREFIX = "com.docker.network.container_iface_prefix"
LOGGED = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.accept_redirects=0"


@pytest.fixture
def api(engine: Engine) -> Api:
    return Api(engine.api.path, "v1.48") if engine.kind == "pierd" else engine.api


def network(api: Api, name: str, subnet: str, **config: object) -> None:
    api.ok("POST", "/networks/create", {"Name": name, "IPAM": {"Config": [{"Subnet": subnet}]}, **config})


def said(api: Api, container: str, *command: str) -> str:
    body = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True}
    id = api.ok("POST", f"/containers/{container}/exec", body).json["Id"]
    stream = api.hijack(f"/exec/{id}/start", {"Detach": False, "Tty": False})
    with stream.socket:
        return b"".join(demultiplex(stream.read_all())).decode()


def way_out(api: Api, container: str, version: int = 4) -> str:
    """The next hop of the default route."""
    words = said(api, container, "ip", f"-{version}", "route", "show", "default").split()
    return words[words.index("via") + 1] if "via" in words else ""


def connect(api: Api, name: str, container: str, **settings: object) -> None:
    api.ok("POST", f"/networks/{name}/connect", {"Container": container, "EndpointConfig": settings})


def settings(api: Api, container: str, name: str) -> dict[str, object]:
    return dict(api.inspect(container)["NetworkSettings"]["Networks"][name])


def test_addresses_are_given_at_connect_to_running_and_stopped_containers(api: Api) -> None:
    network(api, "n1", "10.221.0.0/24")
    network(api, "n2", "10.222.0.0/24")
    id = api.create("sleep", "1000")
    connect(api, "n1", id, IPAMConfig={"IPv4Address": "10.221.0.7"}, Aliases=["seven"])
    api.ok("POST", f"/containers/{id}/start")
    connect(api, "n2", id, IPAMConfig={"IPv4Address": "10.222.0.9"}, DriverOpts={"a": "b"})
    assert settings(api, id, "n1")["IPAddress"] == "10.221.0.7"
    seen = settings(api, id, "n2")
    assert seen["IPAddress"] == "10.222.0.9" and seen["DriverOpts"] == {"a": "b"}
    assert seen["IPAMConfig"] == {"IPv4Address": "10.222.0.9"}
    shown = said(api, id, "ip", "-o", "-4", "addr")
    assert "10.221.0.7/24" in shown and "10.222.0.9/24" in shown
    api.ok("POST", f"/containers/{id}/restart", t=0)
    assert settings(api, id, "n2")["IPAddress"] == "10.222.0.9"


@pytest.mark.needs_docker28("nothing is left of a connect that fails")
def test_an_address_that_is_taken_is_refused_at_connect(api: Api) -> None:
    network(api, "n1", "10.221.0.0/24")
    api.run("sleep", "1000", HostConfig={"NetworkMode": "n1"})
    id = api.run("sleep", "1000")
    refused = api.send(
        "POST",
        "/networks/n1/connect",
        {"Container": id, "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.221.0.2"}}},
    )
    assert refused.status in (403, 500) and "Address already in use" in refused.message
    assert list(api.inspect(id)["NetworkSettings"]["Networks"]) == ["bridge"]
    assert "eth1" not in said(api, id, "ip", "-o", "link")


def test_link_local_addresses_are_there_besides(api: Api) -> None:
    network(api, "n1", "10.221.0.0/24")
    id = api.run("sleep", "1000")
    connect(api, "n1", id, IPAMConfig={"LinkLocalIPs": ["169.254.7.7"]})
    assert "169.254.7.7/16" in said(api, id, "ip", "-o", "-4", "addr", "show", "dev", "eth1")
    assert settings(api, id, "n1")["IPAMConfig"] == {"LinkLocalIPs": ["169.254.7.7"]}


@pytest.mark.only_pierhead("20.10 turns IPv6 off first")
def test_an_ipv6_link_local_address_needs_no_ipv6_network(api: Api) -> None:
    network(api, "n1", "10.221.0.0/24")
    config = {"EndpointsConfig": {"n1": {"IPAMConfig": {"LinkLocalIPs": ["fe80::7:7", "169.254.7.7"]}}}}
    id = api.run("sleep", "1000", HostConfig={"NetworkMode": "n1"}, NetworkingConfig=config)
    shown = said(api, id, "ip", "-o", "addr", "show", "dev", "eth0")
    assert "fe80::7:7/64" in shown and "169.254.7.7/16" in shown


# The interface inside ------------------------------------------------------------------------------------------------


def interfaces(api: Api, container: str) -> dict[str, str]:
    """IPv4 addresses by interface, of all but lo."""
    lines = [line.split() for line in said(api, container, "ip", "-o", "-4", "addr").splitlines()]
    return {words[1]: words[3] for words in lines if words[1] != "lo"}


@pytest.mark.needs_docker28("com.docker.network.endpoint.ifname")
def test_interfaces_have_the_names_that_their_user_gives_them(api: Api) -> None:
    network(api, "n1", "10.221.0.0/24")
    network(api, "n2", "10.222.0.0/24", Options={PREFIX: "net"})
    network(api, "n3", "10.223.0.0/24")
    network(api, "n4", "10.224.0.0/24", Options={PREFIX: "net"})
    chosen = {"EndpointsConfig": {"n1": {}, "n2": {}, "n3": {"DriverOpts": {IFNAME: "up.link0", SYSCTLS: LOGGED}}}}
    id = api.run("sleep", "1000", HostConfig={"NetworkMode": "n1"}, NetworkingConfig=chosen)
    first = {"eth0": "10.221.0.2/24", "net0": "10.222.0.2/24", "up.link0": "10.223.0.2/24"}
    assert interfaces(api, id) == first
    assert said(api, id, "cat", "/proc/sys/net/ipv4/conf/up.link0/log_martians") == "1\n"
    connect(api, "bridge", id, DriverOpts={IFNAME: "wan", SYSCTLS: LOGGED.lower()})
    assert said(api, id, "cat", "/proc/sys/net/ipv4/conf/wan/log_martians") == "1\n"
    api.ok("POST", "/networks/n1/disconnect", {"Container": id})
    connect(api, "n4", id)
    found = interfaces(api, id)
    assert set(found) == {"net0", "net1", "up.link0", "wan"} and found["net1"] == "10.224.0.2/24"
    api.ok("POST", f"/containers/{id}/restart", t=0)
    assert set(interfaces(api, id)) == set(found)


@pytest.mark.only_pierhead("Docker finds some of it out at the start")
def test_an_interface_that_cannot_be_as_asked_is_refused(api: Api) -> None:
    network(api, "n1", "10.221.0.0/24")
    id = api.run("sleep", "1000")
    for options, message in (
        ({SYSCTLS: "net.ipv4.conf.eth0.log_martians=1"}, "unrecognised network interface sysctl"),
        ({SYSCTLS: "net.ipv4.conf.IFNAME.log_martians=1,kernel.x.y.IFNAME.z=1"}, "interface sysctl 'kernel.x.y"),
        ({IFNAME: "much too long a name"}, 'invalid interface name "much too long a name"'),
        ({IFNAME: "up%d"}, 'invalid interface name "up%d"'),
        ({IFNAME: "lo"}, 'invalid interface name "lo"'),
    ):
        body = {"Container": id, "EndpointConfig": {"DriverOpts": options}}
        refused = api.send("POST", "/networks/n1/connect", body)
        assert refused.status == 400 and refused.message.startswith("invalid endpoint settings:\n")
        assert message in refused.message
    for options, message in (
        ({IFNAME: "eth0"}, "another interface of the container is named eth0"),
        ({SYSCTLS: "net.ipv4.conf.IFNAME.no_such=1"}, "/proc/sys/net/ipv4/conf/eth1/no_such"),
    ):
        body = {"Container": id, "EndpointConfig": {"DriverOpts": options}}
        refused = api.send("POST", "/networks/n1/connect", body)
        assert refused.status in (409, 500) and message in refused.message
        assert list(interfaces(api, id)) == ["eth0"]
    for options in ({PREFIX: "a much too long"}, {"com.docker.network.bridge.name": "br%d"}):
        refused = api.send("POST", "/networks/create", {"Name": "n2", "Options": options})
        assert refused.status == 400 and "invalid interface name" in refused.message


# The way out ---------------------------------------------------------------------------------------------------------


@pytest.mark.needs_docker28("--gw-priority")
def test_the_highest_priority_gives_the_way_out_from_the_start(api: Api) -> None:
    network(api, "a", "10.221.0.0/24")
    network(api, "b", "10.222.0.0/24")
    both = {"EndpointsConfig": {"a": {}, "b": {"GwPriority": 1}}}
    id = api.run("sleep", "1000", HostConfig={"NetworkMode": "a"}, NetworkingConfig=both)
    assert way_out(api, id) == "10.222.0.1" and settings(api, id, "b")["GwPriority"] == 1
    low = {"EndpointsConfig": {"a": {"GwPriority": -5}, "b": {}}}
    id = api.run("sleep", "1000", HostConfig={"NetworkMode": "a"}, NetworkingConfig=low)
    assert way_out(api, id) == "10.222.0.1"
    api.ok("POST", f"/containers/{id}/restart", t=0)
    assert way_out(api, id) == "10.222.0.1"
    plain: dict[str, object] = {"EndpointsConfig": {"a": {}, "b": {}}}
    id = api.run("sleep", "1000", HostConfig={"NetworkMode": "b"}, NetworkingConfig=plain)
    assert way_out(api, id) == "10.221.0.1", "of equal ones the first by name"


@pytest.mark.needs_docker28("--gw-priority")
def test_an_old_client_knows_no_priorities(api: Api) -> None:
    network(api, "b", "10.222.0.0/24")
    old = Api(api.path, "v1.47")
    both = {"EndpointsConfig": {"bridge": {"GwPriority": -1}, "b": {}}}
    id = old.run("sleep", "1000", NetworkingConfig=both)
    assert settings(api, id, "bridge")["GwPriority"] == 0


@pytest.mark.needs_docker28("--gw-priority")
def test_the_way_out_and_the_ports_follow_the_priority_while_it_runs(api: Api, engine: Engine) -> None:
    network(api, "a", "10.221.0.0/24")
    network(api, "b", "10.222.0.0/24", EnableIPv6=True)
    ports = {"8080/tcp": [{"HostPort": "8077"}]}
    id = api.run(image="web", HostConfig={"NetworkMode": "a", "PortBindings": ports})

    def answers() -> bool:
        try:
            return "200 OK" in engine.host.http_get("127.0.0.1", 8077)
        except OSError:
            return False

    wait_until(answers, "an answer through the first network")
    assert way_out(api, id) == "10.221.0.1"
    connect(api, "b", id, GwPriority=10)
    assert way_out(api, id) == "10.222.0.1" and way_out(api, id, 6) != ""
    rules = engine.host.run("nft", "list", "ruleset").stdout
    assert "10.222.0.2" in rules and "10.221.0.2 . 8080" not in rules, "the port leads through the new network"
    wait_until(answers, "an answer through the second network")
    api.ok("POST", "/networks/b/disconnect", {"Container": id})
    assert way_out(api, id) == "10.221.0.1" and way_out(api, id, 6) == ""
    wait_until(answers, "an answer through the first network again")


@pytest.mark.needs_docker28("--gw-priority")
def test_a_new_way_out_of_one_family_leaves_the_others_and_no_more(api: Api) -> None:
    network(api, "a", "10.221.0.0/24", EnableIPv6=True)
    network(api, "b", "10.222.0.0/24")
    network(api, "c", "10.223.0.0/24", EnableIPv6=True)
    id = api.run("sleep", "1000", HostConfig={"NetworkMode": "a"})
    of_a = way_out(api, id, 6)
    assert of_a != ""
    connect(api, "b", id, GwPriority=1)
    assert (way_out(api, id), way_out(api, id, 6)) == ("10.222.0.1", of_a)
    api.ok("POST", f"/containers/{id}/restart", t=0)
    assert (way_out(api, id), way_out(api, id, 6)) == ("10.222.0.1", of_a), "as after a restart"
    connect(api, "c", id, GwPriority=2)
    assert way_out(api, id) == "10.223.0.1" and way_out(api, id, 6) not in ("", of_a)
    api.ok("POST", "/networks/c/disconnect", {"Container": id})
    api.ok("POST", "/networks/a/disconnect", {"Container": id})
    assert (way_out(api, id), way_out(api, id, 6)) == ("10.222.0.1", ""), "nothing stays of a network that was left"


def test_a_container_without_any_network_keeps_running_and_can_be_connected(api: Api) -> None:
    network(api, "a", "10.221.0.0/24")
    id = api.run("sleep", "1000", HostConfig={"NetworkMode": "a"})
    api.ok("POST", "/networks/a/disconnect", {"Container": id})
    assert api.inspect(id)["State"]["Running"] and way_out(api, id) == ""
    connect(api, "a", id)
    assert way_out(api, id) == "10.221.0.1"


# What is shown -------------------------------------------------------------------------------------------------------


def test_inspect_repeats_the_default_bridges_endpoint_and_no_other(api: Api) -> None:
    network(api, "a", "10.221.0.0/24")
    first = api.inspect(api.run("sleep", "1000"))["NetworkSettings"]
    endpoint = first["Networks"]["bridge"]
    for flat in ("EndpointID", "Gateway", "IPAddress", "IPPrefixLen", "MacAddress", "GlobalIPv6Address"):
        assert first[flat] == endpoint[flat], flat
    assert len(first["SandboxID"]) == 64 and first["SandboxKey"]
    second = api.inspect(api.run("sleep", "1000", HostConfig={"NetworkMode": "a"}))["NetworkSettings"]
    assert second["IPAddress"] == "" == second["MacAddress"] == second["Gateway"]
    assert second["Networks"]["a"]["NetworkID"] == api.get("/networks/a")["Id"]


def test_a_stopped_container_shows_what_was_asked_and_no_addresses(api: Api) -> None:
    network(api, "a", "10.221.0.0/24")
    config = {"EndpointsConfig": {"a": {"IPAMConfig": {"IPv4Address": "10.221.0.9"}, "Aliases": ["x"]}}}
    id = api.run("sleep", "1000", HostConfig={"NetworkMode": "a"}, NetworkingConfig=config)
    api.ok("POST", f"/containers/{id}/stop", t=0)
    seen = settings(api, id, "a")
    assert seen["IPAddress"] == "" == seen["EndpointID"] == seen["MacAddress"] and seen["IPPrefixLen"] == 0
    assert seen["IPAMConfig"] == {"IPv4Address": "10.221.0.9"} and "x" in seen["Aliases"]  # type: ignore[operator]
    assert api.inspect(id)["NetworkSettings"]["Ports"] == {}


@pytest.mark.needs_docker28("the sandbox is gone")
def test_a_stopped_container_has_no_sandbox(api: Api) -> None:
    id = api.run("sleep", "1000")
    api.ok("POST", f"/containers/{id}/stop", t=0)
    seen = api.inspect(id)["NetworkSettings"]
    assert seen["SandboxID"] == "" == seen["SandboxKey"]


def test_a_network_shows_who_is_joined_now(api: Api) -> None:
    network(api, "a", "10.221.0.0/24")
    id = api.run("sleep", "1000", name="there", HostConfig={"NetworkMode": "a"})
    member = api.get("/networks/a", verbose="true")["Containers"][id]
    assert member["Name"] == "there" and member["EndpointID"] == settings(api, id, "a")["EndpointID"]
    assert member["IPv4Address"] == "10.221.0.2/24"
    assert api.send("GET", "/networks/a", scope="swarm").status == 404
    refused = api.send("DELETE", "/networks/a")
    assert refused.status == 403 and "has active endpoints" in refused.message


@pytest.mark.needs_docker28("the names")
def test_a_network_in_use_names_who_uses_it(api: Api) -> None:
    network(api, "a", "10.221.0.0/24")
    for name in ("one", "two"):
        api.run("sleep", "1000", name=name, HostConfig={"NetworkMode": "a"})
    message = api.send("DELETE", "/networks/a").message
    assert message.startswith("error while removing network: network a has active endpoints (")
    for name in ("one", "two"):
        assert f'name:"{name}" id:"{str(settings(api, name, "a")["EndpointID"])[:12]}"' in message


def test_host_and_domain_names_are_the_containers_own(api: Api) -> None:
    network(api, "a", "10.221.0.0/24")
    id = api.run("sleep", "1000", Hostname="me", Domainname="example.org", HostConfig={"NetworkMode": "a"})
    assert said(api, id, "hostname").strip() == "me"
    assert said(api, id, "cat", "/proc/sys/kernel/domainname").strip() == "example.org"
    assert "10.221.0.2\tme.example.org me" in said(api, id, "cat", "/etc/hosts")
    assert said(api, id, "hostname", "-f").strip() == "me.example.org"
    id = api.run("sleep", "1000", Hostname="all.example.org", HostConfig={"NetworkMode": "a"})
    assert "10.221.0.3\tall.example.org all\n" in said(api, id, "cat", "/etc/hosts"), "found without its domain too"


def test_what_is_said_about_names_is_in_the_files(api: Api) -> None:
    host = {"Dns": ["192.0.2.53"], "DnsSearch": ["example.org"], "DnsOptions": ["timeout:3"]}
    hosts = ["here:10.1.1.1", "six:fd00::1", "gate:host-gateway"]
    id = api.run("sleep", "1000", HostConfig={**host, "ExtraHosts": hosts})
    resolv = said(api, id, "cat", "/etc/resolv.conf")
    assert "nameserver 192.0.2.53" in resolv and "search example.org" in resolv and "timeout:3" in resolv
    lines = said(api, id, "cat", "/etc/hosts").splitlines()
    gateway = settings(api, id, "bridge")["Gateway"]
    assert {"10.1.1.1\there", "fd00::1\tsix", f"{gateway}\tgate"} <= set(lines)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("a", 'bad format for add-host: "a"'),
        (":10.1.1.1", 'bad format for add-host: ":10.1.1.1"'),
        ("a:b", 'invalid IP address in add-host: "b"'),
        ("a:", 'invalid IP address in add-host: ""'),
    ],
)
def test_a_host_that_is_none_is_refused(api: Api, entry: str, message: str) -> None:
    refused = api.send("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"ExtraHosts": [entry]}})
    assert (refused.status, refused.message) == (400, message)


def test_a_network_says_where_ports_without_an_address_are_published(api: Api, engine: Engine) -> None:
    network(api, "a", "10.221.0.0/24", Options={"com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"})
    ports = {"80/tcp": [{"HostPort": "8079"}], "81/tcp": [{"HostIp": "192.0.2.10", "HostPort": "8080"}]}
    exposed: dict[str, object] = {port: {} for port in ports}
    id = api.run("sleep", "1000", ExposedPorts=exposed, HostConfig={"NetworkMode": "a", "PortBindings": ports})
    shown = api.inspect(id)["NetworkSettings"]["Ports"]
    assert shown["80/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": "8079"}]
    assert shown["81/tcp"] == [{"HostIp": "192.0.2.10", "HostPort": "8080"}]
    if engine.kind == "pierd":  # our extension finds such a port again
        api.ok("POST", f"/containers/{id}/update", {"PublishAdd": {"82/tcp": [{"HostPort": "8081"}]}})
        assert api.inspect(id)["NetworkSettings"]["Ports"]["82/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": "8081"}]
        api.ok("POST", f"/containers/{id}/update", {"PublishRemove": ["8079:80"]})
        assert not api.inspect(id)["NetworkSettings"]["Ports"].get("80/tcp")


@pytest.mark.needs_docker28("--gw-priority")
def test_ports_are_where_the_network_has_them_that_leads_out_now(api: Api, engine: Engine) -> None:
    network(api, "a", "10.221.0.0/24", Options={"com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"})
    network(api, "b", "10.222.0.0/24")
    ports = {"8080/tcp": [{"HostPort": "8078"}]}
    id = api.run(image="web", HostConfig={"NetworkMode": "b", "PortBindings": ports})

    def addresses() -> set[str]:
        return {one["HostIp"] for one in api.inspect(id)["NetworkSettings"]["Ports"]["8080/tcp"]}

    def answers(address: str) -> bool:
        try:
            return "200 OK" in engine.world.host.http_get(address, 8078)
        except OSError:
            return False

    wait_until(lambda: answers("192.0.2.10"), "an answer at every address")
    connect(api, "a", id, GwPriority=1)
    assert addresses() == {"127.0.0.1"} and answers("127.0.0.1") and not answers("192.0.2.10")
    api.ok("POST", "/networks/a/disconnect", {"Container": id})
    assert addresses() == {"0.0.0.0", "::"} and answers("127.0.0.1") and answers("192.0.2.10")


def test_published_ports_listen_on_the_hosts_own_addresses(api: Api, engine: Engine) -> None:
    """``port``, and what it says is so."""
    network(api, "a", "10.221.0.0/24")
    ports = {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8078"}]}
    id = api.run(image="web", HostConfig={"NetworkMode": "a", "PortBindings": ports})
    assert api.inspect(id)["NetworkSettings"]["Ports"]["8080/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": "8078"}]
    assert engine.docker("port", id).check().stdout == "8080/tcp -> 127.0.0.1:8078\n"

    def connects() -> bool:
        try:
            with engine.host.connect("127.0.0.1", 8078) as connection:
                return isinstance(connection, socket.socket)
        except OSError:
            return False

    wait_until(connects, "a connection")
