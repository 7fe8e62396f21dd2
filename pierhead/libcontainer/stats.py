"""What a container has used so far, read from its cgroup, with the meaning that Docker's stats give each number.

Counters come from v1 controllers or from the unified hierarchy; where v2 does not know a figure (usage per CPU, the
highest memory usage before Linux 5.19, counts of I/O operations by queue) it is None or empty, as in Docker.
"""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pierhead.libcontainer import cgroupfs
from pierhead.libcontainer.cgroups import Layout

UNLIMITED: Final = 2**64 - 1
"""Docker's "no limit" for processes on cgroup v2 (on v1 it is 0)."""

_NANOSECONDS: Final = 10**9


@dataclass(frozen=True, slots=True)
class CpuFigures:
    """Times in ns. per_cpu: v1 only.  system, online: of the whole machine, to make a percentage of ``total``.

    periods, throttled_periods, throttled_time: what a CPU quota did.
    """

    total: int = 0
    user: int = 0
    kernel: int = 0
    per_cpu: tuple[int, ...] = ()
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0
    system: int = 0
    online: int = 0


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """Bytes. limit: never more than the machine has.  peak: the highest usage so far; max_usage: the same, v1 only.

    failures: how often the limit was hit (v1) or led to the OOM killer (v2).  details: the lines of memory.stat.
    """

    usage: int = 0
    max_usage: int = 0
    peak: int = 0
    limit: int = 0
    failures: int = 0
    details: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BlockFigure:
    """One counter of one block device. operation: as the kernel ("Read") or Docker ("read", on v2) has it."""

    major: int
    minor: int
    operation: str
    value: int


@dataclass(frozen=True, slots=True)
class Figures:
    """One reading. pids: processes and threads; pids_limit: 0 (v1) or UNLIMITED (v2) where there is none."""

    cpu: CpuFigures
    memory: MemoryFigures
    pids: int
    pids_limit: int
    io_bytes: tuple[BlockFigure, ...]
    io_operations: tuple[BlockFigure, ...]
    unified: bool = False
    """Read from v2."""


def read(layout: Layout, path: str) -> Figures:
    """The figures of the cgroup ``path``. Raises FileNotFoundError if it is not there (any more)."""
    figures = _read_v1(layout, path) if layout.version == 1 else _read_v2(layout.unified + path)
    if not any(os.path.isdir(directory) for directory in layout.directories(path)):
        raise FileNotFoundError(2, "no such cgroup", path)
    return figures


def system_cpu() -> tuple[int, int]:
    """CPU time that the machine has spent on anything, idling included, in ns; and how many CPUs are online."""
    with open("/proc/stat") as file:
        lines = file.read().splitlines()
    # user nice system idle iowait irq softirq: what Docker adds up.
    ticks = sum(map(int, lines[0].split()[1:8]))
    online = sum(1 for line in lines if line.startswith("cpu") and line[3:4].isdigit())
    return ticks * _NANOSECONDS // _ticks_per_second(), online


@functools.cache
def machine_memory() -> int:
    """Bytes of memory that the machine has (MemTotal)."""
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    raise OSError(2, "no MemTotal", "/proc/meminfo")


@functools.cache
def _ticks_per_second() -> int:
    return os.sysconf("SC_CLK_TCK")


def _number(path: str, unlimited: int = 0) -> int:
    text = (cgroupfs.read(path) or "0").strip()
    return unlimited if text == "max" else int(text)


def _limit(value: int) -> int:
    """Without a limit Docker reports the machine's memory."""
    return min(value, machine_memory())


def _read_v1(layout: Layout, path: str) -> Figures:
    places = {name: mount + path for name, mount in layout.controllers.items()}
    directory = places.get("pids", "")
    blkio = places.get("blkio", "")
    return Figures(
        cpu=_cpu_v1(places.get("cpuacct", ""), places.get("cpu", "")),
        memory=_memory_v1(places.get("memory", "")),
        pids=_number(f"{directory}/pids.current"),
        pids_limit=_number(f"{directory}/pids.max"),
        io_bytes=_block_v1(blkio, "io_service_bytes"),
        io_operations=_block_v1(blkio, "io_serviced"),
    )


def _cpu_v1(accounting: str, quota: str) -> CpuFigures:
    ticks = cgroupfs.keyed(cgroupfs.read(f"{accounting}/cpuacct.stat"))
    held = cgroupfs.keyed(cgroupfs.read(f"{quota}/cpu.stat"))
    system, online = system_cpu()
    return CpuFigures(
        total=_number(f"{accounting}/cpuacct.usage"),
        user=ticks.get("user", 0) * _NANOSECONDS // _ticks_per_second(),
        kernel=ticks.get("system", 0) * _NANOSECONDS // _ticks_per_second(),
        per_cpu=tuple(map(int, (cgroupfs.read(f"{accounting}/cpuacct.usage_percpu") or "").split())),
        periods=held.get("nr_periods", 0),
        throttled_periods=held.get("nr_throttled", 0),
        throttled_time=held.get("throttled_time", 0),
        system=system,
        online=online,
    )


def _memory_v1(directory: str) -> MemoryFigures:
    highest = _number(f"{directory}/memory.max_usage_in_bytes")
    return MemoryFigures(
        usage=_number(f"{directory}/memory.usage_in_bytes"),
        max_usage=highest,
        peak=highest,
        limit=_limit(_number(f"{directory}/memory.limit_in_bytes")),
        failures=_number(f"{directory}/memory.failcnt"),
        details=cgroupfs.keyed(cgroupfs.read(f"{directory}/memory.stat")),
    )


def _block_v1(directory: str, what: str) -> tuple[BlockFigure, ...]:
    """From whichever policy counts here: the throttling one counts for every scheduler."""
    for policy in ("throttle", "bfq"):
        text = cgroupfs.read(f"{directory}/blkio.{policy}.{what}_recursive")
        figures = []
        for line in (text or "").splitlines():
            words = line.split()
            if len(words) == 3 and ":" in words[0]:  # the last line is "Total N"
                major, _, minor = words[0].partition(":")
                figures.append(BlockFigure(int(major), int(minor), words[1], int(words[2])))
        if figures:
            return tuple(figures)
    return ()


def _read_v2(directory: str) -> Figures:
    times = cgroupfs.keyed(cgroupfs.read(f"{directory}/cpu.stat"))
    system, online = system_cpu()
    counters = _io_v2(cgroupfs.read(f"{directory}/io.stat"))
    return Figures(
        cpu=CpuFigures(
            total=times.get("usage_usec", 0) * 1000,
            user=times.get("user_usec", 0) * 1000,
            kernel=times.get("system_usec", 0) * 1000,
            periods=times.get("nr_periods", 0),
            throttled_periods=times.get("nr_throttled", 0),
            throttled_time=times.get("throttled_usec", 0) * 1000,
            system=system,
            online=online,
        ),
        memory=MemoryFigures(
            usage=_number(f"{directory}/memory.current"),
            peak=_number(f"{directory}/memory.peak"),
            limit=_limit(_number(f"{directory}/memory.max", UNLIMITED)),
            failures=cgroupfs.keyed(cgroupfs.read(f"{directory}/memory.events")).get("oom", 0),
            details=cgroupfs.keyed(cgroupfs.read(f"{directory}/memory.stat")),
        ),
        pids=_number(f"{directory}/pids.current"),
        pids_limit=_number(f"{directory}/pids.max", UNLIMITED),
        io_bytes=tuple(_block_v2(counters, "rbytes", "wbytes")),
        io_operations=(),  # Docker gives none on v2
        unified=True,
    )


def _io_v2(text: str | None) -> list[tuple[int, int, dict[str, int]]]:
    """io.stat: "8:0 rbytes=1 wbytes=2 rios=3 …" a device; a device without any I/O may stand there alone."""
    found = []
    for line in (text or "").splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        if not minor:
            continue
        values = {key: int(value) for key, _, value in (pair.partition("=") for pair in pairs) if value.isdigit()}
        if values:
            found.append((int(major), int(minor), values))
    return found


def _block_v2(counters: list[tuple[int, int, dict[str, int]]], read: str, write: str) -> list[BlockFigure]:
    figures = []
    for major, minor, values in counters:
        figures.append(BlockFigure(major, minor, "read", values.get(read, 0)))
        figures.append(BlockFigure(major, minor, "write", values.get(write, 0)))
    return figures
