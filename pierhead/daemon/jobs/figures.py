"""From a cgroup's figures and an interface's counters to the API's statistics."""

from collections.abc import Mapping

from pierhead.libcontainer.stats import BlockFigure, Figures
from pierhead.wire.system import (
    ContainerBlkioStatEntry,
    ContainerBlkioStats,
    ContainerCPUStats,
    ContainerCPUUsage,
    ContainerMemoryStats,
    ContainerNetworkStats,
    ContainerPidsStats,
    ContainerStatsResponse,
    ContainerThrottlingData,
)

_OF_OTHER_SCHEDULERS = (
    "io_queue_recursive io_service_time_recursive io_wait_time_recursive io_merged_recursive io_time_recursive "
    "sectors_recursive".split()
)
"""Figures of schedulers that no kernel of today has: v1 lists none of them."""


def _blocks(figures: tuple[BlockFigure, ...]) -> list[ContainerBlkioStatEntry]:
    return [
        ContainerBlkioStatEntry(major=entry.major, minor=entry.minor, op=entry.operation, value=entry.value)
        for entry in figures
    ]


def fill(sample: ContainerStatsResponse, figures: Figures) -> None:
    """Write a reading of the cgroup into a sample."""
    cpu, memory = figures.cpu, figures.memory
    sample.pids_stats = ContainerPidsStats(current=figures.pids, limit=figures.pids_limit)
    sample.blkio_stats = ContainerBlkioStats(io_service_bytes_recursive=_blocks(figures.io_bytes))
    if not figures.unified:  # with v2 Docker has these as null
        sample.blkio_stats = ContainerBlkioStats(
            io_service_bytes_recursive=_blocks(figures.io_bytes),
            io_serviced_recursive=_blocks(figures.io_operations),
            **{name: [] for name in _OF_OTHER_SCHEDULERS},
        )
    sample.cpu_stats = ContainerCPUStats(
        cpu_usage=ContainerCPUUsage(
            total_usage=cpu.total,
            percpu_usage=list(cpu.per_cpu) or None,
            usage_in_kernelmode=cpu.kernel,
            usage_in_usermode=cpu.user,
        ),
        system_cpu_usage=cpu.system,
        online_cpus=cpu.online,
        throttling_data=ContainerThrottlingData(
            periods=cpu.periods, throttled_periods=cpu.throttled_periods, throttled_time=cpu.throttled_time
        ),
    )
    sample.memory_stats = ContainerMemoryStats(
        usage=memory.usage,
        max_usage=memory.max_usage,
        stats=dict(memory.details),
        failcnt=memory.failures,
        limit=memory.limit,
    )


def fill_networks(sample: ContainerStatsResponse, interfaces: Mapping[str, tuple[int, ...]]) -> None:
    """Write the counters of /proc/PID/net/dev (receive: bytes packets errs drop …; transmit from the ninth on)."""
    if not interfaces:
        return
    sample.networks = {
        name: ContainerNetworkStats(
            rx_bytes=numbers[0],
            rx_packets=numbers[1],
            rx_errors=numbers[2],
            rx_dropped=numbers[3],
            tx_bytes=numbers[8],
            tx_packets=numbers[9],
            tx_errors=numbers[10],
            tx_dropped=numbers[11],
        )
        for name, numbers in interfaces.items()
    }
