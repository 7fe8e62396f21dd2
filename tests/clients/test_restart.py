"""A daemon that is stopped or killed: its containers run on, and afterwards everything about them still works."""

import os
import re
import shlex
import socket
import subprocess
import threading
from collections.abc import Callable

import pytest

from tests.harness.api import demultiplex
from tests.harness.engines import Pierd, engine
from tests.harness.processes import SLOWER, wait_until
from tests.harness.reality import settled
from tests.harness.terminal import Terminal

COUNT = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.02; done"

ends = pytest.mark.parametrize("end", [Pierd.stop, Pierd.kill], ids=["SIGTERM", "kill-9"])
End = Callable[[Pierd], object]


def answers(pierd: Pierd, port: int) -> bool:
    try:
        return "200 OK" in pierd.host.http_get("127.0.0.1", port, timeout=5)
    except OSError:
        return False


@ends
def test_containers_run_on_and_are_listed_as_before(pierd: Pierd, end: End) -> None:
    id = pierd.docker("run", "-d", "--name", "runs", "busybox", "sleep", "1000").check().stdout.strip()
    before = pierd.api.inspect(id)
    end(pierd)
    assert os.path.exists(f"/proc/{before['State']['Pid']}"), "the container's process goes on"
    pierd.start()
    after = pierd.api.inspect(id)
    assert (
        after["State"] == before["State"]
        and after["NetworkSettings"]["Networks"] == before["NetworkSettings"]["Networks"]
    )
    assert pierd.docker("ps", "--format", "{{.Names}}").check().lines == ["runs"]
    assert pierd.docker("exec", "runs", "echo", "still here").check().stdout == "still here\n"
    pierd.docker("stop", "-t", "0", "runs").check()
    assert pierd.api.inspect(id)["State"]["ExitCode"] == 137


@ends
def test_logs_have_no_gap(pierd: Pierd, end: End) -> None:
    pierd.docker("run", "-d", "--name", "counts", "busybox", "sh", "-c", COUNT).check()
    wait_until(lambda: b"line 10\n" in pierd.api.logs("counts"), "some lines")
    end(pierd)
    pierd.start()
    last = int(demultiplex(pierd.api.logs("counts", tail=1))[0].split()[-1])
    wait_until(lambda: f"line {last + 20}\n".encode() in pierd.api.logs("counts"), "more lines")
    pierd.docker("stop", "-t", "0", "counts").check()
    numbers = [int(line.split()[1]) for line in pierd.docker("logs", "counts").check().lines]
    assert numbers == list(range(1, len(numbers) + 1))


def test_pier_says_that_the_daemon_has_gone_in_the_middle_of_its_answer(pierd: Pierd) -> None:
    pierd.docker("run", "-d", "--name", "counts", "busybox", "sh", "-c", COUNT).check()
    said = {
        "logs -f counts": (1, "unexpected EOF: the daemon closed the connection\n"),
        "events --since 1": (1, "unexpected EOF: the daemon closed the connection\n"),
        "run busybox sh -c 'echo begun; sleep 1000'": (
            125,
            "error waiting for container: unexpected EOF: the daemon closed the connection\n",
        ),
    }
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    clients = [
        subprocess.Popen(pierd.pier_argv(*shlex.split(line)), env=pierd.client_environment(), **pipes)  # type: ignore[call-overload]
        for line in said
    ]
    for client in clients:
        assert client.stdout.read(1), "it is at it"
    pierd.kill()
    for client, (status, words) in zip(clients, said.values(), strict=True):
        errors = client.communicate(timeout=60)[1].decode()
        assert (client.returncode, errors) == (status, words)
    pierd.start()


@ends
def test_what_ends_meanwhile_is_known_with_its_code_and_output(pierd: Pierd, end: End) -> None:
    script = "read line < /go/fifo; echo last words; exit 23"
    folder = pierd.root / "go"
    folder.mkdir()
    os.mkfifo(folder / "fifo")
    pierd.docker("run", "-d", "--name", "ends", "-v", f"{folder}:/go", "busybox", "sh", "-c", script).check()
    pid = pierd.api.inspect("ends")["State"]["Pid"]
    end(pierd)
    (folder / "fifo").write_text("now\n")
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "its end")
    pierd.start()
    state = pierd.api.inspect("ends")["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 23)
    assert state["FinishedAt"] > state["StartedAt"]
    assert pierd.docker("logs", "ends").check().stdout == "last words\n"
    pierd.docker("start", "ends").check()


@ends
def test_ports_answer_without_the_daemon_and_after_it(pierd: Pierd, end: End) -> None:
    pierd.docker("run", "-d", "--name", "web1", "-p", "8081:8080", "web").check()
    wait_until(lambda: answers(pierd, 8081), "an answer")
    end(pierd)
    assert answers(pierd, 8081), "the kernel forwards, the daemon is not needed"
    with pytest.raises(OSError, match="in use"):
        pierd.host.call(lambda: socket.create_server(("0.0.0.0", 8081)))
    pierd.start()
    assert answers(pierd, 8081)
    refused = pierd.docker("run", "-d", "-p", "8081:8080", "web")
    assert refused.status == 125 and "port is already allocated" in refused.stderr
    pierd.docker("rm", "-f", "web1").check()
    pierd.host.call(lambda: socket.create_server(("0.0.0.0", 8081))).close()


@ends
def test_an_established_connection_to_a_published_port_goes_on_and_the_port_stays_taken(pierd: Pierd, end: End) -> None:
    echo = ("nc", "-ll", "-p", "8080", "-e", "cat")
    pierd.docker("run", "-d", "--name", "echo", "-p", "8081:8080", "busybox", *echo).check()
    listening = ("exec", "echo", "sh", "-c", "netstat -ltn | grep :8080")
    wait_until(lambda: pierd.docker(*listening).status == 0, "the server")
    with pierd.world.neighbour.connect(pierd.world.host_address, 8081) as connection:
        stop = threading.Event()
        sent = 0
        failed: list[str] = []

        def talk() -> None:
            nonlocal sent
            while not stop.is_set() and not failed:
                line = f"line {sent}\n".encode()
                connection.sendall(line)
                got = b""
                while len(got) < len(line) and (part := connection.recv(65536)):
                    got += part
                if got != line:
                    failed.append(f"sent {line!r}, got {got!r}")
                sent += 1

        talker = threading.Thread(target=talk)
        talker.start()
        try:
            wait_until(lambda: sent > 10, "an answer before")
            end(pierd)
            there = sent
            wait_until(lambda: sent > there + 10 or failed, "answers without a daemon")
            with pytest.raises(OSError, match="in use"):
                pierd.host.call(lambda: socket.create_server(("0.0.0.0", 8081)))
            pierd.start()
            there = sent
            wait_until(lambda: sent > there + 10 or failed, "answers after it")
        finally:
            stop.set()
            talker.join(20)
        assert not failed


@ends
def test_names_resolve_after_it(pierd: Pierd, end: End) -> None:
    pierd.docker("network", "create", "own").check()
    for name in ("one", "two"):
        pierd.docker("run", "-d", "--name", name, "--network", "own", "busybox", "sleep", "1000").check()
    end(pierd)
    pierd.start()
    for one, other in (("one", "two"), ("two", "one")):
        assert "0% packet loss" in pierd.docker("exec", one, "ping", "-c", "1", "-W", "5", other).stdout
    pierd.docker("run", "-d", "--name", "three", "--network", "own", "busybox", "sleep", "1000").check()
    assert "0% packet loss" in pierd.docker("exec", "one", "ping", "-c", "1", "-W", "5", "three").stdout


@ends
def test_a_terminal_can_be_attached_again(pierd: Pierd, end: End) -> None:
    pierd.docker("run", "-dit", "--name", "shell", "busybox", "sh").check()
    end(pierd)
    pierd.start()
    with Terminal(pierd.docker_argv("attach", "shell"), pierd.client_environment(), 35, 111) as terminal:
        terminal.type("echo $((40 + 2))\r")
        terminal.expect("42")
        terminal.type("exit 6\r")
        assert terminal.wait() == 6


@ends
def test_restart_policies_are_kept_up(pierd: Pierd, end: End) -> None:
    pierd.docker("run", "-d", "--name", "always", "--restart", "always", "busybox", "sleep", "1000").check()
    pid = pierd.api.inspect("always")["State"]["Pid"]
    end(pierd)
    pierd.start()
    assert pierd.api.inspect("always")["State"]["Pid"] == pid, "it is the same process, not a new one"
    os.kill(pid, 9)
    wait_until(lambda: pierd.api.inspect("always")["State"]["Pid"] not in (0, pid), "its restart")


@ends
def test_paused_containers_stay_paused(pierd: Pierd, end: End) -> None:
    pierd.docker("run", "-d", "--name", "frozen", "busybox", "sleep", "1000").check()
    pierd.docker("pause", "frozen").check()
    end(pierd)
    pierd.start()
    assert pierd.api.inspect("frozen")["State"]["Paused"]
    pierd.docker("unpause", "frozen").check()
    assert pierd.docker("exec", "frozen", "echo", "thawed").check().stdout == "thawed\n"


def test_removed_with_the_daemon_killed_in_between_nothing_is_left(pierd: Pierd) -> None:
    """The fixture looks at the machine at the end; here it is given something to find."""
    for number in range(5):
        pierd.docker(
            "run", "-d", "--name", f"c{number}", "-p", f"{9000 + number}:80", "busybox", "sleep", "1000"
        ).check()
    pids = [pierd.api.inspect(f"c{number}")["State"]["Pid"] for number in range(5)]
    pierd.kill()
    for pid in pids[:3]:
        os.kill(pid, 9)
    pierd.start()
    lines = pierd.docker("ps", "-a", "--format", "{{.Names}} {{.State}}").check().lines
    states = dict(line.split() for line in lines)
    assert states == {"c0": "exited", "c1": "exited", "c2": "exited", "c3": "running", "c4": "running"}
    veths = {name for name in pierd.host.interfaces() if name not in ("lo", "ens33", "virbr0", "docker0")}
    assert len(veths) == 2, f"of the ended containers no interface is left: {veths}"


def test_twenty_restarts_in_a_row_cost_no_line_no_answer_and_no_name(pierd: Pierd) -> None:
    """Killed and stopped in turn, under containers that write, rotate their logs, serve, and ask for names."""
    pierd.docker("network", "create", "own").check()
    pierd.docker("run", "-d", "--name", "web1", "--network", "own", "-p", "8081:8080", "web").check()
    patient = f"nslookup -timeout={30 * SLOWER} -retry={12 * SLOWER}"
    ask = f"n=0; while :; do n=$((n+1)); {patient} web1 > /said 2>&1 && echo line $n || cat /said; sleep 0.1; done"
    quick = COUNT.replace("0.02", "0.002")
    rotated = ("--log-opt", "max-size=10k", "--log-opt", "max-file=100")
    for name, script, *flags in (
        ("counts", quick),
        ("rotates", quick, *rotated),
        ("terminal", quick, "-t"),
        ("asks", ask, "--network", "own"),
    ):
        pierd.docker("run", "-d", "--name", name, *flags, "busybox", "sh", "-c", script).check()
    wait_until(lambda: answers(pierd, 8081), "an answer")
    for number in range(20):
        (pierd.stop if number % 2 else pierd.kill)()
        assert answers(pierd, 8081)
        pierd.start()
        assert answers(pierd, 8081)
        assert settled(pierd) == []
    for name in ("counts", "rotates", "terminal", "asks"):
        pierd.docker("stop", "-t", "0", name).check()
        lines = pierd.docker("logs", name).check().lines
        assert all(line.startswith("line ") for line in lines), lines
        numbers = [int(line.split()[1]) for line in lines]
        first = numbers[0] if name == "rotates" else 1
        assert numbers == list(range(first, first + len(numbers))), name


def test_stopped_with_nothing_running_the_machine_is_as_before(pierd: Pierd) -> None:
    pierd.docker("run", "--rm", "-p", "8081:8080", "busybox", "true").check()
    pierd.docker("create", "--name", "kept", "busybox").check()
    assert pierd.stop() == 0
    assert pierd.leftovers() == []
    pierd.start()
    assert pierd.docker("ps", "-aq", "--no-trunc").check().lines == [pierd.api.inspect("kept")["Id"]]


def test_two_daemons_side_by_side_do_not_disturb_each_other(pierd: Pierd) -> None:
    pierd.docker("run", "-d", "--name", "same", "-p", "8081:8080", "web").check()
    with engine("pierd") as other:
        other.docker("run", "-d", "--name", "same", "-p", "8081:8080", "web").check()
        assert isinstance(other, Pierd) and other.instance != pierd.instance
        other.docker("rm", "-f", "same").check()
    assert pierd.docker("exec", "same", "echo", "alive").check().stdout == "alive\n"
    assert answers(pierd, 8081)


def test_a_second_daemon_on_the_same_data_is_refused_and_says_so(pierd: Pierd) -> None:
    words = [word if word != f"unix://{pierd.socket}" else f"unix://{pierd.root}/second.sock" for word in pierd.argv()]
    refused = pierd.host.run(*words, timeout=30)
    assert refused.status != 0 and str(pierd.data_root) in refused.stderr
    assert re.search(r"another|in use|lock", refused.stderr)
    assert pierd.docker("version").status == 0
