"""Events: what happened, for everyone who listens, and the recent past for those who ask with ``since``."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

HISTORY = 256


@dataclass(frozen=True, slots=True)
class Event:
    """kind: "container", "image", "network", "volume", "daemon"; action as Docker's ("create", "exec_start: true").

    actor: the object's id (an image event's: id or reference); time in ns since the epoch.
    """

    kind: str
    action: str
    actor: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    time: int = 0


class Events:
    """The daemon's one event stream. A listener that is far behind loses its oldest events, never stalls the engine."""

    def __init__(self) -> None:
        self._past: deque[Event] = deque(maxlen=HISTORY)
        self._listeners: set[asyncio.Queue[Event]] = set()
        self.observers: list[Callable[[Event], None]] = []
        """Parts of the daemon that act on what happens; called at once, they must not wait nor raise."""

    def publish(self, kind: str, action: str, actor: str, attributes: Mapping[str, str] | None = None) -> None:
        """Tell everyone. Called on the loop's thread."""
        event = Event(kind, action, actor, dict(attributes or {}), time.time_ns())
        self._past.append(event)
        for observer in self.observers:
            observer(event)
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    def past(self, since: int, until: int | None = None) -> list[Event]:
        """Events of the recent past with since <= time < until, in ns."""
        return [event for event in self._past if event.time >= since and (until is None or event.time < until)]

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return len(self._listeners)

    @contextmanager
    def subscribe(self) -> "Iterator[Subscription]":
        """Everything that is published from now on, until the block ends."""
        queue: asyncio.Queue[Event] = asyncio.Queue(4096)
        self._listeners.add(queue)
        try:
            yield Subscription(queue)
        finally:
            self._listeners.discard(queue)


@dataclass(frozen=True, slots=True)
class Subscription:
    """One listener's place in the stream."""

    queue: "asyncio.Queue[Event]"

    async def get(self, patience: float | None = None) -> Event | None:
        """The next event; None when ``patience`` seconds have passed without one."""
        if patience is None:
            return await self.queue.get()
        try:
            return await asyncio.wait_for(self.queue.get(), max(patience, 0))
        except TimeoutError:
            return None
