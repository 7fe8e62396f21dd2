"""``pier diff``, ``pier port`` and ``pier top``."""

import sys

from pierhead.client.api import quote
from pierhead.client.errors import ClientError
from pierhead.client.flags import Options
from pierhead.client.ports import bracketed
from pierhead.client.session import Session
from pierhead.client.table import align

KINDS = "CAD"


def diff(session: Session, options: Options) -> int:
    """What a container changed of its image: Changed, Added, Deleted."""
    name = options.operands[0]
    if not name:
        raise ClientError("Container name cannot be empty")
    for change in session.api.get(f"/containers/{quote(name)}/changes") or ():
        print(f"{KINDS[change['Kind']]} {change['Path']}")
    return 0


def port(session: Session, options: Options) -> int:
    """Where a container's ports are published."""
    name = options.operands[0]
    ports = session.api.get(f"/containers/{quote(name)}/json")["NetworkSettings"].get("Ports") or {}
    lines = []
    if len(options.operands) > 1:
        wanted = options.operands[1] if "/" in options.operands[1] else options.operands[1] + "/tcp"
        bindings = ports.get(wanted)
        if not bindings:
            raise ClientError(f"Error: No public port '{options.operands[1]}' published for {name}")
        lines = [f"{bracketed(entry['HostIp'])}:{entry['HostPort']}" for entry in bindings]
    else:
        for inside, bindings in ports.items():
            lines += [f"{inside} -> {bracketed(entry['HostIp'])}:{entry['HostPort']}" for entry in bindings or ()]

        def order(line: str) -> tuple[int, str]:
            return int(line.partition("/")[0]), line

        lines.sort(key=order)
    sys.stdout.write("".join(line + "\n" for line in lines))
    return 0


def top(session: Session, options: Options) -> int:
    """A container's processes, as ``ps`` shows them."""
    name, *arguments = options.operands
    found = session.api.get(f"/containers/{quote(name)}/top", {"ps_args": " ".join(arguments)})
    rows = [found["Titles"], *(found["Processes"] or ())]
    sys.stdout.write(align("".join("\t".join(row) + "\n" for row in rows), minimum=20))
    return 0
