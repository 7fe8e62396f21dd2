"""``pier stats``: what containers use, redrawn while it changes."""

import json
import os
import select
import sys
from collections.abc import Iterator
from typing import Any

from pierhead.client.api import quote
from pierhead.client.connection import Response
from pierhead.client.errors import DaemonError
from pierhead.client.flags import Options
from pierhead.client.session import Session
from pierhead.client.table import Columns, formatted
from pierhead.client.units import bytes_size, human_size, truncated

TABLE = "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}"


def stats(session: Session, options: Options) -> int:
    """One line a container, every second anew; with ``--no-stream`` once."""
    format = options.text("format") or str(session.config.get("statsFormat") or "")
    if not format or format == "table":
        format = TABLE
    columns = _columns(not options.on("no-trunc"))
    once = options.on("no-stream")
    if once:
        rows = [_read_one(session, name) for name in _names(session, options)]
        sys.stdout.write(formatted(format, columns, [row for row in rows if row]))
        return 0
    return _stream(session, options, format, columns)


def _names(session: Session, options: Options) -> list[str]:
    if options.operands:
        for name in options.operands:
            session.api.get(f"/containers/{quote(name)}/json")
        return options.operands
    return [str(row["Id"]) for row in session.api.get("/containers/json", {"all": options.on("all")})]


def _read_one(session: Session, name: str) -> Any:
    """One sample with the one before it, which the CPU's share needs. None: it is gone."""
    try:
        answer = session.api.call("GET", f"/containers/{quote(name)}/stats", {"stream": "0"}, own=True)
        return _with_name(json.loads(answer.read()), name)
    except DaemonError as error:
        if error.code == 404:
            return None
        raise


def _with_name(sample: Any, name: str) -> Any:
    sample["_asked"] = name
    return sample


def _stream(session: Session, options: Options, format: str, columns: Columns) -> int:
    """Follow every container; lists that were not given are asked for anew, so that new containers appear."""
    following: dict[int, tuple[str, Response, Iterator[bytes]]] = {}
    rows: dict[str, Any] = {}
    terminal = os.isatty(1)
    poll = select.poll()

    def follow() -> None:
        known = {name for name, _, _ in following.values()}
        for name in _names(session, options):
            if name in known or name in rows:
                continue
            answer = session.api.call("GET", f"/containers/{quote(name)}/stats", {"stream": "1"}, own=True)
            descriptor = answer.connection.socket.fileno()
            following[descriptor] = (name, answer, answer.lines())
            poll.register(descriptor, select.POLLIN)

    follow()
    while True:
        for descriptor, _ in poll.poll(1000):
            name, answer, samples = following[descriptor]
            sample = _next(samples)
            if sample is None:
                poll.unregister(descriptor)
                answer.connection.close()
                del following[descriptor]
                rows.pop(name, None)
            else:
                rows[name] = _with_name(sample, name)
        if not following and options.operands:
            return 0
        text = formatted(format, columns, list(rows.values()))
        if terminal:
            text = "\x1b[H" + text.replace("\n", "\x1b[K\n") + "\x1b[J"
        sys.stdout.write(text)
        sys.stdout.flush()
        if not options.operands:
            follow()


def _next(samples: Iterator[bytes]) -> Any:
    """The next sample of a stream: one line, one chunk. None at the end."""
    try:
        return json.loads(next(samples))
    except (StopIteration, ConnectionError, ValueError):
        return None


def _columns(short: bool) -> Columns:
    def identity(row: Any) -> str:
        id = row.get("id") or row.get("_asked") or ""
        return truncated(id) if short else str(id)

    return {
        "BlockIO": ("BLOCK I/O", _block_io),
        "CPUPerc": ("CPU %", lambda row: f"{_cpu(row):.2f}%"),
        "Container": ("CONTAINER", lambda row: truncated(row["_asked"]) if short else str(row["_asked"])),
        "ID": ("CONTAINER ID", identity),
        "MemPerc": ("MEM %", lambda row: f"{_memory_share(row):.2f}%"),
        "MemUsage": ("MEM USAGE / LIMIT", lambda row: f"{bytes_size(_memory(row))} / {bytes_size(_limit(row))}"),
        "Name": ("NAME", lambda row: str(row.get("name") or "--").removeprefix("/")),
        "NetIO": ("NET I/O", _net_io),
        "PIDs": ("PIDS", lambda row: str((row.get("pids_stats") or {}).get("current") or 0)),
    }


def _cpu(row: Any) -> float:
    """Share of one CPU between two samples; 200 % are two CPUs."""
    now, before = row.get("cpu_stats") or {}, row.get("precpu_stats") or {}
    used = now.get("cpu_usage", {}).get("total_usage", 0) - before.get("cpu_usage", {}).get("total_usage", 0)
    passed = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    cpus = now.get("online_cpus") or len(now.get("cpu_usage", {}).get("percpu_usage") or ()) or 1
    return float(used / passed * cpus * 100) if used > 0 and passed > 0 else 0.0


def _memory(row: Any) -> float:
    """What is used without the page cache that can go at once."""
    memory = row.get("memory_stats") or {}
    details, usage = memory.get("stats") or {}, memory.get("usage") or 0
    for name in ("total_inactive_file", "inactive_file"):
        if name in details and details[name] < usage:
            return float(usage - details[name])
    return float(usage)


def _limit(row: Any) -> float:
    return float((row.get("memory_stats") or {}).get("limit") or 0)


def _memory_share(row: Any) -> float:
    limit = _limit(row)
    return _memory(row) / limit * 100 if limit else 0.0


def _net_io(row: Any) -> str:
    networks = (row.get("networks") or {}).values()
    received = sum(entry["rx_bytes"] for entry in networks)
    sent = sum(entry["tx_bytes"] for entry in networks)
    return f"{human_size(received, 3)} / {human_size(sent, 3)}"


def _block_io(row: Any) -> str:
    read = written = 0
    for entry in (row.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ():
        if entry["op"][:1] in "rR":
            read += entry["value"]
        elif entry["op"][:1] in "wW":
            written += entry["value"]
    return f"{human_size(read, 3)} / {human_size(written, 3)}"
