"""Containers of an installed OCI runtime (the peers' runc), in the same daemon as native ones."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.engines import Engine, Pierd
from tests.harness.engines import engine as started_engine
from tests.harness.ociruntimes import oci_runtime
from tests.harness.processes import IN_TEST_MACHINE, wait_until


@pytest.fixture(scope="module")
def runtime() -> str:
    """The program of a real OCI runtime."""
    return oci_runtime()


@pytest.fixture(scope="module")
def made(runtime: str) -> Iterator[Pierd]:
    with started_engine("pierd", ["--add-runtime", f"peer={runtime}"]) as found:
        assert isinstance(found, Pierd)
        yield found


@pytest.fixture
def pierd(made: Pierd) -> Iterator[Pierd]:
    yield made
    made.forget()


def detached(engine: Engine, name: str, *words: str) -> str:
    """A container of the runtime's that runs on; its id."""
    return engine.docker("run", "-d", "--runtime", "peer", "--name", name, *words).check().stdout.strip()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_info_tells_the_runtimes_and_which_is_the_default(pierd: Pierd, runtime: str) -> None:
    info = pierd.api.get("/info")
    assert info["DefaultRuntime"] == "pierhead"
    assert info["Runtimes"]["pierhead"] == {"path": "native"} and info["Runtimes"]["peer"] == {"path": runtime}
    assert ("runc" in info["Runtimes"]) == (shutil.which("runc") is not None)
    assert "peer" in pierd.docker("info").check().stdout


def test_an_unknown_runtime_is_refused_before_anything_is_made(pierd: Pierd) -> None:
    refused = pierd.docker("run", "--runtime", "x", "busybox", "true")
    assert refused.status == 125 and "unknown or invalid runtime name: x" in refused.stderr
    assert pierd.api.get("/containers/json", all=1) == []


def test_a_container_of_the_runtime_lives_like_any_other(pierd: Pierd) -> None:
    pierd.docker("network", "create", "net").check()
    id = detached(
        pierd, "one", "--network", "net", "-p", "8099:8080", "--memory", "64m", "--ulimit", "nofile=99", "web"
    )
    pierd.docker("run", "-d", "--name", "two", "--network", "net", "busybox", "sleep", "1000").check()
    found = pierd.api.get("/containers/one/json")
    assert found["HostConfig"]["Runtime"] == "peer" and found["State"]["Running"]
    # The runtime's state knows it, so it is not our own init that runs here.
    state = pierd.exec_root / "containers" / id / "state" / id / ("status" if IN_TEST_MACHINE else "state.json")
    assert str(found["State"]["Pid"]) in state.read_text()

    asked = pierd.docker("exec", "-i", "two", "nc", "one", "8080", stdin=b"GET /index.html HTTP/1.0\r\n\r\n").check()
    assert f"this is {id[:12]}" in asked.stdout, "a native container finds it by its name"
    back = pierd.docker("exec", "one", "ping", "-c", "1", "two").check()
    assert "1 packets received" in back.stdout
    assert pierd.docker("exec", "one", "sh", "-c", "ulimit -n; hostname").check().lines == ["99", id[:12]]
    assert pierd.docker("exec", "-u", "nobody", "-w", "/tmp", "one", "sh", "-c", "id -u; pwd").lines == [
        "65534",
        "/tmp",
    ]
    missing = pierd.docker("exec", "one", "nosuchprogram")
    assert missing.status == 127 and 'exec: "nosuchprogram": executable file not found in $PATH' in missing.stdout

    assert "httpd" in pierd.docker("top", "one").check().stdout
    stats = pierd.api.get("/containers/one/stats", stream=0)
    assert stats["memory_stats"]["limit"] == 64 << 20 and stats["networks"]["eth0"]["rx_packets"] > 0
    pierd.docker("update", "--memory", "32m", "--memory-swap", "32m", "one").check()
    assert pierd.api.get("/containers/one/stats", stream=0)["memory_stats"]["limit"] == 32 << 20
    pierd.docker("pause", "one").check()
    assert pierd.api.get("/containers/one/json")["State"]["Status"] == "paused"
    pierd.docker("unpause", "one").check()

    pierd.docker("network", "create", "other").check()
    pierd.docker("network", "connect", "other", "one").check()
    assert "eth1" in pierd.docker("exec", "one", "ip", "link").check().stdout
    assert pierd.docker("stop", "-t", "1", "one").check().status == 0
    assert pierd.api.get("/containers/one/json")["State"]["ExitCode"] in (137, 143)
    pierd.docker("start", "one").check()
    assert pierd.docker("rm", "-f", "one").check().status == 0


def test_a_start_that_the_runtime_refuses_is_told_in_dockers_words(pierd: Pierd) -> None:
    missing = pierd.docker("run", "--rm", "--runtime", "peer", "busybox", "nosuchprogram")
    assert missing.status == 127 and 'exec: "nosuchprogram": executable file not found in $PATH' in missing.stderr
    assert pierd.docker("run", "--rm", "--runtime", "peer", "busybox", "/etc/passwd").status == 126
    user = pierd.docker("run", "--rm", "--runtime", "peer", "-u", "none", "busybox", "true")
    assert "unable to find user none: no matching entries in passwd file" in user.stderr
    assert pierd.docker("run", "--rm", "--runtime", "peer", "busybox", "sh", "-c", "echo out; exit 7").status == 7


def test_what_a_container_may_do_is_the_same_under_either_runtime(pierd: Pierd) -> None:
    """Not everything (tests of security ask for that); what a mistake in the configuration would change first."""
    script = (
        "grep -E '^(Cap|Seccomp:|NoNewPrivs|Groups)' /proc/self/status; umask; ls /dev; cat /proc/sys/net/ipv4/"
        "ip_unprivileged_port_start; for file in /proc/kcore /proc/keys /proc/sys/kernel/core_pattern; do "
        "ls -l $file | cut -c1-10; done; echo x >/proc/sys/kernel/core_pattern; mount -t tmpfs none /mnt; "
        "mkdir /sys/x; ls /sys/firmware | wc -l; "
        "awk '$5 ~ \"^/(dev.*|proc|sys|scratch|etc/.*)?$\" { print $5, $6 }' /proc/self/mountinfo; "
        "cat /proc/1/cgroup >/dev/null && echo readable; id; pwd; env | grep -v HOSTNAME | sort"
    )
    options = "--rm -u www-data --group-add wheel -w /tmp --tmpfs /scratch:size=1m -e A=b".split()
    options += "--sysctl net.ipv4.ip_forward=0 --cap-drop chown --shm-size 1m busybox".split()
    ours, theirs = (
        pierd.docker("run", "--runtime", runtime, *options, "sh", "-c", script) for runtime in ("pierhead", "peer")
    )
    lines = [{line for line in one.stdout.splitlines() if "/sys/fs/cgroup" not in line} for one in (ours, theirs)]
    assert lines[0] == lines[1]
    assert sorted(ours.stderr.splitlines()) == sorted(theirs.stderr.splitlines())


def test_a_terminal_has_its_size_from_the_beginning(pierd: Pierd) -> None:
    settings = {"Runtime": "peer", "ConsoleSize": [31, 71]}
    request = {"Image": "busybox", "Cmd": ["sh", "-c", "stty size; tty"], "Tty": True, "HostConfig": settings}
    id = pierd.api.ok("POST", "/containers/create", request).json["Id"]
    pierd.docker("start", "-a", id).check()
    assert pierd.docker("logs", id).stdout.split() == ["31", "71", "/dev/pts/0"]


def test_a_cgroup_parent_goes_with_its_last_container_in_every_hierarchy(pierd: Pierd) -> None:
    parent = f"pier-test-{os.getpid()}"
    id = detached(pierd, "one", "--cgroup-parent", f"/{parent}/below", "busybox", "sleep", "1000")
    pid = pierd.api.get("/containers/one/json")["State"]["Pid"]
    assert all(line.endswith(f"/{parent}/below/{id}") for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    pierd.docker("rm", "-f", "one").check()
    top = Path("/sys/fs/cgroup")
    wait_until(lambda: not [*top.glob(parent), *top.glob(f"*/{parent}")], "the removal of the parent")


def test_parts_of_volumes_images_and_anothers_shared_memory_are_mounted(pierd: Pierd) -> None:
    pierd.docker("run", "--rm", "-v", "vol:/v", "busybox", "sh", "-c", "mkdir /v/sub; echo part >/v/sub/file").check()
    shared = ["run", "-d", "--name", "donor", "--ipc", "shareable", "busybox", "sh", "-c"]
    pierd.docker(*shared, "echo shared >/dev/shm/file; sleep 1000").check()
    settings = {
        "Runtime": "peer",
        "IpcMode": "container:donor",
        "Mounts": [
            {"Type": "volume", "Source": "vol", "Target": "/part", "VolumeOptions": {"Subpath": "sub"}},
            {"Type": "volume", "Source": "vol", "Target": "/one", "VolumeOptions": {"Subpath": "sub/file"}},
            {"Type": "image", "Source": "web", "Target": "/image"},
            {"Type": "image", "Source": "web", "Target": "/etc-of-it", "ImageOptions": {"Subpath": "etc"}},
        ],
    }
    script = (
        "cat /part/file /one /dev/shm/file; ls /image/bin/busybox /etc-of-it/passwd; "
        "touch /part/x /dev/shm/x && echo written; touch /image/x || touch /etc-of-it/x || echo refused"
    )
    request = {"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": settings}
    id = pierd.api.ok("POST", "/containers/create", request).json["Id"]
    said = pierd.docker("start", "-a", id).stdout.split()
    assert said == ["part", "part", "shared", "/etc-of-it/passwd", "/image/bin/busybox", "written", "refused"]
    assert pierd.docker("exec", "donor", "ls", "/dev/shm").stdout.split() == ["file", "x"]


def test_a_killed_daemon_finds_it_running_and_hears_of_its_end(runtime: str) -> None:
    with started_engine("pierd", ["--add-runtime", f"peer={runtime}", "--default-runtime", "peer"]) as pierd:
        assert pierd.api.get("/info")["DefaultRuntime"] == "peer"
        pierd.docker("run", "-d", "--name", "a1", "busybox", "sh", "-c", "echo before; sleep 1000").check()
        pierd.docker("run", "-d", "--name", "b1", "busybox", "sleep", "1000").check()
        pierd.docker("run", "-d", "--name", "c1", "busybox", "sleep", "1000").check()
        pids = {name: int(pierd.api.get(f"/containers/{name}/json")["State"]["Pid"]) for name in ("a1", "b1", "c1")}
        pierd.kill()
        os.kill(pids["b1"], signal.SIGKILL)
        os.kill(parent_of(pids["c1"]), signal.SIGKILL)  # its shim
        time.sleep(0.5)
        pierd.start(*pierd.extra)
        for name in ("b1", "c1"):  # their ends are told to a daemon that answers already
            wait_until(lambda: not pierd.api.inspect(name)["State"]["Running"], f"the end of {name}")  # noqa: B023
        states = {name: pierd.api.get(f"/containers/{name}/json")["State"] for name in ("a1", "b1", "c1")}
        assert states["a1"]["Running"] and states["a1"]["Pid"] == pids["a1"]
        assert (states["b1"]["Status"], states["b1"]["ExitCode"]) == ("exited", 137)
        assert states["c1"]["Status"] == "exited"
        wait_until(lambda: not os.path.exists(f"/proc/{pids['c1']}"), "the end of who lost its shim")
        assert pierd.docker("exec", "a1", "echo", "again").check().stdout == "again\n"
        assert pierd.docker("logs", "a1").check().stdout == "before\n"
        pierd.docker("start", "b1", "c1").check()


def test_a_runtime_that_is_gone_is_said_at_the_start(tmp_path: Path, runtime: str) -> None:
    own = tmp_path / "own-runtime"
    own.symlink_to(runtime)
    with started_engine("pierd", ["--add-runtime", f"own={own}"]) as pierd:
        pierd.docker("create", "--runtime", "own", "--name", "a1", "busybox", "true").check()
        own.unlink()
        refused = pierd.docker("start", "a1")
        assert refused.status == 1 and "unknown or invalid runtime name: own" in refused.stderr
        assert json.dumps("own") not in json.dumps(pierd.api.get("/info")["Runtimes"])
        own.symlink_to(runtime)
        assert pierd.docker("start", "-a", "a1").check().status == 0
