"""A person at a terminal: a program on a pty that is typed into and whose screen is read."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

from tests.harness.processes import DEADLINE


def _sit_down() -> None:
    """In the child: the terminal is its own, and Ctrl-C ends it, also where the tests run in the background."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A program with a terminal of its own, of the given size."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], rows: int = 24, columns: int = 80) -> None:
        self.master, slave = pty.openpty()
        self.seen = b""
        try:
            self.size(rows, columns)
            self.process = subprocess.Popen(
                list(argv), stdin=slave, stdout=slave, stderr=slave, env=dict(env), start_new_session=True,
                preexec_fn=_sit_down,
            )  # fmt: skip
        finally:
            os.close(slave)

    def size(self, rows: int, columns: int) -> None:
        """Resize; the foreground program gets SIGWINCH."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str | bytes) -> None:
        os.write(self.master, text.encode() if isinstance(text, str) else text)

    def _read(self, timeout: float) -> bytes:
        if not select.select([self.master], [], [], max(timeout, 0))[0]:
            return b""
        try:
            return os.read(self.master, 65536)
        except OSError:
            return b""

    def expect(self, text: str, timeout: float = DEADLINE / 2) -> str:
        """Read until the text has appeared since the last call; returns what came up to and with it."""
        end = time.monotonic() + timeout
        marker = text.encode()
        while marker not in self.seen:
            remaining = end - time.monotonic()
            assert remaining > 0, f"{text!r} did not appear in {self.seen.decode(errors='replace')!r}"
            new = self._read(remaining)
            ended = not new and self.process.poll() is not None
            assert not ended, f"it ended before {text!r} appeared in {self.seen.decode(errors='replace')!r}"
            self.seen += new
        before, _, self.seen = self.seen.partition(marker)
        return (before + marker).decode(errors="replace")

    def wait(self, timeout: float = DEADLINE / 2) -> int:
        """The exit status, once the program has ended by itself; what it still prints is read."""
        end = time.monotonic() + timeout
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it did not end; on the screen: {self.seen.decode(errors='replace')!r}"
            self.seen += self._read(0.1)
        while new := self._read(0):
            self.seen += new
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self.master)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()
