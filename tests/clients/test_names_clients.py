"""Names in the words of a user: what docker and pier make of --network-alias, --link, --dns and both families."""

from collections.abc import Iterator

import pytest

from tests.harness.engines import Engine
from tests.harness.naming import OUTSIDE, NameServer, asker, name_server
from tests.harness.processes import Output

NEIGHBOUR = "192.0.2.20"


@pytest.fixture(scope="module")
def outside(shared_engine: Engine) -> Iterator[NameServer]:
    with name_server(shared_engine.world.neighbour.path, NEIGHBOUR) as served:
        yield served


class Client:
    """docker or pier."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.program = getattr(engine, name)

    def say(self, *words: str) -> Output:
        said: Output = self.program(*words, timeout=120)
        assert said.status == 0, said.stderr
        return said

    def run(self, name: str, *words: str) -> str:
        """A container that sleeps on network n1; its id."""
        said = self.say(
            "run", "-d", "--name", name, "--network", "n1", "--dns", NEIGHBOUR, *words, "busybox", "sleep", "1000"
        )
        return said.stdout.strip()

    def inspect(self, name: str, template: str) -> str:
        return self.say("inspect", "-f", template, name).stdout.strip()


@pytest.fixture(params=["docker", "pier"])
def client(request: pytest.FixtureRequest, engine: Engine, outside: NameServer) -> Client:
    if request.param == "docker":
        request.getfixturevalue("docker")
    elif engine.kind != "pierd":
        pytest.skip("pier speaks a newer API than Debian's dockerd")
    return Client(engine, request.param)


ADDRESS = '{{(index .NetworkSettings.Networks "n1").IPAddress}}'
ADDRESS6 = '{{(index .NetworkSettings.Networks "n1").GlobalIPv6Address}}'


def test_containers_find_each_other_over_both_families(client: Client) -> None:
    client.say("network", "create", "--ipv6", "--subnet", "10.221.0.0/24", "--subnet", "fd00:221::/64", "n1")
    client.run("server", "--network-alias", "db")
    here = asker(client.engine.api, client.run("asker"))
    assert here.addresses("db") == here.addresses("server.n1") == [client.inspect("server", ADDRESS)]
    assert here.addresses("db", "AAAA") == [client.inspect("server", ADDRESS6)]
    for family, address in (("-4", ADDRESS), ("-6", ADDRESS6)):
        said = client.say("exec", "asker", "ping", family, "-c", "1", "-W", "10", "server").stdout
        assert client.inspect("server", address) in said and "1 packets received" in said


def test_a_link_is_a_name_on_a_users_network(client: Client) -> None:
    client.say("network", "create", "n1")
    client.run("postgres")
    other = client.run("other")
    linking = client.run("linking", "--link", "postgres:db", "--link", "other")
    api = client.engine.api
    assert asker(api, linking).addresses("db") == [client.inspect("postgres", ADDRESS)]
    assert asker(api, linking).addresses("other") == [client.inspect("other", ADDRESS)]
    assert asker(api, other).addresses("db") == []
    assert (
        client.inspect("postgres", ADDRESS) in client.say("exec", "linking", "ping", "-c", "1", "-W", "10", "db").stdout
    )


def test_settings_of_names_are_those_of_the_command_line(client: Client) -> None:
    client.say("network", "create", "n1")
    client.run("asker", "--dns-search", "example.com", "--dns-option", "ndots:1", "--hostname", "me")
    said = client.say("exec", "asker", "cat", "/etc/resolv.conf").stdout
    assert {"nameserver 127.0.0.11", "search example.com", "options ndots:1"} <= set(said.splitlines())
    assert OUTSIDE in client.say("exec", "asker", "nslookup", "www.example.com").stdout
    assert asker(client.engine.api, "asker").addresses("www.example.com") == [OUTSIDE]
    assert f"PING www ({OUTSIDE})" in client.say("exec", "asker", "sh", "-c", "ping -c 1 -W 1 www || true").stdout


def test_a_network_is_joined_with_an_alias_and_left(client: Client) -> None:
    client.say("network", "create", "n1")
    here = asker(client.engine.api, client.run("asker"))
    client.say("run", "-d", "--name", "late", "busybox", "sleep", "1000")
    client.say("network", "connect", "--alias", "also", "n1", "late")
    assert here.addresses("also") == here.addresses("late") == [client.inspect("late", ADDRESS)]
    client.say("network", "disconnect", "n1", "late")
    assert here.addresses("also") == []
