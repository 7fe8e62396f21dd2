"""Docker's json-file log: one JSON object a line, ``{"log":"…\\n","stream":"stdout","time":"…"}``, rotated by size.

As Docker's: a line of the container's output is one entry; what is longer than 16 KiB is cut into several, of which
only the last ends in a newline; output that ends without one has none in the log either.  Beyond Docker's: no two
entries have the same time, so that a reader that remembers the time of the last one it has seen loses nothing; and a
character is not cut in two.

The zygote imports this: no typing, no json (``_json`` alone is the C part that quotes).
"""

from __future__ import annotations

import codecs
import os
import time
from _json import encode_basestring as quote

LONGEST = 16 * 1024
"""Bytes of output in one entry, as Docker's copier."""

STREAMS = {1: "stdout", 2: "stderr"}

_INCOMPLETE = "pierhead.incomplete"


def _one_for_each(error: UnicodeError) -> tuple[str, int]:
    """Go's decoder: U+FFFD for every single byte that is not UTF-8 (Python's own handler: one for each sequence)."""
    assert isinstance(error, UnicodeDecodeError)
    return "\N{REPLACEMENT CHARACTER}" * (error.end - error.start), error.end


codecs.register_error(_INCOMPLETE, _one_for_each)


def entry(line: bytes | bytearray, stream: str, attrs: str, stamp: str) -> str:
    """One entry, ended by a newline.  attrs: a JSON object or empty; stamp: RFC3339Nano."""
    text = quote(line.decode("utf-8", _INCOMPLETE))
    # What Go escapes besides, so that the file is safe inside HTML; never part of another escape.
    if "<" in text:
        text = text.replace("<", "\\u003c")
    if ">" in text:
        text = text.replace(">", "\\u003e")
    if "&" in text:
        text = text.replace("&", "\\u0026")
    if attrs:
        return f'{{"log":{text},"stream":"{stream}","attrs":{attrs},"time":"{stamp}"}}\n'
    return f'{{"log":{text},"stream":"{stream}","time":"{stamp}"}}\n'


def attributes(pairs: tuple[tuple[str, str], ...]) -> str:
    """The attrs of every entry, as JSON; empty if there are none."""
    if not pairs:
        return ""
    return "{" + ",".join(f"{quote(key)}:{quote(value)}" for key, value in sorted(pairs)) + "}"


def cut(line: bytearray) -> int:
    """How much of the first 16 KiB to log as one entry: all but a character that is not complete there."""
    for back in range(1, 4):
        byte = line[LONGEST - back]
        if byte >= 0xC0:  # the first of a sequence, of two, three or four bytes
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return LONGEST - back if length > back else LONGEST
        if byte < 0x80:
            break
    return LONGEST


class JSONLog:
    """The log of one container, appended to by its shim alone.

    A log that cannot be written (disk full) loses entries, never the container: ``failed`` counts these.
    """

    def __init__(self, path: str, max_size: int, max_files: int, attrs: tuple[tuple[str, str], ...]) -> None:
        self.path = path
        self.max_size = max_size
        self.max_files = max_files
        self.attrs = attributes(attrs)
        self.failed = 0
        self.rests: dict[int, bytearray] = {}
        self.last = 0
        self.second = -1
        self.prefix = ""
        self.open()

    def open(self) -> None:
        """Open the newest file for appending. Raises OSError."""
        self.file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        self.size = os.fstat(self.file).st_size

    def stamp(self) -> str:
        """Now, as RFC3339Nano without trailing zeros (as Go prints it), always later than the last one."""
        now = time.time_ns()
        if now <= self.last:
            now = self.last + 1
        self.last = now
        second, nanoseconds = divmod(now, 1_000_000_000)
        if second != self.second:
            self.second = second
            year, month, day, hour, minute, s = time.gmtime(second)[:6]
            self.prefix = f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{s:02}"
        if not nanoseconds:
            return f"{self.prefix}Z"
        return f"{self.prefix}.{nanoseconds:09}".rstrip("0") + "Z"

    def feed(self, stream: int, data: bytes | memoryview) -> None:
        """Log a piece of the output of stream 1 (stdout) or 2 (stderr), as it came."""
        rest = self.rests.get(stream)
        if rest is None:
            rest = self.rests[stream] = bytearray()
        rest += data
        entries = []
        name = STREAMS[stream]
        start = 0
        while (end := rest.find(b"\n", start)) >= 0:
            if end - start >= LONGEST:
                del rest[:start]
                start = 0
                entries += self._pieces(rest, name)
                end = rest.find(b"\n")
            entries.append(entry(rest[start : end + 1], name, self.attrs, self.stamp()))
            start = end + 1
        del rest[:start]
        if len(rest) >= LONGEST:
            entries += self._pieces(rest, name)
        if not rest:
            del self.rests[stream]  # an idle shim is small
        if entries:
            self.write(entries)

    def _pieces(self, rest: bytearray, name: str) -> list[str]:
        """Cut 16 KiB pieces off a line that is longer."""
        pieces = []
        while (end := rest.find(b"\n")) >= LONGEST or (end < 0 and len(rest) >= LONGEST):
            length = cut(rest)
            pieces.append(entry(rest[:length], name, self.attrs, self.stamp()))
            del rest[:length]
        return pieces

    def finish(self) -> None:
        """Log what came without a newline, and close the file. Idempotent."""
        if self.file < 0:
            return
        entries = [entry(rest, STREAMS[stream], self.attrs, self.stamp()) for stream, rest in self.rests.items()]
        self.rests = {}
        if entries:
            self.write(entries)
        os.close(self.file)
        self.file = -1

    def write(self, entries: list[str]) -> None:
        """Append entries; before one that finds the file full, rotate."""
        if self.max_size <= 0:
            self._append("".join(entries).encode())
            return
        pending: list[bytes] = []
        size = self.size
        for text in entries:
            if size >= self.max_size:
                self._append(b"".join(pending))
                pending = []
                self._rotate()
                size = self.size
            data = text.encode()
            pending.append(data)
            size += len(data)
        self._append(b"".join(pending))

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self.file, view) :]
        except OSError:
            # A disk that is full may have taken half of an entry: no reader shall stumble over it.
            self.failed += 1
            os.ftruncate(self.file, self.size)
            return
        self.size += len(data)

    def _rotate(self) -> None:
        """The newest becomes .1, .1 becomes .2, …; with one file only it begins anew."""
        try:
            size = os.fstat(self.file).st_size
            if size < self.size:  # somebody has truncated it, as users of Docker do
                self.size = size
                return
            if self.max_files < 2:
                self._replace()
                return
            for number in range(self.max_files - 1, 0, -1):
                older = f"{self.path}.{number}"
                newer = f"{self.path}.{number - 1}" if number > 1 else self.path
                try:
                    os.rename(newer, older)
                except FileNotFoundError:
                    pass
            old = self.file
            self.open()
            os.close(old)
        except OSError:
            # Written on into the file there is: better too long than lost.
            self.failed += 1

    def _replace(self) -> None:
        """Put an empty file in the place of the newest.

        Emptied it could be only under whoever reads it, and would go on behind the place where that one is.
        """
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
        old = self.file
        self.open()
        os.close(old)

    def truncate(self) -> int:
        """Delete everything that has been logged: the bytes on disk. Raises OSError.

        Whoever has a file open reads it to its end, and finds the new one by its name.
        """
        if self.file < 0:
            raise FileNotFoundError(2, "the log is closed", self.path)
        freed = os.fstat(self.file).st_blocks * 512
        self._replace()
        number = 1
        while True:
            try:
                older = f"{self.path}.{number}"
                blocks = os.lstat(older).st_blocks
                os.unlink(older)
            except FileNotFoundError:
                return freed
            freed += blocks * 512
            number += 1
