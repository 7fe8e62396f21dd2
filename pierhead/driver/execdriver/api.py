"""The exec driver's Protocol: a container's processes are started, watched, talked to and ended through it.

The daemon never waits inside a driver: ``start`` and every method of a Monitor return at once, and what comes of them
arrives as Events on the Monitor, whose ``fileno()`` the daemon's loop watches.
"""

import errno
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pierhead.libcontainer.spec import NetworkSetup, Process, Resources, SetupFailed, Spec

if TYPE_CHECKING:
    from pierhead.libcontainer.oom import Watch as OomWatch
    from pierhead.libcontainer.stats import Figures


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Where and how the container's output is kept: Docker's json-file format, rotated.

    path: the newest file (Docker's LogPath); older ones get ".1", ".2", …; empty: nothing is kept.
    attrs: extra key/value pairs written with each line (json-file's labels and env options).
    """

    path: str = ""
    max_size: int = 20 * 1000 * 1000
    max_files: int = 5
    attrs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """One client's end of a container's or exec's stdio.

    connection: a connected AF_UNIX SOCK_STREAM socket that the driver takes over (its other end is the daemon's).
    The driver writes output to it: with a terminal the raw bytes, else stdcopy frames (1 byte stream: 1 stdout,
    2 stderr; 3 zero bytes; 4 bytes big-endian length; payload), and shuts it down when the process has ended and
    all its output is out.  What the daemon writes to it is the process's stdin; its SHUT_WR ends stdin if
    ``close_stdin``.  reframed: frames with a terminal, and raw bytes without.
    A Stream that is closed by the daemon is dropped; the process goes on.
    """

    connection: socket.socket
    stdin: bool = True
    stdout: bool = True
    stderr: bool = True
    close_stdin: bool = True
    reframed: bool = False


Target = tuple[str, str, int]
"""Where the clients of a served port are led: the container's IPv4 address or "", its IPv6 address or "", port. They
come to the address of their own family, if there is one."""

HeldPort = tuple[socket.socket, Target | None]
"""A socket that reserves a published port; with a Target it listens, and what comes to it is copied."""

KeptPort = tuple[int, str, int, Target | None]
"""The same, said of a socket that is held already: protocol number, address, port, target."""


@dataclass(frozen=True, slots=True)
class StartRequest:
    """All that a container's start needs.

    descriptors: "ns:<kind>" for each namespace to join.
    ports: sockets that reserve published ports; the driver's process for this container holds them until it ends, and
    serves those that have a Target.
    open_stdin: keep a stdin pipe; else stdin is /dev/null (with a terminal stdin is the terminal).
    runtime: one of the driver's ``runtimes``; empty: its default.
    """

    spec: Spec
    log: LogConfig = field(default_factory=LogConfig)
    streams: tuple[Stream, ...] = ()
    descriptors: Mapping[str, int] = field(default_factory=dict)
    ports: tuple[HeldPort, ...] = ()
    open_stdin: bool = False
    runtime: str = ""

    def close(self) -> None:
        """Close its sockets. Idempotent."""
        for stream in self.streams:
            stream.connection.close()
        for port, _ in self.ports:
            port.close()


class NotBegun(SetupFailed):
    """The driver's process for a start was gone before it had done anything of it.

    The sockets of ``request`` are still open: it is to be given to ``start`` again, or closed.
    """

    def __init__(self, request: StartRequest) -> None:
        super().__init__(errno.ECHILD, "its shim ended before it began", "", "shim", "clone")
        self.request = request


@dataclass(frozen=True, slots=True)
class Started:
    """The container's command has been executed. pid as the host sees it; time in ns since the epoch.

    resolver: the sockets of NetworkSetup.resolver (udp, tcp listening), now the daemon's to serve and close.
    """

    pid: int
    started_at: int
    resolver: tuple[socket.socket, socket.socket] | None = None


@dataclass(frozen=True, slots=True)
class StartError:
    """The start failed; everything that was made for it is gone again. NotBegun: it may be tried again."""

    error: SetupFailed


@dataclass(frozen=True, slots=True)
class Exited:
    """The container's command (exec_id None) or an exec has ended; all its output is written and sent.

    code: as Docker's ExitCode (128 + signal if killed).  oom: the kernel killed in this cgroup for memory; peak: then,
    the most bytes that it used, 0 if that is not known.
    """

    code: int
    signal: int
    at: int
    oom: bool = False
    exec_id: str | None = None
    peak: int = 0


@dataclass(frozen=True, slots=True)
class ExecStarted:
    """An exec's command has been executed (pid as the host sees it)."""

    exec_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class ExecError:
    """An exec could not be started."""

    exec_id: str
    error: SetupFailed


@dataclass(frozen=True, slots=True)
class NetworkJoined:
    """The answer to ``Monitor.join_network`` / ``leave_network``; error None when it worked.

    resolver: as in Started, where the setup asked for it.
    """

    serial: int
    error: SetupFailed | None
    resolver: tuple[socket.socket, socket.socket] | None = None


@dataclass(frozen=True, slots=True)
class SocketsOpened:
    """The answer to ``Monitor.open_sockets``; sockets, in the order asked for, when error is None."""

    serial: int
    error: SetupFailed | None
    sockets: tuple[socket.socket, ...] = ()


@dataclass(frozen=True, slots=True)
class LogTruncated:
    """The answer to ``Monitor.truncate_log``; freed: bytes on disk that were deleted."""

    serial: int
    error: SetupFailed | None
    freed: int = 0


@dataclass(frozen=True, slots=True)
class Lost:
    """The driver's process for this container is gone without an exit report; the cgroup has been killed."""


Event = Started | StartError | Exited | ExecStarted | ExecError | NetworkJoined | SocketsOpened | LogTruncated | Lost


class Monitor(Protocol):
    """The daemon's connection to one container. All calls return at once; they raise OSError if it is gone."""

    id: str

    def fileno(self) -> int:
        """A descriptor that is readable when ``events`` has something to give."""

    def events(self) -> tuple[Event, ...]:
        """What has happened since the last call; never waits. After the container's Exited or Lost nothing more."""

    def attach(self, stream: Stream) -> None:
        """Give one more client the container's stdio, from now on."""

    def exec(self, exec_id: str, process: Process, stream: Stream | None, open_stdin: bool, privileged: bool) -> None:
        """Run another process in the container's namespaces. Answer: ExecStarted or ExecError, later Exited."""

    def resize(self, rows: int, columns: int, exec_id: str | None = None) -> None:
        """Set the terminal's size (TIOCSWINSZ); ignored without a terminal."""

    def signal(self, signum: int, exec_id: str | None = None) -> None:
        """Send a signal to the container's PID 1 (or to an exec's process) through its pidfd."""

    def join_network(self, setup: NetworkSetup, serial: int) -> None:
        """Apply one more NetworkSetup to the running container. Answer: NetworkJoined."""

    def leave_network(self, inside: tuple[bytes, ...], serial: int) -> None:
        """Send rtnetlink messages inside the container's namespace (take an interface down). Answer: NetworkJoined."""

    def open_sockets(self, kinds: Sequence[tuple[int, int, int]], serial: int) -> None:
        """Open sockets (family, type, protocol) in the container's network namespace, where they stay: what is asked
        through them is answered from there, and nobody else has to enter it. Answer: SocketsOpened."""

    def hold_ports(self, ports: Sequence[HeldPort]) -> None:
        """Give the container's process more reservation sockets to hold; takes them over."""

    def keep_ports(self, ports: Sequence[KeptPort]) -> None:
        """Of those that it holds let it keep these, served as said here, and give back the others, whose copied
        connections end. One that it does not hold is no error."""

    def truncate_log(self, serial: int) -> None:
        """Delete what has been logged so far; what comes is logged as before, and whoever follows the log misses
        nothing. Answer: LogTruncated (never from a shim that an older Pierhead started)."""

    def close(self) -> None:
        """Let go of the connection; the container goes on (a daemon that stops)."""


class ExecDriver(Protocol):
    """One way of running containers. No state of it is lost by a restart of the daemon."""

    name: str

    @property
    def default(self) -> str:
        """The runtime of a container that names none."""

    def runtimes(self) -> Mapping[str, str]:
        """What a container may name as its runtime, and the program that it is."""

    def knows(self, id: str) -> bool:
        """Whether the container was started by this driver, as its run-time folder says."""

    def open(self) -> None:
        """Make ready to start containers (idempotent). Raises OSError with what is missing."""

    def close(self) -> None:
        """End what belongs to the daemon's life alone; containers go on."""

    def pids(self) -> tuple[int, ...]:
        """The driver's own long-lived processes (the zygote), for figures."""

    def start(self, request: StartRequest) -> Monitor:
        """Begin to start a container; takes over every socket of the request. Answer: Started or StartError."""

    def reattach(self, id: str) -> Monitor | None:
        """After a restart of the daemon: connect again. None if nothing of it runs (see ``collect``).

        The first Event is Started again if the command runs; running execs are reported by ExecStarted.
        """

    def collect(self, id: str) -> Exited | None:
        """The exit report left on disk by a container that ended while no daemon listened; None if there is none."""

    def freeze(self, id: str) -> None:
        """Suspend every process of the container (the cgroup's freezer); returns when they are."""

    def thaw(self, id: str) -> None:
        """Let them run again. Idempotent."""

    def kill(self, id: str) -> None:
        """Kill every process of the container, whatever its Monitor's peer is at; does not wait. Idempotent."""

    def update(self, id: str, resources: Resources) -> None:
        """Change the limits of a running container."""

    def processes(self, id: str) -> tuple[int, ...]:
        """Every process of the container, as the host sees them."""

    def owner(self, pid: int) -> str | None:
        """The id of the container that a process of the host's belongs to; None if to none of this driver's."""

    def figures(self, id: str) -> "Figures":
        """What its cgroup has used so far."""

    def watch_oom(self, id: str, known: int | None = None) -> "OomWatch":
        """Be told when the kernel kills in a running container for want of memory. Raises OSError.

        known: how many of its kills the caller knows of already (0: a container that has just been started), None: all.
        """

    def delete(self, id: str) -> None:
        """Kill what is left, remove the container's cgroup and run-time folder. Idempotent; may wait."""

    def existing(self) -> tuple[str, ...]:
        """Ids of everything under this driver's mark (run-time folders, cgroups), for reconciliation."""
