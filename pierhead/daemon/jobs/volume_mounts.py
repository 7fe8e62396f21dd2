"""Volumes that are a mount (the local driver's options type, device and o): mounted while a container with them runs.

The mount is the host's, so that all containers of a volume see one file system; it comes with the first of them and
goes with the last.
"""

import os
import socket
from collections.abc import Mapping

from pierhead.daemon.engine.engine import Engine, blocking, log
from pierhead.errors import InvalidParameter, PierheadError
from pierhead.linux import const
from pierhead.linux.mount import mount_points
from pierhead.linux.mountapi import mount, umount

_OPTIONS = ("type", "o", "device", "size")
_NEEDS = {"device": ("type",), "type": ("device",), "o": ("device", "type")}

_FLAGS = {
    "ro": const.MS_RDONLY,
    "nosuid": const.MS_NOSUID,
    "nodev": const.MS_NODEV,
    "noexec": const.MS_NOEXEC,
    "sync": const.MS_SYNCHRONOUS,
    "dirsync": const.MS_DIRSYNC,
    "mand": const.MS_MANDLOCK,
    "noatime": const.MS_NOATIME,
    "nodiratime": const.MS_NODIRATIME,
    "relatime": const.MS_RELATIME,
    "strictatime": const.MS_STRICTATIME,
    "bind": const.MS_BIND,
    "rbind": const.MS_BIND | const.MS_REC,
}
_DEFAULTS = ("defaults", "rw", "suid", "dev", "exec", "async", "atime", "diratime", "norelatime", "nostrictatime")


def check(options: Mapping[str, str]) -> None:
    """Refuse options that the local driver has not, in Docker's words. Raises InvalidParameter."""
    for name in options:
        if name not in _OPTIONS:
            raise InvalidParameter(f'invalid option: "{name}"')
    if "size" in options:
        raise InvalidParameter("quota size requested but no quota support")
    for name, others in _NEEDS.items():
        for other in others if name in options else ():
            if other not in options:
                raise InvalidParameter(f'missing required option: "{other}"')


def needed(options: Mapping[str, str]) -> bool:
    """Whether a volume with these options is a mount."""
    return bool(options.get("device") or options.get("type"))


async def hold(engine: Engine, name: str, path: str, options: Mapping[str, str], user: str) -> None:
    """Mount a volume on its folder ``path`` for ``user`` (a container's id), unless it is. Raises PierheadError."""
    async with engine.locks.hold(f"volume {name}"):
        if not is_mounted(path):
            await blocking(_mount, path, options)
        engine.mounted_volumes.setdefault(name, set()).add(user)


async def release(engine: Engine, name: str, path: str, user: str) -> None:
    """``user`` needs it no longer: the last one's mount goes. Idempotent."""
    async with engine.locks.hold(f"volume {name}"):
        users = engine.mounted_volumes.get(name, set())
        users.discard(user)
        if users:
            return
        engine.mounted_volumes.pop(name, None)
        if is_mounted(path):
            await blocking(_unmount, path)


def is_mounted(path: str) -> bool:
    """Whether something is mounted right there."""
    return os.path.realpath(path) in mount_points()


def _mount(path: str, options: Mapping[str, str]) -> None:
    device, kind, flags, data = arguments(options)
    try:
        mount(device, path, kind, flags, data)
        if flags & const.MS_BIND and flags & ~(const.MS_BIND | const.MS_REC):
            mount(device, path, kind, flags | const.MS_REMOUNT, data)  # a bind takes its attributes only afterwards
    except OSError as error:
        what = f"mount {device}:{path}" + (f", flags: 0x{flags:x}" if flags else "")
        what += f", data: {_without_password(data)}" if data else ""
        raise PierheadError(
            f"error while mounting volume '{path}': failed to mount local volume: {what}: "
            f"{(error.strerror or '').lower()}"
        ) from None


def arguments(options: Mapping[str, str]) -> tuple[str, str, int, str]:
    """What mount(2) is called with: device, type, flags, data. The kernel takes no host names: as mount.nfs(8) and
    mount.cifs(8) they are looked up here. Raises PierheadError."""
    flags, data = _split(options.get("o", ""))
    device, kind = options["device"], options["type"]
    words = data.split(",")
    named = next((word for word in words if word.startswith("addr=")), "")
    if kind in ("nfs", "nfs4", "cifs") and named:
        words[words.index(named)] = f"addr={_address(named[len('addr=') :])}"
        data = ",".join(words)
    elif kind == "cifs" and device.startswith("//"):
        host, slash, share = device[2:].partition("/")
        device = f"//{_address(host)}{slash}{share}"
    return device, kind, flags, data


def _address(host: str) -> str:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return str(min(found, key=lambda one: one[0] != socket.AF_INET)[4][0])
    except OSError as error:
        raise PierheadError(
            f"error resolving passed in network volume address: lookup {host}: {error.strerror}"
        ) from None


def _split(text: str) -> tuple[int, str]:
    """mount(8)'s words as flags and what is left for the file system."""
    flags = 0
    data = []
    for word in filter(None, text.split(",")):
        if word in _FLAGS:
            flags |= _FLAGS[word]
        elif word not in _DEFAULTS:
            data.append(word)
    return flags, ",".join(data)


def _without_password(data: str) -> str:
    return ",".join("password=********" if word.startswith("password=") else word for word in data.split(","))


def _unmount(path: str) -> None:
    try:
        umount(path)
    except OSError as error:
        log.warning("volume %s is busy (%s), it is unmounted when that has ended", path, error)
        umount(path, const.MNT_DETACH)
