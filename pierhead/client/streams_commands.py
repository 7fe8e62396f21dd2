"""``pier attach`` and ``pier logs``."""

import os
import time
from contextlib import ExitStack

from pierhead.client.api import quote
from pierhead.client.attached import Waiter, check_terminal, converse, detach_keys, open_stream, proxy, resizer
from pierhead.client.errors import ClientError
from pierhead.client.flags import Options
from pierhead.client.session import Session
from pierhead.client.streams import Demultiplexer, Raw
from pierhead.client.values import duration


def attach(session: Session, options: Options) -> int:
    """Join this terminal to a running container's streams."""
    container = options.operands[0]
    api = session.api
    found = api.get(f"/containers/{quote(container)}/json")
    state, config = found["State"], found["Config"]
    if not state.get("Running"):
        raise ClientError("You cannot attach to a stopped container, start it first")
    if state.get("Paused"):
        raise ClientError("You cannot attach to a paused container, unpause it first")
    if state.get("Restarting"):
        raise ClientError("You cannot attach to a restarting container, wait until it is running")
    tty = bool(config.get("Tty"))
    stdin = bool(config.get("OpenStdin")) and not options.on("no-stdin")
    check_terminal(tty, stdin)
    keys = detach_keys(session, options.text("detach-keys"))
    with ExitStack() as stack:
        if options.on("sig-proxy") and not tty:
            stack.enter_context(proxy(api, container))
        waiter = Waiter(api, container, "")
        stream = open_stream(session, container, stdin, True, True, keys)
        watch = resizer(api, f"/containers/{quote(container)}/resize") if tty and os.isatty(1) else None
        if watch is not None:
            watch.now()
        if converse(stream, stack, tty, stdin, watch, keys):
            raise ClientError("read escape sequence")
    return waiter.status()


def logs(session: Session, options: Options) -> int:
    """Print a container's output so far; with ``-f``, what follows too. With ``--truncate`` delete it instead."""
    container = options.operands[0]
    api = session.api
    if options.on("truncate"):
        from pierhead.client.reclaimed import Reclaimed

        if options.on("follow"):
            raise ClientError("conflicting options: cannot specify both --follow and --truncate")
        total = Reclaimed()
        total.add(api.post(f"/pierhead/containers/{quote(container)}/logs/truncate"))
        total.show()
        return 0
    tty = bool(api.get(f"/containers/{quote(container)}/json")["Config"].get("Tty"))
    query = {
        "stdout": True,
        "stderr": True,
        "since": moment(options.text("since")),
        "until": moment(options.text("until")),
        "timestamps": options.on("timestamps"),
        "follow": options.on("follow"),
        "tail": options.text("tail"),
        "details": options.on("details"),
    }
    answer = api.call("GET", f"/containers/{quote(container)}/logs", query, own=True)
    target = Raw() if tty else Demultiplexer()
    for block in answer.blocks():
        target.feed(block)
    return 0


def moment(text: str) -> str:
    """``42m``, an RFC 3339 time or seconds since 1970, as the API's seconds with nanoseconds.

    Raises ClientError where it is none of these.
    """
    if text in ("", "0"):  # 0 is the beginning, and no time back from now
        return text
    length = duration(text)
    if length is not None:
        nanoseconds = time.time_ns() - length
        return f"{nanoseconds // 1_000_000_000}.{nanoseconds % 1_000_000_000:09d}"
    if text.replace(".", "", 1).isdigit():
        return text
    import datetime

    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ClientError(f'invalid value for "since": failed to parse value as time or duration: "{text}"') from None
    fraction = text.partition(".")[2].rstrip("Z").partition("+")[0].partition("-")[0] if "." in text else ""
    return f"{int(found.timestamp())}.{(fraction + '000000000')[:9]}"
