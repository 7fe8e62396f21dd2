"""System calls about processes: clone, namespaces, capabilities, seccomp, keyrings, limits, signals.

Every call raises ``OSError(errno, strerror, path)``; ``call_of`` tells which call it was.  Every descriptor made here
is close-on-exec.  Mounts are in ``mountapi``, look-ups below a root in ``openat``, terminals in ``tty``.

The zygote imports this: os, sys, struct and ctypes only, nothing imported later.
"""

from __future__ import annotations

import ctypes
import os
import struct

from pierhead.linux import const

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
# The interpreter's lock stays held across a clone, or the child would wait for a thread that it does not have.
_held = ctypes.PyDLL(None, use_errno=True)
_held.syscall.restype = ctypes.c_long

# An OSError's call is a note: tracebacks show it, and the class stays FileNotFoundError and its like.
_NOTE = "call: "


def failure(call: str, path: str | bytes = "", code: int = 0, text: str = "") -> OSError:
    """The error of the call that has just failed (or ``code``), naming the call and the path."""
    code = code or ctypes.get_errno()
    error = OSError(code, text or os.strerror(code), os.fsdecode(path) or None)
    error.add_note(_NOTE + call)
    return error


def call_of(error: BaseException) -> str:
    """The name of the call that raised ``error``, or an empty string where it did not come from here."""
    for note in getattr(error, "__notes__", ()):
        if note.startswith(_NOTE):
            return str(note[len(_NOTE) :])
    return ""


def syscall(call: str, number: int, *arguments: object, path: str | bytes = "") -> int:
    """syscall(2): integers go as 64-bit words (ctypes alone would cut them to 32), the rest as ctypes has it."""
    if number < 0:
        raise failure(call, path, 38)  # ENOSYS: not in the table of this machine
    result: int = libc.syscall(number, *[ctypes.c_long(a) if type(a) is int else a for a in arguments])
    if result < 0:
        raise failure(call, path)
    return result


def watch_file(path: str) -> int:
    """A non-blocking descriptor that becomes readable whenever the file is written to (inotify(7))."""
    descriptor = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        raise failure("inotify_init1")
    if libc.inotify_add_watch(descriptor, os.fsencode(path), const.IN_MODIFY) < 0:
        error = failure("inotify_add_watch", path)
        os.close(descriptor)
        raise error
    return int(descriptor)


def clone3(flags: int, cgroup: int = -1) -> tuple[int, int]:
    """fork(2) with namespace ``flags``, into the cgroup (v2) whose directory ``cgroup`` is open.

    Returns (pid, pidfd) in the parent and (0, -1) in the child.  The process must be single-threaded.  The child
    begins with default signal handlers (ignored signals stay ignored: ``default_signals``).
    """
    pidfd = ctypes.c_int(-1)
    flags |= const.CLONE_PIDFD | const.CLONE_CLEAR_SIGHAND
    if cgroup >= 0:
        flags |= const.CLONE_INTO_CGROUP
    arguments = struct.pack(
        "=11Q",
        flags,
        ctypes.addressof(pidfd),
        0,  # child_tid
        0,  # parent_tid
        0 if flags & const.CLONE_PARENT else 17,  # SIGCHLD; a sibling's is ours
        0,  # stack: go on with a copy of ours
        0,
        0,  # tls
        0,  # set_tid
        0,
        max(cgroup, 0),
    )
    buffer = ctypes.create_string_buffer(arguments, len(arguments))
    pid: int = _held.syscall(ctypes.c_long(const.SYS_CLONE3), buffer, ctypes.c_long(len(arguments)))
    if pid < 0:
        raise failure("clone3")
    return (0, -1) if pid == 0 else (pid, pidfd.value)


def unshare(flags: int) -> None:
    """unshare(2)."""
    if libc.unshare(ctypes.c_int(flags)):
        raise failure("unshare")


def setns(descriptor: int, flags: int) -> None:
    """setns(2): join the namespaces of a pidfd, or the one of a namespace's descriptor."""
    if libc.setns(descriptor, ctypes.c_int(flags)):
        raise failure("setns")


def pidfd_open(pid: int) -> int:
    """pidfd_open(2)."""
    return syscall("pidfd_open", const.SYS_PIDFD_OPEN, pid, 0)


def pidfd_send_signal(pidfd: int, signum: int) -> None:
    """pidfd_send_signal(2). ProcessLookupError when it has been reaped."""
    syscall("pidfd_send_signal", const.SYS_PIDFD_SEND_SIGNAL, pidfd, signum, None, 0)


def close_from(first: int) -> None:
    """Close every descriptor from ``first`` on."""
    syscall("close_range", const.SYS_CLOSE_RANGE, first, 0xFFFFFFFF, 0)


def duplicate_above(descriptor: int, lowest: int) -> int:
    """A close-on-exec copy with a number of at least ``lowest`` (F_DUPFD_CLOEXEC)."""
    copy: int = libc.fcntl(descriptor, 1030, ctypes.c_long(lowest))
    if copy < 0:
        raise failure("fcntl(F_DUPFD_CLOEXEC)")
    return copy


def duplicate_to(descriptor: int, number: int) -> None:
    """dup3(2), close-on-exec."""
    if libc.dup3(descriptor, number, os.O_CLOEXEC) < 0:
        raise failure("dup3")


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """prctl(2)."""
    long = ctypes.c_long
    result: int = libc.prctl(ctypes.c_int(option), long(a), long(b), long(c), long(d))
    if result < 0:
        raise failure("prctl")
    return result


def undumpable() -> None:
    """Nobody may trace this process or look into its /proc folder any more, until it executes a program."""
    prctl(const.PR_SET_DUMPABLE, 0)


def name_process(name: str) -> None:
    """What ps shows (15 characters); the arguments stay those of the program that was executed."""
    descriptor = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    os.write(descriptor, name.encode())
    os.close(descriptor)


def capget() -> tuple[int, int, int]:
    """This thread's capability masks: effective, permitted, inheritable (capget(2))."""
    header = struct.pack("=Ii", const.LINUX_CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    syscall("capget", const.SYS_CAPGET, header, data)
    low = struct.unpack("=6I", data.raw)
    return low[0] | low[3] << 32, low[1] | low[4] << 32, low[2] | low[5] << 32


def capset(effective: int, permitted: int, inheritable: int = 0) -> None:
    """Set this thread's capability masks (capset(2))."""
    header = struct.pack("=Ii", const.LINUX_CAPABILITY_VERSION_3, 0)
    low = 0xFFFFFFFF
    data = struct.pack(
        "=6I",
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> 32,
        permitted >> 32,
        inheritable >> 32,
    )
    syscall("capset", const.SYS_CAPSET, header, data)


def use_files_as(uid: int, gid: int) -> None:
    """Who owns what this process makes in file systems (setfsuid(2)); its capabilities stay."""
    permitted = capget()[1]
    libc.setfsgid(ctypes.c_int(gid))
    libc.setfsuid(ctypes.c_int(uid))
    capset(permitted, permitted)  # the kernel has taken those about files away


def drop_bounding(keep: int) -> None:
    """Remove every capability from the bounding set that is not in the mask ``keep``. Needs CAP_SETPCAP."""
    for number in range(64):
        if keep >> number & 1:
            continue
        # EINVAL: beyond the last capability that this kernel knows.
        if libc.prctl(const.PR_CAPBSET_DROP, ctypes.c_long(number), 0, 0, 0):
            if ctypes.get_errno() == 22:
                return
            raise failure("prctl(PR_CAPBSET_DROP)")


def clear_ambient() -> None:
    """Empty the ambient set."""
    prctl(const.PR_CAP_AMBIENT, const.PR_CAP_AMBIENT_CLEAR_ALL)


def seccomp_load(program: bytes) -> None:
    """Install a filter (``struct sock_filter[]`` as bytes). Needs no_new_privs or CAP_SYS_ADMIN."""
    code = ctypes.create_string_buffer(program, len(program))
    prog = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    syscall("seccomp", const.SYS_SECCOMP, const.SECCOMP_SET_MODE_FILTER, 0, prog)


def join_session_keyring(name: str) -> None:
    """A session keyring of its own, so that the container cannot reach the engine's keys (keyctl(2)).

    A later process of the same container joins it by name; that takes the search permission for its user.  A kernel
    without keyrings has nothing to protect.
    """
    try:
        ring = syscall("keyctl", const.SYS_KEYCTL, const.KEYCTL_JOIN_SESSION_KEYRING, name.encode())
        # What the kernel gives (possessor all; user view, read, link) and the user's search.
        syscall("keyctl", const.SYS_KEYCTL, const.KEYCTL_SETPERM, ring, 0x3F1B0000)
    except OSError as error:
        if error.errno not in (38, 13):  # ENOSYS; EACCES: joined a ring whose permissions are already set
            raise


def set_rlimit(resource: int, soft: int, hard: int) -> None:
    """setrlimit(2) on this process; -1 is RLIM_INFINITY."""
    limits = struct.pack("=QQ", soft & const.RLIM_INFINITY, hard & const.RLIM_INFINITY)
    if libc.setrlimit64(ctypes.c_int(resource), limits):
        raise failure("setrlimit")


def set_rlimit_of(pid: int, resource: int, soft: int, hard: int) -> None:
    """The same on another process (prlimit(2))."""
    limits = struct.pack("=QQ", soft & const.RLIM_INFINITY, hard & const.RLIM_INFINITY)
    if libc.prlimit64(ctypes.c_int(pid), ctypes.c_int(resource), limits, None):
        raise failure("setrlimit")


def get_rlimit(resource: int) -> tuple[int, int]:
    """getrlimit(2): (soft, hard), both may be RLIM_INFINITY."""
    limits = ctypes.create_string_buffer(16)
    if libc.getrlimit64(ctypes.c_int(resource), limits):
        raise failure("getrlimit")
    soft, hard = struct.unpack("=QQ", limits.raw)
    return soft, hard


_DEFAULT_ACTION = bytes(32)  # struct sigaction of the kernel: SIG_DFL, no flags, no restorer, empty mask


_ignored: list[int] = list(range(1, 65))  # or nobody has looked yet


def inherit_signals(ignored: list[int]) -> None:
    """Ignore these, and have default dispositions for all others that whoever started us may have had ignored.

    ``default_signals`` of each child then has these alone to undo, for a child begins without handlers (``clone3``).
    """
    default_signals()
    for number in ignored:
        # Not signal(3), as below; SIG_IGN is 1.
        libc.syscall(const.SYS_RT_SIGACTION, number, struct.pack("=Q", 1).ljust(len(_DEFAULT_ACTION), b"\0"), None, 8)
    _ignored[:] = ignored


def default_signals() -> None:
    """Default dispositions for all signals and none blocked: ignored signals and the mask would survive an execve."""
    for number in _ignored:
        # Not signal(3): glibc hides its own two, 32 and 33, which whoever started us may have had ignored.
        libc.syscall(const.SYS_RT_SIGACTION, number, _DEFAULT_ACTION, None, 8)  # refused for SIGKILL and SIGSTOP
    libc.sigprocmask(2, bytes(128), None)


def sethostname(name: str) -> None:
    """sethostname(2)."""
    encoded = os.fsencode(name)
    if libc.sethostname(encoded, ctypes.c_size_t(len(encoded))):
        raise failure("sethostname", name)


def setdomainname(name: str) -> None:
    """setdomainname(2)."""
    encoded = os.fsencode(name)
    if libc.setdomainname(encoded, ctypes.c_size_t(len(encoded))):
        raise failure("setdomainname", name)


def getcwd() -> str:
    """getcwd(2) as the kernel answers it: "(unreachable)/…" when the directory is not below our root.

    glibc's wrapper would hide that. Raises FileNotFoundError when the directory has been removed.
    """
    buffer = ctypes.create_string_buffer(4097)
    syscall("getcwd", const.SYS_GETCWD, buffer, len(buffer))
    return os.fsdecode(buffer.value)


def sealed_memfd(name: str, content: bytes) -> int:
    """A memory file that nobody can change any more (memfd_create(2), F_ADD_SEALS)."""
    import fcntl  # the daemon's side only: not on the start path

    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
