"""The child between clone and execve: it loops over a plan's operations and becomes the container's process.

No module is imported here after the start, and none could be: ``sys.path`` and its finders are emptied, for soon they
would name files of the container.  The zygote imports this: os, sys, socket, struct, marshal and ours.

The order at the end, and why:

1. the user is looked up while we still may read everything, every descriptor but stdio and the status socket is
   closed, then the working directory is entered (CVE-2024-21626: there is nothing left to enter by mistake);
2. identity: bounding set, groups, gid, uid; CAP_SYS_ADMIN stays permitted, and nothing is effective beyond what the
   process will have, so that the program is looked for with its own rights;
3. seccomp: the filter needs CAP_SYS_ADMIN where no_new_privs is not set, and it is the last step but one, so that it
   need not allow anything that we do; only capset, execve and the report of an error come behind it.
"""

from __future__ import annotations

import _socket as socket
import marshal
import os
import stat
import struct
import sys

from pierhead.libcontainer import network, rootfs, userentry
from pierhead.libcontainer.user import Identity, UserError, resolve
from pierhead.linux import calls, const, tty
from pierhead.linux.openat import open_beneath, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

STATUS = 3
"""The status socket's number during the last operations."""

EXECUTING = marshal.dumps(("exec",), 2)
"""The last word before the execve: without it, an end of the status socket is an early death."""

_SYS_ADMIN = 1 << const.CAP_SYS_ADMIN


class SetupError(OSError):
    """A step on the way to the command failed. As spec.SetupFailed, which this module cannot afford to import.

    errno, strerror, filename; ``call`` is the system call or step, ``stage`` one of "cgroup", "clone", "network",
    "mount", "process", "exec".
    """

    def __init__(self, errno: int, strerror: str, path: str, call: str, stage: str) -> None:
        super().__init__(errno, strerror, path)
        self.call = call
        self.stage = stage

    def __str__(self) -> str:
        return f"{self.stage}: {self.call} {self.filename}: {self.strerror}"


class Child:
    """What the operations share: the tree, the status socket, stdio, and who we become.

    stdio: three descriptors, -1 for /dev/null; ignored with a terminal.
    """

    __slots__ = ("identity", "peer", "procfs", "status", "stdio", "tree")

    def __init__(self, status: socket.socket, stdio: tuple[int, int, int]) -> None:
        self.status = status
        self.stdio = stdio
        self.tree = rootfs.Tree()
        self.procfs = -1
        self.peer = -1
        self.identity = Identity(0, 0, [0], "/")


def run(operations: tuple[tuple[object, ...], ...], child: Child) -> None:
    """Execute a plan's operations; never returns.  What fails is reported on the status socket."""
    stage = "process"
    try:
        sys.path.clear()
        sys.meta_path.clear()
        sys.path_hooks.clear()
        for operation in operations:
            stage, function = OPERATIONS[operation[0]]
            function(child, *operation[1:])
    except BaseException as error:
        report(child.status, stage, error)
    os._exit(255)


def report(status: socket.socket, stage: str, error: BaseException) -> None:
    """Tell the shim what failed. Nothing is left to do if even that fails: it then sees us end without a word."""
    if isinstance(error, SetupError):
        fields = (error.errno, error.strerror, error.filename or "", error.call, error.stage)
    elif isinstance(error, OSError):
        path = error.filename or ""
        path = os.fsdecode(path) if isinstance(path, bytes) else str(path)
        fields = (error.errno or 5, error.strerror or str(error), path, calls.call_of(error) or "open", stage)
    else:
        fields = (22, f"{error}" if isinstance(error, UserError) else repr(error), "", "user", stage)
    try:
        status.send(marshal.dumps(("error", *fields), 2))
    except OSError:
        pass


def _keyring(child: Child, name: str) -> None:
    calls.join_session_keyring(name)


def _user_namespace(child: Child, numbers: tuple[int, ...] | None) -> None:
    """Become its root, once it has one; take over the root file system and the sources of these numbers (None: an
    exec, for which nothing is mounted)."""
    mounts = userentry.wait(child.status, 0 if numbers is None else len(numbers) + 1)
    userentry.become_root()
    if numbers is not None:
        child.tree.root = mounts[0]
        child.tree.sources.update(zip(numbers, mounts[1:], strict=True))


def _owners(child: Child, namespace: int, base: str, uid: int, gid: int) -> None:
    userentry.owners(namespace, base, uid, gid)


def _lend_mounts(child: Child, numbers: tuple[int, ...]) -> None:
    """Root and sources, for a process of another mount namespace: detached."""
    made = [rootfs.detached(child.tree.root), *(child.tree.sources[number] for number in numbers)]
    for at in range(0, len(made), userentry.PORTION):
        _lend(child, "sockets", tuple(made[at : at + userentry.PORTION]))


def _procfs(child: Child) -> None:
    child.procfs = network.open_procfs()


def _await_network(child: Child) -> None:
    """The host's side (the veth pair, say) is made by the shim while we mount; what follows needs it."""
    if child.status.recv(16) != b"go":
        os._exit(255)  # the shim knows why, or is no more


def _sysctls(child: Child, values: tuple[tuple[str, str], ...]) -> None:
    network.write_sysctls(child.procfs, values)


def _route(child: Child, messages: tuple[bytes, ...], busy: tuple[int, ...]) -> None:
    netlink = network.route_socket()
    network.send_route(netlink, messages, busy)
    netlink.close()


def _nft(child: Child, batch: bytes) -> None:
    network.send_batch(batch)


def _resolver(child: Child, port: int) -> None:
    _lend(child, "resolver", network.resolver_sockets(port))


def _sockets(child: Child, kinds: tuple[tuple[int, int, int], ...]) -> None:
    _lend(child, "sockets", network.open_sockets(kinds))


def _lend(child: Child, name: str, descriptors: tuple[int, ...]) -> None:
    _send(child.status, name, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)


def _send(status: socket.socket, name: str, descriptors: tuple[int, ...]) -> None:
    packed = struct.pack(f"={len(descriptors)}i", *descriptors)
    status.sendmsg([marshal.dumps((name,), 2)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)])


def _stdio(child: Child, terminal: bool, rows: int, columns: int) -> None:
    """A session of our own, and descriptors 0, 1, 2: a new terminal's, or those we were given."""
    os.setsid()
    root = child.tree.root if child.tree.root >= 0 else os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if terminal:
        master, peer = tty.open_pair(root)
        _send(child.status, "terminal", (master,))
        os.close(master)
        tty.make_controlling(peer)
        if rows and columns:
            tty.set_size(peer, rows, columns)
        child.peer = peer
        child.stdio = (peer, peer, peer)
    elif -1 in child.stdio:
        null = rootfs.open_null(root)
        child.stdio = tuple(null if one < 0 else one for one in child.stdio)  # type: ignore[assignment]
    # Through copies above 2, for the given ones may be 0, 1 and 2 in another order.
    copies = [calls.duplicate_above(one, 3) for one in child.stdio]
    for number, copy in enumerate(copies):
        os.dup2(copy, number, inheritable=True)
        os.close(copy)


def _console(child: Child) -> None:
    rootfs.console(child.tree, child.peer)


def _hostname(child: Child, name: str) -> None:
    calls.sethostname(name)


def _domainname(child: Child, name: str) -> None:
    calls.setdomainname(name)


def _oom_score(child: Child, value: int) -> None:
    """Written through our own procfs (CVE-2025-52881), and only if it is not so already: lowering it is privileged."""
    descriptor = open_beneath(child.procfs, f"{os.getpid()}/oom_score_adj", os.O_RDWR)
    try:
        if int(os.read(descriptor, 16)) != value:
            os.write(descriptor, str(value).encode())
    except OSError as error:
        raise calls.failure("write", "oom_score_adj", error.errno or 5) from None
    finally:
        os.close(descriptor)


def _apparmor(child: Child, profile: str) -> None:
    """From the execve on. Through our own procfs, as in ``_oom_score``."""
    own = os.getpid()
    try:
        try:
            descriptor = open_beneath(child.procfs, f"{own}/attr/apparmor/exec", os.O_WRONLY)
        except FileNotFoundError:  # before Linux 5.8
            descriptor = open_beneath(child.procfs, f"{own}/attr/exec", os.O_WRONLY)
        try:
            os.write(descriptor, f"exec {profile}".encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        text = f"apparmor failed to apply profile {profile}: {(error.strerror or '').lower()}"
        raise SetupError(error.errno or 5, text, "", "apparmor", "process") from None


def _rlimit(child: Child, name: str, resource: int, soft: int, hard: int) -> None:
    try:
        calls.set_rlimit(resource, soft, hard)
    except OSError as error:
        what = "error setting rlimits for ready process: error setting rlimit type"
        text = f"{what} {resource}: {(error.strerror or '').lower()}"
        raise SetupError(error.errno or 5, text, "", "setrlimit", "process") from None


def _user(child: Child, user: str, groups: tuple[str, ...]) -> None:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    identity = child.identity = resolve(root, user, groups)
    os.close(root)
    if not identity.uid:
        return
    # A program that opens /dev/stdout anew must be allowed to (as runc does): pipes and our own terminal, never
    # a device that others use too.
    for number in range(3):
        if child.peer >= 0 or stat.S_ISFIFO(os.fstat(number).st_mode):
            try:
                os.fchown(number, identity.uid, -1 if child.peer >= 0 else identity.gid)
            except OSError as error:
                if error.errno not in (1, 13, 22, 30):
                    raise


def _close(child: Child) -> None:
    """Really close what is left, so that no /proc/self/fd/N leads out of the container."""
    status = child.status.detach()
    if status != STATUS:
        calls.duplicate_to(status, STATUS)
    child.status = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=STATUS)
    calls.close_from(STATUS + 1)


def _cwd(child: Child, path: str) -> None:
    """Enter the working directory: no magic link on the way, and below our root at the end."""
    try:
        directory = openat2(const.AT_FDCWD, path, os.O_PATH | os.O_DIRECTORY, const.RESOLVE_NO_MAGICLINKS)
        os.fchdir(directory)
        os.close(directory)
        reached = calls.getcwd()
    except OSError as error:
        text = f'chdir to cwd ("{path}") failed: {(error.strerror or "").lower()}'
        raise SetupError(error.errno or 5, text, path, "chdir", "process") from None
    if not reached.startswith("/"):
        text = "current working directory is outside of container mount namespace root"
        raise SetupError(1, text, path, "chdir", "process")


def _umask(child: Child, value: int) -> None:
    os.umask(value)


def _identity(child: Child, capabilities: int, no_new_privileges: bool) -> None:
    permitted = calls.capget()[1]
    capabilities &= permitted
    identity = child.identity
    calls.clear_ambient()
    calls.drop_bounding(capabilities)
    calls.prctl(const.PR_SET_KEEPCAPS, 1)
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    own = 0 if identity.uid else capabilities
    calls.capset(own, own | _SYS_ADMIN & permitted)
    if no_new_privileges:
        calls.prctl(const.PR_SET_NO_NEW_PRIVS, 1)
    # Without its shim a container has neither a log nor anyone to report its end. (Here: a change of uid clears it.)
    calls.prctl(const.PR_SET_PDEATHSIG, 9)
    calls.default_signals()


def _exec(
    child: Child, args: tuple[str, ...], env: tuple[tuple[str, str], ...], seccomp: bytes, capabilities: int
) -> None:
    environment = dict(env)
    if not environment.get("HOME"):
        environment["HOME"] = child.identity.home
    program = find_program(args[0], environment.get("PATH", ""))
    permitted = calls.capget()[1]
    own = 0 if child.identity.uid else capabilities & permitted
    child.status.send(EXECUTING)
    if seccomp:
        calls.capset(own | permitted & _SYS_ADMIN, permitted)
        calls.seccomp_load(seccomp)
    calls.capset(own, own)
    try:
        os.execve(program, list(args), environment)
    except OSError as error:
        code = error.errno or 5
        text = f"exec {program}: {os.strerror(code).lower()}{_cause(program, code)}"
        raise SetupError(code, text, program, "execve", "exec") from None


def _finish(child: Child) -> None:
    """The end of a child that was sent for its effects alone."""
    child.status.send(EXECUTING)
    os._exit(0)


def find_program(name: str, path: str) -> str:
    """The file to execute. Raises SetupError in Docker's words (those of Go's exec.LookPath)."""
    if "/" in name:
        code = _executable(name)
        if code in (2, 20):
            text = f'exec: "{name}": stat {name}: {os.strerror(code).lower()}'
        elif code:
            text = f'exec: "{name}": {os.strerror(code).lower()}'
        else:
            return name
        raise SetupError(code, text, name, "execve", "exec")
    for directory in path.split(":") if name else ():
        candidate = f"{directory or '.'}/{name}"
        if not _executable(candidate):
            return candidate
    raise SetupError(2, f'exec: "{name}": executable file not found in $PATH', name, "execve", "exec")


def _executable(path: str) -> int:
    """0, or the errno that speaks against executing it."""
    try:
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            return 21
        return 0 if os.access(path, os.X_OK, effective_ids=True) else 13
    except OSError as error:
        return error.errno or 5


_MACHINES = {3: "i386", 20: "ppc", 21: "ppc64", 22: "s390x", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}


def _cause(program: str, code: int) -> str:
    """Why a file that is there cannot be executed, as far as its first bytes tell; empty if they do not."""
    try:
        file = os.open(program, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        head = os.read(file, 4096)
        os.close(file)
    except OSError:
        return ""
    if head[:2] == b"#!":
        words = head[2:].split(b"\n", 1)[0].split()
        interpreter = os.fsdecode(words[0]) if words else ""
        return f' (its interpreter "{interpreter}" cannot be executed)' if code in (2, 8, 13) else ""
    if head[:4] != b"\x7fELF":
        return " (neither a binary nor a script with an interpreter line)" if code == 8 else ""
    machine = struct.unpack_from(">H" if head[5:6] == b"\2" else "<H", head, 18)[0]
    if code == 8:
        return f" (built for {_MACHINES.get(machine, f'machine {machine}')}, this is {const.MACHINE})"
    return " (the program's dynamic loader is missing in the image)" if code == 2 else ""


def _on_tree(function: Callable[..., None]) -> Callable[..., None]:
    return lambda child, *arguments: function(child.tree, *arguments)


OPERATIONS: dict[object, tuple[str, Callable[..., None]]] = {
    "keyring": ("process", _keyring),
    "user_namespace": ("mount", _user_namespace),
    "owners": ("mount", _owners),
    "lend_mounts": ("mount", _lend_mounts),
    "source": ("mount", _on_tree(rootfs.source)),
    "image": ("mount", _on_tree(rootfs.image)),
    "slave": ("mount", _on_tree(rootfs.slave)),
    "directory_root": ("mount", _on_tree(rootfs.directory_root)),
    "overlay_root": ("mount", _on_tree(rootfs.overlay_root)),
    "given_root": ("mount", _on_tree(rootfs.given_root)),
    "mount": ("mount", _on_tree(rootfs.make_mount)),
    "readonly_mount": ("mount", _on_tree(rootfs.readonly_mount)),
    "device": ("mount", _on_tree(rootfs.device)),
    "bound_device": ("mount", _on_tree(rootfs.bound_device)),
    "link": ("mount", _on_tree(rootfs.link)),
    "workdir": ("mount", _on_tree(rootfs.workdir)),
    "core_link": ("mount", _on_tree(rootfs.core_link)),
    "ptmx": ("mount", _on_tree(rootfs.ptmx)),
    "console": ("mount", _console),
    "mask": ("mount", _on_tree(rootfs.mask)),
    "readonly": ("mount", _on_tree(rootfs.readonly)),
    "pivot": ("mount", _on_tree(rootfs.pivot)),
    "readonly_root": ("mount", _on_tree(rootfs.readonly_root)),
    "propagation": ("mount", _on_tree(rootfs.propagation)),
    "procfs": ("network", _procfs),
    "await_network": ("network", _await_network),
    "sysctls": ("network", _sysctls),
    "route": ("network", _route),
    "nft": ("network", _nft),
    "resolver": ("network", _resolver),
    "sockets": ("network", _sockets),
    "stdio": ("process", _stdio),
    "hostname": ("process", _hostname),
    "domainname": ("process", _domainname),
    "oom_score": ("process", _oom_score),
    "apparmor": ("process", _apparmor),
    "rlimit": ("process", _rlimit),
    "user": ("process", _user),
    "close": ("process", _close),
    "cwd": ("process", _cwd),
    "umask": ("process", _umask),
    "identity": ("process", _identity),
    "exec": ("exec", _exec),
    "finish": ("exec", _finish),
}
