"""Cgroup plans: a limit asked for in the API's terms arrives in the kernel's, on v1, hybrid and v2 hosts."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pierhead.libcontainer import cgroupfs, cgroups, devicefilter
from pierhead.libcontainer.cgroups import Layout, plan
from pierhead.libcontainer.spec import Resources

V1 = {name: f"/cg/{name}" for name in cgroups.V1_CONTROLLERS}
HYBRID = Layout(V1, "/cg/unified", ("hugetlb",))
PURE_V1 = Layout({**V1, "cpu": "/cg/cpu,cpuacct", "cpuacct": "/cg/cpu,cpuacct", "name=systemd": "/cg/systemd"})
V2 = Layout({}, "/cg", ("cpuset", "cpu", "io", "memory", "hugetlb", "pids"))
PATH = "/pierhead/i/c"

EVERYTHING = Resources(
    memory=64 << 20,
    memory_swap=96 << 20,
    memory_reservation=32 << 20,
    memory_swappiness=10,
    cpu_shares=512,
    cpu_period=100000,
    cpu_quota=50000,
    cpuset_cpus="0-1",
    cpuset_mems="0",
    pids=100,
    blkio_weight=500,
)


def _writes(layout: Layout, resources: Resources) -> dict[str, str | bytes]:
    return {path: value for kind, path, value in plan(layout, PATH, resources).steps if kind in ("write", "try")}


def test_every_limit_arrives_on_v2() -> None:
    assert _writes(V2, EVERYTHING) == {
        "/cg/pierhead/i/c/memory.max": str(64 << 20),
        "/cg/pierhead/i/c/memory.swap.max": str(32 << 20),
        "/cg/pierhead/i/c/memory.low": str(32 << 20),
        "/cg/pierhead/i/c/cpu.weight": "20",
        "/cg/pierhead/i/c/cpu.max": "50000 100000",
        "/cg/pierhead/i/c/cpuset.cpus": "0-1",
        "/cg/pierhead/i/c/cpuset.mems": "0",
        "/cg/pierhead/i/c/pids.max": "100",
        "/cg/pierhead/i/c/io.bfq.weight": "500",
        "/cg/pierhead/i/c/io.weight": "4950",
    }


def test_every_limit_arrives_on_v1() -> None:
    assert _writes(HYBRID, EVERYTHING) == {
        "/cg/memory/pierhead/i/c/memory.limit_in_bytes": str(64 << 20),
        "/cg/memory/pierhead/i/c/memory.memsw.limit_in_bytes": str(96 << 20),
        "/cg/memory/pierhead/i/c/memory.soft_limit_in_bytes": str(32 << 20),
        "/cg/memory/pierhead/i/c/memory.swappiness": "10",
        "/cg/cpu/pierhead/i/c/cpu.shares": "512",
        "/cg/cpu/pierhead/i/c/cpu.cfs_period_us": "100000",
        "/cg/cpu/pierhead/i/c/cpu.cfs_quota_us": "50000",
        "/cg/cpuset/pierhead/i/c/cpuset.cpus": "0-1",
        "/cg/cpuset/pierhead/i/c/cpuset.mems": "0",
        "/cg/pids/pierhead/i/c/pids.max": "100",
        "/cg/blkio/pierhead/i/c/blkio.weight": "500",
        "/cg/blkio/pierhead/i/c/blkio.bfq.weight": "500",
    }


def test_the_memory_limit_is_written_before_the_one_that_must_not_be_smaller() -> None:
    files = list(_writes(HYBRID, EVERYTHING))
    assert files.index("/cg/memory/pierhead/i/c/memory.limit_in_bytes") < files.index(
        "/cg/memory/pierhead/i/c/memory.memsw.limit_in_bytes"
    )


@pytest.mark.parametrize("layout", [HYBRID, PURE_V1, V2])
def test_without_limits_nothing_is_written(layout: Layout) -> None:
    assert _writes(layout, Resources()) == {}


@pytest.mark.parametrize(
    ("memory", "both", "expected"),
    [(100, 100, "0"), (100, 200, "100"), (100, -1, "max"), (0, -1, "max")],
)
def test_swap_is_limited_by_itself_on_v2(memory: int, both: int, expected: str) -> None:
    assert cgroups.swap_alone(memory, both) == expected


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 39), (262144, 10000), (1, 1), (10**9, 10000)])
def test_cpu_shares_become_the_weight_that_runc_gives(shares: int, weight: int) -> None:
    assert cgroups.weight_of_shares(shares) == weight


def test_an_unlimited_number_of_processes_can_be_asked_for() -> None:
    assert _writes(V2, Resources(pids=-1)) == {"/cg/pierhead/i/c/pids.max": "max"}


def test_a_quota_alone_keeps_the_period_and_a_period_alone_the_quota() -> None:
    assert _writes(V2, Resources(cpu_quota=50000)) == {"/cg/pierhead/i/c/cpu.max": "50000"}
    assert _writes(V2, Resources(cpu_period=50000)) == {"/cg/pierhead/i/c/cpu.max": "max 50000"}


def test_a_limit_that_the_host_cannot_keep_is_refused_not_ignored() -> None:
    with pytest.raises(OSError, match="'memory' is not there"):
        plan(Layout({}, "/cg", ("pids",)), PATH, Resources(memory=1 << 26))


def test_v2_is_entered_by_clone_alone() -> None:
    made = plan(V2, PATH, Resources())
    assert made.into == "/cg/pierhead/i/c"
    assert made.join == ()
    assert made.directories == ("/cg/pierhead/i/c",)


def test_hybrid_is_entered_by_clone_and_one_write_a_controller() -> None:
    made = plan(HYBRID, PATH, Resources())
    assert made.into == "/cg/unified/pierhead/i/c"
    assert "/cg/memory/pierhead/i/c/tasks" in made.join
    assert not any("unified" in file or "freezer" in file for file in made.join)


def test_pure_v1_uses_the_freezer_and_takes_processes_out_of_the_daemons_unit() -> None:
    made = plan(PURE_V1, PATH, Resources())
    assert made.into == ""
    assert "/cg/freezer/pierhead/i/c/tasks" in made.join
    assert "/cg/systemd/pierhead/i/c/tasks" in made.join
    assert len([file for file in made.join if "cpuacct" in file]) == 1


@pytest.mark.parametrize("path", ["", "/", "//", "/..", "/pierhead/../..", "pierhead", "/pierhead/i/"])
def test_the_whole_machine_is_no_container_that_could_be_killed(path: str) -> None:
    with pytest.raises(ValueError, match="not a cgroup"):
        HYBRID.directories(path)


def test_devices_are_lines_on_v1_and_a_program_on_v2() -> None:
    resources = Resources(devices=devicefilter.DEFAULT)
    lines = [step for step in plan(HYBRID, PATH, resources).steps if "devices." in step[1]]
    assert lines[0] == ("write", "/cg/devices/pierhead/i/c/devices.deny", "a")
    assert ("write", "/cg/devices/pierhead/i/c/devices.allow", "c 136:* rwm") in lines
    kind, directory, program = plan(V2, PATH, resources).steps[-1]
    assert (kind, directory) == ("devices", "/cg/pierhead/i/c")
    assert program == devicefilter.compile(devicefilter.DEFAULT)


def test_detection_reads_v1_hybrid_and_odd_mount_points(tmp_path: Path) -> None:
    for name in ("cpu", "memory", "uni fied"):
        (tmp_path / name).mkdir()
    (tmp_path / "uni fied/cgroup.controllers").write_text("hugetlb rdma\n")
    escaped = str(tmp_path / "uni fied").replace(" ", "\\040")
    table = tmp_path / "mountinfo"
    table.write_text(
        f"32 31 0:29 / {tmp_path}/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        f"35 31 0:32 / {tmp_path}/memory rw,relatime - cgroup cgroup rw,memory\n"
        f"36 31 0:99 / {tmp_path}/gone rw,relatime - cgroup cgroup rw,pids\n"
        f"41 31 0:38 / {escaped} rw,relatime - cgroup2 cgroup2 rw\n"
        f"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n"
    )
    layout = cgroups.detect(str(table))
    assert dict(layout.controllers) == {
        "cpu": f"{tmp_path}/cpu",
        "cpuacct": f"{tmp_path}/cpu",
        "memory": f"{tmp_path}/memory",
    }
    assert layout.unified == str(tmp_path / "uni fied")
    assert layout.unified_controllers == ("hugetlb", "rdma")
    assert layout.version == 1


def test_a_host_without_cgroups_is_told_what_to_mount(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("27 1 254:0 / / rw - ext4 /dev/vda rw\n")
    with pytest.raises(OSError, match="mount -t cgroup2"):
        cgroups.detect(str(table))


def test_removing_what_is_gone_is_no_error(tmp_path: Path) -> None:
    cgroupfs.remove((str(tmp_path / "a"), str(tmp_path / "b")))
    assert cgroupfs.pids((str(tmp_path / "a"),)) == []
    assert cgroupfs.oom_kills((str(tmp_path / "a"),)) == 0


def test_a_pause_of_a_container_that_is_just_ending_does_not_wait_for_it_to_stand_still(tmp_path: Path) -> None:
    """Files in the place of a cgroup that never gets frozen; it is removed while ``freeze`` looks at it."""
    group = tmp_path / "c"
    group.mkdir()
    (group / "cgroup.freeze").write_text("0")
    (group / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    gone = threading.Timer(0.05, shutil.rmtree, (group,))
    gone.start()
    with pytest.raises(ProcessLookupError, match="ended"):
        cgroupfs.freeze((str(group),), wait=3600)
    gone.join()
    with pytest.raises(ProcessLookupError, match="ended"):
        cgroupfs.freeze((str(group),))


def test_what_a_shim_holds_imports_next_to_nothing() -> None:
    """Every module here costs memory once per container, and none may be imported after the fork."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; import pierhead.libcontainer.cgroupfs; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert not {"typing", "dataclasses", "enum", "re", "json", "asyncio"} & set(run.stdout.split())
