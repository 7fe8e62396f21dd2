"""A container's user namespace: what its processes cannot do for themselves, for outside of it they are nobody.

User 0 in there is an ordinary user of the host's.  Whoever starts a process in it therefore gives it, with the host's
rights: the maps, the limits that only the host's root may raise, and every mount that comes from the host.  These are
made by a helper in a mount namespace of its own and handed over as detached mounts (``admit``, ``Tree`` in ``rootfs``);
the process waits and becomes the namespace's root (``userentry``).

Layers lie on disk with the owners that their image gave them.  The helper covers the folder of all of them with a mount
that shows other owners (an idmapped mount), and puts the root together from what it sees there: nothing is copied, and
what the container writes is stored with the container's own ids.  Overlayfs makes some files itself (whiteouts); as the
maker of the mount, who therefore must be somebody in that map while it is made (``userentry.owners``).

The zygote imports this.
"""

from __future__ import annotations

import _socket as socket
import os
import stat
import struct

from pierhead.libcontainer.userentry import PORTION, TAKE
from pierhead.linux import calls, const

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def own(stdio: tuple[int, int, int], root: tuple[int, int]) -> None:
    """Give pipes to the namespace's root: /dev/stdout is opened anew by many programs."""
    for descriptor in stdio:
        if descriptor >= 0 and stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.fchown(descriptor, *root)


def admit(
    user: dict[str, Any], pid: int, status: socket.socket, errand: Callable[[list[tuple[object, ...]]], tuple[int, ...]]
) -> None:
    """Make the process that has just been cloned into its user namespace able to go on.

    user: of the plan.  errand: does operations in a child with a mount namespace of its own, and returns what that
    lends us.  Raises OSError.
    """
    for _, resource, soft, hard in user["rlimits"]:
        try:
            calls.set_rlimit_of(pid, resource, soft, hard)
        except OSError as error:
            what = "error setting rlimits for ready process: error setting rlimit type"
            text = f"{what} {resource}: {(error.strerror or '').lower()}"
            raise calls.failure("setrlimit", "", error.errno or 5, text) from None
    _adjust_oom_score(pid, user["oom"])
    mounts: tuple[int, ...] = ()
    if "uids" in user:
        write_map(f"/proc/{pid}/gid_map", user["gids"])
        write_map(f"/proc/{pid}/uid_map", user["uids"])
    try:
        if "root" in user:
            namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            try:
                mounts = errand(_made_outside(user, namespace))
            finally:
                os.close(namespace)
        for at in range(0, max(len(mounts), 1), PORTION):
            portion = mounts[at : at + PORTION]
            packed = struct.pack(f"={len(portion)}i", *portion)
            status.sendmsg([TAKE], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)] if portion else [])
    finally:
        for descriptor in mounts:
            os.close(descriptor)


def _made_outside(user: dict[str, Any], namespace: int) -> list[tuple[object, ...]]:
    """The helper's operations. Sources first: one of them may lie in the folder that is covered."""
    numbers = tuple(operation[1] for operation in (*user["sources"], *user["images"]))
    return [
        ("slave",),
        *user["sources"],
        ("owners", namespace, user["base"], *user["ids"]),
        user["root"],
        *user["images"],
        ("lend_mounts", numbers),
    ]


def _adjust_oom_score(pid: int, value: int) -> None:
    path = f"/proc/{pid}/oom_score_adj"
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if int(os.read(descriptor, 16)) != value:
            os.write(descriptor, str(value).encode())
    except OSError as error:
        raise calls.failure("write", path, error.errno or 5) from None
    finally:
        os.close(descriptor)


def write_map(path: str, content: str) -> None:
    """Write a process's uid_map or gid_map at once: the kernel takes a map whole or not at all. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, content.encode())
    except OSError as error:
        raise calls.failure("write", path, error.errno or 5) from None
    finally:
        os.close(descriptor)


def clone_inside(namespace: int, pid_namespace: int, flags: int, into: int) -> tuple[int, int]:
    """clone3 with new namespaces that belong to an existing user namespace (``calls.clone3``; (0, -1) in the child).

    Whoever joins a user namespace cannot come back; so that is done by a process in between, which is gone when this
    returns.  The new process's parent is the one that it would have otherwise.
    """
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    sibling = flags & const.CLONE_PARENT
    try:
        between, waiting = calls.clone3(sibling)
        if not between:
            near.close()
            if _between(namespace, pid_namespace, flags | const.CLONE_PARENT, into, far):
                far.close()
                return 0, -1
            os._exit(0)
        far.close()
        data, controls, _, _ = near.recvmsg(64, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        if not sibling:
            os.waitid(os.P_PIDFD, waiting, os.WEXITED)
        os.close(waiting)
    finally:
        near.close()
        far.close()
    pid = struct.unpack("=i", data)[0] if data else -5
    if pid < 0:
        raise calls.failure("clone3", "", -pid)
    return pid, struct.unpack("=i", controls[0][2][:4])[0]


def _between(namespace: int, pid_namespace: int, flags: int, into: int, far: socket.socket) -> bool:
    """The process in between: joins and clones; True in what it has cloned."""
    try:
        calls.setns(namespace, const.CLONE_NEWUSER)
        if pid_namespace >= 0:
            calls.setns(pid_namespace, const.CLONE_NEWPID)
        pid, pidfd = calls.clone3(flags, into)
        if not pid:
            return True
        far.sendmsg([struct.pack("=i", pid)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=i", pidfd))])
    except OSError as error:
        far.send(struct.pack("=i", -(error.errno or 5)))
    return False
