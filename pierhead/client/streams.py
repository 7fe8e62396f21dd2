"""A hijacked connection joined to the terminal: input one way, output the other, in raw mode where it is a terminal."""

import _socket
import os
import select
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType

from pierhead.client.connection import Connection

BLOCK = 32768


class RawTerminal:
    """The terminal in raw mode, given back as it was on every way out."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __enter__(self) -> "RawTerminal":
        import termios
        import tty

        self._before = termios.tcgetattr(self.descriptor)
        tty.setraw(self.descriptor, termios.TCSANOW)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        import termios

        termios.tcsetattr(self.descriptor, termios.TCSANOW, self._before)


class Demultiplexer:
    """Splits the stream of frames (kind, three zeros, length) into standard output and error."""

    def __init__(self, out: int = 1, err: int = 2) -> None:
        self.targets = {0: out, 1: out, 2: err}
        self.buffer = bytearray()
        self.left = 0
        self.target = out

    def feed(self, data: bytes) -> None:
        """Write what came, as far as it goes. Raises ValueError on a frame that is none."""
        self.buffer += data
        while self.buffer:
            if not self.left:
                if len(self.buffer) < 8:
                    return
                kind, self.left = self.buffer[0], int.from_bytes(self.buffer[4:8], "big")
                if kind == 3:
                    self._system_error()
                if kind not in self.targets:
                    raise ValueError(f"Unrecognized input header: {kind}")
                self.target = self.targets[kind]
                del self.buffer[:8]
                continue
            piece = bytes(self.buffer[: self.left])
            write_all(self.target, piece)
            self.left -= len(piece)
            del self.buffer[: len(piece)]

    def _system_error(self) -> None:
        raise ValueError("error from daemon in stream: " + self.buffer[8:].decode("utf-8", "replace"))


class Raw:
    """Writes everything to standard output: what a terminal's stream needs."""

    def feed(self, data: bytes) -> None:
        """Write it."""
        write_all(1, data)


def write_all(descriptor: int, data: bytes) -> None:
    """write(2) until all is out."""
    while data:
        data = data[os.write(descriptor, data) :]


class DetachKeys:
    """Watches what is typed for the sequence that detaches; its beginning is held back until it is decided."""

    DEFAULT = "ctrl-p,ctrl-q"

    def __init__(self, text: str) -> None:
        """Raises ValueError where it is no sequence of ``ctrl-x`` and single characters."""
        self.keys = bytes(_key(name) for name in (text or self.DEFAULT).split(","))
        self.held = 0

    def filter(self, data: bytes) -> tuple[bytes, bool]:
        """What may be passed on, and whether the sequence is complete."""
        out = bytearray()
        for byte in data:
            if byte == self.keys[self.held]:
                self.held += 1
                if self.held == len(self.keys):
                    return bytes(out), True
                continue
            out += self.keys[: self.held]
            self.held = 1 if byte == self.keys[0] else 0
            if not self.held:
                out.append(byte)
        return bytes(out), False


def _key(name: str) -> int:
    if len(name) == 1:
        return ord(name)
    letter = name.removeprefix("ctrl-")
    if name.startswith("ctrl-") and len(letter) == 1 and letter in "@abcdefghijklmnopqrstuvwxyz[\\]^_":
        return ord(letter.upper()) - 64
    raise ValueError(f"Unknown character: '{name}'")


def relay(
    connection: Connection, stdin: bool, output: "Demultiplexer | Raw | None", keys: DetachKeys | None = None
) -> bool:
    """Pass bytes until the daemon ends the stream, or the detach keys are typed: True then.

    The end of standard input becomes a half-close, so that ``echo hi | pier run -i … cat`` ends by itself.
    ``output`` None: nothing is shown, only input is passed.
    """
    sock = connection.socket
    sys.stdout.flush()
    if connection.buffer and output is not None:
        output.feed(bytes(connection.buffer))
    connection.buffer.clear()
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if stdin:
        poll.register(0, select.POLLIN)
    pending = bytearray()
    input_ended = False
    sock.setblocking(False)
    while True:
        for descriptor, event in poll.poll():
            if descriptor == 0:
                data = _read_input()
                if data and keys is not None:
                    data, detached = keys.filter(data)
                    if detached:
                        return True
                    pending += data
                elif data:
                    pending += data
                else:
                    input_ended = True
                poll.unregister(0)  # until what was read is sent
                poll.modify(sock, select.POLLIN | select.POLLOUT)
                continue
            if event & (select.POLLIN | select.POLLHUP | select.POLLERR) and not _receive(sock, output):
                return False
            if event & select.POLLOUT:
                _send(sock, pending)
                if not pending:
                    poll.modify(sock, select.POLLIN)
                    if input_ended:
                        _half_close(sock)
                    else:
                        poll.register(0, select.POLLIN)


def _read_input() -> bytes:
    try:
        return os.read(0, BLOCK)
    except OSError:
        return b""


def _receive(sock: _socket.socket, output: "Demultiplexer | Raw | None") -> bool:
    try:
        data = sock.recv(BLOCK)
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    if data and output is not None:
        output.feed(data)
    return bool(data)


def _send(sock: _socket.socket, pending: bytearray) -> None:
    try:
        while pending:
            del pending[: sock.send(pending)]
    except BlockingIOError:
        return
    except ConnectionError:
        pending.clear()


def _half_close(sock: _socket.socket) -> None:
    try:
        sock.shutdown(_socket.SHUT_WR)
    except OSError:
        return  # the other side is gone already, which the next read tells


def window() -> tuple[int, int]:
    """Rows and columns of the terminal; (0, 0) where there is none."""
    for descriptor in (1, 0, 2):
        try:
            size = os.get_terminal_size(descriptor)
        except OSError:
            continue
        return size.lines, size.columns
    return 0, 0


class WindowWatch:
    """Tells the daemon the terminal's size, now and on every SIGWINCH."""

    def __init__(self, resize: Callable[[int, int], bool]) -> None:
        self.resize = resize

    def __enter__(self) -> "WindowWatch":
        self._before = signal.signal(signal.SIGWINCH, self._changed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGWINCH, self._before)

    def _changed(self, number: int, frame: FrameType | None) -> None:
        self.now()

    def now(self, attempts: int = 1) -> None:
        """Resize; the first time the process may not be there yet, hence several attempts."""
        import time

        rows, columns = window()
        if not rows and not columns:
            return
        for attempt in range(attempts):
            if self.resize(rows, columns):
                return
            time.sleep((attempt + 1) * 0.01)


class SignalProxy:
    """Passes on the signals that reach ``pier`` to the container, as ``--sig-proxy`` promises."""

    IGNORED = frozenset(
        (
            signal.SIGCHLD,
            signal.SIGPIPE,
            signal.SIGWINCH,
            signal.SIGURG,
            signal.SIGKILL,
            signal.SIGSTOP,
            signal.SIGTSTP,
            signal.SIGTTIN,
            signal.SIGTTOU,
            signal.SIGCONT,
            signal.SIGSEGV,
            signal.SIGBUS,
            signal.SIGFPE,
            signal.SIGILL,
        )
    )

    def __init__(self, kill: Callable[[str], None]) -> None:
        self.kill = kill

    def __enter__(self) -> "SignalProxy":
        self._before = {}
        for number in signal.valid_signals() - self.IGNORED:
            if isinstance(number, signal.Signals) and number < signal.SIGRTMIN:
                self._before[number] = signal.signal(number, self._pass)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _pass(self, number: int, frame: FrameType | None) -> None:
        self.kill(signal.Signals(number).name.removeprefix("SIG"))
