"""--exec-opt native.cgroupdriver: containers' control groups made by us, or scopes that systemd makes and knows."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.api import Api
from tests.harness.engines import PIERD, Engine
from tests.harness.engines import engine as started_engine
from tests.harness.ociruntimes import oci_runtime
from tests.harness.processes import run, wait_until
from tests.harness.systemd import SYSTEMD, Booted, booted

SYSTEMD_DRIVER = "native.cgroupdriver=systemd"
UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()


@pytest.fixture(scope="module")
def machine() -> Iterator[Booted]:
    """Systemd as PID 1."""
    if not os.access(SYSTEMD, os.X_OK) or shutil.which("systemctl") is None:
        pytest.skip("no systemd to boot a machine with: apt-get install systemd")
    with booted() as made:
        yield made


@pytest.fixture(scope="module")
def shared_engine(machine: Booted) -> Iterator[Engine]:
    """A daemon on it, whose driver is systemd."""
    with started_engine("pierd", ["--exec-opt", SYSTEMD_DRIVER], inside=machine.argv()) as made:
        yield made


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


def scope(id: str) -> str:
    return f"pierhead-{id}.scope"


def shown(machine: Booted, id: str, *names: str) -> list[str]:
    """Properties of a container's scope."""
    asked = machine.systemctl("show", scope(id), *(f"--property={name}" for name in names))
    values = dict(line.split("=", 1) for line in asked.stdout.splitlines())
    return [values.get(name, "") for name in names]


def test_a_container_is_a_scope_with_its_limits_and_ends_with_it(machine: Booted, api: Api) -> None:
    assert api.get("/info")["CgroupDriver"] == "systemd"
    host = {"Memory": 64 << 20, "NanoCpus": 500_000_000, "PidsLimit": 50}
    id = api.run("sleep", "1000", HostConfig=host)
    memory = "MemoryMax" if UNIFIED else "MemoryLimit"
    group = f"/system.slice/{scope(id)}"
    assert shown(machine, id, "ActiveState", "Slice", "Delegate", "ControlGroup") == [
        "active", "system.slice", "yes", group,
    ]  # fmt: skip
    assert shown(machine, id, memory, "CPUQuotaPerSecUSec", "TasksMax") == [str(64 << 20), "500ms", "50"]
    # An update is known to systemd, which writes its limits again when it is reloaded.
    api.ok("POST", f"/containers/{id}/update", {"Memory": 128 << 20, "MemorySwap": 256 << 20})
    assert shown(machine, id, memory) == [str(128 << 20)]
    machine.systemctl("daemon-reload")
    file = f"/sys/fs/cgroup{group}/memory.max" if UNIFIED else f"/sys/fs/cgroup/memory{group}/memory.limit_in_bytes"
    assert run(machine.argv("cat", file)).stdout.strip() == str(128 << 20)
    assert api.get(f"/containers/{id}/stats", stream="false")["pids_stats"]["current"] == 1
    assert "sleep 1000" in str(api.get(f"/containers/{id}/top")["Processes"])
    api.ok("POST", f"/containers/{id}/restart", t=0)
    assert shown(machine, id, "ActiveState") == ["active"]
    api.ok("POST", f"/containers/{id}/kill")
    wait_until(lambda: shown(machine, id, "ActiveState") == ["inactive"], "the scope's end")


def test_who_stops_the_scope_stops_the_container(machine: Booted, api: Api) -> None:
    id = api.run("sh", "-c", "trap 'exit 7' TERM; echo ready; while true; do sleep 0.1; done")
    wait_until(lambda: b"ready" in api.logs(id), "its handler")
    machine.systemctl("stop", scope(id))
    wait_until(lambda: not api.inspect(id)["State"]["Running"], "the container's end")
    assert api.inspect(id)["State"]["ExitCode"] == 7


def test_a_parent_is_a_slice(machine: Booted, api: Api) -> None:
    id = api.run("sleep", "1000", HostConfig={"CgroupParent": "some-thing.slice"})
    assert shown(machine, id, "ControlGroup") == [f"/some.slice/some-thing.slice/{scope(id)}"]
    for wrong in ("/some/thing", ".slice", "a--b.slice", "a/b.slice"):
        body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"CgroupParent": wrong}}
        answer = api.send("POST", "/containers/create", body)
        said = 'cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"'
        assert (answer.status, answer.message) == (400, said)


def test_a_start_that_fails_leaves_no_scope(machine: Booted, api: Api) -> None:
    id = api.create("/no/such/program")
    answer = api.send("POST", f"/containers/{id}/start")
    assert answer.status == 400 and "no such file" in answer.message
    wait_until(lambda: shown(machine, id, "ActiveState") == ["inactive"], "the scope's end")


def test_a_restarted_daemon_finds_its_scopes(machine: Booted, engine: Engine, api: Api) -> None:
    id = api.run("sleep", "1000")
    engine.kill()
    engine.start()
    assert api.inspect(id)["State"]["Running"]
    assert engine.docker("exec", id, "echo", "here").stdout == "here\n"
    api.ok("DELETE", f"/containers/{id}", force=1)
    wait_until(lambda: shown(machine, id, "ActiveState") == ["inactive"], "the scope's end")


def test_without_a_setting_it_is_systemd_where_that_runs_on_cgroup_v2_alone(machine: Booted) -> None:
    with started_engine("pierd", inside=machine.argv()) as made:
        assert made.api.get("/info")["CgroupDriver"] == ("systemd" if UNIFIED else "cgroupfs")
        id = made.api.run("sleep", "1000")
        assert shown(machine, id, "ActiveState") == ["active" if UNIFIED else "inactive"]


def test_an_oci_runtime_has_systemd_make_the_same_scope(machine: Booted) -> None:
    runtime = ["--add-runtime", f"mine={oci_runtime('runc')}"]
    with started_engine("pierd", ["--exec-opt", SYSTEMD_DRIVER, *runtime], inside=machine.argv()) as made:
        api = made.api
        id = api.run("sleep", "1000", HostConfig={"Runtime": "mine", "Memory": 64 << 20, "CgroupParent": "a-b.slice"})
        memory = "MemoryMax" if UNIFIED else "MemoryLimit"
        assert shown(machine, id, "ActiveState", "Slice", "ControlGroup", memory) == [
            "active", "a-b.slice", f"/a.slice/a-b.slice/{scope(id)}", str(64 << 20),
        ]  # fmt: skip
        api.ok("POST", f"/containers/{id}/update", {"Memory": 128 << 20, "MemorySwap": 256 << 20})
        assert shown(machine, id, memory) == [str(128 << 20)]
        assert made.docker("exec", id, "echo", "here").stdout == "here\n"
        api.ok("POST", f"/containers/{id}/pause")
        assert api.get(f"/containers/{id}/stats", stream="false")["pids_stats"]["current"] == 1
        api.ok("DELETE", f"/containers/{id}", force=1)
        wait_until(lambda: shown(machine, id, "ActiveState") == ["inactive"], "the scope's end")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--exec-opt", SYSTEMD_DRIVER], "systemd not running on this host, cannot use systemd cgroups manager"),
        (["--exec-opt", SYSTEMD_DRIVER, "--cgroup-parent", "/x"], "should be a valid slice named as"),
        (["--exec-opt", "native.cgroupdriver=none"], "is internally used and cannot be specified manually"),
        (["--exec-opt", "native.cgroupdriver=other"], "native.cgroupdriver option other not supported"),
    ],
)
def test_a_driver_that_cannot_be_is_refused_at_the_daemons_start(options: list[str], said: str, tmp_path: Path) -> None:
    if os.path.isdir("/run/systemd/system"):
        pytest.skip("systemd has booted this machine")
    settings = tmp_path / "daemon.json"
    settings.write_text("{}")
    done = run([str(PIERD), "--config-file", str(settings), *options, "--validate"])
    assert (done.status, said in done.stderr) == (1, True), done.stderr
