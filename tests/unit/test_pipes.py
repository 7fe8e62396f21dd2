"""Bytes and messages between the loop and a thread: in order, bounded, and nothing left of a cancelled transfer."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from pierhead.daemon.jobs.pipes import DEPTH, Cancelled, Inflow, Outflow, on_loop, stream


def run(test: Callable[[], Awaitable[None]]) -> None:
    before = threading.active_count()

    async def limited() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(limited())
    assert threading.active_count() <= before + 1, "a thread is left"


def test_everything_arrives_in_order() -> None:
    async def body() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"%d," % number

    async def test() -> None:
        flow = Inflow(body(), asyncio.get_running_loop())

        def work(out: Outflow[bytes]) -> None:
            while piece := flow.read(2):
                out.put(piece)

        assert b"".join([piece async for piece in stream(work, "test")]) == b"".join(b"%d," % n for n in range(100))

    run(test)


def test_what_the_thread_raises_is_raised() -> None:
    def work(out: Outflow[int]) -> None:
        out.put(1)
        raise ValueError("no")

    async def test() -> None:
        seen = []
        with pytest.raises(ValueError, match="no"):
            async for item in stream(work, "test"):
                seen.append(item)
        assert seen == [1]

    run(test)


def test_a_reader_that_goes_away_ends_the_thread() -> None:
    ended: list[BaseException] = []
    put: list[int] = []

    def work(out: Outflow[int]) -> None:
        try:
            for number in range(10_000):
                out.put(number)
                put.append(number)
        except BaseException as error:
            ended.append(error)
            raise

    async def test() -> None:
        items = stream(work, "test")
        assert [await anext(items) for _ in range(3)] == [0, 1, 2]
        await items.aclose()  # type: ignore[attr-defined]
        assert isinstance(ended[0], Cancelled) and len(put) <= 3 + DEPTH + 1, "no more than is bounded"

    run(test)


def test_a_body_that_never_comes_can_be_cancelled() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"beginning"
        await asyncio.Event().wait()

    async def test() -> None:
        flow = Inflow(body(), asyncio.get_running_loop())

        def work(out: Outflow[bytes]) -> None:
            while piece := flow.read():
                out.put(piece)

        async def consume() -> None:
            async for _ in stream(work, "test", flow.cancel):
                began.set()

        began = asyncio.Event()
        task = asyncio.create_task(consume())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(test)


def test_a_body_that_breaks_breaks_the_work() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        raise ConnectionResetError("gone")

    async def test() -> None:
        flow = Inflow(body(), asyncio.get_running_loop())

        def work(out: Outflow[bytes]) -> None:
            while flow.read():
                pass

        with pytest.raises(ConnectionResetError):
            [item async for item in stream(work, "test")]

    run(test)


def test_a_thread_can_have_something_done_on_the_loop() -> None:
    async def test() -> None:
        seen: list[tuple[str, int]] = []

        async def tell(word: str) -> None:
            seen.append((word, threading.get_ident()))

        told = on_loop(tell)

        def work(out: Outflow[int]) -> None:
            told("word")

        assert [item async for item in stream(work, "test")] == []
        assert seen == [("word", threading.get_ident())]

    run(test)
