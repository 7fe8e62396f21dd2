"""System call numbers by architecture, and which of their arguments the kernel takes as 32-bit integers.

The numbers (syscalls.json) are those of the kernel's headers asm/unistd_64.h, unistd_32.h, unistd_x32.h and
asm-generic/unistd.h up to Linux 6.18; x32 numbers are without the bit 0x40000000.
"""

import functools
import json
from importlib import resources
from typing import Final

NAMES: Final = {
    "SCMP_ARCH_X86_64": "x86_64",
    "SCMP_ARCH_X86": "x86",
    "SCMP_ARCH_X32": "x32",
    "SCMP_ARCH_AARCH64": "aarch64",
}
"""A profile's architectures for which there is a table."""

X32_BIT: Final = 0x40000000


@functools.cache
def tables() -> dict[str, dict[str, int]]:
    """Architecture ("x86_64", "x86", "x32", "aarch64") to system call name to number."""
    read: dict[str, dict[str, int]] = json.loads(
        resources.files(__package__).joinpath("syscalls.json").read_text(encoding="ascii")
    )
    return read


INTS: Final = {
    "accept": (0,),
    "accept4": (0, 3),
    "access": (1,),
    "add_key": (4,),
    "bind": (0, 2),
    "bpf": (0, 2),
    # Its flags are an unsigned long, of which the kernel uses the low 32 bits (lower_32_bits in kernel/fork.c).
    "clone": (0, 1),
    "close": (0,),
    "close_range": (0, 1, 2),
    "connect": (0, 2),
    "epoll_create1": (0,),
    "epoll_ctl": (0, 1, 2),
    "eventfd2": (0, 1),
    "execveat": (0, 4),
    "faccessat": (0, 2),
    "fanotify_init": (0, 1),
    "fcntl": (0, 1),
    "fcntl64": (0, 1),
    "fsconfig": (0, 1, 4),
    "fsmount": (0, 1, 2),
    "fsopen": (1,),
    "fspick": (0, 2),
    "futex": (1, 2, 5),
    "getpriority": (0, 1),
    "getsockopt": (0, 1, 2),
    "inotify_init1": (0,),
    "io_uring_enter": (0, 1, 2, 3),
    "io_uring_register": (0, 1, 3),
    "io_uring_setup": (0,),
    "ioctl": (0, 1),
    "ioprio_set": (0, 1, 2),
    "ipc": (0, 1),
    "kcmp": (0, 1, 2),
    "keyctl": (0,),
    "kill": (0, 1),
    "landlock_restrict_self": (0, 1),
    "listen": (0, 1),
    "madvise": (2,),
    "memfd_create": (1,),
    "mlockall": (0,),
    "mount_setattr": (0, 2),
    "move_mount": (0, 2, 4),
    "msgctl": (0, 1),
    "msgget": (0, 1),
    "name_to_handle_at": (0, 4),
    "open": (1, 2),
    "open_by_handle_at": (0, 2),
    "open_tree": (0, 2),
    "openat": (0, 2, 3),
    "openat2": (0,),
    "perf_event_open": (1, 2, 3),
    "personality": (0,),
    "pidfd_getfd": (0, 1, 2),
    "pidfd_open": (0, 1),
    "pidfd_send_signal": (0, 1, 3),
    "pipe2": (1,),
    "prctl": (0,),
    "prlimit64": (0, 1),
    "quotactl": (0, 2),
    "quotactl_fd": (0, 1, 2),
    "reboot": (0, 1, 2),
    "recvfrom": (0, 3),
    "recvmsg": (0, 2),
    "rt_sigqueueinfo": (0, 1),
    "sched_setscheduler": (0, 1),
    "seccomp": (0, 1),
    "semctl": (0, 1, 2),
    "semget": (0, 1, 2),
    "sendmsg": (0, 2),
    "sendto": (0, 3),
    "setns": (0, 1),
    "setpriority": (0, 1, 2),
    "setsockopt": (0, 1, 2, 4),
    "shmat": (0, 2),
    "shmctl": (0, 1),
    "shmget": (0, 2),
    "shutdown": (0, 1),
    "signalfd4": (0, 3),
    "socket": (0, 1, 2),
    "socketcall": (0,),
    "socketpair": (0, 1, 2),
    "swapon": (1,),
    "sysfs": (0,),
    "syslog": (0, 2),
    "tgkill": (0, 1, 2),
    "timerfd_create": (0, 1),
    "tkill": (0, 1),
    "umount2": (1,),
    "unlinkat": (0, 2),
    "userfaultfd": (0,),
    "wait4": (0, 2),
    "waitid": (0, 3),
}
"""Arguments declared int or unsigned int, for the calls whose arguments profiles look at.

seccomp shows the whole register, the kernel uses its low half: a rule about such an argument must look at the low half
alone, or socket(1 << 32 | 40, …) walks past "not AF_VSOCK".
"""

MULTIPLEXED: Final = {
    **{
        name: ("socketcall", number)
        for number, name in enumerate(
            (
                "socket",
                "bind",
                "connect",
                "listen",
                "accept",
                "getsockname",
                "getpeername",
                "socketpair",
                "send",
                "recv",
                "sendto",
                "recvfrom",
                "shutdown",
                "setsockopt",
                "getsockopt",
                "sendmsg",
                "recvmsg",
                "accept4",
                "recvmmsg",
                "sendmmsg",
            ),
            start=1,
        )
    },
    "semop": ("ipc", 1),
    "semget": ("ipc", 2),
    "semctl": ("ipc", 3),
    "semtimedop": ("ipc", 4),
    "msgsnd": ("ipc", 11),
    "msgrcv": ("ipc", 12),
    "msgget": ("ipc", 13),
    "msgctl": ("ipc", 14),
    "shmat": ("ipc", 21),
    "shmdt": ("ipc", 22),
    "shmget": ("ipc", 23),
    "shmctl": ("ipc", 24),
}
"""On 32-bit x86 these can be called through another call as well, with this number as its first argument."""
