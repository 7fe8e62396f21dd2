"""``pier logs --truncate``: what a container has logged so far is deleted, while it goes on logging or does not run."""

import os

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.jobs import rewiring, space
from pierhead.daemon.jobs.describe import host_config_of
from pierhead.daemon.jobs.files import log_path
from pierhead.driver.execdriver.jsonlog import JSONLog
from pierhead.errors import Conflict, PierheadError
from pierhead.wire.space import Released


async def truncate(engine: Engine, name: str) -> Released:
    """Delete a container's log. Raises Conflict for one whose shim cannot."""
    container = engine.containers.find(name)
    log = host_config_of(container).log_config
    if log is not None and log.type == "none":
        raise PierheadError("configured logging driver does not support truncation: it keeps nothing")
    before = space.free(engine)
    return space.released(engine, await engine.finish(_truncate(engine, container.id)), before)


async def _truncate(engine: Engine, id: str) -> int:
    async with engine.locks.hold(id):
        running = engine.running.get(id)
        if running is not None and engine.containers.get(id).live:
            try:
                return await running.truncate_log()
            except TimeoutError:
                raise Conflict(
                    f"container {id} was started by an older Pierhead, which cannot truncate logs: restart it first"
                ) from None
            except OSError as error:
                if not await rewiring.gone(running, error):
                    raise
                # It has ended in this moment, and its shim has closed the log.
        return await blocking(_delete, log_path(engine, id))


def _delete(path: str) -> int:
    """The log of a container that does not run."""
    if not os.path.exists(path):
        return 0
    log = JSONLog(path, 0, 1, ())
    try:
        return log.truncate()
    finally:
        log.finish()
