"""Control groups: which hierarchies this host has, and a container's limits as a flat list of writes.

``detect`` reads the layout once; ``plan`` is pure and turns ``Resources`` into steps that ``cgroupfs.execute`` (the
shim, or whoever starts a process) performs; what happens later to a cgroup (kill, freeze, remove) is in ``cgroupfs``,
which a shim can hold without importing this module.

Three layouts occur: pure v2 (what Debian 12 boots), pure v1, and hybrid: v1 controllers plus a unified hierarchy
without any.  A hybrid host's unified hierarchy is used as well, for what it does better: CLONE_INTO_CGROUP, cgroup.kill
and the v2 freezer.  As Docker does, a container's cgroup is below the mounted root of each hierarchy, wherever the
daemon itself may be.  Sources: Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst of the kernel.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pierhead.errors import InvalidParameter
from pierhead.libcontainer import cgroupfs, devicefilter
from pierhead.libcontainer.spec import DeviceLimit, DeviceRule, Resources

Step = tuple[str, str, str | bytes]
"""("mkdir", directory, ""), ("write" | "try", file, value), ("own", file, "uid:gid"), ("scope", address, message) or
("devices", directory, program): see ``cgroupfs``."""

V1_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")
V2_CONTROLLERS = ("memory", "io", "cpu", "cpuset", "pids")
"""In the order of enabling: the last three are taken by a cgroup with processes, too, which then cannot have the first
two, and the kernel says so in other words."""
TRIES = 100
"""At levels that another instance's end removes while they are made."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where this host's hierarchies are mounted.

    controllers: v1 controller (or "name=systemd") to mount point; several may share one.
    unified: the cgroup2 mount point or "".
    unified_controllers: what its root offers; empty on a hybrid host.
    """

    controllers: Mapping[str, str]
    unified: str = ""
    unified_controllers: tuple[str, ...] = ()

    @property
    def version(self) -> int:
        """2 where resources are limited by the unified hierarchy, else 1 (Docker's CgroupVersion)."""
        return 1 if any(name in self.controllers for name in V1_CONTROLLERS) else 2

    def mounts(self) -> tuple[str, ...]:
        """The root directory of every hierarchy a container is put in, v1 first, each once."""
        used = [name for name in V1_CONTROLLERS if name in self.controllers]
        if self.unified:
            # The v2 freezer serves, and lets a frozen process be killed.
            used = [name for name in used if name != "freezer"]
        elif "name=systemd" in self.controllers:
            # Else systemd would count the container's processes to the daemon's unit.
            used.append("name=systemd")
        found = [self.controllers[name] for name in used]
        return tuple(dict.fromkeys([*found, self.unified] if self.unified else found))

    def directories(self, path: str) -> tuple[str, ...]:
        """All directories of the cgroup ``path`` ("/pierhead/x/y"): what ``cgroupfs`` wants.

        Raises ValueError for a hierarchy's root and what leads out of it: everything on the machine is there, and
        these directories are for killing and removing.
        """
        names = path.split("/")
        if names[0] or len(names) < 2 or not all(names[1:]) or {".", ".."} & set(names):
            raise ValueError(f"not a cgroup below a hierarchy's root: {path!r}")
        return tuple(mount + path for mount in self.mounts())


@dataclass(frozen=True, slots=True)
class Plan:
    """How a container's cgroup is made and entered.

    steps: for ``cgroupfs.execute``, before the process is made.
    into: the directory for clone3's CLONE_INTO_CGROUP; "" on a pure v1 host.
    join: files into which the new process, still single-threaded, writes "0" to enter the v1 hierarchies.
      These are "tasks", not "cgroup.procs": moving a whole process waits for an RCU grace period (8 to 24 ms
      measured), moving the calling thread does not.
    directories: for kill, freeze, remove and the like.
    leave: files into which whoever does the steps writes "0" before it kills what it made, where it is in there itself.
    end: steps after what was made has been removed again.
    """

    steps: tuple[Step, ...]
    into: str
    join: tuple[str, ...]
    directories: tuple[str, ...]
    leave: tuple[str, ...] = ()
    end: tuple[Step, ...] = ()


def detect(mountinfo: str = "/proc/self/mountinfo") -> Layout:
    """The host's layout. Raises OSError if no hierarchy is mounted, saying what would help."""
    controllers: dict[str, str] = {}
    unified = ""
    with open(mountinfo) as file:
        for line in file:
            fields, _, behind = line.partition(" - ")
            kind, _, options = behind.split()
            point = _unescape(fields.split()[4])
            if not os.path.isdir(point):
                continue
            if kind == "cgroup2" and not unified:
                unified = point
            elif kind == "cgroup":
                for option in options.split(","):
                    if option in V1_CONTROLLERS or option == "name=systemd":
                        controllers.setdefault(option, point)
    if not controllers and not unified:
        raise OSError(2, "no cgroup hierarchy is mounted (mount -t cgroup2 none /sys/fs/cgroup)", "/sys/fs/cgroup")
    offered = cgroupfs.read(f"{unified}/cgroup.controllers") if unified else ""
    return Layout(controllers, unified, tuple((offered or "").split()))


def mounts(mountinfo: str = "/proc/self/mountinfo") -> tuple[str, ...]:
    """The root of every hierarchy that is mounted, also of those that we have no use for."""
    found = []
    with open(mountinfo) as file:
        for line in file:
            fields, _, behind = line.partition(" - ")
            if behind.split()[0] in ("cgroup", "cgroup2"):
                found.append(_unescape(fields.split()[4]))
    return tuple(dict.fromkeys(found))


def offers(layout: Layout, controller: str, file: str) -> bool:
    """Whether this kernel can limit by a v1 control file, or by what v2 has in its place.

    Looked for below the root of the hierarchy, which itself has not all of them.
    """
    if layout.version == 2:
        return {"blkio": "io"}.get(controller, controller) in layout.unified_controllers
    mount = layout.controllers.get(controller)
    return mount is not None and any(os.path.exists(f"{mount}{below}/{file}") for below in ("", "/pierhead"))


_DEVICE_RULE = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})")


def parse_device_rule(text: str) -> DeviceRule:
    """``--device-cgroup-rule`` ("c 42:* rmw"). Raises InvalidParameter in Docker's words."""
    matched = _DEVICE_RULE.fullmatch(text)
    if not matched:
        raise InvalidParameter(f"invalid device cgroup rule format: '{text}'")
    kind, major, minor, access = matched.groups()
    numbers = [None if number == "*" else int(number) for number in (major, minor)]
    return DeviceRule(True, kind, numbers[0], numbers[1], access)


def _unescape(path: str) -> str:
    r"""mountinfo writes blanks, tabs, newlines and backslashes as \040 and the like."""
    return path.encode().decode("unicode_escape").encode("latin-1").decode() if "\\" in path else path


def prepare(layout: Layout, base: str) -> None:
    """Make ``base`` ("/pierhead/<instance>") in every hierarchy, ready for containers below it. Idempotent.

    Below it v1 cpusets start as copies of their parent's, and v2 offers its controllers.
    """
    for mount in layout.mounts():
        if mount == layout.unified:
            _offer_controllers(layout, mount)
        for left in reversed(range(TRIES)):
            try:
                _make_levels(layout, mount, levels(base))
                break
            except OSError as error:
                if error.errno not in (2, 19) or not left:  # ENOENT, ENODEV: the last of its other instances has ended
                    raise


def _make_levels(layout: Layout, mount: str, below: tuple[str, ...]) -> None:
    for level in below:
        cgroupfs.execute((("mkdir", mount + level, ""),))
        if mount == layout.controllers.get("cpuset"):
            _inherit_cpuset(mount + level)
        if mount == layout.unified:
            _offer_controllers(layout, mount + level)


def levels(path: str) -> tuple[str, ...]:
    """ "/a/b" to ("/a", "/a/b"); a hierarchy's root has none."""
    names = [name for name in path.split("/") if name]
    return tuple("/" + "/".join(names[: end + 1]) for end in range(len(names)))


def _offer_controllers(layout: Layout, directory: str) -> None:
    """One write a controller: the kernel refuses all of a line for one it cannot enable (cpu, with a realtime task)."""
    file = f"{directory}/cgroup.subtree_control"
    wanted = [name for name in V2_CONTROLLERS if name in layout.unified_controllers]
    try:
        cgroupfs.execute(tuple(("try", file, f"+{name}") for name in wanted))
    except OSError as error:
        if error.errno != 16:
            raise
        # Only the real root may have both, processes and limited groups below: a container's root is none.
        said = "processes are in this cgroup itself, so that none below it can be limited: move them to one below it"
        raise OSError(16, said, directory) from error


def _inherit_cpuset(directory: str) -> None:
    """A new v1 cpuset is empty and takes no process until it has CPUs and memory nodes; those below copy ours."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not (cgroupfs.read(f"{directory}/{file}") or "").strip():
            cgroupfs.write(f"{directory}/{file}", cgroupfs.read(f"{os.path.dirname(directory)}/{file}") or "")
    cgroupfs.write(f"{directory}/cgroup.clone_children", "1")


def dismantle(layout: Layout, base: str) -> None:
    """Remove ``base`` and, once no other instance is there, "/pierhead". Containers below it must have ended."""
    cgroupfs.remove(layout.directories(base))
    for level in reversed(levels(base)[:-1]):
        for directory in layout.directories(level):
            try:
                os.rmdir(directory)
            except OSError as error:
                if error.errno not in (2, 16, 39):  # gone, or another instance's cgroup is in it
                    raise


def existing(layout: Layout, base: str) -> tuple[str, ...]:
    """Names of the cgroups right below ``base``, in whatever hierarchy they are left: for reconciliation."""
    names: set[str] = set()
    for directory in layout.directories(base):
        try:
            names.update(entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            continue
    return tuple(sorted(names))


def plan(layout: Layout, path: str, resources: Resources) -> Plan:
    """How the cgroup ``path`` is made with these limits; its parent has been prepared."""
    directories = layout.directories(path)
    steps: list[Step] = [("mkdir", directory, "") for directory in directories]
    steps += limits(layout, path, resources)
    steps += _devices(layout, path, resources)
    into = layout.unified + path if layout.unified else ""
    join = tuple(f"{directory}/tasks" for directory in directories if directory != into)
    return Plan(tuple(steps), into, join, directories)


DELEGATED = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control")
"""What the kernel without /sys/kernel/cgroup/delegate lets somebody else own."""


def delegated(layout: Layout, made: Plan, owner: tuple[int, int]) -> Plan:
    """The plan with a cgroup (v2) in which ``owner`` may make others and move processes between them; its limits stay
    the host root's. On v1 nothing is given away."""
    return replace(made, steps=(*made.steps, *gifts(layout, made.into, owner)))


def gifts(layout: Layout, directory: str, owner: tuple[int, int]) -> tuple[Step, ...]:
    """The steps of ``delegated``, for a cgroup that is there."""
    if layout.version != 2:
        return ()
    files = (cgroupfs.read("/sys/kernel/cgroup/delegate") or "").split() or DELEGATED
    return tuple(("own", f"{directory}/{file}", f"{owner[0]}:{owner[1]}") for file in ("", *files))


def limits(layout: Layout, path: str, resources: Resources) -> tuple[Step, ...]:
    """The writes for everything that is limited (what is 0, None or "" is left as it is), devices excepted."""
    wanted = _v1_values(resources) if layout.version == 1 else _v2_values(resources)
    steps = []
    for how, controller, file, value in wanted:
        mount = layout.unified if layout.version == 2 else layout.controllers.get(controller)
        if mount is None or (layout.version == 2 and controller not in layout.unified_controllers):
            raise OSError(95, f"the cgroup controller {controller!r} is not there to limit it", f"{file}={value}")
        steps.append((how, f"{mount}{path}/{file}", value))
    return tuple(steps)


_Value = tuple[str, str, str, str]
"""How ("write" or "try"), controller, file, value."""


def _v1_values(wanted: Resources) -> list[_Value]:
    values: list[_Value] = []

    def put(controller: str, file: str, value: int | str, how: str = "write") -> None:
        values.append((how, controller, file, str(value)))

    if wanted.memory:
        put("memory", "memory.limit_in_bytes", wanted.memory)
    if wanted.memory_swap:
        # Not there without swap accounting; Docker then warns and goes on.  Must come after the smaller limit.
        put("memory", "memory.memsw.limit_in_bytes", wanted.memory_swap, "try")
    if wanted.memory_reservation:
        put("memory", "memory.soft_limit_in_bytes", wanted.memory_reservation)
    if wanted.memory_swappiness is not None and wanted.memory_swappiness >= 0:
        put("memory", "memory.swappiness", wanted.memory_swappiness, "try")
    if wanted.oom_kill_disable:
        put("memory", "memory.oom_control", 1)
    if wanted.kernel_memory_tcp:
        put("memory", "memory.kmem.tcp.limit_in_bytes", wanted.kernel_memory_tcp)
    if wanted.cpu_shares:
        put("cpu", "cpu.shares", wanted.cpu_shares)
    if wanted.realtime_period:
        put("cpu", "cpu.rt_period_us", wanted.realtime_period)
    if wanted.realtime_runtime:
        put("cpu", "cpu.rt_runtime_us", wanted.realtime_runtime)
    if wanted.cpu_period:
        put("cpu", "cpu.cfs_period_us", wanted.cpu_period)
    if wanted.cpu_quota:
        put("cpu", "cpu.cfs_quota_us", max(wanted.cpu_quota, -1))
    if wanted.cpuset_cpus:
        put("cpuset", "cpuset.cpus", wanted.cpuset_cpus)
    if wanted.cpuset_mems:
        put("cpuset", "cpuset.mems", wanted.cpuset_mems)
    if wanted.pids:
        put("pids", "pids.max", wanted.pids if wanted.pids > 0 else "max")
    if wanted.blkio_weight:
        put("blkio", "blkio.weight", wanted.blkio_weight, "try")
        put("blkio", "blkio.bfq.weight", wanted.blkio_weight, "try")
    for weight in wanted.device_weights:
        put("blkio", "blkio.weight_device", _of_device(weight), "try")
        put("blkio", "blkio.bfq.weight_device", _of_device(weight), "try")
    for file, limits in (
        ("read_bps", wanted.device_read_bps),
        ("write_bps", wanted.device_write_bps),
        ("read_iops", wanted.device_read_iops),
        ("write_iops", wanted.device_write_iops),
    ):
        for limit in limits:
            put("blkio", f"blkio.throttle.{file}_device", _of_device(limit))
    return values


def _of_device(limit: DeviceLimit) -> str:
    return f"{limit.major}:{limit.minor} {limit.value}"


def _v2_values(wanted: Resources) -> list[_Value]:
    """v2 has no swappiness and cannot disable the OOM killer: Docker warns and discards these, and so do we."""
    values: list[_Value] = []

    def put(controller: str, file: str, value: int | str, how: str = "write") -> None:
        values.append((how, controller, file, str(value)))

    if wanted.memory:
        put("memory", "memory.max", wanted.memory if wanted.memory > 0 else "max")
    if wanted.memory_swap:
        put("memory", "memory.swap.max", swap_alone(wanted.memory, wanted.memory_swap), "try")
    if wanted.memory_reservation:
        put("memory", "memory.low", wanted.memory_reservation)
    if wanted.cpu_shares:
        put("cpu", "cpu.weight", weight_of_shares(wanted.cpu_shares))
    if wanted.cpu_period or wanted.cpu_quota:
        quota = str(wanted.cpu_quota) if wanted.cpu_quota > 0 else "max"
        put("cpu", "cpu.max", f"{quota} {wanted.cpu_period}" if wanted.cpu_period else quota)
    if wanted.cpuset_cpus:
        put("cpuset", "cpuset.cpus", wanted.cpuset_cpus)
    if wanted.cpuset_mems:
        put("cpuset", "cpuset.mems", wanted.cpuset_mems)
    if wanted.pids:
        put("pids", "pids.max", wanted.pids if wanted.pids > 0 else "max")
    if wanted.blkio_weight:
        put("io", "io.bfq.weight", wanted.blkio_weight, "try")
        put("io", "io.weight", weight_of_blkio(wanted.blkio_weight), "try")
    for weight in wanted.device_weights:
        put("io", "io.bfq.weight", _of_device(weight), "try")
        put("io", "io.weight", _of_device(replace(weight, value=weight_of_blkio(weight.value))), "try")
    for key, limits in (
        ("rbps", wanted.device_read_bps),
        ("wbps", wanted.device_write_bps),
        ("riops", wanted.device_read_iops),
        ("wiops", wanted.device_write_iops),
    ):
        for limit in limits:
            put("io", "io.max", f"{limit.major}:{limit.minor} {key}={limit.value or 'max'}")
    return values


def swap_alone(memory: int, memory_swap: int) -> str:
    """v2 limits swap by itself, the API memory plus swap: the difference, "max" for unlimited."""
    if memory_swap < 0 or memory <= 0:
        return "max"
    return str(max(memory_swap - memory, 0))


def weight_of_shares(shares: int) -> int:
    """cpu.shares [2, 262144] to cpu.weight [1, 10000] as runc 1.2 does: linear."""
    shares = min(max(shares, 2), 262144)
    return 1 + (shares - 2) * 9999 // 262142


def weight_of_blkio(weight: int) -> int:
    """blkio.weight [10, 1000] to io.weight [1, 10000], as runc does."""
    return 1 + (weight - 10) * 9999 // 990


def _devices(layout: Layout, path: str, resources: Resources) -> tuple[Step, ...]:
    """The device rules: lines for the v1 controller where there is one, else an eBPF program."""
    if not resources.devices:
        return ()
    if mount := layout.controllers.get("devices"):
        return tuple(
            ("write", f"{mount}{path}/devices.{'allow' if rule.allow else 'deny'}", devicefilter.line(rule))
            for rule in resources.devices
        )
    return (("devices", layout.unified + path, devicefilter.compile(resources.devices)),)


def update(layout: Layout, path: str, wanted: Resources) -> None:
    """Give a running container these limits: all of them, not only the changed ones (v2's swap limit is a difference of
    two).  What is 0, None or "" stays as it is, but for the number of processes, which 0 makes unlimited again, as
    Docker does. Raises OSError.

    The v1 kernel keeps memory <= memory plus swap at every moment, so which of the two is written first depends on
    what there is; the same holds for CPU period and quota against the parent's.
    """
    if "pids" in (layout.controllers if layout.version == 1 else layout.unified_controllers):
        wanted = replace(wanted, pids=wanted.pids or -1)
    steps = list(limits(layout, path, wanted))
    if layout.version == 1 and wanted.memory and wanted.memory_swap:
        now = cgroupfs.read(f"{layout.controllers['memory']}{path}/memory.memsw.limit_in_bytes")
        if now is not None and wanted.memory > int(now):
            steps[0], steps[1] = steps[1], steps[0]
    cgroupfs.execute(tuple(steps))
