"""What a person or a pipe sees of a container through the docker client: terminals, stdin, output, detaching."""

import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.harness.api import UnixConnection, demultiplex
from tests.harness.engines import Engine
from tests.harness.processes import wait_until
from tests.harness.terminal import Terminal

DETACH = b"\x10\x11"
"""Ctrl-P Ctrl-Q."""


@pytest.fixture(params=["docker", "pier"])
def argv(request: pytest.FixtureRequest, engine: Engine) -> Iterator[object]:
    if request.param == "pier" and engine.kind != "pierd":
        pytest.skip("pier is tested with pierd")
    yield engine.docker_argv if request.param == "docker" else engine.pier_argv


@pytest.fixture
def at_terminal(argv, engine: Engine):  # type: ignore[no-untyped-def]
    """Open a client on a terminal."""
    opened: list[Terminal] = []

    def start(*words: str, rows: int = 24, columns: int = 80) -> Terminal:
        opened.append(Terminal(argv(*words), engine.client_environment(), rows, columns))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


def said(argv, engine: Engine, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:  # type: ignore[no-untyped-def]
    return subprocess.run(
        argv(*words), input=stdin, capture_output=True, env=engine.client_environment(), timeout=60, check=False
    )


def test_piped_stdin_ends_the_container_by_itself(argv, engine: Engine) -> None:
    done = said(argv, engine, "run", "-i", "--rm", "busybox", "cat", stdin=b"hi\n")
    assert (done.stdout, done.stderr, done.returncode) == (b"hi\n", b"", 0)


def test_a_megabyte_goes_through_unchanged(argv, engine: Engine) -> None:
    data = bytes(range(256)) * 4096
    done = said(argv, engine, "run", "-i", "--rm", "busybox", "cat", stdin=data)
    assert done.stdout == data


def test_stdout_and_stderr_stay_apart_and_the_exit_code_arrives(argv, engine: Engine) -> None:
    done = said(argv, engine, "run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 42")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 42)


def test_without_i_stdin_is_empty(argv, engine: Engine) -> None:
    done = said(argv, engine, "run", "--rm", "busybox", "cat", stdin=b"lost\n")
    assert (done.stdout, done.returncode) == (b"", 0)


def test_exec_takes_stdin_and_gives_the_exit_code(argv, engine: Engine) -> None:
    id = engine.api.run("sleep", "1000")
    done = said(argv, engine, "exec", "-i", id, "sh", "-c", "tr a-z A-Z; exit 7", stdin=b"shout\n")
    assert (done.stdout, done.returncode) == (b"SHOUT\n", 7)


def test_run_it_is_a_usable_terminal(at_terminal, engine: Engine) -> None:
    terminal = at_terminal("run", "-it", "--rm", "--name", "shell", "busybox", "sh", rows=30, columns=100)
    terminal.expect("# ")
    terminal.type("echo $((6 * 7)); tty\r")
    terminal.expect("42")
    terminal.expect("/dev/pts/0")
    terminal.type("exit 3\r")
    assert terminal.wait() == 3


def test_a_terminal_has_the_clients_size_and_follows_it(at_terminal, engine: Engine) -> None:
    terminal = at_terminal("run", "-it", "--rm", "busybox", "sh", rows=31, columns=101)
    terminal.expect("# ")

    def size() -> str:
        terminal.type("stty size; echo do''ne\r")
        return str(terminal.expect("done"))

    # The client sends the first size after the start; a shell that is quicker than it sees the default once.
    wait_until(lambda: "31 101" in size(), "the size of the start")
    terminal.size(40, 120)
    wait_until(lambda: "40 120" in size(), "the size after a resize")
    terminal.type("exit\r")
    assert terminal.wait() == 0


def test_ctrl_c_interrupts_the_program_and_not_the_shell(at_terminal, engine: Engine) -> None:
    terminal = at_terminal("run", "-it", "--rm", "--name", "shell", "busybox", "sh")
    terminal.expect("# ")
    terminal.type("sleep 1000\r")
    # Between its fork and its execve the shell's child takes the signal as the shell would, and goes on.
    wait_until(lambda: "sleep 1000" in str(engine.api.get("/containers/shell/top")), "the program")
    terminal.type(b"\x03")
    terminal.expect("# ")
    terminal.type("echo status $?\r")
    terminal.expect("status 130")
    terminal.expect("# ")  # Ctrl-D typed earlier is the line discipline's, and the shell's editor then reads a NUL
    terminal.type(b"\x04")
    assert terminal.wait() == 0


def test_detach_keys_leave_the_container_running_and_attach_comes_back(at_terminal, engine: Engine) -> None:
    terminal = at_terminal("run", "-it", "--name", "left", "busybox", "sh")
    terminal.expect("# ")
    terminal.type("X=remembered\r")
    terminal.expect("# ")
    terminal.type(DETACH)
    assert terminal.wait() == 0
    assert engine.api.inspect("left")["State"]["Running"]
    again = at_terminal("attach", "left")
    again.type("echo $X\r")
    again.expect("remembered")
    again.type("exit 5\r")
    assert again.wait() == 5


def test_own_detach_keys_are_taken(at_terminal, engine: Engine) -> None:
    terminal = at_terminal("run", "-it", "--detach-keys", "ctrl-x,x", "--name", "left", "busybox", "sh")
    terminal.expect("# ")
    terminal.type(b"\x18x")
    assert terminal.wait() == 0
    assert engine.api.inspect("left")["State"]["Running"]


def test_exec_it_is_a_terminal_of_its_own(at_terminal, engine: Engine) -> None:
    id = engine.api.run("sleep", "1000")
    terminal = at_terminal("exec", "-it", id, "sh", rows=33, columns=99)
    terminal.expect("# ")
    terminal.type("stty size; echo do''ne\r")
    terminal.expect("done")
    terminal.type("exit 9\r")
    assert terminal.wait() == 9
    assert engine.api.inspect(id)["State"]["Running"]


def test_detaching_from_an_exec_leaves_it_running(at_terminal, engine: Engine) -> None:
    id = engine.api.run("sleep", "1000")
    terminal = at_terminal("exec", "-it", id, "sh", "-c", "echo started; sleep 777")
    terminal.expect("started")
    terminal.type(DETACH)
    terminal.wait()
    processes = engine.api.get(f"/containers/{id}/top")["Processes"]
    assert any("sleep 777" in " ".join(columns) for columns in processes)


def test_attach_shows_what_comes_and_signals_go_through(argv, engine: Engine) -> None:
    script = "trap 'echo got INT; exit 9' INT; while :; do echo tick; sleep 0.1; done"
    id = engine.api.run("sh", "-c", script)
    client = subprocess.Popen(argv("attach", id), stdout=subprocess.PIPE, env=engine.client_environment())
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == b"tick\n"
        client.send_signal(2)
        rest = client.stdout.read()
        assert rest.endswith(b"got INT\n")
        assert client.wait(30) == 9
    finally:
        client.kill()
        client.wait()
        assert client.stdout is not None
        client.stdout.close()


def test_two_clients_attached_see_the_same(engine: Engine) -> None:
    id = engine.api.run("sh", "-c", "read line; echo said $line", OpenStdin=True)
    watching = engine.api.hijack(f"/containers/{id}/attach", stream=1, stdout=1)
    typing = engine.api.hijack(f"/containers/{id}/attach", stream=1, stdin=1, stdout=1)
    with watching.socket, typing.socket:
        typing.socket.sendall(b"hello\n")
        assert demultiplex(typing.read_all())[0] == b"said hello\n"
        assert demultiplex(watching.read_all())[0] == b"said hello\n"


def test_logs_follow_ends_with_the_container(argv, engine: Engine) -> None:
    id = engine.api.run("sh", "-c", "echo one; sleep 0.5; echo two; sleep 0.5; echo three")
    done = said(argv, engine, "logs", "-f", id)
    assert done.stdout == b"one\ntwo\nthree\n"


def test_logs_follow_one_start_whoever_starts_it_again(engine: Engine) -> None:
    """Compose follows a container's logs anew with each start: lines came twice, three times, …"""
    again = "echo run; until [ -e /go ]; do sleep 0.1; done; rm /go; exit 1"
    id = engine.api.run("sh", "-c", again, HostConfig={"RestartPolicy": {"Name": "always"}})
    connection = UnixConnection(engine.socket)
    connection.request("GET", f"/containers/{id}/logs?stdout=1&follow=1")
    with closing(connection), connection.getresponse() as response:
        assert b"run\n" in response.read1(1000)
        engine.docker("exec", id, "touch", "/go").check()
        response.read()
    wait_until(lambda: engine.api.inspect(id)["State"]["Running"], "its next start")


def test_logs_tail_timestamps_since_until(argv, engine: Engine) -> None:
    id = engine.api.run("sh", "-c", "for n in 1 2 3 4 5; do echo line $n; done; sleep 1.2; echo late; echo err >&2")
    engine.api.wait(id)
    assert said(argv, engine, "logs", "--tail", "3", id).stdout == b"line 5\nlate\n"
    assert said(argv, engine, "logs", "--tail", "3", id).stderr == b"err\n"
    stamped = said(argv, engine, "logs", "-t", id).stdout.decode().splitlines()
    assert len(stamped) == 6
    first, last = stamped[0].split()[0], stamped[-1].split()[0]
    assert first.endswith("Z") and len(first) == 30, "nanoseconds, always nine digits"
    since = said(argv, engine, "logs", "--since", last, id)
    assert since.stdout == b"late\n"
    until = said(argv, engine, "logs", "--until", first, id)
    assert b"late" not in until.stdout


def test_ctrl_c_at_run_without_terminal_reaches_the_container(argv, engine: Engine) -> None:
    words = argv(
        "run",
        "--rm",
        "--name",
        "trap",
        "busybox",
        "sh",
        "-c",
        "trap 'exit 4' INT; echo up; while :; do sleep 0.1; done",
    )
    client = subprocess.Popen(words, stdout=subprocess.PIPE, env=engine.client_environment())
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        client.send_signal(2)
        assert client.wait(30) == 4
    finally:
        client.kill()
        client.wait()
        client.stdout.close()  # type: ignore[union-attr]
