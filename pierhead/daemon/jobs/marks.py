"""Clean-up by marks: when the disk is full above the high one, what nobody needs goes until it is below the low one.

Off unless a high mark is set.  Nothing goes that is in use or pinned, and no volume ever; what goes first and what may
go at all is ``order``.
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass

from pierhead.daemon.engine.engine import Engine, blocking, log
from pierhead.daemon.engine.events import Event
from pierhead.daemon.jobs import containers, images
from pierhead.errors import PierheadError, plain
from pierhead.linux.trim import settle
from pierhead.wire.filters import Filters

GROWTH = frozenset(
    {("image", "pull"), ("image", "load"), ("image", "import"), ("container", "commit"), ("container", "die")}
)
"""After these the disk is looked at at once."""
PERIOD = 60.0
"""Seconds between looks otherwise."""

_EVERY = Filters({"dangling": ("false",)})


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that may go. kind: "image" or "container"; name: as a user knows it; used: ns; remove: gives the bytes
    given back, None where it was not removed after all."""

    kind: str
    id: str
    name: str
    used: int
    remove: Callable[[], Coroutine[object, object, int | None]]


def full(engine: Engine) -> float:
    """How full the data root's file system is, in per cent, as df(1) says."""
    found = os.statvfs(engine.config.data_root)
    used = found.f_blocks - found.f_bfree
    return 100 * used / max(1, used + found.f_bavail)


def order(engine: Engine) -> Iterator[Candidate]:
    """What may go now, in this order; each kind the least recently used first.

    Images without a name; those that a registry has given and can give again; with "local" those that came otherwise;
    with "containers" those that have not run for so long.  What was used a moment ago stays: it may be about to be
    used again (a pull before a run).
    """
    may = engine.config.disk_remove
    newest = time.time_ns() - engine.config.disk_keep
    unused = images.prunable(engine, _EVERY)
    used = _uses(engine)
    groups: dict[str, list[Candidate]] = {"dangling": [], "pulled": [], "local": []}
    for found in unused:
        if found.inner:
            continue  # without its names not a byte more would be free
        tagged = [name for name in found.names if name.digest is None]
        pulled = any(name.digest is not None for name in found.names)
        group = "dangling" if not tagged else "pulled" if pulled else "local"
        name = tagged[0].familiar if tagged else found.image.id
        groups[group].append(
            Candidate("image", found.image.id, name, used.get(found.image.id, 0), _image(engine, found))
        )
    for group in ("dangling", "pulled", "local"):
        if group in may:
            old = [one for one in groups[group] if one.used < newest]
            yield from sorted(old, key=lambda one: (one.used, one.name))
    if "containers" in may:
        ended = [
            Candidate("container", one.id, one.name, max(one.created, one.finished), _container(engine, one.id))
            for one in containers.prunable(engine, Filters())
        ]
        oldest = min(newest, time.time_ns() - may["containers"])
        yield from sorted((one for one in ended if one.used < oldest), key=lambda one: one.used)


def _uses(engine: Engine) -> dict[str, int]:
    """When each image came, got a name, or was last a container's, whichever is latest; ns."""
    rows = engine.db.all(
        "SELECT id, max(loaded, coalesce((SELECT max(tagged) FROM tag WHERE image_id = id), 0), "
        "coalesce((SELECT used FROM image_use WHERE image_id = id), 0)) AS used FROM image"
    )
    return {row["id"]: row["used"] for row in rows}


def _image(engine: Engine, found: images.Unused) -> Callable[[], Coroutine[object, object, int | None]]:
    async def remove() -> int | None:
        records, freed = await images.remove_unused(engine, found)
        return freed if records else None

    return remove


def _container(engine: Engine, id: str) -> Callable[[], Coroutine[object, object, int | None]]:
    async def remove() -> int | None:
        return await engine.finish(containers.remove_ended(engine, id))

    return remove


async def clean(engine: Engine) -> int:
    """Remove until the disk is below the low mark, or nothing is left that may go: how many things went."""
    before, count, freed = full(engine), 0, 0
    tried: set[str] = set()
    while full(engine) > engine.config.disk_low_mark:
        # Asked anew each time: with a container its image may have become one of those that may go.
        candidates = await blocking(lambda: list(order(engine)))
        following = next((one for one in candidates if one.id not in tried), None)
        if following is None:
            break
        tried.add(following.id)
        try:
            given_back = await following.remove()
        except (PierheadError, OSError) as error:
            log.warning("clean-up: %s %s: %s", following.kind, following.name, plain(error))
            continue
        if given_back is None:
            continue
        count += 1
        freed += given_back
        log.info("clean-up: removed %s %s: %d bytes", following.kind, following.name, given_back)
        await blocking(_settle, engine.config.data_root)
    attributes = {"before": f"{before:.1f}%", "after": f"{full(engine):.1f}%"}
    attributes |= {"removed": str(count), "reclaimed": str(freed)}
    engine.events.publish("daemon", "clean-up", engine.db.instance, attributes)
    return count


def _settle(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        settle(descriptor)
    finally:
        os.close(descriptor)


async def watch(engine: Engine) -> None:
    """For as long as the daemon runs: look how full the disk is, and clean up above the high mark."""
    due = asyncio.Event()

    def seen(event: Event) -> None:
        if (event.kind, event.action) in GROWTH:
            due.set()

    engine.events.observers.append(seen)
    told = False
    while True:
        due.clear()
        if full(engine) >= engine.config.disk_high_mark:
            try:
                await engine.run(clean)
            except Exception:
                log.exception("clean-up")  # the next look is another try
            left = full(engine)
            if left >= engine.config.disk_high_mark and not told:
                log.warning("the disk is %.0f %% full, and nothing is left that the clean-up may remove", left)
            told = left >= engine.config.disk_high_mark
        else:
            told = False
        try:
            await asyncio.wait_for(due.wait(), PERIOD)
        except TimeoutError:
            pass
