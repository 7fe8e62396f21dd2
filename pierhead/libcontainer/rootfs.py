"""A container's file tree: root, mounts, devices, masks, each an operation of the plan (see ``init``).

Everything below the root is reached by descriptors from ``openat``; what is trusted is looked at first (a null device
is 1:3, a procfs is a procfs).  Every mount is made detached and attached to an open target, so that nobody can move the
target away in between.

The zygote imports this.
"""

from __future__ import annotations

import os
import stat

from pierhead.linux import const
from pierhead.linux.calls import failure, get_rlimit, set_rlimit, setns
from pierhead.linux.mountapi import (
    attach,
    clone_tree,
    file_system,
    fsconfig,
    fsmount,
    fsopen,
    mount,
    new_mount,
    pivot_root,
    set_attributes,
    umount,
)
from pierhead.linux.openat import ensure_directory, ensure_file, open_in_root, openat2

_NULL = os.makedev(1, 3)
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def _release() -> tuple[int, int]:
    parts = os.uname().release.split(".")
    return int(parts[0]), int(parts[1].split("-")[0])


# "lowerdir+" of the new mount API; before, all layers had to be one string of a page.
_LAYER_BY_LAYER = _release() >= (6, 8)


class Tree:
    """The descriptors that the operations below share.

    host: the host's "/" in our copy of its mounts; root: the container's; sources: bind mounts to be, by number;
    null: the container's own null device, if we made it; mask: the tmpfs that covers directories.
    """

    __slots__ = ("host", "mask", "null", "root", "sources")

    def __init__(self) -> None:
        self.host = -1
        self.root = -1
        self.null = -1
        self.mask = -1
        self.sources: dict[int, int] = {}


def source(tree: Tree, number: int, path: str, recursive: bool, subpath: str) -> None:
    """Clone what is to be bound from the host; a subpath is looked for below ``path`` and leads nowhere else."""
    if not subpath:
        tree.sources[number] = clone_tree(const.AT_FDCWD, path, recursive)
        return
    top = os.open(path, _DIRECTORY)
    tree.sources[number] = _below(top, path, subpath, recursive)
    os.close(top)


def _below(top: int, path: str, subpath: str, recursive: bool) -> int:
    """A detached clone of what is at ``subpath`` below the directory ``top``."""
    try:
        found = open_in_root(top, subpath)
    except OSError as error:
        text = f"cannot access path {path}/{subpath}: {os.strerror(error.errno or 5).lower()}"
        raise failure("mount", subpath, error.errno or 5, text) from None
    made = clone_tree(found, "", recursive)
    os.close(found)
    return made


def foreign_shm(namespace: int) -> int:
    """A detached clone of the /dev/shm that another container has, by a descriptor of its mount namespace.

    A mount can be cloned only by who is in its namespace, hence the visit.
    """
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    setns(namespace, const.CLONE_NEWNS)
    try:
        # No link on the way: one of procfs would lead to what we have open.
        found = openat2(const.AT_FDCWD, "/dev/shm", _DIRECTORY, const.RESOLVE_NO_SYMLINKS)
        if file_system(found) != const.TMPFS_MAGIC:
            raise failure("mount", "/dev/shm", 22, "the other container has no /dev/shm of its own to share")
        made = clone_tree(found, "", False)
        os.close(found)
    finally:
        setns(own, const.CLONE_NEWNS)
        os.close(own)
    return made


def image(tree: Tree, number: int, layers: tuple[str, ...], subpath: str) -> None:
    """Put an image's root together, for a mount of it or of a part of it."""
    descriptors = [_layer(path) for path in layers]
    attached = False
    if len(descriptors) == 1:
        made = descriptors.pop()
    elif _LAYER_BY_LAYER:
        made = _overlay(descriptors, [])
        if subpath:  # only what is attached somewhere can be cloned
            attach(made, tree.host, "/")
            attached = True
    else:
        made = _overlay_in_a_page(descriptors, [])
        attached = True
    if attached or len(layers) == 1:
        tree.sources[number] = _below(made, "", subpath or "/", False)
        if attached:
            umount(f"/proc/self/fd/{made}", const.MNT_DETACH)
        os.close(made)
    else:
        tree.sources[number] = made
    for descriptor in descriptors:
        os.close(descriptor)


def slave(tree: Tree) -> None:
    """Nothing that we mount from here on reaches the host; what the host unmounts goes away here too."""
    mount("", "/", "", const.MS_REC | const.MS_SLAVE)
    tree.host = os.open("/", _DIRECTORY)


def directory_root(tree: Tree, path: str, readonly: bool) -> None:
    """The root is a plain directory of the host."""
    tree.root = clone_tree(const.AT_FDCWD, path, False)
    set_attributes(tree.root, const.MOUNT_ATTR_RDONLY if readonly else 0, propagation=const.MS_PRIVATE, path=path)
    attach(tree.root, tree.host, "/")


def overlay_root(tree: Tree, lower: tuple[str, ...], upper: str, work: str) -> None:
    """The root is an overlay. Layers are named by descriptors: short, and free of characters that overlayfs parses."""
    limits = get_rlimit(const.RLIMITS["nofile"])
    if len(lower) + 64 > limits[0]:
        set_rlimit(const.RLIMITS["nofile"], limits[1], limits[1])
    layers = [_layer(path) for path in lower]
    writable = [_layer(path) for path in (upper, work) if path]
    if _LAYER_BY_LAYER:
        tree.root = _overlay(layers, writable)
        attach(tree.root, tree.host, "/")
    else:
        tree.root = _overlay_in_a_page(layers, writable)
    for descriptor in layers + writable:
        os.close(descriptor)
    if len(lower) + 64 > limits[0]:
        set_rlimit(const.RLIMITS["nofile"], *limits)


def given_root(tree: Tree) -> None:
    """The root has been made by somebody with more rights (``usernamespace``)."""
    set_attributes(tree.root, propagation=const.MS_PRIVATE, path="/")
    attach(tree.root, tree.host, "/")


def detached(root: int) -> int:
    """A copy of a mount that another mount namespace can attach."""
    return clone_tree(root, "", False)


def _layer(path: str) -> int:
    try:
        return os.open(path, _DIRECTORY)
    except OSError as error:
        raise failure("open layer", path, error.errno or 5) from None


_COMPLETE = (("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off"))
# Whatever the module's defaults are: the upper directory alone holds all of a container's changes, and diffs read it.


def _overlay(layers: list[int], writable: list[int]) -> int:
    """Linux 6.8: a parameter a layer."""
    context = fsopen("overlay")
    try:
        fsconfig(context, "source", "overlay")
        for descriptor in layers:
            fsconfig(context, "lowerdir+", f"/proc/self/fd/{descriptor}")
        for key, descriptor in zip(("upperdir", "workdir"), writable, strict=False):
            fsconfig(context, key, f"/proc/self/fd/{descriptor}")
        for key, value in _COMPLETE:
            fsconfig(context, key, value)
    except OSError:
        os.close(context)
        raise
    return fsmount(context)


def overlay_options(layers: list[int], writable: list[int]) -> str:
    """mount(2)'s for an overlay of these open directories, from within /proc/self/fd."""
    options = "lowerdir=" + ":".join(map(str, layers))
    if writable:
        options += f",upperdir={writable[0]},workdir={writable[1]}"
    return options + "".join(f",{key}={value}" for key, value in _COMPLETE)


def _overlay_in_a_page(layers: list[int], writable: list[int]) -> int:
    """Before: mount(2), whose options are one page. From within /proc/self/fd a layer's name is its number."""
    options = overlay_options(layers, writable)
    os.chdir("/proc/self/fd")
    # On our copy of the host's root.  "/" itself still leads to what is below the new mount, ".." of it to the top.
    mount("overlay", "/", "overlay", 0, options)
    os.chdir("/")
    return os.open("/..", _DIRECTORY)


def make_mount(
    tree: Tree,
    target: str,
    kind: str,
    number: int,
    name: str,
    data: str,
    add: int,
    remove: int,
    recursive_attributes: bool,
    propagation: int,
    recursive_propagation: bool,
    in_procfs: bool,
) -> None:
    """Attach a bind (source ``number``) or a new file system of type ``kind``."""
    if kind == "bind":
        made = tree.sources.pop(number)
        if add or remove:
            set_attributes(made, add, remove, recursive=recursive_attributes and bool(add), path=target)
    else:
        made = new_mount(kind, name, data, add)
    if kind == "bind" or propagation != const.MS_PRIVATE:
        set_attributes(made, propagation=propagation, recursive=recursive_propagation, path=target)
    where = _target(tree, target, kind, stat.S_ISDIR(os.fstat(made).st_mode))
    try:
        if not in_procfs:
            _check_procfs(where, made, target)
        attach(made, where, target)
    finally:
        os.close(where)
        os.close(made)


def _target(tree: Tree, target: str, kind: str, directory: bool) -> int:
    """The open mount point, made if it is missing."""
    # A link at /proc or /sys would let the image choose which of its directories gets them.
    ordinary = kind in ("proc", "sysfs") or target in ("/proc", "/sys")
    try:
        return ensure_directory(tree.root, target, links=not ordinary) if directory else ensure_file(tree.root, target)
    except OSError as error:
        if error.errno == 40 and ordinary:
            raise failure("mount", target, 40, f'filesystem "{kind}" must be mounted on ordinary directory') from None
        if error.errno in (20, 21):
            text = "Are you trying to mount a directory onto a file (or vice-versa)?"
            text = f"{os.strerror(error.errno).lower()}: {text} Check if the specified host path exists and is the "
            raise failure("mount", target, error.errno, text + "expected type") from None
        raise


def _check_procfs(where: int, made: int, target: str) -> None:
    """Nothing but a procfs may cover /proc, nothing at all what is inside: others trust these files (CVE-2019-16884).

    The plan has refused what its path gives away; this sees what a link in the image made of it.
    """
    inside = file_system(where) == const.PROC_SUPER_MAGIC
    if inside and os.fstat(where).st_ino != 1:
        raise failure("mount", target, 22, f'"{target}" cannot be mounted because it is inside /proc')
    if inside or target == "/proc":
        found = os.fstat(made)
        if file_system(made) != const.PROC_SUPER_MAGIC or found.st_ino != 1:
            raise failure("mount", target, 22, f'"{target}" cannot be mounted because it is not of type proc')


def readonly_mount(tree: Tree, target: str) -> None:
    """Make the mount at ``target`` read-only, those below it not."""
    where = open_in_root(tree.root, target)
    set_attributes(where, const.MOUNT_ATTR_RDONLY, path=target)
    os.close(where)


def device(tree: Tree, path: str, mode: int, number: int, uid: int, gid: int) -> None:
    """Make a device node. One that is there already must be the same device."""
    parent, _, name = path.rpartition("/")
    directory = ensure_directory(tree.root, parent or "/")
    try:
        before = os.umask(0)
        try:
            os.mknod(name, mode, number, dir_fd=directory)
            if uid or gid:
                os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
        except FileExistsError:
            pass
        except OSError as error:
            raise failure("mknod", path, error.errno or 5) from None
        finally:
            os.umask(before)
        node = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    finally:
        os.close(directory)
    found = os.fstat(node)
    if stat.S_IFMT(found.st_mode) != stat.S_IFMT(mode) or found.st_rdev != number:
        os.close(node)
        raise failure("mknod", path, 17)
    if path == "/dev/null":
        tree.null = node
    else:
        os.close(node)


def bound_device(tree: Tree, path: str, number: int, mode: int, rdev: int) -> None:
    """A device node of the host's, bound: in a user namespace nobody can make one that works."""
    made = tree.sources.pop(number)
    found = os.fstat(made)
    if stat.S_IFMT(found.st_mode) != stat.S_IFMT(mode) or found.st_rdev != rdev:
        raise failure("mount", path, 19)
    where = ensure_file(tree.root, path)
    try:
        attach(made, where, path)
    finally:
        os.close(where)
    if path == "/dev/null":
        tree.null = made
    else:
        os.close(made)


def link(tree: Tree, target: str, path: str) -> None:
    """Make a symbolic link; what is there already stays (an image's own /dev)."""
    parent, _, name = path.rpartition("/")
    directory = ensure_directory(tree.root, parent or "/")
    try:
        os.symlink(target, name, dir_fd=directory)
    except FileExistsError:
        pass
    except OSError as error:
        raise failure("symlink", path, error.errno or 5) from None
    finally:
        os.close(directory)


def workdir(tree: Tree, path: str) -> None:
    """Make the working directory where the image has none, as Docker does; whether it can be entered is seen later."""
    try:
        os.close(ensure_directory(tree.root, path))
    except OSError:
        pass  # "cwd" says what is wrong with it, in Docker's words


def core_link(tree: Tree) -> None:
    """/dev/core, if this kernel has a /proc/kcore."""
    try:
        os.close(open_in_root(tree.root, "/proc/kcore"))
    except OSError:
        return
    link(tree, "/proc/kcore", "/dev/core")


def ptmx(tree: Tree) -> None:
    """/dev/ptmx leads to the container's own devpts."""
    directory = ensure_directory(tree.root, "/dev")
    try:
        try:
            os.unlink("ptmx", dir_fd=directory)
        except FileNotFoundError:
            pass
        os.symlink("pts/ptmx", "ptmx", dir_fd=directory)
    except OSError as error:
        raise failure("symlink", "/dev/ptmx", error.errno or 5) from None
    finally:
        os.close(directory)


def console(tree: Tree, peer: int) -> None:
    """/dev/console is the container's terminal, bound from the descriptor of its end and not from a name."""
    where = ensure_file(tree.root, "/dev/console")
    if stat.S_ISLNK(os.fstat(where).st_mode):
        raise failure("mount", "/dev/console", 40)
    made = clone_tree(peer, "", False)
    attach(made, where, "/dev/console")
    os.close(made)
    os.close(where)


def mask(tree: Tree, path: str) -> None:
    """Hide a path: a file behind the null device, a directory behind an empty read-only tmpfs."""
    try:
        where = open_in_root(tree.root, path)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if stat.S_ISDIR(os.fstat(where).st_mode):
            made = _empty_directory(tree)
        else:
            made = clone_tree(_null(tree), "", False)
            # Else its permissions could be changed through the mask.
            set_attributes(made, const.MOUNT_ATTR_RDONLY | const.MOUNT_ATTR_NOSUID | const.MOUNT_ATTR_NOEXEC)
        attach(made, where, path)
        if tree.mask < 0 and stat.S_ISDIR(os.fstat(made).st_mode):
            tree.mask = made
        else:
            os.close(made)
    finally:
        os.close(where)


def _empty_directory(tree: Tree) -> int:
    """One tmpfs for all masked directories of a container; it can be cloned once it is attached somewhere."""
    if tree.mask >= 0:
        return clone_tree(tree.mask, "", False)
    readonly = const.MOUNT_ATTR_RDONLY | const.MOUNT_ATTR_NOSUID | const.MOUNT_ATTR_NODEV | const.MOUNT_ATTR_NOEXEC
    return new_mount("tmpfs", "tmpfs", "nr_blocks=1,nr_inodes=1,mode=555", readonly)


def _null(tree: Tree) -> int:
    """A null device that really is one (CVE-2025-31133): ours in the container, else the host's."""
    if tree.null < 0:
        tree.null = os.open("/dev/null", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        found = os.fstat(tree.null)
        if not stat.S_ISCHR(found.st_mode) or found.st_rdev != _NULL:
            raise failure("mask", "/dev/null", 19)
    return tree.null


def open_null(root: int) -> int:
    """/dev/null of the container, for reading and writing; verified on the open descriptor."""
    probe = open_in_root(root, "/dev/null", os.O_PATH | os.O_NOFOLLOW)
    try:
        _verify_null(probe)
    finally:
        os.close(probe)
    descriptor = open_in_root(root, "/dev/null", os.O_RDWR | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK)
    _verify_null(descriptor)
    os.set_blocking(descriptor, True)
    return descriptor


def _verify_null(descriptor: int) -> None:
    found = os.fstat(descriptor)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != _NULL:
        raise failure("open", "/dev/null", 19)


def readonly(tree: Tree, path: str) -> None:
    """Make a path read-only by binding it on itself."""
    try:
        where = open_in_root(tree.root, path)
    except (FileNotFoundError, NotADirectoryError):
        return
    made = clone_tree(where, "", True)
    set_attributes(made, const.MOUNT_ATTR_RDONLY, recursive=True, path=path)
    attach(made, where, path)
    os.close(made)
    os.close(where)


def pivot(tree: Tree) -> None:
    """Make the container's root ours and let go of the host's. Both by ".": no directory is needed for the old one."""
    os.fchdir(tree.root)
    pivot_root(".", ".")
    os.fchdir(tree.host)
    umount(".", const.MNT_DETACH)
    os.chdir("/")
    os.close(tree.host)
    tree.host = -1


def readonly_root(tree: Tree) -> None:
    """The root's own mount read-only, what is mounted on it not."""
    set_attributes(tree.root, const.MOUNT_ATTR_RDONLY, path="/")


def propagation(tree: Tree, kind: int) -> None:
    """The root's propagation, where it is not private."""
    set_attributes(tree.root, propagation=kind, path="/")
