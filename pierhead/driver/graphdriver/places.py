"""Empty folders that wait to become layers, each in a part of the disk of its own, taken in turn.

<home>/places/0 … 31

ext4 puts a folder of a spread one (``linux.placement``) into the part of the disk with the fewest folders: after a
layer was removed that is where it was, and there every new file looks through all that were just deleted.  A folder
that was made beforehand is elsewhere, and the place that a removal frees comes round again only after all others.
"""

import os
import threading
from contextlib import suppress

from pierhead.linux.placement import spread

PLACES = "places"
COUNT = 32
"""Layers from one use of a place to the next: as many as are made in the minute or two that ext4 remembers."""


class Places:
    """Those in the folder of one driver. Several threads may take of them."""

    def __init__(self, home: str) -> None:
        self._folder = os.path.join(home, PLACES)
        self._lock = threading.Lock()
        self._next = 0
        self._missing: set[str] = set()

    def prepare(self) -> None:
        """Make those that are missing. Raises OSError."""
        os.makedirs(self._folder, mode=0o710, exist_ok=True)
        spread(self._folder)
        present = set(os.listdir(self._folder))
        for number in range(COUNT):
            if str(number) not in present:
                os.mkdir(os.path.join(self._folder, str(number)), 0o710)

    def take(self, path: str) -> None:
        """Make an empty folder there. Raises OSError."""
        with self._lock:
            place = os.path.join(self._folder, str(self._next % COUNT))
            self._next += 1
            try:
                os.rename(place, path)
            except FileNotFoundError:
                os.mkdir(path, 0o710)
            self._missing.add(place)
        self.refill()

    def refill(self) -> None:
        """Put new ones in the place of those that were taken; what the disk has no room for now is for next time."""
        with self._lock:
            for place in tuple(self._missing):
                with suppress(OSError):
                    os.mkdir(place, 0o710)
                if os.path.isdir(place):
                    self._missing.discard(place)
