"""The progress of pull, load and import: bars redrawn in place on a terminal, plain lines elsewhere."""

import json
import os
import signal
import time
from typing import Any, TextIO

from pierhead.client.connection import Response
from pierhead.client.errors import ClientError
from pierhead.client.units import human_size


class Display:
    """Shows a stream of JSON messages as Docker's client does."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.terminal = out.isatty()
        self.columns = 200
        if self.terminal:
            try:
                self.columns = os.get_terminal_size(out.fileno()).columns
            except OSError:
                self.columns = 80
        self.lines: dict[str, int] = {}
        self._drawn: list[str] = []

    def show(self, answer: Response) -> list[Any]:
        """Print the messages as they come; those of type ``aux`` are given back. Raises the stream's error."""
        before = signal.getsignal(signal.SIGINT)
        if before is signal.default_int_handler:
            # Ctrl-C ends us at once: Python's own handler would wait for the next message, where it comes just before
            # we wait for that.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            return self._all(answer)
        finally:
            signal.signal(signal.SIGINT, before)

    def _all(self, answer: Response) -> list[Any]:
        found = []
        for line in answer.lines():
            for message in _values(line):
                if "aux" in message:
                    found.append(message["aux"])
                    continue
                self._message(message)
                # At once: a Ctrl-C between two pieces would leave the cursor somewhere among the bars.
                self.out.write("".join(self._drawn))
                self._drawn.clear()
                self.out.flush()
        return found

    def _message(self, message: Any) -> None:
        error = message.get("errorDetail") or ({"message": message["error"]} if message.get("error") else None)
        if error:
            if error.get("code") == 401:
                raise ClientError("authentication is required")
            raise ClientError(str(error.get("message") or message.get("error")))
        id = message.get("id") or ""
        progress = self._bar(message.get("progressDetail") or {}) or str(message.get("progress") or "")
        if not self.terminal:
            if progress and not message.get("stream"):
                return
            self._text(message, id, "", "\n")
            return
        up = 0
        if id and (progress or message.get("progressDetail") is not None):
            if id not in self.lines:
                self.lines[id] = len(self.lines)
                self._drawn.append("\n")
            up = len(self.lines) - self.lines[id]
            self._drawn.append(f"\x1b[{up}A")
        else:
            self.lines.clear()
        if message.get("stream"):
            self._text(message, id, "", "")
        elif progress or message.get("progressDetail") is not None:
            self._drawn.append("\x1b[2K\r")
            self._text(message, id, progress, "\r")
        else:
            self._text(message, id, "", "\n")
        if up:
            self._drawn.append(f"\x1b[{up}B")

    def _text(self, message: Any, id: str, progress: str, end: str) -> None:
        text = ""
        if message.get("time"):
            text += f"{message['time']} "
        if id:
            text += f"{id}: "
        if message.get("from"):
            text += f"(from {message['from']}) "
        if progress or end == "\r":
            text += f"{message.get('status', '')} {progress}{end}"
        elif message.get("stream"):
            text += str(message["stream"])
        else:
            text += f"{message.get('status', '')}{end}"
        self._drawn.append(text)

    def _bar(self, detail: Any) -> str:
        """``[====>      ]  1.2MB/3.4MB``."""
        current, total = detail.get("current") or 0, detail.get("total") or 0
        if current <= 0 and total <= 0:
            return ""
        if detail.get("units"):
            return f"{current} {detail['units']}" if total <= 0 else f"{current}/{total} {detail['units']}"
        now = human_size(float(current))
        if total <= 0:
            return f"{now:>8}"
        share = min(int(float(current) / float(total) * 100) // 2, 50)
        bar = ""
        if self.columns > 110:
            bar = "[" + "=" * share + ">" + " " * (50 - share) + "] "
        numbers = f"{now:>8}" + (f"/{human_size(float(total))}" if current <= total else "")
        left = ""
        if detail.get("start") and current > 0 and share < 50:
            spent = time.time() - detail["start"]
            left = f" {int(spent / current * (total - current))}s"
        return bar + numbers + (left if self.columns > 50 else "")


class Line:
    """One line of progress on a terminal, which goes when something is written; nothing elsewhere."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._there = False

    def show(self, doing: str, progress: Any) -> None:
        """``progress``: What, Current and Total, in bytes."""
        if self._terminal:
            current, total = human_size(progress["Current"]), human_size(progress["Total"])
            count = f"  {current} of {total}" if progress["Total"] else ""
            self._out.write(f"\r\x1b[2K{doing} {progress['What']}{count}")
            self._out.flush()
            self._there = True

    def clear(self) -> None:
        """Before something else is written."""
        if self._there:
            self._out.write("\r\x1b[2K")
            self._there = False


def _values(line: bytes) -> list[Any]:
    """One JSON value a line is usual; several on one line are allowed."""
    decoder = json.JSONDecoder()
    text = line.decode("utf-8", "replace").strip()
    found = []
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].lstrip()
    return found
