"""pierd ended in order and not, once each: what goes on, what is taken up again, what is said to a second one."""

import os
import signal
import sqlite3
import subprocess
import threading
from pathlib import Path

import pytest

from tests.harness.api import demultiplex
from tests.harness.engines import Pierd, processes_in
from tests.harness.processes import wait_until
from tests.harness.reality import differences

pytestmark = pytest.mark.only_pierhead("ends of ours")

PUBLISHED = {"PortBindings": {"80/tcp": [{"HostPort": "8081"}]}}


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


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
    wait_until(lambda: not differences(pierd), f"agreement: {differences(pierd)}")


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
    assert differences(pierd) == []


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
        zygote = next(pid for pid in processes_in(pierd.host.path) if comm(pid) == "pierhead-zygote")
        os.kill(zygote, signal.SIGKILL)
        id = pierd.api.run("echo", f"hello {number}")
        assert pierd.api.wait(id) == 0
        assert demultiplex(pierd.api.logs(id))[0] == f"hello {number}\n".encode()


def test_a_shim_that_is_killed_takes_its_container_along_and_says_so(pierd: Pierd) -> None:
    id = pierd.api.run("sleep", "1000", name="orphan", HostConfig=PUBLISHED)
    pid = pierd.api.inspect(id)["State"]["Pid"]
    os.kill(parent(pid), signal.SIGKILL)
    wait_until(lambda: pierd.api.inspect(id)["State"]["Status"] == "exited", "its end")
    assert pierd.api.inspect(id)["State"]["ExitCode"] in (137, 255)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the end of its process")
    wait_until(lambda: not differences(pierd), f"agreement: {differences(pierd)}")
    pierd.api.ok("POST", f"/containers/{id}/start")
