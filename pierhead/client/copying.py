"""``pier cp``: the host's tar reads and writes the files on this side."""

import base64
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pierhead.client.api import quote
from pierhead.client.errors import ClientError, DaemonError
from pierhead.client.flags import Options
from pierhead.client.session import Session
from pierhead.client.units import human_size

BLOCK = 1 << 20
DIRECTORY, LINK = 1 << 31, 1 << 27
"""Of Go's os.FileMode."""


def cp(session: Session, options: Options) -> int:
    """Copy between a container and the local file system, or a tar stream."""
    source, target = options.operands
    if not source or not target:
        raise ClientError(f"{'destination' if source else 'source'} can not be empty")
    (from_name, from_path), (to_name, to_path) = _split(source), _split(target)
    if from_name and to_name:
        raise ClientError("copying between containers is not supported")
    if not from_name and not to_name:
        raise ClientError("must specify at least one container source")
    follow = options.on("follow-link")
    if from_name:
        count = _out(session, from_name, from_path, to_path, follow)
        shown = to_path if to_path == "-" else _absolute(to_path)
    else:
        count = _into(session, to_name, to_path, from_path, follow, options.on("archive"))
        shown = f"{to_name}:{to_path}"
    if os.isatty(1) and not options.on("quiet") and target != "-":
        print(f"Successfully copied {human_size(count, 3)} to {shown}", file=sys.stderr)
    return 0


def _split(text: str) -> tuple[str, str]:
    """Container and path; no container for a path of this host's."""
    name, colon, path = text.partition(":")
    return ("", text) if text.startswith("/") or not colon or name.startswith(".") else (name, path)


def _absolute(path: str) -> str:
    """With what a trailing "/" or "/." says."""
    found = os.path.abspath(path)
    last = path.rstrip("/").rpartition("/")[2]
    return found.rstrip("/") + "/." if last == "." else found + ("/" if path.endswith("/") and found != "/" else "")


def _base(path: str) -> str:
    """The last component, "." for a path that ends so, "/" for the root."""
    return path.rstrip("/").rpartition("/")[2] or "/"


def _parent(path: str) -> str:
    return path.rstrip("/").rpartition("/")[0] or "/"


@dataclass(frozen=True, slots=True)
class End:
    """One end of a copy. name: how what is copied is to be called in the end, where that is not its own name."""

    path: str
    exists: bool = True
    directory: bool = False
    name: str = ""


def _follow(path: str, resolved: str, directory: bool) -> End:
    """A source whose links were followed keeps the name that was asked for."""
    last = _base(path)
    if last == "." and _base(resolved) != ".":
        resolved += "/."
    return End(resolved, directory=directory, name=last if last != _base(resolved) else "")


def _placed(source: End, target: End) -> tuple[str, str, str]:
    """The directory to unpack into, and what which name is changed to, as Docker has it. Raises ClientError."""
    old = _base(source.path)
    if target.exists and target.directory:
        return target.path, old, source.name or old
    if target.exists and source.directory:
        raise ClientError("cannot copy directory")
    if not target.exists and not source.directory and (target.path.endswith("/") or _base(target.path) == "."):
        raise ClientError("no such directory")
    return _parent(target.path), old, _base(target.path)


def _tar() -> str:
    found = shutil.which("tar")
    if found is None:
        raise ClientError("files are copied by tar, and there is none: apt-get install tar")
    return found


def _renaming(old: str, new: str) -> list[str]:
    """Options of GNU tar: the first component of names and of hard links' targets, never that of symbolic links."""
    if old == new:
        return []
    # A basic regular expression and a replacement of sed's, with "/" (in no name) between them.
    plain = "".join(f"\\{letter}" if letter in "\\.*[]^$" else letter for letter in old.strip("/"))
    wanted = "".join(f"\\{letter}" if letter in "\\&" else letter for letter in new)
    return [f"--transform=flags=rhS;s/^{plain}\\(\\/\\|$\\)/{wanted}\\1/"]


def _stat(session: Session, name: str, path: str) -> Any:
    """What is at a path of a container's; None where there is nothing."""
    try:
        answer = session.api.call("HEAD", f"/containers/{quote(name)}/archive", {"path": path})
    except DaemonError:
        return None
    return _told(answer.headers)


def _told(headers: dict[str, str]) -> Any:
    return json.loads(base64.b64decode(headers["x-docker-container-path-stat"]))


# -- out of a container -----------------------------------------------------------------------------------------------


def _out(session: Session, name: str, path: str, target: str, follow: bool) -> int:
    source = End(path)
    if follow and (found := _stat(session, name, path)) and found["mode"] & LINK:
        source = _follow(path, found["linkTarget"], False)
    here = _absolute(target)
    if target != "-" and not os.path.isdir(_parent(here)):
        raise ClientError(f'invalid output path: directory "{_parent(here)}" does not exist')
    answer = session.api.call("GET", f"/containers/{quote(name)}/archive", {"path": source.path}, own=True)
    if target == "-":
        sys.stdout.flush()
        return _pump(answer.blocks(), sys.stdout.buffer)
    found = _told(answer.headers)
    named = found["name"]
    if "\ufffd" in named:  # no UTF-8: the archive has the very bytes, which are those that were asked for
        named = _base(source.path)
    source = End(f"/{named}", directory=bool(found["mode"] & DIRECTORY), name=source.name)
    folder, old, new = _placed(source, End(here, os.path.lexists(here), os.path.isdir(here)))
    _check_place(os.path.join(folder, new), source.directory, folder)
    # GNU tar follows no link of the archive out of the folder; as in Docker the files are those of who copies them.
    options = ["-x", "-p", "--no-same-owner", "--no-overwrite-dir", *_renaming(old, new), "-C", folder, "-f", "-"]
    with subprocess.Popen([_tar(), *options], stdin=subprocess.PIPE) as unpacking:
        assert unpacking.stdin is not None
        try:
            count = _pump(answer.blocks(), unpacking.stdin)
        except BrokenPipeError:
            count = 0  # tar has said why
        finally:
            unpacking.stdin.close()
    if unpacking.returncode:
        raise ClientError(f"the copy in {folder} is not complete: tar ended with status {unpacking.returncode}")
    return count


def _check_place(path: str, directory: bool, folder: str) -> None:
    """Refuse to put a directory in the place of something else, or the other way round. Raises ClientError."""
    try:
        present = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if present != directory:
        what, by = ("directory", "non-directory") if present else ("non-directory", "directory")
        raise ClientError(f'cannot overwrite {what} "{path}" with {by} "{folder}"')


def _pump(blocks: Iterable[bytes], file: Any) -> int:
    count = 0
    for block in blocks:
        file.write(block)
        count += len(block)
    file.flush()
    return count


# -- into a container -------------------------------------------------------------------------------------------------


def _into(session: Session, name: str, path: str, source: str, follow: bool, own: bool) -> int:
    found = _stat(session, name, path)
    if found and found["mode"] & LINK:
        path = found["linkTarget"]
        found = _stat(session, name, path)
    target = End(path, bool(found), bool(found and found["mode"] & DIRECTORY))
    query: dict[str, object] = {"noOverwriteDirNonDir": "true", "copyUIDGID": own and "true"}
    where = f"/containers/{quote(name)}/archive"
    if source == "-":
        if not target.directory:
            raise ClientError(f'destination "{name}:{path}" must be a directory')
        sent = _Counted(iter(lambda: sys.stdin.buffer.read(BLOCK), b""))
        session.api.call("PUT", where, {"path": path, **query}, iter(sent), {"Content-Type": "application/x-tar"})
        return sent.count
    here = _source(_absolute(source), follow)
    folder, old, new = _placed(here, target)
    options = ["-c", "--format=posix", "--numeric-owner", "--xattrs", *_renaming(old, new), "-C", _parent(here.path)]
    if here.path == "/" or _base(here.path) == ".":
        options[-1], old = here.path, "."
    with subprocess.Popen([_tar(), *options, "-f", "-", "--", old], stdout=subprocess.PIPE) as packing:
        assert packing.stdout is not None
        output = packing.stdout
        sent = _Counted(iter(lambda: output.read(BLOCK), b""))
        try:
            session.api.call("PUT", where, {"path": folder, **query}, iter(sent), {"Content-Type": "application/x-tar"})
        finally:
            output.close()
    if packing.returncode:
        raise ClientError(f"the copy of {source} is not complete: tar ended with status {packing.returncode}")
    return sent.count


def _source(path: str, follow: bool) -> End:
    """What is to be copied from this host. Raises ClientError."""
    try:
        if follow or (path.endswith("/") and os.path.islink(path.rstrip("/"))):
            resolved = os.path.realpath(path, strict=True)
            return _follow(path, resolved, os.path.isdir(resolved))
        return End(path, directory=stat.S_ISDIR(os.lstat(path).st_mode))
    except OSError as error:
        raise ClientError(f"lstat {path}: {(error.strerror or '').lower()}") from None


class _Counted:
    """Blocks that are counted while they are taken."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            self.count += len(block)
            yield block
