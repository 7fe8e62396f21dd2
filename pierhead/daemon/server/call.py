"""What a handler gets: one API call, its parameters read by Docker's rules, its body decoded on demand."""

import binascii
import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import parse_qs

from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.server.body import Body
from pierhead.daemon.server.head import Request
from pierhead.errors import InvalidParameter
from pierhead.wire import codec, filters, versions
from pierhead.wire.filters import Filters
from pierhead.wire.images import AuthConfig

T = TypeVar("T")

MAX_JSON = 8 * 1024 * 1024
_FALSE = frozenset({"", "0", "no", "false", "none"})
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_INTEGER = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True, slots=True)
class Call:
    """path: the route's named parts, decoded.  version: the API version the client speaks."""

    engine: Engine
    request: Request
    body: Body
    path: Mapping[str, str]
    query: Mapping[str, Sequence[str]]
    version: versions.Version

    def text(self, name: str, default: str = "") -> str:
        """The first value of a parameter."""
        values = self.query.get(name)
        return values[0] if values else default

    def texts(self, name: str) -> tuple[str, ...]:
        """All values of a parameter."""
        return tuple(self.query.get(name, ()))

    def flag(self, name: str, default: bool = False) -> bool:
        """ "", 0, no, false and none are false, everything else is true."""
        values = self.query.get(name)
        return default if values is None else values[0].strip().lower() not in _FALSE

    def number(self, name: str) -> int | None:
        """An integer; None without it. Raises InvalidParameter with Go's words."""
        text = self.text(name)
        if not text:
            return None
        if not _INTEGER.fullmatch(text):
            raise InvalidParameter(f'strconv.Atoi: parsing "{text}": invalid syntax')
        value = int(text)
        if not -(2**63) <= value < 2**63:
            raise InvalidParameter(f'strconv.Atoi: parsing "{text}": value out of range')
        return value

    def filters(self) -> Filters:
        """The ``filters`` parameter. Raises InvalidParameter."""
        return filters.parse(self.text("filters"))

    async def json(self, type_: type[T]) -> T:
        """The body; an empty one gives ``type_()``. Raises InvalidParameter in Docker's words."""
        data = await self.json_bytes()
        return codec.decode(data, type_) if data else type_()

    async def json_bytes(self) -> bytes:
        """The body of a request that must be JSON; b"" where there is none."""
        if self.body.empty:
            return b""
        check_json(self.request.headers.get("content-type", ""))
        data = await self.body.read(MAX_JSON)
        if not data.strip():
            raise InvalidParameter("invalid JSON: got EOF while reading request body")
        codec.refuse_wide(data)
        return data

    def registry_auth(self) -> AuthConfig | None:
        """X-Registry-Auth, base64url of JSON; what cannot be read is no credentials at all, as in Docker."""
        header = self.request.headers.get("x-registry-auth", "")
        if not header:
            return None
        try:
            return codec.decode(urlsafe_b64decode(header + "=" * (-len(header) % 4)), AuthConfig)
        except (InvalidParameter, binascii.Error, ValueError):
            return None


def parse_query(text: str) -> dict[str, list[str]]:
    """A query string; of ``path`` alone any bytes are taken, as a file's name has them. Raises InvalidParameter."""
    if not text:
        return {}
    try:
        query = parse_qs(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=1000)
        for name, values in query.items():
            "".join((name, *(values if name != "path" else ()))).encode()
    except ValueError as error:
        raise InvalidParameter(f"invalid query: {error}") from None
    return query


def check_json(content_type: str) -> None:
    """Raise Docker's errors for what is not application/json."""
    media_type = content_type.partition(";")[0].strip().lower()
    if not _MEDIA_TYPE.fullmatch(media_type):
        reason = "mime: no media type" if not media_type else "mime: expected slash after first token"
        raise InvalidParameter(f"malformed Content-Type header ({content_type}): {reason}")
    if media_type != "application/json":
        raise InvalidParameter(f"unsupported Content-Type header ({content_type}): must be 'application/json'")


def has_keys_besides(data: bytes, *names: str) -> bool:
    """Whether a JSON object has a key other than these (in any case)."""
    decoded = json.loads(data)
    known = {name.lower() for name in names}
    return isinstance(decoded, dict) and any(key.lower() not in known for key in decoded)
