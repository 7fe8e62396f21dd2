"""What a comparison of the database with what is really there finds: said in sentences, and mended where it can be.

Every part compares what is its own (the graph its layers, jobs the folders of containers and volumes); the daemon's
start mends what they find, ``pier system fsck`` shows it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What is the matter."""

    LEFTOVER = "leftover"
    """Something is there that nothing in the database needs."""
    UNFINISHED = "unfinished"
    """Something was being made, changed or removed, and nobody is at it any more."""
    MISSING = "missing"
    """The database knows something that is not there."""
    DAMAGED = "damaged"
    """Something is there and is not what it must be."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference.

    area: of what ("layer", "volume", …).  subject: which one: an id, a name or a path.  found: what is where, and what
    it means.  repair: what mending does, or, where nothing can mend it, what the user can do.  mend: does it, or gives
    what does it (on the event loop); it looks again before it touches anything, is idempotent, and raises OSError or
    PierheadError.  None: it cannot be mended.
    """

    kind: Kind
    area: str
    subject: str
    found: str
    repair: str
    mend: Callable[[], Awaitable[object] | object] | None = None


Tell = Callable[[str, int, int], None]
"""Told of progress: what is being looked at, how many of it (or bytes) are done, of how many. Raises to give it up."""


def quiet(what: str, done: int, total: int) -> None:
    """A ``Tell`` that nobody listens to."""
