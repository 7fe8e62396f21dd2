"""The daemon's connection to one container's shim: a Monitor (see ``api``)."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
from collections.abc import Iterable, Sequence
from typing import Protocol

from pierhead.driver.execdriver import protocol
from pierhead.driver.execdriver.api import (
    Event,
    ExecError,
    ExecStarted,
    Exited,
    HeldPort,
    KeptPort,
    LogTruncated,
    Lost,
    NetworkJoined,
    NotBegun,
    SocketsOpened,
    Started,
    StartError,
    StartRequest,
    Stream,
)
from pierhead.libcontainer import plan
from pierhead.libcontainer.spec import NetworkSetup, Process, SetupFailed
from pierhead.linux import calls

log = logging.getLogger(__name__)


class Remains(Protocol):
    """What a Monitor asks of its driver when the shim has ended."""

    def collect(self, id: str) -> Exited | None:
        """The exit report left on disk."""

    def crash(self, id: str) -> str:
        """What the shim had to say when it died."""

    def begun(self, id: str) -> bool:
        """Whether a shim has taken the container on."""

    def kill(self, id: str) -> None:
        """Kill every process of the container, without waiting."""

    def clear_folder(self, id: str) -> None:
        """Remove the container's run-time folder."""


class ShimMonitor:
    """A Monitor over a shim's control connection."""

    def __init__(self, rest: Remains, id: str, connection: socket.socket, request: StartRequest | None = None) -> None:
        """request: what is being started, until its first event; its sockets are kept for another try."""
        self.id = id
        self._rest = rest
        self._connection = connection
        self._request = request
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
            self._close_request()
            if isinstance(event, StartError):
                self._rest.clear_folder(self.id)
            self._ended = isinstance(event, StartError) or (isinstance(event, Exited) and event.exec_id is None)
        return tuple(found)

    def _without_report(self) -> Event:
        """The connection has ended without one: the shim has died, or the report is in the folder alone."""
        report = self._rest.collect(self.id)
        if report is not None:
            self._close_request()
            return report
        why = self._rest.crash(self.id)
        if self._request is not None and not why and not self._rest.begun(self.id):
            request, self._request = self._request, None
            self._rest.clear_folder(self.id)
            return StartError(NotBegun(request))
        self._rest.kill(self.id)
        if self._request is not None:
            self._close_request()
            self._rest.clear_folder(self.id)
            return StartError(SetupFailed(errno.ECHILD, why or "its shim has ended", "", "shim", "clone"))
        log.error("container %s: its shim has died%s", self.id[:12], f": {why}" if why else "")
        return Lost()

    def _close_request(self) -> None:
        """The shim has taken its sockets over, or nobody will."""
        if self._request is not None:
            self._request.close()
            self._request = None

    def attach(self, stream: Stream) -> None:
        with stream.connection as connection:
            self._send(protocol.ATTACH, (flags(stream),), (connection.fileno(),))

    def exec(self, exec_id: str, process: Process, stream: Stream | None, open_stdin: bool, privileged: bool) -> None:
        descriptors = []
        try:
            descriptors.append(calls.sealed_memfd("exec", self.program(process, privileged)))
            if stream is not None:
                descriptors.append(os.dup(stream.connection.fileno()))
            wanted = flags(stream) if stream is not None else None
            self._send(protocol.EXEC, (exec_id, process.terminal, open_stdin, wanted), descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            if stream is not None:
                stream.connection.close()

    def program(self, process: Process, privileged: bool) -> bytes:
        """What the shim must know to start an exec. Raises ValueError for what cannot be."""
        return plan.compile_exec(process, privileged)

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

    def open_sockets(self, kinds: Sequence[tuple[int, int, int]], serial: int) -> None:
        self._send(protocol.OPEN, (serial, tuple((int(a), int(b), int(c)) for a, b, c in kinds)))

    def hold_ports(self, ports: Sequence[HeldPort]) -> None:
        try:
            for message, descriptors in holds(ports):
                self._transmit(message, descriptors)
        finally:
            close_all(held for held, _ in ports)

    def keep_ports(self, ports: Sequence[KeptPort]) -> None:
        self._send(protocol.KEEP, tuple(ports))

    def truncate_log(self, serial: int) -> None:
        self._send(protocol.TRUNCATE, (serial,))

    def close(self) -> None:
        self._close_request()
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


def close_all(sockets: Iterable[socket.socket]) -> None:
    for one in sockets:
        one.close()


def flags(stream: Stream) -> int:
    return (
        protocol.STDIN * stream.stdin
        | protocol.STDOUT * stream.stdout
        | protocol.STDERR * stream.stderr
        | protocol.CLOSE_STDIN * stream.close_stdin
        | protocol.REFRAMED * stream.reframed
    )


def holds(ports: Sequence[HeldPort]) -> Iterable[tuple[bytes, tuple[int, ...]]]:
    """HOLD messages for these sockets."""
    for first in range(0, len(ports), protocol.MOST_DESCRIPTORS):
        part = ports[first : first + protocol.MOST_DESCRIPTORS]
        message = protocol.encode(protocol.HOLD, tuple(target for _, target in part), len(part))
        yield message, tuple(held.fileno() for held, _ in part)


def _failed(error: object) -> SetupFailed:
    assert isinstance(error, tuple)
    return SetupFailed(*error)


def exited(code: int, signum: int, at: int, oom: int, exec_id: str | None = None) -> Exited:
    """A shim's report; oom as in ``protocol.EXITED``."""
    return Exited(code, signum, at, bool(oom), exec_id, int(oom) if oom > 1 else 0)


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
            return exited(code, signum, at, oom, None if exec_id is None else str(exec_id))
        case protocol.EXEC_STARTED, (str(exec_id), int(pid)):
            return ExecStarted(exec_id, pid)
        case protocol.EXEC_ERROR, (str(exec_id), error):
            return ExecError(exec_id, _failed(error))
        case protocol.JOINED, (int(serial), error):
            return NetworkJoined(serial, None if error is None else _failed(error), resolver)
        case protocol.OPENED, (int(serial), error):
            return SocketsOpened(serial, None if error is None else _failed(error), sockets)
        case protocol.TRUNCATED, (int(serial), error, int(freed)):
            return LogTruncated(serial, None if error is None else _failed(error), freed)
    raise ValueError(f"message of unknown kind {kind}")
