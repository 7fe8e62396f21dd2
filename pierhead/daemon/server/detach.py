"""Detach keys: their grammar, and finding them in what a user types."""

from pierhead.errors import InvalidParameter

DEFAULT = b"\x10\x11"
"""ctrl-p,ctrl-q."""

_CONTROL = {f"ctrl-{character}": code for code, character in enumerate("@abcdefghijklmnopqrstuvwxyz[\\]^_")}


def parse(text: str) -> bytes:
    """ "ctrl-p,ctrl-q", "a,ctrl-@", "DEL"; "" gives the default. Raises InvalidParameter."""
    if not text:
        return DEFAULT
    codes = bytearray()
    for key in text.split(","):
        if key in _CONTROL:
            codes.append(_CONTROL[key])
        elif key == "DEL":
            codes.append(127)
        elif len(key) == 1 and key.isascii():
            codes.append(ord(key))
        else:
            raise InvalidParameter(f"Invalid detach keys ({text}) provided")
    return bytes(codes)


class Scanner:
    """Lets input through until the keys have been typed one after the other.

    A beginning of the sequence is held back until it is clear that it is none, as Docker does; unlike Docker's, the
    keys may arrive in one read (the loop may find two key presses waiting).
    """

    __slots__ = ("_keys", "_matched")

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what to pass on, whether the keys are complete). What follows the keys is dropped."""
        keys, matched = self._keys, self._matched
        if not matched and keys[0] not in data:
            return data, False
        out = bytearray()
        for byte in data:
            if byte == keys[matched]:
                matched += 1
                if matched == len(keys):
                    self._matched = 0
                    return bytes(out), True
                continue
            out += keys[:matched]
            matched = 1 if byte == keys[0] else 0
            if not matched:
                out.append(byte)
        self._matched = matched
        return bytes(out), False
