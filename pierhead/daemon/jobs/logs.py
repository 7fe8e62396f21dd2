"""Reading a container's json-file log: the tail, a span of time, and what is still being written."""

import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import msgspec

from pierhead.wire.time import parse_rfc3339

BLOCK = 64 * 1024
"""Bytes that are read at a time on the way back from a log's end."""


class Record(msgspec.Struct):
    """One line of the file. log keeps its newline (a partial one has none)."""

    log: str = ""
    stream: str = "stdout"
    time: str = ""
    attrs: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Which records are wanted. since and until in ns, 0 = open; tail -1 = all."""

    stdout: bool = True
    stderr: bool = True
    since: int = 0
    until: int = 0
    tail: int = -1

    def wants(self, record: Record) -> bool:
        """Whether it is one of these streams, and not before ``since``."""
        if not (self.stdout if record.stream == "stdout" else self.stderr):
            return False
        return not self.since or parse_rfc3339(record.time) >= self.since

    def past(self, record: Record) -> bool:
        """Whether it is after ``until``, and so every later one."""
        return bool(self.until) and parse_rfc3339(record.time) > self.until


_decode = msgspec.json.Decoder(Record).decode


def _records(lines: Iterator[bytes]) -> Iterator[Record]:
    for line in lines:
        try:
            yield _decode(line)
        except msgspec.DecodeError:
            continue  # torn by a crash of the machine: the rest is readable


def open_files(path: str) -> deque[BinaryIO]:
    """The log's files, the oldest first, each once, however they are rotated meanwhile."""
    found: deque[BinaryIO] = deque()
    seen: set[int] = set()
    number = gaps = 0
    # A rotation gives each file the next number, the oldest first: there may be a gap, and one may be met again.
    while gaps < 2:
        try:
            file = open(f"{path}.{number}" if number else path, "rb")
        except FileNotFoundError:
            gaps += 1
        else:
            inode = os.fstat(file.fileno()).st_ino
            if inode in seen:
                file.close()
            else:
                seen.add(inode)
                found.appendleft(file)
        number += 1
    return found


def _whole_lines(file: BinaryIO) -> int:
    """Where the last line that is complete ends."""
    position = file.seek(0, os.SEEK_END)
    while position:
        step = min(BLOCK, position)
        file.seek(position - step)
        end = file.read(step).rfind(b"\n")
        if end >= 0:
            return position - step + end + 1
        position -= step
    return 0


def _lines_backwards(file: BinaryIO, position: int) -> Iterator[bytes]:
    """The complete lines before a place, in blocks, so that a short tail of a long log is cheap."""
    rest = b""
    while position:
        step = min(BLOCK, position)
        position -= step
        file.seek(position)
        pieces = (file.read(step) + rest).split(b"\n")
        rest = pieces[0]
        for piece in reversed(pieces[1:]):
            if piece:
                yield piece
    if rest:
        yield rest


class Follower:
    """Reads through a log from its beginning, and goes over to the next file when one is rotated away or deleted."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._files = open_files(path)
        self._rest = b""

    def last(self, span: Span) -> list[Record]:
        """The last ``span.tail`` wanted records; a record without its newline belongs to the next.

        ``read`` then goes on with what is written after this moment.
        """
        if not self._files:
            return []
        end = _whole_lines(self._files[-1])
        found = self._tail(end, span) if span.tail else []
        while len(self._files) > 1:
            self._files.popleft().close()
        self._files[-1].seek(end)
        return found

    def _tail(self, end: int, span: Span) -> list[Record]:
        found: deque[Record] = deque()
        lines = 0
        for file in reversed(self._files):
            place = end if file is self._files[-1] else file.seek(0, os.SEEK_END)
            for record in _records(_lines_backwards(file, place)):
                if span.past(record):
                    continue
                if span.since and parse_rfc3339(record.time) < span.since:
                    return list(found)
                if not span.wants(record):
                    continue
                if record.log.endswith("\n") or not found:
                    lines += 1
                    if lines > span.tail:
                        return list(found)
                found.appendleft(record)
        return list(found)

    def read(self) -> list[Record]:
        """The records that are complete and have not been given yet."""
        result: list[Record] = []
        while self._files or self._go_on():
            file = self._files[0]
            data = file.read(256 * 1024)
            if data:
                lines = (self._rest + data).split(b"\n")
                self._rest = lines.pop()
                result += _records(iter(lines))
                if len(result) > 1000:
                    return result
            elif len(self._files) > 1:
                self._files.popleft().close()
                self._rest = b""
            elif os.fstat(file.fileno()).st_size < file.tell():
                file.seek(0)  # emptied in its place, by a hand other than ours
                self._rest = b""
            elif not self._go_on():
                return result
            # Else it is not the newest any more; what came between the last read and that is read first.
        return result

    def _go_on(self) -> bool:
        """Open the files that came after those we have; False if there are none."""
        last = os.fstat(self._files[-1].fileno()).st_ino if self._files else -1
        try:
            if os.stat(self._path).st_ino == last:
                return False
        except FileNotFoundError:
            return False
        newer = open_files(self._path)
        if last in [os.fstat(file.fileno()).st_ino for file in newer]:
            while os.fstat(newer[0].fileno()).st_ino != last:
                newer.popleft().close()
            newer.popleft().close()
        self._files += newer
        return bool(newer)

    def close(self) -> None:
        """Let go of the files."""
        while self._files:
            self._files.pop().close()


async def read(path: str, span: Span, follow: Callable[[], Awaitable[bool]] | None) -> AsyncIterator[Record]:
    """The wanted records, in order.

    follow: awaited when everything written so far has been given; it returns after a while or when there may be more,
    and False when the container has ended: then what is left is given, and that is the end.
    """
    follower = Follower(path)
    try:
        if span.tail >= 0:
            for record in follower.last(span):
                yield record
        more = True
        while True:
            records = follower.read()
            for record in records:
                if span.past(record):
                    return
                if span.wants(record):
                    yield record
            if records:
                continue
            if follow is None or not more:
                return
            more = await follow()
    finally:
        follower.close()
