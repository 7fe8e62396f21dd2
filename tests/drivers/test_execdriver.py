"""What the daemon may rely on in every exec driver: real containers of busybox, in namespaces of their own."""

import errno
import fcntl
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from pierhead.driver.execdriver.api import (
    ExecDriver,
    ExecError,
    ExecStarted,
    Exited,
    LogTruncated,
    NetworkJoined,
    SocketsOpened,
    Started,
    StartError,
)
from pierhead.driver.execdriver.native import NativeDriver
from pierhead.driver.execdriver.oci import OciDriver
from pierhead.libcontainer.spec import NamespaceKind, NetworkSetup, Resources
from pierhead.linux.netlink import Netlink
from tests.drivers.containers import PATIENCE, Box, Running, boxed, busybox_root, process
from tests.harness.engines import cgroups_named
from tests.harness.ociruntimes import oci_runtime


def oci_driver(instance: str, exec_root: str) -> ExecDriver:
    """With the runc of the peers; in the test machine, which has cgroup v2 alone, with their crun."""
    return OciDriver(instance, exec_root, added={"peer": (oci_runtime(),)})


DRIVERS: dict[str, Callable[[str, str], ExecDriver]] = {"native": NativeDriver, "oci": oci_driver}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_root(tmp_path_factory.mktemp("busybox") / "root")


@pytest.fixture(params=sorted(DRIVERS))
def box(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> Iterator[Box]:
    with boxed(DRIVERS[request.param], root, tmp_path) as found:
        yield found
    assert not [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(tmp_path) in line]
    assert not cgroups_named(found.instance)


SIOCGSKNS = 0x894C
"""ioctl: a descriptor of a socket's network namespace."""


def run(box: Box, *args: str, **settings: object) -> Running:
    return box.start(box.request(*args, **settings))  # type: ignore[arg-type]


def entries(path: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_command_that_succeeds_exits_with_0(box: Box) -> None:
    running = run(box, "true")
    started = running.expect(Started)
    ended = running.expect(Exited)
    assert (ended.code, ended.signal, ended.exec_id, ended.oom) == (0, 0, None, False)
    assert started.pid > 1 and started.started_at <= ended.at


def test_a_command_that_fails_exits_with_its_code(box: Box) -> None:
    assert run(box, "sh", "-c", "exit 7").expect(Exited).code == 7


def test_kill_ends_the_container_with_128_and_the_signal(box: Box) -> None:
    running = run(box, "sleep", "1000")
    running.expect(Started)
    running.monitor.signal(signal.SIGKILL)
    ended = running.expect(Exited)
    assert (ended.code, ended.signal) == (137, 9)


def test_stop_reaches_a_command_that_handles_the_signal(box: Box) -> None:
    stream, client = box.client()
    running = run(box, "sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done", streams=(stream,))
    running.expect(Started)
    client.until(b"ready")
    running.monitor.signal(signal.SIGTERM)
    assert running.expect(Exited).code == 5


def test_a_missing_executable_is_an_error_of_the_start_and_leaves_nothing(box: Box) -> None:
    running = run(box, "no-such-program")
    error = running.expect(StartError).error
    assert error.stage == "exec" and "no-such-program" in str(error)
    assert box.driver.existing() == ()


def test_a_container_on_a_plain_directory_runs_too(box: Box) -> None:
    assert run(box, "true", overlay=False).expect(Exited).code == 0


def test_a_container_cannot_be_started_twice(box: Box) -> None:
    request = box.request("sleep", "1000")
    running = box.start(request)
    running.expect(Started)
    with pytest.raises(OSError, match="running already"):
        box.driver.start(request)
    running.monitor.signal(signal.SIGKILL)
    running.expect(Exited)
    box.driver.delete(request.spec.id)
    again = box.start(request)
    again.expect(Started)
    again.monitor.signal(signal.SIGKILL)
    assert again.expect(Exited).code == 137


def test_all_output_arrives_in_order_at_the_client_and_in_the_log(box: Box) -> None:
    stream, client = box.client()
    log = box.log()
    running = run(box, "sh", "-c", "seq 1 150000; echo end >&2", streams=(stream,), log=log)
    out, err = client.frames()
    running.expect(Exited)
    wanted = "".join(f"{number}\n" for number in range(1, 150001))
    assert out.decode() == wanted and err == b"end\n"
    logged = entries(log.path)
    assert "".join(entry["log"] for entry in logged if entry["stream"] == "stdout") == wanted
    assert [entry["log"] for entry in logged if entry["stream"] == "stderr"] == ["end\n"]
    times = [entry["time"] for entry in logged]
    assert len(set(times)) == len(times)


def test_the_log_is_complete_when_the_exit_is_reported(box: Box) -> None:
    for number in range(5):
        log = box.log(f"log{number}")
        run(box, "sh", "-c", "seq 1 2000; printf last", log=log).expect(Exited)
        logged = entries(log.path)
        assert [entry["log"] for entry in logged] == [f"{line}\n" for line in range(1, 2001)] + ["last"]


def test_rotation_of_the_log_loses_no_line(box: Box) -> None:
    log = box.log(max_size=100_000, max_files=50)
    run(box, "seq", "1", "20000", log=log).expect(Exited)
    files = [f"{log.path}.{number}" for number in range(49, 0, -1) if os.path.exists(f"{log.path}.{number}")]
    assert len(files) > 3
    found = [entry["log"] for path in [*files, log.path] for entry in entries(path)]
    assert found == [f"{line}\n" for line in range(1, 20001)]


def test_old_output_is_given_up_when_the_log_has_its_number_of_files(box: Box) -> None:
    log = box.log(max_size=10_000, max_files=3)
    run(box, "seq", "1", "20000", log=log).expect(Exited)
    assert sorted(os.path.basename(path) for path in box.folder.glob("log*")) == ["log", "log.1", "log.2"]
    assert entries(log.path)[-1]["log"] == "20000\n"
    assert os.path.getsize(log.path) < 10_200


def test_a_log_is_deleted_at_any_time_and_goes_on(box: Box) -> None:
    log = box.log(max_size=10_000, max_files=3)
    stream, client = box.client()
    running = run(box, "sh", "-c", "seq 1 600; read x; echo after", log=log, open_stdin=True, streams=(stream,))
    running.expect(Started)
    client.until(b"600\n")  # what is sent has been logged
    size = sum(path.stat().st_blocks * 512 for path in box.folder.glob("log*"))
    running.monitor.truncate_log(3)
    assert running.expect(LogTruncated) == LogTruncated(3, None, size)
    assert [path.name for path in box.folder.glob("log*")] == ["log"]
    client.send(b"\n")
    running.expect(Exited)
    assert [entry["log"] for entry in entries(log.path)] == ["after\n"]


def test_closing_stdin_lets_the_command_end(box: Box) -> None:
    stream, client = box.client()
    running = run(box, "cat", open_stdin=True, streams=(stream,))
    running.expect(Started)
    client.send(b"hello " * 20000)
    client.end_input()
    assert client.frames() == (b"hello " * 20000, b"")
    assert running.expect(Exited).code == 0


def test_stdin_sent_before_the_start_is_not_lost(box: Box) -> None:
    stream, client = box.client()
    client.send(b"early\n")
    client.end_input()
    running = run(box, "cat", open_stdin=True, streams=(stream,))
    assert client.frames() == (b"early\n", b"")
    running.expect(Exited)


def test_stdin_stays_open_after_a_client_that_must_not_close_it(box: Box) -> None:
    stream, client = box.client(close_stdin=False)
    running = run(box, "cat", open_stdin=True, streams=(stream,))
    running.expect(Started)
    client.send(b"one\n")
    client.until(b"one\n")
    client.close()
    stream, client = box.client()
    running.monitor.attach(stream)
    client.send(b"two\n")
    client.end_input()
    assert client.frames()[0] == b"two\n"
    assert running.expect(Exited).code == 0


def test_without_stdin_a_command_reads_end_of_file(box: Box) -> None:
    stream, client = box.client()
    running = run(box, "sh", "-c", "cat; echo done", streams=(stream,))
    assert client.frames()[0] == b"done\n"
    assert running.expect(Exited).code == 0


def test_a_terminal_is_one_and_takes_its_size(box: Box) -> None:
    stream, client = box.client()
    running = run(
        box, "sh", "-c", "tty; trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.01; done",
        terminal=True, open_stdin=True, streams=(stream,),
    )  # fmt: skip
    running.expect(Started)
    assert client.until(b"ready\r\n").startswith(b"/dev/")
    running.monitor.resize(33, 77)
    assert client.read().endswith(b"33 77\r\n")
    assert running.expect(Exited).code == 3


def test_control_c_at_the_terminal_interrupts(box: Box) -> None:
    stream, client = box.client()
    running = run(
        box, "sh", "-c", "trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.01; done",
        terminal=True, open_stdin=True, streams=(stream,),
    )  # fmt: skip
    client.until(b"ready")
    client.send(b"\x03")
    client.until(b"interrupted")
    assert running.expect(Exited).code == 9


def test_exec_runs_beside_the_command_and_reports_its_own_end(box: Box) -> None:
    running = run(box, "sleep", "1000")
    running.expect(Started)
    stream, client = box.client()
    running.monitor.exec("e1", process("sh", "-c", "hostname; echo oops >&2; exit 4"), stream, False, False)
    started = running.expect(ExecStarted)
    assert (started.exec_id, started.pid > 1) == ("e1", True)
    assert client.frames() == (b"box\n", b"oops\n")
    assert running.expect(Exited, lambda event: event.exec_id == "e1").code == 4


def test_exec_takes_stdin_to_its_end(box: Box) -> None:
    running = run(box, "sleep", "1000")
    running.expect(Started)
    stream, client = box.client()
    running.monitor.exec("e1", process("cat"), stream, True, False)
    client.send(b"through")
    client.end_input()
    assert client.frames() == (b"through", b"")
    assert running.expect(Exited).code == 0


def test_exec_with_a_terminal_is_resized_alone(box: Box) -> None:
    running = run(box, "sleep", "1000", terminal=True)
    running.expect(Started)
    stream, client = box.client()
    command = process("sh", "-c", "tty; read line; stty size; exit 6", terminal=True)
    running.monitor.exec("e1", command, stream, True, False)
    running.expect(ExecStarted)
    client.until(b"/dev/pts")
    running.monitor.resize(12, 34, "e1")
    client.send(b"\n")
    assert b"12 34\r\n" in client.read()
    assert running.expect(Exited).code == 6


def test_exec_of_a_missing_program_is_refused_and_the_container_goes_on(box: Box) -> None:
    running = run(box, "sleep", "1000")
    running.expect(Started)
    stream, client = box.client()
    running.monitor.exec("e1", process("no-such-program"), stream, False, False)
    error = running.expect(ExecError)
    assert error.exec_id == "e1" and "no-such-program" in str(error.error)
    assert client.read() == b""
    running.monitor.exec("e2", process("true"), None, False, False)
    assert running.expect(Exited).exec_id == "e2"


def test_a_signal_to_an_exec_ends_it_alone(box: Box) -> None:
    running = run(box, "sleep", "1000")
    running.expect(Started)
    running.monitor.exec("e1", process("sleep", "1000"), None, False, False)
    running.expect(ExecStarted)
    running.monitor.signal(signal.SIGKILL, "e1")
    ended = running.expect(Exited)
    assert (ended.exec_id, ended.code) == ("e1", 137)
    running.monitor.exec("e2", process("true"), None, False, False)
    assert running.expect(Exited).exec_id == "e2"


def test_the_end_of_the_command_ends_its_execs_first(box: Box) -> None:
    running = run(box, "sleep", "1000")
    running.expect(Started)
    running.monitor.exec("e1", process("sleep", "1000"), None, False, False)
    running.expect(ExecStarted)
    running.monitor.signal(signal.SIGKILL)
    running.expect(Exited, lambda event: event.exec_id is None)
    assert [event.exec_id for event in running.seen if isinstance(event, Exited)] == ["e1"]


def test_an_exec_that_leaves_a_background_process_ends_nevertheless(box: Box) -> None:
    running = run(box, "sleep", "1000")
    running.expect(Started)
    stream, client = box.client()
    running.monitor.exec("e1", process("sh", "-c", "sleep 1000 & echo gone"), stream, False, False)
    assert client.frames()[0] == b"gone\n"
    assert running.expect(Exited).code == 0


def test_a_client_that_attaches_late_gets_what_comes_then(box: Box) -> None:
    first, one = box.client()
    running = run(box, "cat", open_stdin=True, streams=(first,))
    running.expect(Started)
    one.send(b"before\n")
    one.until(b"before\n")
    second, two = box.client(stdin=False)
    running.monitor.attach(second)
    running.monitor.exec("barrier", process("true"), None, False, False)
    running.expect(ExecStarted)
    one.send(b"after\n")
    one.end_input()
    assert two.frames() == (b"after\n", b"")
    assert one.frames() == (b"before\nafter\n", b"")
    running.expect(Exited, lambda event: event.exec_id is None)


def test_a_client_gets_only_the_streams_it_asked_for(box: Box) -> None:
    stream, client = box.client(stdout=False)
    running = run(box, "sh", "-c", "echo out; echo err >&2", streams=(stream,))
    assert client.frames() == (b"", b"err\n")
    running.expect(Exited)


def test_a_slow_reader_gets_everything_and_holds_the_command_back_meanwhile(box: Box) -> None:
    stream, client = box.client()
    size = 6_000_000
    running = run(box, "sh", "-c", f"head -c {size} /dev/zero; echo finished >&2", streams=(stream,))
    pid = running.expect(Started).pid
    written = _until_still(lambda: int(_io(pid, "wchar")))
    assert written < size, "the command was not held back"
    out, err = client.frames()
    assert (len(out), err) == (size, b"finished\n")
    assert running.expect(Exited).code == 0


def _io(pid: int, name: str) -> str:
    """A counter of the process and the children that it is waiting for."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0
    for one in [str(pid), *children]:
        lines = dict(line.split(": ") for line in Path(f"/proc/{one}/io").read_text().splitlines())
        total += int(lines[name])
    return str(total)


def _until_still(value: Callable[[], int]) -> int:
    """The value once it has not changed for half a second."""
    deadline = time.monotonic() + PATIENCE
    last, since = -1, time.monotonic()
    while time.monotonic() < deadline:
        now = value()
        if now != last:
            last, since = now, time.monotonic()
        elif now > 0 and time.monotonic() - since > 0.5:
            return now
        time.sleep(0.02)
    raise AssertionError(f"never still: {last}")


def test_a_client_that_never_reads_does_not_hold_up_the_end(box: Box) -> None:
    stream, client = box.client()
    running = run(box, "yes", streams=(stream,))
    pid = running.expect(Started).pid
    _until_still(lambda: int(_io(pid, "wchar")))
    running.monitor.signal(signal.SIGKILL)
    assert running.expect(Exited).code == 137
    client.close()


def test_a_command_that_was_killed_for_memory_says_so(box: Box) -> None:
    limit = Resources(memory=32 << 20, memory_swap=32 << 20)
    running = run(box, "dd", "if=/dev/zero", "of=/dev/null", "bs=256M", "count=1", resources=limit)
    ended = running.expect(Exited)
    assert (ended.code, ended.signal, ended.oom) == (137, 9, True)


def test_a_client_that_goes_away_does_not_disturb_the_command(box: Box) -> None:
    stream, client = box.client()
    other, listener = box.client()
    running = run(box, "sh", "-c", "read go; seq 1 50000", open_stdin=True, streams=(stream, other))
    running.expect(Started)
    client.send(b"go\n")
    client.close()
    assert listener.frames()[0].endswith(b"\n50000\n")
    assert running.expect(Exited).code == 0


def test_many_starts_at_once_all_come_up(box: Box) -> None:
    log = [box.log(f"log{number}") for number in range(30)]
    many = [run(box, "echo", str(number), log=log[number]) for number in range(30)]
    assert [running.expect(Exited).code for running in many] == [0] * 30
    assert [entries(one.path)[0]["log"] for one in log] == [f"{number}\n" for number in range(30)]


def test_a_container_can_be_suspended_and_figures_read(box: Box) -> None:
    stream, client = box.client()
    running = run(box, "sh", "-c", "while :; do echo tick; sleep 0.01; done", streams=(stream,))
    running.expect(Started)
    id = running.monitor.id
    client.until(b"tick")
    box.driver.update(id, Resources(pids=50))
    assert box.driver.processes(id)
    assert box.driver.figures(id).cpu.total > 0
    box.driver.freeze(id)
    box.driver.thaw(id)
    client.raw.clear()
    client.until(b"tick")
    running.monitor.signal(signal.SIGKILL)
    running.expect(Exited)


def test_a_deleted_container_is_gone_at_once_even_when_suspended(box: Box) -> None:
    running = run(box, "sleep", "1000")
    pid = running.expect(Started).pid
    box.driver.freeze(running.monitor.id)
    box.driver.delete(running.monitor.id)
    box.driver.delete(running.monitor.id)
    assert not os.path.exists(f"/proc/{pid}")
    assert box.driver.existing() == ()


def test_processes_outside_the_pid_namespace_are_ended_with_the_container(box: Box) -> None:
    stream, client = box.client()
    running = run(box, "sh", "-c", "sleep 1000 & echo $!", host=(NamespaceKind.PID,), streams=(stream,))
    pid = int(client.frames()[0])
    running.expect(Exited)
    assert not os.path.exists(f"/proc/{pid}")


def link_up(index: int) -> bytes:
    """RTM_NEWLINK: set an interface up."""
    return struct.pack("=IHHIIBxHiII", 32, 16, 5, 1, 0, 0, 0, index, 1, 1)


def test_the_resolver_sockets_come_with_the_start(box: Box) -> None:
    lo_up = link_up(1)
    running = run(box, "sleep", "1000", network=NetworkSetup(inside=(lo_up,), resolver=5353))
    started = running.expect(Started)
    assert started.resolver is not None
    udp, tcp = started.resolver
    assert udp.getsockname() == tcp.getsockname() == ("127.0.0.11", 5353)
    udp.close()
    tcp.close()
    running.monitor.join_network(NetworkSetup(inside=(lo_up,)), 7)
    joined = running.expect(NetworkJoined)
    assert (joined.serial, joined.error) == (7, None)
    running.monitor.leave_network((link_up(12345),), 8)
    refused = running.expect(NetworkJoined)
    assert refused.serial == 8 and refused.error is not None


def test_sockets_of_the_containers_network_namespace_are_handed_out(box: Box) -> None:
    running = run(box, "sleep", "1000")
    pid = running.expect(Started).pid
    running.monitor.open_sockets([(socket.AF_NETLINK, socket.SOCK_RAW, 0), (socket.AF_INET, socket.SOCK_STREAM, 0)], 3)
    opened = running.expect(SocketsOpened)
    assert (opened.serial, opened.error) == (3, None)
    route, stream = opened.sockets
    with Netlink(route) as link, stream:
        assert [one.name for one in link.links()] == ["lo"] and not link.links()[0].up, "of the container, not ours"
        namespace = fcntl.ioctl(stream, SIOCGSKNS)
        assert os.path.samestat(os.stat(f"/proc/{pid}/ns/net"), os.fstat(namespace))
        os.close(namespace)
    running.monitor.open_sockets([(socket.AF_INET, socket.SOCK_STREAM, 250)], 4)
    refused = running.expect(SocketsOpened)
    assert refused.serial == 4 and refused.error is not None and refused.error.call == "socket"


def test_a_reserved_port_is_free_again_when_the_end_is_reported(box: Box) -> None:
    port = socket.socket()
    port.bind(("127.0.0.1", 0))
    address = port.getsockname()
    running = run(box, "sleep", "1000", ports=((port, None),))
    running.expect(Started)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(address)
    running.monitor.signal(signal.SIGKILL)
    running.expect(Exited)
    with socket.socket() as other:
        other.bind(address)


def ipv4(server: socket.socket) -> tuple[str, str, int]:
    """A server's address as a Target."""
    return server.getsockname()[0], "", server.getsockname()[1]


def free_ports(count: int) -> list[int]:
    """Numbers that nobody uses now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]


def settled(running: Running) -> None:
    """Wait until everything sent so far has been done."""
    running.monitor.exec("barrier", process("true"), None, False, False)
    running.expect(ExecStarted)
    running.expect(Exited)


def test_ports_are_given_back_or_served_elsewhere_while_the_container_runs(box: Box) -> None:
    with socket.socket() as first, socket.socket() as second:
        for server in (first, second):
            server.bind(("127.0.0.1", 0))
            server.listen()
            server.settimeout(PATIENCE)
        # Bound to a number, as published ports are: a socket that the kernel chose one for loses it with its listening.
        held = [socket.create_server(("127.0.0.1", number)) for number in free_ports(2)]
        stays, goes = (port.getsockname() for port in held)
        running = run(box, "sleep", "1000", ports=tuple((port, ipv4(first)) for port in held))
        running.expect(Started)
        with socket.create_connection(goes, PATIENCE) as cut, first.accept()[0]:
            running.monitor.keep_ports([(socket.IPPROTO_TCP, *stays, ipv4(second))])
            settled(running)
            assert cut.recv(1) == b"", "who still talks to a port that is given back hears of it"
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(goes, PATIENCE)
        socket.create_server(goes).close()
        with socket.create_connection(stays, PATIENCE):
            second.accept()[0].close()
        running.monitor.keep_ports([(socket.IPPROTO_TCP, *stays, None)])
        settled(running)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(stays, PATIENCE)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(stays)
        running.monitor.keep_ports([(socket.IPPROTO_TCP, *stays, ipv4(first))])
        settled(running)
        with socket.create_connection(stays, PATIENCE):
            first.accept()[0].close()


def test_ports_are_added_while_the_container_runs(box: Box) -> None:
    running = run(box, "sleep", "1000")
    running.expect(Started)
    held = [socket.socket() for _ in range(2)]
    for port in held:
        port.bind(("127.0.0.1", 0))
        address = port.getsockname()
        running.monitor.hold_ports([(port, None)])
    settled(running)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(address)


def test_a_client_that_reads_slowly_loses_nothing(box: Box) -> None:
    size = 8 * 1024 * 1024
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        port = socket.create_server(("127.0.0.1", 0))
        address = port.getsockname()
        running = run(box, "sleep", "1000", ports=((port, ipv4(server)),))
        running.expect(Started)
        with socket.create_connection(address, PATIENCE) as client:
            served, _ = server.accept()
            client.shutdown(socket.SHUT_WR)
            sender = threading.Thread(target=lambda: (served.sendall(b"x" * size), served.close()))
            sender.start()
            time.sleep(0.2)  # it fills every buffer on the way
            received = 0
            while data := client.recv(4096):
                received += len(data)
            sender.join()
        assert received == size


def test_a_port_that_listens_carries_a_connection_both_ways(box: Box) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(PATIENCE)
        port = socket.socket(socket.AF_INET6)
        port.bind(("::1", 0))
        address = port.getsockname()[:2]
        running = run(box, "sleep", "1000", ports=((port, ipv4(server)),))
        running.expect(Started)
        with socket.create_connection(address, PATIENCE) as client:
            served, _ = server.accept()
            with served:
                client.sendall(b"x" * 500_000)
                client.shutdown(socket.SHUT_WR)
                received = 0
                while data := served.recv(65536):
                    received += len(data)
                served.sendall(b"answer")
            assert received == 500_000
            assert client.recv(100) == b"answer" and client.recv(100) == b""


def test_a_datagram_port_that_listens_carries_answers_back(box: Box) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(PATIENCE)
        port = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        port.bind(("::1", 0))
        address = port.getsockname()
        running = run(box, "sleep", "1000", ports=((port, ipv4(server)),))
        running.expect(Started)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE)
            client.connect(address)
            for text in (b"one", b"two"):
                client.send(text)
                data, source = server.recvfrom(100)
                assert data == text
                server.sendto(b"re: " + data, source)
                assert client.recv(100) == b"re: " + text


def test_a_datagram_is_answered_from_the_address_it_was_sent_to(box: Box) -> None:
    """A client that is connected hears nothing else: a host with two addresses would answer from the first."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(PATIENCE)
        port = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        port.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        port.bind(("::", 0))
        number = port.getsockname()[1]
        running = run(box, "sleep", "1000", ports=((port, ipv4(server)),))
        running.expect(Started)
        for family, address in ((socket.AF_INET, "127.0.0.77"), (socket.AF_INET6, "::1")):
            with socket.socket(family, socket.SOCK_DGRAM) as client:
                client.settimeout(PATIENCE)
                client.connect((address, number))
                client.send(b"?")
                server.sendto(b"!", server.recvfrom(100)[1])
                assert client.recv(100) == b"!", address


def _in_a_daemon_that_is_killed(box: Box, work: Callable[[ExecDriver], None]) -> None:
    """Do something in a process of its own that ends by SIGKILL, as a daemon may."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            driver = DRIVERS[box.driver.name](box.instance, str(box.folder / "exec"))
            driver.open()
            work(driver)
            os.write(writer, b"done")
            time.sleep(PATIENCE)
        finally:
            os._exit(1)
    os.close(writer)
    try:
        assert os.read(reader, 10) == b"done"
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_killed_daemon_finds_its_container_and_all_of_its_output_again(box: Box) -> None:
    log = box.log()
    request = box.request("sh", "-c", "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done; sleep 1000", log=log)

    def work(driver: ExecDriver) -> None:
        running = Running(driver.start(request))
        running.expect(Started)
        running.monitor.exec("e1", process("sleep", "1000"), None, False, False)
        running.expect(ExecStarted)

    _in_a_daemon_that_is_killed(box, work)
    running = box.reattach(request.spec.id)
    assert running is not None
    assert running.expect(Started).pid == box.driver.processes(request.spec.id)[0]
    assert running.expect(ExecStarted).exec_id == "e1"
    stream, client = box.client()
    running.monitor.exec("e2", process("echo", "again"), stream, False, False)
    assert client.frames()[0] == b"again\n"
    assert running.expect(Exited).exec_id == "e2"
    deadline = time.monotonic() + PATIENCE
    while Path(log.path).read_bytes().count(b"\n") < 3000 and time.monotonic() < deadline:
        time.sleep(0.02)
    running.monitor.signal(signal.SIGKILL)
    assert running.expect(Exited, lambda event: event.exec_id is None).code == 137
    assert [entry["log"] for entry in entries(log.path)] == [f"{number}\n" for number in range(3000)]


def test_an_exit_while_the_daemon_was_away_is_collected(box: Box) -> None:
    request = box.request("sh", "-c", "sleep 0.3; exit 12")

    def work(driver: ExecDriver) -> None:
        Running(driver.start(request)).expect(Started)

    _in_a_daemon_that_is_killed(box, work)
    deadline = time.monotonic() + PATIENCE
    while (report := box.driver.collect(request.spec.id)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert report is not None and report.code == 12 and report.at > 0
    deadline = time.monotonic() + PATIENCE
    while box.reattach(request.spec.id) is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert box.driver.existing() == (request.spec.id,)
    box.driver.delete(request.spec.id)
    assert box.driver.existing() == () and box.driver.collect(request.spec.id) is None


def test_a_driver_that_was_closed_and_opened_again_goes_on(box: Box) -> None:
    running = run(box, "sleep", "1000")
    running.expect(Started)
    running.monitor.close()
    box.driver.close()
    assert box.driver.pids() == ()
    box.driver.open()
    again = box.reattach(running.monitor.id)
    assert again is not None
    again.expect(Started)
    assert run(box, "true").expect(Exited).code == 0
    again.monitor.signal(signal.SIGTERM)
    again.monitor.signal(signal.SIGKILL)
    assert again.expect(Exited).code == 137


def test_what_was_never_started_is_not_found(box: Box) -> None:
    assert box.driver.reattach("0" * 64) is None
    assert box.driver.collect("0" * 64) is None
    box.driver.delete("0" * 64)


def test_a_long_exec_root_is_no_hindrance(box: Box, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    driver = DRIVERS[box.driver.name](box.instance, str(folder))
    driver.open()
    try:
        other = Box(driver, box.instance, root, folder)
        running = run(other, "sleep", "1000")
        running.expect(Started)
        again = other.reattach(running.monitor.id)
        assert again is not None
        again.expect(Started)
        other.clean()
    finally:
        driver.close()


def test_an_unusable_request_raises_and_leaves_nothing(box: Box) -> None:
    request = box.request("true")
    bad = replace(request, spec=replace(request.spec, process=process()))
    with pytest.raises(ValueError, match="command"):
        box.driver.start(bad)
    assert box.driver.existing() == ()


def test_a_container_whose_log_cannot_be_written_does_not_start(box: Box) -> None:
    stream, client = box.client(stdout=True, stderr=True)
    held = socket.create_server(("127.0.0.1", 0))
    port = held.getsockname()[1]
    log = box.log("missing/log")
    running = box.start(box.request("sleep", "1000", streams=(stream,), log=log, ports=((held, None),)))
    error = running.expect(StartError).error
    assert (error.errno, error.filename) == (errno.ENOENT, log.path)
    assert client.read() == b""
    assert box.driver.existing() == ()
    socket.create_server(("127.0.0.1", port)).close()  # given back before the failure was said
