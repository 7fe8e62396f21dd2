"""Pages of memory that a forked process shares with its parent until one of them writes (copy on write).

A copy in the middle of a start takes its time, and one of a page that nobody writes to is for nothing.  So processes of
one origin learn from each other: whoever has done its work notes which pages became its own, and whoever waits for the
same work makes those its own beforehand.

The zygote imports this: os and ctypes only, nothing imported later.
"""

from __future__ import annotations

import ctypes
import os

from pierhead.linux import const
from pierhead.linux.calls import libc

PAGE = 4096
_ENTRY = 8
"""Bytes of a page's entry in /proc/self/pagemap (proc_pid_pagemap(5), Documentation/admin-guide/mm/pagemap.rst)."""
_OWN = 0x81
"""Of an entry's highest byte: present (bit 63), and mapped by no other process (bit 56)."""
_GAP = 4
"""Pages between two that are wanted and are copied with them: less than another system call costs."""


class Written:
    """Which pages are written to in the work of all that are forked from this process, as far as they have noted it.

    It lies in memory that they share. Only what this process may write to now counts, not what they map themselves.
    """

    def __init__(self, lessons: int) -> None:
        """Nothing known yet; the first ``lessons`` to note it are heard. Raises OSError."""
        self.areas = _writable()
        self.lessons = lessons
        length = 1 + sum(pages for _, pages in self.areas)
        libc.mmap.restype = ctypes.c_void_p
        shared, anonymous = const.MAP_SHARED, const.MAP_ANONYMOUS
        address = libc.mmap(
            None, ctypes.c_size_t(length), const.PROT_READ | const.PROT_WRITE, shared | anonymous, -1, 0
        )
        if address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap")
        self.marks = (ctypes.c_ubyte * length).from_address(address)
        """How often it has been noted, then a byte for each page of the areas: 1 where it was written to."""

    def note(self) -> None:
        """Mark the pages that are this process's own by now. Raises OSError."""
        if self.marks[0] >= self.lessons:
            return
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        at = 1
        for start, pages in self.areas:
            entries = os.pread(pagemap, pages * _ENTRY, start // PAGE * _ENTRY)
            for page, state in enumerate(entries[_ENTRY - 1 :: _ENTRY]):
                if state & _OWN == _OWN:
                    self.marks[at + page] = 1
            at += pages
        os.close(pagemap)
        self.marks[0] += 1

    def own(self) -> None:
        """Copy the pages that were noted now, so that no write has to wait for a copy (madvise(2), MADV_POPULATE_WRITE
        of Linux 5.14; without it nothing happens)."""
        marks = bytes(self.marks)  # all at once: others may be noting
        at = 1
        for start, pages in self.areas:
            for first, last in _runs(marks[at : at + pages]):
                length = (last - first) * PAGE
                # Refused for what is no memory any more: nothing is lost.
                libc.madvise(ctypes.c_void_p(start + first * PAGE), ctypes.c_size_t(length), const.MADV_POPULATE_WRITE)
            at += pages


def _writable() -> list[tuple[int, int]]:
    """Address and length in pages of each private area that may be written to."""
    maps = os.open("/proc/self/maps", os.O_RDONLY | os.O_CLOEXEC)
    content = b""
    while part := os.read(maps, 65536):
        content += part
    os.close(maps)
    found = []
    for line in content.splitlines():
        area, mode = line.split(None, 2)[:2]
        if mode == b"rw-p":
            first, _, last = area.partition(b"-")
            start = int(first, 16)
            found.append((start, (int(last, 16) - start) // PAGE))
    return found


def _runs(marks: bytes) -> list[tuple[int, int]]:
    """First page and the one after the last of each run of marked pages, small gaps within it included."""
    found = []
    first = marks.find(1)
    while first >= 0:
        last = marks.find(bytes(_GAP), first)
        if last < 0:
            last = len(marks.rstrip(b"\0"))
        found.append((first, last))
        first = marks.find(1, last)
    return found
