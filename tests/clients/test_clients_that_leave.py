"""A client that is killed, or interrupted with Ctrl-C, in the middle of anything: what goes on, and what is left."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.harness.api import demultiplex
from tests.harness.engines import Engine, Pierd
from tests.harness.images import docker_archive, tar
from tests.harness.processes import wait_until
from tests.harness.reality import settled
from tests.harness.registry import StallingRegistry, receiving_registry, stalling_registry
from tests.harness.terminal import Terminal

TALKS = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.02; done"
LAYERS = [tar({f"file{number}": os.urandom(4_000_000)}) for number in range(3)]

ends = pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM], ids=["kill-9", "SIGTERM"])


@pytest.fixture(params=["docker", "pier"])
def argv(request: pytest.FixtureRequest, engine: Engine) -> Callable[..., list[str]]:
    if request.param == "pier" and engine.kind != "pierd":
        pytest.skip("pier is tested with pierd")
    return engine.docker_argv if request.param == "docker" else engine.pier_argv


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(argv: Callable[..., list[str]], engine: Engine) -> Iterator[Start]:
    """Start a client that is to be ended by the test."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*words: str) -> "subprocess.Popen[bytes]":
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started.append(subprocess.Popen(argv(*words), env=engine.client_environment(), **pipes))  # type: ignore[call-overload]
        return started[-1]

    yield begin
    for one in started:
        one.kill()
        with suppress(BrokenPipeError):
            one.communicate(timeout=30)


def has_said(client: "subprocess.Popen[bytes]", text: bytes) -> None:
    assert client.stdout is not None
    seen = b""
    while text not in seen:
        chunk = os.read(client.stdout.fileno(), 65536)
        assert chunk, f"it ended before {text!r}: {seen!r}"
        seen += chunk


def quit(client: "subprocess.Popen[bytes]", signum: int) -> None:
    client.send_signal(signum)
    if client.stdout is not None:
        client.stdout.close()
    client.wait(30)


def numbers(engine: Engine, name: str) -> list[int]:
    return [int(line.split()[1]) for line in demultiplex(engine.api.logs(name))[0].decode().splitlines()]


def no_gap(engine: Engine, name: str) -> None:
    before = len(numbers(engine, name))
    wait_until(lambda: len(numbers(engine, name)) > before + 10, "more lines")
    found = numbers(engine, name)
    assert found == list(range(1, len(found) + 1))


def test_a_foreground_run_whose_client_is_killed_runs_on(start: Start, engine: Engine) -> None:
    client = start("run", "--name", "fore", "busybox", "sh", "-c", TALKS)
    has_said(client, b"line 5\n")
    quit(client, signal.SIGKILL)
    no_gap(engine, "fore")
    assert engine.api.inspect("fore")["State"]["Running"]
    again = start("attach", "fore")
    has_said(again, b"line ")
    quit(again, signal.SIGKILL)
    no_gap(engine, "fore")


def test_a_run_with_rm_whose_client_is_killed_is_removed_at_its_end(start: Start, engine: Engine) -> None:
    client = start("run", "--rm", "--name", "short", "-v", "/anonymous", "busybox", "sh", "-c", TALKS)
    has_said(client, b"line 5\n")
    quit(client, signal.SIGKILL)
    assert engine.api.inspect("short")["State"]["Running"]
    engine.api.ok("POST", "/containers/short/kill")
    wait_until(lambda: engine.api.send("GET", "/containers/short/json").status == 404, "its removal")
    wait_until(lambda: not engine.api.get("/volumes")["Volumes"], "the end of its volume")


def test_ctrl_c_of_a_foreground_run_reaches_the_program(start: Start, engine: Engine) -> None:
    client = start("run", "--name", "asked", "busybox", "sh", "-c", f"trap 'echo asked; exit 42' INT; {TALKS}")
    has_said(client, b"line 5\n")
    client.send_signal(signal.SIGINT)
    has_said(client, b"asked\n")
    assert client.wait(30) == 42
    assert engine.api.inspect("asked")["State"]["ExitCode"] == 42


def test_input_ends_with_the_client_that_gave_it(start: Start, engine: Engine) -> None:
    client = start("run", "-i", "--name", "cat", "busybox", "sh", "-c", "cat; echo over")
    assert client.stdin is not None
    client.stdin.write(b"half a line")
    client.stdin.flush()
    has_said(client, b"half a line")
    quit(client, signal.SIGKILL)
    assert engine.api.wait("cat") == 0
    assert demultiplex(engine.api.logs("cat"))[0] == b"half a lineover\n"


def test_a_terminal_that_is_closed_leaves_the_shell_running(argv, engine: Engine) -> None:  # type: ignore[no-untyped-def]
    with Terminal(argv("run", "-it", "--name", "shell", "busybox", "sh"), engine.client_environment()) as terminal:
        terminal.expect("# ")
        terminal.type("X=kept\r")
        terminal.expect("# ")
        terminal.process.kill()
    assert engine.api.inspect("shell")["State"]["Running"]
    with Terminal(argv("attach", "shell"), engine.client_environment()) as again:
        again.type("echo is $X\r")
        again.expect("is kept")
        again.type("exit 3\r")
        assert again.wait() == 3


@ends
def test_an_exec_whose_client_is_killed_goes_on_without_input(start: Start, engine: Engine, signum: int) -> None:
    engine.api.run("sleep", "1000", name="host")
    client = start("exec", "-i", "host", "sh", "-c", "cat; echo over > /over")
    assert client.stdin is not None
    client.stdin.write(b"hi\n")
    client.stdin.flush()
    has_said(client, b"hi\n")
    quit(client, signum)
    wait_until(lambda: "over" in engine.docker("exec", "host", "ls", "/").check().stdout, "its end of file")


def test_a_stop_whose_client_is_killed_is_carried_out(start: Start, engine: Engine) -> None:
    script = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.02; done"
    id = engine.api.run("sh", "-c", script, name="slow")
    wait_until(lambda: b"ready" in engine.api.logs(id), "its trap")
    client = start("stop", "-t", "1", "slow")
    wait_until(lambda: b"asked" in engine.api.logs(id), "the signal")
    quit(client, signal.SIGKILL)
    assert engine.api.wait(id) == 137


def test_clients_that_follow_are_let_go_of(start: Start, engine: Engine) -> None:
    engine.api.run("sh", "-c", TALKS, name="talks")
    clients = [
        start("logs", "-f", "talks"),
        start("attach", "--no-stdin", "talks"),
        start("events"),
        start("stats", "--no-trunc", "talks"),
        start("wait", "talks"),
    ]
    for client in clients[:2]:
        has_said(client, b"line ")
    for client in clients:
        quit(client, signal.SIGKILL)
    no_gap(engine, "talks")
    if isinstance(engine, Pierd):
        wait_until(lambda: not unfinished(engine), f"the end of {unfinished(engine)}")


def unfinished(engine: Engine) -> list[str]:
    jobs = engine.api.get("/pierhead/jobs")
    return [job["name"] for job in jobs if job["duration"] is None and "/pierhead/jobs" not in job["name"]]


# Images --------------------------------------------------------------------------------------------------------------


def nothing_half(engine: Engine, images: int) -> None:
    """No image, no layer, no file of what was given up."""
    if isinstance(engine, Pierd):
        assert settled(engine) == []
    wait_until(lambda: len(engine.api.get("/images/json")) == images, "as many images as before")


def test_a_load_that_breaks_off_leaves_nothing_and_can_be_repeated(start: Start, engine: Engine) -> None:
    images = len(engine.api.get("/images/json"))
    archive = docker_archive(LAYERS, ["broken:off"])
    for share in (0.1, 0.6, 0.99):
        client = start("load")
        assert client.stdin is not None
        client.stdin.write(archive[: int(len(archive) * share)])
        client.stdin.flush()
        quit(client, signal.SIGKILL)
        nothing_half(engine, images)
    assert "Loaded image: broken:off" in engine.docker("load", stdin=archive).check().stdout
    engine.docker("rmi", "broken:off").check()
    nothing_half(engine, images)


def test_a_save_whose_reader_is_gone_holds_nothing(start: Start, engine: Engine) -> None:
    engine.docker("load", stdin=docker_archive(LAYERS, ["to:save"])).check()
    images = len(engine.api.get("/images/json"))
    client = start("save", "to:save")
    assert client.stdout is not None
    os.read(client.stdout.fileno(), 10)
    quit(client, signal.SIGKILL)
    nothing_half(engine, images)
    engine.docker("rmi", "to:save").check()


@pytest.fixture
def stalling(engine: Engine) -> Iterator[StallingRegistry]:
    with stalling_registry(engine.host, LAYERS) as made:
        yield made


@ends
@pytest.mark.parametrize("command", [("pull",), ("run", "--rm")], ids=["pull", "run"])
def test_a_pull_that_is_given_up_leaves_nothing_and_can_be_repeated(
    start: Start, engine: Engine, stalling: StallingRegistry, command: tuple[str, ...], signum: int
) -> None:
    images = len(engine.api.get("/images/json"))
    client = start(*command, stalling.image)
    assert stalling.stalled.wait(60)
    quit(client, signum)
    nothing_half(engine, images)
    assert engine.api.get("/containers/json", all=1) == []
    stalling.go.set()
    assert "Downloaded newer image" in engine.docker("pull", stalling.image).check().stdout
    engine.docker("rmi", stalling.image).check()
    nothing_half(engine, images)


@ends
def test_a_push_that_is_given_up_ends_its_uploads_at_the_registry(start: Start, engine: Engine, signum: int) -> None:
    name = "127.0.0.1:5000/app:1"
    # One layer: of several, one might be left whose upload had begun at the registry and not been answered yet.
    engine.docker("load", stdin=docker_archive(LAYERS[:1], [name])).check()
    images = len(engine.api.get("/images/json"))
    with receiving_registry(engine.host) as registry:
        client = start("push", name)
        assert registry.stalled.wait(60)
        quit(client, signum)
        if engine.kind == "pierd":
            wait_until(lambda: registry.ended == ["/v2/app/blobs/uploads/1"], "the end of the upload")
        nothing_half(engine, images)
    engine.docker("rmi", name).check()
