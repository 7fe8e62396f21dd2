"""JSON as Go's encoding/json reads and writes it, on msgspec.

Reading: keys match without regard to case, unknown keys are ignored, ``null`` means "leave it as it is", and a string
is a list of one where Docker's StrSlice allows it.  Nearly every body (the docker client's) needs none of that and is
decoded strictly in one pass; only what the strict pass refuses is read again with Go's rules.

Writing: a field is left out when it equals its default (Go's ``omitempty``), unless it is declared with ``always`` or
``always_list`` or ``always_map``.
"""

import re
from collections.abc import Callable
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin

import msgspec

from pierhead.errors import InvalidParameter

T = TypeVar("T")

_ACRONYMS = {
    "ip": "IP",
    "ipv4": "IPv4",
    "ipv6": "IPv6",
    "ipam": "IPAM",
    "dns": "Dns",
    "rw": "RW",
    "uts": "UTS",
    "oom": "Oom",
    "os": "Os",
}
STRING_OR_LIST = frozenset({"Cmd", "Entrypoint", "Shell", "CapAdd", "CapDrop"})
"""Fields of Go's type strslice.StrSlice: "x" means ["x"]."""


def api_name(field: str) -> str:
    """The API's name of a Python field: "image_id" → "ImageID", "id" → "Id", "ip_address" → "IPAddress"."""
    words = field.rstrip("_").split("_")
    named = [_ACRONYMS.get(word, word[:1].upper() + word[1:]) for word in words]
    if len(words) > 1 and words[-1] == "id":
        named[-1] = "ID"
    return "".join(named)


class Message(msgspec.Struct, kw_only=True, rename=api_name, omit_defaults=True, forbid_unknown_fields=True):
    """Base of every API type. Decode with ``decode``, which lets unknown keys pass as Go does."""


@cache
def _constant(value: object) -> Callable[[], object]:
    return lambda: value


def _new_list() -> list[Any]:
    return []


def _new_map() -> dict[str, Any]:
    return {}


def always(value: T, name: str | None = None) -> T:
    """A field that is always written; ``value`` (immutable) is its default."""
    # msgspec omits a field that equals its default only where it can see the default: not through a factory.
    return cast(T, msgspec.field(default_factory=_constant(value), name=name))


def always_list(name: str | None = None) -> Any:
    """A list field that is always written, [] by default."""
    return msgspec.field(default_factory=_new_list, name=name)


def always_map(name: str | None = None) -> Any:
    """A map field that is always written, {} by default."""
    return msgspec.field(default_factory=_new_map, name=name)


def always_new(type_: type[T]) -> T:
    """A struct field that is always written, a fresh ``type_()`` by default."""
    return msgspec.field(default_factory=lambda: type_())


_encoder = msgspec.json.Encoder()
_HEX = "[0-9a-fA-F]{2}"
_LONE = re.compile(rf"(\\\\|\\u[dD][89abAB]{_HEX}\\u[dD][c-fC-F]{_HEX})|\\u[dD][89a-fA-F]{_HEX}")
"""Half of a UTF-16 pair; before it, what looks like one and is none."""
_SURROGATES = re.compile(r"[\ud800-\udfff]")


def encode(value: object) -> bytes:
    """A struct, or lists and maps of them, as compact JSON. Names of files that are no UTF-8 get U+FFFD, as in Go."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(_readable(value))


def _readable(value: object) -> object:
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, msgspec.Struct):
        fields = {name: _readable(getattr(value, name)) for name in value.__struct_fields__}
        return msgspec.structs.replace(value, **fields)
    if isinstance(value, dict):
        return {_readable(key): _readable(item) for key, item in value.items()}
    return [_readable(item) for item in value] if isinstance(value, list | tuple) else value


@cache
def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type_)


def decode(data: bytes | bytearray | memoryview | str, type_: type[T]) -> T:
    """Decode one JSON value. Raises InvalidParameter with Docker's "invalid JSON: …"."""
    try:
        try:
            return cast(T, _decoder(cast(Any, type_)).decode(data))
        except msgspec.ValidationError:
            return from_builtins(msgspec.json.decode(data), type_)
    except RecursionError:
        raise InvalidParameter("invalid JSON: exceeded max depth") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if (text := _repaired(data)) is not None:
            return decode(text, type_)
        raise _syntax_error(data, error) from error


def _repaired(data: bytes | bytearray | memoryview | str) -> bytes | None:
    """JSON with U+FFFD in the place of what is no text in it, as Go reads it; None where all of it is text."""
    raw = data.encode(errors="surrogatepass") if isinstance(data, str) else bytes(data)
    text = _LONE.sub(lambda found: found[1] or "\ufffd", raw.decode(errors="replace")).encode()
    return text if text != raw else None


_DIGITS = bytes(ord("9") if chr(byte).isascii() and chr(byte).isdigit() else 0 for byte in range(256))
_MANY = b"9" * 19
"""As many digits as the first numbers have that an int64 does not hold."""


def refuse_wide(data: bytes) -> None:
    """Refuse a request with an integer that Go's int64 does not hold: no client in Go could read it back.

    Raises InvalidParameter in Docker's words; what is no JSON is ``decode``'s to refuse.
    """
    if _MANY not in data.translate(_DIGITS):
        return
    try:
        waiting = [msgspec.json.decode(data)]
    except RecursionError:
        return
    except (msgspec.DecodeError, UnicodeDecodeError):
        if (text := _repaired(data)) is not None:
            refuse_wide(text)
        return
    while waiting:
        match waiting.pop():
            case dict() as fields:
                waiting += fields.values()
            case list() as entries:
                waiting += entries
            case int(number) if not -(2**63) <= number < 2**63:
                raise InvalidParameter(f"invalid JSON: cannot unmarshal number {number} into Go value of type int64")


def from_builtins(value: object, type_: type[T]) -> T:
    """Convert plain JSON data by Go's rules. Raises InvalidParameter."""
    try:
        return msgspec.convert(_as_go_reads(value, type_), type_, strict=True)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"invalid JSON: {error}") from error


def to_builtins(value: object) -> Any:
    """A struct as plain dicts and lists, with the API's names."""
    return msgspec.to_builtins(value)


def copy(value: T) -> T:
    """A deep copy of a struct."""
    return msgspec.convert(msgspec.to_builtins(value), type(value))


def _syntax_error(data: Any, error: Exception) -> InvalidParameter:
    text = bytes(data, "utf-8") if isinstance(data, str) else bytes(data)
    if not text.strip():
        return InvalidParameter("invalid JSON: got EOF while reading request body")
    if "trailing characters" in str(error):
        return InvalidParameter("unexpected content after JSON")
    if "truncated" in str(error):
        return InvalidParameter("invalid JSON: unexpected EOF")
    return InvalidParameter(f"invalid JSON: {error}")


@cache
def _fields(type_: type[msgspec.Struct]) -> tuple[dict[str, msgspec.structs.FieldInfo], dict[str, str]]:
    """A struct's fields by their API name, and the API name by its lower-case form."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(type_)}
    return fields, {name.lower(): name for name in fields}


def _as_go_reads(value: object, type_: Any) -> object:
    """Rebuild ``value`` so that the strict conversion to ``type_`` sees what Go's decoder would have."""
    origin = get_origin(type_)
    if origin in (Union, UnionType):
        present = [member for member in get_args(type_) if member not in (NoneType, msgspec.UnsetType)]
        return value if value is None or len(present) != 1 else _as_go_reads(value, present[0])
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return _struct(value, type_)
    if origin in (list, tuple):
        if not isinstance(value, list):
            return value
        item = get_args(type_)[0]
        return [_zero(item) if entry is None else _as_go_reads(entry, item) for entry in value]
    if origin is dict:
        if not isinstance(value, dict):
            return value
        item = get_args(type_)[1]
        return {key: _zero(item) if entry is None else _as_go_reads(entry, item) for key, entry in value.items()}
    return value


def _struct(value: object, type_: type[msgspec.Struct]) -> object:
    if value is None:
        return {}
    if not isinstance(value, dict):
        return value
    fields, names = _fields(type_)
    result: dict[str, object] = {}
    for key, entry in value.items():
        name = key if key in fields else names.get(key.lower(), "")
        if not name or entry is None:
            continue
        if name in STRING_OR_LIST and isinstance(entry, str):
            entry = [entry]
        result[name] = _as_go_reads(entry, fields[name].type)
    return result


def _zero(type_: Any) -> object:
    """What Go leaves in an element that was given as null."""
    origin = get_origin(type_)
    if origin in (Union, UnionType) or type_ is Any or type_ is object:
        return None
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return {}
    return {str: "", int: 0, bool: False, float: 0.0, list: [], dict: {}}.get(origin or type_)
