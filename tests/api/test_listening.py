"""Containers in the host's network: Docker's fields show no port; pier shows those that really listen."""

import json

import pytest

from tests.harness.engines import Engine
from tests.harness.processes import wait_until

pytestmark = pytest.mark.only_pierhead("an extension of ours")


def ports_shown(engine: Engine, name: str) -> str:
    """The PORTS column of pier ps."""
    return engine.pier("ps", "--filter", f"name={name}", "--format", "{{.Ports}}").check().stdout.strip()


def test_ports_that_listen_on_the_host_are_shown(engine: Engine) -> None:
    engine.pier("run", "-d", "--network", "host", "-p", "8083:8080", "--name", "web", "web").check()
    wait_until(lambda: ports_shown(engine, "web"), "the server")
    assert ports_shown(engine, "web") == "[::]:8080/tcp"
    for asked in ("table {{.Names}}\t{{.Ports}}", "json"):
        assert "[::]:8080/tcp" in engine.pier("ps", "--format", asked).check().stdout
    assert "[::]:8080/tcp" in engine.pier("ps").check().stdout
    [listed] = engine.api.get("/containers/json")
    assert listed["Ports"] == [] and engine.api.inspect("web")["NetworkSettings"]["Ports"] == {}
    drawn = json.loads(engine.pier("network", "map", "--format", "json").check().stdout)
    assert "8080" in json.dumps(drawn), "the map shows it too"


def test_only_its_own_ports_are_a_containers(engine: Engine) -> None:
    engine.api.run(image="web", name="web", HostConfig={"NetworkMode": "host"})
    engine.api.run("sleep", "1000", name="idle", HostConfig={"NetworkMode": "host"})
    engine.api.run("httpd", "-f", "-p", "127.0.0.1:8090", name="guest", HostConfig={"NetworkMode": "container:idle"})
    engine.api.run(image="web", name="bridged")
    wait_until(lambda: ports_shown(engine, "guest") and ports_shown(engine, "^web"), "the servers")
    assert ports_shown(engine, "idle") == ""
    assert ports_shown(engine, "guest") == "127.0.0.1:8090/tcp"
    assert ports_shown(engine, "bridged") == "8080/tcp", "exposed, as ever"
    engine.api.ok("POST", "/containers/web/stop", t=0)
    assert ports_shown(engine, "^web") == ""
