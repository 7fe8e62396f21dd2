"""A Spec as the configuration of an OCI runtime (``config.json`` of the runtime specification, 1.0.2).

Pure, as ``plan`` is for our own init; both say the same of a container, each in the words of who makes it.  Three
things are left to whoever hands the configuration over, for they are known only where the container is made: the user's
numbers (a name is looked up in its root), the root's path, and the paths of namespaces that are joined.

What an OCI runtime cannot be told is in docs/execdrivers.md.  No hooks, and of annotations those alone that the
container was asked to have: an image's are not ours to pass on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from pierhead.libcontainer import capabilities, devicefilter, seccomp
from pierhead.libcontainer.plan import sysctl_path
from pierhead.libcontainer.spec import (
    Device,
    DeviceLimit,
    DeviceRule,
    Mount,
    NamespaceKind,
    NamespaceMode,
    Process,
    Resources,
    Spec,
)
from pierhead.linux.idmap import Range

VERSION = "1.0.2"

Config = dict[str, Any]

NAMESPACES: Mapping[NamespaceKind, str] = {
    NamespaceKind.MOUNT: "mount",
    NamespaceKind.NETWORK: "network",
    NamespaceKind.UTS: "uts",
    NamespaceKind.IPC: "ipc",
    NamespaceKind.PID: "pid",
    NamespaceKind.CGROUP: "cgroup",
}
"""The specification's names."""

USER = "user"
"""Its name of a user namespace, which is none of a Spec's."""

ROOT = "rootfs"
"""The root file system's folder in a bundle."""


_SAID: Mapping[type, frozenset[str]] = {
    Spec: frozenset(
        "id root process hostname domainname root_readonly mounts devices masked_paths readonly_paths sysctls cgroup "
        "resources namespaces network rootfs_propagation join_users init privileged annotations".split()
    ),
    Process: frozenset(
        "args env cwd user groups capabilities seccomp seccomp_profile no_new_privileges rlimits oom_score_adj "
        "terminal umask console_size user_maps".split()
    ),
    Mount: frozenset("target kind source options data propagation recursive_readonly subpath layers".split()),
    Resources: frozenset(
        "memory memory_reservation memory_swap memory_swappiness oom_kill_disable cpu_shares cpu_period cpu_quota "
        "cpuset_cpus cpuset_mems pids blkio_weight kernel_memory_tcp realtime_period realtime_runtime device_weights "
        "device_read_bps device_write_bps device_read_iops device_write_iops devices".split()
    ),
}
"""What is spoken of below (or is not the runtime's business)."""


def _check(value: Spec | Process | Mount | Resources) -> None:
    """A container is refused rather than made without something that only our own init has been taught."""
    for field in fields(value):
        if field.name not in _SAID[type(value)] and getattr(value, field.name) != field.default:
            what = field.name.replace("_", " ")
            raise ValueError(f"an OCI runtime cannot be told of {what}: the container needs the native exec driver")


def config(
    spec: Spec, joined: Mapping[NamespaceKind, str] | None = None, sources: Mapping[str, str] | None = None
) -> Config:
    """The whole configuration; ready for ``json.dumps``.

    joined: paths of the namespaces with NamespaceMode.JOIN.  sources: by target, where what a runtime cannot put
    together (see ``prepared``) is mounted already.  Raises ValueError; KeyError where a namespace has no path.
    """
    _check(spec)
    _check(spec.resources)
    maps = spec.process.user_maps
    # In a user namespace a runtime binds the host's node of the same path, for nobody can make one there.
    moved = [device for device in spec.devices if maps is not None and device.source not in ("", device.path)]
    linux: Config = {
        "resources": resources(spec.resources),
        "namespaces": list(_namespaces(spec, joined or {})),
        "maskedPaths": list(spec.masked_paths),
        "readonlyPaths": list(spec.readonly_paths),
        "devices": [_device(device) for device in spec.devices if device not in moved],
    }
    if maps is not None:
        linux["namespaces"].append({"type": USER})
        linux |= {"uidMappings": _ranges(maps.uids), "gidMappings": _ranges(maps.gids)}
    if spec.cgroup:
        linux["cgroupsPath"] = spec.cgroup
    if spec.rootfs_propagation not in ("private", "rprivate"):  # what a runtime does unasked
        linux["rootfsPropagation"] = spec.rootfs_propagation.removeprefix("r")
    values = dict(_sysctls(spec))
    if values:
        linux["sysctl"] = values
    if spec.process.seccomp is not None:
        if not spec.process.seccomp_profile:
            raise ValueError("a seccomp program without the profile that it was made of")
        rules = seccomp.selected(spec.process.seccomp_profile, spec.process.capabilities)
        if rules is not None:
            linux["seccomp"] = rules
    made: Config = {
        "ociVersion": VERSION,
        "process": process(spec.process),
        "root": {"path": ROOT, "readonly": spec.root_readonly},
        "mounts": [
            *(_mount(mount, sources or {}) for mount in spec.mounts),
            *(_plain(Mount(device.path, "bind", device.source, ("bind",))) for device in moved),
        ],
        "linux": linux,
    }
    if spec.hostname:
        made["hostname"] = spec.hostname
    if spec.annotations:
        made["annotations"] = dict(spec.annotations)
    return made


def process(wanted: Process, privileged: bool = False) -> Config:
    """The process part, which ``exec`` has alone; its user is root until ``become`` says who it is.

    privileged: with every capability that there is.
    """
    if not wanted.args:
        raise ValueError("no command specified")
    _check(wanted)
    names = list(capabilities.available() if privileged else wanted.capabilities)
    pairs = (entry.partition("=") for entry in wanted.env if entry.find("=") > 0)
    made: Config = {
        "terminal": wanted.terminal,
        "user": {"uid": 0, "gid": 0, "umask": wanted.umask},
        "args": list(wanted.args),
        "env": [f"{name}={value}" for name, value in {name: value for name, _, value in pairs}.items()],
        "cwd": wanted.cwd or "/",
        "capabilities": {"bounding": names, "effective": names, "permitted": names},
        "rlimits": [
            {"type": f"RLIMIT_{limit.name.upper()}", "soft": _unsigned(limit.soft), "hard": _unsigned(limit.hard)}
            for limit in wanted.rlimits
        ],
        "noNewPrivileges": wanted.no_new_privileges,
        "oomScoreAdj": wanted.oom_score_adj,
    }
    if wanted.apparmor:
        made["apparmorProfile"] = wanted.apparmor
    if wanted.terminal and wanted.console_size:
        rows, columns = wanted.console_size
        made["consoleSize"] = {"height": rows, "width": columns}
    return made


def become(process: Config, uid: int, gid: int, groups: Iterable[int]) -> None:
    """Say who the process is, in numbers."""
    process["user"] |= {"uid": uid, "gid": gid, "additionalGids": list(groups)}


def resources(wanted: Resources) -> Config:
    """The limits, for either cgroup version: the runtime converts v1's numbers where there is v2 alone."""
    memory = {
        "limit": wanted.memory or None,
        "reservation": wanted.memory_reservation or None,
        "swap": wanted.memory_swap or None,
        "swappiness": wanted.memory_swappiness,
        "disableOOMKiller": wanted.oom_kill_disable or None,
        "kernelTCP": wanted.kernel_memory_tcp or None,
    }
    cpu = {
        "shares": wanted.cpu_shares or None,
        "quota": max(wanted.cpu_quota, -1) or None,
        "period": wanted.cpu_period or None,
        "cpus": wanted.cpuset_cpus or None,
        "mems": wanted.cpuset_mems or None,
        "realtimePeriod": wanted.realtime_period or None,
        "realtimeRuntime": wanted.realtime_runtime or None,
    }
    io = {
        "weight": wanted.blkio_weight or None,
        "weightDevice": _limited(wanted.device_weights, "weight"),
        "throttleReadBpsDevice": _limited(wanted.device_read_bps, "rate"),
        "throttleWriteBpsDevice": _limited(wanted.device_write_bps, "rate"),
        "throttleReadIOPSDevice": _limited(wanted.device_read_iops, "rate"),
        "throttleWriteIOPSDevice": _limited(wanted.device_write_iops, "rate"),
    }
    parts: Config = {
        # Runtimes refuse a rule that the kernel would take without effect, and deny all where nothing is said.
        "devices": [_rule(rule) for rule in devicefilter.settled(wanted.devices)],
        "memory": _given(memory),
        "cpu": _given(cpu),
        "pids": {"limit": wanted.pids} if wanted.pids else None,
        "blockIO": _given(io),
    }
    return _given(parts)


def _limited(limits: Iterable[DeviceLimit], what: str) -> list[Config] | None:
    return [{"major": one.major, "minor": one.minor, what: one.value} for one in limits] or None


def _given(values: Config) -> Config:
    return {key: value for key, value in values.items() if value is not None and value != {}}


def _unsigned(limit: int) -> int:
    """-1 is no limit; the specification's numbers have no sign."""
    return limit & (1 << 64) - 1


def _rule(rule: DeviceRule) -> Config:
    numbers = _given({"major": rule.major, "minor": rule.minor})
    return {"allow": rule.allow, "type": rule.kind, **numbers, "access": rule.access}


def _device(device: Device) -> Config:
    return {
        "path": device.path,
        "type": device.kind,
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": device.uid,
        "gid": device.gid,
    }


def _namespaces(spec: Spec, joined: Mapping[NamespaceKind, str]) -> Iterable[Config]:
    for kind, name in NAMESPACES.items():
        mode = spec.namespaces.get(kind, NamespaceMode.NEW)
        if mode is NamespaceMode.NEW:
            yield {"type": name}
        elif mode is NamespaceMode.JOIN:
            yield {"type": name, "path": joined[kind]}


def _ranges(ranges: Iterable[Range]) -> list[Config]:
    return [{"containerID": one.inside, "hostID": one.outside, "size": one.length} for one in ranges]


def prepared(mount: Mount) -> bool:
    """Whether a runtime cannot make it by itself: it is mounted elsewhere beforehand, and bound from there."""
    return mount.kind in ("image", "shm") or bool(mount.subpath)


def _mount(mount: Mount, sources: Mapping[str, str]) -> Config:
    _check(mount)
    if prepared(mount):
        if mount.target not in sources:
            raise ValueError(f"an OCI bundle has no image, subpath or /dev/shm of another container: {mount.target}")
        options = ("ro",) if mount.kind == "image" else mount.options
        mount = replace(mount, kind="bind", source=sources[mount.target], options=options)
    return _plain(mount)


def _plain(mount: Mount) -> Config:
    options = list(mount.options)
    kind = mount.kind
    if kind == "bind":
        options = [option for option in options if option not in ("bind", "rbind")]
        if "ro" in options and mount.recursive_readonly:
            options[options.index("ro")] = "rro"
        options.insert(0, "bind" if "bind" in mount.options else "rbind")
    elif kind == "cgroup2":
        kind = "cgroup"  # the runtime knows which version the host has
    options += [option for option in mount.data.split(",") if option]
    if kind == "bind" or mount.propagation != "rprivate":
        options.append(mount.propagation)
    return {"destination": mount.target, "type": kind, "source": mount.source or kind, "options": options}


def _sysctls(spec: Spec) -> Iterable[tuple[str, str]]:
    """Names with dots alone: a runtime takes every dot for a slash, so an interface that has one cannot be named."""
    for name, value in spec.sysctls:
        path = sysctl_path(name)
        if "." in path:
            raise ValueError(f"an OCI runtime cannot be given the sysctl {name!r}: its name has a dot in a part of it")
        yield path.replace("/", "."), value
    if spec.domainname and spec.namespaces.get(NamespaceKind.UTS, NamespaceMode.NEW) is NamespaceMode.NEW:
        yield "kernel.domainname", spec.domainname  # as Docker does it: the field is of a later version
