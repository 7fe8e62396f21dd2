"""Cgroups of containers that are not below this instance's own one (``--cgroup-parent``).

A container's run-time folder says where its cgroup is, and a folder of notes which of the levels above it were made
here: these go with the last container below them, others stay as they were found.
"""

import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from urllib.parse import quote

from pierhead.libcontainer import cgroups

PLACE = "cgroup"
"""A link in a container's run-time folder, to the path of its cgroup."""


class Parents:
    """The levels above containers' cgroups that were made here, noted in ``folder``."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._prepared: set[str] = set()
        """Cgroups that may not be there yet, so that nothing keeps the levels above them."""

    def prepare(self, layout: cgroups.Layout, path: str, besides: Iterable[str] = ()) -> None:
        """Make what is above the cgroup ``path`` in every hierarchy, noting what was not there; it stays until
        ``release``. Idempotent. Raises OSError.

        besides: roots of further hierarchies, in which somebody else is going to make it.
        """
        with self._lock:
            self._prepared.add(path)
            self._make(layout, os.path.dirname(path), besides)

    def _make(self, layout: cgroups.Layout, parent: str, besides: Iterable[str]) -> None:
        for level in cgroups.levels(parent):
            directories = (*layout.directories(level), *(mount + level for mount in besides))
            missing = [path for path in directories if not os.path.isdir(path)]
            if missing:
                os.makedirs(self._folder, mode=0o700, exist_ok=True)
                with open(self._note(level), "a", encoding="utf-8") as note:
                    note.writelines(f"{path}\n" for path in missing)
        cgroups.prepare(layout, parent)

    def release(self, path: str) -> None:
        """Remove what was made here above the cgroup ``path``, as far as nothing else is below. Idempotent."""
        with self._lock:
            self._prepared.discard(path)
            self._remove(os.path.dirname(path))

    def _remove(self, parent: str) -> None:
        for level in reversed(cgroups.levels(parent)):
            if any(other.startswith(f"{level}/") for other in self._prepared):
                return
            try:
                with open(self._note(level), encoding="utf-8") as note:
                    made = note.read().splitlines()
            except OSError:
                continue  # nothing was noted, or the level has a name that no file can have
            for directory in made:
                try:
                    os.rmdir(directory)
                except FileNotFoundError:
                    continue
                except OSError:
                    return  # another container is below it
            with suppress(FileNotFoundError):
                os.unlink(self._note(level))
        with suppress(OSError):
            os.rmdir(self._folder)

    def _note(self, level: str) -> str:
        return os.path.join(self._folder, quote(level, safe=""))


@cache
def at(folder: str) -> Parents:
    """The one of this folder of notes: of all drivers whose containers are in the same run-time folder."""
    return Parents(folder)


def remember(folder: int, path: str) -> None:
    """Note in a container's run-time folder where its cgroup is."""
    with suppress(FileNotFoundError):
        os.unlink(PLACE, dir_fd=folder)
    os.symlink(path, PLACE, dir_fd=folder)


def place(folder: str) -> str:
    """Where the cgroup is that the container with this run-time folder has; empty: where they are by default."""
    try:
        return os.readlink(os.path.join(folder, PLACE))
    except OSError:
        return ""
