"""What ``pier network check`` tells (GET /pierhead/network/check; not part of Docker's API)."""

import msgspec


class CheckStep(msgspec.Struct, kw_only=True):
    """One part of the way.

    name: "source", "name", "route", "link", "rule", "listener" or "connect".  status: "ok", "failed", or "unknown"
    where it cannot be told from here.  text: what was seen.  remedy: what to do about it, or empty.
    """

    name: str
    status: str
    text: str
    remedy: str = ""


class NetworkCheck(msgspec.Struct, kw_only=True):
    """The way from a source to a destination, as far as it goes; the last step is the one that it ends at."""

    source: str
    destination: str
    protocol: str
    port: int | None
    reachable: bool
    steps: list[CheckStep]
