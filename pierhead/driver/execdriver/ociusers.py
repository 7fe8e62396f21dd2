"""The user namespace of a container that an OCI runtime makes, and a network namespace that belongs to it.

Both are made before the runtime is asked, which joins them: the network is furnished by us, and only in a network of
its own user namespace may the container mount a sysfs.

The OCI zygote imports this.
"""

from __future__ import annotations

import os
import socket
import struct

from pierhead.libcontainer.usernamespace import write_map
from pierhead.linux import calls, const

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def namespaces(users: dict[str, Any], joined: int, network: bool) -> tuple[int, int]:
    """Descriptors of the user namespace and of a new network namespace in it (-1 where none is wanted).

    users: of the program.  joined: the user namespace of another container's that this one is in, or -1: a new one with
    the program's maps.  Raises OSError.
    """
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    with near, far:
        pid, pidfd = calls.clone3(0 if joined >= 0 else const.CLONE_NEWUSER)
        if not pid:
            near.close()
            _hold(joined, network, far)
        far.close()
        try:
            said = struct.unpack("=i", near.recv(4) or struct.pack("=i", 5))[0]
            if said:
                raise calls.failure("unshare", "", said)
            if joined < 0:
                write_map(f"/proc/{pid}/gid_map", users["gids"])
                write_map(f"/proc/{pid}/uid_map", users["uids"])
            made = [os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)]
            if network:
                made.append(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        finally:
            near.close()
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
            os.close(pidfd)
    return made[0], made[1] if network else -1


def _hold(joined: int, network: bool, far: socket.socket) -> None:
    """In a child: be in the namespaces until they have been opened."""
    said = 5
    try:
        if joined >= 0:
            calls.setns(joined, const.CLONE_NEWUSER)
        if network:
            calls.unshare(const.CLONE_NEWNET)
        said = 0
    except OSError as error:
        said = error.errno or 5
    finally:
        far.send(struct.pack("=i", said))
        far.recv(1)  # the end of file
        os._exit(0)
