"""Calls of the Engine API: version negotiation, queries, JSON, errors, hijacked connections."""

from __future__ import annotations

import time

from pierhead.client import jsontext
from pierhead.client.connection import Connection, Response
from pierhead.client.errors import ClientError, DaemonError
from pierhead.client.host import Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, TypeAlias

Query: TypeAlias = "Mapping[str, object]"
HIGHEST = (1, 50)
PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")


def quote(text: str, safe: str = "") -> str:
    """Percent-encoding (``urllib.parse`` would cost the fast path two milliseconds)."""
    if PLAIN.issuperset(text):
        return text
    return "".join(
        character
        if character in PLAIN or character in safe
        else "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogateescape"))
        for character in text
    )


def query_string(query: Query) -> str:
    """``?a=1&b=…``; what is None, False or empty is left out."""
    parts = []
    for name, value in query.items():
        for item in value if isinstance(value, list) else [value]:
            if item is None or item is False or item == "":
                continue
            parts.append(f"{name}={quote('1' if item is True else str(item)).replace('%20', '+')}")
    return "?" + "&".join(parts) if parts else ""


def filter_query(pairs: list[str]) -> str:
    """``--filter a=b --filter a=c`` as the API has it: ``{"a":{"b":true,"c":true}}``."""
    found: dict[str, dict[str, bool]] = {}
    for pair in pairs:
        if pair:
            name, _, value = pair.partition("=")
            found.setdefault(name.strip().lower(), {})[value.strip()] = True
    return jsontext.dumps(found, sort_keys=True) if found else ""


class Api:
    """One daemon, spoken to in the highest version both sides know."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._kept: Connection | None = None
        self._version: tuple[int, int] | None = None
        self.told: Callable[[str, int], None] | None = None
        """Called with "METHOD /path" and the moment of sending (ns since the epoch) when an answer's head is there."""

    @property
    def version(self) -> tuple[int, int]:
        """The version that is spoken, asked for with a ping once. DOCKER_API_VERSION overrides."""
        if self._version is None:
            import os

            forced = os.environ.get("DOCKER_API_VERSION", "")
            connection = Connection(self.host)
            connection.send("HEAD", "/_ping", {}, None)
            try:
                answer = connection.answer("HEAD")
            except (ConnectionError, ValueError, IndexError) as error:
                raise _lost(f"Head {self.host.address}/_ping", error) from None
            highest = forced or answer.headers.get("api-version", "1.24")
            major, _, minor = highest.partition(".")
            self._version = min(HIGHEST, (int(major), int(minor)))
            if answer.headers.get("connection", "").lower() == "close":
                connection.close()
            else:
                self._kept = connection
        return self._version

    def close(self) -> None:
        """Let go of the connection that is kept for the next request: a daemon that ends waits for its clients."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def path(self, path: str, query: Query) -> str:
        """With version and query."""
        major, minor = self.version
        return f"/v{major}.{minor}{path}{query_string(query)}"

    def call(
        self,
        method: str,
        path: str,
        query: Query = {},  # noqa: B006  never changed
        body: object | bytes | Iterator[bytes] = None,
        headers: Mapping[str, str] = {},
        own: bool = False,
    ) -> Response:
        """One request; the answer's body is still to be read. ``own``: on a connection of its own, for what streams.

        Raises DaemonError for every status from 400 up.
        """
        target = self.path(path, query)
        connection, self._kept = self._kept, None
        if connection is None:
            connection = Connection(self.host)
        said = dict(headers)
        if body is not None and not isinstance(body, bytes):
            from collections.abc import Iterator

            if not isinstance(body, Iterator):
                said["Content-Type"] = "application/json"
                body = jsontext.dumps(body).encode()
        begun = time.time_ns()
        try:
            connection.send(method, target, said, body)
            answer = connection.answer(method)
        except ConnectionError as error:
            raise _lost(f"{method} {path}", error) from None
        if self.told is not None:
            self.told(f"{method} {path}", begun)
        if answer.status >= 400:
            raise DaemonError(answer.status, _reason(answer.read(), answer.status))
        if not own and answer.headers.get("transfer-encoding") is None:
            self._keep(answer)
        return answer

    def _keep(self, answer: Response) -> None:
        """Read a body of known length at once, so that the connection is free for the next request."""
        if answer.status == 101 or (not answer.empty and "content-length" not in answer.headers):
            return
        body = answer.read()
        answer.blocks = lambda: iter((body,))  # type: ignore[method-assign]
        if answer.headers.get("connection", "").lower() != "close":
            self._kept = answer.connection

    def json(self, method: str, path: str, query: Query = {}, body: object = None) -> Any:  # noqa: B006
        """One request whose answer is JSON; None where it is empty."""
        return self._whole(self.call(method, path, query, body))

    def _whole(self, answer: Response) -> Any:
        text = answer.read()
        if self._kept is None and answer.headers.get("connection", "").lower() != "close":
            self._kept = answer.connection
        return jsontext.loads(text) if text.strip() else None

    def remove(self, path: str, query: Query = {}) -> tuple[Any, Mapping[str, str]]:  # noqa: B006
        """DELETE: the answer's JSON, None where it is empty; and its header, by names in small letters."""
        answer = self.call("DELETE", path, query)
        return self._whole(answer), answer.headers

    def get(self, path: str, query: Query = {}) -> Any:  # noqa: B006
        """GET of JSON."""
        return self.json("GET", path, query)

    def post(self, path: str, query: Query = {}, body: object = None) -> Any:  # noqa: B006
        """POST; the answer's JSON."""
        return self.json("POST", path, query, body)

    def hijack(self, path: str, query: Query = {}, body: object = None) -> Connection:  # noqa: B006
        """POST and take the connection over; what was already read is in its ``buffer``."""
        answer = self.call(
            "POST",
            path,
            query,
            body if body is not None else b"",
            {"Connection": "Upgrade", "Upgrade": "tcp"},
            own=True,
        )
        return answer.connection


def _lost(what: str, error: Exception) -> ClientError:
    """The connection has ended, or what came is no answer."""
    from pierhead.errors import plain

    return ClientError(f"error during connect: {what}: {plain(error)}")


def _reason(body: bytes, status: int) -> str:
    try:
        message = jsontext.loads(body)["message"]
        return str(message).strip()
    except (ValueError, KeyError, TypeError):
        text = body.decode("utf-8", "replace").strip()
        return text or f"request returned status {status} without a message"
