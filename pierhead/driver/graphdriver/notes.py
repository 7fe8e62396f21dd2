"""What drivers write down beside a layer's files, compared with what it must be."""

import os
from collections.abc import Iterator
from functools import partial

from pierhead.difference import Difference, Kind
from pierhead.driver.graphdriver.api import Kept


def read_note(path: str) -> str | None:
    """What is written there; None where there is no such file."""
    try:
        with open(path) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_note(path: str, text: str | None) -> None:
    """Write it anew, whole or not at all; None: take it away."""
    if text is None:
        os.unlink(path)
        return
    with open(f"{path}.new", "w") as file:
        file.write(text)
    os.replace(f"{path}.new", path)


def check_note(layer: Kept, path: str, wanted: str | None, meaning: str) -> Iterator[Difference]:
    """Whether a file has the content that it must have (None: must not be)."""
    found = read_note(path)
    if found == wanted or not os.path.isdir(os.path.dirname(path)):
        return
    yield Difference(
        Kind.MISSING if found is None else Kind.DAMAGED,
        "layer",
        layer.id,
        f"{path} {'is missing' if found is None else 'does not say what it must'}: {meaning}",
        "it is written again",
        partial(write_note, path, wanted),
    )


def check_parent(layer: Kept, path: str) -> Iterator[Difference]:
    """Whether a layer knows what is below it."""
    yield from check_note(layer, path, layer.parent, f"layer {layer.id[:12]} does not know what is below it")


def lost(layer: Kept, path: str) -> Difference:
    """The folder with a layer's files is not there."""
    what = "what its container had written is gone" if layer.writable else "its content is gone"
    command = "pier rm" if layer.writable else "pier rmi and pier pull"
    return Difference(
        Kind.MISSING,
        "layer",
        layer.id,
        f"{path}, the files of layer {layer.id[:12]}, is missing: {what}",
        f"it cannot be made here again: {command} whatever has it",
    )
