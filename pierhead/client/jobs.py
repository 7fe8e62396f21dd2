"""``pier jobs``, and the waterfall of ``pier run --trace``: what the daemon's parts did, and for how long."""

import sys
import time
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


def _length(job: Any) -> str:
    """Its duration in words."""
    return "running" if job.get("duration") is None else f"{job['duration'] / 1e6:.1f} ms"


def jobs(session: Session, options: Options) -> int:
    """List jobs: the running ones, with ``--all`` those of late too, with ``--trace`` their phases."""
    found = _reports(session)
    if options.operands:
        found = [job for job in _flat(found) if str(job["id"]) == options.operands[0]]
        if not found:
            raise ClientError(f"No such job: {options.operands[0]}")
    elif not options.on("all") and not options.on("trace"):
        found = [job for job in found if job.get("duration") is None]
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
    "Duration": ("DURATION", _length),
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
        self.requests: list[Any] = []
        session.api.told = self._request

    def _request(self, what: str, begun: int) -> None:
        short = "/".join(part[:12] if len(part) == 64 else part for part in what.split("/"))
        span = {"id": 0, "name": f"client: {short}", "at": begun, "duration": time.time_ns() - begun}
        self.requests.append(span)

    def show(self, out: TextIO, container: str) -> None:
        """The waterfall of what has happened since: the client's requests, and what the daemon made of them."""
        self.session.api.told = None
        found = [
            job
            for job in _reports(self.session)
            if int(job["id"]) > self.last and not job["name"].endswith("/pierhead/jobs")
        ]
        waterfall(out, [*self.requests, *found])


def waterfall(out: TextIO, found: list[Any]) -> None:
    """One line a span: its place on the common time line, its duration, its name indented below its parent."""
    if not found:
        out.write("no jobs\n")
        return
    rows = [row for job in sorted(found, key=lambda job: int(job["at"])) for row in _rows(job, int(job["at"]), 0)]
    begin = min(start for start, *_ in rows)
    end = max(start + (job.get("duration") or 0) for start, _, job in rows)
    scale = BAR / max(1, end - begin)
    out.write(f"{'TIMELINE'.ljust(BAR + 2)}{'DURATION':>10}  JOB\n")
    for start, depth, job in rows:
        duration = end - start if job.get("duration") is None else job["duration"]
        first = min(int((start - begin) * scale), BAR - 1)
        bar = (" " * first + "█" * max(1, round(duration * scale)))[:BAR].ljust(BAR)
        outcome = job.get("outcome") or ""
        failed = f"  ✗ {outcome}" if outcome not in ("", "OK") else ""
        subject = f"  {str(job['subject'])[:12]}" if job.get("subject") else ""
        out.write(f"{bar}  {_length(job):>10}  {'  ' * depth}{job['name']}{subject}{failed}\n")


def _rows(job: Any, origin: int, depth: int) -> Iterator[tuple[int, int, Any]]:
    """Every span below a job with its absolute start (ns) and its depth."""
    yield origin + int(job.get("start") or 0), depth, job
    for child in job.get("children") or ():
        yield from _rows(child, origin, depth + 1)
