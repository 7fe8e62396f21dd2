"""A user namespace from the side of the processes that ``usernamespace`` makes: the helper and the container's own.

The zygote imports this.
"""

from __future__ import annotations

import _socket as socket
import os
import struct

from pierhead.linux import calls, const
from pierhead.linux.mountapi import attach, clone_tree, map_owners

PORTION = 8
"""Descriptors in one message: ``container.MOST_SOCKETS``."""

TAKE = b"take"
"""What comes with them."""

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def owners(namespace: int, base: str, uid: int, gid: int) -> None:
    """Cover ``base`` with itself, its files' owners as in the user namespace; be its root in what we make from now on.

    Seen by us alone: this mount namespace is ours and ends with us.
    """
    made = clone_tree(const.AT_FDCWD, base, False)
    where = os.open(base, _DIRECTORY)
    try:
        map_owners(made, namespace, base)
        attach(made, where, base)
    except OSError as error:
        if error.errno != 22:
            raise
        text = "this file system cannot show other owners (idmapped mounts), which --userns-remap needs"
        raise calls.failure("mount_setattr", base, 22, text) from None
    finally:
        os.close(where)
        os.close(made)
    calls.use_files_as(uid, gid)


def wait(status: socket.socket, count: int) -> list[int]:
    """Wait until ``admit`` is done with us: the ``count`` mounts that it hands over. Our end if it is not."""
    mounts: list[int] = []
    while True:
        data, controls, _, _ = status.recvmsg(16, socket.CMSG_SPACE(4 * PORTION), socket.MSG_CMSG_CLOEXEC)
        if data != TAKE:
            os._exit(255)  # whoever started us knows why, or is no more
        for _, _, payload in controls:
            mounts += struct.unpack(f"={len(payload) // 4}i", payload)
        if len(mounts) >= count:
            return mounts


def become_root() -> None:
    """User 0 and group 0 of the namespace, and none else; no other may look into us, as before."""
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    calls.undumpable()  # a change of ids may have undone it (fs.suid_dumpable)
