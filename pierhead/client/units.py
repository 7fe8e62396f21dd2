"""Sizes, durations and times as Docker's client words them (the go-units package)."""

import time

from pierhead.wire.durations import human_duration

DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")


def _scaled(size: float, base: float, units: tuple[str, ...], digits: int) -> str:
    place = 0
    while size >= base and place < len(units) - 1:
        size /= base
        place += 1
    return f"{size:.{digits}g}{units[place]}"


def human_size(size: float, digits: int = 4) -> str:
    """``1.234MB``: powers of 1000."""
    return _scaled(size, 1000.0, DECIMAL, digits)


def bytes_size(size: float) -> str:
    """``1.5GiB``: powers of 1024."""
    return _scaled(size, 1024.0, BINARY, 4)


def ago(created: float) -> str:
    """``2 minutes ago``."""
    return human_duration(time.time() - created) + " ago"


def parse_time(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time."""
    moment, zone = text[:19], text[19:]
    fraction = 0.0
    if zone.startswith("."):
        digits = len(zone) - len(zone[1:].lstrip("0123456789"))
        fraction, zone = float("0" + zone[:digits]), zone[digits:]
    year, month, day, hour, minute, second = (int(moment[at : at + 2]) for at in (2, 5, 8, 11, 14, 17))
    seconds = (_days(int(moment[:2]) * 100 + year, month, day) * 24 + hour) * 3600 + minute * 60 + second
    if zone and zone != "Z":
        offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        seconds += offset if zone[0] == "-" else -offset
    return seconds + fraction


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 (``calendar`` and ``strptime`` cost milliseconds to import)."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


def local_time(seconds: float) -> str:
    """``2026-01-02 15:04:05 +0100 CET``: Go's way of printing a local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(seconds))


def rfc3339_local(seconds: float, zone: bool = True) -> str:
    """``2026-01-02T15:04:05+01:00``."""
    local = time.localtime(seconds)
    offset = local.tm_gmtoff
    suffix = (
        "Z" if offset == 0 else f"{'+' if offset >= 0 else '-'}{abs(offset) // 3600:02}:{abs(offset) // 60 % 60:02}"
    )
    return time.strftime("%Y-%m-%dT%H:%M:%S", local) + (suffix if zone else "")


def truncated(id: str) -> str:
    """An id's first twelve digits."""
    return id.removeprefix("sha256:")[:12]


def shortened(text: str, width: int) -> str:
    """Docker's Ellipsis: at most so many characters, the last a ``…``."""
    return text if len(text) <= width else text[: width - 1] + "…"
