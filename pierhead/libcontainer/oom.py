"""Being told when the kernel runs out of a container's memory.

v1: an eventfd that the memory controller writes to (Documentation/admin-guide/cgroup-v1/memory.rst, section 10).
v2: memory.events, whose every change inotify(7) tells.
"""

import os

from pierhead.libcontainer import cgroupfs
from pierhead.linux import calls


class Watch:
    """One container's. ``fileno()`` is readable when something has happened."""

    def __init__(self, descriptor: int, directories: tuple[str, ...], counted: bool, known: int | None) -> None:
        """counted: it is told of other things, too: only a count that has risen is one.  known: as for ``watch``."""
        self._descriptor = descriptor
        self._directories = directories
        self._counted = counted
        self._kills = cgroupfs.oom_kills(directories) if known is None else known

    def fileno(self) -> int:
        """-1 once it is closed."""
        return self._descriptor

    def happened(self) -> bool:
        """Whether memory has run out since the last call."""
        told = self._told()
        if not any(map(os.path.isdir, self._directories)):
            return False  # a cgroup's end is told, too
        before, self._kills = self._kills, cgroupfs.oom_kills(self._directories)
        return self._kills > before or (told and not self._counted)

    def _told(self) -> bool:
        try:
            return bool(os.read(self._descriptor, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def watch(directories: tuple[str, ...], known: int | None = None) -> Watch:
    """directories: a container's cgroup in every hierarchy.  Raises OSError where none of them can tell.

    known: how many kills for want of memory the caller knows of, None: all up to now.  A container's first process may
    have eaten its memory before anybody watches: ask ``happened`` at once.
    """
    for directory in directories:
        if os.path.exists(f"{directory}/memory.oom_control"):
            return Watch(_eventfd(directory), (directory,), False, known)
        if os.path.exists(f"{directory}/memory.events"):
            return Watch(calls.watch_file(f"{directory}/memory.events"), (directory,), True, known)
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
