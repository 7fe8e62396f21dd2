"""Reading a container's json-file log: the tail, a span of time, and what is still being written."""

import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import msgspec

from pierhead.wire.time import parse_rfc3339


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


def _files(path: str) -> list[str]:
    """The log's files, oldest first."""
    older = []
    number = 1
    while os.path.exists(f"{path}.{number}"):
        older.append(f"{path}.{number}")
        number += 1
    return [*reversed(older), path]


def _lines_backwards(path: str) -> Iterator[bytes]:
    """The complete lines of a file from its end, in blocks, so that a short tail of a long log is cheap."""
    block = 64 * 1024
    with open(path, "rb") as file:
        position = file.seek(0, os.SEEK_END)
        rest = b""
        while position:
            step = min(block, position)
            position -= step
            file.seek(position)
            pieces = (file.read(step) + rest).split(b"\n")
            rest = pieces[0]
            for piece in reversed(pieces[1:]):
                if piece:
                    yield piece
        if rest:
            yield rest


def tail(path: str, span: Span) -> list[Record]:
    """The last ``span.tail`` wanted records; a record without its newline belongs to the next."""
    found: deque[Record] = deque()
    lines = 0
    for name in reversed(_files(path)):
        if not os.path.exists(name):
            continue
        for record in _records(_lines_backwards(name)):
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


class Follower:
    """Reads forward through the newest file, and goes over to the next when it is rotated away."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = open(path, "rb") if os.path.exists(path) else None
        self._rest = b""

    def skip_to_end(self) -> None:
        """Begin with what is written from now on."""
        if self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def read(self) -> list[Record]:
        """The records that are complete and have not been given yet."""
        result: list[Record] = []
        while True:
            if self._file is None:
                if not os.path.exists(self._path):
                    return result
                self._file = open(self._path, "rb")
            data = self._file.read(256 * 1024)
            if data:
                lines = (self._rest + data).split(b"\n")
                self._rest = lines.pop()
                result += _records(iter(lines))
                if len(result) > 1000:
                    return result
                continue
            if not self._rotated():
                return result
            # What was written between the last read and the rename is in the old file still.
            if not (late := self._file.read()):
                self.close()
                self._rest = b""
            else:
                lines = (self._rest + late).split(b"\n")
                self._rest = lines.pop()
                result += _records(iter(lines))

    def _rotated(self) -> bool:
        assert self._file is not None
        try:
            return os.stat(self._path).st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


async def read(path: str, span: Span, follow: Callable[[], Awaitable[bool]] | None) -> AsyncIterator[Record]:
    """The wanted records, in order.

    follow: awaited when everything written so far has been given; it returns after a while or when there may be more,
    and False when the container has ended: then what is left is given, and that is the end.
    """
    follower = Follower(path)
    try:
        if span.tail >= 0:
            follower.skip_to_end()
            for record in tail(path, span) if span.tail else ():
                yield record
        else:
            for name in _files(path)[:-1]:
                with open(name, "rb") as file:
                    for record in _records(iter(file)):
                        if span.past(record):
                            return
                        if span.wants(record):
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
