"""Links: what a container calls others, on the default bridge by its hosts file, on users' networks by the resolver."""

import pytest

from tests.harness.api import Api, demultiplex
from tests.harness.engines import Engine
from tests.harness.engines import engine as started_engine
from tests.harness.processes import wait_until

APART = "containers of network bridge do not reach each other"
BRIDGED = "/proc/sys/net/bridge/bridge-nf-call-iptables"


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


def said(api: Api, container: str, *command: str) -> str:
    """What a command says in a running container."""
    body = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True}
    id = api.ok("POST", f"/containers/{container}/exec", body).json["Id"]
    stream = api.hijack(f"/exec/{id}/start", {"Detach": False, "Tty": False})
    with stream.socket:
        return b"".join(demultiplex(stream.read_all())).decode()


def hosts(api: Api, container: str) -> dict[str, str]:
    """Name to address of a container's hosts file; the first line of a name counts."""
    found: dict[str, str] = {}
    for line in said(api, container, "cat", "/etc/hosts").splitlines():
        address, *names = line.split()
        for name in names:
            found.setdefault(name, address)
    return found


def address(api: Api, container: str) -> str:
    return str(api.inspect(container)["NetworkSettings"]["IPAddress"])


def linked(*links: str, **config: object) -> dict[str, object]:
    return {"HostConfig": {"Links": list(links), **config}}


def test_a_linked_container_is_known_by_alias_hostname_and_name(api: Api) -> None:
    api.run("sleep", "1000", name="db", Hostname="dbhost")
    api.run("sleep", "1000", name="web", **linked("db:data"))
    known = hosts(api, "web")
    assert {known[name] for name in ("data", "dbhost", "db")} == {address(api, "db")}
    assert api.inspect("web")["HostConfig"]["Links"] == ["/db:/web/data"]
    names = {name for entry in api.get("/containers/json") for name in entry["Names"]}
    assert names == {"/db", "/web", "/web/data"}


def test_a_links_address_follows_the_other_containers_restart(api: Api) -> None:
    api.run("sleep", "1000", name="db")
    api.run("sleep", "1000", name="web", **linked("db:data"))
    said(api, "web", "sh", "-c", "echo '10.1.2.3 users-own' >> /etc/hosts")
    before = address(api, "db")
    api.ok("POST", "/containers/db/stop", t=0)
    api.run("sleep", "1000", name="in-between")
    api.ok("POST", "/containers/db/start")
    after = address(api, "db")
    assert after != before, "the address went to another container meanwhile"
    known = hosts(api, "web")
    assert known["data"] == known["db"] == after and known["users-own"] == "10.1.2.3"
    assert before not in known.values()


def test_a_link_tells_the_environment_what_the_other_offers(api: Api) -> None:
    exposed: dict[str, object] = {"5432/tcp": {}, "5433/tcp": {}}
    api.run("sleep", "1000", name="db", ExposedPorts=exposed, Env=["PASSWORD=x=y"])
    id = api.run("sleep", "1000", name="web", **linked("db:my-data"), Env=["MY_DATA_ENV_PASSWORD=own"])
    there = address(api, "db")
    for command in ("env", "cat /proc/1/environ | tr '\\0' '\\n'"):
        shown = said(api, id, "sh", "-c", command).splitlines()
        assert f"MY_DATA_PORT_5432_TCP=tcp://{there}:5432" in shown
        assert f"MY_DATA_PORT_5432_TCP_ADDR={there}" in shown and "MY_DATA_PORT_5432_TCP_PORT=5432" in shown
        assert f"MY_DATA_PORT=tcp://{there}:5432" in shown and "MY_DATA_PORT_5433_TCP_PROTO=tcp" in shown
        assert "MY_DATA_NAME=/web/my-data" in shown
        assert "MY_DATA_ENV_PASSWORD=own" in shown, "what the user says goes before"


@pytest.mark.only_pierhead("Debian's dockerd opens the address of the start, and not the one after a restart")
def test_a_link_opens_what_the_other_offers_where_containers_are_kept_apart(request: pytest.FixtureRequest) -> None:
    serve = "nc -ll -p 80 -e echo offered & nc -ll -p 81 -e echo hidden & exec sleep 1000"
    kind = request.config.getoption("--engine")
    with started_engine(kind, ("--icc=false",)) as machine:
        api = machine.api

        def answer(container: str, port: int) -> str:
            return said(api, container, "nc", "-w", "2", address(api, "db"), str(port)).replace("nc: timed out\n", "")

        api.run("sh", "-c", serve, name="db", ExposedPorts={"80/tcp": {}})
        api.run("sleep", "1000", name="web", **linked("db:data"))
        api.run("sleep", "1000", name="other")
        # Docker needs the host to show bridged frames to its rules.
        for bridged in ("1",) if kind == "docker" else ("0", "1"):
            machine.host.run("sh", "-c", f"echo {bridged} > {BRIDGED} || true")
            assert answer("web", 80) == "offered\n"
            assert (answer("web", 81), answer("other", 80)) == ("", "")
            for asker, port, said_so in (("web", 80, ""), ("web", 81, APART), ("other", 80, APART)):
                checked = machine.pier("network", "check", asker, f"{address(api, 'db')}:{port}")
                assert kind == "docker" or (checked.status == bool(said_so) and said_so in checked.stdout)
        before = address(api, "db")
        api.ok("POST", "/containers/db/stop", t=0)
        api.run("sleep", "1000", name="in-between")
        api.ok("POST", "/containers/db/start")
        assert address(api, "db") != before and answer("web", 80) == "offered\n"
        if kind == "pierd":
            rules = machine.host.run("nft", "list", "ruleset").check().stdout
            machine.host.run("nft", "flush", "ruleset").check()
            wait_until(lambda: machine.host.run("nft", "list", "ruleset").stdout == rules, "the rules")
            assert answer("web", 80) == "offered\n"
        api.ok("DELETE", "/containers/web/data", link=1)
        assert answer("web", 80) == ""


def test_both_containers_may_get_other_names(api: Api) -> None:
    api.run("sleep", "1000", name="db")
    api.run("sleep", "1000", name="web", **linked("db"))
    api.ok("POST", "/containers/db/rename", name="database")
    api.ok("POST", "/containers/web/rename", name="site")
    assert api.inspect("site")["HostConfig"]["Links"] == ["/database:/site/db"]


def test_a_link_can_be_ended(api: Api) -> None:
    api.run("sleep", "1000", name="db")
    api.run("sleep", "1000", name="web", **linked("db:one", "db:two"))
    api.ok("DELETE", "/containers/web/one", link=1)
    assert api.inspect("web")["HostConfig"]["Links"] == ["/db:/web/two"]
    known = hosts(api, "web")
    assert "one" not in known and known["two"] == address(api, "db")
    refused = api.send("DELETE", "/containers/web/one", link=1)
    assert (refused.status, refused.message) == (404, "No such container: web/one")
    refused = api.send("DELETE", "/containers/web", link=1)
    assert refused.status in (409, 500)
    assert refused.message == "Conflict, cannot remove the default link name of the container"
    assert api.inspect("db")["State"]["Running"] and api.inspect("web")["State"]["Running"]


def test_a_start_needs_the_linked_container(api: Api) -> None:
    api.run("sleep", "1000", name="db")
    api.create("sleep", "1000", name="web", **linked("db:data"))
    api.ok("POST", "/containers/db/stop", t=0)
    refused = api.send("POST", "/containers/web/start")
    assert (refused.status, refused.message) == (500, "Cannot link to a non running container: /db AS /web/data")
    api.ok("DELETE", "/containers/db")
    refused = api.send("POST", "/containers/web/start")
    assert refused.status == 500 and "Cannot link to a non running container: /db AS /web/data" in refused.message


@pytest.mark.only_pierhead("Docker wants the very container")
def test_a_linked_container_that_is_gone_is_not_taken_for_one_whose_id_begins_like_its_name(api: Api) -> None:
    api.create("sleep", "1000", name="db")
    web = api.create("sleep", "1000", name="web", **linked("db:data"))
    api.ok("POST", "/containers/db/rename", name=web[:8])
    api.ok("DELETE", f"/containers/{web[:8]}")
    refused = api.send("POST", "/containers/web/start")
    assert f"Cannot link to a non running container: /{web[:8]} AS /web/data" in refused.message


@pytest.mark.only_pierhead("Docker wants the very container")
def test_a_container_made_anew_under_the_name_takes_the_place(api: Api) -> None:
    api.run("sleep", "1000", name="db")
    api.create("sleep", "1000", name="web", **linked("db:data"))
    api.ok("DELETE", "/containers/db", force=1)
    api.run("sleep", "1000", name="db")
    api.ok("POST", "/containers/web/start")
    assert hosts(api, "web")["data"] == address(api, "db")
    assert api.inspect("web")["HostConfig"]["Links"] == ["/db:/web/data"]


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("nobody:x", "could not get container for nobody: No such container: nobody"),
        ("db:a:b", "bad format for links: db:a:b"),
        ("", "empty string specified for links"),
        ("on-the-host:x", "conflicting options: host type networking can't be used with links"),
    ],
)
def test_a_link_that_cannot_be_is_refused(api: Api, link: str, message: str) -> None:
    api.run("sleep", "1000", name="db")
    api.run("sleep", "1000", name="on-the-host", HostConfig={"NetworkMode": "host"})
    refused = api.send("POST", "/containers/create", {"Image": "busybox", **linked(link)}, name="web")
    assert refused.status in (400, 500) and message in refused.message
    assert {entry["Names"][0] for entry in api.get("/containers/json", all=1)} == {"/db", "/on-the-host"}


def test_a_link_out_of_the_default_bridge_is_refused(api: Api) -> None:
    api.ok("POST", "/networks/create", {"Name": "n1"})
    api.run("sleep", "1000", name="db", HostConfig={"NetworkMode": "n1"})
    api.create("sleep", "1000", name="web", **linked("db"))
    refused = api.send("POST", "/containers/web/start")
    assert refused.status == 500
    assert "Cannot link to /db, as it does not belong to the default network" in refused.message


def test_a_link_to_a_guest_is_one_to_its_host(api: Api) -> None:
    api.run("sleep", "1000", name="owner")
    api.run("sleep", "1000", name="guest", HostConfig={"NetworkMode": "container:owner"})
    api.run("sleep", "1000", name="web", **linked("guest:data"))
    assert hosts(api, "web")["data"] == address(api, "owner")


def test_on_a_users_network_a_links_alias_is_for_the_linking_container_alone(api: Api) -> None:
    api.ok("POST", "/networks/create", {"Name": "n1"})
    api.run("sleep", "1000", name="db", HostConfig={"NetworkMode": "n1"})
    api.run("sleep", "1000", name="other", HostConfig={"NetworkMode": "n1"})
    api.run(
        "sleep",
        "1000",
        name="web",
        HostConfig={"NetworkMode": "n1", "Links": ["db:data"]},
        NetworkingConfig={"EndpointsConfig": {"n1": {"Links": ["db:data"]}}},
    )

    def ping(container: str) -> str:
        return said(api, container, "ping", "-c", "1", "-W", "5", "data")

    there = api.inspect("db")["NetworkSettings"]["Networks"]["n1"]["IPAddress"]
    assert there in ping("web") and "bad address" in ping("other")
    seen = api.inspect("web")
    assert seen["HostConfig"]["Links"] is None
    assert seen["NetworkSettings"]["Networks"]["n1"]["Links"] == ["db:data"]
    api.ok("POST", "/networks/n1/disconnect", {"Container": "other"})
    api.ok("POST", "/networks/n1/connect", {"Container": "other", "EndpointConfig": {"Links": ["db:data"]}})
    assert there in ping("other"), "a link of connect holds at once"
