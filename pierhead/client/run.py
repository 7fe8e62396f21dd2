"""``pier run`` and ``pier create``."""

import os
import sys
from contextlib import ExitStack
from typing import Any

from pierhead.client.api import quote
from pierhead.client.attached import Waiter, check_terminal, converse, detach_keys, open_stream, proxy, resizer
from pierhead.client.errors import ClientError, DaemonError, Quit
from pierhead.client.flags import Options
from pierhead.client.run_options import request
from pierhead.client.session import Session


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
    cidfile = options.text("cidfile")
    if cidfile and os.path.exists(cidfile):
        raise ClientError(f"container ID file found, make sure the other container isn't running or delete {cidfile}")
    query = {"name": options.text("name"), "platform": options.text("platform")}
    if pull == "always":
        _pull(session, options)
    try:
        answer = session.api.post("/containers/create", query, body)
    except DaemonError as error:
        if error.code != 404 or pull != "missing" or "o such image" not in error.reason:
            raise
        if not options.on("quiet"):
            session.warn(f"Unable to find image '{_tagged(options.operands[0])}' locally")
        _pull(session, options)
        answer = session.api.post("/containers/create", query, body)
    _warn_of_localhost_dns(session, options)
    for warning in answer.get("Warnings") or ():
        session.warn(f"WARNING: {warning}")
    if cidfile:
        with open(cidfile, "x", encoding="ascii") as file:
            file.write(answer["Id"])
    return str(answer["Id"])


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
        raise _fail(session, str(error)) from None
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
        raise _fail(session, str(error), _start_status(error.reason)) from None


def _start_status(reason: str) -> int:
    """Docker's mapping of a failed start to a shell's exit statuses."""
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
