"""``pier network check``: the way from one to another, step by step; exit status 0 if it leads there, else 1."""

import json
import sys
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from pierhead.client.errors import ClientError, DaemonError
from pierhead.client.flags import Options
from pierhead.client.session import Session

WIDTH = 100
MARKS = {"ok": ("✓", "32"), "unknown": ("?", "33"), "failed": ("✗", "31")}
"""By status: the mark, and how a terminal colours it (SGR)."""


def check(session: Session, options: Options) -> int:
    """Ask the daemon, print what it has seen."""
    if options.text("format") not in ("text", "json"):
        raise ClientError(f'unknown format "{options.text("format")}": must be one of "text", "json"')
    source, destination = options.operands
    try:
        found = session.api.get("/pierhead/network/check", {"source": source, "destination": destination})
    except DaemonError as error:
        if error.code == 404 and "page not found" in str(error):
            raise ClientError("This daemon checks no connections: it is not Pierhead's.") from None
        raise
    if options.text("format") == "json":
        print(json.dumps(found, indent=4))
    else:
        for line in lines(found, colours=sys.stdout.isatty()):
            print(line)
    return 0 if found["reachable"] else 1


def lines(found: Any, *, colours: bool = False) -> Iterator[str]:
    """The report. Pure; at most WIDTH columns wide."""

    def painted(text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[m" if colours else text

    yield painted(f"{found['source']} → {found['destination']}", "1")
    for step in found["steps"]:
        mark, colour = MARKS[step["status"]]
        head = f"{step['name']:8}  "
        texts = [line for fact in step["text"].split("; ") for line in wrap(fact, WIDTH - len(head) - 2)]
        for number, text in enumerate(texts):
            begin = f"{painted(mark, colour)} {head}" if number == 0 else " " * (len(head) + 2)
            yield begin + (painted(text, colour) if step["status"] == "failed" else text)
        if step.get("remedy"):
            for number, text in enumerate(wrap(step["remedy"], WIDTH - len(head) - 4)):
                yield " " * (len(head) + 2) + ("→ " if number == 0 else "  ") + text
    if found["reachable"]:
        doubtful = any(step["status"] == "unknown" for step in found["steps"])
        verdict = "reachable, as far as it can be told" if doubtful else "reachable"
        yield painted(verdict, "33" if doubtful else "32")
    else:
        yield painted(f"not reachable: it ends at the {found['steps'][-1]['name']}", "31")
