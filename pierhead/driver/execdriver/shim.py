"""The shim: parent and subreaper of one container's processes, forked by the zygote, alive as long as the container.

It holds what must outlive the daemon: stdio, the log, published ports, the resolver's sockets, the exit status.  The
daemon talks to it over one control connection at a time; the newest wins (``protocol``).  Whoever holds the lock on the
container's folder (``<exec-root>/containers/<id>``) is its live shim; there are

    s      the socket on which a restarted daemon finds it again
    exit   "code signal nanoseconds oom" as in EXITED, renamed into place before the control connection closes
    crash  a traceback, should it die of an error of its own

The zygote imports this: nothing may be imported later.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]
import _socket as socket
import os

from pierhead.driver.execdriver import protocol
from pierhead.driver.execdriver.forward import Forwards
from pierhead.driver.execdriver.job import Job, close_all, failure
from pierhead.driver.execdriver.jsonlog import JSONLog
from pierhead.driver.execdriver.loop import IN, OUT, Loop
from pierhead.driver.execdriver.protocol import CRASH, EXIT
from pierhead.driver.execdriver.stdio import PATIENCE
from pierhead.libcontainer import cgroupfs, container
from pierhead.linux import calls, const, tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST_REPORTS = 256
"""Ends of execs that are kept for a daemon that is away."""


class Shim:
    """One container. See the module's docstring."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.control: socket.socket | None = None
        self.backlog: list[tuple[bytes, tuple[int, ...]]] = []
        self.jobs: dict[int, Job] = {}
        self.execs: dict[str, Job] = {}
        self.reports: list[tuple[object, ...]] = []
        self.main: Job | None = None
        self.resolver: tuple[int, ...] = ()
        self.started_at = 0
        self.folder = -1
        self.listener: socket.socket | None = None
        self.cgroups: tuple[str, ...] = ()
        self.accounted: tuple[str, ...] = ()
        self.own_pids = False
        self.log: JSONLog | None = None
        self.id = ""
        self.cgroup: dict[str, object] = {}
        self.oom = 0
        self.reported = False
        self.forwards = Forwards(self.loop)

    # Start

    def take(self, handover: socket.socket) -> bool:
        """Take over the container that our starter has made (see ``starter``); False if it has made none."""
        message, descriptors = protocol.receive(handover)
        handover.close()
        if not message:
            self.reported = True
            self.reap()
            return False
        settings, made = protocol.decode(message)[1]
        self.id, log, _, terminal, self.cgroups, self.accounted, self.own_pids, _, flags, holds = settings
        pid, self.started_at, self.cgroup, stdio, resolver = made
        self.control = socket.socket(fileno=descriptors[0])
        self.folder = descriptors[1]
        main = self.main = Job(self.loop, None, self._container_ended, self._finished)
        self.jobs[pid] = main
        at = 4 + stdio
        self.resolver = tuple(descriptors[at : at + resolver])
        for descriptor, flag in zip(descriptors[at + resolver :], flags, strict=True):
            main.stdio.add(socket.socket(fileno=descriptor), flag)
        main.take(pid, descriptors[3], terminal, tuple(descriptors[4:at]))
        for _ in range(holds):
            self._handle(*protocol.receive(self.control))
        try:
            self._listen(descriptors[2])
            if log is not None:
                self.log = main.stdio.log = JSONLog(*log)
        except OSError as error:
            self._refuse(error)
            return False
        self._say_started()
        return True

    def _refuse(self, error: Exception) -> None:
        """What was started cannot be looked after: end it, and say why the start has failed."""
        assert self.main is not None
        self.reported = True
        try:
            cgroupfs.kill(self.cgroups)
        except OSError:
            pass  # the daemon's delete tries again
        self.reap()
        self.main.stdio.finish()
        self.forwards.close()
        self._give_back()
        self.send(protocol.START_ERROR, failure(error))

    def _listen(self, descriptor: int) -> None:
        """Serve the socket in the folder, bound by the starter; from this call on its peers see that it is ours."""
        self.listener = socket.socket(fileno=descriptor)
        self.listener.setblocking(False)
        self.listener.listen(4)
        self.loop.watch(descriptor, IN, self._accept)

    def watch_children(self) -> None:
        """Be told of every child's end."""
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self.loop.watch(reader, IN, lambda events: self._children(reader))

    def _say_started(self) -> None:
        assert self.main is not None
        self.send(protocol.STARTED, (self.main.pid, self.started_at), self.resolver)

    # Control

    def _accept(self, events: int) -> None:
        """A daemon has come (again): it replaces the one before, and is told what runs and what has ended."""
        assert self.listener is not None
        try:
            descriptor, _ = self.listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        self._let_go()
        self.backlog = []
        self.control = socket.socket(fileno=descriptor)
        self.watch_control()
        self._say_started()
        for exec_id, job in self.execs.items():
            self.send(protocol.EXEC_STARTED, (exec_id, job.pid))
        for report in self.reports:
            self.send(protocol.EXITED, report)
        self.reports = []

    def watch_control(self) -> None:
        """Listen to the daemon."""
        if self.control is not None:
            self.control.setblocking(False)
            self.loop.watch(self.control.fileno(), IN, self._control_ready)

    def _let_go(self) -> None:
        if self.control is not None:
            self.loop.forget(self.control.fileno())
            self.control.close()
            self.control = None

    def _control_ready(self, events: int) -> None:
        if events & OUT and self.backlog:
            self._send_backlog()
        if not events & ~OUT or self.control is None:
            return
        try:
            message, descriptors = protocol.receive(self.control)
        except BlockingIOError:
            return
        except ValueError:
            return  # cut short
        except OSError:
            message, descriptors = b"", []
        if not message:
            self._let_go()  # the daemon has gone; the container goes on
            return
        self._handle(message, descriptors)

    def _handle(self, message: bytes, descriptors: list[int]) -> None:
        """Do what a message says; one that cannot be understood (of a later daemon) is left out."""
        try:
            kind, payload, count = protocol.decode(message)
            handler = {
                protocol.ATTACH: self._attach,
                protocol.EXEC: self._exec,
                protocol.RESIZE: self._resize,
                protocol.SIGNAL: self._signal,
                protocol.JOIN: self._join,
                protocol.LEAVE: self._leave,
                protocol.HOLD: self.forwards.hold,
                protocol.KEEP: self.forwards.keep,
                protocol.OPEN: self._open,
                protocol.TRUNCATE: self._truncate,
            }.get(kind)
            if handler is None or count != len(descriptors):
                raise ValueError(f"message of kind {kind} with {len(descriptors)} descriptors")
        except ValueError:
            close_all(descriptors)
            return
        try:
            handler(payload, descriptors)
        except OSError:
            pass  # too late: the terminal or process that it was about has just ended

    def send(self, kind: int, payload: tuple[Any, ...], descriptors: tuple[int, ...] = ()) -> bool:
        """Send to the daemon, or keep it until it can be; False if there is none."""
        if self.control is None:
            return False
        message = protocol.encode(kind, payload, len(descriptors))
        if not self.backlog:
            try:
                protocol.send(self.control, message, descriptors)
                return True
            except BlockingIOError:
                self.loop.watch(self.control.fileno(), IN | OUT, self._control_ready)
            except OSError:
                self._let_go()
                return False
        self.backlog.append((message, descriptors))
        return True

    def _send_backlog(self) -> None:
        while self.backlog and self.control is not None:
            try:
                protocol.send(self.control, *self.backlog[0])
            except BlockingIOError:
                return
            except OSError:
                self._let_go()
                return
            self.backlog.pop(0)
        if self.control is not None:
            self.loop.watch(self.control.fileno(), IN, self._control_ready)

    # Requests

    def _attach(self, payload: tuple[Any, ...], descriptors: list[int]) -> None:
        assert self.main is not None
        (flags,) = payload
        self.main.stdio.add(socket.socket(fileno=descriptors[0]), flags)

    def _exec(self, payload: tuple[Any, ...], descriptors: list[int]) -> None:
        exec_id, terminal, open_stdin, flags = payload
        job = Job(self.loop, exec_id, lambda job: None, self._finished)
        if flags is not None:
            job.stdio.add(socket.socket(fileno=descriptors[1]), flags)
        try:
            if self.main is None or self.main.pidfd < 0:
                raise ProcessLookupError(3, "the container is not running")
            program = _content(descriptors[0])
            pidfd = self.main.pidfd
            job.start(
                lambda stdio: container.enter(program, pidfd, self.id, self.cgroup, stdio),
                terminal,
                open_stdin,
            )
        except Exception as error:  # as in start
            job.stdio.finished = True
            job.stdio.abandon()
            self.send(protocol.EXEC_ERROR, (exec_id, failure(error)))
            return
        self.jobs[job.pid] = job
        self.execs[exec_id] = job
        self.send(protocol.EXEC_STARTED, (exec_id, job.pid))

    def _job(self, exec_id: object) -> Job | None:
        return self.main if exec_id is None else self.execs.get(str(exec_id))

    def _resize(self, payload: tuple[Any, ...], descriptors: list[int]) -> None:
        rows, columns, exec_id = payload
        job = self._job(exec_id)
        if job is not None and job.stdio.terminal and job.stdio.stdin >= 0:
            tty.set_size(job.stdio.stdin, min(rows, 65535), min(columns, 65535))

    def _signal(self, payload: tuple[Any, ...], descriptors: list[int]) -> None:
        signum, exec_id = payload
        job = self._job(exec_id)
        if job is not None:
            job.signal(signum)

    def _join(self, payload: tuple[Any, ...], descriptors: list[int]) -> None:
        serial, host, inside, nft, sysctls, resolver = payload
        self._change_network(serial, host, inside, nft, sysctls, resolver)

    def _leave(self, payload: tuple[Any, ...], descriptors: list[int]) -> None:
        serial, inside = payload
        self._change_network(serial, (), inside, b"", (), 0)

    def _change_network(self, serial: int, host: Any, inside: Any, nft: Any, sysctls: Any, resolver: Any) -> None:
        try:
            namespace = self._network_namespace()
            try:
                sockets = container.net_inside(namespace, inside, nft, sysctls, resolver, host)
            finally:
                os.close(namespace)
        except Exception as error:  # as in start
            self.send(protocol.JOINED, (serial, failure(error)))
            return
        if sockets:
            for descriptor in self.resolver:
                os.close(descriptor)
            self.resolver = tuple(sockets)
        self.send(protocol.JOINED, (serial, None), tuple(sockets or ()))

    def _network_namespace(self) -> int:
        """A descriptor of it."""
        if self.main is None or self.main.pidfd < 0:
            raise ProcessLookupError(3, "the container is not running")
        return os.open(f"/proc/{self.main.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def _open(self, payload: tuple[Any, ...], descriptors: list[int]) -> None:
        serial, kinds = payload
        try:
            namespace = self._network_namespace()
            try:
                sockets = container.sockets_inside(namespace, kinds)
            finally:
                os.close(namespace)
        except Exception as error:  # as in start
            self.send(protocol.OPENED, (serial, failure(error)))
            return
        self.send(protocol.OPENED, (serial, None), sockets)
        if self.backlog:  # the daemon does not read: descriptors are not kept for it
            again = protocol.encode(protocol.OPENED, (serial, failure(BlockingIOError(11, "the daemon is busy"))))
            self.backlog[-1] = again, ()
        close_all(sockets)

    def _truncate(self, payload: tuple[Any, ...], descriptors: list[int]) -> None:
        (serial,) = payload
        freed = 0
        error = None
        try:
            if self.log is not None:
                freed = self.log.truncate()
        except OSError as raised:
            error = failure(raised)
        self.send(protocol.TRUNCATED, (serial, error, freed))

    # The end

    def _children(self, reader: int) -> None:
        """SIGCHLD has come, once or more often."""
        try:
            while len(os.read(reader, 64)) == 64:
                pass
        except BlockingIOError:
            pass
        self.reap()

    def reap(self) -> None:
        """Collect every child that has ended: ours, and those that were left to us."""
        for pid, status in ended_children():
            job = self.jobs.pop(pid, None)
            if job is not None:
                job.ended(status)

    def _container_ended(self, main: Job) -> None:
        """PID 1 is gone: nothing of the container may stay."""
        self.oom = cgroupfs.oom_peak(self.accounted)
        if self.own_pids:
            return  # the kernel has ended the whole PID namespace, before we heard of it
        try:
            cgroupfs.kill(self.cgroups)
        except OSError:
            pass  # in uninterruptible sleep: the daemon's delete tries again
        self.reap()

    def _finished(self, job: Job) -> None:
        """A process has ended and its output is out."""
        if job.exec_id is not None:
            self.execs.pop(job.exec_id, None)
            if not self.send(protocol.EXITED, job.report()) and len(self.reports) < MOST_REPORTS:
                self.reports.append(job.report())
        main = self.main
        if main is not None and main.stdio.finished and not self.execs and not self.reported:
            self._report(main)

    def _report(self, main: Job) -> None:
        """The container has ended: write it down, say it, give everything back; then only slow clients keep us."""
        self.reported = True
        if self.log is not None:
            self.log.finish()
        report = main.report(self.oom)
        self._write_exit(report)
        if self.listener is not None:
            self.loop.forget(self.listener.fileno())
            self.listener.close()
        # Whoever hears of the end may publish the same ports again.
        self.forwards.close()
        for descriptor in self.resolver:
            os.close(descriptor)
        self.send(protocol.EXITED, report)
        self._give_back()
        if self.backlog and self.control is not None:
            self.control.setblocking(True)
            self.control.settimeout(PATIENCE)
            self._send_backlog()
        self._let_go()
        self.loop.later(0, self._end_when_read)

    def _write_exit(self, report: tuple[int, int, int, int, str | None]) -> None:
        code, signum, at, oom, _ = report
        try:
            file = os.open(
                f"{EXIT}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self.folder
            )
            try:
                os.write(file, f"{code} {signum} {at} {oom}\n".encode())
            finally:
                os.close(file)
            os.rename(f"{EXIT}.new", EXIT, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        except OSError:
            pass  # the folder has been deleted: nobody wants to know

    def _give_back(self) -> None:
        """Remove the cgroup and let go of the folder (its lock says that we live)."""
        # A scope is systemd's to remove: it would wait for the word that nobody is in there any more, which never comes
        # where the group has gone before.
        scoped = self.cgroups[-1].endswith(".scope") if self.cgroups else False
        if scoped or not remove_empty(self.cgroups):
            try:
                cgroupfs.kill(self.cgroups)
                if not scoped:
                    cgroupfs.remove(self.cgroups)
            except OSError:
                pass  # the daemon's delete tries again, and says what is wrong
        if self.folder >= 0:
            os.close(self.folder)
            self.folder = -1

    def _end_when_read(self) -> None:
        if self.main is None or not self.main.stdio.clients:
            self.loop.ended = True
        else:
            self.loop.later(0.05, self._end_when_read)


def remove_empty(directories: tuple[str, ...]) -> bool:
    """Remove a cgroup that has no process and no child left, the usual case; False if it is not so everywhere."""
    empty = True
    for directory in directories:
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            pass
        except OSError:
            empty = False
    return empty


def _content(descriptor: int) -> bytes:
    """All of a memory file, which is closed."""
    try:
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)


def ended_children() -> list[tuple[int, int]]:
    """Every child that has ended, with its wait status; asked for once each."""
    ended = []
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            ended.append((pid, status))
    except ChildProcessError:
        pass
    return ended


def prepare(kind: type[Shim] = Shim) -> Shim:
    """Everything that does not depend on the container, in a process that a zygote has just forked."""
    os.setsid()
    os.dup2(0, 2)  # /dev/null: the daemon's terminal or pipe must not be kept open by us
    calls.prctl(const.PR_SET_CHILD_SUBREAPER, 1)
    calls.name_process("pierhead-shim")
    shim = kind()
    shim.watch_children()
    return shim


def live(shim: Shim, handover: socket.socket) -> None:
    """The life of a shim."""
    try:
        if shim.take(handover):
            shim.watch_control()
            shim.loop.run()
    except BaseException:
        if shim.folder >= 0:
            crash = os.open(CRASH, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600, dir_fd=shim.folder)
            os.dup2(crash, 2)
        try:
            cgroupfs.kill(shim.cgroups, 0)  # nobody would log for it, serve it or report its end
        except OSError:
            pass  # as far as the kernel let us; the daemon's delete waits for it
        raise
