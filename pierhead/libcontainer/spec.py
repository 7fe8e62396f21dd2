"""What a container is, as pure data: everything that init needs is in a Spec, and nothing else is.

The daemon makes a Spec from the API's Config and HostConfig; ``plan.py`` compiles it to a flat list of primitive
operations; ``init.py`` executes these.  A Spec names host paths only as mount sources; every path inside the container
is resolved below its root by file descriptor (see docs/security.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pierhead.linux.idmap import IdMaps
from pierhead.linux.mount import Root


class NamespaceKind(StrEnum):
    """The kernel's names, as in /proc/PID/ns."""

    MOUNT = "mnt"
    NETWORK = "net"
    UTS = "uts"
    IPC = "ipc"
    PID = "pid"
    CGROUP = "cgroup"


class NamespaceMode(StrEnum):
    """Where a namespace comes from."""

    NEW = "new"
    HOST = "host"
    JOIN = "join"  # a descriptor of it is handed over under the name "ns:<kind>"


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount inside the container, made in the order of the Spec.

    kind: "bind" (source is a host path), "image" (the read-only root that ``layers`` make, the topmost first), "shm"
    (the /dev/shm of the container whose IPC namespace is joined, with its mount namespace as "ns:mnt"), or a file
    system type ("proc", "tmpfs", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2").
    subpath: what below the source of a bind or image is mounted; no link leads it out of there.
    options: as in mount(8) ("ro", "nosuid", "nodev", "noexec", "strictatime", …); ``data`` is the file system's own
    ("mode=1777,size=65536k").
    recursive_readonly: with "ro" on a bind, also what is mounted below it.
    propagation: "rprivate", "private", "rslave", "slave", "rshared", "shared".
    """

    target: str
    kind: str
    source: str = ""
    options: tuple[str, ...] = ()
    data: str = ""
    propagation: str = "rprivate"
    recursive_readonly: bool = True
    subpath: str = ""
    layers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Device:
    """A device node inside the container. kind: "c" or "b"; mode without the type bits.

    source: the host's node; needed in a user namespace, where it is bound (empty: the same path).
    """

    path: str
    kind: str
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class DeviceRule:
    """A line of the devices cgroup: kind "a", "b" or "c"; None is "*"; access of "rwm"."""

    allow: bool
    kind: str
    major: int | None
    minor: int | None
    access: str


@dataclass(frozen=True, slots=True)
class Rlimit:
    """setrlimit(2); name as in "nofile"."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class DeviceLimit:
    """What a block device is limited to: a weight (10 to 1000), or bytes or operations a second (0: no limit)."""

    major: int
    minor: int
    value: int


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits of a container's cgroup; None or 0 means unlimited, as in the API.

    Bytes for memory (memory_swap is memory plus swap, -1 unlimited), microseconds for CPU periods and quotas.
    """

    memory: int = 0
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids: int = 0
    blkio_weight: int = 0
    kernel_memory_tcp: int = 0
    realtime_period: int = 0
    realtime_runtime: int = 0
    device_weights: tuple[DeviceLimit, ...] = ()
    device_read_bps: tuple[DeviceLimit, ...] = ()
    device_write_bps: tuple[DeviceLimit, ...] = ()
    device_read_iops: tuple[DeviceLimit, ...] = ()
    device_write_iops: tuple[DeviceLimit, ...] = ()
    devices: tuple[DeviceRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Process:
    """The process to execute, for run and for exec.

    user: as given ("", "1000", "name", "1000:50", "name:group"); resolved by init below the container's root.
    groups: additional groups, names or numbers, as given.
    capabilities: names with CAP_, for Bounding, Permitted and Effective; Inheritable and Ambient stay empty.
    seccomp: a compiled BPF program (``seccomp.compile``), or None for unconfined.
    seccomp_profile: the profile (Docker's JSON) that it was compiled of, for those who compile it themselves.
    apparmor: the profile that the kernel is to enforce from the execve on; empty: that of whoever starts it.
    rlimits are merged by name over what the engine itself has.
    user_maps: of the container's user namespace, where it has one.
    """

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str = "/"
    user: str = ""
    groups: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    seccomp: bytes | None = None
    seccomp_profile: str = ""
    no_new_privileges: bool = False
    apparmor: str = ""
    rlimits: tuple[Rlimit, ...] = ()
    oom_score_adj: int = 0
    terminal: bool = False
    umask: int = 0o022
    console_size: tuple[int, int] | None = None  # rows, columns
    user_maps: IdMaps | None = None


@dataclass(frozen=True, slots=True)
class NetworkSetup:
    """How the network driver wants a container to be joined: bytes that are only sent, never interpreted here.

    host: rtnetlink messages sent by the shim in the host's network namespace; they name the container's namespace by
    the descriptor number ``NETNS_FD`` (IFLA_NET_NS_FD), which the shim makes refer to it.
    inside: rtnetlink messages sent inside the container's namespace (lo up, addresses, routes).
    nft: one nfnetlink batch sent inside (the resolver's redirect), or empty.
    sysctls: (name with dots, value), written inside before ``inside`` is sent. A missing file is an error.
    resolver: make UDP and TCP sockets on this port of 127.0.0.11 inside and hand them to the daemon; 0 = none.
    busy: errnos of a message that is sent again for a moment: what the kernel has not yet taken apart of a container
    that has just ended (its link, address, MAC) is in the way.
    """

    host: tuple[bytes, ...] = ()
    inside: tuple[bytes, ...] = ()
    nft: bytes = b""
    sysctls: tuple[tuple[str, str], ...] = ()
    resolver: int = 0
    busy: tuple[int, ...] = ()


NETNS_FD = 100
"""The descriptor number that stands for the container's network namespace in ``NetworkSetup.host``."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One container, complete.

    cgroup: path below every hierarchy's root, for instance "/pierhead/<instance>/<id>".
    sysctls: (name with dots, value) beside the network's own.
    rootfs_propagation: "rprivate" unless a bind asked for slave or shared.
    join_users: the user namespace of ``process.user_maps`` is another container's, handed over as "ns:user".
    init: run /sbin/docker-init's part (reap, forward signals) as PID 1 and the process as its child.
    annotations: (key, value) for an OCI runtime that makes the container; they mean nothing to our own init.
    """

    id: str
    root: Root
    process: Process
    hostname: str = ""
    domainname: str = ""
    root_readonly: bool = False
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    cgroup: str = ""
    resources: Resources = field(default_factory=Resources)
    namespaces: Mapping[NamespaceKind, NamespaceMode] = field(default_factory=dict)
    network: NetworkSetup = field(default_factory=NetworkSetup)
    rootfs_propagation: str = "rprivate"
    join_users: bool = False
    init: bool = False
    privileged: bool = False
    annotations: tuple[tuple[str, str], ...] = ()


class SetupFailed(OSError):
    """A step on the way to the container's command failed.

    errno, strerror and filename are OSError's; ``call`` is the system call or step ("mount", "execve", "user"),
    ``stage`` one of "cgroup", "clone", "network", "mount", "process", "exec"; "runtime" where an OCI runtime has
    failed, whose words ``strerror`` is.
    """

    def __init__(self, errno: int, strerror: str, path: str, call: str, stage: str) -> None:
        super().__init__(errno, strerror, path)
        self.call = call
        self.stage = stage

    def __str__(self) -> str:
        return f"{self.stage}: {self.call} {self.filename}: {self.strerror}"
