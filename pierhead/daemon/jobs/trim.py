"""``pier system trim``: free space goes back to the device, and so to whoever has lent it (a VM's host, an SSD).

A file that is deleted in a virtual machine takes its blocks on the host's disk for as long as nobody tells the disk.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass

from pierhead.daemon.engine.engine import Engine, log
from pierhead.daemon.engine.events import Event
from pierhead.daemon.jobs.pipes import Cancelled, Outflow, stream
from pierhead.errors import plain
from pierhead.linux.mount import source_of
from pierhead.linux.trim import discards, trim
from pierhead.wire.upkeep import Progress, TrimMessage, TrimResult

REMOVALS = frozenset({("container", "destroy"), ("image", "delete"), ("volume", "destroy")})

QUIET = 5.0
"""Seconds without a further removal before what was freed is trimmed."""
LONGEST = 60.0
"""Seconds that it waits at most for that."""
SHARE = 50
"""After a trim there is none by itself for so many times its duration."""


@dataclass(frozen=True, slots=True)
class _FileSystem:
    """One that the engine's files are on. path: the uppermost folder of ours in it."""

    path: str
    kind: str
    device: str


def _file_systems(engine: Engine) -> Iterator[_FileSystem]:
    root = engine.config.data_root
    seen = set()
    for path in (root, *sorted(entry.path for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))):
        device = os.stat(path).st_dev
        if device not in seen:
            seen.add(device)
            yield _FileSystem(path, *source_of(device))


async def run(engine: Engine, automatic: bool = False) -> AsyncIterator[TrimMessage]:
    """Trim the file systems of the data root. automatic: only where the device says that it discards."""

    def work(out: Outflow[TrimMessage]) -> None:
        for one in _file_systems(engine):
            descriptor = os.open(one.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if not automatic or discards(descriptor):
                    out.put(TrimMessage(result=_trim(one, descriptor, out)))
            finally:
                os.close(descriptor)

    return stream(work, "system trim")


def _trim(one: _FileSystem, descriptor: int, out: Outflow[TrimMessage]) -> TrimResult:
    trimmed = 0
    try:
        with closing(trim(descriptor)) as steps:
            for done, total, discarded in steps:
                trimmed += discarded
                if out.cancelled:
                    raise Cancelled
                out.put(TrimMessage(progress=Progress(what=one.path, current=done, total=total)))
    except Cancelled:
        raise
    except OSError as error:
        return TrimResult(path=one.path, kind=one.kind, device=one.device, trimmed=trimmed, error=plain(error))
    return TrimResult(path=one.path, kind=one.kind, device=one.device, trimmed=trimmed)


async def after_removals(engine: Engine) -> None:
    """For as long as the daemon runs: trim some seconds after something was removed. No job waits for it."""
    removed = asyncio.Event()

    def seen(event: Event) -> None:
        if (event.kind, event.action) in REMOVALS:
            removed.set()

    engine.events.observers.append(seen)
    while True:
        await removed.wait()
        deadline = time.monotonic() + LONGEST
        while removed.is_set() and time.monotonic() < deadline:
            removed.clear()
            await asyncio.sleep(QUIET)
        removed.clear()
        begun = time.monotonic()
        try:
            results = await engine.run(_once)
        except Exception:
            log.exception("trim")  # the next removal is another try
            continue
        if not any(not result.error for result in results):
            log.info("trim: nothing here takes discards, no more of it until the next start")
            return
        log.debug("trim: %s", ", ".join(f"{result.path}: {result.trimmed} bytes" for result in results))
        await asyncio.sleep((time.monotonic() - begun) * SHARE)


async def _once(engine: Engine) -> list[TrimResult]:
    messages = await run(engine, automatic=True)
    async with aclosing(messages):  # type: ignore[type-var]
        return [message.result async for message in messages if message.result is not None]
