"""A container without a daemon: a busybox root in a temporary folder, a Spec with Docker's defaults, and one call."""

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pierhead.libcontainer import container, plan
from pierhead.libcontainer.cgroups import Plan
from pierhead.libcontainer.spec import Device, Mount, NamespaceKind, NamespaceMode, Process, Spec
from pierhead.linux.mount import DirectoryRoot, OverlayRoot
from tests.harness.processes import DEADLINE

BUSYBOX = Path("/bin/busybox")
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
        "AUDIT_WRITE"
    ).split()
)
SAFE = ("nosuid", "noexec", "nodev")
MOUNTS = (
    Mount("/proc", "proc", "proc", SAFE),
    Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime"), "mode=755,size=65536k"),
    Mount("/dev/pts", "devpts", "devpts", ("nosuid", "noexec"), "newinstance,ptmxmode=0666,mode=0620,gid=5"),
    Mount("/sys", "sysfs", "sysfs", (*SAFE, "ro")),
    Mount("/dev/mqueue", "mqueue", "mqueue", SAFE),
    Mount("/dev/shm", "tmpfs", "shm", SAFE, "mode=1777,size=67108864"),
)
DEVICES = tuple(
    Device(f"/dev/{name}", "c", major, minor)
    for name, major, minor in (
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    )
)
MASKED = (
    *(
        f"/proc/{name}"
        for name in "asound acpi interrupts kcore keys latency_stats timer_list sched_debug scsi".split()
    ),
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY = tuple(f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger"))

_APPLETS = (
    "sh cat ls id mount readlink stat sleep true false echo touch mkdir env hostname grep head tail wc chmod chown"
)
_APPLETS += " ps kill printf test sed awk cut sort dd umount pwd mknod nc ip od tty stty find sysctl mv rm ln sync cp"


@dataclass(frozen=True)
class Result:
    """How it ended (128 + signal if killed), and what it said."""

    code: int
    out: str
    err: str


@dataclass
class Box:
    """Folders of one container: ``image`` is the lower layer, ``upper`` what it writes."""

    folder: Path
    image: Path = field(init=False)

    def __post_init__(self) -> None:
        self.image = self.folder / "image"
        (self.image / "bin").mkdir(parents=True)
        os.link(_busybox(self.folder), self.image / "bin/busybox")
        for name in _APPLETS.split():
            (self.image / "bin" / name).symlink_to("busybox")
        (self.image / "etc").mkdir()
        (self.image / "etc/passwd").write_text(
            "root:x:0:0:root:/root:/bin/sh\njoe:x:1000:1000::/home/joe:/bin/sh\n1000:x:0:0:trap:/:/bin/sh\n"
        )
        (self.image / "etc/group").write_text("root:x:0:\njoe:x:1000:\nwheel:x:10:joe\nvideo:x:44:\n")
        for name in ("upper", "work"):
            (self.folder / name).mkdir()

    @property
    def upper(self) -> Path:
        return self.folder / "upper"

    @property
    def root(self) -> OverlayRoot:
        return OverlayRoot((str(self.image),), str(self.upper), str(self.folder / "work"))

    def spec(self, *args: str, **changes: object) -> Spec:
        """A Spec with Docker's defaults; ``changes`` are fields of Process or of Spec."""
        process = Process(args, (PATH,), capabilities=CAPABILITIES)
        of_process = {name: value for name, value in changes.items() if name in Process.__slots__}
        spec = Spec(
            id=f"h1{os.getpid()}",
            root=self.root,
            process=replace(process, **of_process),  # type: ignore[arg-type]
            hostname="box",
            mounts=MOUNTS,
            devices=DEVICES,
            masked_paths=MASKED,
            readonly_paths=READONLY,
            namespaces={NamespaceKind.CGROUP: NamespaceMode.HOST},
        )
        return replace(spec, **{name: value for name, value in changes.items() if name not in of_process})  # type: ignore[arg-type]

    def directory(self) -> DirectoryRoot:
        return DirectoryRoot(str(self.image))


def _busybox(folder: Path) -> Path:
    """A copy on the same file system as ``folder``."""
    copy = folder / "busybox"
    copy.write_bytes(BUSYBOX.read_bytes())
    copy.chmod(0o755)
    return copy


def run(spec: Spec, cgroup: Plan | None = None, stdin: bytes = b"", fds: dict[str, int] | None = None) -> Result:
    """Start it, feed it, wait for its end."""
    with _pipes(stdin) as (theirs, ours):
        child = container.spawn(plan.compile_start(spec, cgroup), fds or {}, theirs)
        return finish(child, theirs, ours)


def script(box: Box, text: str, **changes: object) -> Result:
    """Run ``sh -c text``."""
    return run(box.spec("sh", "-c", text, **changes))


@contextmanager
def running(spec: Spec, cgroup: Plan | None = None, fds: dict[str, int] | None = None) -> Iterator[container.Child]:
    """A container that stays (its args must sleep), killed and reaped at the end."""
    child = container.spawn(plan.compile_start(spec, cgroup), fds or {}, (-1, -1, -1))
    try:
        yield child
    finally:
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
        os.close(child.pidfd)


def enter(
    child: container.Child,
    spec: Spec,
    *args: str,
    privileged: bool = False,
    cgroup: Plan | None = None,
    **changes: object,
) -> Result:
    """One more process in a running container, with the container's own Process but for ``changes``."""
    process = replace(spec.process, args=args, **changes)  # type: ignore[arg-type]
    place = container.cgroup_of(plan.compile_start(spec, cgroup))
    with _pipes(b"") as (theirs, ours):
        made = container.enter(plan.compile_exec(process, privileged), child.pidfd, spec.id, place, theirs)
        return finish(made, theirs, ours)


@contextmanager
def _pipes(stdin: bytes) -> Iterator[tuple[tuple[int, int, int], tuple[int, int]]]:
    read, write = os.pipe()
    os.write(write, stdin)
    os.close(write)
    out, err = os.pipe(), os.pipe()
    try:
        yield (read, out[1], err[1]), (out[0], err[0])
    finally:
        for descriptor in (read, *out, *err):
            try:
                os.close(descriptor)
            except OSError:
                pass


def finish(child: container.Child, theirs: tuple[int, int, int], ours: tuple[int, int]) -> Result:
    """Read what a started process says until it ends; killed after the deadline."""
    for descriptor in theirs:
        os.close(descriptor)
    texts = {ours[0]: b"", ours[1]: b""}
    open_ = set(ours)
    while open_:
        ready, _, _ = select.select(list(open_), [], [], DEADLINE)
        if not ready:
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
            break
        for descriptor in ready:
            part = os.read(descriptor, 65536)
            texts[descriptor] += part
            if not part:
                open_.discard(descriptor)
    _, status = os.waitpid(child.pid, 0)
    os.close(child.pidfd)
    code = os.waitstatus_to_exitcode(status)
    return Result(code if code >= 0 else 128 - code, texts[ours[0]].decode(), texts[ours[1]].decode())
