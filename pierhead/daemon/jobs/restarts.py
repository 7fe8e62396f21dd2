"""Restart policies: what is due, and what the user has decided otherwise."""

from pierhead.daemon.engine.engine import Engine


def forget_restart(engine: Engine, id: str) -> None:
    """No restart is due any more: the user has decided otherwise."""
    backoff = engine.backoff.pop(id, None)
    if backoff is not None and backoff.task is not None:
        backoff.task.cancel()


def hold(engine: Engine, id: str) -> None:
    """Until ``unhold``: its end is neither answered by the restart policy nor by auto-remove."""
    engine.held.add(id)


def unhold(engine: Engine, id: str) -> None:
    """See ``hold``."""
    engine.held.discard(id)
