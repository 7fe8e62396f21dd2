"""``pier load``, ``pier save`` and ``pier import``, ``pier export`` and ``pier commit``."""

import os
import stat
import sys
from collections.abc import Iterator
from typing import BinaryIO

from pierhead.client.api import quote
from pierhead.client.connection import Response
from pierhead.client.errors import ClientError
from pierhead.client.flags import Options
from pierhead.client.platforms import as_json
from pierhead.client.progress import Display
from pierhead.client.session import Session

BLOCK = 1 << 20


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _open(path: str) -> BinaryIO:
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise ClientError(f"open {path}: {(error.strerror or '').lower()}") from None


def load(session: Session, options: Options) -> int:
    """Load an archive's images."""
    path = options.text("input")
    if path:
        source = _open(path)
    else:
        if os.isatty(0):
            raise ClientError("requested load from stdin, but stdin is empty")
        source = sys.stdin.buffer
    quiet = options.on("quiet") or not os.isatty(1)
    # Said outright: who says nothing of it gets no progress.
    query = {"quiet": "1" if quiet else "0", "platform": as_json(options.text("platform"))}
    api = session.api
    answer = api.call("POST", "/images/load", query, _blocks(source), {"Content-Type": "application/x-tar"}, own=True)
    if answer.headers.get("content-type", "").startswith("application/json"):
        Display(sys.stdout).show(answer)
    else:
        for block in answer.blocks():
            sys.stdout.buffer.write(block)
    return 0


def save(session: Session, options: Options) -> int:
    """Write images as one archive."""
    path = _output(options, "save image")
    query = {"names": options.operands, "platform": as_json(options.text("platform"))}
    _write(session.api.call("GET", "/images/get", query, own=True), path, "save image")
    return 0


def export(session: Session, options: Options) -> int:
    """Write a container's files as an archive."""
    path = _output(options, "export container")
    answer = session.api.call("GET", f"/containers/{quote(options.operands[0])}/export", own=True)
    _write(answer, path, "export container")
    return 0


def _output(options: Options, what: str) -> str:
    """The file to write to, which could be written; empty: to stdout. Raises ClientError."""
    path = options.text("output")
    if not path and os.isatty(1):
        raise ClientError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    folder = os.path.dirname(path)
    if folder and not os.path.isdir(folder):
        raise ClientError(
            f"failed to {what}: invalid output path: stat {folder}: no such file or directory"
            if not os.path.exists(folder)
            else f'failed to {what}: invalid output path: "{folder}" is not a directory'
        )
    if path and stat.S_ISCHR(_mode(path)):
        raise ClientError(f"failed to {what}: cannot write to a character device file")
    return path


def _write(answer: Response, path: str, what: str) -> None:
    if not path:
        sys.stdout.flush()
        for block in answer.blocks():
            sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
        return
    # Beside the target and renamed, so that a broken transfer leaves no half archive under the name.
    partial = f"{path}.{os.getpid()}.partial"
    try:
        with open(partial, "xb") as file:
            for block in answer.blocks():
                file.write(block)
        os.rename(partial, path)
    except OSError as error:
        raise ClientError(f"failed to {what}: {error.filename or path}: {error.strerror or error}") from None
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


def _mode(path: str) -> int:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return 0


def commit(session: Session, options: Options) -> int:
    """Make an image of a container and print its id."""
    container, name = (*options.operands, "")[:2]
    repository, tag = _repository(name)
    query = {
        "container": container,
        "repo": repository,
        "tag": tag,
        "author": options.text("author"),
        "comment": options.text("message"),
        "changes": options.all("change"),
        "pause": "1" if options.on("pause") else "0",
    }
    print(session.api.post("/commit", query)["Id"])
    return 0


def import_(session: Session, options: Options) -> int:
    """Make an image of one tarball of a root file system."""
    source = options.operands[0]
    name = options.operands[1] if len(options.operands) > 1 else ""
    body: Iterator[bytes] | None = None
    from_source = "-"
    if source.startswith(("http://", "https://", "ftp://")):
        from_source = source
    else:
        body = _blocks(sys.stdin.buffer if source == "-" else _open(source))
    repository, tag = _repository(name)
    query = {
        "fromSrc": from_source,
        "repo": repository,
        "tag": tag,
        "message": options.text("message"),
        "changes": options.all("change"),
        "platform": options.text("platform"),
    }
    answer = session.api.call(
        "POST", "/images/create", query, body, {"Content-Type": "application/x-tar"} if body else {}, own=True
    )
    Display(sys.stdout).show(answer)
    return 0


def _repository(name: str) -> tuple[str, str]:
    if not name:
        return "", ""
    from pierhead.errors import PierheadError
    from pierhead.reference import parse

    try:
        parse(name)
    except PierheadError as error:
        raise ClientError(str(error)) from None
    repository, colon, tag = name.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (name, "")
