"""Timestamps: integer nanoseconds since the epoch inside, Go's RFC3339Nano outside."""

import re
import time
from datetime import UTC, datetime

from pierhead.errors import InvalidParameter

ZERO = "0001-01-01T00:00:00Z"
"""How Go writes a time that was never set; ours is 0."""

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d)(?::(\d\d)(?::(\d\d)(?:[.,](\d{1,9})\d*)?)?)?)?([Zz]|[+-]\d\d:\d\d)?"
)
_NUMBER = re.compile(r"-?\d+(?:\.\d*)?")
_DURATION = re.compile(r"([\d.]+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


def rfc3339(ns: int) -> str:
    """Go's RFC3339Nano in UTC: trailing zeros of the fraction dropped; 0 is the zero time."""
    if not ns:
        return ZERO
    seconds, fraction = divmod(ns, 10**9)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{fraction:09d}".rstrip("0").rstrip(".") + "Z"


def rfc3339_fixed(ns: int) -> str:
    """With all nine digits, as the prefix of log lines (``logs --timestamps``)."""
    seconds, fraction = divmod(ns, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:09d}Z"


def parse_rfc3339(text: str) -> int:
    """The nanoseconds of a date that may leave out its smaller parts (they are 0) and zone (UTC). Raises ValueError."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"not a time: {text!r}")
    if text == ZERO:
        return 0
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
    seconds = int(moment.timestamp()) + (second == 60)
    zone = match[8]
    if zone and zone not in "Zz":
        offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        seconds -= offset if zone[0] == "+" else -offset
    return seconds * 10**9 + int((match[7] or "").ljust(9, "0"))


def parse_duration(text: str) -> int:
    """Go's durations ("1h30m", "-1.5s") in nanoseconds. Raises ValueError."""
    body = text[1:] if text[:1] in ("+", "-") else text
    if body == "0":
        return 0
    total, position = 0.0, 0
    for match in _DURATION.finditer(body):
        if match.start() != position:
            break
        total += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    if not body or position != len(body) or total >= 2.0**63:
        raise ValueError(f"time: invalid duration {text!r}")
    return -round(total) if text.startswith("-") else round(total)


def parse_moment(text: str, name: str = "time", now: int | None = None) -> int:
    """``since`` and ``until``: seconds with a fraction, a date, or a duration back from now; "" and "0" give 0.

    Returns ns since the epoch. Raises InvalidParameter.
    """
    if text in ("", "0"):
        return 0
    try:
        return moment(text, now)
    except InvalidParameter as error:
        raise InvalidParameter(f'invalid value for "{name}": {error}') from None


def moment(text: str, now: int | None = None) -> int:
    """The same of a text that says something; a filter's value must. Raises InvalidParameter."""
    if _NUMBER.fullmatch(text):
        seconds, _, fraction = text.partition(".")
        return int(seconds) * 10**9 + int(fraction[:9].ljust(9, "0") or 0)
    try:
        return parse_rfc3339(text)
    except ValueError:
        pass
    try:
        return (time.time_ns() if now is None else now) - parse_duration(text)
    except ValueError:
        raise InvalidParameter(f'failed to parse value as time or duration: "{text}"') from None
