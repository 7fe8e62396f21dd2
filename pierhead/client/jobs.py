"""``pier jobs``, and the waterfall of ``pier run --trace``: what the daemon's parts did, and for how long."""

import sys
from collections.abc import Iterator
from typing import Any, TextIO

from pierhead.client.errors import ClientError, DaemonError
from pierhead.client.flags import Options
from pierhead.client.session import Session
from pierhead.client.table import Columns, show

BAR = 40


def _reports(session: Session) -> list[Any]:
    try:
        found = session.api.get("/pierhead/jobs")
    except DaemonError as error:
        if error.code == 404:
            raise ClientError("This daemon does not tell about its jobs: it is not Pierhead's.") from None
        raise
    return list(found or ())


def _length(job: Any) -> float:
    """Milliseconds; of a running job so far unknown: 0."""
    return max(0, (job.get("ended") or 0) - job["started"]) / 1e6


def jobs(session: Session, options: Options) -> int:
    """List jobs: the running ones, with ``--all`` those of late too, with ``--trace`` their phases."""
    found = _reports(session)
    if options.operands:
        found = [job for job in _flat(found) if str(job["id"]) == options.operands[0]]
        if not found:
            raise ClientError(f"No such job: {options.operands[0]}")
    elif not options.on("all") and not options.on("trace"):
        found = [job for job in found if not job.get("ended")]
    if options.on("trace") or options.operands:
        waterfall(sys.stdout, found)
        return 0
    format = options.text("format")
    if not format or format == "table":
        format = "table {{.ID}}\t{{.Name}}\t{{.Subject}}\t{{.Duration}}\t{{.Outcome}}"
    show(format, COLUMNS, found)
    return 0


def _flat(found: list[Any]) -> Iterator[Any]:
    for job in found:
        yield job
        yield from _flat(job.get("children") or [])


COLUMNS: Columns = {
    "Duration": ("DURATION", lambda job: f"{_length(job):.1f} ms" if job.get("ended") else "running"),
    "ID": ("JOB ID", lambda job: str(job["id"])),
    "Name": ("NAME", lambda job: str(job["name"])),
    "Outcome": ("OUTCOME", lambda job: str(job.get("outcome") or "")),
    "Subject": ("SUBJECT", lambda job: str(job.get("subject") or "")[:24]),
}


class Recorder:
    """Remembers which jobs there were, so that afterwards only the new ones are shown."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.last = max((int(job["id"]) for job in _flat(_reports(session))), default=0)

    def show(self, out: TextIO, container: str) -> None:
        """The waterfall of what has happened since."""
        found = [job for job in _reports(self.session) if int(job["id"]) > self.last]
        waterfall(out, found)


def waterfall(out: TextIO, found: list[Any]) -> None:
    """One line a span: its place on the common time line as a bar, its duration, its name, indented below its parent."""
    found = sorted(found, key=lambda job: int(job["started"]))
    if not found:
        out.write("no jobs\n")
        return
    spans = list(_flat(found))
    begin = min(int(span["started"]) for span in spans)
    end = max(int(span.get("ended") or span["started"]) for span in spans)
    scale = BAR / max(1, end - begin)
    out.write(f"{'TIMELINE'.ljust(BAR + 2)}{'DURATION':>10}  JOB\n")
    for depth, span in _nested(found, 0):
        first = int((span["started"] - begin) * scale)
        length = max(1, round(((span.get("ended") or end) - span["started"]) * scale))
        bar = (" " * min(first, BAR - 1) + "█" * length)[:BAR].ljust(BAR)
        outcome = span.get("outcome") or ""
        failed = f"  ✗ {outcome}" if outcome not in ("", "OK") else ""
        duration = f"{_length(span):.1f} ms" if span.get("ended") else "running"
        subject = f"  {str(span['subject'])[:12]}" if span.get("subject") else ""
        out.write(f"{bar}  {duration:>10}  {'  ' * depth}{span['name']}{subject}{failed}\n")


def _nested(found: list[Any], depth: int) -> Iterator[tuple[int, Any]]:
    for job in sorted(found, key=lambda job: int(job["started"])):
        yield depth, job
        yield from _nested(job.get("children") or [], depth + 1)
