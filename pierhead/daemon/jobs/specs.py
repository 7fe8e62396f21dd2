"""From the API's Config and HostConfig to libcontainer's Spec: Docker's defaults, and where they change."""

import os
import posixpath
import shutil
import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache

from pierhead.daemon.config import Config
from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.jobs import confinement, links
from pierhead.daemon.jobs import mounts as mount_requests
from pierhead.daemon.jobs.describe import args_of, config_of, host_config_of, mounts_of, network_kind
from pierhead.daemon.jobs.files import own_folder
from pierhead.daemon.jobs.mounts import PROPAGATIONS
from pierhead.errors import InvalidParameter, NoSuchContainer
from pierhead.graph.containers import Container
from pierhead.libcontainer import capabilities, cgroups, devicefilter, scopes
from pierhead.libcontainer.spec import (
    Device,
    DeviceLimit,
    DeviceRule,
    Mount,
    NamespaceKind,
    NamespaceMode,
    NetworkSetup,
    Process,
    Resources,
    Rlimit,
    Spec,
)
from pierhead.linux.idmap import IdMaps
from pierhead.linux.mount import DirectoryRoot, Root
from pierhead.wire.containers import ContainerConfig, HostConfig, MountPoint, ThrottleDevice, WeightDevice
from pierhead.wire.containers import Mount as Asked

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHM = 64 * 1024 * 1024
MASKED = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
INIT_TARGET = "/sbin/docker-init"
FILES = ("/etc/resolv.conf", "/etc/hostname", "/etc/hosts")
MOUNTED_ON = frozenset({"/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/console", *FILES})
"""Where every container has something mounted, whatever it asks for: init makes what the image has not."""

_SAFE = ("nosuid", "noexec", "nodev")


@lru_cache(maxsize=1)
def cgroup_layout() -> cgroups.Layout:
    """The host's hierarchies: they do not change while a daemon lives."""
    return cgroups.detect()


@lru_cache(maxsize=1)
def masked_paths(processors: str = "/sys/devices/system/cpu") -> tuple[str, ...]:
    """What is hidden where a container says nothing: Docker's list, with what each processor tells of its heat."""
    throttled = []
    for name in os.listdir(processors) if os.path.isdir(processors) else ():
        path = f"{processors}/{name}/thermal_throttle"
        if name.startswith("cpu") and name[3:].isdigit() and os.path.isdir(path):
            throttled.append((int(name[3:]), path))
    return (*MASKED, *(path for _, path in sorted(throttled)))


def cgroup_path(engine: Engine, id: str, host: HostConfig) -> str:
    """Where a container's cgroup is, below every hierarchy's root."""
    if engine.config.cgroup_driver == "systemd":
        return scopes.path(host.cgroup_parent or engine.config.cgroup_parent or scopes.DEFAULT_SLICE, id)
    parent = host.cgroup_parent or engine.config.cgroup_parent or f"/pierhead/{engine.db.instance}"
    return posixpath.normpath(f"/{parent.lstrip('/')}/{id}")


def user_maps(engine: Engine, host: HostConfig) -> IdMaps | None:
    """Who a container's users are on the host; None without a user namespace."""
    return None if host.userns_mode == "host" else engine.config.id_maps


def merge_env(base: list[str], over: list[str]) -> list[str]:
    """``over`` replaces by name, in place; an entry without "=" removes the name, as Docker does."""
    result = {entry.partition("=")[0]: entry for entry in base}
    for entry in over:
        name, equals, _ = entry.partition("=")
        if equals:
            result[name] = entry
        else:
            result.pop(name, None)
    return list(result.values())


def environment(engine: Engine, container: Container, config: ContainerConfig, hostname: str) -> tuple[str, ...]:
    """What the container's process gets; init adds HOME where it is missing."""
    base = [DEFAULT_PATH, f"HOSTNAME={hostname}"]
    if config.tty:
        base.append("TERM=xterm")
    return tuple(merge_env(base + links.environment(engine, container), config.env or []))


def _init_binary(config: Config) -> str:
    for name in filter(None, (config.init_path, "docker-init", "tini-static", "tini")):
        found = shutil.which(name)
        if found:
            return found
    raise InvalidParameter("--init needs docker-init or tini on the host: apt-get install tini")


def device_limits(devices: Sequence[WeightDevice | ThrottleDevice] | None) -> tuple[DeviceLimit, ...]:
    """Limits of block devices by their numbers. Raises InvalidParameter for a path that is none."""
    found = []
    for one in devices or ():
        try:
            node = os.stat(one.path)
        except OSError as error:
            raise InvalidParameter(f"stat {one.path}: {(error.strerror or '').lower()}") from None
        if not stat.S_ISBLK(node.st_mode):
            raise InvalidParameter(f"{one.path} is not a block device: no I/O of its can be limited")
        number = node.st_rdev
        value = one.weight if isinstance(one, WeightDevice) else one.rate
        found.append(DeviceLimit(os.major(number), os.minor(number), value))
    return tuple(found)


def resources(host: HostConfig, devices: tuple[DeviceRule, ...]) -> Resources:
    """The limits of a HostConfig in the kernel's terms."""
    period, quota = host.cpu_period, host.cpu_quota
    if host.nano_cpus:
        period, quota = 100_000, host.nano_cpus * 100_000 // 10**9
    swappiness = host.memory_swappiness
    return Resources(
        memory=host.memory,
        memory_reservation=host.memory_reservation,
        memory_swap=host.memory_swap,
        memory_swappiness=None if swappiness is None or swappiness < 0 else swappiness,
        oom_kill_disable=bool(host.oom_kill_disable),
        cpu_shares=host.cpu_shares,
        cpu_period=period,
        cpu_quota=quota,
        cpuset_cpus=host.cpuset_cpus,
        cpuset_mems=host.cpuset_mems,
        pids=max(host.pids_limit or 0, 0),
        blkio_weight=host.blkio_weight,
        kernel_memory_tcp=host.kernel_memory_tcp,
        realtime_period=host.cpu_realtime_period,
        realtime_runtime=host.cpu_realtime_runtime,
        device_weights=device_limits(host.blkio_weight_device),
        device_read_bps=device_limits(host.blkio_device_read_bps),
        device_write_bps=device_limits(host.blkio_device_write_bps),
        device_read_iops=device_limits(host.blkio_device_read_iops),
        device_write_iops=device_limits(host.blkio_device_write_iops),
        devices=devices,
    )


def _namespaces(host: HostConfig, unified: bool) -> dict[NamespaceKind, NamespaceMode]:
    def mode(text: str) -> NamespaceMode:
        if text == "host":
            return NamespaceMode.HOST
        return NamespaceMode.JOIN if text.startswith("container:") else NamespaceMode.NEW

    private_cgroup = host.cgroupns_mode == "private" or (host.cgroupns_mode == "" and unified)
    return {
        NamespaceKind.MOUNT: NamespaceMode.NEW,
        NamespaceKind.NETWORK: mode(host.network_mode),
        NamespaceKind.UTS: mode(host.uts_mode),
        NamespaceKind.IPC: mode(host.ipc_mode),
        NamespaceKind.PID: mode(host.pid_mode),
        NamespaceKind.CGROUP: NamespaceMode.NEW if private_cgroup else NamespaceMode.HOST,
    }


def _default_mounts(host: HostConfig, unified: bool, writable_cgroups: bool, maps: IdMaps | None) -> dict[str, Mount]:
    rw = ("rw",) if host.privileged else ("ro",)
    # As Docker: what is a user namespace's own there may be used, to make groups below it.
    own = unified and maps is not None and host.cgroupns_mode == "private"
    cgroup = ("rw",) if host.privileged or writable_cgroups or own else ("ro",)
    terminals = "newinstance,ptmxmode=0666,mode=0620" + (",gid=5" if maps is None or maps.has_group(5) else "")
    shm = host.shm_size or DEFAULT_SHM
    mounts = [
        Mount("/proc", "proc", "proc", _SAFE),
        Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime"), "mode=755,size=65536k"),
        Mount("/dev/pts", "devpts", "devpts", ("nosuid", "noexec"), terminals),
        Mount("/sys", "sysfs", "sysfs", (*_SAFE, *rw)),
        Mount("/sys/fs/cgroup", "cgroup2" if unified else "cgroup", "cgroup", (*_SAFE, *cgroup)),
        Mount("/dev/mqueue", "mqueue", "mqueue", _SAFE),
        Mount("/dev/shm", "tmpfs", "shm", _SAFE, f"mode=1777,size={shm}"),
    ]
    if host.ipc_mode == "none":
        mounts = [mount for mount in mounts if mount.target != "/dev/shm"]
    elif host.ipc_mode.startswith("container:"):
        mounts[-1] = Mount("/dev/shm", "shm", "shm", _SAFE)
    elif host.ipc_mode == "host":
        mounts[-1] = Mount("/dev/shm", "bind", "/dev/shm", ("rw",))
        if maps is not None:  # whose root may not mount the host's queues, but can be shown them
            mounts = [mount for mount in mounts if mount.target != "/dev/mqueue"]
            if os.path.isdir("/dev/mqueue"):
                mounts.append(Mount("/dev/mqueue", "bind", "/dev/mqueue", ("rw",)))
    return {mount.target: mount for mount in mounts}


def _mounts(engine: Engine, container: Container, host: HostConfig, unified: bool) -> list[Mount]:
    folder = own_folder(engine, network_owner(engine, container, host).id)
    writable_cgroups = confinement.of(host, engine.config).writable_cgroups
    mounts = _default_mounts(host, unified, writable_cgroups, user_maps(engine, host))
    for path in FILES:
        mode = "ro" if host.readonly_rootfs else "rw"
        mounts[path] = Mount(path, "bind", os.path.join(folder, os.path.basename(path)), (mode,))
    asked = {posixpath.normpath("/" + mount.target.lstrip("/")): mount for mount in host.mounts or []}
    for point in mounts_of(container):
        if point.destination == "/dev":
            mounts = {target: mount for target, mount in mounts.items() if not target.startswith("/dev")}
        mounts[point.destination] = _asked(engine, point, asked.get(point.destination))
    for target, text in (host.tmpfs or {}).items():
        mounts[os.path.normpath(target)] = _tmpfs(target, text, True)
    if host.init:
        mounts[INIT_TARGET] = Mount(INIT_TARGET, "bind", _init_binary(engine.config), ("ro",))
    # Shallow first, or a deeper mount would be covered by a later one.
    return sorted(mounts.values(), key=lambda mount: (mount.target.count("/"), mount.target != "/proc"))


def _asked(engine: Engine, point: MountPoint, asked: Asked | None) -> Mount:
    """A mount of the container's own; asked: what the request says of it beyond what inspect shows."""
    if point.type == "tmpfs":
        return _tmpfs(point.destination, mount_requests.tmpfs_words(asked) if asked else "", point.rw)
    if point.type == "image":
        root = engine.layers.root(engine.graph.layer(engine.graph.image(point.name).top or "").cache_id)
        layers: tuple[str, ...] = (root.path,) if isinstance(root, DirectoryRoot) else root.lower
        subpath = asked.image_options.subpath if asked is not None and asked.image_options else ""
        return Mount(point.destination, "image", "image", ("ro",), layers=layers, subpath=subpath)
    options: tuple[str, ...] = ("rw",) if point.rw else ("ro",)
    recursive_readonly, subpath = True, ""
    if asked is not None and asked.type == "bind" and asked.bind_options is not None:
        recursive_readonly = not asked.bind_options.read_only_non_recursive
        options += ("bind",) if asked.bind_options.non_recursive else ()
    if asked is not None and asked.type == "volume" and asked.volume_options is not None:
        subpath = asked.volume_options.subpath
    return Mount(
        point.destination,
        "bind",
        point.source,
        options,
        propagation=point.propagation or "rprivate",
        recursive_readonly=recursive_readonly,
        subpath=subpath,
    )


def file_mounts(engine: Engine, container: Container) -> tuple[Mount, ...]:
    """What of its mounts has files also while it does not run: binds and images, without those of the engine's own."""
    mounts = _mounts(engine, container, host_config_of(container), cgroup_layout().version == 2)
    return tuple(
        mount
        for mount in mounts
        if mount.kind == "image"
        or (
            mount.kind == "bind"
            and mount.target not in (INIT_TARGET, "/dev/shm", "/dev/mqueue")
            and (mount.target not in FILES or os.path.exists(mount.source))
        )
    )


_TMPFS_FLAGS = (
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "sync",
    "dirsync",
    "noatime",
    "nodiratime",
    "relatime",
    "strictatime",
)
_TMPFS_DATA = ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol")


def _tmpfs(target: str, text: str, writable: bool) -> Mount:
    flags = {"noexec": "exec", "nosuid": "suid", "nodev": "dev"}
    chosen = dict.fromkeys(flags)
    others: list[str] = []
    data: list[str] = []
    for option in filter(None, text.split(",")):
        if option in flags.values():
            chosen.pop(next(name for name, opposite in flags.items() if opposite == option), None)
        elif option in flags:
            chosen[option] = None
        elif option in _TMPFS_FLAGS:
            others.append(option)
        elif option.partition("=")[0] in _TMPFS_DATA:
            data.append(option)
        elif option not in PROPAGATIONS:
            raise InvalidParameter(f'invalid tmpfs option ["{option}"]')
    if not writable:
        others.append("ro")
    return Mount(os.path.normpath(target), "tmpfs", "tmpfs", (*chosen, *others), ",".join(data))


STANDARD_DEVICES = (
    Device("/dev/null", "c", 1, 3),
    Device("/dev/zero", "c", 1, 5),
    Device("/dev/full", "c", 1, 7),
    Device("/dev/random", "c", 1, 8),
    Device("/dev/urandom", "c", 1, 9),
    Device("/dev/tty", "c", 5, 0),
)


def device(path: str, inside: str) -> Device:
    """A host's device node. Raises InvalidParameter where there is none."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise InvalidParameter(
            f'error gathering device information while adding custom device "{path}": {(error.strerror or "").lower()}'
        ) from error
    if not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise InvalidParameter(
            f'error gathering device information while adding custom device "{path}": not a device node'
        )
    kind = "c" if stat.S_ISCHR(found.st_mode) else "b"
    return Device(
        inside,
        kind,
        os.major(found.st_rdev),
        os.minor(found.st_rdev),
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        found.st_gid,
        path,
    )


def _nodes(folder: str, without: Sequence[str] = ()) -> Iterator[str]:
    """Device nodes in a folder and below it, in order."""
    for above, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if f"{above}/{name}" not in without)
        for name in sorted(names):
            path = f"{above}/{name}"
            mode = os.lstat(path).st_mode
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                yield path


def _host_devices() -> list[Device]:
    own = ("/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd")
    names = ("console", "ptmx", "tty")
    return [device(path, path) for path in _nodes("/dev", own) if os.path.basename(path) not in names]


def devices(host: HostConfig) -> tuple[tuple[Device, ...], tuple[DeviceRule, ...]]:
    """Nodes to make and the device cgroup's rules. Raises InvalidParameter."""
    nodes = {node.path: node for node in STANDARD_DEVICES}
    if host.privileged:
        nodes = {node.path: node for node in _host_devices()} | nodes
        return tuple(nodes.values()), devicefilter.PRIVILEGED
    rules = list(devicefilter.DEFAULT)
    for mapping in host.devices or []:
        access = mapping.cgroup_permissions or "rwm"
        if not set(access) <= set("rwm"):
            raise InvalidParameter(f"bad mode specified: {access}")
        inside = mapping.path_in_container or mapping.path_on_host
        paths = [(mapping.path_on_host, inside)]
        if os.path.isdir(mapping.path_on_host):
            top = mapping.path_on_host.rstrip("/")
            paths = [(path, inside.rstrip("/") + path.removeprefix(top)) for path in _nodes(top)]
        for path, target in paths:
            node = device(path, target)
            nodes[target] = node
            rules.append(DeviceRule(True, node.kind, node.major, node.minor, access))
    for text in host.device_cgroup_rules or []:
        rules.append(cgroups.parse_device_rule(text))
    return tuple(nodes.values()), tuple(rules)


def rlimits(host: HostConfig, config: Config) -> tuple[Rlimit, ...]:
    """--ulimit over the daemon's --default-ulimit. Raises InvalidParameter."""
    result: dict[str, Rlimit] = {}
    for text in config.default_ulimits:
        name, _, values = text.partition("=")
        soft, _, hard = values.partition(":")
        result[name] = Rlimit(name, int(soft), int(hard or soft))
    for limit in host.ulimits or []:
        result[limit.name] = Rlimit(limit.name, limit.soft, limit.hard)
    return tuple(result.values())


def _sysctls(host: HostConfig, maps: IdMaps | None) -> tuple[tuple[str, str], ...]:
    values: dict[str, str] = {}
    if network_kind(host.network_mode) not in ("host", "container"):
        values["net.ipv4.ip_unprivileged_port_start"] = "0"
        if maps is None:  # the kernel refuses groups that are nobody
            values["net.ipv4.ping_group_range"] = "0 2147483647"
    values.update(host.sysctls or {})
    return tuple(values.items())


def build(
    engine: Engine,
    container: Container,
    config: ContainerConfig,
    host: HostConfig,
    root: Root,
    network: NetworkSetup,
) -> Spec:
    """The Spec of one start. Raises InvalidParameter for what only now can be seen to be wrong."""
    unified = cgroup_layout().version == 2
    for point in mounts_of(container):
        if point.type == "bind":
            mount_requests.check_propagation(point.source, point.propagation)
    hostname = hostname_of(engine, container, config, host)
    maps = user_maps(engine, host)
    nodes, rules = devices(host)
    confined = confinement.of(host, engine.config)
    args: tuple[str, ...] = (container.path, *args_of(container))
    if host.init:
        args = (INIT_TARGET, "--", *args)
    size = host.console_size if len(host.console_size or []) == 2 else [0, 0]
    process = Process(
        args=args,
        env=environment(engine, container, config, hostname),
        cwd=config.working_dir or "/",
        user=config.user,
        groups=tuple(host.group_add or ()),
        capabilities=capabilities.resolve(tuple(host.cap_add or ()), tuple(host.cap_drop or ()), host.privileged),
        seccomp=confinement.program(host, confined),
        seccomp_profile=confined.profile or "",
        no_new_privileges=confined.no_new_privileges,
        apparmor=confined.apparmor,
        rlimits=rlimits(host, engine.config),
        oom_score_adj=host.oom_score_adj,
        terminal=config.tty,
        console_size=(size[0], size[1]) if size[0] and size[1] else None,
        user_maps=maps,
    )
    mounts = _mounts(engine, container, host, unified)
    shared = [mount.propagation for mount in mounts if mount.propagation in ("shared", "rshared")]
    slave = [mount.propagation for mount in mounts if mount.propagation in ("slave", "rslave")]
    return Spec(
        id=container.id,
        root=root,
        process=process,
        hostname=hostname if host.uts_mode != "host" else "",
        domainname=config.domainname if host.uts_mode != "host" else "",  # adopted with another's network
        root_readonly=host.readonly_rootfs,
        mounts=tuple(mounts),
        devices=nodes,
        masked_paths=tuple(host.masked_paths if host.masked_paths is not None else masked_paths()),
        readonly_paths=tuple(host.readonly_paths if host.readonly_paths is not None else READONLY),
        sysctls=_sysctls(host, maps),
        cgroup=cgroup_path(engine, container.id, host),
        resources=resources(host, rules),
        namespaces=_namespaces(host, unified),
        network=network,
        rootfs_propagation="rshared" if shared else "rslave" if slave else "rprivate",
        join_users=maps is not None and joins(host),
        init=bool(host.init),
        privileged=host.privileged,
        annotations=tuple((host.annotations or {}).items()),
    )


def joins(host: HostConfig) -> bool:
    """Whether a container is in a namespace of another one: then it shares that one's user namespace, if it has one."""
    return any(mode.startswith("container:") for mode in (host.network_mode, host.pid_mode, host.ipc_mode))


def network_owner(engine: Engine, container: Container, host: HostConfig) -> Container:
    """Whose network a container is in, and whose hosts, hostname and resolv.conf it sees: its own or another's."""
    if network_kind(host.network_mode) != "container":
        return container
    try:
        other = engine.containers.find(host.network_mode.removeprefix("container:"))
    except NoSuchContainer:
        return container
    return network_owner(engine, other, host_config_of(other)) if other.id != container.id else container


def hostname_of(engine: Engine, container: Container, config: ContainerConfig, host: HostConfig) -> str:
    """The given one; the host's in its network; the other container's when joining it; else the short id."""
    if config.hostname:
        return config.hostname
    if network_kind(host.network_mode) == "host" or host.uts_mode == "host":
        return os.uname().nodename
    other = network_owner(engine, container, host)
    if other.id != container.id:
        return hostname_of(engine, other, config_of(other), host_config_of(other))
    return container.id[:12]
