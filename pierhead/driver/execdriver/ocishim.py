"""The shim of a container that an OCI runtime makes: a shim like any other (``shim``), which has the runtime do what
native starters and shims do themselves.

The root file system is mounted in a mount namespace of the shim's own, so that the host has no mount of it and nothing
of it stays when shim and container have ended.  The network namespace is made and furnished here, before the runtime is
asked, by the same messages as a native container's.  The runtime starts the command as a child of its own and ends; so
it becomes ours (we are its subreaper), as does each exec.

The OCI zygote imports this: nothing may be imported later.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]
import _socket as socket
import json
import marshal
import os
import time

from pierhead.driver.execdriver import ocibundle, ociusers, protocol
from pierhead.driver.execdriver.job import Job, close_all, failure, pipes
from pierhead.driver.execdriver.jsonlog import JSONLog
from pierhead.driver.execdriver.protocol import RUNTIME
from pierhead.driver.execdriver.runtime import VERSION, Runtime
from pierhead.driver.execdriver.shim import Shim, ended_children
from pierhead.driver.execdriver.starter import bind
from pierhead.libcontainer import cgroupfs, container, userentry, usernamespace
from pierhead.libcontainer.init import SetupError
from pierhead.libcontainer.user import UserError, resolve
from pierhead.linux import calls, const

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Program = dict[str, Any]

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Launch:
    """An exec that the runtime is at work on."""

    def __init__(self, number: int, job: Job, terminal: bool) -> None:
        self.name = f"exec-{number}"
        self.job = job
        self.terminal = terminal
        self.console: socket.socket | None = None
        self.stdio: tuple[int, ...] = ()
        self.failed: BaseException | None = None


class OciShim(Shim):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.path = ""
        self.runtime: Runtime | None = None
        self.launches: dict[int, Launch] = {}
        self.unclaimed: dict[int, int] = {}
        """Status of processes that ended before the runtime had said which they are."""
        self.launched = 0
        self.owner: tuple[int, int] | None = None
        """Who the container's root is on the host, where it has a user namespace."""

    # Start

    def take(self, handover: socket.socket) -> bool:
        """Take the START message from the daemon (``handover`` is its connection) and make the container."""
        self.control = handover
        message, descriptors = protocol.receive(handover)
        if not message:
            self.reported = True
            return False
        settings = protocol.decode(message)[1]
        self.id, log, open_stdin, terminal, self.cgroups, self.accounted, self.own_pids, names, flags, holds = settings
        memory, self.folder = descriptors[:2]
        joins = dict(zip(names, descriptors[2:], strict=False))
        main = self.main = Job(self.loop, None, self._container_ended, self._finished)
        for descriptor, flag in zip(descriptors[2 + len(names) :], flags, strict=True):
            main.stdio.add(socket.socket(fileno=descriptor), flag)
        for _ in range(holds):
            self._handle(*protocol.receive(handover))
        try:
            program = _program(memory)
            _write(f"{program['folder']}/{RUNTIME}", [program["runtime"], *program["options"]])
            listener = bind(self.folder)
            if log is not None:
                self.log = main.stdio.log = JSONLog(*log)
            self._make(program, joins, terminal, open_stdin)
            self._listen(listener)
        except Exception as error:  # whatever it is, the daemon must hear of it: it waits for this start
            self._refuse(error)
            return False
        finally:
            close_all(joins.values())
        self._say_started()
        return True

    def _make(self, program: Program, joins: dict[str, int], terminal: bool, open_stdin: bool) -> None:
        self.path = program["folder"]
        runtime = Runtime(program["runtime"], program["options"], program["environment"], self.path, self.id)
        self.runtime = runtime
        runtime.delete()  # of a run whose shim has been killed
        config = program["config"]
        bundle = f"{self.path}/bundle"
        os.makedirs(bundle, 0o700, exist_ok=True)
        users = program["users"]
        new = program["network_namespace"]
        try:
            if users:
                joined = joins.pop("ns:user", -1)
                try:
                    joins["ns:user"], network = ociusers.namespaces(users, joined, new)
                finally:
                    close_all((joined,))
            elif new:
                network = _network_namespace()
            if new:
                joins["ns:net"] = network
        except OSError as error:
            raise _at_stage(error, "clone") from None
        try:
            config["root"]["path"] = self._mount(program, bundle, joins)
            root = os.open(config["root"]["path"], _DIRECTORY)
        except OSError as error:
            raise _at_stage(error, "mount") from None
        try:
            _become(config["process"], root, *program["user"])
        finally:
            os.close(root)
        self._furnish(joins.get("ns:net", -1), program)
        for entry in config["linux"]["namespaces"]:
            kind = program["joined"].get(entry["type"])
            if kind is not None:
                entry["path"] = f"/proc/{os.getpid()}/fd/{joins[kind]}"
        _write(f"{bundle}/config.json", config)
        self.owner = users["ids"] if users else None
        self._create(runtime, bundle, terminal, open_stdin)
        if users:
            cgroupfs.execute(users["gifts"])
        runtime.run("start")
        self.started_at = time.time_ns()

    def _mount(self, program: Program, bundle: str, joins: dict[str, int]) -> str:
        """Everything that the runtime is given mounted; returns the root's path."""
        users = program["users"]
        images = [wanted for wanted in program["mounts"] if wanted[1] == "image"]
        others = [wanted for wanted in program["mounts"] if wanted[1] != "image"]
        ocibundle.leave_host(bundle, users["place"] if users else "")
        ocibundle.mount_sources(others, bundle, joins.get("ns:mnt", -1))
        if not users:
            path = ocibundle.mount_root(program["root"], bundle)
            ocibundle.mount_sources(images, bundle, -1)
            return path
        own = os.geteuid(), os.getegid()
        userentry.owners(joins["ns:user"], users["base"], *users["ids"])
        try:
            path = ocibundle.mount_root(program["root"], users["place"])
            ocibundle.mount_sources(images, bundle, -1)
        finally:
            calls.use_files_as(*own)
        return path

    def _furnish(self, namespace: int, program: Program) -> None:
        """The network, as the starter does it, before there is a container; then the container's own sysctls of it."""
        host, inside, nft, sysctls, resolver, busy = program["network"]
        if host or inside or nft or sysctls or resolver:
            self.resolver = container.net_inside(namespace, inside, nft, sysctls, resolver, host, busy) or ()
        if program["sysctls"]:
            container.net_inside(namespace, (), sysctls=program["sysctls"])

    def _create(self, runtime: Runtime, bundle: str, terminal: bool, open_stdin: bool) -> None:
        """Have the container made; its PID 1 then waits for the runtime's ``start``."""
        assert self.main is not None
        words = ["--bundle", bundle, "--pid-file", f"{bundle}/pid"]
        theirs = ours = -1, -1, -1
        console: socket.socket | None = None
        try:
            if terminal:
                console = self._console("console", words)
            else:
                theirs, ours = self._pipes(open_stdin)
            runtime.run("create", *words, stdio=theirs)
            stdio = (_master(console),) if console is not None else _ours(ours)
            ours = -1, -1, -1
        finally:
            close_all(theirs)
            close_all(ours)
            if console is not None:
                console.close()
                os.unlink("console", dir_fd=self.folder)
        pid = _pid(f"{bundle}/pid")
        self.main.take(pid, calls.pidfd_open(pid), terminal, stdio)
        self.jobs[pid] = self.main

    def _pipes(self, open_stdin: bool) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """As ``pipes``; the container's root owns its ends."""
        theirs, ours = pipes(open_stdin)
        if self.owner is not None:
            usernamespace.own(theirs, self.owner)
        return theirs, ours

    def _console(self, name: str, words: list[str]) -> socket.socket:
        """A socket on which the runtime hands out a terminal's master, and the words that say so."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # By descriptor the name is short, whatever the exec root; the runtime has none of its own for the folder.
        listener.bind(f"/proc/self/fd/{self.folder}/{name}")
        listener.listen(1)
        words += ["--console-socket", f"/proc/{os.getpid()}/fd/{self.folder}/{name}"]
        return listener

    # Requests

    def _exec(self, payload: tuple[Any, ...], descriptors: list[int]) -> None:
        exec_id, terminal, open_stdin, flags = payload
        self.launched += 1
        job = Job(self.loop, exec_id, lambda job: None, self._finished)
        launch = Launch(self.launched, job, terminal)
        if flags is not None:
            job.stdio.add(socket.socket(fileno=descriptors[1]), flags)
        theirs = -1, -1, -1
        try:
            program = _program(descriptors[0])
            if self.main is None or self.main.pidfd < 0 or self.runtime is None:
                raise ProcessLookupError(3, "the container is not running")
            root = os.open(f"/proc/{self.main.pid}/root", _DIRECTORY)
            try:
                _become(program["process"], root, *program["user"])
            finally:
                os.close(root)
            file = f"{self.path}/{launch.name}"
            _write(f"{file}.json", program["process"])
            words = ["--detach", "--pid-file", f"{file}.pid", "--process", f"{file}.json"]
            if terminal:
                launch.console = self._console(f"{launch.name}.console", words)
            else:
                theirs, ours = self._pipes(open_stdin)
                launch.stdio = _ours(ours)
            self.launches[self.runtime.begin("exec", *words, self.id, stdio=theirs)] = launch
        except Exception as error:  # as in start
            self._failed(launch, error)
        finally:
            close_all(theirs)

    def _failed(self, launch: Launch, error: BaseException) -> None:
        self._tidy(launch)
        close_all(launch.stdio)
        launch.job.stdio.finished = True
        launch.job.stdio.abandon()
        self.send(protocol.EXEC_ERROR, (launch.job.exec_id, failure(error)))

    def _tidy(self, launch: Launch) -> None:
        if launch.console is not None:
            launch.console.close()
        for suffix in ("json", "pid", "console"):
            try:
                os.unlink(f"{launch.name}.{suffix}", dir_fd=self.folder)
            except OSError:
                pass  # not made, or the folder has been deleted

    def _launch_ended(self, launch: Launch, status: int) -> None:
        """The runtime has done with an exec: its process is ours, or an error."""
        job = launch.job
        try:
            assert self.runtime is not None
            self.runtime.check("exec", status)
            pid = _pid(f"{self.path}/{launch.name}.pid")
            stdio = (_master(launch.console),) if launch.console is not None else launch.stdio
            # It stays a zombie of ours until we have reaped it: nobody else can have its number.
            pidfd = -1 if pid in self.unclaimed else calls.pidfd_open(pid)
        except Exception as error:  # as in start
            self._failed(launch, error)
            self._report_if_ended()
            return
        self._tidy(launch)
        job.take(pid, pidfd, launch.terminal, stdio)
        exec_id = str(job.exec_id)
        self.jobs[pid] = job
        self.execs[exec_id] = job
        self.send(protocol.EXEC_STARTED, (exec_id, pid))
        if pid in self.unclaimed:
            del self.jobs[pid]
            job.ended(self.unclaimed.pop(pid))

    # The end

    def reap(self) -> None:
        """As in Shim; what is not known yet may be an exec of which the runtime has not told."""
        ended = ended_children()
        if self.launches:
            self.unclaimed.update((pid, status) for pid, status in ended if pid not in self.jobs)
        for pid, status in ended:
            job = self.jobs.pop(pid, None)
            if job is not None:
                job.ended(status)
            launch = self.launches.pop(pid, None)
            if launch is not None:
                self._launch_ended(launch, status)
        if not self.launches:
            self.unclaimed.clear()

    def _container_ended(self, main: Job) -> None:
        for pid in self.launches:
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so still ours
        super()._container_ended(main)

    def _report(self, main: Job) -> None:
        if not self.launches:  # else their ends come first
            super()._report(main)

    def _report_if_ended(self) -> None:
        if self.main is not None and self.main.stdio.finished and not self.execs and not self.reported:
            self._report(self.main)

    def _give_back(self) -> None:
        """Have the runtime remove the container first."""
        if self.runtime is not None:
            try:
                self.runtime.delete()
            except OSError:
                pass  # the daemon's delete tries again
        super()._give_back()


def _program(descriptor: int) -> Program:
    """What ``oci`` has compiled; closes the memory file."""
    try:
        program: Program = marshal.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
    finally:
        os.close(descriptor)
    if program["version"] != VERSION:
        raise SetupError(
            22, f"program of version {program['version']}, this shim reads {VERSION}", "", "plan", "runtime"
        )
    return program


def _network_namespace() -> int:
    """A descriptor of a new one, in which nobody is."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        calls.unshare(const.CLONE_NEWNET)
        made = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        calls.setns(own, const.CLONE_NEWNET)
    finally:
        os.close(own)
    return made


def _become(process: dict[str, Any], root: int, user: str, groups: tuple[str, ...]) -> None:
    """Say who the process is, by the files below ``root``."""
    try:
        identity = resolve(root, user, groups)
    except UserError as error:
        raise SetupError(22, str(error), "", "user", "process") from None
    process["user"] |= {"uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups}


def _write(path: str, content: object) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(file, "w", encoding="utf-8", errors="surrogateescape") as out:
        out.write(json.dumps(content, ensure_ascii=False))


def _pid(path: str) -> int:
    with open(path, encoding="utf-8") as file:
        return int(file.read())


def _master(console: socket.socket) -> int:
    """The terminal's master, which the runtime has sent before it ended."""
    console.setblocking(False)
    descriptor, _ = console._accept()  # type: ignore[attr-defined]
    with_it = socket.socket(fileno=descriptor)
    try:
        return protocol.receive(with_it, 1)[1][0]
    finally:
        with_it.close()


def _ours(pipes: tuple[int, int, int]) -> tuple[int, ...]:
    """Our ends as ``Job.take`` wants them."""
    stdin, stdout, stderr = pipes
    return (stdout, stderr, stdin) if stdin >= 0 else (stdout, stderr)


def _at_stage(error: OSError, stage: str) -> SetupError:
    path = error.filename or ""
    path = os.fsdecode(path) if isinstance(path, bytes) else str(path)
    return SetupError(error.errno or 5, error.strerror or str(error), path, calls.call_of(error) or "open", stage)
