"""The native exec driver: the daemon's side of zygote and shims.

State is on the machine alone: a folder with a lock for each container (see ``shim``), its cgroup, its shim's socket.  A
restarted daemon finds all of it again under its instance's mark.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import select
import shutil
import signal
import socket
import struct
import time
from collections.abc import Iterable
from contextlib import suppress

from pierhead.driver.execdriver import protocol
from pierhead.driver.execdriver.api import (
    Event,
    ExecError,
    ExecStarted,
    Exited,
    Lost,
    NetworkJoined,
    Started,
    StartError,
    StartRequest,
    Stream,
)
from pierhead.driver.execdriver.spawn import Zygote
from pierhead.libcontainer import cgroupfs, cgroups, plan, stats
from pierhead.libcontainer.spec import NamespaceKind, NamespaceMode, NetworkSetup, Process, Resources, SetupFailed
from pierhead.linux import calls

log = logging.getLogger(__name__)

SHIM_END = 5.0
"""Seconds that a shim has, after its container's processes were killed, to report and end by itself."""


class NativeMonitor:
    """A Monitor (see ``api``) over a shim's control connection."""

    def __init__(self, driver: NativeDriver, id: str, connection: socket.socket, starting: bool) -> None:
        self.id = id
        self._driver = driver
        self._connection = connection
        self._starting = starting
        self._ended = False

    def fileno(self) -> int:
        return self._connection.fileno()

    def events(self) -> tuple[Event, ...]:
        found: list[Event] = []
        while not self._ended:
            try:
                message, descriptors = protocol.receive(self._connection)
            except BlockingIOError:
                break
            except (OSError, ValueError) as error:
                log.warning("container %s: connection to its shim: %s", self.id[:12], error)
                message, descriptors = b"", []
            if not message:
                found.append(self._without_report())
                self._ended = True
                break
            try:
                event = _event(message, descriptors)
            except ValueError as error:
                log.warning("container %s: %s", self.id[:12], error)
                for descriptor in descriptors:
                    os.close(descriptor)
                continue
            found.append(event)
            if isinstance(event, Started):
                self._starting = False
            elif isinstance(event, StartError):
                self._driver.clear_folder(self.id)
            self._ended = isinstance(event, StartError) or (isinstance(event, Exited) and event.exec_id is None)
        return tuple(found)

    def _without_report(self) -> Event:
        """The connection has ended without one: the shim has died, or the report is in the folder alone."""
        report = self._driver.collect(self.id)
        if report is not None:
            return report
        why = self._driver.crash(self.id)
        with suppress(OSError):
            cgroupfs.kill(self._driver.directories(self.id), wait=0)  # its end is waited for in delete
        if self._starting:
            self._driver.clear_folder(self.id)
            return StartError(SetupFailed(errno.ECHILD, why or "its shim has ended", "", "shim", "clone"))
        log.error("container %s: its shim has died%s", self.id[:12], f": {why}" if why else "")
        return Lost()

    def attach(self, stream: Stream) -> None:
        with stream.connection as connection:
            self._send(protocol.ATTACH, (_flags(stream),), (connection.fileno(),))

    def exec(self, exec_id: str, process: Process, stream: Stream | None, open_stdin: bool, privileged: bool) -> None:
        descriptors = []
        try:
            descriptors.append(calls.sealed_memfd("exec", plan.compile_exec(process, privileged)))
            if stream is not None:
                descriptors.append(os.dup(stream.connection.fileno()))
            flags = _flags(stream) if stream is not None else None
            self._send(protocol.EXEC, (exec_id, process.terminal, open_stdin, flags), descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            if stream is not None:
                stream.connection.close()

    def resize(self, rows: int, columns: int, exec_id: str | None = None) -> None:
        self._send(protocol.RESIZE, (rows, columns, exec_id))

    def signal(self, signum: int, exec_id: str | None = None) -> None:
        self._send(protocol.SIGNAL, (int(signum), exec_id))

    def join_network(self, setup: NetworkSetup, serial: int) -> None:
        sysctls = tuple((plan.sysctl_path(name), value) for name, value in setup.sysctls)
        payload = (serial, tuple(setup.host), tuple(setup.inside), setup.nft, sysctls, setup.resolver)
        self._send(protocol.JOIN, payload)

    def leave_network(self, inside: tuple[bytes, ...], serial: int) -> None:
        self._send(protocol.LEAVE, (serial, tuple(inside)))

    def hold_ports(
        self, ports: tuple[socket.socket, ...], listeners: tuple[tuple[socket.socket, tuple[str, int]], ...]
    ) -> None:
        try:
            for message, descriptors in _holds(ports, listeners):
                self._transmit(message, descriptors)
        finally:
            _close(ports)
            _close(held for held, _ in listeners)

    def close(self) -> None:
        self._connection.close()

    def _send(self, kind: int, payload: tuple[object, ...], descriptors: Iterable[int] = ()) -> None:
        sent = tuple(descriptors)
        self._transmit(protocol.encode(kind, payload, len(sent)), sent)

    def _transmit(self, message: bytes, descriptors: tuple[int, ...]) -> None:
        try:
            protocol.send(self._connection, message, descriptors)
        except BlockingIOError:
            # The shim reads at once whatever comes; it is behind only when stopped or starved.
            poll = select.poll()
            poll.register(self._connection, select.POLLOUT)
            if not poll.poll(2000):
                raise TimeoutError(errno.ETIMEDOUT, "the shim does not answer", self.id) from None
            protocol.send(self._connection, message, descriptors)


class NativeDriver:
    """ExecDriver over zygote and shims (see ``api`` for the contract)."""

    name = "native"

    def __init__(self, instance: str, exec_root: str) -> None:
        """instance: the data root's id, the mark of cgroups; exec_root: where run-time folders are made."""
        self._base = f"/pierhead/{instance}"
        self._folders = os.path.join(exec_root, "containers")
        self._zygote = Zygote()
        self._layout: cgroups.Layout | None = None

    # Life

    def open(self) -> None:
        os.makedirs(self._folders, mode=0o700, exist_ok=True)
        cgroups.prepare(self.layout, self._base)
        self._zygote.open()

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
        return self.layout.directories(f"{self._base}/{id}")

    # Start

    def start(self, request: StartRequest) -> NativeMonitor:
        spec = request.spec
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        descriptors: list[int] = []
        try:
            descriptors.append(calls.sealed_memfd("plan", self._compile(request)))
            descriptors.append(self._make_folder(spec.id))
            descriptors += request.descriptors.values()
            descriptors += [stream.connection.fileno() for stream in request.streams]
            holds = list(_holds(request.ports, request.listeners))
            protocol.send(ours, self._settings(request, len(holds), len(descriptors)), descriptors)
            for message, sockets in holds:
                protocol.send(ours, message, sockets)
            self._zygote.fork(theirs)
        except BaseException:
            ours.close()
            if len(descriptors) > 1:
                self.clear_folder(spec.id)
            raise
        finally:
            theirs.close()
            for descriptor in descriptors[:2]:
                os.close(descriptor)
            _close(stream.connection for stream in request.streams)
            _close(request.ports)
            _close(held for held, _ in request.listeners)
        ours.setblocking(False)
        return NativeMonitor(self, spec.id, ours, starting=True)

    def _settings(self, request: StartRequest, holds: int, descriptors: int) -> bytes:
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
            tuple(map(_flags, request.streams)),
            holds,
        )
        return protocol.encode(protocol.START, payload, descriptors)

    def _compile(self, request: StartRequest) -> bytes:
        spec = request.spec
        return plan.compile_start(spec, cgroups.plan(self.layout, spec.cgroup, spec.resources))

    def _make_folder(self, id: str) -> int:
        """The container's run-time folder, open and locked: the lock passes to the shim with the descriptor."""
        path = self._folder(id)
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                os.unlink(protocol.EXIT, dir_fd=folder)
        except BlockingIOError:
            os.close(folder)
            raise OSError(errno.EBUSY, "the container is running already", path) from None
        return folder

    def _folder(self, id: str) -> str:
        return os.path.join(self._folders, id)

    # Afterwards

    def reattach(self, id: str) -> NativeMonitor | None:
        connection = self._connect(id)
        return None if connection is None else NativeMonitor(self, id, connection, starting=False)

    def _connect(self, id: str) -> socket.socket | None:
        """A connection to the container's shim; None if there is none alive."""
        try:
            folder = os.open(self._folder(id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
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
            with open(os.path.join(self._folder(id), protocol.EXIT), encoding="ascii") as file:
                code, signum, at, oom = map(int, file.read().split())
        except FileNotFoundError:
            return None
        return Exited(code, signum, at, bool(oom))

    def crash(self, id: str) -> str:
        """The last line of what a shim had to say when it died; empty if nothing."""
        try:
            with open(os.path.join(self._folder(id), protocol.CRASH), encoding="utf-8", errors="replace") as file:
                lines = file.read().strip().splitlines()
        except FileNotFoundError:
            return ""
        log.debug("container %s: its shim has died:\n%s", id[:12], "\n".join(lines))
        return lines[-1] if lines else ""

    def clear_folder(self, id: str) -> None:
        """Remove the run-time folder of a container whose shim has ended. Idempotent."""
        shutil.rmtree(self._folder(id), ignore_errors=True)

    def freeze(self, id: str) -> None:
        cgroupfs.freeze(self.directories(id))

    def thaw(self, id: str) -> None:
        cgroupfs.thaw(self.directories(id))

    def update(self, id: str, resources: Resources) -> None:
        cgroups.update(self.layout, f"{self._base}/{id}", resources)

    def processes(self, id: str) -> tuple[int, ...]:
        return tuple(cgroupfs.pids(self.directories(id)))

    def figures(self, id: str) -> stats.Figures:
        return stats.read(self.layout, f"{self._base}/{id}")

    def delete(self, id: str) -> None:
        directories = self.directories(id)
        try:
            folder = os.open(self._folder(id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
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
            cgroupfs.remove(left)
        self.clear_folder(id)

    def _end_shim(self, id: str, folder: int) -> None:
        """Wait for the shim, which ends when its container has; one that does not is killed."""
        deadline = time.monotonic() + SHIM_END
        pause = 0.0005
        while not _unlocked(folder):
            if time.monotonic() > deadline:
                log.warning("container %s: its shim does not end, killing it", id[:12])
                connection = self._connect(id)
                if connection is None:
                    return
                with connection:
                    pid = struct.unpack_from("=i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                return
            time.sleep(pause)
            pause = min(pause * 2, 0.05)

    def existing(self) -> tuple[str, ...]:
        names = set(cgroups.existing(self.layout, self._base))
        with suppress(FileNotFoundError):
            names.update(os.listdir(self._folders))
        return tuple(sorted(names))


def _unlocked(folder: int) -> bool:
    """Whether no shim holds the folder. Leaves it unlocked."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(folder, fcntl.LOCK_UN)
    return True


def _close(sockets: Iterable[socket.socket]) -> None:
    for one in sockets:
        one.close()


def _flags(stream: Stream) -> int:
    return (
        protocol.STDIN * stream.stdin
        | protocol.STDOUT * stream.stdout
        | protocol.STDERR * stream.stderr
        | protocol.CLOSE_STDIN * stream.close_stdin
    )


def _holds(
    ports: tuple[socket.socket, ...], listeners: tuple[tuple[socket.socket, tuple[str, int]], ...]
) -> Iterable[tuple[bytes, tuple[int, ...]]]:
    """HOLD messages for these sockets: the first replaces what was held."""
    held: list[tuple[int, tuple[str, int] | None]] = [(port.fileno(), None) for port in ports]
    held += [(one.fileno(), (address[0], address[1])) for one, address in listeners]
    for first in range(0, max(1, len(held)), protocol.MOST_DESCRIPTORS):
        part = held[first : first + protocol.MOST_DESCRIPTORS]
        message = protocol.encode(protocol.HOLD, (first == 0, tuple(address for _, address in part)), len(part))
        yield message, tuple(descriptor for descriptor, _ in part)


def _failed(error: object) -> SetupFailed:
    assert isinstance(error, tuple)
    return SetupFailed(*error)


def _event(message: bytes, descriptors: list[int]) -> Event:
    """A shim's message as an Event. ValueError if it is none."""
    kind, payload, count = protocol.decode(message)
    if count != len(descriptors):
        raise ValueError(f"message with {len(descriptors)} descriptors that says {count}")
    sockets = tuple(socket.socket(fileno=descriptor) for descriptor in descriptors)
    resolver = (sockets[0], sockets[1]) if len(sockets) == 2 else None
    match kind, payload:
        case protocol.STARTED, (int(pid), int(at)):
            return Started(pid, at, resolver)
        case protocol.START_ERROR, error:
            return StartError(_failed(error))
        case protocol.EXITED, (int(code), int(signum), int(at), oom, exec_id):
            return Exited(code, signum, at, bool(oom), None if exec_id is None else str(exec_id))
        case protocol.EXEC_STARTED, (str(exec_id), int(pid)):
            return ExecStarted(exec_id, pid)
        case protocol.EXEC_ERROR, (str(exec_id), error):
            return ExecError(exec_id, _failed(error))
        case protocol.JOINED, (int(serial), error):
            return NetworkJoined(serial, None if error is None else _failed(error), resolver)
    raise ValueError(f"message of unknown kind {kind}")
