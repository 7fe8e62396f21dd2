"""Commands that move containers from state to state: stop, restart, kill, pause, unpause, rename, rm, wait."""

import sys
from collections.abc import Callable
from typing import Any

from pierhead.client.api import Query, quote
from pierhead.client.errors import ClientError, DaemonError
from pierhead.client.flags import Options
from pierhead.client.session import Session


def each(session: Session, names: list[str], act: Callable[[str], object], echo: bool = True) -> int:
    """Do it for every name and print the name; failures are said and do not stop the others. 1 if any failed."""
    failed = False
    for name in names:
        try:
            act(name)
        except DaemonError as error:
            session.warn(str(error))
            failed = True
            continue
        if echo:
            print(name)
            sys.stdout.flush()
    return int(failed)


def _post(session: Session, verb: str, query: Query) -> Callable[[str], object]:
    return lambda name: session.api.post(f"/containers/{quote(name)}/{verb}", query)


def _patience(options: Options) -> dict[str, Any]:
    seconds = options.text("time") if options.given("time") else options.text("timeout")
    given = options.given("time") or options.given("timeout")
    if options.given("time") and options.given("timeout"):
        raise ClientError("conflicting options: cannot specify both --timeout and --time")
    return {"signal": options.text("signal"), "t": int(seconds) if given else None}


def stop(session: Session, options: Options) -> int:
    """Stop."""
    return each(session, options.operands, _post(session, "stop", _patience(options)))


def restart(session: Session, options: Options) -> int:
    """Stop and start."""
    return each(session, options.operands, _post(session, "restart", _patience(options)))


def kill(session: Session, options: Options) -> int:
    """Send a signal."""
    return each(session, options.operands, _post(session, "kill", {"signal": options.text("signal")}))


def pause(session: Session, options: Options) -> int:
    """Freeze."""
    return each(session, options.operands, _post(session, "pause", {}))


def unpause(session: Session, options: Options) -> int:
    """Thaw."""
    return each(session, options.operands, _post(session, "unpause", {}))


def rename(session: Session, options: Options) -> int:
    """Give another name."""
    old, new = (name.strip() for name in options.operands)
    if not old or not new:
        raise ClientError("Error: Neither old nor new names may be empty")
    try:
        session.api.post(f"/containers/{quote(old)}/rename", {"name": new})
    except DaemonError as error:
        raise ClientError(f"{error}\nError: failed to rename container named {old}") from None
    return 0


def rm(session: Session, options: Options) -> int:
    """Remove."""
    from pierhead.client.reclaimed import Reclaimed

    query = {"v": options.on("volumes"), "link": options.on("link"), "force": options.on("force")}
    total = Reclaimed()

    def remove(name: str) -> None:
        name = name.strip("/")
        if not name:
            raise ClientError("Container name cannot be empty")
        try:
            total.read(session.api.remove(f"/containers/{quote(name)}", query)[1])
        except DaemonError as error:
            if not (options.on("force") and error.code == 404):
                raise
            session.warn(str(error))
            raise Missing from None

    failed = 0
    for name in options.operands:
        try:
            failed |= each(session, [name], remove)
        except Missing:
            continue
    if options.on("space"):
        total.show()
    return failed


class Missing(Exception):
    """Not there, which ``--force`` forgives."""


def wait(session: Session, options: Options) -> int:
    """Print the exit status of each container once it has ended."""
    import json

    failed = False
    for name in options.operands:
        try:
            answer = session.api.call("POST", f"/containers/{quote(name)}/wait", own=True)
            print(json.loads(answer.read())["StatusCode"])
            sys.stdout.flush()
        except DaemonError as error:
            session.warn(str(error))
            failed = True
    return int(failed)
