"""Every lasting step of a daemon, seen from outside before it is done: counted, made to fail, or the daemon killed.

A seccomp filter stops every system call that makes, changes or removes something on disk or mounts something
(seccomp_unotify(2)), whoever of the daemon's threads and children makes it; a thread of the test looks at the call
and lets it go on, answers it with an error, or kills the daemon before it. Nothing in the daemon knows of it: no step
can be forgotten, an error reaches Python and SQLite as the kernel's would, and other daemons pay nothing.
"""

import ctypes
import errno
import fcntl
import os
import re
import select
import signal
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pierhead.libcontainer.seccomp_bpf import Condition, Operator, Rule, Section, assemble
from pierhead.libcontainer.syscalls import tables
from pierhead.linux import const
from pierhead.linux.calls import syscall

_NEW_LISTENER = 8  # SECCOMP_FILTER_FLAG_NEW_LISTENER
_USER_NOTIF, _ALLOW = 0x7FC00000, 0x7FFF0000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, _SEND
_NOTICE = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_GO_ON = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_MAKES = os.O_CREAT | os.O_TRUNC
_AT_FDCWD = -100

_PATHS = {"mkdir": 0, "rmdir": 0, "unlink": 0, "rename": 0, "link": 1, "symlink": 1, "mknod": 0, "creat": 0, "open": 0}
_PATHS |= {"mount": 1, "umount2": 0, "truncate": 0, "chmod": 0, "chown": 0, "lchown": 0}
_PATHS |= dict.fromkeys(("setxattr", "lsetxattr", "removexattr", "lremovexattr"), 0)
_AT = {"mkdirat": 0, "unlinkat": 0, "renameat": 0, "renameat2": 0, "linkat": 2, "symlinkat": 1, "mknodat": 0}
_AT |= {"openat": 0, "openat2": 0, "move_mount": 2, "fchmodat": 0, "fchmodat2": 0, "fchownat": 0, "utimensat": 0}
_DESCRIPTORS = dict.fromkeys(
    "write writev pwrite64 pwritev pwritev2 sendfile ftruncate fallocate fsync fdatasync fchmod fchown "
    "fsetxattr fremovexattr".split(),
    0,
)
_DESCRIPTORS |= {"copy_file_range": 2, "ioctl": 0}
"""Which argument is the path, the folder's descriptor before a path, the descriptor."""

_SUBVOLUMES = (0x5000940E, 0x50009417, 0x5000940F, 0x5000943F, 0x4008941A)
"""Requests of ioctl(2) that make, delete and change subvolumes of btrfs (linux/btrfs.h)."""

_GIVES_BACK = frozenset("rmdir unlink unlinkat umount2 fsync fdatasync".split())
"""What a full disk does not refuse (of a file's bytes it has told when they were written)."""
_ATTRIBUTES = frozenset(
    "chmod chown lchown fchmodat fchmodat2 fchownat utimensat fchmod fchown setxattr lsetxattr fsetxattr "
    "removexattr lremovexattr fremovexattr".split()
)
"""What no crash can leave half: the file has a name already, and an owner that says whether it counts."""

_VARIABLE = (
    (re.compile(r"[0-9a-f]{64}"), "ID"),
    (re.compile(r"(?<=/places/)\d+"), "PLACE"),
    (re.compile(r"(?<=/l/)[A-Z2-7]{8}\b"), "SHORT"),
    (re.compile(r"#\d+ \(deleted\)|(?<=/tmp/)tmp\w+( \(deleted\))?"), "SPOOL"),
    (re.compile(r"\.deep-[0-9a-f]{16}"), "DEEP"),
)


def program() -> bytes:
    """The filter: everything that may be a step is told."""
    machine = os.uname().machine
    numbers = tables()[machine]
    tell: tuple[Rule, ...] = (Rule((), _USER_NOTIF),)
    rules = {numbers[name]: tell for name in (*_PATHS, *_AT, *_DESCRIPTORS) if name in numbers}
    for name, index in (("open", 1), ("openat", 2)):
        if name in numbers:
            flags = (os.O_CREAT, os.O_TRUNC)
            rules[numbers[name]] = tuple(
                Rule((Condition(index, Operator.MASKED_EQ, flag, flag, low_half=True),), _USER_NOTIF) for flag in flags
            )
    rules[numbers["ioctl"]] = tuple(
        Rule((Condition(1, Operator.EQ, request, low_half=True),), _USER_NOTIF) for request in _SUBVOLUMES
    )
    sections = [Section(machine, rules, _ALLOW, -1, _ALLOW)]
    if machine == "x86_64":
        sections.append(Section("x86", {}, _ALLOW, -1, _ALLOW))
    return assemble(tuple(sections))


def install(filter: bytes) -> int:
    """Put this process and all that it will start under the filter; the descriptor that its calls are told on."""
    code = ctypes.create_string_buffer(filter, len(filter))
    prog = struct.pack("@HP", len(filter) // 8, ctypes.addressof(code))
    return syscall("seccomp", const.SYS_SECCOMP, const.SECCOMP_SET_MODE_FILTER, _NEW_LISTENER, prog)


@dataclass(frozen=True, slots=True)
class Step:
    """A system call and what it is done to, with names in place of what is different each time."""

    call: str
    place: str

    def __str__(self) -> str:
        return f"{self.call} {self.place}"

    @property
    def journaled(self) -> bool:
        """Whether a daemon that is killed here leaves something else behind than one that is killed a step before."""
        return self.call not in _ATTRIBUTES

    @property
    def takes_space(self) -> bool:
        """Whether a full disk may refuse it."""
        return self.call not in _GIVES_BACK | _ATTRIBUTES


Moment = Callable[[int, Step], bool]
"""Whether it is now: asked at each step with its number, from 1."""


def nth(wanted: int) -> Moment:
    return lambda number, step: number == wanted


def when(wanted: Step) -> Moment:
    return lambda number, step: step == wanted


Verdict = Callable[[int, Step], int | None]
"""Asked at each step, with its number (from 1): 0 to go on, an errno to fail, None to kill the daemon."""


def go_on(number: int, step: Step) -> int | None:
    """Everything is done."""
    return 0


def kill(moment: Moment) -> Verdict:
    return lambda number, step: None if moment(number, step) else 0


@dataclass(frozen=True, slots=True)
class Fault:
    """A way to fail at a moment. words: what a user is told; concerns: which steps may fail so."""

    name: str
    words: str
    concerns: Callable[[Step], bool]
    verdict: Callable[[Moment], Verdict]


def _full(moment: Moment) -> Verdict:
    """GraphDB's log overwrites blocks that it has, and goes on afterwards."""
    full = False

    def verdict(number: int, step: Step) -> int:
        nonlocal full
        now = not full and moment(number, step)
        refused = now or (full and not step.place.endswith("graph.db-wal"))
        full = full or now
        return errno.ENOSPC if refused and step.takes_space else 0

    return verdict


def _broken(moment: Moment) -> Verdict:
    broken = False

    def verdict(number: int, step: Step) -> int:
        nonlocal broken
        now = not broken and moment(number, step)
        broken = broken or now
        return errno.EIO if now else 0

    return verdict


FULL = Fault("full disk", "no space left on device", lambda step: step.takes_space, _full)
"""No byte for a step and for those after it, but what gives some back."""
BROKEN = Fault("broken disk", "input/output error", lambda step: True, _broken)
"""The disk does not do this one."""


class Watch:
    """The steps of one daemon below ``data`` and ``exec`` of a folder.

    verdict: on those of its start, until ``begin`` or ``end``; None: nobody wants to know of them.
    """

    def __init__(self, listener: int, daemon: int, root: Path, verdict: Verdict | None) -> None:
        self._listener = listener
        self._daemon = daemon
        self._root = os.path.join(os.path.realpath(root), "")
        self._roots = (f"{self._root}data/", f"{self._root}exec/")
        self._names = {number: name for name, number in tables()[os.uname().machine].items()}
        self._lock = threading.Lock()
        self._verdict = verdict
        self._chosen: Callable[[Step], bool] = lambda step: True
        self._last: tuple[int, Step] | None = None
        self.steps: list[Step] = []
        self.hit: Step | None = None
        """The first step that was not let go on."""
        self._thread = threading.Thread(target=self._serve, name="steps")
        self._thread.start()

    def begin(self, verdict: Verdict = go_on, chosen: Callable[[Step], bool] = lambda step: True) -> None:
        """Number the steps from here on that are chosen."""
        with self._lock:
            self.steps, self.hit, self._last = [], None, None
            self._verdict, self._chosen = verdict, chosen

    def end(self) -> list[Step]:
        """Let everything go on again; the steps since ``begin``."""
        with self._lock:
            self._verdict = None
            return self.steps

    def join(self) -> None:
        """Until the last process under the filter has ended."""
        self._thread.join()

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        try:
            while True:
                ((_, events),) = poll.poll()
                if not events & select.POLLIN:
                    return
                notice = bytearray(_NOTICE.size)
                try:
                    fcntl.ioctl(self._listener, _RECEIVE, notice)
                except OSError as error:
                    if error.errno in (errno.ENOENT, errno.EINTR):  # it was killed meanwhile
                        continue
                    raise
                id, thread, _, number, _, _, *arguments = _NOTICE.unpack(notice)
                code = self._answer(thread, number, arguments)
                answer = _ANSWER.pack(id, 0, -code, 0 if code else _GO_ON)
                try:
                    fcntl.ioctl(self._listener, _SEND, bytearray(answer))
                except OSError as error:
                    if error.errno != errno.ENOENT:
                        raise
        finally:
            os.close(self._listener)

    def _answer(self, thread: int, number: int, arguments: list[int]) -> int:
        if self._verdict is None:
            return 0
        try:
            step = self._step(thread, self._names[number], arguments)
        except OSError:
            return 0  # it has ended, or fails by itself
        with self._lock:
            if step is None or self._verdict is None or not self._chosen(step):
                return 0
            if self._last == (thread, step):
                return 0  # the next piece of the same file
            self._last = (thread, step)
            self.steps.append(step)
            verdict = self._verdict(len(self.steps), step)
            if verdict == 0:
                return 0
            self.hit = self.hit or step
            if verdict is None:
                self._verdict = None
                os.kill(self._daemon, signal.SIGKILL)
                return 0
            return verdict

    def _step(self, thread: int, call: str, arguments: list[int]) -> Step | None:
        if call in _DESCRIPTORS:
            path = os.readlink(f"/proc/{thread}/fd/{arguments[_DESCRIPTORS[call]] & 0xFFFFFFFF}")
        else:
            path = self._path(thread, call, arguments)
            if call == "openat2" and not self._word(thread, arguments[2]) & _MAKES:
                return None
        if not path.startswith(self._roots):
            return None
        place = path[len(self._root) :]
        for pattern, name in _VARIABLE:
            place = pattern.sub(name, place)
        return Step(call, place)

    def _path(self, thread: int, call: str, arguments: list[int]) -> str:
        if call in _PATHS:
            path, folder = self._text(thread, arguments[_PATHS[call]]), "cwd"
        else:
            first = _AT[call]
            path = self._text(thread, arguments[first + 1]) if arguments[first + 1] else ""
            descriptor = ctypes.c_int(arguments[first] & 0xFFFFFFFF).value
            folder = "cwd" if descriptor == _AT_FDCWD else f"fd/{descriptor}"
        if path.startswith("/proc/self/fd/"):
            descriptor_, _, rest = path.removeprefix("/proc/self/fd/").partition("/")
            path, folder = rest, f"fd/{descriptor_}"
        if path.startswith("/"):
            return os.path.normpath(path)
        return os.path.normpath(os.path.join(os.readlink(f"/proc/{thread}/{folder}"), path))

    def _word(self, thread: int, address: int) -> int:
        with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            return int.from_bytes(memory.read(8), "little")

    def _text(self, thread: int, address: int) -> str:
        data = b""
        with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
            while b"\0" not in data and len(data) < 8192:
                memory.seek(address + len(data))
                data += memory.read(4096 - (address + len(data)) % 4096)
        return os.fsdecode(data.partition(b"\0")[0])
