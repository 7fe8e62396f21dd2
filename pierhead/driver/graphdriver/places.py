"""Folders in parts of the disk of their own, in which large layers begin: the first that is quick.

<home>/places/0 … 127

ext4 without a journal passes over the number of each file that was deleted within the last one to six minutes, one by
one, for every file it makes: a file beside 8,000 deleted ones takes a millisecond instead of ten microseconds.  Where
it begins to look is the part of the disk (block group) of the folder, and a folder is made in the part of the one above
it.  So there is one above for each of many parts, used in turn; files made on trial tell what was deleted there.  All
that is done when the first large layer comes: it is worth it from some hundred files on.
Source: recently_deleted(), find_group_orlov() and find_group_other() in fs/ext4/ialloc.c.
"""

import math
import os
import threading
import time
from collections import deque
from contextlib import suppress

from pierhead.linux.placement import spread

PLACES = "places"
COUNT = 128
"""Layers from one use of a place to the next: more than are made in the minutes that ext4 remembers."""
TRIES = 2 * COUNT
"""Folders made at most to find places that lie apart: the emptiest part gets them until it is as full as others."""
DEPTH = 16
"""Files made on trial: the first numbers may be free where those behind them have just been deleted."""
SLOW = 2
"""Times the quickest there has been: a place as slow is passed over."""
FIRST = 8
"""Places tried beforehand, to know what is quick."""


class Places:
    """Those in the folder of one driver. Several threads may take of them."""

    def __init__(self, home: str) -> None:
        self._folder = os.path.join(home, PLACES)
        self._lock = threading.Lock()
        self._turn = [os.path.join(self._folder, str(number)) for number in range(COUNT)]
        self._least = math.inf
        self._prepared = False

    def tidy(self) -> None:
        """Remove what a daemon that was killed has left there."""
        with suppress(FileNotFoundError):
            self._present()

    def _present(self) -> dict[str, int]:
        """The names of those there are, each with its inode number; what is begun within or beside them is removed."""
        inodes = {}
        for name in os.listdir(self._folder):
            path = os.path.join(self._folder, name)
            found = os.stat(path)
            if found.st_nlink != 2:  # of a folder without folders, where the file system counts them
                for begun in os.listdir(path):
                    os.rmdir(os.path.join(path, begun))
            if name.isdecimal():
                inodes[name] = found.st_ino
            else:
                os.rmdir(path)
        return inodes

    def _prepare(self) -> None:
        """Make those that are missing."""
        if not os.path.isdir(self._folder):
            os.makedirs(self._folder, mode=0o710)
        spread(self._folder)
        present = self._present()
        self._make([name for name in map(str, range(COUNT)) if name not in present], [*present.values()])
        self._least = min(_cost(place, math.inf) for place in self._turn[:FIRST])
        self._prepared = True

    def _make(self, missing: list[str], taken: list[int]) -> None:
        """Make those, apart from each other and from the inodes ``taken`` as far as such parts are found."""
        apart, near = deque[str](), []
        distance = _apart(self._folder)
        for _ in range(TRIES):
            if len(apart) == len(missing):
                break
            # Of parts as empty the name decides: another engine's folders are to be elsewhere.
            path = os.path.join(self._folder, f"trial-{os.urandom(8).hex()}")
            try:
                os.mkdir(path, 0o710)
            except OSError:
                break  # a full disk: a layer can do without
            inode = os.stat(path).st_ino
            if any(abs(inode - other) < distance for other in taken):
                near.append(path)  # stays until the end, for the next to be made elsewhere
            else:
                # The first are made where it is emptiest: where much was removed, perhaps just now. They come last.
                apart.appendleft(path)
                taken.append(inode)
        found = [*apart, *near]
        for path, name in zip(found, missing, strict=False):
            os.rename(path, os.path.join(self._folder, name))
        for path in found[len(missing) :]:
            os.rmdir(path)

    def take(self, path: str) -> None:
        """Make an empty folder there. Raises OSError."""
        with self._lock:
            if not self._prepared:
                self._prepare()
            place = self._next()
        made = os.path.join(place, os.path.basename(path))
        try:
            os.mkdir(made, 0o710)
        except FileNotFoundError:
            os.mkdir(path, 0o710)
            return
        try:
            os.rename(made, path)
        except OSError:
            os.rmdir(made)
            raise

    def _next(self) -> str:
        """The first that is quick; the slow ones before it have had their turn. If all are slow, the least slow."""
        costs: dict[str, float] = {}
        for place in self._turn:
            costs[place] = _cost(place, SLOW * self._least)
            self._least = min(self._least, costs[place])
            if costs[place] <= SLOW * self._least:
                break
        chosen = min(costs, key=costs.__getitem__)
        self._turn = [place for place in self._turn if place not in costs]
        self._turn += [*(place for place in costs if place != chosen), chosen]
        return chosen


def _apart(folder: str) -> int:
    """Inode numbers as far from each other are of two parts of the disk: half of those of one, as mke2fs(8) cuts it."""
    disk = os.statvfs(folder)
    parts = disk.f_blocks // (8 * disk.f_frsize) + 1  # each has one block of bits for its blocks
    return disk.f_files // parts // 2


def _cost(place: str, most: float) -> float:
    """Seconds that a file takes there, of some without names that are gone again; known early where it is too long."""
    made: list[int] = []
    took, begin = 0.0, time.perf_counter()
    try:
        while len(made) < DEPTH and took <= DEPTH * most:
            made.append(os.open(place, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            took = time.perf_counter() - begin
        return took / len(made)
    except OSError:  # it is not there, or the file system makes none without a name
        return math.inf
    finally:
        for fd in made:
            os.close(fd)
