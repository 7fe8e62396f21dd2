"""A gate that many may pass at once, or one who needs everybody else to be out."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Gate:
    """Readers and a writer, on one event loop. Who waits for the whole gate goes before those who come later."""

    def __init__(self) -> None:
        self._inside = 0
        self._wanted = 0
        self._closed = False
        self._waiters: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Pass with others. Not re-entrant: somebody may wait for the whole gate meanwhile."""
        await self._until(lambda: not self._closed and not self._wanted)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._wake()

    @asynccontextmanager
    async def alone(self, patience: float) -> AsyncIterator[bool]:
        """Pass when nobody else is inside, and keep everybody out meanwhile; says whether nobody is.

        patience: after so many seconds it passes all the same: one who hangs inside must not stop everybody.
        """
        self._wanted += 1
        try:
            try:
                async with asyncio.timeout(patience):
                    await self._until(lambda: not self._closed and not self._inside)
            except TimeoutError:
                await self._until(lambda: not self._closed)
            self._closed = True
        finally:
            self._wanted -= 1
            self._wake()
        try:
            yield not self._inside
        finally:
            self._closed = False
            self._wake()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
