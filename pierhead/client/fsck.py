"""``pier system fsck``."""

import json
import sys
from typing import Any

from pierhead.client.errors import ClientError
from pierhead.client.flags import Options
from pierhead.client.session import Session
from pierhead.client.upkeep import told


def fsck(session: Session, options: Options) -> int:
    """Show every difference as it is found; 1 where one is left."""
    if options.text("format") not in ("", "json"):
        raise ClientError('the only format is "json"')
    query = {name: "1" for name in ("deep", "repair") if options.on(name)}
    plain = options.text("format") == "json"
    for message in told(session, "fsck", query, "Comparing"):
        if plain:
            sys.stdout.write(f"{json.dumps(next(iter(message.values())), ensure_ascii=False)}\n")
        elif "Difference" in message:
            sys.stdout.write(_difference(message["Difference"], options.on("repair")))
        sys.stdout.flush()
        if "Result" in message:
            result = message["Result"]
            if not plain:
                print(_summary(result["Found"], result["Left"]))
            return 1 if result["Left"] else 0
    raise ClientError("the daemon ended before the comparison did")


def _difference(found: Any, repair: bool) -> str:
    text = f"{found['Kind']} {found['Area']}: {found['Found']}\n"
    if found["Mended"]:
        return text + f"  mended: {found['Repair']}\n"
    if found.get("Error"):
        return text + f"  could not be mended: {found['Error']}\n"
    if found["Mendable"] and not repair:
        return text + f"  with --repair {found['Repair']}\n"
    return text + f"  {found['Repair']}\n"


def _summary(found: int, left: int) -> str:
    if not found:
        return "No differences."
    count = f"{found} difference{'s' if found > 1 else ''}"
    return f"{count}, {found - left} mended, {left} left."
