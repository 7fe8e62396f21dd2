"""Durations in words, as client and daemon print them. Imports nothing: it is on the client's fast path."""


def human_duration(seconds: float) -> str:
    """go-units' HumanDuration: "5 seconds", "About a minute", "3 weeks"."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = int(seconds / 60)
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{int(seconds / 3600) // 24 // 365} years"


def go_duration(ns: int) -> str:
    """Go's Duration.String: "1m30s", "1.5s", "200ms"."""
    if ns < 10**9:
        for unit, name in ((10**6, "ms"), (10**3, "µs")):
            if ns >= unit:
                return _plain(ns, unit) + name
        return f"{ns}ns" if ns else "0s"
    minutes, rest = divmod(ns, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    seconds = _plain(rest, 10**9) + "s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _plain(ns: int, unit: int) -> str:
    whole, fraction = divmod(ns, unit)
    digits = f"{fraction:0{len(str(unit)) - 1}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)
