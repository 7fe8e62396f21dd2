"""The exec drivers of a daemon as one: each container has a runtime, and each runtime a driver.

A container is started by the driver of the runtime that it names, and looked after by the driver that has started it,
whatever the daemon's settings have become.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pierhead.driver.execdriver.api import ExecDriver, Exited, Monitor, StartRequest
from pierhead.errors import InvalidParameter
from pierhead.libcontainer.spec import Resources

if TYPE_CHECKING:
    from pierhead.libcontainer.oom import Watch as OomWatch
from pierhead.libcontainer.stats import Figures


class Runtimes:
    """ExecDriver over others (see ``api`` for the contract)."""

    name = "runtimes"

    def __init__(self, drivers: Sequence[ExecDriver], default: str = "") -> None:
        """The first driver is asked about what none knows; default: a runtime of any; empty: the first's own."""
        self._drivers = tuple(drivers)
        self._default = default

    @property
    def default(self) -> str:
        return self._default or self._drivers[0].default

    def runtimes(self) -> Mapping[str, str]:
        return {name: path for driver in self._drivers for name, path in driver.runtimes().items()}

    def knows(self, id: str) -> bool:
        return any(driver.knows(id) for driver in self._drivers)

    def _of(self, id: str) -> ExecDriver:
        return next((driver for driver in self._drivers if driver.knows(id)), self._drivers[0])

    def open(self) -> None:
        for driver in self._drivers:
            driver.open()

    def close(self) -> None:
        for driver in reversed(self._drivers):
            driver.close()

    def pids(self) -> tuple[int, ...]:
        return tuple(pid for driver in self._drivers for pid in driver.pids())

    def start(self, request: StartRequest) -> Monitor:
        name = request.runtime or self.default
        for driver in self._drivers:
            if name in driver.runtimes():
                return driver.start(request)
        request.close()
        raise InvalidParameter(f"unknown or invalid runtime name: {name}")

    def reattach(self, id: str) -> Monitor | None:
        return self._of(id).reattach(id)

    def collect(self, id: str) -> Exited | None:
        return self._of(id).collect(id)

    def freeze(self, id: str) -> None:
        self._of(id).freeze(id)

    def thaw(self, id: str) -> None:
        self._of(id).thaw(id)

    def kill(self, id: str) -> None:
        self._of(id).kill(id)

    def update(self, id: str, resources: Resources) -> None:
        self._of(id).update(id, resources)

    def processes(self, id: str) -> tuple[int, ...]:
        return self._of(id).processes(id)

    def owner(self, pid: int) -> str | None:
        return next(self._owners(pid), None)

    def _owners(self, pid: int) -> Iterator[str]:
        for driver in self._drivers:
            if (id := driver.owner(pid)) is not None:
                yield id

    def figures(self, id: str) -> Figures:
        return self._of(id).figures(id)

    def watch_oom(self, id: str, known: int | None = None) -> OomWatch:
        return self._of(id).watch_oom(id, known)

    def delete(self, id: str) -> None:
        self._of(id).delete(id)

    def existing(self) -> tuple[str, ...]:
        return tuple(sorted({id for driver in self._drivers for id in driver.existing()}))
