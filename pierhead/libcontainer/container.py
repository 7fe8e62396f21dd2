"""Start a container's process, or one more in it: the parent's side, in the shim.

The shim is single-threaded and has everything imported; it makes the cgroup, one clone with all namespaces, the host's
side of the network, and listens to what the child (``init``) reports until its execve closes the status socket.  On any
failure everything made here is undone.

The zygote imports this.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]
import _socket as socket
import marshal
import os
import select
import struct

from pierhead.libcontainer import cgroupfs, init, network, rootfs, usernamespace
from pierhead.libcontainer.init import SetupError
from pierhead.linux import calls, const

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

PLAN_VERSION = 1
MOST_SOCKETS = 8
"""That a child hands over in one message."""

SHM = -1  # plan.SHM, likewise
NETNS_FD = 100  # spec.NETNS_FD, which cannot be imported here

_LOOK = struct.pack("=qq", 0, 100_000)
"""A struct timeval: how often a child that others can see is looked at while it is waited for."""

_SHOWN = const.CLONE_NEWNS | const.CLONE_NEWNET
"""The namespaces that /proc shows of a process to everybody in its PID namespace, traceable or not."""

_EXEC_NAMESPACES = const.CLONE_NEWUTS | const.CLONE_NEWIPC | const.CLONE_NEWCGROUP
"""The others that an exec joins, but for the PID namespace and that of users."""


class Child:
    """A started process: pid (as we see it), pidfd, the terminal's master or -1, the resolver's (udp, tcp) or None.

    sockets: what ``sockets_inside`` asked for.
    """

    __slots__ = ("master", "pid", "pidfd", "resolver", "sockets")

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.master = -1
        self.resolver: tuple[int, int] | None = None
        self.sockets: tuple[int, ...] = ()


def spawn(plan: bytes, fds: Mapping[str, int], stdio: tuple[int, int, int], *, sibling: bool = False) -> Child:
    """Start a container (``plan.compile_start``).

    fds: "ns:<kind>" for each namespace to join, "ns:user" among them; they stay the caller's.
    stdio: descriptors for 0, 1, 2; -1 is the container's own /dev/null (never hand over the host's: its owner and mode
    could be changed through it).  Ignored where the plan has a terminal.
    sibling: the process becomes our parent's child, not ours, and survives us; our parent must reap it.
    Raises SetupError; then no process and no cgroup is left.
    """
    loaded = _load(plan)
    cgroup = loaded["cgroup"]
    opened: list[int] = []
    try:
        try:
            cgroupfs.execute(cgroup["steps"])
            into = -1
            if cgroup["into"]:
                into = os.open(cgroup["into"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                opened.append(into)
            join = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in cgroup["join"]]
            opened += join
        except OSError as error:
            raise _setup_error(error, "cgroup") from None

        def become(child: init.Child) -> None:
            for descriptor in join:
                os.write(descriptor, b"0")
            for kind, flag in loaded["joins"]:
                if kind != "pid":
                    calls.setns(fds[f"ns:{kind}"], flag)
            if loaded["shm"]:
                child.tree.sources[SHM] = rootfs.foreign_shm(fds["ns:mnt"])
            if loaded["unshare"]:
                calls.unshare(loaded["unshare"])

        joined = {kind: fds[f"ns:{kind}"] for kind, _ in loaded["joins"]}
        flags = loaded["flags"] | (const.CLONE_PARENT if sibling else 0)
        users = fds.get("ns:user", -1)
        return _start(loaded, stdio, become, flags, into, joined.get("pid", -1), joined.get("net", -1), users)
    except BaseException as error:
        _undo_cgroup(cgroup, error)
        raise
    finally:
        for descriptor in opened:
            os.close(descriptor)


def enter(plan: bytes, pidfd: int, id: str, cgroup: Mapping[str, Any], stdio: tuple[int, int, int]) -> Child:
    """Start one more process (``plan.compile_exec``) in the container whose PID 1 ``pidfd`` refers to.

    cgroup: the container's, as in its start plan (``cgroup_of``).  Raises SetupError.
    """
    loaded = _load(plan)
    loaded["host"] = ()
    try:
        return _enter(loaded, pidfd, id, cgroup["into"], cgroup["join"], stdio)
    except SetupError as error:
        # A container that gives its own cgroups controllers (systemd) leaves none of its processes in the topmost
        # one, and the kernel lets nobody else in either (cgroup v2, "no internal processes").
        if error.errno != 16 or error.stage != "clone" or not cgroup["into"]:
            raise
        into = _cgroup_of_process(pidfd, cgroup["into"])
        if into == cgroup["into"]:
            raise
        return _enter(loaded, pidfd, id, into, cgroup["join"], stdio)


def _enter(
    loaded: dict[str, Any], pidfd: int, id: str, directory: str, files: tuple[str, ...], stdio: tuple[int, int, int]
) -> Child:
    opened: list[int] = []
    try:
        into = -1
        if directory:
            into = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.append(into)
        join = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in files]
        opened += join

        def become(child: init.Child) -> None:
            for descriptor in join:
                os.write(descriptor, b"0")
            calls.setns(pidfd, _EXEC_NAMESPACES | (const.CLONE_NEWUSER if "user" in loaded else 0))
            calls.join_session_keyring(f"_ses.{id}")

        return _start(loaded, stdio, become, 0, into, pidfd, -1, shown=_SHOWN)
    except SetupError:
        raise
    except OSError as error:
        raise _setup_error(error, "cgroup") from None
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _cgroup_of_process(pidfd: int, container: str) -> str:
    """The directory of the v2 cgroup that a container's PID 1 is in; ``container`` itself if it cannot be told."""
    pid = _field(f"/proc/self/fdinfo/{pidfd}", "Pid:").strip()
    path = _field(f"/proc/{pid}/cgroup", "0::")
    if not path:
        return container
    # The path is the one from the hierarchy's root on: ours is its beginning, and the end of the directory's name.
    for at in range(len(container)):
        if container[at] == "/" and f"{path}/".startswith(f"{container[at:]}/"):
            return container[:at] + path
    return container


def _field(path: str, label: str) -> str:
    """What follows ``label`` at the beginning of a line of a /proc file; empty if there is none."""
    for line in (cgroupfs.read(path) or "").splitlines():
        if line.startswith(label):
            return line[len(label) :]
    return ""


def cgroup_of(plan: bytes) -> dict[str, Any]:
    """The cgroup part of a start plan: "into", "join", "directories" (for ``enter`` and ``cgroupfs``)."""
    cgroup: dict[str, Any] = _load(plan)["cgroup"]
    return cgroup


def _load(plan: bytes) -> dict[str, Any]:
    loaded: dict[str, Any] = marshal.loads(plan)
    if loaded["version"] != PLAN_VERSION:
        raise SetupError(
            22, f"plan of version {loaded['version']}, this shim reads {PLAN_VERSION}", "", "plan", "clone"
        )
    return loaded


def _start(
    loaded: dict[str, Any],
    stdio: tuple[int, int, int],
    become: Callable[[init.Child], None],
    flags: int,
    into: int,
    pid_namespace: int,
    net_namespace: int,
    user_namespace: int = -1,
    shown: int = 0,
) -> Child:
    """Clone, become, run the operations.

    net_namespace: a joined one, which the host's messages are about, or -1; user_namespace: a joined one, to which the
    new ones belong; shown: see ``_clone``.
    """
    user = loaded.get("user")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        if user:
            usernamespace.own(stdio, user["ids"])
        if user_namespace < 0:
            pid, pidfd = _clone(flags, into, pid_namespace, shown)
        else:
            pid, pidfd = usernamespace.clone_inside(user_namespace, pid_namespace, flags, into)
        if pid == 0:
            ours.close()
            _child(loaded, stdio, theirs, become)
    except OSError as error:
        ours.close()
        raise _setup_error(error, "clone") from None
    finally:
        theirs.close()
    child = Child(pid, pidfd)
    try:
        if user:
            usernamespace.admit(user, pid, ours, _mounted)
        if loaded["host"]:
            try:
                _join(net_namespace, pid, loaded["host"], loaded["busy"])
                ours.send(b"go")
            except OSError:
                # Where the child has ended meanwhile, what it has to say is the reason for this, too.
                if not _has_ended(pidfd):
                    raise
        if pid_namespace >= 0:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _LOOK)
        _listen(ours, child)
    except BaseException as error:
        ours.close()
        _undo_child(child)
        if isinstance(error, OSError) and not isinstance(error, SetupError):
            raise _setup_error(error, "network") from None
        raise
    ours.close()
    return child


def _join(net_namespace: int, pid: int, messages: tuple[bytes, ...], busy: tuple[int, ...]) -> None:
    """Send the host's side of the network of a child, or of the namespace that it has joined."""
    namespace = net_namespace
    if namespace < 0:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _host_network(namespace, messages, busy)
    finally:
        if namespace != net_namespace:
            os.close(namespace)


def _child(
    loaded: dict[str, Any], stdio: tuple[int, int, int], status: socket.socket, become: Callable[[init.Child], None]
) -> None:
    """The new process: nothing may return from here into a copy of the shim."""
    child = init.Child(status, stdio)
    try:
        calls.undumpable()
        os.umask(0o022)  # the daemon's own would show in the modes of mount points
        become(child)
    except BaseException as error:
        init.report(status, "clone", error)
        os._exit(255)
    init.run(loaded["operations"], child)


def _clone(flags: int, into: int, pid_namespace: int, shown: int) -> tuple[int, int]:
    """clone3, below an existing PID namespace if one is given.

    Joining a PID namespace concerns one's children only, so the shim itself does it for the moment of the clone: that
    saves a process in between.  shown: namespaces to be joined with it, where ``pid_namespace`` is a pidfd: whoever is
    in there may read the mounts and the network of what has just come, which must not be the host's.
    """
    if pid_namespace < 0:
        return calls.clone3(flags, into)
    joined = shown | const.CLONE_NEWPID
    own: list[tuple[int, int]] = []
    root = -1
    pid = pidfd = -1
    try:
        for flag, name in ((const.CLONE_NEWNS, "mnt"), (const.CLONE_NEWNET, "net"), (const.CLONE_NEWPID, "pid")):
            if flag & joined:
                own.append((os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), flag))
        if shown:
            root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        calls.setns(pid_namespace, joined)
        try:
            pid, pidfd = calls.clone3(flags, into)
        finally:
            if pid:  # the child stays there
                _return(own, root)
    except OSError as error:
        if error.errno == 12:  # what the kernel says of a PID namespace whose PID 1 has ended
            raise calls.failure("clone3", "", 3, "the container's PID namespace has ended") from None
        raise
    finally:
        if pid:
            for descriptor, _ in own:
                os.close(descriptor)
            if root >= 0:
                os.close(root)
    return pid, pidfd


def _return(own: list[tuple[int, int]], root: int) -> None:
    """Back to our own namespaces and root directory, by their descriptors."""
    try:
        for descriptor, flag in own:
            calls.setns(descriptor, flag)
        if root >= 0:
            os.fchdir(root)
            os.chroot(".")  # the namespace's root need not be ours
    except OSError:
        os._exit(255)  # half in a container is no place for a shim


def _host_network(namespace: int, messages: tuple[bytes, ...], busy: tuple[int, ...] = ()) -> None:
    """Send the host's side of the network; its messages name the container's namespace by the number NETNS_FD."""
    calls.duplicate_to(namespace, NETNS_FD)
    try:
        netlink = network.route_socket()
        try:
            network.send_route(netlink, messages, busy)
        finally:
            netlink.close()
    finally:
        os.close(NETNS_FD)


def _listen(status: socket.socket, child: Child) -> None:
    """Take the child's reports until the execve closes its end. Raises SetupError for what it reports.

    In a PID namespace that is there already others see it come, and its root may send it any signal: for a child that
    was stopped nobody waits, or a container could keep its shim from everything else, its own end included.
    """
    executing = False
    while True:
        try:
            data, controls, _, _ = status.recvmsg(65536, socket.CMSG_SPACE(4 * MOST_SOCKETS), socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            # It ended without having read our "go"; the kernel says so once, before what it has sent.
            continue
        except BlockingIOError:
            if _is_stopped(child.pid):
                raise SetupError(
                    4, "stopped by a signal before it could execute the command", "", "init", "process"
                ) from None
            continue
        if not data:
            break
        report = marshal.loads(data)
        descriptors = [
            number
            for level, kind, payload in controls
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS
            for number in struct.unpack(f"={len(payload) // 4}i", payload)
        ]
        if report[0] == "terminal":
            child.master = descriptors[0]
        elif report[0] == "resolver":
            child.resolver = (descriptors[0], descriptors[1])
        elif report[0] == "sockets":
            child.sockets += tuple(descriptors)
        elif report[0] == "exec":
            executing = True
        elif report[0] == "error":
            raise SetupError(*report[1:])
    if not executing:
        _await_end(child.pidfd)
        # A sibling is not ours to wait for; the last number of its line is its status.
        with open(f"/proc/{child.pid}/stat", "rb") as file:
            signum = int(file.read().split()[-1]) & 0x7F
        how = f"killed by signal {signum}" if signum else "ended"
        raise SetupError(4, f"{how} before it could execute the command", "", "init", "process")


def _is_stopped(pid: int) -> bool:
    """Whether a signal has stopped it (proc_pid_stat(5)); not a tracer, who lets it go on."""
    return (cgroupfs.read(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()[:1] == ["T"]


def _has_ended(pidfd: int) -> bool:
    """Whether it has, or is about to: its namespaces go some moments before the pidfd says that it is gone."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(1000))


def _await_end(pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll()


def _undo_child(child: Child) -> None:
    """End and reap the child, close what came from it."""
    try:
        calls.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    _await_end(child.pidfd)
    try:
        os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    except ChildProcessError:
        pass  # a sibling
    for descriptor in (child.pidfd, child.master, *(child.resolver or ()), *child.sockets):
        if descriptor >= 0:
            os.close(descriptor)


def _undo_cgroup(cgroup: dict[str, Any], error: BaseException) -> None:
    """Remove the cgroup. What cannot be removed now is found by reconciliation; the first error matters more."""
    try:
        for file in cgroup["leave"]:
            cgroupfs.write(file, "0")
        cgroupfs.kill(cgroup["directories"])
        cgroupfs.remove(cgroup["directories"])
        cgroupfs.execute(cgroup["end"])
    except OSError as another:
        error.add_note(f"and its cgroup is left: {another}")


def net_inside(
    namespace: int,
    messages: tuple[bytes, ...],
    nft: bytes = b"",
    sysctls: tuple[tuple[str, str], ...] = (),
    resolver: int = 0,
    host: tuple[bytes, ...] = (),
    busy: tuple[int, ...] = (),
) -> tuple[int, int] | None:
    """Apply a network's messages to a running container's network namespace (``network connect``).

    namespace: a descriptor of it; host: messages that are sent outside first, as in ``spawn``; busy: errors after which
    one is sent again.  sysctls: (path below
    /proc/sys, value), see ``plan.sysctl_path``.  A child of ours joins the namespace, for we must stay where we are.
    Returns the resolver's sockets (udp, tcp) if a port was given.  Raises SetupError.
    """
    operations: list[tuple[object, ...]] = []
    if sysctls:
        operations += [("procfs",), ("sysctls", sysctls)]
    if messages:
        operations.append(("route", messages, busy))
    if nft:
        operations.append(("nft", nft))
    if resolver:
        operations.append(("resolver", resolver))
    if host:
        try:
            _host_network(namespace, host, busy)
        except OSError as error:
            raise _setup_error(error, "network") from None
    return _errand(operations, lambda child: calls.setns(namespace, const.CLONE_NEWNET)).resolver


def sockets_inside(namespace: int, kinds: tuple[tuple[int, int, int], ...]) -> tuple[int, ...]:
    """Open sockets in a network namespace, of which ``namespace`` is a descriptor: a socket stays where it was made.

    kinds: (family, type, protocol) of each, at most MOST_SOCKETS.  Returns their descriptors.  Raises SetupError.
    """
    return _errand([("sockets", kinds)], lambda child: calls.setns(namespace, const.CLONE_NEWNET)).sockets


def _mounted(operations: list[tuple[object, ...]]) -> tuple[int, ...]:
    """What operations mount in a mount namespace that ends with them (``usernamespace.admit``)."""
    return _errand(operations, lambda child: None, const.CLONE_NEWNS).sockets


def _errand(operations: list[tuple[object, ...]], become: Callable[[init.Child], None], flags: int = 0) -> Child:
    """Have a child become something and do operations; returns what it has left. Raises SetupError."""
    loaded = {"operations": [*operations, ("finish",)], "host": ()}
    child = _start(loaded, (0, 1, 2), become, flags, -1, -1, -1)
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    os.close(child.pidfd)
    return child


def _setup_error(error: OSError, stage: str) -> SetupError:
    if isinstance(error, SetupError):
        return error
    path = error.filename or ""
    path = os.fsdecode(path) if isinstance(path, bytes) else str(path)
    return SetupError(error.errno or 5, error.strerror or str(error), path, calls.call_of(error) or "open", stage)
