"""Being told when the kernel runs out of a container's memory.

v1: an eventfd that the memory controller writes to (Documentation/admin-guide/cgroup-v1/memory.rst, section 10).
v2: memory.events, whose every change inotify(7) tells.
"""

import os

from pierhead.libcontainer import cgroupfs
from pierhead.linux import calls


class Watch:
    """One container's. ``fileno()`` is readable when something has happened."""

    def __init__(self, descriptor: int, directories: tuple[str, ...], counted: bool) -> None:
        """counted: it is told of other things, too: only a count that has risen is one."""
        self._descriptor = descriptor
        self._directories = directories
        self._counted = counted
        self._kills = cgroupfs.oom_kills(directories)

    def fileno(self) -> int:
        """-1 once it is closed."""
        return self._descriptor

    def happened(self) -> bool:
        """Whether memory has run out since the last call."""
        try:
            os.read(self._descriptor, 4096)
        except BlockingIOError:
            return False
        if not any(map(os.path.isdir, self._directories)):
            return False  # a cgroup's end is told, too
        if not self._counted:
            return True
        before, self._kills = self._kills, cgroupfs.oom_kills(self._directories)
        return self._kills > before

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def watch(directories: tuple[str, ...]) -> Watch:
    """directories: a container's cgroup in every hierarchy. Raises OSError where none of them can tell."""
    for directory in directories:
        if os.path.exists(f"{directory}/memory.oom_control"):
            return Watch(_eventfd(directory), (directory,), False)
        if os.path.exists(f"{directory}/memory.events"):
            return Watch(calls.watch_file(f"{directory}/memory.events"), (directory,), True)
    raise OSError(95, "no memory controller for this container", directories[0])


def _eventfd(directory: str) -> int:
    descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            cgroupfs.write(f"{directory}/cgroup.event_control", f"{descriptor} {control}")
        finally:
            os.close(control)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
