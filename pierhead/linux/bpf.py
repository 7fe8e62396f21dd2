"""bpf(2) for one purpose: load a filter of device accesses and attach it to a cgroup of the unified hierarchy.

The program itself is made by ``libcontainer.devicefilter``; here are the system call and its attributes (``union
bpf_attr`` of linux/bpf.h).  The zygote imports this: ctypes, os and struct only.
"""

import ctypes
import errno
import os
import struct

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280}

_PROG_LOAD = 5
_PROG_ATTACH = 8
_PROG_DETACH = 9
_PROG_GET_FD_BY_ID = 13
_PROG_QUERY = 16

_PROG_TYPE_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2

_LOG_BYTES = 65536
_INSTRUCTION_BYTES = 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    """bpf(2). Gives its result and the attributes as the kernel left them. Raises OSError."""
    machine = os.uname().machine
    if machine not in _SYSCALL:
        raise OSError(errno.ENOSYS, f"bpf: no system call number known for {machine}")
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result: int = _libc.syscall(
        ctypes.c_long(_SYSCALL[machine]), ctypes.c_long(command), buffer, ctypes.c_long(len(attributes))
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result, buffer.raw


def load_devices(program: bytes) -> int:
    """A (close-on-exec) descriptor of the loaded program; ``program`` is its instructions, eight bytes each.

    Raises OSError with the verifier's last words where it refuses.
    """
    instructions = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"Apache-2.0")
    count = len(program) // _INSTRUCTION_BYTES

    def attributes(level: int, size: int, log: int) -> bytes:
        where = ctypes.addressof
        return struct.pack(
            "=IIQQIIQII16s",
            _PROG_TYPE_CGROUP_DEVICE,
            count,
            where(instructions),
            where(license_),
            level,
            size,
            log,
            0,
            0,
            b"pierhead_devs",
        )

    try:
        return _bpf(_PROG_LOAD, attributes(0, 0, 0))[0]
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EACCES):
            raise OSError(error.errno, f"bpf load: {error.strerror}") from None
    # Asking for the log costs time on every load, so only a refused program is loaded again with it.
    log = ctypes.create_string_buffer(_LOG_BYTES)
    try:
        return _bpf(_PROG_LOAD, attributes(1, _LOG_BYTES, ctypes.addressof(log)))[0]
    except OSError as error:
        said = log.value.decode(errors="replace").strip().splitlines()[-3:]
        raise OSError(error.errno, f"bpf load: {error.strerror}: {' / '.join(said)}") from None


def attached_devices(cgroup: int) -> tuple[int, ...]:
    """Ids of the device programs attached to the cgroup directory open as ``cgroup`` (not to its parents)."""
    ids = (ctypes.c_uint32 * 64)()
    query = struct.pack("=IIIIQI4x", cgroup, _ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), len(ids))
    answer = _bpf(_PROG_QUERY, query)[1]
    count: int = struct.unpack_from("=I", answer, 24)[0]
    return tuple(ids[:count])


def attach_devices(directory: str, program: bytes) -> None:
    """Make ``program`` the filter of device accesses for the cgroup ``directory`` of the unified hierarchy.

    What was attached to this directory before is replaced, and at no moment is there no filter.  Filters of the
    directories above apply as well: the kernel asks all of them.  The kernel drops the program with the cgroup.

    Raises OSError with the directory in it.
    """
    cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    loaded = -1
    try:
        before = attached_devices(cgroup)
        loaded = load_devices(program)
        _bpf(_PROG_ATTACH, struct.pack("=IIII", cgroup, loaded, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI))
        for id_ in before:
            _detach(cgroup, id_)
    except OSError as error:
        raise OSError(error.errno, f"device filter: {error.strerror}", directory) from None
    finally:
        if loaded >= 0:
            os.close(loaded)
        os.close(cgroup)


def _detach(cgroup: int, id_: int) -> None:
    program = _bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", id_, 0, 0))[0]
    try:
        _bpf(_PROG_DETACH, struct.pack("=IIII", cgroup, program, _ATTACH_CGROUP_DEVICE, 0))
    finally:
        os.close(program)
