"""``pier system trim``."""

import sys

from pierhead.client.flags import Options
from pierhead.client.session import Session
from pierhead.client.units import human_size
from pierhead.client.upkeep import told


def trim(session: Session, options: Options) -> int:
    """Give free space back; 1 where no file system of the daemon's could."""
    trimmed: list[int] = []
    for message in told(session, "trim", {}, "Trimming"):
        result = message["Result"]
        where = f"{result['Path']} ({result['Kind']} on {result['Device']})"
        if result.get("Error"):
            print(f"{where}: {result['Error']}", file=sys.stderr)
        else:
            print(f"{where}: {human_size(result['Trimmed'])} given back")
            trimmed.append(result["Trimmed"])
    return 0 if trimmed else 1
