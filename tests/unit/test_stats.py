"""Figures: what ``docker stats`` shows is what the kernel counted."""

import os
from pathlib import Path

import pytest

from pierhead.libcontainer import stats
from pierhead.libcontainer.cgroups import V1_CONTROLLERS, Layout
from pierhead.libcontainer.stats import BlockFigure

V1_FILES = {
    "cpuacct/cpuacct.usage": "123456789\n",
    "cpuacct/cpuacct.usage_percpu": "100000000 23456789 \n",
    "cpuacct/cpuacct.stat": "user 7\nsystem 5\n",
    "cpu/cpu.stat": "nr_periods 10\nnr_throttled 4\nthrottled_time 99\nnr_bursts 0\nburst_time 0\n",
    "memory/memory.usage_in_bytes": "1048576\n",
    "memory/memory.max_usage_in_bytes": "2097152\n",
    "memory/memory.limit_in_bytes": "9223372036854771712\n",
    "memory/memory.failcnt": "3\n",
    "memory/memory.stat": "cache 5\nrss 6\ntotal_inactive_file 4096\n",
    "pids/pids.current": "2\n",
    "pids/pids.max": "max\n",
    "blkio/blkio.throttle.io_service_bytes_recursive": "254:0 Read 4096\n254:0 Write 8192\nTotal 12288\n",
    "blkio/blkio.throttle.io_serviced_recursive": "254:0 Read 1\n254:0 Write 2\nTotal 3\n",
}
V2_FILES = {
    "cpu.stat": "usage_usec 5000\nuser_usec 3000\nsystem_usec 2000\nnr_periods 1\nnr_throttled 2\nthrottled_usec 3\n",
    "memory.current": "1048576\n",
    "memory.peak": "2097152\n",
    "memory.max": "4194304\n",
    "memory.events": "low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\n",
    "memory.stat": "anon 10\ninactive_file 4096\n",
    "pids.current": "2\n",
    "pids.max": "max\n",
    "io.stat": "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n7:0 \n",
}


def _tree(root: Path, files: dict[str, str], below: str) -> None:
    for name, text in files.items():
        folder, _, file = name.rpartition("/")
        (root / folder / below).mkdir(parents=True, exist_ok=True)
        (root / folder / below / file).write_text(text)


def test_every_figure_is_read_on_v1(tmp_path: Path) -> None:
    _tree(tmp_path, V1_FILES, "c")
    figures = stats.read(Layout({name: str(tmp_path / name) for name in V1_CONTROLLERS}), "/c")
    tick = 10**9 // os.sysconf("SC_CLK_TCK")
    assert (figures.cpu.total, figures.cpu.user, figures.cpu.kernel) == (123456789, 7 * tick, 5 * tick)
    assert figures.cpu.per_cpu == (100000000, 23456789)
    assert (figures.cpu.periods, figures.cpu.throttled_periods, figures.cpu.throttled_time) == (10, 4, 99)
    assert (figures.memory.usage, figures.memory.max_usage, figures.memory.failures) == (1048576, 2097152, 3)
    assert figures.memory.details["total_inactive_file"] == 4096
    assert (figures.pids, figures.pids_limit) == (2, 0)
    assert figures.io_bytes == (
        BlockFigure(254, 0, "Read", 4096),
        BlockFigure(254, 0, "Write", 8192),
    )
    assert figures.io_operations == (BlockFigure(254, 0, "Read", 1), BlockFigure(254, 0, "Write", 2))


def test_every_figure_is_read_on_v2(tmp_path: Path) -> None:
    _tree(tmp_path, V2_FILES, "c")
    figures = stats.read(Layout({}, str(tmp_path), ("cpu", "memory", "pids", "io")), "/c")
    assert (figures.cpu.total, figures.cpu.user, figures.cpu.kernel) == (5_000_000, 3_000_000, 2_000_000)
    assert (figures.cpu.periods, figures.cpu.throttled_periods, figures.cpu.throttled_time) == (1, 2, 3000)
    assert figures.memory.limit == 4194304
    assert (figures.memory.usage, figures.memory.peak, figures.memory.failures) == (1048576, 2097152, 2)
    assert figures.memory.details == {"anon": 10, "inactive_file": 4096}
    assert (figures.pids, figures.pids_limit) == (2, stats.UNLIMITED)
    assert figures.io_bytes == (BlockFigure(254, 0, "read", 4096), BlockFigure(254, 0, "write", 8192))


def test_without_a_limit_memory_is_a_share_of_the_machines(tmp_path: Path) -> None:
    _tree(tmp_path, {"memory.max": "max\n"}, "c")
    assert stats.read(Layout({}, str(tmp_path)), "/c").memory.limit == stats.machine_memory()


def test_a_container_that_has_ended_is_said_to_be_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        stats.read(Layout({}, str(tmp_path)), "/c")


def test_the_machines_cpu_time_counts_idling_too() -> None:
    system, online = stats.system_cpu()
    assert system > 0
    assert online >= len(os.sched_getaffinity(0))
