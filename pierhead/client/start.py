"""``pier start``."""

import os
import sys
from contextlib import ExitStack

from pierhead.client.api import quote
from pierhead.client.attached import Waiter, check_terminal, converse, detach_keys, open_stream, proxy, resizer
from pierhead.client.errors import ClientError, DaemonError
from pierhead.client.flags import Options
from pierhead.client.session import Session


def start(session: Session, options: Options) -> int:
    """Start stopped containers; with ``-a`` or ``-i`` one, joined to this terminal."""
    if options.on("attach") or options.on("interactive"):
        if len(options.operands) > 1:
            raise ClientError("you cannot start and attach multiple containers at once")
        return _attached(session, options, options.operands[0])
    failed = []
    for name in options.operands:
        try:
            session.api.post(f"/containers/{quote(name)}/start")
        except DaemonError as error:
            session.warn(str(error))
            failed.append(name)
            continue
        print(name)
        sys.stdout.flush()
    if failed:
        raise ClientError(f"Error: failed to start containers: {', '.join(failed)}")
    return 0


def _attached(session: Session, options: Options, name: str) -> int:
    api = session.api
    found = api.get(f"/containers/{quote(name)}/json")
    config, host = found["Config"], found["HostConfig"]
    tty = bool(config.get("Tty"))
    stdin = options.on("interactive") and bool(config.get("OpenStdin"))
    keys = detach_keys(session, options.text("detach-keys"))
    check_terminal(tty, stdin)
    with ExitStack() as stack:
        if options.on("sig-proxy") and not tty:
            stack.enter_context(proxy(api, name))
        stream = open_stream(session, found["Id"], stdin, True, True, keys)
        waiter = Waiter(api, found["Id"], "removed" if host.get("AutoRemove") else "next-exit")
        try:
            api.post(f"/containers/{found['Id']}/start")
        except DaemonError as error:
            session.warn(str(error))
            raise ClientError(f"Error: failed to start containers: {name}") from None
        watch = resizer(api, f"/containers/{found['Id']}/resize") if tty and os.isatty(1) else None
        if watch is not None:
            watch.now(10)
        if converse(stream, stack, tty, stdin, watch, keys):
            waiter.answer.connection.close()
            return 0
    return waiter.status()
