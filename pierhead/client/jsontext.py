"""JSON by the scanner of the standard package, without that package.

What surrounds the scanner there is made of regular expressions, and ``re`` and ``enum`` behind them are a fifth of the
time of a ``pier ps``.  They are imported where there is something to write, or something to complain about.
"""

from __future__ import annotations

from _json import make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Settings:
    """What ``json.JSONDecoder`` gives its scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def loads(text: str | bytes) -> Any:
    """As ``json.loads``. Raises ValueError."""
    if isinstance(text, bytes):
        text = text.decode()
    text = text.strip(" \t\n\r")
    try:
        value, end = make_scanner(_Settings)(text, 0)  # type: ignore[arg-type]
    except StopIteration:
        end = -1
    if end != len(text):
        raise ValueError(f"this is no JSON: {text[:80]}")
    return value


def dumps(value: object, sort_keys: bool = False) -> str:
    """As ``json.dumps``, without blanks; for a byte that is no UTF-8 there is U+FFFD, as Docker's client has it."""
    import json

    text = json.dumps(value, separators=(",", ":"), sort_keys=sort_keys)
    if "\\ud" not in text:
        return text
    import re

    whole = r"\\\\|\\ud[89ab]..\\ud[c-f].."
    return re.sub(rf"({whole})|\\ud[89a-f]..", lambda found: found[1] or "\\ufffd", text)
