"""Who is fetching a layer at the moment: of several pulls one does, the others wait for it."""

import threading


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
