"""An OCI runtime as a program: its commands (those of runc, which crun and others have too), and what it says.

The shims of its containers hold this, and so does the driver, which cleans up after a shim that has died.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

from pierhead.driver.execdriver.job import close_all
from pierhead.libcontainer.init import SetupError

VERSION = 1
"""Of what ``oci`` compiles for ``ocishim``."""

STATE = "state"
"""Where the runtime keeps what it knows of a container, in the container's run-time folder."""

LOG = "runtime.log"

_CAUSES = (
    ("executable file not found", 2),
    ("no such file or directory", 2),
    ("not found in $PATH", 2),
    ("permission denied", 13),
    ("exec format error", 8),
    ("not a directory", 20),
    ("is a directory", 21),
    ("cannot allocate memory", 12),
    ("device or resource busy", 16),
    ("operation not permitted", 1),
    ("invalid argument", 22),
)
"""A runtime has words for its errors, and no numbers."""


_SIGNALS = [number for number in range(1, 65) if number not in (9, 19, 32, 33)]
"""What the container's processes inherit is the default for each, whatever is ignored here."""


class Runtime:
    """One runtime, and one container of it."""

    def __init__(self, path: str, options: Sequence[str], environment: Mapping[str, str], folder: str, id: str) -> None:
        """path: of the program; options: before each of its commands; folder: the container's run-time folder."""
        self.path = path
        self.options = tuple(options)
        self.environment = dict(environment)
        self.folder = folder
        self.id = id

    @property
    def known(self) -> bool:
        """Whether it has something of the container."""
        return os.path.lexists(f"{self.folder}/{STATE}/{self.id}")

    def begin(self, command: str, *words: str, stdio: tuple[int, int, int] = (-1, -1, -1)) -> int:
        """Execute a command about the container; returns its process id. stdio: -1 is /dev/null."""
        arguments = [self.path, *self.options, "--root", f"{self.folder}/{STATE}"]
        arguments += ["--log", self._log(command), "--log-format", "json", command, *words]
        if command != "exec":
            arguments.append(self.id)
        null = -1
        try:
            if -1 in stdio:
                null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            actions = [
                (os.POSIX_SPAWN_DUP2, null if descriptor < 0 else descriptor, number)
                for number, descriptor in enumerate(stdio)
            ]
            return os.posix_spawn(
                self.path, arguments, self.environment, file_actions=actions, setsigmask=[], setsigdef=_SIGNALS
            )
        except OSError as error:
            code = error.errno or 5
            raise SetupError(code, f"{self.path}: {os.strerror(code).lower()}", self.path, command, "runtime") from None
        finally:
            close_all((null,))

    def run(self, command: str, *words: str, stdio: tuple[int, int, int] = (-1, -1, -1)) -> None:
        """The same, to its end. Raises SetupError with what the runtime said."""
        _, status = os.waitpid(self.begin(command, *words, stdio=stdio), 0)
        self.check(command, status)

    def check(self, command: str, status: int) -> None:
        """Raises SetupError if a command has failed."""
        said = self._said(command)
        if not status:
            return
        if not said:
            code = os.waitstatus_to_exitcode(status)
            said = f"{self.path} {command}: " + (f"killed by signal {-code}" if code < 0 else f"exit status {code}")
        raise explain(command, said)

    def delete(self) -> None:
        """Have it forget the container, and end what is left of it. Idempotent; raises SetupError."""
        if self.known:
            self.run("delete", "--force")

    def _log(self, command: str) -> str:
        return f"{self.folder}/{command}-{LOG}"

    def _said(self, command: str) -> str:
        """The last error of its log, which is removed."""
        said = ""
        try:
            with open(self._log(command), encoding="utf-8", errors="replace") as file:
                for line in file:
                    said = _error(line) or said
            os.unlink(self._log(command))
        except OSError:
            pass  # it has not come so far
        return said


def _error(line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        return ""
    if not isinstance(entry, dict) or entry.get("level", "error") not in ("error", "fatal"):
        return ""
    return str(entry.get("msg", "")).strip()


def explain(command: str, said: str) -> SetupError:
    """A runtime's words as an error: of the command that was to be executed (stage "exec"), or of the runtime."""
    code = next((code for words, code in _CAUSES if words.lower() in said.lower()), 5)
    at = said.find('exec: "')
    if at < 0 and "executable file" in said:
        at = said.find("executable file")
    if at >= 0:
        return SetupError(code, said[at:], "", "execve", "exec")
    return SetupError(code, said, "", command, "runtime")
