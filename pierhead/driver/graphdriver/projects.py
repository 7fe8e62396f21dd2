"""A limit for what a container writes into its own layer: a project of its own in the file system's quotas."""

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack

from pierhead.errors import InvalidParameter
from pierhead.linux import quota

FIRST = 1 << 20
"""Where the numbers of our projects begin: others' (Docker's, /etc/projid's) are small."""
UNABLE = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ESRCH, errno.ENOSYS)
"""What file systems and kernels say that count no projects."""


def confine(folders: Sequence[str], size: int) -> None:
    """Let empty folders and what will be in them have ``size`` bytes together.

    The number is the first that counts no files: one whose layer is removed is used again.
    Raises InvalidParameter where the file system keeps no project quotas.
    """
    try:
        with ExitStack() as stack:
            opened = []
            for folder in folders:
                opened.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                stack.callback(os.close, opened[-1])
            project = next(number for number in range(FIRST, 1 << 31) if _taken(opened, number))
            quota.limit(opened[0], project, size)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
        raise InvalidParameter(
            "--storage-opt is supported only for file systems with project quotas: xfs mounted with 'pquota', or ext4 "
            "with the feature 'project', mounted with 'prjquota'"
        ) from error


def _taken(folders: Sequence[int], project: int) -> bool:
    """Whether the project is theirs alone now: another daemon may want the same number in the same moment."""
    if quota.inodes(folders[0], project):
        return False
    for folder in folders:
        quota.set_project(folder, project)
    return quota.inodes(folders[0], project) == len(folders)
