"""Processes that a test starts: each has an end, each is ended by its own id, and what it said is kept."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

IN_TEST_MACHINE = os.environ.get("PIERHEAD_VM") == "1"
"""Whether this runs in the emulated machine of `make test-vm`."""

# Deadlines guard against hanging only; nothing that works comes near them.
DEADLINE = 900.0 if IN_TEST_MACHINE else 60.0
SLOWER = 15 if IN_TEST_MACHINE else 1
"""By how much longer a client waits for its answer: an emulated machine is that much slower, or more."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a finished command said."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    def check(self) -> "Output":
        """Itself if the command succeeded; raises AssertionError with all it said otherwise."""
        assert self.status == 0, f"{' '.join(self.argv)}: status {self.status}\n{self.stdout}{self.stderr}"
        return self

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()


def run(
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    timeout: float = DEADLINE,
) -> Output:
    """Run a command to its end; a hanging one is killed and TimeoutExpired raised."""
    done = subprocess.run(list(argv), input=stdin, capture_output=True, env=env, timeout=timeout, check=False)
    return Output(
        tuple(argv), done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )


class Daemon:
    """A long-lived process of a test; its output goes to a file."""

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.argv = tuple(argv)
        self.log = log
        with log.open("ab") as output:
            # A session of its own: Ctrl-C in the test run's terminal ends the run, which ends the daemon in order.
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def running(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def _signal(self, number: int) -> None:
        """To the daemon itself: before one in another PID namespace nsenter waits, and passes nothing on."""
        pid = self.pid
        if Path(f"/proc/{pid}/comm").read_text().strip() == "nsenter":
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            pid = int(children[0]) if children else pid
        os.kill(pid, number)

    def kill(self) -> None:
        """SIGKILL, and gone."""
        if self.running():
            self._signal(signal.SIGKILL)
        self.process.wait(DEADLINE)

    def terminate(self, timeout: float = DEADLINE) -> int:
        """SIGTERM, and the status; a process that does not end is killed and that is an error."""
        if self.running():
            self._signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.argv[0]} did not end on SIGTERM:\n{self.said()[-4000:]}") from None


def wait_until(condition: Callable[[], object], what: str, timeout: float = DEADLINE) -> None:
    """Poll until the condition holds; AssertionError naming what did not come."""
    end = time.monotonic() + timeout
    pause = 0.002
    while not condition():
        assert time.monotonic() < end, f"it did not come: {what}"
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def processes_naming(text: str) -> dict[int, str]:
    """Ids and command lines of the processes whose command line has the text in it (never this one)."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != os.getpid():
            try:
                command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if text in command:
                found[int(entry)] = command.strip()
    return found


def end(pid: int) -> None:
    """SIGKILL one process by its id; one that is gone already is fine."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
