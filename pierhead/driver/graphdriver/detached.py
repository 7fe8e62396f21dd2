"""Mounts that are attached nowhere: they are gone when their descriptor is closed, and no other process sees them."""

import errno
import os
import secrets

from pierhead.linux import const
from pierhead.linux.mount import OverlayRoot
from pierhead.linux.mountapi import clone_tree, fsconfig, fsmount, fsopen, mount, set_attributes, umount

# Stated, not left to the kernel's build: the archive of a layer must hold all of it, and follow nothing from it.
_OPTIONS = (("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off"))


def open_overlay(root: OverlayRoot, *, readonly: bool) -> int:
    """A directory descriptor of the assembled overlay."""
    try:
        return _readable(_by_context(root, readonly=readonly))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return _readable(_by_mount(root, readonly=readonly))  # before Linux 6.8 there is no "lowerdir+"


def _readable(mount_fd: int) -> int:
    """What the kernel gives for a mount is an O_PATH descriptor: swap it for one whose directory can be listed.

    The mount lives on in it, as after a lazy unmount.
    """
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount_fd)
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
    """By mount(2) on a directory of our own for a moment, cloned and unmounted again.

    All lower directories that are in one folder are named through a descriptor of it, to keep the options in a page.
    """
    folder = os.path.dirname(root.lower[0])
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    place = os.path.join(os.path.dirname(folder), f"probe-{secrets.token_hex(8)}")
    try:
        short = f"/proc/self/fd/{fd}/"
        lower = ":".join(
            path.replace(folder + "/", short, 1) if path.startswith(folder) else path for path in root.lower
        )
        options = [f"lowerdir={lower}", *(f"{key}={value}" for key, value in _OPTIONS)]
        if root.upper is not None and root.work is not None:
            options += [f"upperdir={root.upper}", f"workdir={root.work}"]
        os.mkdir(place, 0o700)
        try:
            mount("overlay", place, "overlay", const.MS_RDONLY if readonly else 0, ",".join(options))
            try:
                return clone_tree(const.AT_FDCWD, place, recursive=False)
            finally:
                umount(place, const.MNT_DETACH)
        finally:
            os.rmdir(place)
    finally:
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
