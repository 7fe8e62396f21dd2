"""``pier container bundle``: a container as an OCI bundle, for ``runc run``."""

import os
import shutil
import subprocess

from pierhead.client.api import quote
from pierhead.client.errors import ClientError
from pierhead.client.flags import Options
from pierhead.client.session import Session


def bundle(session: Session, options: Options) -> int:
    """Unpack a container's bundle into a new or empty folder."""
    name, folder = options.operands
    try:
        if os.listdir(folder):
            raise ClientError(f'"{folder}" is not empty')
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ClientError(f"{folder}: {(error.strerror or '').lower()}") from None
    tar = shutil.which("tar")
    if tar is None:
        raise ClientError("a bundle is unpacked by tar, and there is none: apt-get install tar")
    answer = session.api.call("GET", f"/pierhead/containers/{quote(name)}/bundle", own=True)
    try:
        # Nobody else's before it is whole, and after: set-user-ID programs of images are not for this host's users.
        os.makedirs(folder, 0o700, exist_ok=True)
    except OSError as error:
        raise ClientError(f"{folder}: {(error.strerror or '').lower()}") from None
    # GNU tar: owners by number, extended attributes (file capabilities), devices; it follows no link out of the folder.
    command = [tar, "-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", folder, "-f", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as unpacking:
        assert unpacking.stdin is not None
        try:
            for block in answer.blocks():
                unpacking.stdin.write(block)
        except BrokenPipeError:
            pass  # tar has said why
        finally:
            unpacking.stdin.close()
    if unpacking.returncode:
        raise ClientError(f"the bundle in {folder} is not complete: tar ended with status {unpacking.returncode}")
    return 0
