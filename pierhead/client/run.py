"""``pier run`` and ``pier create``."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TextIO

from pierhead.client.api import quote
from pierhead.client.attached import Waiter, check_terminal, converse, detach_keys, open_stream, proxy, resizer
from pierhead.client.errors import ClientError, DaemonError, Quit
from pierhead.client.flags import Options
from pierhead.client.run_options import request
from pierhead.client.session import Session

_NO_IMAGE = ("o such image", "does not match the specified platform")
"""What a create says that a pull may mend. Other things that are not found have the same status."""


def _fail(session: Session, message: str, status: int = 125) -> Quit:
    sys.stdout.flush()
    print(f"pier: {message}\n\nRun 'pier {session.path} --help' for more information", file=sys.stderr)
    return Quit(status)


def create(session: Session, options: Options) -> int:
    """Create a container and print its id."""
    try:
        body = request(options)
    except ClientError as error:
        raise _fail(session, str(error)) from None
    print(_create(session, options, body))
    return 0


def _create(session: Session, options: Options, body: dict[str, Any]) -> str:
    """Make the container, pulling its image first where that is due; the id. Says warnings on standard error.

    Raises ClientError.
    """
    pull = options.text("pull")
    if pull not in ("always", "missing", "never", ""):
        raise _fail(session, f'invalid pull option: \'{pull}\': must be one of "always", "missing" or "never"')
    query = {"name": options.text("name"), "platform": _platform(options.text("platform"))}
    _warn_of_localhost_dns(session, options)
    with _id_file(options.text("cidfile")) as file:
        answer = _created(session, options, pull, query, body)
        for warning in answer.get("Warnings") or ():
            session.warn(f"WARNING: {warning}")
        if file is not None:
            file.write(answer["Id"])
    return str(answer["Id"])


def _created(
    session: Session, options: Options, pull: str, query: dict[str, str], body: dict[str, Any]
) -> dict[str, Any]:
    """The daemon's answer, after a pull where that is due."""
    if pull == "always":
        _pull(session, options)
    try:
        answer: dict[str, Any] = session.api.post("/containers/create", query, body)
    except DaemonError as error:
        if error.code != 404 or pull != "missing" or not any(words in error.reason for words in _NO_IMAGE):
            raise
        if not options.on("quiet"):
            session.warn(f"Unable to find image '{_tagged(options.operands[0])}' locally")
        _pull(session, options)
        answer = session.api.post("/containers/create", query, body)
    return answer


@contextmanager
def _id_file(path: str) -> Iterator[TextIO | None]:
    """The file that is to hold a container's id, made beforehand; gone again where there is none to write."""
    if not path:
        yield None
        return
    if os.path.exists(path):
        raise ClientError(f"container ID file found, make sure the other container isn't running or delete {path}")
    try:
        file = open(path, "x", encoding="ascii")
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise ClientError(f"failed to create the container ID file: open {path}: {reason}") from None
    try:
        with file:
            yield file
    finally:
        with suppress(FileNotFoundError):  # somebody may have taken it away
            if not os.path.getsize(path):
                os.unlink(path)


def _platform(text: str) -> str:
    """A platform that there may be. Raises ClientError."""
    if text:
        from pierhead.errors import PierheadError
        from pierhead.manifest import Platform, parse_platform

        try:
            parse_platform(text, Platform("linux", "amd64"))
        except PierheadError as error:
            raise ClientError(f"error parsing specified platform: {error}") from None
    return text


def _tagged(image: str) -> str:
    from pierhead.reference import parse

    return parse(image).tagged().familiar


def _warn_of_localhost_dns(session: Session, options: Options) -> None:
    for address in options.all("dns"):
        if address.startswith("127.") or address == "::1":
            session.warn(f"WARNING: Localhost DNS setting (--dns={address}) may fail in containers.")
            return


def _pull(session: Session, options: Options) -> None:
    from pierhead.client.pull import pull_image

    pull_image(session, options.operands[0], options.text("platform"), sys.stderr, options.on("quiet"))


def run(session: Session, options: Options) -> int:
    """Create, attach, start, wait: in this order, so that no output and no end is missed."""
    detach = options.on("detach")
    try:
        body = request(options)
    except ClientError as error:
        raise _fail(session, str(error)) from None
    if detach and options.all("attach"):
        raise ClientError("conflicting options: cannot specify both --attach and --detach")
    tty, stdin = bool(body.get("Tty")), bool(body.get("AttachStdin"))
    if not detach:
        check_terminal(tty, stdin)
    trace = _Trace(session) if options.on("trace") else None
    rows, columns = (0, 0)
    if tty and not detach:
        from pierhead.client.streams import window

        rows, columns = window()
        if rows or columns:
            body.setdefault("HostConfig", {})["ConsoleSize"] = [rows, columns]
    try:
        container = _create(session, options, body)
    except ClientError as error:
        raise _fail(session, str(error), _status_of(str(error))) from None
    if detach or not (stdin or body.get("AttachStdout") or body.get("AttachStderr")):
        _start(session, container, None)
        print(container)
        status = 0
    else:
        status = _attached(session, options, container, body)
    if trace is not None:
        trace.show(container)
    return status


class _Trace:
    """The waterfall of what the daemon did between two moments."""

    def __init__(self, session: Session) -> None:
        from pierhead.client.jobs import Recorder

        self.recorder = Recorder(session)

    def show(self, container: str) -> None:
        sys.stdout.flush()
        self.recorder.show(sys.stderr, container)


def _start(session: Session, container: str, waiter: Waiter | None) -> None:
    try:
        session.api.post(f"/containers/{quote(container)}/start")
    except DaemonError as error:
        if waiter is not None:
            waiter.answer.connection.close()
        raise _fail(session, str(error), _status_of(error.reason)) from None


def _status_of(reason: str) -> int:
    """Docker's mapping of a container that could not be made or started to a shell's exit statuses: by the words."""
    words = ("executable file not found", "no such file or directory", "system cannot find the file specified")
    if any(word in reason for word in words):
        return 127
    if "permission denied" in reason or "is a directory" in reason:
        return 126
    return 125


def _attached(session: Session, options: Options, container: str, body: dict[str, Any]) -> int:
    tty, stdin = bool(body.get("Tty")), bool(body.get("AttachStdin"))
    api = session.api
    with ExitStack() as stack:
        if options.on("sig-proxy"):
            stack.enter_context(proxy(api, container))
        stream = open_stream(
            session,
            container,
            stdin,
            bool(body.get("AttachStdout")),
            bool(body.get("AttachStderr")),
            options.text("detach-keys"),
        )
        waiter = Waiter(api, container, "removed" if options.on("rm") else "next-exit")
        _start(session, container, waiter)
        watch = resizer(api, f"/containers/{container}/resize") if tty and os.isatty(1) else None
        if watch is not None:
            watch.now(10)
        if converse(stream, stack, tty, stdin, watch, detach_keys(session, options.text("detach-keys"))):
            waiter.answer.connection.close()
            return 0
        return waiter.status()
