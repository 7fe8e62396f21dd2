"""The native driver's own promises: what its helper processes hold, and what happens when they are killed."""

import errno
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pierhead.driver.execdriver import protocol, shims
from pierhead.driver.execdriver.api import ExecStarted, Exited, Lost, NotBegun, Started, StartError
from pierhead.driver.execdriver.native import NativeDriver
from tests.drivers.containers import PATIENCE, Box, Running, boxed, busybox_root, process
from tests.harness.processes import end, wait_until


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_root(tmp_path_factory.mktemp("busybox") / "root")


@pytest.fixture
def box(root: Path, tmp_path: Path) -> Iterator[Box]:
    with boxed(NativeDriver, root, tmp_path) as found:
        yield found


def shim_of(running: Running, box: Box) -> int:
    """The process id of a container's shim: its PID 1's parent."""
    pid = box.driver.processes(running.monitor.id)[0]
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has), within the deadline."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def sleeping(box: Box) -> tuple[Running, int]:
    running = box.start(box.request("sleep", "1000"))
    return running, running.expect(Started).pid


def test_a_container_without_its_shim_is_lost_and_killed(box: Box) -> None:
    running, pid = sleeping(box)
    os.kill(shim_of(running, box), signal.SIGKILL)
    running.expect(Lost)
    assert gone(pid)
    box.driver.delete(running.monitor.id)
    assert box.driver.existing() == ()


@pytest.mark.parametrize("socket_there", [True, False])
def test_a_shim_that_does_not_go_on_is_gone_before_its_container_can_be_started_again(
    box: Box, monkeypatch: pytest.MonkeyPatch, socket_there: bool
) -> None:
    # As on a machine that was suspended: the shim would go on in the middle of the next run, and end that one's cgroup.
    running, pid = sleeping(box)
    shim = shim_of(running, box)
    os.kill(shim, signal.SIGSTOP)
    if not socket_there:
        os.unlink(Path(box.driver.folder(running.monitor.id), protocol.SOCKET))
    monkeypatch.setattr(shims, "SHIM_END", 0.2)
    box.driver.delete(running.monitor.id)
    assert gone(shim) and gone(pid)
    assert box.driver.existing() == ()


def test_a_container_that_lost_its_shim_while_the_daemon_was_away_is_not_met_again(box: Box) -> None:
    running, pid = sleeping(box)
    running.monitor.close()
    os.kill(shim_of(running, box), signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while box.reattach(running.monitor.id) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert box.driver.collect(running.monitor.id) is None
    box.driver.delete(running.monitor.id)
    assert gone(pid)


def test_a_killed_zygote_is_replaced_and_takes_no_container_with_it(box: Box) -> None:
    running, _ = sleeping(box)
    pids = box.driver.pids()
    for pid in pids:
        end(pid)  # the spare ends by itself when the zygote has gone
    assert all(gone(pid) for pid in pids)
    again, _ = sleeping(box)
    again.monitor.exec("e1", process("true"), None, False, False)
    assert again.expect(Exited).exec_id == "e1"
    running.monitor.signal(signal.SIGKILL)
    assert running.expect(Exited).code == 137


@pytest.mark.parametrize("which", [1, 2], ids=["shim", "starter"])
def test_a_killed_spare_costs_no_start(box: Box, which: int) -> None:
    sleeping(box)
    deadline = time.monotonic() + PATIENCE
    while len(box.driver.pids()) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    pids = box.driver.pids()
    os.kill(pids[which], signal.SIGKILL)
    assert all(gone(pid) for pid in pids[1:])
    sleeping(box)


def test_a_zygote_that_dies_with_a_start_in_its_hands_gives_it_back_whole(box: Box) -> None:
    stream, client = box.client()
    port = socket.create_server(("127.0.0.1", 0))
    address = port.getsockname()
    zygote = box.driver.pids()[0]
    os.kill(zygote, signal.SIGSTOP)
    running = box.start(box.request("echo", "hi", streams=(stream,), ports=((port, None),)))
    os.kill(zygote, signal.SIGKILL)
    error = running.expect(StartError).error
    assert isinstance(error, NotBegun)
    assert box.driver.existing() == ()
    with pytest.raises(OSError, match="in use"):
        socket.create_server(address)
    again = box.start(error.request)
    again.expect(Started)
    assert client.frames()[0] == b"hi\n"
    assert again.expect(Exited).code == 0
    socket.create_server(address).close()


def test_a_start_that_is_given_up_holds_nothing(box: Box) -> None:
    stream, client = box.client()
    port = socket.create_server(("127.0.0.1", 0))
    address = port.getsockname()
    zygote = box.driver.pids()[0]
    os.kill(zygote, signal.SIGSTOP)
    running = box.start(box.request("true", streams=(stream,), ports=((port, None),)))
    running.monitor.close()
    os.kill(zygote, signal.SIGKILL)
    assert gone(zygote)
    assert client.frames() == (b"", b"")
    socket.create_server(address).close()


def test_a_start_after_a_while_finds_its_starter_ready(box: Box) -> None:
    sleeping(box)
    wait_until(lambda: len(box.driver.pids()) == 3, "the next spare and its starter")
    time.sleep(0.3)  # by then the starter has made its pages its own
    pids = box.driver.pids()
    sleeping(box)
    assert gone(pids[2])


def test_a_starter_is_gone_when_its_container_runs(box: Box) -> None:
    running, pid = sleeping(box)
    deadline = time.monotonic() + PATIENCE
    children = Path(f"/proc/{shim_of(running, box)}/task/{shim_of(running, box)}/children")
    while children.read_text().split() != [str(pid)] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert children.read_text().split() == [str(pid)]


def test_the_drivers_processes_end_with_the_driver(box: Box) -> None:
    sleeping(box)
    wait_until(lambda: len(box.driver.pids()) == 3, "the next spare and its starter")
    zygote, spare, starter = box.driver.pids()
    box.driver.close()
    assert not os.path.exists(f"/proc/{zygote}") and not os.path.exists(f"/proc/{spare}")
    assert gone(starter)


def test_neither_zygote_nor_shim_carries_the_daemons_environment_or_files(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIERHEAD_TEST_SECRET", "token")
    kept = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(kept, True)
    try:
        box.driver.close()
        box.driver.open()
        running, _ = sleeping(box)
    finally:
        os.close(kept)
    for pid in (*box.driver.pids(), shim_of(running, box)):
        assert b"SECRET" not in Path(f"/proc/{pid}/environ").read_bytes()
        links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
        assert not [link for link in links if "hostname" in link]


def test_the_interpreter_cannot_be_written_through_a_shim(box: Box) -> None:
    running, _ = sleeping(box)
    for pid in (*box.driver.pids(), shim_of(running, box)):
        with pytest.raises(OSError) as refused:
            os.close(os.open(f"/proc/{pid}/exe", os.O_WRONLY))  # never written to
        assert refused.value.errno in (errno.EROFS, errno.ETXTBSY)
    # ETXTBSY would go away with the process; the mount's flag stays.
    copy = os.open(f"/proc/{shim_of(running, box)}/exe", os.O_PATH)
    assert os.fstatvfs(copy).f_flag & os.ST_RDONLY
    os.close(copy)


def test_a_message_of_a_later_daemon_is_left_out(box: Box) -> None:
    running, _ = sleeping(box)
    running.monitor._transmit(protocol.encode(99, ("later",)), ())  # type: ignore[attr-defined]
    running.monitor._transmit(b"\x63garbage", ())  # type: ignore[attr-defined]
    running.monitor.resize(24, 80)
    running.monitor.resize(24, 80, "none")
    running.monitor.signal(9, "none")
    running.monitor.exec("e1", process("true"), None, False, False)
    running.expect(ExecStarted)
    assert running.expect(Exited).exec_id == "e1"


def test_two_drivers_side_by_side_know_only_their_own(box: Box, root: Path, tmp_path: Path) -> None:
    other = NativeDriver(f"{box.instance}other", str(tmp_path / "other"))
    other.open()
    try:
        running, _ = sleeping(box)
        assert box.driver.existing() == (running.monitor.id,)
        assert other.existing() == ()
        assert other.reattach(running.monitor.id) is None
    finally:
        other.close()
