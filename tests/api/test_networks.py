"""Networks through the raw API: addresses, names, ports, filters, and Docker's refusals."""

import socket
import struct

import pytest

from tests.harness.api import Api
from tests.harness.engines import Engine
from tests.harness.netns import Namespace, call_in
from tests.harness.processes import wait_until


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


def network(api: Api, name: str, **config: object) -> str:
    return str(api.ok("POST", "/networks/create", {"Name": name, **config}).json["Id"])


def ipam(subnet: str, **more: str) -> dict[str, object]:
    return {"Driver": "default", "Config": [{"Subnet": subnet, **more}]}


def endpoint(api: Api, container: str, name: str = "bridge") -> dict[str, str]:
    return dict(api.inspect(container)["NetworkSettings"]["Networks"][name])


def wait_for_web(host: Namespace, address: str) -> None:
    """Reach a container of the image "web", which may not listen yet."""

    def answers() -> bool:
        try:
            return bool(host.http_get(address, 8080))
        except ConnectionRefusedError:
            return False

    wait_until(answers, f"an answer of {address}")


def test_a_new_network_tells_all_about_itself(api: Api) -> None:
    id = network(api, "n1", IPAM=ipam("10.201.0.0/24", Gateway="10.201.0.254"), Labels={"a": "b"}, Internal=True)
    for name in (id, "n1", id[:12]):
        seen = api.get(f"/networks/{name}")
        assert (seen["Id"], seen["Name"], seen["Driver"], seen["Scope"]) == (id, "n1", "bridge", "local")
        assert seen["IPAM"]["Config"] == [{"Subnet": "10.201.0.0/24", "Gateway": "10.201.0.254"}]
        assert seen["Labels"] == {"a": "b"} and seen["Internal"] and seen["Containers"] == {}


def test_containers_get_addresses_gateways_and_macs(api: Api) -> None:
    network(api, "n1", IPAM=ipam("10.202.0.0/24"))
    id = api.run("sleep", "1000", HostConfig={"NetworkMode": "n1"})
    seen = endpoint(api, id, "n1")
    assert seen["IPAddress"] == "10.202.0.2" and seen["Gateway"] == "10.202.0.1" and seen["IPPrefixLen"] == 24
    assert seen["MacAddress"].count(":") == 5 and seen["EndpointID"] and seen["NetworkID"]
    member = api.get("/networks/n1")["Containers"][id]
    assert member["IPv4Address"] == "10.202.0.2/24" and member["MacAddress"] == seen["MacAddress"]
    api.ok("POST", f"/containers/{id}/stop", t=0)
    assert endpoint(api, id, "n1")["IPAddress"] == "" and api.get("/networks/n1")["Containers"] == {}


def test_two_pools_never_overlap(api: Api) -> None:
    network(api, "n1", IPAM=ipam("10.203.0.0/24"))
    refused = api.send("POST", "/networks/create", {"Name": "n2", "IPAM": ipam("10.203.0.0/25")})
    assert refused.status in (400, 403) and "Pool overlaps with other one on this address space" in refused.message


def test_wrong_requests_are_refused_in_dockers_words(api: Api) -> None:
    missing = api.send("GET", "/networks/nothing")
    assert (missing.status, missing.message) == (404, "network nothing not found")
    assert api.send("DELETE", "/networks/nothing").status == 404
    assert api.send("POST", "/networks/create", {"Name": "x", "Driver": "nodriver"}).status in (400, 404)
    network(api, "twice")
    again = api.send("POST", "/networks/create", {"Name": "twice", "CheckDuplicate": True})
    assert (again.status, again.message) == (409, "network with name twice already exists")
    builtin = api.send("DELETE", "/networks/bridge")
    assert (builtin.status, builtin.message) == (403, "bridge is a pre-defined network and cannot be removed")
    nobody = api.send("POST", "/networks/twice/connect", {"Container": "nobody"})
    assert (nobody.status, nobody.message) == (404, "No such container: nobody")
    neither = api.send("POST", "/networks/nothing/connect", {"Container": "nobody"})
    assert (neither.status, neither.message) == (404, "No such container: nobody"), "as Docker looks for them"
    id = api.create("true", HostConfig={"NetworkMode": "no-such-network"})
    start = api.send("POST", f"/containers/{id}/start")
    assert start.status == 404 and "network no-such-network not found" in start.message


def test_an_address_outside_the_subnet_is_refused(api: Api) -> None:
    network(api, "n1", IPAM=ipam("10.204.0.0/24"))
    config = {"EndpointsConfig": {"n1": {"IPAMConfig": {"IPv4Address": "10.9.9.9"}}}}
    made = api.send(
        "POST",
        "/containers/create",
        {"Image": "busybox", "HostConfig": {"NetworkMode": "n1"}, "NetworkingConfig": config},
    )
    if made.status == 201:
        made = api.send("POST", f"/containers/{made.json['Id']}/start")
    assert made.status >= 400, "an address outside of every subnet"


def test_a_given_address_is_taken_and_not_twice(api: Api) -> None:
    network(api, "n1", IPAM=ipam("10.205.0.0/24"))
    config = {"EndpointsConfig": {"n1": {"IPAMConfig": {"IPv4Address": "10.205.0.9"}}}}
    first = api.run("sleep", "1000", HostConfig={"NetworkMode": "n1"}, NetworkingConfig=config)
    assert endpoint(api, first, "n1")["IPAddress"] == "10.205.0.9"
    second = api.create("sleep", "1000", HostConfig={"NetworkMode": "n1"}, NetworkingConfig=config)
    refused = api.send("POST", f"/containers/{second}/start")
    assert refused.status == 403 and "Address already in use" in refused.message


def test_aliases_and_container_names_resolve_and_others_do_not(api: Api) -> None:
    network(api, "n1")
    config = {"EndpointsConfig": {"n1": {"Aliases": ["db", "database"]}}}
    id = api.run("sleep", "1000", name="server", HostConfig={"NetworkMode": "n1"}, NetworkingConfig=config)
    address = endpoint(api, id, "n1")["IPAddress"]
    for name in ("server", "db", "database", id[:12]):
        assert address in api.output("ping", "-c", "1", "-W", "5", name, HostConfig={"NetworkMode": "n1"}), name
    assert "bad address" in api.output("ping", "-c", "1", "nobody.invalid", HostConfig={"NetworkMode": "n1"})


def test_networks_are_apart_from_each_other(api: Api) -> None:
    network(api, "n1")
    network(api, "n2")
    id = api.run(image="web", HostConfig={"NetworkMode": "n1"})
    address = endpoint(api, id, "n1")["IPAddress"]
    reached = "nc -w 2 {} 8080 </dev/null && echo reached || echo apart"
    assert "apart" in api.output("sh", "-c", reached.format(address), HostConfig={"NetworkMode": "n2"})


def test_an_internal_network_has_no_way_out(api: Api, engine: Engine) -> None:
    network(api, "inside", Internal=True)
    said = api.output(
        "ping", "-c", "1", "-W", "2", engine.world.neighbour_address, HostConfig={"NetworkMode": "inside"}
    )
    assert "1 packets received" not in said


def test_a_container_can_be_on_several_networks(api: Api) -> None:
    network(api, "n1")
    network(api, "n2")
    id = api.run("sleep", "1000", HostConfig={"NetworkMode": "n1"})
    api.ok("POST", "/networks/n2/connect", {"Container": id, "EndpointConfig": {"Aliases": ["second"]}})
    assert set(api.inspect(id)["NetworkSettings"]["Networks"]) == {"n1", "n2"}
    twice = api.send("POST", "/networks/n2/connect", {"Container": id})
    assert twice.status == 403 and "already exists in network n2" in twice.message
    api.ok("POST", "/networks/n1/disconnect", {"Container": id})
    assert set(api.inspect(id)["NetworkSettings"]["Networks"]) == {"n2"}
    again = api.send("POST", "/networks/n1/disconnect", {"Container": id})
    assert again.status in (403, 404, 500) and "is not connected to" in again.message


def test_a_stopped_container_can_be_connected_and_keeps_it(api: Api) -> None:
    network(api, "n1")
    id = api.create("sleep", "1000")
    api.ok("POST", "/networks/n1/connect", {"Container": id})
    api.ok("POST", f"/containers/{id}/start")
    assert endpoint(api, id, "n1")["IPAddress"] and endpoint(api, id, "bridge")["IPAddress"]
    api.ok("POST", f"/containers/{id}/restart", t=0)
    assert endpoint(api, id, "n1")["IPAddress"]


def test_networks_are_filtered(api: Api) -> None:
    network(api, "apple", Labels={"fruit": "yes"})
    network(api, "carrot")

    def names(**filters: list[str]) -> set[str]:
        return {entry["Name"] for entry in api.get("/networks", filters=filters)}

    assert names(type=["custom"]) == {"apple", "carrot"}
    assert names(type=["builtin"]) == {"bridge", "host", "none"}
    assert names(name=["app"]) == {"apple"} and names(label=["fruit"]) == {"apple"}
    assert names(driver=["host"]) == {"host"} and names(dangling=["true"]) == {"apple", "carrot"}
    assert api.send("GET", "/networks", filters={"bogus": ["x"]}).status == 400


def test_prune_takes_the_unused(api: Api) -> None:
    network(api, "used")
    network(api, "unused")
    api.run("sleep", "1000", HostConfig={"NetworkMode": "used"})
    assert api.ok("POST", "/networks/prune").json["NetworksDeleted"] == ["unused"]


def published(inside: str, **binding: str) -> dict[str, object]:
    return {"PortBindings": {inside: [binding]}}


def test_a_port_of_the_engines_choice_is_told_and_answers(api: Api, engine: Engine) -> None:
    id = api.run(image="web", HostConfig=published("8080/tcp", HostPort=""))
    port = int(api.inspect(id)["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"])
    assert port >= 1024

    def answers() -> bool:
        try:
            return "200 OK" in engine.host.http_get("127.0.0.1", port)
        except OSError:
            return False

    wait_until(answers, "an answer")
    assert "200 OK" in engine.world.neighbour.http_get(engine.world.host_address, port)


def test_publish_all_publishes_what_the_image_exposes(api: Api) -> None:
    id = api.run(image="web", HostConfig={"PublishAllPorts": True})
    assert int(api.inspect(id)["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"]) >= 1024


def test_a_port_on_one_address_is_not_on_others(api: Api, engine: Engine) -> None:
    api.run(image="web", HostConfig=published("8080/tcp", HostIp="127.0.0.1", HostPort="8091"))

    def answers() -> bool:
        try:
            return "200 OK" in engine.host.http_get("127.0.0.1", 8091)
        except OSError:
            return False

    wait_until(answers, "an answer on loopback")
    with pytest.raises(OSError):
        engine.world.neighbour.connect(engine.world.host_address, 8091, timeout=2)


def test_a_taken_port_is_refused_and_nothing_is_left(api: Api, engine: Engine) -> None:
    api.run(image="web", HostConfig=published("8080/tcp", HostPort="8092"), name="holder")
    before = engine.host.interfaces()
    id = api.create(image="web", HostConfig=published("8080/tcp", HostPort="8092"))
    refused = api.send("POST", f"/containers/{id}/start")
    assert refused.status in (409, 500) and "8092" in refused.message and "port is already allocated" in refused.message
    assert engine.host.interfaces() == before
    assert api.inspect(id)["State"]["Status"] in ("created", "exited")


@pytest.mark.only_pierhead("Docker does not say who")
def test_a_port_taken_by_a_container_names_its_holder(api: Api) -> None:
    api.run(image="web", HostConfig=published("8080/tcp", HostPort="8093"), name="holder")
    id = api.create(image="web", HostConfig=published("8080/tcp", HostPort="8093"))
    assert "holder" in api.send("POST", f"/containers/{id}/start").message


def test_a_port_taken_by_another_program_is_refused(api: Api, engine: Engine) -> None:
    def listening() -> socket.socket:
        return socket.create_server(("0.0.0.0", 8094))

    with engine.host.call(listening):
        id = api.create(image="web", HostConfig=published("8080/tcp", HostPort="8094"))
        refused = api.send("POST", f"/containers/{id}/start")
        assert refused.status in (409, 500) and "address already in use" in refused.message


def test_udp_is_published_too(api: Api, engine: Engine) -> None:
    exposed = {"9999/udp": {}}
    id = api.run("sleep", "1000", ExposedPorts=exposed, HostConfig=published("9999/udp", HostPort="9998"))
    seen = api.inspect(id)
    assert seen["NetworkSettings"]["Ports"]["9999/udp"][0]["HostPort"] == "9998"
    server = call_in(f"/proc/{seen['State']['Pid']}/ns/net", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    client = engine.world.neighbour.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with server, client:
        server.bind(("0.0.0.0", 9999))
        for end in (server, client):
            end.settimeout(20)
        client.connect((engine.world.host_address, 9998))
        client.send(b"question")
        data, sender = server.recvfrom(100)
        assert (data, sender[0]) == (b"question", engine.world.neighbour_address), "the client's own address is seen"
        server.sendto(b"answer", sender)
        assert client.recv(100) == b"answer"


def test_hosts_and_hostname_files_say_who_the_container_is(api: Api) -> None:
    id = api.run("sleep", "1000", Hostname="myhost", HostConfig={"ExtraHosts": ["other:10.1.2.3"]})
    said = api.output(
        "sh",
        "-c",
        "cat /etc/hosts /etc/hostname; hostname",
        Hostname="myhost",
        HostConfig={"ExtraHosts": ["other:10.1.2.3"]},
    )
    assert "127.0.0.1\tlocalhost" in said and "10.1.2.3\tother" in said
    assert said.splitlines()[-2:] == ["myhost", "myhost"]
    assert api.inspect(id)["HostsPath"].endswith("/hosts")


@pytest.mark.only_pierhead("Docker's address stays, and the user's own is taken away")
def test_a_bridge_of_the_users_own_is_as_it_was_when_the_network_is_gone(api: Api, engine: Engine) -> None:
    host = engine.host
    settings = [f"/proc/sys/net/{name}" for name in ("ipv4/conf/br9/route_localnet", "ipv6/conf/br9/accept_ra")]

    def state() -> list[str]:
        there = [line.split()[3] for line in host.ip("-o", "address", "show", "br9").lines]
        return [*sorted(there), *host.run("cat", *settings).check().lines]

    host.configure(
        "link add br9 type bridge",
        "address add 10.89.0.5/24 dev br9",
        "address add 2001:db8:9::5/64 dev br9 nodad",
        "link set br9 up",
    )
    try:
        wait_until(lambda: any("fe80:" in one for one in state()), "the bridge's link-local address")
        before = state()
        name = {"com.docker.network.bridge.name": "br9"}
        # The network of its own wire, with its own address as the gateway; then another one, twice.
        for subnet, gateway in (("10.89.0.0/24", "10.89.0.5"), ("10.90.0.0/24", "10.90.0.1"), ("10.90.0.0/24", "")):
            network(api, "wire", Options=name, IPAM=ipam(subnet, Gateway=gateway))
            assert "2001:db8:9::5/64" in state(), "the user's IPv6 must not be turned off"
            id = api.run(image="web", HostConfig={"NetworkMode": "wire"})
            wait_for_web(host, endpoint(api, id, "wire")["IPAddress"])
            api.ok("DELETE", f"/containers/{id}", force=1)
            api.ok("DELETE", "/networks/wire")
            assert state() == before
    finally:
        host.ip("link", "delete", "br9")


def test_a_network_with_a_slash_in_its_name_is_found_again(api: Api) -> None:
    id = network(api, "team/shop")
    assert api.get("/networks/team/shop")["Id"] == id
    container = api.create("sleep", "1000")
    for what in ("connect", "disconnect"):
        api.ok("POST", f"/networks/team/shop/{what}", {"Container": container})
    api.ok("DELETE", "/networks/team/shop")


def advertise(machine: Namespace) -> None:
    """Be a router on ens33: what it says of itself to all hosts there."""

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as router:
            wire = socket.if_nametoindex("ens33")
            router.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            router.sendto(struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0, 0, wire))

    machine.call(send)


@pytest.mark.only_pierhead("Docker's first IPv6 network takes the host's way out from it")
def test_a_host_whose_router_advertises_itself_keeps_its_way_out(api: Api, engine: Engine) -> None:
    host = engine.host

    def routed() -> bool:
        return "proto ra" in host.ip("-6", "route", "show", "default").stdout

    def heeds() -> str:
        return host.run("cat", "/proc/sys/net/ipv6/conf/ens33/accept_ra").stdout.strip()

    def learned() -> bool:
        advertise(engine.world.neighbour)
        return routed()

    wait_until(learned, "the route to the router")
    try:
        network(api, "six", EnableIPv6=True)
        assert routed(), "the host itself must not lose IPv6"
        host.ip("-6", "route", "flush", "proto", "ra")
        wait_until(learned, "the route that is advertised again")
        api.ok("DELETE", "/networks/six")
        assert heeds() == "1" and routed()
    finally:
        host.ip("-6", "route", "flush", "proto", "ra")
