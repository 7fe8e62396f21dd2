"""Maps of user and group ids, as user_namespaces(7) has them: values, and their limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

MOST_RANGES = 340
"""Lines that the kernel takes of one map."""

MOST_BYTES = 4095
"""Of one map's text: it is one write of less than a page."""

NOBODY = 65534
"""What the kernel shows where an id has no place in a map (sysctl kernel.overflowuid)."""

_END = (1 << 32) - 1
"""The last id is none: it says "leave as it is" to chown(2)."""


@dataclass(frozen=True, slots=True)
class Range:
    """``length`` ids from ``inside`` on, which are those from ``outside`` on for the host."""

    inside: int
    outside: int
    length: int


@dataclass(frozen=True, slots=True)
class IdMaps:
    """Who the users and groups of a container are on the host. Raises ValueError for what no kernel takes."""

    uids: tuple[Range, ...]
    gids: tuple[Range, ...]

    def __post_init__(self) -> None:
        for ranges in (self.uids, self.gids):
            _check(ranges)

    @property
    def root(self) -> tuple[int, int]:
        """The host's ids of the container's user 0 and group 0."""
        return self.uid(0), self.gid(0)

    def uid(self, inside: int) -> int:
        """The host's id of a user of the container's. Raises OSError where it has none."""
        return _outside(self.uids, inside, "user")

    def gid(self, inside: int) -> int:
        """The same of a group."""
        return _outside(self.gids, inside, "group")

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """Who a user and a group of the host's are in the container; nobody (65534) where they are nobody there."""
        return _inside(self.uids, uid), _inside(self.gids, gid)

    def has_group(self, inside: int) -> bool:
        """Whether a group of the container's is anyone on the host."""
        return any(one.inside <= inside < one.inside + one.length for one in self.gids)


def text(ranges: Iterable[Range]) -> str:
    """What is written to /proc/PID/uid_map or gid_map."""
    return "".join(f"{one.inside} {one.outside} {one.length}\n" for one in ranges)


def _check(ranges: tuple[Range, ...]) -> None:
    if not ranges or not any(one.inside == 0 and one.length > 0 for one in ranges):
        raise ValueError("id map without user or group 0")
    if len(ranges) > MOST_RANGES or len(text(ranges)) > MOST_BYTES:
        raise ValueError(f"id map of {len(ranges)} ranges: the kernel takes {MOST_RANGES}, in {MOST_BYTES} bytes")
    for one in ranges:
        if one.length < 1 or min(one.inside, one.outside) < 0 or max(one.inside, one.outside) + one.length > _END:
            raise ValueError(f"id map range {one.inside} {one.outside} {one.length}: ids are from 0 to {_END - 1}")
    for starts in ([(r.inside, r.length) for r in ranges], [(r.outside, r.length) for r in ranges]):
        starts.sort()
        if any(start + length > after for (start, length), (after, _) in pairwise(starts)):
            raise ValueError("id map whose ranges overlap")


def _inside(ranges: tuple[Range, ...], outside: int) -> int:
    for one in ranges:
        if one.outside <= outside < one.outside + one.length:
            return one.inside + outside - one.outside
    return NOBODY


def _outside(ranges: tuple[Range, ...], inside: int, what: str) -> int:
    for one in ranges:
        if one.inside <= inside < one.inside + one.length:
            return one.outside + inside - one.inside
    raise OSError(22, f"{what} {inside} has no place in the map of the user namespace")
