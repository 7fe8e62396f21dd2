"""What is mounted for an OCI runtime: a container's root, and what it is to bind but cannot put together.

All of it in a mount namespace of the shim's own, from which the runtime makes the container's: the host sees nothing of
it, and it ends with shim and container.

The OCI zygote imports this.
"""

from __future__ import annotations

import os
import stat

from pierhead.driver.execdriver.job import close_all
from pierhead.libcontainer import rootfs
from pierhead.linux import calls, const
from pierhead.linux.mountapi import attach, mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

MOUNTS = "mounts"
"""Of a bundle: where sources of binds are mounted."""

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def leave_host(bundle: str, place: str) -> None:
    """Be in a mount namespace of our own.

    place: for a container with a user namespace, a folder that everybody may enter and nobody needs: covered by an
    empty one, for its root, since whoever is root in there may not even pass through the folders of ours.
    """
    calls.unshare(const.CLONE_NEWNS)
    if place:
        mount("", "/", "", const.MS_SLAVE | const.MS_REC)
        mount("tmpfs", place, "tmpfs", const.MS_NOSUID | const.MS_NODEV, "mode=711")
    else:
        _keep_private(bundle)


def mount_root(root: tuple[Any, ...], folder: str) -> str:
    """Mount the root file system below ``folder``; returns its path.

    A directory is bound there, too: it may be mounted on the host for a moment only, and an exec wants it later.
    """
    target = f"{folder}/rootfs"
    os.makedirs(target, 0o755, exist_ok=True)
    if root[0] == "directory":
        mount(root[1], target, "", const.MS_BIND)
        mount("", target, "", const.MS_PRIVATE)
    else:
        _, lower, upper, work = root
        _overlay(target, lower, tuple(path for path in (upper, work) if path))
    return target


def mount_sources(wanted: Iterable[tuple[Any, ...]], bundle: str, namespace: int) -> None:
    """Mount parts of volumes, images and another container's /dev/shm (``namespace`` is its mount namespace) below
    the bundle's MOUNTS, for the runtime to bind."""
    for name, kind, source, layers, subpath, recursive in wanted:
        place = f"{bundle}/{MOUNTS}/{name}"
        os.makedirs(os.path.dirname(place), 0o700, exist_ok=True)
        if kind == "image":
            source, recursive = _image(layers, f"{place}.image"), False
        tree = rootfs.Tree()
        if kind == "shm":
            made = rootfs.foreign_shm(namespace)
        else:
            rootfs.source(tree, 0, source, recursive, subpath)
            made = tree.sources[0]
        _attach(made, place)


def _image(layers: tuple[str, ...], target: str) -> str:
    """Where an image's root is: its only layer, or an overlay that is mounted at ``target``."""
    if len(layers) == 1:
        return layers[0]
    os.makedirs(target, 0o755, exist_ok=True)
    _overlay(target, layers, ())
    return target


def _attach(made: int, place: str) -> None:
    """Attach a detached mount to a mount point that is made for it."""
    try:
        if stat.S_ISDIR(os.fstat(made).st_mode):
            os.makedirs(place, 0o755, exist_ok=True)
        else:
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        where = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            attach(made, where, place)
        finally:
            os.close(where)
    finally:
        os.close(made)


def _overlay(target: str, lower: tuple[str, ...], writable: tuple[str, ...]) -> None:
    layers = [os.open(path, _DIRECTORY) for path in (*lower, *writable)]
    try:
        os.chdir("/proc/self/fd")
        options = rootfs.overlay_options(layers[: len(lower)], layers[len(lower) :])
        mount("overlay", target, "overlay", 0, options)
    finally:
        os.chdir("/")
        close_all(layers)


def _keep_private(path: str) -> None:
    """Let nothing that is mounted below ``path`` reach the host: the mount that it lies in gets no company from here.

    The others keep their peers: what a container's bind asks to be shared is shared with the host.
    """
    while True:
        try:
            mount("", path, "", const.MS_PRIVATE)
            return
        except OSError as error:
            if error.errno != 22 or path == "/":  # EINVAL: no mount of its own
                raise
        path = os.path.dirname(path)
