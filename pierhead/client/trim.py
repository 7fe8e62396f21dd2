"""``pier system trim``."""

import json
import sys

from pierhead.client.errors import ClientError, DaemonError
from pierhead.client.flags import Options
from pierhead.client.progress import Line
from pierhead.client.session import Session
from pierhead.client.units import human_size


def trim(session: Session, options: Options) -> int:
    """Give free space back; 1 where no file system of the daemon's could."""
    try:
        answer = session.api.call("POST", "/system/trim", {}, b"", own=True)
    except DaemonError as error:
        if error.code == 404:
            raise ClientError("This daemon has no trim: it is not Pierhead's.") from None
        raise
    shown = Line(sys.stdout)
    trimmed: list[int] = []
    for line in answer.lines():
        message = json.loads(line)
        if message.get("error"):
            shown.clear()
            raise ClientError(str(message["error"]))
        if "Progress" in message:
            shown.show("Trimming", message["Progress"])
            continue
        shown.clear()
        result = message["Result"]
        where = f"{result['Path']} ({result['Kind']} on {result['Device']})"
        if result.get("Error"):
            print(f"{where}: {result['Error']}", file=sys.stderr)
        else:
            print(f"{where}: {human_size(result['Trimmed'])} given back")
            trimmed.append(result["Trimmed"])
    return 0 if trimmed else 1
