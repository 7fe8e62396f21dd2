"""Mounts as values. The system calls are in ``mountapi``, which the zygote can hold without importing this."""

import os
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OverlayRoot:
    """A container's root as an overlay: ``lower`` from the topmost layer down, all absolute host paths.

    ``upper`` and ``work`` are None for a read-only view.
    """

    lower: tuple[str, ...]
    upper: str | None = None
    work: str | None = None


@dataclass(frozen=True, slots=True)
class DirectoryRoot:
    """A container's root as a plain directory (the vfs driver): an absolute host path."""

    path: str


Root = OverlayRoot | DirectoryRoot


_OCTAL = re.compile(rb"\\([0-7]{3})")


def source_of(device: int) -> tuple[str, str]:
    """The type and the source of a mounted file system by its device's number (st_dev); "" for what is not found."""
    wanted = f"{os.major(device)}:{os.minor(device)}".encode()
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            fields = line.split()
            if fields[2] == wanted:
                kind, source = fields[fields.index(b"-") + 1 :][:2]
                return os.fsdecode(kind), os.fsdecode(source)
    return "", ""


def mount_points() -> tuple[str, ...]:
    """Where something is mounted in this mount namespace, in the order it was (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", "rb") as file:
        fields = [line.split(b" ", 5)[4] for line in file]
    return tuple(os.fsdecode(_OCTAL.sub(lambda code: bytes([int(code[1], 8)]), field)) for field in fields)
