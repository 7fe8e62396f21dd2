"""How much removals have given back: Docker's line, and beside it what has become free on the disk."""

from collections.abc import Mapping
from typing import Any

from pierhead.client.units import human_size


class Reclaimed:
    """The sums over several answers; None for what no answer has said (dockerd says neither of a DELETE)."""

    def __init__(self) -> None:
        self.bytes: int | None = None
        self.change: int | None = None

    def add(self, answer: Any) -> None:
        """What the answer of a prune says."""
        self._add(answer.get("SpaceReclaimed") or 0, answer.get("FreeSpaceChange"))

    def read(self, headers: Mapping[str, str]) -> None:
        """What the header of an answer to DELETE says."""
        if (size := headers.get("pierhead-space-reclaimed")) is not None:
            self._add(int(size), int(headers["pierhead-free-space-change"]))

    def _add(self, size: int, change: int | None) -> None:
        self.bytes = size + (self.bytes or 0)
        if change is not None:
            self.change = change + (self.change or 0)

    def show(self, what: str = "reclaimed") -> None:
        """Print it."""
        print(f"Total {what} space:", "N/A" if self.bytes is None else human_size(self.bytes))
        if self.change is not None:
            sign = "-" if self.change < 0 else "+"
            print(f"Free space on the disk: {sign}{human_size(abs(self.change))}")
