"""``pier exec``."""

import os
from contextlib import ExitStack
from typing import Any

from pierhead.client.api import quote
from pierhead.client.attached import check_terminal, converse, detach_keys, resizer
from pierhead.client.errors import ClientError
from pierhead.client.flags import Options
from pierhead.client.run_options import environment
from pierhead.client.session import Session


def exec_(session: Session, options: Options) -> int:
    """Run a command in a running container; its exit status."""
    container, *command = options.operands
    detach, tty = options.on("detach"), options.on("tty")
    stdin = options.on("interactive") and not detach
    keys = detach_keys(session, options.text("detach-keys"))
    config: dict[str, Any] = {
        "User": options.text("user"),
        "Privileged": options.on("privileged"),
        "Tty": tty,
        "AttachStdin": stdin,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "DetachKeys": keys,
        "Env": environment(options),
        "WorkingDir": options.text("workdir"),
        "Cmd": command,
    }
    api = session.api
    api.get(f"/containers/{quote(container)}/json")
    if not detach:
        check_terminal(tty, stdin)
    id = api.post(f"/containers/{quote(container)}/exec", {}, {k: v for k, v in config.items() if v or k == "Cmd"})[
        "Id"
    ]
    if detach:
        api.post(f"/exec/{id}/start", {}, {"Detach": True, "Tty": tty})
        return 0
    with ExitStack() as stack:
        stream = api.hijack(f"/exec/{id}/start", {}, {"Detach": False, "Tty": tty})
        watch = resizer(api, f"/exec/{id}/resize") if tty and os.isatty(1) else None
        if watch is not None:
            watch.now(10)
        if converse(stream, stack, tty, stdin, watch, keys):
            raise ClientError("read escape sequence")
    return int(api.get(f"/exec/{id}/json").get("ExitCode") or 0)
