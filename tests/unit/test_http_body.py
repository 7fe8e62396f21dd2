"""Heads and bodies from bytes that anybody may send."""

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pierhead.daemon.server import head
from pierhead.daemon.server.body import Body, BodyTooLarge, ClientGone
from pierhead.errors import PierheadError

TOKENS = [
    b"POST ",
    b"/x",
    b" HTTP/1.1",
    b"\r\n",
    b"Host: a",
    b"Content-Length: 1",
    b"Transfer-Encoding: chunked",
    b"\n",
    b":",
]


@given(st.lists(st.sampled_from(TOKENS) | st.binary(max_size=4), max_size=12).map(b"".join))
@example(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n")
@example(b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n")
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    try:
        request = head.parse(data + b"\r\n\r\n")
    except PierheadError:
        return
    assert request.length >= -1 and request.method


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=6), st.lists(st.integers(1, 40)), st.binary(max_size=10))
def test_a_chunked_body_is_the_same_however_it_is_cut(parts: list[bytes], cuts: list[int], rest: bytes) -> None:
    data = b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nX: y\r\n\r\n" + rest

    async def read() -> tuple[bytes, bytes]:
        body = Body(-1)
        left = b""
        position = 0
        for cut in [*cuts, len(data)]:
            left += body.feed(data[position : position + cut])
            position += cut
        return await body.read(10_000), left

    assert asyncio.run(read()) == (b"".join(parts), rest)


def test_a_body_of_known_length_gives_back_what_is_not_its_own() -> None:
    async def read() -> None:
        body = Body(5)
        assert body.feed(b"abc") == b"" and not body.complete
        assert body.feed(b"defg") == b"fg" and body.complete
        assert body.feed(b"h") == b"h"
        assert await body.read(5) == b"abcde"

    asyncio.run(read())


def test_a_reader_gets_what_arrived_before_the_client_went() -> None:
    async def read() -> None:
        body = Body(10)
        body.feed(b"abc")
        body.fail(ClientGone("unexpected EOF"))
        assert await anext(body) == b"abc"
        with pytest.raises(ClientGone):
            await anext(body)

    asyncio.run(read())


def test_a_json_body_has_a_limit() -> None:
    async def read() -> None:
        body = Body(10)
        body.feed(b"0123456789")
        with pytest.raises(BodyTooLarge):
            await body.read(9)

    asyncio.run(read())


def test_back_pressure_is_told_once_and_taken_back() -> None:
    told: list[str] = []

    async def read() -> None:
        body = Body(10 * 1024 * 1024)
        body.pause, body.resume = lambda: told.append("pause"), lambda: told.append("resume")
        for _ in range(3):
            body.feed(bytes(400 * 1024))
        for _ in range(3):
            await anext(body)

    asyncio.run(read())
    assert told == ["pause", "resume"]
