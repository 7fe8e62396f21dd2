"""What `pier system fsck` and `trim` share: a stream of Pierhead's own, its progress drawn in one line."""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from pierhead.client.errors import ClientError, DaemonError
from pierhead.client.progress import Line
from pierhead.client.session import Session


def told(session: Session, name: str, query: Mapping[str, str], doing: str) -> Iterator[dict[str, Any]]:
    """The messages of ``POST /system/NAME`` but for progress, which is shown as ``doing`` something.

    Raises ClientError, also for a daemon that is not ours.
    """
    try:
        answer = session.api.call("POST", f"/system/{name}", query, b"", own=True)
    except DaemonError as error:
        if error.code == 404:
            raise ClientError(f"This daemon has no {name}: it is not Pierhead's.") from None
        raise
    shown = Line(sys.stdout)
    for line in answer.lines():
        message = json.loads(line)
        if "Progress" in message:
            shown.show(doing, message["Progress"])
            continue
        shown.clear()
        if message.get("error"):
            raise ClientError(str(message["error"]))
        yield message
