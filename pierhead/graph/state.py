"""A container's states and the moves between them: one table for the jobs, GraphDB's constraints and the tests."""

from enum import StrEnum


class State(StrEnum):
    """Docker's names, as in ``State.Status``."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


TRANSITIONS: frozenset[tuple[State, State]] = frozenset(
    {
        (State.CREATED, State.RUNNING),
        (State.CREATED, State.EXITED),  # the start was interrupted by a crash
        (State.CREATED, State.RESTARTING),
        (State.CREATED, State.REMOVING),
        (State.RUNNING, State.PAUSED),
        (State.RUNNING, State.RESTARTING),
        (State.RUNNING, State.EXITED),
        (State.PAUSED, State.RUNNING),
        (State.PAUSED, State.RESTARTING),
        (State.PAUSED, State.EXITED),
        (State.RESTARTING, State.RUNNING),
        (State.RESTARTING, State.EXITED),
        (State.EXITED, State.RUNNING),
        (State.EXITED, State.RESTARTING),
        (State.EXITED, State.REMOVING),
        (State.REMOVING, State.DEAD),
        (State.DEAD, State.REMOVING),
    }
)
"""Every move that is allowed; a state may always be written again as itself."""
