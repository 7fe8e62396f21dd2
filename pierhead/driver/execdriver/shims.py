"""Shims and what they leave on the machine: what every exec driver whose containers have shims has in common.

State is on the machine alone: a folder with a lock for each container (see ``shim``), its cgroup, its shim's socket.  A
restarted daemon finds all of it again under its instance's mark.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
import signal
import socket
import time
from abc import ABC, abstractmethod
from contextlib import suppress

from pierhead.driver.execdriver import parents, protocol
from pierhead.driver.execdriver.api import Exited, StartRequest
from pierhead.driver.execdriver.monitor import ShimMonitor, exited, flags, holds
from pierhead.driver.execdriver.spawn import Zygote
from pierhead.libcontainer import cgroupfs, cgroups, oom, scope, scopes, stats
from pierhead.libcontainer.spec import NamespaceKind, NamespaceMode, Resources
from pierhead.linux import calls

log = logging.getLogger(__name__)

SHIM_END = 5.0
"""Seconds that a shim has, after its container's processes were killed, to report and end by itself."""


class Shims(ABC):
    """An ExecDriver whose containers have shims (see ``api`` for the contract)."""

    monitor = ShimMonitor
    """How a shim is talked to."""

    def __init__(self, instance: str, exec_root: str, zygote: Zygote) -> None:
        """instance: the data root's id, the mark of cgroups; exec_root: where run-time folders are made; zygote: makes
        the shims."""
        self._base = f"/pierhead/{instance}"
        self._folders = os.path.join(exec_root, "containers")
        self._parents = parents.at(os.path.join(exec_root, "cgroups"))
        self._zygote = zygote
        self._layout: cgroups.Layout | None = None

    # Life

    def open(self) -> None:
        os.makedirs(self._folders, mode=0o700, exist_ok=True)
        cgroups.prepare(self.layout, self._base)

    def close(self) -> None:
        self._zygote.close()
        if self._layout is not None and not self.existing():
            with suppress(OSError):
                cgroups.dismantle(self._layout, self._base)

    def pids(self) -> tuple[int, ...]:
        return self._zygote.pids()

    @property
    def layout(self) -> cgroups.Layout:
        """The host's cgroup hierarchies, read once."""
        if self._layout is None:
            self._layout = cgroups.detect()
        return self._layout

    def directories(self, id: str) -> tuple[str, ...]:
        """A container's cgroup in every hierarchy."""
        return self.layout.directories(self.cgroup(id))

    def cgroup(self, id: str) -> str:
        """The path of a container's cgroup, below every hierarchy's root."""
        return parents.place(self.folder(id)) or f"{self._base}/{id}"

    def besides(self) -> tuple[str, ...]:
        """Roots of hierarchies beside the layout's that whoever makes the containers puts them in."""
        return ()

    # Start

    @abstractmethod
    def compile(self, request: StartRequest) -> bytes:
        """What the shim must know of the container beyond ``_settings``. Raises ValueError for what cannot be."""

    def start(self, request: StartRequest) -> ShimMonitor:
        spec = request.spec
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        descriptors: list[int] = []
        try:
            descriptors.append(calls.sealed_memfd("plan", self.compile(request)))
            descriptors.append(self.make_folder(spec.id))
            if os.path.dirname(spec.cgroup) != self._base:
                # Noted first: whoever cleans up after us has to find it.
                parents.remember(descriptors[1], spec.cgroup)
                if not scopes.slice_of(spec.cgroup):  # slices are systemd's to make and to remove
                    self._parents.prepare(self.layout, spec.cgroup, self.besides())
            descriptors += request.descriptors.values()
            descriptors += [stream.connection.fileno() for stream in request.streams]
            held = list(holds(request.ports))
            protocol.send(ours, self._settings(request, len(held), len(descriptors)), descriptors)
            for message, sockets in held:
                protocol.send(ours, message, sockets)
            self._zygote.fork(theirs)
        except BaseException:
            ours.close()
            request.close()
            if len(descriptors) > 1:
                self.clear_folder(spec.id)
            raise
        finally:
            theirs.close()
            for descriptor in descriptors[:2]:
                os.close(descriptor)
        ours.setblocking(False)
        return self.monitor(self, spec.id, ours, request)

    def _settings(self, request: StartRequest, held: int, descriptors: int) -> bytes:
        """The START message. Descriptors: plan, folder, namespaces, streams."""
        spec = request.spec
        log = request.log
        counting = self.layout.controllers.get("memory", self.layout.unified)
        payload = (
            spec.id,
            (log.path, log.max_size, log.max_files, tuple(log.attrs)) if log.path else None,
            request.open_stdin,
            spec.process.terminal,
            self.layout.directories(spec.cgroup),
            (counting + spec.cgroup,),
            spec.namespaces.get(NamespaceKind.PID, NamespaceMode.NEW) is NamespaceMode.NEW,
            tuple(request.descriptors),
            tuple(map(flags, request.streams)),
            held,
        )
        return protocol.encode(protocol.START, payload, descriptors)

    def make_folder(self, id: str) -> int:
        """The container's run-time folder, open and locked: the lock passes to the shim with the descriptor."""
        path = self.folder(id)
        left: tuple[str, ...] = ()
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            left = protocol.EXIT, protocol.SOCKET, protocol.CRASH, protocol.RUNTIME, parents.PLACE
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name in left:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
        except BlockingIOError:
            os.close(folder)
            raise OSError(errno.EBUSY, "the container is running already", path) from None
        return folder

    def folder(self, id: str) -> str:
        """A container's run-time folder."""
        return os.path.join(self._folders, id)

    # Afterwards

    def reattach(self, id: str) -> ShimMonitor | None:
        connection = self._connect(id)
        return None if connection is None else self.monitor(self, id, connection)

    def _connect(self, id: str) -> socket.socket | None:
        """A connection to the container's shim; None if there is none alive."""
        try:
            folder = os.open(self.folder(id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        deadline = time.monotonic() + SHIM_END
        try:
            while True:
                try:
                    # Its length is limited to 107 bytes; so is no exec root.
                    connection.connect(f"/proc/self/fd/{folder}/{protocol.SOCKET}")
                    connection.setblocking(False)
                    return connection
                except (FileNotFoundError, ConnectionRefusedError):
                    # A live shim without a socket is just beginning (or ending).
                    if _unlocked(folder) or time.monotonic() > deadline:
                        connection.close()
                        return None
                time.sleep(0.005)
        finally:
            os.close(folder)

    def collect(self, id: str) -> Exited | None:
        try:
            with open(os.path.join(self.folder(id), protocol.EXIT), encoding="ascii") as file:
                code, signum, at, killed = map(int, file.read().split())
        except FileNotFoundError:
            return None
        return exited(code, signum, at, killed)

    def crash(self, id: str) -> str:
        """The last line of what a shim had to say when it died; empty if nothing."""
        try:
            with open(os.path.join(self.folder(id), protocol.CRASH), encoding="utf-8", errors="replace") as file:
                lines = file.read().strip().splitlines()
        except FileNotFoundError:
            return ""
        log.debug("container %s: its shim has died:\n%s", id[:12], "\n".join(lines))
        return lines[-1] if lines else ""

    def begun(self, id: str) -> bool:
        """Whether a shim has taken the container on: its socket comes before everything else that it makes."""
        return os.path.lexists(os.path.join(self.folder(id), protocol.SOCKET))

    def kill(self, id: str) -> None:
        """``delete`` waits for their end."""
        with suppress(OSError):
            cgroupfs.kill(self.directories(id), wait=0)

    def clear_folder(self, id: str) -> None:
        """Remove the run-time folder of a container whose shim has ended. Idempotent."""
        place = self.cgroup(id)
        if os.path.dirname(place) != self._base:
            self._parents.release(place)
        shutil.rmtree(self.folder(id), ignore_errors=True)

    def freeze(self, id: str) -> None:
        cgroupfs.freeze(self.directories(id))

    def thaw(self, id: str) -> None:
        cgroupfs.thaw(self.directories(id))

    def update(self, id: str, resources: Resources) -> None:
        place = self.cgroup(id)
        cgroups.update(self.layout, place, resources)
        if scopes.slice_of(place):  # it writes its own limits again when it is reloaded
            scope.call(scope.ADDRESS, scopes.change_message(self.layout, id, resources))

    def processes(self, id: str) -> tuple[int, ...]:
        return tuple(cgroupfs.pids(self.directories(id)))

    def owner(self, pid: int) -> str | None:
        try:
            with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read().splitlines()
        except OSError:
            return None  # it has ended
        for path in (line.split(":", 2)[2] for line in lines):
            for found in re.finditer(r"[/-]([0-9a-f]{64})(?=/|\.scope|$)", path):
                if f"{path}/".startswith(f"{self.cgroup(found[1])}/"):
                    return found[1]
        return None

    def figures(self, id: str) -> stats.Figures:
        return stats.read(self.layout, self.cgroup(id))

    def watch_oom(self, id: str, known: int | None = None) -> oom.Watch:
        return oom.watch(self.directories(id), known)

    def delete(self, id: str) -> None:
        place = self.cgroup(id)
        directories = self.layout.directories(place)
        try:
            folder = os.open(self.folder(id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            folder = -1
        if folder >= 0:
            try:
                if self.collect(id) is None:
                    cgroupfs.kill(directories)  # and the shim ends; else it is about to
                self._end_shim(id, folder)
            finally:
                os.close(folder)
        left = tuple(directory for directory in directories if os.path.isdir(directory))
        if left:
            cgroupfs.kill(left)
        if scopes.slice_of(place):
            self._end_scope(id)  # before its group is gone, see ``shim``
        cgroupfs.remove(left)
        self.clear_folder(id)

    def _end_scope(self, id: str) -> None:
        """Wait until systemd has seen that a scope is empty, and knows it no more."""
        try:
            scope.call(scope.ADDRESS, scopes.stop_message(id), awaited=True)
        except FileNotFoundError:
            pass  # it has seen it
        except OSError as error:
            log.warning("container %s: %s", id[:12], error)

    def _end_shim(self, id: str, folder: int) -> None:
        """Wait for the shim, which ends when its container has; one that does not is killed.

        It must be gone: one that goes on later would remove the cgroup of the container's next run.
        """
        if _unlocked(folder, SHIM_END):
            return
        log.warning("container %s: its shim does not end, killing it", id[:12])
        # Not by its socket: one that is just beginning, or ending, has none.
        for pid in _holders(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not _unlocked(folder, SHIM_END):
            log.warning("container %s: its run-time folder is held by a process that SIGKILL does not end", id[:12])

    def existing(self) -> tuple[str, ...]:
        names = set(cgroups.existing(self.layout, self._base))
        with suppress(FileNotFoundError):
            names.update(os.listdir(self._folders))
        return tuple(sorted(names))


def _unlocked(folder: int, wait: float = 0) -> bool:
    """Whether no shim holds the folder, within ``wait`` seconds. Leaves it unlocked."""
    deadline = time.monotonic() + wait
    pause = 0.0005
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
        else:
            fcntl.flock(folder, fcntl.LOCK_UN)
            return True


def _holders(folder: int) -> tuple[int, ...]:
    """The processes, but for ourselves, that have the folder open (proc_pid_fd(5))."""
    name, found = os.readlink(f"/proc/self/fd/{folder}"), os.fstat(folder)
    others = [int(entry) for entry in os.listdir("/proc") if entry.isdecimal() and int(entry) != os.getpid()]
    return tuple(pid for pid in others if _has_open(pid, name, found))


def _has_open(pid: int, name: str, wanted: os.stat_result) -> bool:
    """False of a process that is gone, or not ours to look at."""
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{descriptor}"
            with suppress(FileNotFoundError):
                # By its name first: to ask for what lies on a dead server would hang. In a container it is another's.
                if os.readlink(path) == name and os.path.samestat(os.stat(path), wanted):
                    return True
    return False
