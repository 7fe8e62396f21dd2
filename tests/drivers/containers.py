"""Containers for the exec driver's tests: a root file system of busybox, requests, and what came of them."""

import os
import select
import shutil
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pierhead.driver.execdriver.api import (
    Event,
    ExecDriver,
    HeldPort,
    LogConfig,
    Monitor,
    StartError,
    StartRequest,
    Stream,
)
from pierhead.libcontainer.spec import (
    Device,
    Mount,
    NamespaceKind,
    NamespaceMode,
    NetworkSetup,
    Process,
    Resources,
    Spec,
)
from pierhead.linux.mount import DirectoryRoot, OverlayRoot
from tests.harness.processes import DEADLINE

E = TypeVar("E")

PATIENCE = DEADLINE / 2
"""Seconds against hanging; nothing is measured by it."""

PROGRAMS = "sh true false cat echo sleep seq dd tty stty kill printf trap head yes ps mount hostname nc ip ls readlink"

MOUNTS = (
    Mount("/proc", "proc", options=("nosuid", "noexec", "nodev")),
    Mount("/dev", "tmpfs", options=("nosuid", "strictatime"), data="mode=755,size=65536k"),
    Mount("/dev/pts", "devpts", options=("nosuid", "noexec"), data="newinstance,ptmxmode=0666,mode=0620,gid=5"),
)
DEVICES = tuple(
    Device(f"/dev/{name}", "c", major, minor) for name, major, minor in [("null", 1, 3), ("zero", 1, 5), ("tty", 5, 0)]
)


def busybox_root(folder: Path) -> Path:
    """A root file system of Debian's busybox-static."""
    for name in ("bin", "proc", "dev", "sys", "etc", "tmp"):
        (folder / name).mkdir(parents=True)
    source = shutil.which("busybox")
    assert source is not None
    shutil.copy(source, folder / "bin/busybox")
    for name in PROGRAMS.split():
        (folder / "bin" / name).symlink_to("busybox")
    (folder / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    return folder


def process(*args: str, terminal: bool = False) -> Process:
    """A process of root's with busybox on its path."""
    return Process(args=args, env=("PATH=/bin",), terminal=terminal)


@dataclass
class Client:
    """The daemon's end of a Stream."""

    connection: socket.socket
    raw: bytearray = field(default_factory=bytearray)

    def read(self) -> bytes:
        """Everything up to the end of the stream, as it came."""
        while data := self.connection.recv(65536):
            self.raw += data
        return bytes(self.raw)

    def until(self, text: bytes) -> bytes:
        """Read until ``text`` has come."""
        while text not in self.raw:
            data = self.connection.recv(65536)
            assert data, f"the stream ended with {bytes(self.raw)!r}"
            self.raw += data
        return bytes(self.raw)

    def frames(self) -> tuple[bytes, bytes]:
        """stdout and stderr, from the stdcopy frames up to the end of the stream."""
        data = self.read()
        found = {1: b"", 2: b""}
        while data:
            stream, length = struct.unpack_from(">BxxxL", data)
            found[stream] += data[8 : 8 + length]
            assert len(data) >= 8 + length, "a frame is cut short"
            data = data[8 + length :]
        return found[1], found[2]

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def end_input(self) -> None:
        self.connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.connection.close()


class Running:
    """A Monitor with what it has reported, in order."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.seen: list[Event] = []

    def expect(self, kind: type[E], which: Callable[[E], bool] = lambda event: True) -> E:
        """Wait for an event, which is taken off the record."""
        deadline = time.monotonic() + PATIENCE
        poll = select.poll()
        poll.register(self.monitor.fileno(), select.POLLIN)
        while True:
            for event in self.seen:
                if isinstance(event, kind) and which(event):
                    self.seen.remove(event)
                    return event
            left = deadline - time.monotonic()
            assert not any(isinstance(event, StartError) for event in self.seen), self.seen  # nothing comes after it
            assert left > 0 and poll.poll(left * 1000), f"no {kind.__name__}, only {self.seen}"
            self.seen += self.monitor.events()


class Box:
    """Containers of one driver in one temporary folder; ``clean`` checks that nothing of them is left."""

    def __init__(self, driver: ExecDriver, instance: str, root: Path, folder: Path) -> None:
        self.driver = driver
        self.instance = instance
        self.root = root
        self.folder = folder
        self.count = 0
        self.sockets: list[socket.socket] = []
        self.monitors: list[Monitor] = []

    def client(self, **flags: bool) -> tuple[Stream, Client]:
        """A Stream to give to the driver, and its other end."""
        theirs, ours = socket.socketpair()
        ours.settimeout(PATIENCE)
        self.sockets += [theirs, ours]
        return Stream(theirs, **flags), Client(ours)

    def request(
        self,
        *args: str,
        terminal: bool = False,
        open_stdin: bool = False,
        streams: tuple[Stream, ...] = (),
        log: LogConfig | None = None,
        host: tuple[NamespaceKind, ...] = (),
        overlay: bool = True,
        network: NetworkSetup | None = None,
        resources: Resources | None = None,
        ports: tuple[HeldPort, ...] = (),
    ) -> StartRequest:
        """A container that runs ``args`` on busybox, with all namespaces of its own but those in ``host``."""
        self.count += 1
        id = f"{self.instance}{self.count:04}".ljust(64, "0")
        if overlay:
            upper, work = self.folder / id / "upper", self.folder / id / "work"
            upper.mkdir(parents=True)
            work.mkdir()
            root: OverlayRoot | DirectoryRoot = OverlayRoot((str(self.root),), str(upper), str(work))
        else:
            root = DirectoryRoot(str(self.root))
        namespaces = {kind: NamespaceMode.HOST if kind in host else NamespaceMode.NEW for kind in NamespaceKind}
        spec = Spec(
            id=id,
            root=root,
            process=process(*args, terminal=terminal),
            hostname="box" if NamespaceKind.UTS not in host else "",
            mounts=MOUNTS,
            devices=DEVICES,
            cgroup=f"/pierhead/{self.instance}/{id}",
            namespaces=namespaces,
            network=network or NetworkSetup(),
            resources=resources or Resources(),
        )
        return StartRequest(spec, log or LogConfig(), streams, ports=ports, open_stdin=open_stdin)

    def start(self, request: StartRequest) -> Running:
        """Begin a start."""
        return self.watch(self.driver.start(request))

    def reattach(self, id: str) -> Running | None:
        """Find a container again."""
        monitor = self.driver.reattach(id)
        return None if monitor is None else self.watch(monitor)

    def watch(self, monitor: Monitor) -> Running:
        """Follow a Monitor that ``clean`` closes."""
        self.monitors.append(monitor)
        return Running(monitor)

    def log(self, name: str = "log", **settings: int) -> LogConfig:
        """A log in the temporary folder."""
        return LogConfig(str(self.folder / name), **settings)

    def clean(self) -> None:
        """Delete every container."""
        for monitor in self.monitors:
            monitor.close()
        for one in self.sockets:
            one.close()
        for id in self.driver.existing():
            self.driver.delete(id)
        assert self.driver.existing() == ()


@contextmanager
def boxed(make: Callable[[str, str], ExecDriver], root: Path, folder: Path) -> Iterator[Box]:
    """A Box of an open driver, which ``make`` makes of an instance's name and a run-time folder; clean at the end."""
    instance = f"t{os.getpid()}x{time.monotonic_ns() % 1_000_000_000}"
    driver = make(instance, str(folder / "exec"))
    driver.open()
    found = Box(driver, instance, root, folder)
    try:
        yield found
    finally:
        try:
            found.clean()
        finally:
            driver.close()
