"""A pierd whose every lasting step can be stopped, and which is back at once."""

import os
import select
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.engines import Pierd
from tests.harness.forkserver import Forkserver
from tests.harness.kernel import need
from tests.harness.netns import World, world
from tests.harness.processes import DEADLINE, Daemon
from tests.harness.steps import Verdict, Watch


class Forked(Daemon):
    """A daemon of the fork server."""

    def __init__(self, server: Forkserver, argv: list[str], log: Path, root: Path, verdict: Verdict | None) -> None:
        self.argv = ("pierd", *argv)
        self.log = log
        self._server = server
        self._pid, listener = server.fork(argv, log)
        self._handle = os.pidfd_open(self._pid)
        self._status: int | None = None
        self.watch = Watch(listener, self._pid, root, verdict)

    @property
    def pid(self) -> int:
        return self._pid

    def _ended(self, timeout: float) -> bool:
        if self._status is None:
            poll = select.poll()
            poll.register(self._handle, select.POLLIN)
            if not poll.poll(timeout * 1000):
                return False
            self._status = self._server.wait(self._pid)
            os.close(self._handle)
        return True

    def running(self) -> bool:
        return not self._ended(0)

    def kill(self) -> None:
        if self.running():
            os.kill(self._pid, signal.SIGKILL)
        assert self._ended(DEADLINE)

    def terminate(self, timeout: float = DEADLINE) -> int:
        if self.running():
            os.kill(self._pid, signal.SIGTERM)
        if not self._ended(timeout):
            self.kill()
            raise AssertionError(f"pierd did not end on SIGTERM:\n{self.said()[-4000:]}")
        assert self._status is not None
        return self._status


class Breakable(Pierd):
    """Ours, forked off a server, with a ``watch`` over its steps."""

    def __init__(self, root: Path, machine: World) -> None:
        super().__init__(root, machine)
        self._server = Forkserver(self.host.path, self.environment())
        self.verdict: Verdict | None = None
        """On the steps of the next start; None: they are not looked at."""

    @property
    def watch(self) -> Watch:
        """Of the daemon that runs now."""
        assert isinstance(self.daemon, Forked)
        return self.daemon.watch

    def launch(self) -> Daemon:
        made = Forked(self._server, [*self.argv()[1:], *self.extra], self.log, self.root, self.verdict)
        self.verdict = None
        return made

    def comes_up(self, verdict: Verdict) -> bool:
        """Start it; whether it lives to answer."""
        self.verdict = verdict
        made = self.daemon = self.launch()
        while made.running():
            try:
                if self.api.send("GET", "/_ping").status == 200:
                    self.watch.end()
                    return True
            except OSError:
                time.sleep(0.02)
        return False

    def clean(self) -> None:
        super().clean()
        if isinstance(self.daemon, Forked):
            self.watch.join()
        self._server.close()


@contextmanager
def breakable(*extra: str) -> Iterator[Breakable]:
    """A started one with its images, on a machine of its own."""
    need("seccomp notifications")
    root = Path(tempfile.mkdtemp(prefix="pier-b-", dir="/tmp"))
    root.chmod(0o755)
    with world(root.name.replace("_", "x")) as machine, Breakable(root, machine) as made:
        made.start(*extra)
        yield made
