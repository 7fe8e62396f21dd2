"""Pages that one process has written to are another's own before it writes: those, and not all that could be."""

import ctypes
import mmap
import os
from collections.abc import Callable

from pierhead.linux.pages import PAGE, Written

MANY = 400
FAR_APART = [3, 150, 151, 399]
"""Further than what is copied with them."""


def _in_child(work: Callable[[], bytes]) -> bytes:
    """What ``work`` returns, done in a process forked from this one."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(theirs, work())
        finally:
            os._exit(0)
    os.close(theirs)
    try:
        with open(ours, "rb") as answer:
            return answer.read()
    finally:
        os.waitpid(pid, 0)


def _memory() -> tuple[mmap.mmap, int]:
    """Private memory of MANY pages that all have been written to, and its address."""
    memory = mmap.mmap(-1, MANY * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(MANY):
        memory[page * PAGE] = 1
    view = ctypes.c_char.from_buffer(memory)
    return memory, ctypes.addressof(view)


def _own(address: int) -> bytes:
    """A byte for each page: 1 where no other process has it (bit 56 of /proc/self/pagemap)."""
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(address // PAGE * 8)
        entries = pagemap.read(MANY * 8)
    return bytes(state & 1 for state in entries[7::8])


def _write(memory: mmap.mmap, pages: list[int]) -> bytes:
    for page in pages:
        memory[page * PAGE] = 2
    return b""


def test_a_page_written_to_before_is_copied_beforehand_and_no_other() -> None:
    memory, address = _memory()
    written = Written(lessons=1)

    def learn() -> bytes:
        _write(memory, FAR_APART)
        written.note()
        return b"noted"

    def profit() -> bytes:
        written.own()
        return _own(address)

    assert not any(_in_child(profit)), "nothing is known yet"
    assert _in_child(learn) == b"noted"
    own = _in_child(profit)
    assert [page for page in range(MANY) if own[page]] == FAR_APART


def test_what_the_first_have_noted_together_is_what_counts() -> None:
    memory, address = _memory()
    written = Written(lessons=2)

    def learn(pages: list[int]) -> bytes:
        written.own()
        _write(memory, pages)
        written.note()
        return b"noted"

    for pages in ([10], [200], [300]):
        assert _in_child(lambda pages=pages: learn(pages)) == b"noted"  # type: ignore[misc]
    own = _in_child(lambda: (written.own(), _own(address))[1])  # type: ignore[func-returns-value]
    assert [page for page in range(MANY) if own[page]] == [10, 200], "the third comes too late"
    assert all(memory[page * PAGE] == 1 for page in range(MANY)), "copies are their own"
