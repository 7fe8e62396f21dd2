"""Sizes in words, as client and daemon read them. Imports nothing: it is on the client's fast path."""


def size(text: str) -> int | None:
    """Bytes of ``512m``, ``1.5GiB``, ``64``: powers of 1024, as Docker reads memory. None: not a size."""
    lowered = text.lower()
    digits = lowered.rstrip("bi kmgtp")
    suffix = lowered[len(digits) :].strip().removesuffix("b").removesuffix("i")
    try:
        number = float(digits)
    except ValueError:
        return None
    if number < 0 or suffix not in ("", "k", "m", "g", "t", "p"):
        return None
    return int(number * 1024 ** " kmgtp".index(suffix or " "))
