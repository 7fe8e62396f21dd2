"""Cgroups against the kernel, on whatever layout it has: limits hold, kill leaves nobody, remove leaves nothing."""

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from pierhead.driver.execdriver import parents
from pierhead.libcontainer import cgroupfs, cgroups, devicefilter, oom, stats
from pierhead.libcontainer.cgroups import Layout
from pierhead.libcontainer.spec import Resources
from tests.harness.kernel import need

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def _layouts() -> list[str]:
    """The host's own layout, and, on a hybrid host, also as if there were no unified hierarchy."""
    layout = cgroups.detect()
    return ["host", "pure v1"] if layout.version == 1 and layout.unified else ["host"]


@pytest.fixture(params=_layouts())
def layout(request: pytest.FixtureRequest) -> Layout:
    found = cgroups.detect()
    return found if request.param == "host" else replace(found, unified="", unified_controllers=())


@pytest.fixture
def base(layout: Layout) -> Iterator[str]:
    base = f"/h3-{uuid.uuid4().hex[:8]}/instance"
    cgroups.prepare(layout, base)
    yield base
    for name in cgroups.existing(layout, base):
        directories = layout.directories(f"{base}/{name}")
        cgroupfs.thaw(directories)
        cgroupfs.kill(directories)
        cgroupfs.remove(directories)
    cgroups.dismantle(layout, base)
    assert not any(os.path.exists(directory) for directory in layout.directories(os.path.dirname(base)))


class Inside:
    """A forked process that has entered a cgroup and does ``work``; ``join`` gives its exit status."""

    def __init__(self, plan: cgroups.Plan, work: Callable[[], int]) -> None:
        ready, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 99
            try:
                signal.alarm(60)
                for file in plan.join:
                    cgroupfs.write(file, "0")
                if plan.into:
                    cgroupfs.write(f"{plan.into}/cgroup.procs", "0")
                os.write(tell, b"x")
                status = work()
            finally:
                os._exit(status)
        os.close(tell)
        assert os.read(ready, 1) == b"x", "the process could not enter its cgroup"
        os.close(ready)

    def wait(self) -> int:
        """The exit code, or minus the signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _sleep() -> int:
    time.sleep(60)
    return 0


def _made(layout: Layout, base: str, resources: Resources) -> cgroups.Plan:
    plan = cgroups.plan(layout, f"{base}/c", resources)
    cgroupfs.execute(plan.steps)
    return plan


def test_kill_ends_all_processes_of_nested_groups_too(layout: Layout, base: str) -> None:
    plan = _made(layout, base, Resources())
    nested = replace(
        plan,
        join=tuple(file.replace("/tasks", "/inner/tasks") for file in plan.join),
        into=plan.into and f"{plan.into}/inner",
    )
    for directory in plan.directories:
        os.mkdir(f"{directory}/inner")
    inside = [Inside(plan, _sleep), Inside(plan, _sleep), Inside(nested, _sleep)]
    assert cgroupfs.pids(plan.directories) == sorted(one.pid for one in inside)
    cgroupfs.kill(plan.directories)
    assert [one.wait() for one in inside] == [-9, -9, -9]
    cgroupfs.remove(plan.directories)
    assert cgroups.existing(layout, base) == ()
    cgroupfs.kill(plan.directories)
    cgroupfs.remove(plan.directories)


def test_groups_that_are_deeper_than_a_path_is_long_hide_nobody_and_can_be_removed(layout: Layout, base: str) -> None:
    """A container that may make groups below its own was never rid of, and took its shim with it."""
    plan = _made(layout, base, Resources())
    top = os.open(plan.directories[0], os.O_RDONLY | os.O_DIRECTORY)
    here = top
    name = 200 * "d"
    for _ in range(25):
        os.mkdir(name, dir_fd=here)
        there = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = there
    inside = Inside(plan, _sleep)
    procs = os.open("cgroup.procs", os.O_WRONLY, dir_fd=here)
    os.write(procs, str(inside.pid).encode())
    os.close(procs)
    os.close(here)
    assert cgroupfs.pids(plan.directories[:1]) == [inside.pid]
    cgroupfs.kill(plan.directories)
    assert inside.wait() == -9
    cgroupfs.remove(plan.directories)
    assert cgroups.existing(layout, base) == ()


def test_processes_in_threaded_groups_are_found(layout: Layout, base: str) -> None:
    """A container that is allowed to can make its groups threaded (v2): those tell nobody their processes."""
    plan = _made(layout, base, Resources())
    if not plan.into:
        pytest.skip("cgroup v1 has no threaded groups")
    inside = Inside(plan, _sleep)
    os.mkdir(f"{plan.into}/threads")
    cgroupfs.write(f"{plan.into}/threads/cgroup.type", "threaded")
    cgroupfs.write(f"{plan.into}/threads/cgroup.threads", str(inside.pid))
    with pytest.raises(OSError, match="not supported"):
        cgroupfs.read(f"{plan.into}/threads/cgroup.procs")
    assert cgroupfs.pids((plan.into,)) == [inside.pid]
    cgroupfs.kill(plan.directories)
    assert inside.wait() == -9
    cgroupfs.remove(plan.directories)


def test_a_root_that_has_processes_is_refused_with_what_to_do(layout: Layout, base: str) -> None:
    """As in a container where the daemon is in the topmost cgroup that there is."""
    need("cgroup v2 alone")
    plan = _made(layout, base, Resources())
    inside = Inside(plan, _sleep)
    with pytest.raises(OSError, match="move them to one below it"):
        cgroups.prepare(replace(layout, unified=plan.into), "/inner")
    os.kill(inside.pid, 9)
    inside.wait()


def test_a_paused_container_stands_still_and_can_be_killed(layout: Layout, base: str) -> None:
    plan = _made(layout, base, Resources())
    counter, out = os.pipe()
    os.set_blocking(counter, False)

    def count() -> int:
        while True:
            os.write(out, b"x")
            time.sleep(0.001)

    inside = Inside(plan, count)
    os.close(out)
    assert cgroupfs.frozen(plan.directories) is False
    cgroupfs.freeze(plan.directories)
    assert cgroupfs.frozen(plan.directories) is True
    _drain(counter)
    time.sleep(0.05)
    assert _drain(counter) == 0
    cgroupfs.thaw(plan.directories)
    os.set_blocking(counter, True)
    assert os.read(counter, 1) == b"x"
    cgroupfs.freeze(plan.directories)
    cgroupfs.kill(plan.directories)
    assert inside.wait() == -9
    os.close(counter)


def _drain(descriptor: int) -> int:
    total = 0
    try:
        while chunk := os.read(descriptor, 65536):
            total += len(chunk)
    except BlockingIOError:
        pass
    return total


def test_memory_beyond_the_limit_is_an_oom_kill_that_is_counted(layout: Layout, base: str) -> None:
    plan = _made(layout, base, Resources(memory=16 << 20, memory_swap=16 << 20))
    assert cgroupfs.oom_kills(plan.directories) == 0

    def hog() -> int:
        return len(b"x" * (64 << 20)) and 0

    assert Inside(plan, hog).wait() == -9
    assert cgroupfs.oom_kills(plan.directories) == 1


def test_a_fork_bomb_stops_at_the_limit_of_processes(layout: Layout, base: str) -> None:
    plan = _made(layout, base, Resources(pids=3))

    def forks() -> int:
        children = []
        try:
            for _ in range(10):
                if (pid := os.fork()) == 0:
                    _sleep()
                children.append(pid)
        except BlockingIOError:
            pass
        for pid in children:
            os.kill(pid, 9)
        return len(children)

    assert Inside(plan, forks).wait() == 2


def test_a_container_is_bound_to_its_cpus(layout: Layout, base: str) -> None:
    plan = _made(layout, base, Resources(cpuset_cpus="0"))
    assert Inside(plan, lambda: len(os.sched_getaffinity(0)) * 16 + min(os.sched_getaffinity(0))).wait() == 16


def test_all_limits_are_accepted_by_this_kernel(layout: Layout, base: str) -> None:
    plan = _made(
        layout,
        base,
        Resources(
            memory=64 << 20, memory_swap=96 << 20, memory_reservation=32 << 20, cpu_shares=512, cpu_period=50000,
            cpu_quota=25000, cpuset_cpus="0", cpuset_mems="0", pids=100, blkio_weight=500,
        ),
    )  # fmt: skip
    for kind, file, value in plan.steps:
        if kind == "write" and "memory.m" in file:
            assert cgroupfs.read(file) == f"{value!s}\n"


@pytest.mark.parametrize("memory", [32 << 20, 256 << 20])
def test_memory_can_be_made_smaller_and_larger_while_running(layout: Layout, base: str, memory: int) -> None:
    plan = _made(layout, base, Resources(memory=64 << 20, memory_swap=128 << 20))
    cgroups.update(layout, f"{base}/c", Resources(memory=memory, memory_swap=memory * 2))
    files = ("memory.limit_in_bytes", "memory.max")
    assert f"{memory}\n" in [cgroupfs.read(f"{directory}/{file}") for directory in plan.directories for file in files]


def test_a_limit_of_processes_can_be_lifted_while_running(layout: Layout, base: str) -> None:
    plan = _made(layout, base, Resources(pids=5))
    cgroups.update(layout, f"{base}/c", Resources())
    assert "max\n" in [cgroupfs.read(f"{directory}/pids.max") for directory in plan.directories]


def _device_results() -> int:
    """Bits: 1 null opens, 2 a block device can be made, 4 it cannot be opened, 8 nor can the kernel's log."""
    result = 0
    os.close(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
    result |= 1
    node = f"/dev/shm/h3-{os.getpid()}"
    for mode, number, bit in ((0o060600, os.makedev(7, 200), 4), (0o020600, os.makedev(1, 11), 8)):
        os.mknod(node, mode, number)
        result |= 2
        try:
            os.close(os.open(node, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        except PermissionError:
            result |= bit
        except OSError:
            pass  # no such device here: allowed as far as the cgroup goes
        finally:
            os.unlink(node)
    return result


def test_only_the_allowed_devices_can_be_used(layout: Layout, base: str) -> None:
    plan = _made(layout, base, Resources(devices=devicefilter.DEFAULT))
    assert Inside(plan, _device_results).wait() == 15


def test_a_privileged_container_uses_every_device(layout: Layout, base: str) -> None:
    plan = _made(layout, base, Resources(devices=devicefilter.PRIVILEGED))
    assert Inside(plan, _device_results).wait() == 3


def test_figures_show_what_the_container_uses(layout: Layout, base: str) -> None:
    plan = _made(layout, base, Resources(memory=64 << 20, pids=7))
    used, out = os.pipe()

    def work() -> int:
        kept = bytearray(os.urandom(8 << 20))
        os.write(out, b"x")
        time.sleep(60)
        return len(kept)

    inside = Inside(plan, work)
    os.read(used, 1)
    figures = stats.read(layout, f"{base}/c")
    assert (figures.pids, figures.pids_limit) == (1, 7)
    assert 8 << 20 <= figures.memory.usage <= figures.memory.limit == 64 << 20
    assert 0 < figures.cpu.total < figures.cpu.system
    os.kill(inside.pid, 9)
    inside.wait()
    for descriptor in (used, out):
        os.close(descriptor)


def test_entering_v1_by_tasks_moves_the_whole_single_threaded_process(layout: Layout, base: str) -> None:
    plan = _made(layout, base, Resources())
    inside = Inside(plan, _sleep)
    for directory in plan.directories:
        assert (cgroupfs.read(f"{directory}/cgroup.procs") or "").split() == [str(inside.pid)]
    os.kill(inside.pid, 9)
    inside.wait()


def test_what_is_left_of_a_crash_is_listed(layout: Layout, base: str) -> None:
    for name in ("a", "b"):
        cgroupfs.execute(cgroups.plan(layout, f"{base}/{name}", Resources()).steps)
    if len(halves := layout.directories(f"{base}/b")) > 1:
        os.rmdir(halves[0])  # killed between two hierarchies
    assert cgroups.existing(layout, base) == ("a", "b")


def test_preparing_twice_changes_nothing(layout: Layout, base: str) -> None:
    cgroups.prepare(layout, base)
    assert cgroups.existing(layout, base) == ()


def test_a_process_that_hides_in_one_hierarchy_is_found_when_the_cgroup_is_removed(layout: Layout, base: str) -> None:
    plan = _made(layout, base, Resources())
    if len(plan.directories) == 1:
        pytest.skip("one hierarchy only: there is nowhere to hide")
    hidden = Inside(replace(plan, into="", join=plan.join[:1]), _sleep)
    cgroupfs.kill(plan.directories)
    cgroupfs.remove(plan.directories)
    assert hidden.wait() == -9


def test_instances_that_come_and_go_do_not_take_the_common_level_from_each_other(layout: Layout) -> None:
    top = f"/h3-{uuid.uuid4().hex[:8]}"

    def come_and_go(base: str) -> None:
        for _ in range(150):
            cgroups.prepare(layout, base)
            assert all(map(os.path.isdir, layout.directories(base)))
            cgroups.dismantle(layout, base)

    with ThreadPoolExecutor() as pool:
        list(pool.map(come_and_go, [f"{top}/{name}" for name in "abc"]))
    assert not any(map(os.path.exists, layout.directories(top)))


def test_parents_that_containers_share_stay_until_the_last_is_released(layout: Layout, tmp_path: Path) -> None:
    top = f"/h3-{uuid.uuid4().hex[:8]}"
    made = parents.at(str(tmp_path / "notes"))
    made.prepare(layout, f"{top}/a/one")
    made.prepare(layout, f"{top}/a/two")
    made.release(f"{top}/a/one")
    assert all(map(os.path.isdir, layout.directories(f"{top}/a"))), "the other's cgroup is not made yet"
    made.release(f"{top}/a/two")
    assert not any(map(os.path.exists, layout.directories(top))) and not (tmp_path / "notes").exists()


def test_memory_that_ran_out_before_anybody_watched_is_told_once(layout: Layout, base: str) -> None:
    made = cgroups.plan(layout, f"{base}/eater", Resources(memory=16 << 20, memory_swap=16 << 20))
    cgroupfs.execute(made.steps)

    def eat() -> int:
        return len(bytearray(64 << 20))

    def killed() -> bool:
        return Inside(made, eat).wait() == -signal.SIGKILL

    assert killed()
    with closing(oom.watch(made.directories, known=0)) as fresh, closing(oom.watch(made.directories)) as later:
        assert fresh.happened() and not fresh.happened()
        assert not later.happened()
        assert killed()
        assert fresh.happened() and later.happened()
