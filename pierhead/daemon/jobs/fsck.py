"""``pier system fsck``: everything that the database knows compared with what is there, and mended where it was asked.

The very comparisons that the daemon's start makes (``reconcile_stored``, ``reconcile_running``).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import closing

from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.jobs import comparisons, network_comparison, volume_comparison
from pierhead.daemon.jobs.pipes import Cancelled, Outflow, stream
from pierhead.difference import Difference, Kind, Tell
from pierhead.errors import PierheadError, plain
from pierhead.graph.comparison import compare as compare_graph
from pierhead.wire.upkeep import FsckDifference, FsckMessage, FsckResult, Progress

STEP = 0.1
"""Seconds between two words about progress."""


async def reconcile_stored(engine: Engine) -> None:
    """At the daemon's start, before there are networks: mend mounts, the graph, and volumes."""
    await comparisons.reconcile(comparisons.mounts(engine))
    await comparisons.reconcile(compare_graph(engine.graph))
    await comparisons.reconcile(volume_comparison.compare(engine))


async def reconcile_running(engine: Engine) -> None:
    """When there are: end runs that are not known, finish what containers' jobs were at."""
    await comparisons.reconcile(comparisons.runs(engine))
    await comparisons.reconcile(comparisons.containers(engine))


async def fsck(engine: Engine, repair: bool = False, deep: bool = False) -> AsyncIterator[FsckMessage]:
    """Compare everything; repair: mend what can be; deep: read all layers and compare their digests, too."""
    loop = asyncio.get_running_loop()

    def now(work: Callable[[], list[Difference]]) -> list[Difference]:
        """On the event loop, between two steps of every job."""

        async def done() -> list[Difference]:
            return work()

        return asyncio.run_coroutine_threadsafe(done(), loop).result()

    def differences(tell: Tell) -> Generator[Difference, None, None]:
        tell("database", 0, 0)
        yield from _database(engine, deep)
        tell("mounts", 0, 0)
        yield from now(lambda: list(comparisons.mounts(engine)))
        yield from compare_graph(engine.graph, tell, deep=deep)
        tell("volumes", 0, 0)
        yield from now(lambda: list(volume_comparison.compare(engine)))
        tell("networks", 0, 0)
        yield from asyncio.run_coroutine_threadsafe(network_comparison.compare(engine), loop).result()
        tell("containers", 0, 0)
        yield from now(lambda: list(comparisons.runs(engine)))
        yield from now(lambda: list(comparisons.containers(engine)))

    def work(out: Outflow[FsckMessage]) -> None:
        found = left = 0
        with closing(differences(_telling(out))) as following:
            for difference in following:
                mended, error = False, ""
                if repair and difference.mend is not None:
                    try:
                        asyncio.run_coroutine_threadsafe(comparisons.mend(difference), loop).result()
                        mended = True
                    except (OSError, PierheadError) as raised:
                        error = plain(raised)
                found += 1
                left += not mended
                out.put(FsckMessage(difference=_shown(difference, mended, error)))
        out.put(FsckMessage(result=FsckResult(found=found, left=left)))

    return stream(work, "system fsck")


def _telling(out: Outflow[FsckMessage]) -> Tell:
    last, at = "", 0.0

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last, at
        if out.cancelled:
            raise Cancelled
        now = time.monotonic()
        if what != last or now - at >= STEP:
            last, at = what, now
            out.put(FsckMessage(progress=Progress(what=what, current=done, total=total)))

    return tell


def _shown(difference: Difference, mended: bool, error: str) -> FsckDifference:
    return FsckDifference(
        kind=difference.kind,
        area=difference.area,
        subject=difference.subject,
        found=difference.found,
        repair=difference.repair,
        mendable=difference.mend is not None,
        mended=mended,
        error=error,
    )


def _database(engine: Engine, deep: bool) -> Generator[Difference, None, None]:
    for fault in engine.db.faults(deep=deep):
        yield Difference(
            Kind.DAMAGED,
            "database",
            "graph.db",
            f"the database is damaged: {fault}",
            "nothing here can mend it: stop the daemon and bring graph.db back from a backup",
        )
