"""Published ports through the clients: what -p and --expose may say, and what docker, pier and docker-py are shown."""

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from tests.harness.echo import ask, server
from tests.harness.engines import PIER, Engine, docker_client

WRONG = [
    *(("-p", spec) for spec in ("x", "80-70", "70000", "1:2:3", "127.0.0.1:80", "[::1]:80", "[::1:80", ":::80", "")),
    *(("-p", spec) for spec in ("8000-8001:80-82", "1.2.3.4:80:70-72", "80/icmp", "8080:", ":8080:", "nowhere:80:80")),
    *(("-p", spec) for spec in ("fe80::1%eth0:80:80", "8080:80:90:100", "a:80", "8080:x", "-1:80", "８０")),
    *(("-p", spec) for spec in ("published=80", "target=x", "target=80,published=x", "target=80,protocol=icmp")),
    *(("--expose", spec) for spec in ("x", "80:90", "70-60", "", "/tcp", "70000", "70-x", "70-70000")),
]


@pytest.mark.needs_client28
@pytest.mark.parametrize(("flag", "spec"), WRONG)
def test_a_specification_that_is_none_is_refused_as_docker_refuses_it(flag: str, spec: str) -> None:
    environment = {**os.environ, "DOCKER_HOST": "unix:///nowhere.sock"}
    said = []
    for program in (docker_client(), str(PIER)):
        command = [program, "create", flag, spec, "busybox"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        said.append((done.returncode, done.stderr.partition(": ")[2].split("\n")[0]))
    assert said[0] == said[1] and said[0][0] == 125


def test_ports_are_shown_alike(engine: Engine) -> None:
    made = {
        "one": ["-p", "8080:80"],
        "ip": ["-p", "127.0.0.1:8081:80", "-p", "[::1]:8082:80"],
        "range": ["-p", "9000-9010:9000-9010/udp", "-p", "9100-9101:9200-9201"],
        "many": ["-p", "8083:80", "-p", "8084:80", "--expose", "70-71", "--expose", "72/udp"],
        "any": ["-p", "127.0.0.1:8090-8099:80", "--expose", "90"],
    }
    for name, flags in made.items():
        engine.docker("run", "-d", "--name", name, *flags, "busybox", "sleep", "1000").check()
    for words in (
        ["ps", "--format", "{{.Names}} {{.Ports}}"],
        *(["port", name] for name in made),
        ["port", "one", "80"],
    ):
        assert engine.pier(*words).check().stdout == engine.docker(*words).check().stdout != "", words
    for words in (["port", "one", "81"], ["port", "one", "80/udp"], ["port", "nobody"]):
        ours, theirs = engine.pier(*words), engine.docker(*words)
        assert (ours.status, ours.stderr) == (theirs.status, theirs.stderr) and theirs.status == 1, words


@pytest.fixture
def client(engine: Engine) -> Iterator[Any]:
    made = docker.DockerClient(f"unix://{engine.socket}", version="auto", timeout=60)
    yield made
    made.close()


def test_docker_py_publishes_in_every_form_it_has(client: Any, engine: Engine) -> None:
    forms = {
        "80/tcp": None,
        "81": 8081,
        "82/udp": ("127.0.0.1", 8082),
        "83/tcp": [8083, ("127.0.0.1", 8084)],
        "84/tcp": ("127.0.0.1",),
    }
    web = client.containers.run("busybox", ["sleep", "1000"], detach=True, ports=forms)
    web.reload()
    found = {
        key: sorted({(pair["HostIp"], pair["HostPort"]) for pair in pairs if pair["HostIp"] != "::"})
        for key, pairs in web.ports.items()
    }
    assert found["81/tcp"] == [("0.0.0.0", "8081")] and found["82/udp"] == [("127.0.0.1", "8082")]
    assert found["83/tcp"] == [("0.0.0.0", "8083"), ("127.0.0.1", "8084")]
    assert [ip for ip, _ in found["80/tcp"]] == ["0.0.0.0"] and [ip for ip, _ in found["84/tcp"]] == ["127.0.0.1"]
    netns = f"/proc/{web.attrs['State']['Pid']}/ns/net"
    for port in (80, 83):
        with server(netns, port, name="web"):
            for _, number in found[f"{port}/tcp"]:
                assert ask(engine.host.path, "127.0.0.1", int(number)).startswith("web")
    everything = client.containers.run("web", detach=True, publish_all_ports=True)
    everything.reload()
    assert int(everything.ports["8080/tcp"][0]["HostPort"]) >= 1024
