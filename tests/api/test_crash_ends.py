"""pierd ended in order and not, once each: what goes on, what is taken up again, what is said to a second one."""

import fcntl
import http.client
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.harness.api import connect, demultiplex
from tests.harness.engines import Pierd, processes_in
from tests.harness.images import busybox_rootfs, docker_archive, tar
from tests.harness.processes import wait_until
from tests.harness.reality import settled
from tests.harness.registry import stalling_registry

pytestmark = pytest.mark.only_pierhead("ends of ours")

PUBLISHED = {"PortBindings": {"80/tcp": [{"HostPort": "8081"}]}}


def comm(pid: int) -> str:
    """Empty for one that has just ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def test_sigterm_in_the_middle_of_many_requests_loses_no_container_and_leaves_no_half_one(pierd: Pierd) -> None:
    answered: set[str] = set()
    refused: list[str] = []

    def client(number: int) -> None:
        try:
            for count in range(1000):
                name = f"c{number}-{count}"
                pierd.api.ok("POST", "/containers/create", {"Image": "busybox", "Cmd": ["sleep", "1000"]}, name=name)
                pierd.api.ok("POST", f"/containers/{name}/start")
                answered.add(name)
        except OSError:
            return
        except AssertionError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answered) >= 12, "a dozen containers")
    assert pierd.stop() == 0
    for thread in threads:
        thread.join()
    assert all("503" in text for text in refused), refused
    pierd.start()
    running = {one["Names"][0].removeprefix("/") for one in pierd.api.get("/containers/json")}
    assert answered <= running
    assert settled(pierd) == []


def test_sigterm_in_the_middle_of_a_stop_lets_it_end_and_what_it_was_for_is_gone(pierd: Pierd) -> None:
    """The last container that runs takes its time; its end is recorded, and nothing is left on the machine."""
    script = "trap 'sleep 0.5; exit 5' TERM; echo ready; while :; do sleep 0.02; done"
    id = pierd.api.run("sh", "-c", script, HostConfig=PUBLISHED)
    wait_until(lambda: b"ready" in pierd.api.logs(id), "its trap")
    answers: list[int] = []
    stopping = threading.Thread(
        target=lambda: answers.append(pierd.api.send("POST", f"/containers/{id}/stop", t=30).status)
    )
    stopping.start()
    wait_until(lambda: busy(pierd, "lifecycle.stop"), "the stop")
    assert pierd.stop() == 0
    stopping.join()
    assert answers == [204]
    assert pierd.leftovers() == []
    assert pierd.daemon is not None and "level=error" not in pierd.daemon.said()
    pierd.start()
    state = pierd.api.inspect(id)["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 5)


def test_what_ends_while_the_daemon_stops_is_recorded_before_or_after(pierd: Pierd) -> None:
    for number in range(4):
        ids = [pierd.api.run("sh", "-c", f"sleep 0.{part}{number}; exit 9") for part in range(4)]
        assert pierd.stop() == 0
        pierd.start()
        for id in ids:
            assert pierd.api.wait(id) == 9
            pierd.api.ok("DELETE", f"/containers/{id}")
    assert pierd.daemon is not None and "level=error" not in pierd.daemon.said()


def busy(pierd: Pierd, job: str) -> bool:
    """Whether such a job is under way."""
    return any(one["name"] == job and one["duration"] is None for one in jobs(pierd.api.get("/pierhead/jobs")))


def jobs(listed: list[dict[str, object]]) -> Iterator[dict[str, object]]:
    for one in listed:
        yield one
        yield from jobs(one.get("children") or [])  # type: ignore[arg-type]


def test_sigterm_with_nothing_running_leaves_nothing_and_with_something_only_what_that_needs(pierd: Pierd) -> None:
    id = pierd.api.run("sleep", "1000", name="stays", HostConfig={"NetworkMode": "bridge"})
    assert pierd.stop() == 0
    left = processes_in(pierd.host.path)
    assert [comm(pid) for pid in left] == ["pierhead-shim"], "no daemon, no zygote, no spare shim"
    assert "docker0" in pierd.host.interfaces(), "the container's bridge stays"
    pierd.start()
    pierd.api.ok("DELETE", f"/containers/{id}", force=1)
    assert pierd.stop() == 0
    assert pierd.leftovers() == []
    pierd.start()


def test_a_shim_that_hangs_keeps_nobody_else_from_being_served_again(pierd: Pierd) -> None:
    hung = pierd.api.run("sleep", "1000", name="hung")
    fine = pierd.api.run("sleep", "1000", name="fine")
    shim = parent(pierd.api.inspect(hung)["State"]["Pid"])
    pierd.kill()
    os.kill(shim, signal.SIGSTOP)
    try:
        pierd.start()
        assert pierd.api.inspect(fine)["State"]["Status"] == "running"
        assert pierd.docker("exec", "fine", "echo", "hi").check().stdout == "hi\n"
    finally:
        os.kill(shim, signal.SIGCONT)
    assert pierd.docker("exec", "hung", "echo", "back").check().stdout == "back\n"
    pierd.docker("stop", "-t", "0", "hung").check()


def test_a_paused_container_stays_as_it_was_recorded_whatever_the_freezer_says(pierd: Pierd) -> None:
    """A daemon may be killed between the freezer and the record: one that "runs" and stands still helps nobody."""
    id = pierd.api.run("sleep", "1000", name="torn")
    pierd.api.ok("POST", f"/containers/{id}/pause")
    pierd.kill()
    with sqlite3.connect(pierd.data_root / "graph.db") as db:
        db.execute("UPDATE container SET state = 'running' WHERE id = ?", (id,))
    db.close()
    pierd.start()
    assert pierd.docker("exec", "torn", "echo", "runs").check().stdout == "runs\n"


def test_a_removal_and_a_run_with_rm_that_were_killed_in_the_middle_are_finished(pierd: Pierd) -> None:
    """As after a crash between the end's record and the removal: anonymous volumes go along, named ones stay."""
    body = {"Volumes": {"/anonymous": {}}, "HostConfig": {"AutoRemove": True, "Binds": ["named:/named"]}}
    ended = pierd.api.create("true", name="ended", **body)
    half = pierd.api.create("true", name="half", Volumes={"/anonymous": {}})
    created = pierd.api.create("true", name="created", HostConfig={"AutoRemove": True})
    pierd.kill()
    with sqlite3.connect(pierd.data_root / "graph.db") as db:
        db.execute("UPDATE container SET state = 'exited' WHERE id = ?", (ended,))
        db.execute("UPDATE container SET state = 'removing', intent = 'remove with volumes' WHERE id = ?", (half,))
    db.close()
    pierd.start()
    assert [one["Id"] for one in pierd.api.get("/containers/json", all=1)] == [created]
    assert [one["Name"] for one in pierd.api.get("/volumes")["Volumes"]] == ["named"]
    assert settled(pierd) == []


def second(pierd: Pierd, other: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Start another pierd on the same machine; flags of the first but for the ones given."""
    flags = {
        "-H": f"unix://{pierd.root}/second.sock",
        "--data-root": f"{pierd.root}/second-data",
        "--exec-root": f"{pierd.root}/second-exec",
        "--pidfile": f"{pierd.root}/second.pid",
    } | other
    words = [word for flag in flags.items() for word in flag]
    return subprocess.run(
        pierd.host.argv(pierd.argv()[0], *words), capture_output=True, text=True, timeout=60, check=False
    )


def test_a_second_daemon_on_anything_of_the_first_is_refused_and_changes_nothing(pierd: Pierd) -> None:
    id = pierd.api.run(
        "sleep", "1000", name="precious", HostConfig={"PortBindings": {"80/tcp": [{"HostPort": "8081"}]}}
    )
    pid = pierd.api.inspect(id)["State"]["Pid"]
    before = pierd.host.interfaces(), pierd.host.tables()
    for flag, value in (
        ("--data-root", str(pierd.data_root)),
        ("--exec-root", str(pierd.exec_root)),
        ("--pidfile", str(pierd.pidfile)),
        ("-H", f"unix://{pierd.socket}"),
    ):
        refused = second(pierd, {flag: value})
        assert refused.returncode == 1, flag
        assert value.removeprefix("unix://") in refused.stderr and "another" in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr
        assert (pierd.host.interfaces(), pierd.host.tables()) == before, flag
        assert not (pierd.root / "second.pid").exists()
    assert pierd.api.inspect(id)["State"]["Pid"] == pid and os.path.exists(f"/proc/{pid}")
    assert pierd.docker("exec", "precious", "echo", "alive").check().stdout == "alive\n"
    assert int(pierd.pidfile.read_text()) == pierd.pid


def test_after_kill_9_the_stale_socket_and_pidfile_are_no_obstacle(pierd: Pierd) -> None:
    pierd.kill()
    assert os.path.exists(pierd.socket) and pierd.pidfile.exists()
    pierd.start()
    assert int(pierd.pidfile.read_text()) == pierd.pid


def test_a_zygote_that_is_killed_again_and_again_costs_no_start(pierd: Pierd) -> None:
    for number in range(5):
        os.kill(zygote(pierd), signal.SIGKILL)
        id = pierd.api.run("echo", f"hello {number}")
        assert pierd.api.wait(id) == 0
        assert demultiplex(pierd.api.logs(id))[0] == f"hello {number}\n".encode()


def test_a_zygote_that_dies_with_starts_in_its_hands_costs_none_of_them(pierd: Pierd) -> None:
    """Their ports stay reserved meanwhile, and who has attached beforehand misses nothing."""
    api = pierd.api
    ids = [
        api.create("echo", "hi", HostConfig={"PortBindings": {"80/tcp": [{"HostPort": str(9000 + number)}]}})
        for number in range(4)
    ]
    clients = [api.hijack(f"/containers/{id}/attach", stream=1, stdout=1, stderr=1) for id in ids]
    stopped = zygote(pierd)
    os.kill(stopped, signal.SIGSTOP)
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda id=id: answers.append(api.send("POST", f"/containers/{id}/start").status))
        for id in ids
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: all(reserved(pierd, 9000 + number) for number in range(4)), "four starts on their way")
    os.kill(stopped, signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert answers == [204] * 4
    for id, client in zip(ids, clients, strict=True):
        with client.socket:
            assert demultiplex(client.read_all())[0] == b"hi\n"
        assert api.wait(id) == 0
    assert settled(pierd) == []


def zygote(pierd: Pierd) -> int:
    return next(pid for pid in processes_in(pierd.host.path) if comm(pid) == "pierhead-zygote")


def reserved(pierd: Pierd, port: int) -> bool:
    try:
        pierd.host.call(lambda: socket.create_server(("0.0.0.0", port))).close()
    except OSError:
        return True
    return False


def ended(pid: int) -> bool:
    """A zombie has: without its shim it is the machine's PID 1 that reaps it, whenever that likes to."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_shim_that_is_killed_takes_its_container_along_and_says_so(pierd: Pierd) -> None:
    id = pierd.api.run("sleep", "1000", name="orphan", HostConfig=PUBLISHED)
    pid = pierd.api.inspect(id)["State"]["Pid"]
    os.kill(parent(pid), signal.SIGKILL)
    wait_until(lambda: pierd.api.inspect(id)["State"]["Status"] == "exited", "its end")
    assert pierd.api.inspect(id)["State"]["ExitCode"] in (137, 255)
    wait_until(lambda: ended(pid), "the end of its process")
    assert settled(pierd) == []
    pierd.api.ok("POST", f"/containers/{id}/start")


# In the middle of what takes its time ---------------------------------------------------------------------------------

LAYERS = [tar({f"file{number}": os.urandom(3_000_000)}) for number in range(3)]
ends = pytest.mark.parametrize("end", [Pierd.stop, Pierd.kill], ids=["SIGTERM", "kill-9"])


@contextmanager
def under_way(work: Callable[[], object]) -> Iterator[None]:
    """A request in a thread, which may break off or be refused."""

    def run() -> None:
        with suppress(OSError, http.client.HTTPException, AssertionError):
            work()

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()


@ends
def test_a_pull_that_the_daemon_did_not_live_to_finish_leaves_nothing_and_is_repeated(
    pierd: Pierd, end: Callable[[Pierd], object]
) -> None:
    with stalling_registry(pierd.host, LAYERS) as registry:
        name, tag = registry.image.rsplit(":", 1)
        with under_way(lambda: pierd.api.send("POST", "/images/create", fromImage=name, tag=tag)):
            assert registry.stalled.wait(60)
            end(pierd)
        pierd.start()
        assert settled(pierd) == []
        registry.go.set()
        said = pierd.api.ok("POST", "/images/create", fromImage=name, tag=tag).records
    assert said[-1]["status"].startswith("Status: Downloaded newer image")
    pierd.api.ok("DELETE", f"/images/{registry.image}")
    assert settled(pierd) == []


def unread(connection: socket.socket) -> int:
    """Bytes that the other side has not taken yet."""
    return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


@ends
@pytest.mark.parametrize("path", ["/images/load", "/images/create?fromSrc=-&repo=half"], ids=["load", "import"])
def test_an_archive_that_the_daemon_did_not_live_to_read_leaves_nothing(
    pierd: Pierd, end: Callable[[Pierd], object], path: str
) -> None:
    images = len(pierd.api.get("/images/json"))
    archive = docker_archive(LAYERS, ["half:read"]) if "load" in path else busybox_rootfs()
    head = f"POST /v1.41{path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-tar\r\nContent-Length: {len(archive)}"
    with connect(pierd.socket) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + archive[: len(archive) * 3 // 4])
        wait_until(lambda: not unread(connection), "the daemon to have read it")
        end(pierd)
    pierd.start()
    assert settled(pierd) == []
    assert len(pierd.api.get("/images/json")) == images
    pierd.api.ok("POST", path, raw=archive, content_type="application/x-tar")
    assert len(pierd.api.get("/images/json")) == images + 1


@ends
def test_an_exec_goes_on_without_the_daemon_and_its_container_takes_others(
    pierd: Pierd, end: Callable[[Pierd], object]
) -> None:
    id = pierd.api.run("sleep", "1000")
    script = "n=0; while [ $n -lt 100 ]; do n=$((n+1)); echo $n; sleep 0.02; done > /numbers"
    made = pierd.api.ok("POST", f"/containers/{id}/exec", {"Cmd": ["sh", "-c", script], "AttachStdout": True})
    attached = pierd.api.hijack(f"/exec/{made.json['Id']}/start", {"Detach": False})
    end(pierd)
    with attached.socket, suppress(ConnectionError):
        attached.read_all()
    pierd.start()
    assert pierd.docker("exec", id, "echo", "another").check().stdout == "another\n"
    wait_until(lambda: pierd.docker("exec", id, "tail", "-1", "/numbers").stdout == "100\n", "its last number")
    wait_until(lambda: pierd.docker("top", id).check().stdout.count("\n") == 2, "its end")


@ends
def test_a_start_that_the_daemon_did_not_live_to_see_is_undone_or_done(
    pierd: Pierd, end: Callable[[Pierd], object]
) -> None:
    """The zygote stands still until the daemon is gone; whatever it does then, the next daemon finds nothing half."""
    id = pierd.api.create("sleep", "1000", HostConfig=PUBLISHED)
    stopped = zygote(pierd)
    os.kill(stopped, signal.SIGSTOP)
    with under_way(lambda: pierd.api.send("POST", f"/containers/{id}/start")):
        wait_until(lambda: reserved(pierd, 8081), "its start on its way")
        if end is Pierd.stop:
            threading.Timer(0.3, os.kill, (stopped, signal.SIGCONT)).start()
        end(pierd)
    with suppress(ProcessLookupError):
        os.kill(stopped, signal.SIGCONT)
    pierd.start()
    assert settled(pierd) == []
    if not pierd.api.inspect(id)["State"]["Running"]:
        pierd.api.ok("POST", f"/containers/{id}/start")
    assert pierd.docker("exec", id, "echo", "hi").check().stdout == "hi\n"
