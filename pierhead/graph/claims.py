"""Who is at a layer at the moment: of several pulls one fetches it; what is let go of is about to be removed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Claims:
    """Of one graph. A claim is on a chain id, and ends when the layer is there or its pull has failed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, threading.Event] = {}

    def take(self, chain: str) -> threading.Event | None:
        """None: it is the caller's now. Else what is set when the other one is done, well or not."""
        with self._lock:
            other = self._held.get(chain)
            if other is None:
                self._held[chain] = threading.Event()
            return other

    def release(self, chain: str) -> None:
        """Let those who wait look for the layer."""
        with self._lock:
            self._held.pop(chain).set()


class Releases:
    """Of one graph: who has let go of layers, and will have removed those that nobody else needs in a moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active = 0
        self._begun = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """From before something is let go of until what is not needed any more has been removed."""
        with self._lock:
            self._active += 1
            self._begun += 1
        try:
            yield
        finally:
            with self._lock:
                self._active -= 1

    @property
    def state(self) -> tuple[int, int]:
        """(how many are at it now, how many have begun so far): the same twice means that there was none between."""
        return self._active, self._begun
