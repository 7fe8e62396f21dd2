"""Mounts that are attached nowhere: they are gone when their descriptor is closed, and no other process sees them."""

import os
from concurrent.futures import ThreadPoolExecutor

from pierhead.linux import const
from pierhead.linux.calls import unshare
from pierhead.linux.mount import OverlayRoot
from pierhead.linux.mountapi import clone_tree, fsconfig, fsmount, fsopen, mount, set_attributes

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_LAYER_BY_LAYER = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) >= (6, 8)
"""Whether the kernel takes "lowerdir+", a layer at a time."""

# Stated, not left to the kernel's build: the archive of a layer must hold all of it, and follow nothing from it.
_OPTIONS = (("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off"))


def open_overlay(root: OverlayRoot, *, readonly: bool) -> int:
    """A directory descriptor of the assembled overlay."""
    if _LAYER_BY_LAYER:
        return _readable(_by_context(root, readonly=readonly))
    with ThreadPoolExecutor(1, "overlay") as alone:
        return alone.submit(_by_mount, root, readonly=readonly).result()


def _readable(mount_fd: int) -> int:
    """What the kernel gives for a mount is an O_PATH descriptor: swap it for one whose directory can be listed.

    The mount lives on in it, as after a lazy unmount.
    """
    try:
        return os.open(".", _DIRECTORY, dir_fd=mount_fd)
    finally:
        os.close(mount_fd)


def _by_context(root: OverlayRoot, *, readonly: bool) -> int:
    context = fsopen("overlay")
    try:
        fsconfig(context, "source", "overlay")
        for path in root.lower:
            fsconfig(context, "lowerdir+", path)
        if root.upper is not None and root.work is not None:
            fsconfig(context, "upperdir", root.upper)
            fsconfig(context, "workdir", root.work)
        for key, value in _OPTIONS:
            fsconfig(context, key, value)
    except OSError:
        os.close(context)
        raise
    return fsmount(context, const.MOUNT_ATTR_RDONLY if readonly else 0)


def _by_mount(root: OverlayRoot, *, readonly: bool) -> int:
    """By mount(2), whose options are one page: from within /proc/self/fd a layer's name is its descriptor's number.

    For a thread of its own, which ends with it: in a mount namespace that nobody else sees and that ends then, too.
    """
    unshare(const.CLONE_NEWNS)
    mount("", "/", "", const.MS_REC | const.MS_SLAVE)
    layers = [os.open(path, _PLACE) for path in (*root.lower, *filter(None, (root.upper, root.work)))]
    try:
        lower = len(root.lower)
        options = ["lowerdir=" + ":".join(map(str, layers[:lower])), *(f"{key}={value}" for key, value in _OPTIONS)]
        options += [f"{key}={fd}" for key, fd in zip(("upperdir", "workdir"), layers[lower:], strict=False)]
        os.chdir("/proc/self/fd")
        mount("overlay", "/", "overlay", const.MS_RDONLY if readonly else 0, ",".join(options))
        # "/" itself still leads to what is below the new mount, ".." of it to the top.
        return os.open("/..", _DIRECTORY)
    finally:
        for fd in layers:
            os.close(fd)


def open_directory_mount(path: str, *, readonly: bool) -> int:
    """A directory descriptor of a bind mount of a directory."""
    fd = clone_tree(const.AT_FDCWD, path, recursive=False)
    try:
        if readonly:
            set_attributes(fd, add=const.MOUNT_ATTR_RDONLY)
    except OSError:
        os.close(fd)
        raise
    return _readable(fd)
