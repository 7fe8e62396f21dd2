"""Limits as a request asks for them: refused where they cannot be, discarded with a warning where this kernel cannot,
and what an update makes of those that a container has. All in Docker's words.
"""

import os

from pierhead.daemon.jobs import specs
from pierhead.errors import Conflict, InvalidParameter
from pierhead.libcontainer import cgroups
from pierhead.wire.containers import ContainerUpdateRequest, HostConfig, Resources

LEAST_MEMORY = 6 * 1024 * 1024
MOST_SHARES = 262144

THROTTLES = {
    "blkio_device_read_bps": ("throttle.read_bps_device", "BPS Block I/O read limit", "Block I/O BPS read limit"),
    "blkio_device_write_bps": ("throttle.write_bps_device", "BPS Block I/O write limit", "Block I/O BPS write limit"),
    "blkio_device_read_iops": ("throttle.read_iops_device", "IOPS Block read limit", "Block I/O IOPS read limit"),
    "blkio_device_write_iops": ("throttle.write_iops_device", "IOPS Block write limit", "Block I/O IOPS write limit"),
}
"""Field of the request, file of the v1 controller, what Docker calls it, and what it says was discarded."""

UPDATED = tuple(
    "blkio_weight cpu_shares nano_cpus cpu_period cpu_quota cpuset_cpus cpuset_mems memory memory_swap "
    "memory_reservation kernel_memory cpu_realtime_period cpu_realtime_runtime".split()
)
"""What an update changes where it is not 0; what else it may say is ignored, as Docker does."""


def check(host: Resources, warnings: list[str], update: bool = False) -> None:
    """Refuse limits out of range; those that this kernel has not are taken out in place, with a warning.

    Raises InvalidParameter.
    """
    _check_memory(host, warnings, update)
    _check_cpu(host, warnings)
    cpus = os.cpu_count() or 1
    for text, what in ((host.cpuset_cpus, "cpus"), (host.cpuset_mems, "mems")):
        _check_cpuset(text, what, cpus)
    _check_io(host, warnings)


def complete(host: Resources) -> None:
    """The limits that follow from others: a container may swap as much as it has memory."""
    if host.memory > 0 and not host.memory_swap:
        host.memory_swap = host.memory * 2


def apply(host: HostConfig, request: ContainerUpdateRequest) -> bool:
    """Write an update's limits into a container's configuration; whether there were any.

    Raises Conflict, InvalidParameter.
    """
    if request.nano_cpus > 0 and (host.cpu_period > 0 or host.cpu_quota > 0):
        which = "Period" if host.cpu_period > 0 else "Quota"
        raise Conflict(f"Conflicting options: Nano CPUs cannot be updated as CPU {which} has already been set")
    for value, which in ((request.cpu_period, "Period"), (request.cpu_quota, "Quota")):
        if value > 0 and host.nano_cpus > 0:
            raise Conflict(f"Conflicting options: CPU {which} cannot be updated as NanoCPUs has already been set")
    if request.memory and not request.memory_swap and 0 < host.memory_swap < request.memory:
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    changed = {key: value for key in UPDATED if (value := getattr(request, key))}
    if request.pids_limit is not None:
        changed["pids_limit"] = request.pids_limit
    for key, value in changed.items():
        setattr(host, key, value)
    if host.memory_swap > 0 and not host.memory:
        raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit, see usage")
    return bool(changed)


def _lacks(controller: str, *files: str) -> bool:
    return not any(cgroups.offers(specs.cgroup_layout(), controller, file) for file in files)


def _check_memory(host: Resources, warnings: list[str], update: bool) -> None:
    if host.memory_swappiness == -1:
        host.memory_swappiness = None
    if host.memory and host.memory < LEAST_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if host.memory > 0 and 0 < host.memory_swap < host.memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    if host.memory == 0 and host.memory_swap > 0 and not update:
        raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit, see usage")
    unified = specs.cgroup_layout().version == 2
    if host.memory > 0 and host.memory_swap != -1 and _lacks("memory", "memory.memsw.limit_in_bytes"):
        host.memory_swap = -1
        warnings.append(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. "
            "Memory limited without swap."
        )
    if unified and host.memory_swappiness is not None:
        host.memory_swappiness = None
        warnings.append(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. "
            "Memory swappiness discarded."
        )
    if host.memory_swappiness is not None and not 0 <= host.memory_swappiness <= 100:
        raise InvalidParameter(f"Invalid value: {host.memory_swappiness}, valid memory swappiness range is 0-100")
    if 0 < host.memory_reservation < LEAST_MEMORY:
        raise InvalidParameter("Minimum memory reservation allowed is 6MB")
    if host.memory_reservation > 0 and 0 < host.memory < host.memory_reservation:
        raise InvalidParameter("Minimum memory limit can not be less than memory reservation limit, see usage")
    if host.kernel_memory > 0:
        # Deprecated by Docker, and without effect since Linux 5.16: kept and shown, as there.
        if unified:
            warnings.append(
                "Your kernel does not support kernel memory limit capabilities or the cgroup is not mounted. "
                "Limitation discarded."
            )
            host.kernel_memory = 0
        elif host.kernel_memory < LEAST_MEMORY:
            raise InvalidParameter("Minimum kernel memory limit allowed is 6MB")
        else:
            warnings.append(
                "Specifying a kernel memory limit is deprecated and will be removed in a future release. "
                "It has no effect since Linux 5.16."
            )
    if host.kernel_memory_tcp > 0 and (unified or _lacks("memory", "memory.kmem.tcp.limit_in_bytes")):
        host.kernel_memory_tcp = 0
        warnings.append(
            "Your kernel does not support kernel memory TCP limit capabilities or the cgroup is not mounted. "
            "Limitation discarded."
        )
    if unified and host.oom_kill_disable is not None:
        if host.oom_kill_disable:
            warnings.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
        host.oom_kill_disable = None
    if host.oom_kill_disable and not host.memory:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, "
            "this can result in the system running out of resources."
        )


def _check_cpu(host: Resources, warnings: list[str]) -> None:
    if host.nano_cpus > 0 and (host.cpu_period > 0 or host.cpu_quota > 0):
        which = "CPU Period" if host.cpu_period > 0 else "CPU Quota"
        raise InvalidParameter(f"Conflicting options: Nano CPUs and {which} cannot both be set")
    cpus = os.cpu_count() or 1
    if host.nano_cpus < 0 or host.nano_cpus > cpus * 10**9:
        raise InvalidParameter(f"range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available")
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise InvalidParameter("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < host.cpu_quota < 1000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.cpu_shares < 0:
        raise InvalidParameter(f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer")
    if specs.cgroup_layout().version == 1 and host.cpu_shares == 1:  # v2's weight begins at 1
        raise InvalidParameter("the minimum allowed cpu-shares is 2")
    if specs.cgroup_layout().version == 1 and host.cpu_shares > MOST_SHARES:
        raise InvalidParameter(f"the maximum allowed cpu-shares is {MOST_SHARES}")
    if host.cpu_count > 0:
        warnings.append("linux does not support CPU count. Count discarded.")
        host.cpu_count = 0
    if host.cpu_percent > 0:
        warnings.append("linux does not support CPU percent. Percent discarded.")
        host.cpu_percent = 0
    if host.cpu_realtime_period or host.cpu_realtime_runtime:
        if specs.cgroup_layout().version == 2 or _lacks("cpu", "cpu.rt_runtime_us"):
            raise InvalidParameter("kernel does not support CPU real-time scheduler")
        if 0 < host.cpu_realtime_period < host.cpu_realtime_runtime:
            raise InvalidParameter("cpu real-time runtime cannot be higher than cpu real-time period")


def _check_io(host: Resources, warnings: list[str]) -> None:
    if host.io_maximum_bandwidth:
        raise InvalidParameter("invalid option: QoS maximum bandwidth configuration is not supported on linux")
    if host.io_maximum_iops:
        raise InvalidParameter("invalid option: QoS maximum IOPs configuration is not supported on linux")
    if host.blkio_weight > 0 and _lacks("blkio", "blkio.weight", "blkio.bfq.weight"):
        warnings.append("Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.")
        host.blkio_weight = 0
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    if host.blkio_weight_device and _lacks("blkio", "blkio.weight_device", "blkio.bfq.weight_device"):
        warnings.append(
            "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. "
            "Weight-device discarded."
        )
        host.blkio_weight_device = []
    for weighed in host.blkio_weight_device or []:
        if not 10 <= weighed.weight <= 1000:
            raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    for limit in specs.device_limits(host.blkio_weight_device):
        if not _weighed(limit.major, limit.minor):
            warnings.append(
                f"Block I/O weight of device {limit.major}:{limit.minor} has no effect: its scheduler is not bfq."
            )
    for field, (file, what, discarded) in THROTTLES.items():
        if getattr(host, field) and _lacks("blkio", f"blkio.{file}"):
            warnings.append(f"Your kernel does not support {what} or the cgroup is not mounted. {discarded} discarded.")
            setattr(host, field, [])
        specs.device_limits(getattr(host, field))


def _weighed(major: int, minor: int) -> bool:
    """Whether weights mean anything to a block device: its scheduler is bfq, or the hierarchy is v2, which has another
    way for the others (io.cost)."""
    if specs.cgroup_layout().version == 2:
        return True
    folder = f"/sys/dev/block/{major}:{minor}"
    for queue in (f"{folder}/queue", f"{folder}/../queue"):  # a partition has its disk's
        try:
            with open(f"{queue}/scheduler", encoding="ascii") as file:
                return "[bfq]" in file.read()
        except OSError:
            continue
    return False


def _check_cpuset(text: str, what: str, cpus: int) -> None:
    if not text:
        return
    limit = cpus if what == "cpus" else _memory_nodes()
    for part in text.split(","):
        low, dash, high = part.partition("-")
        numbers = (low, high) if dash else (low, low)
        if len(part) > 20 or not all(one.isascii() and one.isdigit() for one in numbers):
            raise InvalidParameter(f"Invalid value {text} for cpuset {what}: invalid format: {part}")
        if int(numbers[0]) > int(numbers[1]):
            raise InvalidParameter(f"Invalid value {text} for cpuset {what}: invalid format: {part}")
        if int(numbers[1]) >= limit:
            available = f"0-{limit - 1}" if limit > 1 else "0"
            kind = "CPUs" if what == "cpus" else "memory nodes"
            raise InvalidParameter(f"Requested {kind} are not available - requested {text}, available: {available}")


def _memory_nodes() -> int:
    """How many there are: the highest number that is online, and one."""
    try:
        with open("/sys/devices/system/node/online", encoding="ascii") as file:
            return int(file.read().strip().replace(",", "-").rpartition("-")[2]) + 1
    except (OSError, ValueError):
        return 1
