"""From a Spec to a flat list of primitive operations, as bytes: everything that can be decided beforehand is, here.

The child that becomes the container (``init``) only loops over the operations: tuples of a name and builtin values,
carried by ``marshal``.  This module is pure and runs in the daemon; it may import what it likes, ``init`` may not.
``describe`` says in words what a plan will do.
"""

from __future__ import annotations

import marshal
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from posixpath import normpath

from pierhead.libcontainer import userplan
from pierhead.libcontainer.capabilities import NUMBERS
from pierhead.libcontainer.cgroups import Plan as CgroupPlan
from pierhead.libcontainer.spec import Device, Mount, NamespaceKind, NamespaceMode, Process, Rlimit, Spec
from pierhead.linux import const
from pierhead.linux.mount import DirectoryRoot, Root

SHM = -1
"""The number of the bind mount that comes from another container (``container.spawn``)."""

VERSION = 1
"""Of the plan's format: a shim refuses a plan of another version."""

Operation = tuple[object, ...]

_MARSHAL = 2
_ALL_CAPABILITIES = (1 << 64) - 1

# mount(8)'s words for a mount's own attributes: (bits set, bits cleared first).
_ATTRIBUTES = {
    "ro": (const.MOUNT_ATTR_RDONLY, 0),
    "rro": (const.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, const.MOUNT_ATTR_RDONLY),
    "nosuid": (const.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, const.MOUNT_ATTR_NOSUID),
    "nodev": (const.MOUNT_ATTR_NODEV, 0),
    "dev": (0, const.MOUNT_ATTR_NODEV),
    "noexec": (const.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, const.MOUNT_ATTR_NOEXEC),
    "noatime": (const.MOUNT_ATTR_NOATIME, const.MOUNT_ATTR_ATIME),
    "relatime": (0, const.MOUNT_ATTR_ATIME),
    "strictatime": (const.MOUNT_ATTR_STRICTATIME, const.MOUNT_ATTR_ATIME),
    "nodiratime": (const.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, const.MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (const.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "defaults": (0, 0),
    "norelatime": (0, 0),
    "atime": (0, const.MOUNT_ATTR_ATIME),
}

_PROPAGATION = {
    "private": (const.MS_PRIVATE, False),
    "rprivate": (const.MS_PRIVATE, True),
    "slave": (const.MS_SLAVE, False),
    "rslave": (const.MS_SLAVE, True),
    "shared": (const.MS_SHARED, False),
    "rshared": (const.MS_SHARED, True),
    "unbindable": (const.MS_UNBINDABLE, False),
    "runbindable": (const.MS_UNBINDABLE, True),
}

_FILE_TYPES = {"c": 0o020000, "b": 0o060000, "p": 0o010000}

# What may be mounted over inside /proc (runc's list: lxcfs serves these).
_PROC_ALLOWED = frozenset(
    f"/proc/{name}"
    for name in (
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    )
)


def compile_start(spec: Spec, cgroup: CgroupPlan | None = None) -> bytes:
    """The plan of a container's start, for ``container.spawn``.

    cgroup: ``cgroups.plan(layout, spec.cgroup, spec.resources)``; None leaves the process in its parent's cgroup.
    Raises ValueError for options, names or values that no kernel takes.
    """
    setup = spec.network
    mode = {kind: spec.namespaces.get(kind, NamespaceMode.NEW) for kind in NamespaceKind}
    new = [kind for kind in NamespaceKind if mode[kind] is NamespaceMode.NEW]
    if NamespaceKind.MOUNT not in new:
        raise ValueError("a container has a mount namespace of its own")
    # The cgroup namespace's root is the cgroup that its maker is in, so it is made after that was entered.
    flags = sum(const.NAMESPACE_FLAGS[kind] for kind in new if kind is not NamespaceKind.CGROUP)
    plan: dict[str, object] = {
        "version": VERSION,
        "id": spec.id,
        "flags": flags,
        "joins": tuple(
            (str(kind), const.NAMESPACE_FLAGS[kind]) for kind in NamespaceKind if mode[kind] is NamespaceMode.JOIN
        ),
        "unshare": const.CLONE_NEWCGROUP if NamespaceKind.CGROUP in new else 0,
        "cgroup": _cgroup(cgroup),
        "host": setup.host,
        "busy": setup.busy,
        "terminal": spec.process.terminal,
        "resolver": bool(setup.resolver),
        "shm": any(mount.kind == "shm" for mount in spec.mounts),
        "operations": tuple(_start(spec, cgroup)),
    }
    if spec.process.user_maps is not None:
        plan |= userplan.start(spec, _start(spec, cgroup))
        plan["flags"] = flags if spec.join_users else flags | const.CLONE_NEWUSER
    return marshal.dumps(plan, _MARSHAL)


def compile_exec(process: Process, privileged: bool = False) -> bytes:
    """The plan of one more process in a running container, for ``container.enter``."""
    plan: dict[str, object] = {
        "version": VERSION,
        "terminal": process.terminal,
        "operations": (("stdio", process.terminal, *(process.console_size or (0, 0))), *_process(process, privileged)),
    }
    if process.user_maps is not None:
        plan |= userplan.execution(process, plan["operations"])  # type: ignore[arg-type]
    return marshal.dumps(plan, _MARSHAL)


def describe(plan: bytes) -> list[str]:
    """What the plan will do, a line a step; for people and tests. Long values (programs, messages) by their size."""
    loaded = marshal.loads(plan)
    lines = [f"cgroup {kind} {path} {_short(value)}" for kind, path, value in loaded.get("cgroup", {}).get("steps", ())]
    if "flags" in loaded:
        lines.append(
            f"clone {'+'.join(name for name, flag in const.NAMESPACE_FLAGS.items() if loaded['flags'] & flag)}"
        )
    lines += [f"user {name} {_short(value)}" for name, value in loaded.get("user", {}).items()]
    lines += [f"join {kind}" for kind, _ in loaded.get("joins", ())]
    lines += [f"host {_short(message)}" for message in loaded.get("host", ())]
    lines += [" ".join([operation[0], *map(_short, operation[1:])]) for operation in loaded["operations"]]
    return lines


def _short(value: object) -> str:
    if isinstance(value, bytes) and len(value) > 16:
        return f"<{len(value)} bytes>"
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))})"
    return str(value) if value != "" else "''"


def _cgroup(cgroup: CgroupPlan | None) -> dict[str, object]:
    if cgroup is None:
        return {"steps": (), "into": "", "join": (), "directories": (), "leave": (), "end": ()}
    return {
        "steps": cgroup.steps,
        "into": cgroup.into,
        "join": cgroup.join,
        "directories": cgroup.directories,
        "leave": cgroup.leave,
        "end": cgroup.end,
    }


def _start(spec: Spec, cgroup: CgroupPlan | None) -> Iterable[Operation]:
    yield ("keyring", f"_ses.{spec.id}")
    # Bind sources are cloned while our copy of the host's mounts is still in its peer groups: what asked for "shared"
    # or "slave" keeps its group, the rest is made private when it is attached.
    mounts = list(_expand(spec.mounts, spec, cgroup))
    for number, mount in enumerate(mounts):
        if mount.kind == "bind":
            yield ("source", number, mount.source, "bind" not in mount.options, mount.subpath)
    yield ("slave",)
    yield from _root(spec.root)
    for number, mount in enumerate(mounts):
        if mount.kind == "link":
            yield ("link", mount.source, mount.target)
        elif mount.kind == "frozen":
            yield ("readonly_mount", mount.target)
        elif mount.kind == "image":
            yield ("image", number, mount.layers, mount.subpath)
            yield _mount(replace(mount, kind="bind", options=("ro",)), number)
        elif mount.kind == "shm":
            yield _mount(replace(mount, kind="bind"), SHM)
        else:
            yield _mount(mount, number)
    if _needs_dev(spec):
        yield from _devices(spec)
    yield ("procfs",)
    yield from _network(spec)
    yield ("sysctls", tuple(_sysctl(name, value) for name, value in spec.sysctls))
    # Before the masks: what they hide is nobody's business, but a terminal needs /dev as it is now.
    yield ("stdio", spec.process.terminal, *(spec.process.console_size or (0, 0)))
    if spec.process.terminal and _needs_dev(spec):
        yield ("console",)
    for path in spec.readonly_paths:
        yield ("readonly", path)
    for path in spec.masked_paths:
        yield ("mask", path)
    if spec.hostname:
        yield ("hostname", spec.hostname)
    if spec.domainname:
        yield ("domainname", spec.domainname)
    if spec.process.cwd.strip("/"):
        yield ("workdir", spec.process.cwd)
    yield ("oom_score", spec.process.oom_score_adj)
    yield ("pivot",)
    if spec.root_readonly:
        yield ("readonly_root",)
    # Of the root's own mount: binds have theirs, which this must not change again.
    propagation, _ = _propagation(spec.rootfs_propagation)
    if propagation != const.MS_PRIVATE:
        yield ("propagation", propagation)
    yield from _process(spec.process, False, oom=False)


def files(root: Root, mounts: Sequence[Mount]) -> Iterable[Operation]:
    """What shows a container's files without a run of it; mounts: binds and images, in order."""
    for number, mount in enumerate(mounts):
        if mount.kind == "bind":
            yield ("source", number, mount.source, "bind" not in mount.options, mount.subpath)
    yield ("slave",)
    yield from _root(root)
    for number, mount in enumerate(mounts):
        if mount.kind == "image":
            yield ("image", number, mount.layers, mount.subpath)
            mount = replace(mount, options=("ro",))
        yield _mount(replace(mount, kind="bind", propagation="rprivate"), number)


def _root(root: Root) -> Iterable[Operation]:
    if isinstance(root, DirectoryRoot):
        yield ("directory_root", root.path, False)
        return
    if root.upper is None and len(root.lower) == 1:
        # The kernel wants two lower layers where there is no upper one; a single one needs no overlay.
        yield ("directory_root", root.lower[0], True)
    else:
        yield ("overlay_root", root.lower, root.upper or "", root.work or "")


def _expand(mounts: Sequence[Mount], spec: Spec, cgroup: CgroupPlan | None) -> Iterable[Mount]:
    """The mounts with "cgroup" taken apart: on v1 that is a tmpfs with a bind of the container's part of each
    hierarchy and links for those mounted together; with pure v2 it is one file system."""
    for mount in mounts:
        if mount.kind == "cgroup2" and _foreign_cgroups(spec, cgroup):
            # The host's cgroup namespace can only be mounted by the host's root.
            hierarchy = cgroup.into.removesuffix(spec.cgroup) if cgroup else ""
            yield replace(mount, kind="bind", source=hierarchy)
            continue
        if mount.kind != "cgroup":
            yield mount
            continue
        suffix = f"{spec.cgroup}/tasks"
        hierarchies = [path.removesuffix(suffix) for path in cgroup.join] if cgroup else []
        if not hierarchies:
            yield Mount(mount.target, "cgroup2", "cgroup", mount.options, propagation=mount.propagation)
            continue
        flags = tuple(option for option in mount.options if option not in ("ro", "rw"))
        yield Mount(mount.target, "tmpfs", "tmpfs", flags, "mode=755", mount.propagation)
        for hierarchy in hierarchies:
            name = os.path.basename(hierarchy)
            yield Mount(f"{mount.target}/{name}", "bind", hierarchy + spec.cgroup, mount.options)
            if "," in name:
                for one in name.split(","):
                    yield Mount(f"{mount.target}/{one}", "link", name)
        if "ro" in mount.options:
            yield Mount(mount.target, "frozen")


def _foreign_cgroups(spec: Spec, cgroup: CgroupPlan | None) -> bool:
    """Whether a container with a user namespace sees cgroups from another one."""
    mapped = spec.process.user_maps is not None and cgroup is not None
    return mapped and spec.namespaces.get(NamespaceKind.CGROUP, NamespaceMode.NEW) is not NamespaceMode.NEW


def _mount(mount: Mount, source: int) -> Operation:
    """("mount", target, kind, source number, source name, data, attributes set, cleared, recursive, propagation,
    recursive, may lie in procfs)."""
    target = _clean(mount.target)
    _check_target(target, mount)
    add = remove = 0
    data = [mount.data] if mount.data else []
    propagation = _propagation(mount.propagation)
    recursive = mount.recursive_readonly
    for option in mount.options:
        if option in ("bind", "rbind"):
            continue
        if option in _PROPAGATION:
            propagation = _PROPAGATION[option]
        elif option in _ATTRIBUTES:
            plus, minus = _ATTRIBUTES[option]
            add, remove = add & ~minus | plus, remove & ~plus | minus
            recursive |= option == "rro"
        elif mount.kind == "bind":
            raise ValueError(f"mount option {option!r} does not apply to a bind mount ({target})")
        else:
            data.append(option)
    return (
        "mount",
        target,
        mount.kind,
        source,
        mount.source or mount.kind,
        ",".join(data),
        add,
        remove,
        recursive,
        *propagation,
        target in _PROC_ALLOWED,
    )


def _clean(path: str) -> str:
    """Absolute, without "." and ".." (POSIX lets two leading slashes stand, hence the strip)."""
    return normpath("/" + path.lstrip("/"))


def _check_target(target: str, mount: Mount) -> None:
    """What is plainly wrong is refused before anything is made; links are seen to when the target is open."""
    if target == "/":
        raise ValueError("invalid mount target: the container's root itself")
    if target == "/proc" and mount.kind not in ("proc", "bind"):
        raise ValueError(f'"{target}" cannot be mounted because it is not of type proc')
    if target.startswith("/proc/") and target not in _PROC_ALLOWED:
        raise ValueError(f'"{target}" cannot be mounted because it is inside /proc')


def _propagation(name: str) -> tuple[int, bool]:
    if name not in _PROPAGATION:
        raise ValueError(f"invalid propagation mode: {name}")
    return _PROPAGATION[name]


def _needs_dev(spec: Spec) -> bool:
    """A bind over /dev brings its own nodes (as runc decides it)."""
    return not any(mount.kind == "bind" and _clean(mount.target) == "/dev" for mount in spec.mounts)


def _devices(spec: Spec) -> Iterable[Operation]:
    for device in spec.devices:
        yield _device(device)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        yield ("link", f"/proc/self/{target}", f"/dev/{name}")
    yield ("core_link",)
    if any(mount.kind == "devpts" for mount in spec.mounts):
        yield ("ptmx",)


def _device(device: Device) -> Operation:
    return (
        "device",
        _clean(device.path),
        _FILE_TYPES[device.kind] | device.mode,
        os.makedev(device.major, device.minor),
        device.uid,
        device.gid,
    )


def _network(spec: Spec) -> Iterable[Operation]:
    setup = spec.network
    if setup.host:
        yield ("await_network",)
    if setup.sysctls:
        yield ("sysctls", tuple(_sysctl(name, value) for name, value in setup.sysctls))
    if setup.inside:
        yield ("route", setup.inside, setup.busy)
    if setup.nft:
        yield ("nft", setup.nft)
    if setup.resolver:
        yield ("resolver", setup.resolver)


def sysctl_path(name: str) -> str:
    """ "net.ipv4.ip_forward" to "net/ipv4/ip_forward". As in sysctl(8) a name may have both swapped, so that an
    interface's dot stays one ("net/ipv4/conf/eth0.5/rp_filter")."""
    dot, slash = name.find("."), name.find("/")
    path = name if slash >= 0 and (dot < 0 or slash < dot) else name.translate({46: "/", 47: "."})
    if not path or any(part in ("", ".", "..") for part in path.split("/")) or "\0" in path:
        raise ValueError(f"invalid sysctl name {name!r}")
    return path


def _sysctl(name: str, value: str) -> tuple[str, str]:
    return sysctl_path(name), value


def _process(process: Process, privileged: bool, oom: bool = True) -> Iterable[Operation]:
    """From the finished surroundings to the execve; the order is explained in ``init``."""
    if not process.args:
        raise ValueError("no command specified")
    for text in (*process.args, *process.env, process.cwd, process.user):
        if "\0" in text:
            raise ValueError(f"NUL byte in {text!r}")
    if oom:
        yield ("procfs",)
        yield ("oom_score", process.oom_score_adj)
    for limit in process.rlimits:
        yield _rlimit(limit)
    yield ("user", process.user, process.groups)
    if process.apparmor:
        yield ("apparmor", process.apparmor)
    yield ("close",)
    yield ("cwd", process.cwd or "/")
    yield ("umask", process.umask)
    mask = _ALL_CAPABILITIES if privileged else sum(1 << NUMBERS[name] for name in set(process.capabilities))
    yield ("identity", mask, process.no_new_privileges)
    yield ("exec", process.args, _environment(process.env), process.seccomp or b"", mask)


def _rlimit(limit: Rlimit) -> Operation:
    if limit.name not in const.RLIMITS:
        raise ValueError(f"invalid ulimit type: {limit.name}")
    return ("rlimit", limit.name, const.RLIMITS[limit.name], limit.soft, limit.hard)


def _environment(env: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Name and value of each entry, the last of a name, where it first stood. What has no "=" has no value to give."""
    pairs = (entry.partition("=") for entry in env if entry.find("=") > 0)
    return tuple({name: value for name, _, value in pairs}.items())
