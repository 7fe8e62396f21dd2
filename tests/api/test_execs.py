"""Commands run in a running container: their output, exit code, user, environment and terminal."""

import socket

import pytest

from tests.harness.api import Api, demultiplex
from tests.harness.engines import Engine
from tests.harness.hands import Background
from tests.harness.processes import wait_until


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


@pytest.fixture
def container(api: Api) -> str:
    return api.run("sleep", "1000")


def prepared(api: Api, container: str, *command: str, **config: object) -> str:
    body = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True, **config}
    return str(api.ok("POST", f"/containers/{container}/exec", body).json["Id"])


def started(api: Api, exec_id: str, **config: object) -> tuple[bytes, bytes]:
    return demultiplex(api.ok("POST", f"/exec/{exec_id}/start", {"Detach": False, **config}).body)


def test_output_streams_and_exit_code_arrive(api: Api, container: str) -> None:
    id = prepared(api, container, "sh", "-c", "echo out; echo err >&2; exit 6")
    before = api.get(f"/exec/{id}/json")
    assert not before["Running"] and before["ExitCode"] is None and before["ContainerID"] == container
    assert before["ProcessConfig"]["entrypoint"] == "sh"
    assert started(api, id) == (b"out\n", b"err\n")
    wait_until(lambda: not api.get(f"/exec/{id}/json")["Running"], "the end")
    assert api.get(f"/exec/{id}/json")["ExitCode"] == 6


def test_it_runs_in_the_containers_namespaces_as_asked(api: Api, container: str) -> None:
    script = "id -u; id -g; pwd; echo $X; hostname; cat /etc/os-release"
    id = prepared(api, container, "sh", "-c", script, User="33:10", WorkingDir="/tmp", Env=["X=from exec"])
    out = started(api, id)[0].decode().splitlines()
    assert out[:5] == ["33", "10", "/tmp", "from exec", api.inspect(container)["Config"]["Hostname"]]
    assert "Pierhead test image" in out[5]


def test_it_inherits_the_containers_environment(api: Api) -> None:
    container = api.run("sleep", "1000", Env=["Y=of the container"])
    assert b"Y=of the container" in started(api, prepared(api, container, "env"))[0]


def test_stdin_is_read_until_it_is_half_closed(api: Api, container: str) -> None:
    id = prepared(api, container, "cat", AttachStdin=True)
    stream = api.hijack(f"/exec/{id}/start", {"Detach": False})
    with stream.socket:
        assert stream.status == 101
        stream.socket.sendall(b"through\n")
        stream.socket.shutdown(socket.SHUT_WR)
        assert demultiplex(stream.read_all())[0] == b"through\n"


def test_a_terminal_is_raw_and_has_a_size(api: Api, container: str) -> None:
    id = prepared(api, container, "sh", "-c", "read x; stty size", AttachStdin=True, Tty=True)
    stream = api.hijack(f"/exec/{id}/start", {"Detach": False, "Tty": True})
    with stream.socket:
        api.ok("POST", f"/exec/{id}/resize", h=17, w=71)
        stream.socket.sendall(b"\r")
        assert b"17 71\r\n" in stream.read_all()


def test_detached_it_goes_on_alone(api: Api, container: str) -> None:
    id = prepared(api, container, "sh", "-c", "echo done > /tmp/done")
    assert api.ok("POST", f"/exec/{id}/start", {"Detach": True}).body == b""
    wait_until(lambda: api.get(f"/exec/{id}/json")["ExitCode"] == 0, "its end")
    assert started(api, prepared(api, container, "cat", "/tmp/done"))[0] == b"done\n"


def test_what_cannot_be_executed_is_said(api: Api, container: str) -> None:
    missing = api.send("POST", f"/exec/{prepared(api, container, 'nosuchprogram')}/start", {"Detach": False})
    text = missing.body.decode(errors="replace")
    assert "executable file not found in $PATH" in text
    unknown = api.send("POST", "/exec/0123456789abcdef/start", {"Detach": False})
    assert (unknown.status, unknown.message) == (404, "No such exec instance: 0123456789abcdef")
    nothing = api.send("POST", f"/containers/{container}/exec", {"Cmd": []})
    assert (nothing.status, nothing.message) == (400, "No exec command specified")
    id = prepared(api, container, "true")
    started(api, id)
    again = api.send("POST", f"/exec/{id}/start", {"Detach": False})
    assert again.status in (404, 409) or b"has already run" in again.body


def test_it_ends_with_its_container(api: Api, container: str) -> None:
    id = prepared(api, container, "sleep", "1000")
    api.ok("POST", f"/exec/{id}/start", {"Detach": True})
    wait_until(lambda: api.get(f"/exec/{id}/json")["Running"], "the start")
    assert id in api.inspect(container)["ExecIDs"]
    api.ok("POST", f"/containers/{container}/stop", t=0)
    seen = api.send("GET", f"/exec/{id}/json")
    assert seen.status == 404 or not seen.json["Running"]


def test_many_at_once_do_not_mix_their_output(api: Api, container: str) -> None:
    running = [
        Background(
            lambda number=number: started(api, prepared(api, container, "sh", "-c", f"seq {number}000 {number}999"))
        )
        for number in range(1, 9)
    ]
    for number, work in enumerate(running, 1):
        expected = "".join(f"{line}\n" for line in range(number * 1000, number * 1000 + 1000))
        assert work.finish() == (expected.encode(), b"")
