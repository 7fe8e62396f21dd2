"""Who waits for a container to end or to be gone (``POST /containers/{id}/wait``)."""

import asyncio
from enum import StrEnum


class Condition(StrEnum):
    """The API's conditions; "not-running" holds at once for a container that does not run."""

    NOT_RUNNING = "not-running"
    NEXT_EXIT = "next-exit"
    REMOVED = "removed"


class Waiters:
    """Futures by container and condition; each gives the exit code."""

    def __init__(self) -> None:
        self._futures: dict[str, list[tuple[Condition, asyncio.Future[int]]]] = {}

    def add(self, id: str, condition: Condition) -> "asyncio.Future[int]":
        """Wait from now on. A future that is cancelled (its client has gone) is forgotten."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        entry = (condition, future)
        self._futures.setdefault(id, []).append(entry)
        future.add_done_callback(lambda done: self._forget(id, entry) if done.cancelled() else None)
        return future

    def _forget(self, id: str, entry: "tuple[Condition, asyncio.Future[int]]") -> None:
        waiting = self._futures.get(id, [])
        if entry in waiting:
            waiting.remove(entry)
        if not waiting:
            self._futures.pop(id, None)

    def wake(self, id: str, code: int, *conditions: Condition) -> None:
        """The conditions hold now."""
        rest = []
        for condition, future in self._futures.pop(id, []):
            if condition in conditions:
                if not future.done():
                    future.set_result(code)
            elif not future.done():
                rest.append((condition, future))
        if rest:
            self._futures[id] = rest
