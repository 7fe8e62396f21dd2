"""Between the event loop and a thread that does blocking work: bytes in, messages out, bounded and cancellable."""

import asyncio
import concurrent.futures
import contextlib
import io
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from typing import Generic, TypeVar

T = TypeVar("T")
A = TypeVar("A")
DEPTH = 16
PORTION = 1 << 20


class Cancelled(OSError):
    """Raised in the thread when nobody waits for its result any more."""

    def __init__(self) -> None:
        super().__init__("the request was cancelled")


class Inflow(io.RawIOBase):
    """An asynchronous stream of bytes, to be read by one thread."""

    def __init__(self, source: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._source = source
        self._loop = loop
        self._rest = b""
        self._end = False
        self._pending: concurrent.futures.Future[bytes | None] | None = None
        self._cancelled = False
        self._lock = threading.Lock()

    def readable(self) -> bool:
        return True

    async def _next(self) -> bytes | None:
        return await anext(self._source, None)

    def read(self, size: int = -1, /) -> bytes:
        """The next piece, at most size bytes; b"" at the end. Raises Cancelled."""
        while not self._rest and not self._end:
            with self._lock:
                if self._cancelled:
                    raise Cancelled
                self._pending = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
            try:
                piece = self._pending.result()
            except (concurrent.futures.CancelledError, asyncio.CancelledError):
                raise Cancelled from None
            self._end = piece is None
            self._rest = piece or b""
        if size < 0 or size >= len(self._rest):
            taken, self._rest = self._rest, b""
        else:
            taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def cancel(self) -> None:
        """Make the reading thread stop."""
        with self._lock:
            self._cancelled = True
            if self._pending is not None:
                self._pending.cancel()


class Outflow(Generic[T]):
    """What a thread says, to be read by the loop. The thread calls ``put``, which waits while too much is unread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[T | BaseException | None] = asyncio.Queue()
        self._free = threading.Semaphore(DEPTH)
        self._cancelled = False

    def put(self, item: T) -> None:
        """Called in the thread. Raises Cancelled."""
        self._free.acquire()
        if self._cancelled:
            self._free.release()  # for the next thread that waits
            raise Cancelled
        self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    @property
    def cancelled(self) -> bool:
        """Whether nobody reads any more."""
        return self._cancelled

    def end(self, error: BaseException | None) -> None:
        """Called in the thread, at its end."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, error)

    async def get(self) -> T | BaseException | None:
        """The next item; None or an exception: it was the last."""
        item = await self._queue.get()
        self._free.release()
        return item

    def cancel(self) -> None:
        """Make the thread stop at its next ``put``."""
        self._cancelled = True
        self._free.release()


def on_loop(function: Callable[[A], Coroutine[object, object, None]]) -> Callable[[A], None]:
    """The function for a thread: it runs on the present loop (where events are published) and is waited for."""
    loop = asyncio.get_running_loop()
    return lambda argument: asyncio.run_coroutine_threadsafe(function(argument), loop).result()


def pour(pieces: Generator[bytes, None, None], out: Outflow[bytes]) -> None:
    """Put many small pieces as fewer large ones. Ends the generator: what it has open is closed, also for Cancelled."""
    gathered = bytearray()
    with contextlib.closing(pieces):
        for piece in pieces:
            gathered += piece
            if len(gathered) >= PORTION:
                out.put(bytes(gathered))
                gathered.clear()
        if gathered:
            out.put(bytes(gathered))


async def stream(
    work: Callable[[Outflow[T]], None], name: str, on_cancel: Callable[[], None] | None = None
) -> AsyncGenerator[T, None]:
    """Run ``work`` in a thread of its own and give what it puts; raise what it raises.

    When the consumer stops early, the thread is told so (``on_cancel`` too) and waited for: nothing of it is left.
    """
    loop = asyncio.get_running_loop()
    out: Outflow[T] = Outflow(loop)
    ended: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        error: BaseException | None = None
        try:
            work(out)
        except BaseException as raised:
            error = raised
        out.end(error)
        loop.call_soon_threadsafe(ended.set_result, None)

    # Not the loop's own pool: a slow client would keep one of its few threads from everybody else.
    threading.Thread(target=run, name=name, daemon=True).start()
    complete = False
    try:
        while True:
            item = await out.get()
            if item is None:
                complete = True
                return
            if isinstance(item, BaseException):
                complete = True
                raise item
            yield item
    finally:
        if not complete:
            out.cancel()
            if on_cancel is not None:
                on_cancel()
        await asyncio.shield(ended)
