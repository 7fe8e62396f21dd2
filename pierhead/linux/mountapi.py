"""The mount system calls, by descriptor: mount(2), fsopen(2), move_mount(2), mount_setattr(2), pivot_root(2).

``mount.py`` holds what mounts are as values; this module is apart because the zygote imports it.  Every call raises
``OSError`` with the call's name (``calls.call_of``); every descriptor is close-on-exec.
"""

from __future__ import annotations

import ctypes
import os
import struct

from pierhead.linux import const
from pierhead.linux.calls import failure, libc, syscall


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    result = libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        os.fsencode(kind) or None,
        ctypes.c_ulong(flags),
        os.fsencode(data) or None,
    )
    if result:
        raise failure("mount", target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    if libc.umount2(os.fsencode(target), flags):
        raise failure("umount2", target)


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    syscall("pivot_root", const.SYS_PIVOT_ROOT, os.fsencode(new), os.fsencode(old), path=new)


def fsopen(kind: str) -> int:
    """fsopen(2): a configuration context for a new file system of this type."""
    return syscall("fsopen", const.SYS_FSOPEN, os.fsencode(kind), const.FSOPEN_CLOEXEC, path=kind)


def fsconfig(context: int, key: str, value: str | None) -> None:
    """Set one parameter of a context; None for a flag without a value. The kernel takes at most 255 bytes."""
    command = const.FSCONFIG_SET_FLAG if value is None else const.FSCONFIG_SET_STRING
    text = None if value is None else os.fsencode(value)
    try:
        syscall("fsconfig", const.SYS_FSCONFIG, context, command, os.fsencode(key), text, 0, path=key)
    except OSError as error:
        raise _with_log(context, error) from None


def fsmount(context: int, attributes: int = 0) -> int:
    """Make the configured file system and a mount of it that is attached nowhere yet; closes the context."""
    try:
        syscall("fsconfig", const.SYS_FSCONFIG, context, const.FSCONFIG_CMD_CREATE, None, None, 0)
        return syscall("fsmount", const.SYS_FSMOUNT, context, const.FSMOUNT_CLOEXEC, attributes)
    except OSError as error:
        raise _with_log(context, error) from None
    finally:
        os.close(context)


def _with_log(context: int, error: OSError) -> OSError:
    """The error with what the kernel had to say about it: reading a context gives its messages ("e overlay: …")."""
    messages: list[str] = []
    while len(messages) < 8:
        try:
            messages.append(os.read(context, 1024).decode("utf-8", "replace").strip())
        except OSError:
            break  # ENODATA: no more of them
    said = "; ".join(text[2:] for text in messages if text[:2] == "e ")
    if not said:
        return error
    told = OSError(error.errno, f"{error.strerror} ({said})", error.filename)
    told.__notes__ = error.__notes__
    return told


def new_mount(kind: str, source: str, options: str, attributes: int) -> int:
    """A detached mount of a new file system; ``options`` as in fstab ("mode=755,size=65536k")."""
    context = fsopen(kind)
    try:
        if source:
            fsconfig(context, "source", source)
        for option in options.split(","):
            if option:
                key, equals, value = option.partition("=")
                fsconfig(context, key, value if equals else None)
    except OSError:
        os.close(context)
        raise
    return fsmount(context, attributes)


def clone_tree(directory: int, path: str, recursive: bool, follow: bool = True) -> int:
    """A detached copy (a bind mount to be) of the mount that ``path`` is in, rooted at ``path`` (open_tree(2)).

    With an empty path: of what the descriptor itself is open on.
    """
    flags = const.OPEN_TREE_CLONE | const.OPEN_TREE_CLOEXEC
    flags |= const.AT_RECURSIVE if recursive else 0
    flags |= 0 if follow else const.AT_SYMLINK_NOFOLLOW
    flags |= 0 if path else const.AT_EMPTY_PATH
    return syscall("open_tree", const.SYS_OPEN_TREE, directory, os.fsencode(path), flags, path=path)


def attach(tree: int, target: int, path: str = "") -> None:
    """Attach a detached mount on what ``target`` is open on (move_mount(2)); ``path`` is for the error alone."""
    flags = const.MOVE_MOUNT_F_EMPTY_PATH | const.MOVE_MOUNT_T_EMPTY_PATH
    syscall("move_mount", const.SYS_MOVE_MOUNT, tree, b"", target, b"", flags, path=path)


def set_attributes(
    descriptor: int,
    add: int = 0,
    remove: int = 0,
    propagation: int = 0,
    recursive: bool = False,
    path: str = "",
) -> None:
    """mount_setattr(2) on the mount that ``descriptor`` is the root of; ``path`` is for the error alone."""
    flags = const.AT_EMPTY_PATH | (const.AT_RECURSIVE if recursive else 0)
    attributes = struct.pack("=4Q", add, remove, propagation, 0)
    syscall("mount_setattr", const.SYS_MOUNT_SETATTR, descriptor, b"", flags, attributes, len(attributes), path=path)


def map_owners(descriptor: int, namespace: int, path: str = "") -> None:
    """Show a detached mount's files with other owners: who user n is in the user namespace owns what n owns on disk.

    (mount_setattr(2), MOUNT_ATTR_IDMAP.)  EINVAL where the file system cannot.
    """
    attributes = struct.pack("=4Q", const.MOUNT_ATTR_IDMAP, 0, 0, namespace)
    flags = const.AT_EMPTY_PATH
    syscall("mount_setattr", const.SYS_MOUNT_SETATTR, descriptor, b"", flags, attributes, len(attributes), path=path)


def file_system(descriptor: int) -> int:
    """The magic number of the file system that the descriptor is in (fstatfs(2))."""
    buffer = ctypes.create_string_buffer(256)
    if libc.fstatfs64(descriptor, buffer):
        raise failure("fstatfs")
    magic: int = struct.unpack_from("@l", buffer.raw)[0]
    return magic & 0xFFFFFFFF
