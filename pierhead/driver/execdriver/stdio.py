"""A process's stdin, stdout and stderr, on the shim's side: into the log, to the attached clients, and from them.

Nothing is lost: what cannot be written now is kept, and beyond ``MOST_PENDING`` bytes the process itself has to wait
(as it would at a terminal).  A client that has gone is dropped.  The zygote imports this.
"""

from __future__ import annotations

import os
import struct
from _socket import MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_RDWR, SHUT_WR, socket

from pierhead.driver.execdriver.jsonlog import JSONLog
from pierhead.driver.execdriver.loop import ERR, HUP, IN, OUT, Loop
from pierhead.driver.execdriver.protocol import CLOSE_STDIN, REFRAMED, STDERR, STDIN, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MOST_PENDING = 1 << 20
"""Bytes kept for one slow client before the process's output is not read any more."""

GRACE = 2.0
"""Seconds that output is waited for after its process has ended and another still holds it (as Docker)."""

PATIENCE = 30.0
"""Seconds without progress after which a client that does not read is dropped, once the process has ended."""

_FRAME = struct.Struct(">BxxxL")

buffer = memoryview(bytearray(32 * 1024))
"""The one buffer for everything that is read; a shim has one thread."""


class Client:
    """One attached connection."""

    __slots__ = ("connection", "flags", "gone", "pending", "reading")

    def __init__(self, connection: socket, flags: int) -> None:
        self.connection = connection
        self.flags = flags
        self.pending = bytearray()
        self.reading = bool(flags & STDIN)
        self.gone = False


class Stdio:
    """The stdio of one process. ``done`` is called once, when the process has ended and its output is out."""

    def __init__(self, loop: Loop, log: JSONLog | None, done: Callable[[], None]) -> None:
        self.loop = loop
        self.log = log
        self.done = done
        self.clients: list[Client] = []
        self.outputs: dict[int, int] = {}
        self.stdin = -1
        self.terminal = False
        self.unread = b""
        self.closing = False
        self.held = False
        self.ended = False
        self.finished = False

    def open(self, stdin: int, stdout: int, stderr: int) -> None:
        """Take over the shim's ends of three pipes; stdin -1: it is /dev/null."""
        self.stdin = stdin
        self.outputs = {stdout: 1, stderr: 2}
        self._start()

    def open_terminal(self, master: int) -> None:
        """Take over a terminal's master, which serves all three."""
        self.terminal = True
        self.stdin = master
        self.outputs = {master: 1}
        self._start()

    def _start(self) -> None:
        for descriptor in {self.stdin, *self.outputs} - {-1}:
            os.set_blocking(descriptor, False)
        self._watch_outputs()
        for client in self.clients:
            self._watch_client(client)

    # Clients

    def add(self, connection: socket, flags: int) -> None:
        """Attach a client, from now on (before ``open``: from the beginning)."""
        connection.setblocking(False)
        client = Client(connection, flags)
        self.clients.append(client)
        if self.finished:
            self._end(client)
        elif self.outputs or self.stdin >= 0:
            self._watch_client(client)

    def _watch_client(self, client: Client) -> None:
        events = IN if client.reading and not self.unread else 0
        if client.pending:
            events |= OUT
        descriptor = client.connection.fileno()
        if not events and client.reading:
            self.loop.forget(descriptor)  # with no events wanted, its HUP would be reported again and again
        else:
            self.loop.watch(descriptor, events, lambda events: self._client_ready(client, events))

    def _client_ready(self, client: Client, events: int) -> None:
        if events & OUT and client.pending:
            self._flush(client)
        if client.reading and not self.unread and events & (IN | HUP | ERR) and not client.gone:
            self._take(client)
        elif events & (HUP | ERR) and not client.reading:
            self.drop(client)

    def _flush(self, client: Client) -> None:
        try:
            sent = client.connection.send(memoryview(client.pending)[:65536], MSG_DONTWAIT | MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError:
            self.drop(client)
            return
        del client.pending[:sent]
        if not client.pending:
            client.pending = bytearray()
        if self.finished:
            if client.pending:
                self.loop.later(PATIENCE, self.abandon)
            else:
                self._end(client)
            return
        self._watch_client(client)
        if self.held and all(len(other.pending) <= MOST_PENDING // 2 for other in self.clients):
            self.held = False
            self._watch_outputs()

    def drop(self, client: Client) -> None:
        """Forget a client that is gone. Idempotent."""
        if client.gone:
            return
        client.gone = True
        self.loop.forget(client.connection.fileno())
        client.connection.close()
        if client in self.clients:
            self.clients.remove(client)
        if client.reading and client.flags & CLOSE_STDIN and not self.finished:
            self.close_stdin()
        if self.held and all(len(other.pending) <= MOST_PENDING // 2 for other in self.clients):
            self.held = False
            self._watch_outputs()

    # stdin

    def _take(self, client: Client) -> None:
        """Read from a client, write to the process."""
        try:
            count = client.connection.recv_into(buffer)
        except BlockingIOError:
            return
        except OSError:
            self.drop(client)
            return
        if count:
            self._put(bytes(buffer[:count]))
            return
        client.reading = False
        if client.flags & CLOSE_STDIN:
            self.close_stdin()
        if not client.gone:
            self._watch_client(client)

    def _put(self, data: bytes) -> None:
        if self.stdin >= 0 and not self.closing:  # else nobody reads it: as a closed pipe, without the signal
            self._write(data)

    def _write(self, data: bytes) -> None:
        """Write to the process what it takes; the rest is ``unread`` until it takes more."""
        try:
            written = os.write(self.stdin, data)
        except BlockingIOError:
            written = 0
        except OSError:
            self._shut_stdin()
            return
        rest = data[written:]
        if bool(rest) != bool(self.unread):
            self.unread = rest
            for client in self.clients:
                if client.reading:
                    self._watch_client(client)
        self.unread = rest
        if self.terminal:
            self._watch_outputs()
        elif rest:
            self.loop.watch(self.stdin, OUT, self._stdin_ready)
        else:
            self.loop.forget(self.stdin)

    def _stdin_ready(self, events: int) -> None:
        if events & ERR:  # the process has closed its end
            self._shut_stdin()
        else:
            self._stdin_writable()

    def _stdin_writable(self) -> None:
        self._write(self.unread)
        if self.closing and not self.unread:
            self._shut_stdin()

    def close_stdin(self) -> None:
        """End the process's stdin, after what has been sent so far. A terminal has no such end. Idempotent."""
        if self.terminal or self.stdin < 0:
            return
        if self.unread:
            self.closing = True
            return
        self._shut_stdin()

    def _shut_stdin(self) -> None:
        if self.stdin < 0:
            return
        stdin, self.stdin, self.closing = self.stdin, -1, False
        held_back = bool(self.unread)
        self.unread = b""
        if not self.terminal:
            self.loop.forget(stdin)
            os.close(stdin)
        if held_back:
            for client in list(self.clients):
                self._watch_client(client)

    # stdout, stderr

    def _watch_outputs(self) -> None:
        for descriptor in self.outputs:
            events = 0 if self.held else IN
            if self.terminal and self.unread:
                events |= OUT
            if events:
                self.loop.watch(descriptor, events, lambda events, d=descriptor: self._output_ready(d, events))  # type: ignore[misc]
            else:
                self.loop.forget(descriptor)

    def _output_ready(self, descriptor: int, events: int) -> None:
        if events & OUT and self.unread:
            self._stdin_writable()
        if events & (IN | HUP | ERR) and not self.held:
            self._read(descriptor)

    def _read(self, descriptor: int) -> bool:
        """One piece of output; False when there is no more for now, or for good."""
        try:
            count = os.readv(descriptor, [buffer])
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last process has closed the terminal
            count = 0
        if not count:
            self._close_output(descriptor)
            return False
        stream = self.outputs[descriptor]
        data = buffer[:count]
        if self.log is not None:
            self.log.feed(stream, data)
        if self.clients:
            self._fan_out(stream, data)
        return True

    def _fan_out(self, stream: int, data: memoryview) -> None:
        wanted = STDOUT if stream == 1 else STDERR
        raw: list[bytes | memoryview] = [data]
        framed: list[bytes | memoryview] = [_FRAME.pack(stream, len(data)), data]
        for client in list(self.clients):
            if not client.flags & wanted:
                continue
            parts = raw if self.terminal != bool(client.flags & REFRAMED) else framed
            length = sum(map(len, parts))
            sent = 0
            if not client.pending:
                try:
                    sent = client.connection.sendmsg(parts, (), MSG_DONTWAIT | MSG_NOSIGNAL)
                except BlockingIOError:
                    pass
                except OSError:
                    self.drop(client)
                    continue
                if sent == length:
                    continue
            for part in parts:
                client.pending += part[sent:]
                sent = max(0, sent - len(part))
            self._watch_client(client)
            if len(client.pending) > MOST_PENDING and not self.ended and not self.held:
                self.held = True
                self._watch_outputs()

    def _close_output(self, descriptor: int) -> None:
        self.loop.forget(descriptor)
        del self.outputs[descriptor]
        if self.terminal:
            self.stdin = -1
            self.unread = b""
        os.close(descriptor)
        if self.ended and not self.outputs:
            self.finish()

    # The end

    def process_ended(self) -> None:
        """Its process has been reaped: read what is still there, then finish (at once, or after ``GRACE``)."""
        self.ended = True
        self.held = False
        # All that the process wrote is in the pipes by now; who else still writes has until the grace ends.
        for descriptor in list(self.outputs):
            limit = 128  # 4 MiB: more than any pipe holds
            while limit and self._read(descriptor):
                limit -= 1
        if self.finished:
            return
        if not self.outputs:
            self.finish()
            return
        self._watch_outputs()
        self.loop.later(GRACE, self.finish)

    def finish(self) -> None:
        """Close everything; clients that still have something to read keep their connection until they have."""
        if self.finished:
            return
        self.ended = True
        self.finished = True
        self.loop.cancel(self.finish)
        self._shut_stdin()
        for descriptor in list(self.outputs):
            self.loop.forget(descriptor)
            os.close(descriptor)
        self.outputs = {}
        for client in list(self.clients):
            client.reading = False
            if client.pending:
                self._watch_client(client)
                self.loop.later(PATIENCE, self.abandon)
            else:
                self._end(client)
        self.done()

    def _end(self, client: Client) -> None:
        """The regular end of a connection: the peer reads end-of-file."""
        if client.gone:
            return
        try:
            client.connection.shutdown(SHUT_WR)
            client.connection.shutdown(SHUT_RDWR)
            # Unread input would turn the peer's end-of-file into ECONNRESET.
            while client.connection.recv_into(buffer):
                pass
        except OSError:
            pass
        self.drop(client)

    def abandon(self) -> None:
        """Drop the clients that have not read for too long."""
        for client in list(self.clients):
            self.drop(client)
