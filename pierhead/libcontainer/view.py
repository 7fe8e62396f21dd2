"""A container's files as they are for its processes, for somebody outside: a descriptor of its root directory.

And its process itself: a number may be another's by the time it is looked up.

Nobody changes the root directory or enters a container's namespace, and no program or library of the container is
used: whoever has the descriptor looks up names below it with ``openat.open_in_root``, which crosses mounts as the
container would and is led nowhere else by links.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from pierhead.libcontainer import plan, rootfs
from pierhead.libcontainer.spec import Mount
from pierhead.linux import calls, const
from pierhead.linux.mount import Root
from pierhead.linux.mountapi import set_attributes

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

_OPERATIONS: dict[str, Callable[..., None]] = {
    "source": rootfs.source,
    "slave": rootfs.slave,
    "directory_root": rootfs.directory_root,
    "overlay_root": rootfs.overlay_root,
    "image": rootfs.image,
    "mount": rootfs.make_mount,
}


@contextmanager
def process(pid: int, id: str) -> Iterator[int]:
    """The folder in /proc of a container's process: what is opened below it is this process's, or fails.

    Raises ProcessLookupError if there is none, or it goes meanwhile; PermissionError if it is in nothing of the
    container's.
    """
    with ExitStack() as stack:
        try:
            folder = os.open(f"/proc/{pid}", _DIRECTORY)
            stack.callback(os.close, folder)
            # From here on it is this process or none. But whose was the number when it was looked up?
            with open(os.open("cgroup", os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)) as file:
                groups = file.read()
            if id not in groups or os.stat("ns/mnt", dir_fd=folder).st_ino == os.stat("/proc/self/ns/mnt").st_ino:
                raise PermissionError(1, f"process {pid} is not container {id[:12]}'s any more")
            yield folder
        except FileNotFoundError:
            raise ProcessLookupError(3, f"process {pid} of container {id[:12]} is gone") from None


def running(pid: int, id: str) -> int:
    """The root of a container that runs, with everything that is mounted in it; -1: the process is gone.

    Raises PermissionError if the process is in nothing of the container's.
    """
    try:
        with process(pid, id) as folder:
            return os.open("root", _DIRECTORY, dir_fd=folder)
    except ProcessLookupError:
        return -1


def namespaces(pid: int, id: str, kinds: Sequence[str]) -> list[int]:
    """Descriptors of a container's namespaces, by their names in /proc/PID/ns (namespaces(7)).

    Raises as process().
    """
    made: list[int] = []
    try:
        with process(pid, id) as folder:
            for kind in kinds:
                made.append(os.open(f"ns/{kind}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder))
    except BaseException:
        for descriptor in made:
            os.close(descriptor)
        raise
    return made


def assembled(root: Root, mounts: Sequence[Mount], *, readonly: bool) -> int:
    """The root of a container that does not run, with these mounts; made in a mount namespace of the calling thread.

    The thread must be one of our own that ends with its work: the namespace, and all of these mounts, end with it.
    Mount points that are missing are made, as at a start.  Raises OSError.
    """
    calls.unshare(const.CLONE_NEWNS)
    tree = rootfs.Tree()
    try:
        for name, *arguments in plan.files(root, mounts):
            _OPERATIONS[str(name)](tree, *arguments)
        if readonly:
            set_attributes(tree.root, const.MOUNT_ATTR_RDONLY, path="/")
        return tree.root
    except BaseException:
        if tree.root >= 0:
            os.close(tree.root)
        raise
    finally:
        for descriptor in (tree.host, *tree.sources.values()):
            if descriptor >= 0:
                os.close(descriptor)
