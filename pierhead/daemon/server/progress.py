"""Streams of JSON lines, and streams whose first piece decides between an answer and an error."""

from collections.abc import AsyncIterator
from typing import TypeVar

from pierhead.daemon.server.answer import Stream
from pierhead.errors import PierheadError, plain
from pierhead.wire import codec
from pierhead.wire.images import ErrorDetail, JSONMessage

T = TypeVar("T")


async def lines(values: AsyncIterator[object]) -> AsyncIterator[bytes]:
    """One JSON text a line."""
    try:
        async for value in values:
            yield codec.encode(value) + b"\n"
    finally:
        await close(values)


async def progress(messages: AsyncIterator[object], *, refusing: bool = True) -> Stream:
    """The progress of a pull, load or import.

    An error before the first message is raised (it becomes a proper error reply); a later one is the last message.
    refusing: False has every error as a message, the first one, too, as Docker says all of a load.
    """
    if refusing:
        return Stream(_with_error(await after_first(messages)))
    return Stream(await after_first(_with_error(messages)))


async def _with_error(messages: AsyncIterator[object]) -> AsyncIterator[bytes]:
    text = lines(messages)
    try:
        async for line in text:
            yield line
    except (PierheadError, OSError) as error:
        message = plain(error)
    else:
        return
    finally:
        await close(text)
    yield codec.encode(JSONMessage(error_detail=ErrorDetail(message=message), error=message)) + b"\n"


async def after_first(values: AsyncIterator[T]) -> AsyncIterator[T]:
    """The same values, the first of which has been awaited already: an early error is raised here."""
    first = [value async for value in _take_one(values)]
    return _chain(first, values)


async def _take_one(values: AsyncIterator[T]) -> AsyncIterator[T]:
    try:
        yield await anext(values)
    except StopAsyncIteration:
        return
    except BaseException:
        await close(values)
        raise


async def _chain(first: list[T], rest: AsyncIterator[T]) -> AsyncIterator[T]:
    try:
        for value in first:
            yield value
        async for value in rest:
            yield value
    finally:
        await close(rest)


async def close(values: AsyncIterator[object]) -> None:
    """End an asynchronous generator now, so that its ``finally`` runs in this task."""
    end = getattr(values, "aclose", None)
    if end is not None:
        await end()
