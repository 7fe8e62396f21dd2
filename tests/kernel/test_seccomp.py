"""The seccomp program loaded into the kernel: what a container's processes really get."""

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Iterable

import pytest

from pierhead.libcontainer import capabilities, seccomp, syscalls

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long

Call = tuple[str, tuple[int, ...]]


def _errnos(program: bytes, calls: Iterable[Call]) -> list[int]:
    """Load the program in a forked child and make the calls there; 0 for success. Arguments must be harmless."""
    numbers = [(syscalls.tables()["x86_64"][name], arguments) for name, arguments in calls]
    code = ctypes.create_string_buffer(program, len(program))
    filter_ = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(code)))
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            signal.alarm(60)
            if _LIBC.prctl(38, 1, 0, 0, 0) or _LIBC.prctl(22, 2, ctypes.byref(filter_), 0, 0):
                os._exit(98)
            for number, arguments in numbers:
                result = _LIBC.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
                os.write(write, struct.pack("=i", ctypes.get_errno() if result < 0 else 0))
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with open(read, "rb") as answers:
        data = answers.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return [value for (value,) in struct.iter_unpack("=i", data)]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")
def test_a_container_is_confined_by_the_kernel() -> None:
    program = seccomp.compile(seccomp.default_profile(), capabilities.DEFAULT)
    assert program
    expected: list[tuple[Call, int]] = [
        (("keyctl", (-1, 0, 0, 0, 0)), errno.EPERM),
        (("socket", (38, 5, 0)), errno.EPERM),
        (("socket", (40, 1, 0)), errno.EPERM),
        (("socket", (1 << 32 | 40, 1, 0)), errno.EPERM),
        (("socket", (1 << 32 | 38, 5, 0)), errno.EPERM),
        (("socket", (1, 1, 0)), 0),
        (("clone3", (0, 0)), errno.ENOSYS),
        (("clone", (0x10000000, 0, 0, 0, 0)), errno.EPERM),
        (("unshare", (0x10000000,)), errno.EPERM),
        (("mount", (0, 0, 0, 0, 0)), errno.EPERM),
        (("bpf", (-1, 0, 0)), errno.EPERM),
        (("io_uring_setup", (0, 0)), errno.EPERM),
        (("mkdir", (0, 0)), errno.EFAULT),
        (("file_setattr", (-1, 0, 0, 0, 0)), errno.ENOSYS),
        (("getpid", ()), 0),
    ]
    found = _errnos(program, [call for call, _ in expected])
    assert [(call, value) for (call, _), value in zip(expected, found, strict=True)] == expected


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")
def test_the_kernel_takes_the_program_for_every_set_of_capabilities() -> None:
    for caps in ((), capabilities.DEFAULT, capabilities.NAMES, *((name,) for name in capabilities.NAMES)):
        program = seccomp.compile(seccomp.default_profile(), caps)
        assert program
        assert len(program) // 8 <= 4096
        assert _errnos(program, [("getpid", ())]) == [0]
