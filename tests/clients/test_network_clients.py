"""Every network command and flag by the real docker client and by pier, and the same by docker-py."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest
from docker.errors import APIError
from docker.types import IPAMConfig, IPAMPool

from tests.harness.engines import Engine
from tests.harness.processes import Output

Client = Callable[..., Output]
pytestmark = pytest.mark.needs_client28


@pytest.fixture(params=["docker", "pier"])
def client(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Client]:
    if request.param == "pier" and engine.kind != "pierd":
        pytest.skip("pier is tested with pierd")
    yield engine.docker if request.param == "docker" else engine.pier


def inspected(client: Client, *words: str) -> Any:
    return json.loads(client(*words).check().stdout)[0]


def endpoint(client: Client, container: str, network: str) -> Any:
    return inspected(client, "inspect", container)["NetworkSettings"]["Networks"][network]


def run(client: Client, name: str, *flags: str) -> None:
    client("run", "-d", "--name", name, *flags, "busybox", "sleep", "1000").check()


# The commands --------------------------------------------------------------------------------------------------------


@pytest.mark.needs_docker28("--ipv4 and IPv6 pools")
def test_create_takes_every_flag(client: Client) -> None:
    words = "network create --driver bridge --subnet 10.231.0.0/16 --gateway 10.231.0.254 --ip-range 10.231.7.0/24 "
    words += "--aux-address router=10.231.7.1 --subnet fd00:231::/64 --gateway fd00:231::9 --ipv6 --internal "
    words += "--attachable --label a=b --label c -o com.docker.network.driver.mtu=1400 all"
    client(*words.split()).check()
    seen = inspected(client, "network", "inspect", "all")
    assert seen["IPAM"]["Config"] == [
        {
            "Subnet": "10.231.0.0/16",
            "IPRange": "10.231.7.0/24",
            "Gateway": "10.231.0.254",
            "AuxiliaryAddresses": {"router": "10.231.7.1"},
        },
        {"Subnet": "fd00:231::/64", "Gateway": "fd00:231::9"},
    ]
    assert seen["Internal"] and seen["Attachable"] and seen["EnableIPv6"] and seen["EnableIPv4"]
    assert seen["Labels"] == {"a": "b", "c": ""} and seen["Options"] == {"com.docker.network.driver.mtu": "1400"}
    run(client, "one", "--network", "all")
    given = endpoint(client, "one", "all")
    assert given["IPAddress"] == "10.231.7.0" or given["IPAddress"].startswith("10.231.7.")
    assert given["IPAddress"] != "10.231.7.1" and given["GlobalIPv6Address"].startswith("fd00:231::")
    client("network", "create", "--ipv4=false", "--ipv6", "six").check()
    six = inspected(client, "network", "inspect", "six")
    assert not six["EnableIPv4"] and [":" in config["Subnet"] for config in six["IPAM"]["Config"]] == [True]
    run(client, "two", "--network", "six")
    assert endpoint(client, "two", "six")["IPAddress"] == "" != endpoint(client, "two", "six")["GlobalIPv6Address"]


def test_configurations_by_the_client(client: Client) -> None:
    client("network", "create", "--config-only", "--subnet", "10.232.0.0/24", "--label", "a=b", "conf").check()
    client("network", "create", "--config-from", "conf", "made").check()
    assert client("network", "ls", "--filter", "name=conf", "--format", "{{.Driver}} {{.Scope}}").lines == [
        "null local"
    ]
    assert inspected(client, "network", "inspect", "made")["IPAM"]["Config"][0]["Subnet"] == "10.232.0.0/24"
    refused = client("network", "rm", "conf")
    assert refused.status == 1 and 'configuration network "conf" is in use' in refused.stderr
    refused = client("run", "--rm", "--network", "conf", "busybox", "true")
    assert refused.status == 125 and "cannot create endpoint on configuration-only network" in refused.stderr
    client("network", "rm", "made", "conf").check()


def test_lists_are_filtered_and_formatted(client: Client) -> None:
    for name, flags in {"net2": ["--label", "k=v"], "net10": ["--internal"], "other": ["--label", "k=w"]}.items():
        client("network", "create", *flags, name).check()
    run(client, "in-net2", "--network", "net2")

    def names(*filters: str) -> list[str]:
        words = [word for text in filters for word in ("--filter", text)]
        return client("network", "ls", *words, "--format", "{{.Name}}").lines

    assert names("name=net") == ["net2", "net10"], "as people count"
    assert names("label=k") == ["net2", "other"] and names("label=k=w") == ["other"]
    assert names("driver=host", "driver=null") == ["host", "none"] and names("type=builtin") == [
        "bridge",
        "host",
        "none",
    ]
    assert names("scope=local", "name=other") == ["other"] and names("scope=swarm") == []
    id = client("network", "inspect", "-f", "{{.Id}}", "other").lines[0]
    assert names(f"id={id[:8]}") == ["other"]
    shown = client("network", "ls", "--filter", "name=net10", "--format", "{{.Internal}} {{.IPv6}} {{.Driver}}").lines
    assert shown == ["true false bridge"]
    assert client("network", "ls", "--filter", "name=net10", "--format", "json").check().stdout.count("\n") == 1
    refused = client("network", "ls", "--filter", "nonsense=x")
    assert refused.status == 1 and "nonsense" in refused.stderr


@pytest.mark.only_pierhead("20.10's list does not look at who is joined")
def test_a_network_that_nobody_is_in_is_dangling(client: Client) -> None:
    for name in ("used", "unused"):
        client("network", "create", name).check()
    run(client, "in-used", "--network", "used")
    for value, names in {"true": ["unused"], "1": ["unused"], "false": ["bridge", "host", "none", "used"]}.items():
        assert client("network", "ls", "--filter", f"dangling={value}", "--format", "{{.Name}}").lines == names
    refused = client("network", "ls", "--filter", "dangling=perhaps")
    assert refused.status == 1 and "invalid value for filter 'dangling', must be" in refused.stderr


def test_inspect_of_several_in_every_form(client: Client) -> None:
    client("network", "create", "--subnet", "10.233.0.0/24", "a").check()
    run(client, "in-a", "--network", "a")
    found = json.loads(client("network", "inspect", "-v", "a", "bridge").check().stdout)
    assert [network["Name"] for network in found] == ["a", "bridge"]
    form = "{{.Name}} {{range .IPAM.Config}}{{.Subnet}}{{end}} {{range .Containers}}{{.Name}}={{.IPv4Address}}{{end}}"
    assert client("network", "inspect", "--format", form, "a").lines == ["a 10.233.0.0/24 in-a=10.233.0.2/24"]
    missing = client("network", "inspect", "a", "nothing")
    assert missing.status == 1 and "network nothing not found" in missing.stderr
    assert json.loads(missing.stdout)[0]["Name"] == "a"


def test_several_are_removed_and_the_unused_pruned(client: Client) -> None:
    for name in "abcd":
        client("network", "create", "--label", f"is={name}", name).check()
    run(client, "in-a", "--network", "a")
    done = client("network", "rm", "a", "b", "nothing", "c")
    assert done.status == 1 and done.lines == ["b", "c"]
    assert "has active endpoints" in done.stderr and "network nothing not found" in done.stderr
    assert client("network", "rm", "-f", "nothing").status == 0
    assert "bridge is a pre-defined network and cannot be removed" in client("network", "rm", "bridge").stderr
    assert client("network", "prune", "-f", "--filter", "label=is=x").check().stdout == ""
    assert client("network", "prune", "-f", "--filter", "label=is=d").lines[:2] == ["Deleted Networks:", "d"]


@pytest.mark.needs_docker28("--gw-priority")
def test_connect_takes_every_flag_and_disconnect_undoes_it(client: Client) -> None:
    client("network", "create", "--subnet", "10.234.0.0/24", "--subnet", "fd00:234::/64", "--ipv6", "a").check()
    run(client, "db", "--network", "a")
    run(client, "web")
    words = "network connect --ip 10.234.0.9 --ip6 fd00:234::9 --alias site --alias www --link db:data "
    words += "--link-local-ip 169.254.9.9 --driver-opt k=v --gw-priority 3 a web"
    client(*words.split()).check()
    given = endpoint(client, "web", "a")
    assert given["IPAddress"] == "10.234.0.9" and given["GlobalIPv6Address"] == "fd00:234::9"
    assert given["Aliases"] == ["site", "www"] and given["Links"] == ["db:data"]
    assert given["DriverOpts"] == {"k": "v"} and given["GwPriority"] == 3
    shown = client("exec", "web", "ip", "-o", "addr", "show", "dev", "eth1").check().stdout
    assert all(text in shown for text in ("10.234.0.9/24", "fd00:234::9/64", "169.254.9.9/16"))
    assert "via 10.234.0.1" in client("exec", "web", "ip", "route", "show", "default").check().stdout
    assert "1 packets received" in client("exec", "web", "ping", "-c", "1", "-W", "5", "data").stdout
    assert "1 packets received" in client("exec", "db", "ping", "-c", "1", "-W", "5", "site").stdout
    twice = client("network", "connect", "a", "web")
    assert twice.status == 1 and "endpoint with name web already exists in network a" in twice.stderr
    client("network", "disconnect", "-f", "a", "web").check()
    assert "eth1" not in client("exec", "web", "ip", "-o", "link").check().stdout
    gone = client("network", "disconnect", "a", "web")
    assert gone.status == 1 and "is not connected to network a" in gone.stderr


# run and create ------------------------------------------------------------------------------------------------------


@pytest.mark.needs_docker28("several networks at creation")
def test_run_takes_networks_in_their_long_form(client: Client) -> None:
    client("network", "create", "--subnet", "10.235.0.0/24", "--subnet", "fd00:235::/64", "--ipv6", "a").check()
    client("network", "create", "--subnet", "10.236.0.0/24", "b").check()
    long = "name=b,alias=x,alias=y,ip=10.236.0.7,mac-address=02:42:0a:ec:00:07,gw-priority=1,link-local-ip=169.254.1.7,"
    long += "driver-opt=k=v"
    run(client, "both", "--network", "name=a,ip=10.235.0.8,ip6=fd00:235::8", "--network", long, "--network-alias", "z")
    first, second = endpoint(client, "both", "a"), endpoint(client, "both", "b")
    assert (first["IPAddress"], first["GlobalIPv6Address"], first["Aliases"]) == ("10.235.0.8", "fd00:235::8", ["z"])
    assert (second["IPAddress"], second["MacAddress"], second["Aliases"]) == (
        "10.236.0.7",
        "02:42:0a:ec:00:07",
        ["x", "y"],
    )
    assert second["DriverOpts"] == {"k": "v"} and second["GwPriority"] == 1
    assert "via 10.236.0.1" in client("exec", "both", "ip", "route", "show", "default").check().stdout
    client("restart", "-t", "0", "both").check()
    assert endpoint(client, "both", "b")["MacAddress"] == "02:42:0a:ec:00:07"


@pytest.mark.needs_docker28("several networks at creation")
def test_the_old_flags_speak_of_the_first_network(client: Client) -> None:
    client("network", "create", "--subnet", "10.235.0.0/24", "a").check()
    client("network", "create", "--subnet", "10.236.0.0/24", "b").check()
    flags = "--network a --network b --ip 10.235.0.9 --network-alias first --mac-address 02:42:0a:eb:00:09 -h me"
    run(client, "both", *flags.split(), "--domainname", "example.org", "--add-host", "here=10.1.1.1")
    first, second = endpoint(client, "both", "a"), endpoint(client, "both", "b")
    assert (first["IPAddress"], first["MacAddress"], first["Aliases"]) == ("10.235.0.9", "02:42:0a:eb:00:09", ["first"])
    assert second["IPAddress"] == "10.236.0.2" and second["Aliases"] is None
    hosts = client("exec", "both", "cat", "/etc/hosts").check().lines
    assert {"10.1.1.1\there", "10.235.0.9\tme.example.org me", "10.236.0.2\tme.example.org me"} <= set(hosts)


REFUSALS = [
    ("--network a --ip 10.9.9.9", 125, "no configured subnet or ip-range contain the IP address 10.9.9.9"),
    ("--network auto --ip 10.9.9.9", 125, "only when connecting to networks with user configured subnets"),
    ("--ip 172.17.0.9", 125, "user specified IP address is supported on user defined networks only"),
    ("--network a --network host", 125, "cannot attach both user-defined and non-user-defined network-modes"),
    ("--network a --network a", 125, 'network "a" is specified multiple times'),
    ("--network container:first -p 80:80", 125, "port publishing and the container type network mode"),
    ("--network container:first --hostname x", 125, "conflicting options: hostname and the network mode"),
    ("--network container:first --link first:x", 125, "container type network can't be used with links"),
    ("--network host --link first:x", 125, "host type networking can't be used with links"),
    ("--network nothing", 125, "network nothing not found"),
    ("--link nobody:x", 125, "could not get container for nobody: No such container: nobody"),
    ("--network name=a,mac-address=x", 125, "x is not a valid mac address"),
    ("--network name=a,nonsense=x", 125, "invalid field key nonsense"),
]


@pytest.mark.needs_docker28("what is asked of an endpoint is checked at creation")
@pytest.mark.parametrize(("flags", "status", "message"), REFUSALS, ids=lambda value: str(value)[:40])
def test_run_refuses_in_dockers_words(client: Client, flags: str, status: int, message: str) -> None:
    client("network", "create", "--subnet", "10.237.0.0/24", "a").check()
    client("network", "create", "auto").check()
    run(client, "first")
    refused = client("run", "--rm", "--name", "refused", *flags.split(), "busybox", "true")
    assert refused.status == status and message in refused.stderr
    left = client("ps", "-a", "--format", "{{.Names}} {{.Status}}").lines
    assert all(line.startswith("first ") or line == "refused Created" for line in left)


CREATES = [
    ("create bridge", "operation is not permitted on predefined bridge network"),
    ("create --driver nothing x", 'plugin "nothing" not found'),
    ("create --subnet 10.237.0.0/25 x", "Pool overlaps with other one on this address space"),
    ("create --subnet 10.238.0.9/24 x", "invalid subnet 10.238.0.9/24: it should be 10.238.0.0/24"),
    ("create --subnet 10.238.0.0/24 --gateway 10.238.0.255 x", "failed to allocate gateway (10.238.0.255)"),
    ("create --ipv4=false x", "IPv4 or IPv6 must be enabled"),
    ("create a", "network with name a already exists"),
    ("create --config-from nothing x", 'configuration network "nothing" does not exist'),
    ("create --ipam-driver nothing x", 'plugin "nothing" not found'),
    ("connect nothing first", "network nothing not found"),
    ("connect a nobody", "No such container: nobody"),
    ("connect host first", "cannot connect container to host network"),
    ("connect --ip 10.237.0.1 a first", "Address already in use"),
    ("connect --ip 10.9.9.9 a first", "no configured subnet or ip-range contain the IP address 10.9.9.9"),
    ("disconnect a first", "is not connected to network a"),
]


@pytest.mark.needs_docker28("its words")
@pytest.mark.parametrize(("words", "message"), CREATES, ids=lambda value: str(value)[:40])
def test_network_commands_refuse_in_dockers_words(client: Client, words: str, message: str) -> None:
    client("network", "create", "--subnet", "10.237.0.0/24", "a").check()
    run(client, "first")
    refused = client("network", *words.split())
    assert refused.status == 1 and message in refused.stderr
    assert client("network", "ls", "-q", "--filter", "type=custom").lines.__len__() == 1


# docker-py -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(engine: Engine) -> Iterator[Any]:
    made = docker.DockerClient(f"unix://{engine.socket}", version="auto", timeout=60)
    yield made
    made.close()


def test_a_program_makes_networks_with_pools(program: Any) -> None:
    pool = IPAMPool("10.239.0.0/16", iprange="10.239.5.0/24", gateway="10.239.0.1", aux_addresses={"r": "10.239.5.1"})
    network = program.networks.create("own", ipam=IPAMConfig(pool_configs=[pool]), internal=True, labels={"a": "b"})
    assert network.attrs["IPAM"]["Config"][0]["AuxiliaryAddresses"] == {"r": "10.239.5.1"}
    assert [one.name for one in program.networks.list(names=["own"], greedy=True)] == ["own"]
    with pytest.raises(APIError, match="Pool overlaps"):
        program.networks.create("twice", ipam=IPAMConfig(pool_configs=[IPAMPool("10.239.0.0/24")]))
    container = program.containers.create("busybox", ["sleep", "1000"], network="own")
    network.connect(program.containers.create("busybox", ["sleep", "9"]), ipv4_address="10.239.5.9", aliases=["nine"])
    container.start()
    container.reload()
    assert container.attrs["NetworkSettings"]["Networks"]["own"]["IPAddress"].startswith("10.239.5.")
    network.disconnect(container, force=True)
    assert program.networks.prune(filters={"label": "a=c"})["NetworksDeleted"] is None
    assert program.networks.prune(filters={"label": "a=b"})["NetworksDeleted"] == ["own"]


def test_a_program_runs_with_endpoint_settings(program: Any) -> None:
    pool = IPAMPool("10.240.0.0/24")
    program.networks.create("own", ipam=IPAMConfig(pool_configs=[pool]))
    program.containers.run("busybox", ["sleep", "1000"], name="db", network="own", detach=True)
    settings = program.api.create_endpoint_config(ipv4_address="10.240.0.9", aliases=["a", "b"], links={"db": "data"})
    container = program.containers.run(
        "busybox", ["sleep", "1000"], detach=True, network="own", networking_config={"own": settings}
    )
    container.reload()
    seen = container.attrs["NetworkSettings"]["Networks"]["own"]
    assert seen["IPAddress"] == "10.240.0.9" and {"a", "b"} <= set(seen["Aliases"]) and seen["Links"] == ["db:data"]
    assert container.exec_run(["ping", "-c", "1", "-W", "5", "data"]).exit_code == 0
    with pytest.raises(APIError, match="Address already in use"):
        program.containers.run("busybox", ["true"], network="own", networking_config={"own": settings})
