"""``docker commit``: what a container has changed becomes one more layer, and with its configuration an image."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import RawIOBase
from typing import BinaryIO, cast

import msgspec

from pierhead.errors import NoSuchImage
from pierhead.graph.graph import Graph, Image
from pierhead.graph.importing import now
from pierhead.reference import Reference

EMPTY = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
"""The DiffID of an archive without entries: no layer is made of it."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What is written down of a commit. config, container_config: JSON; command: of the container."""

    container: str
    config: bytes
    container_config: bytes
    command: Sequence[str]
    author: str
    comment: str


class Pieces(RawIOBase):
    """Bytes that are made piece by piece, to be read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Whole pieces as far as they fit into size (all of them for -1), at least one; b"" at the end."""
        gathered = bytearray(self._rest)
        self._rest = b""
        while size < 0 or len(gathered) < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            gathered += piece
        if 0 <= size < len(gathered):
            self._rest = bytes(gathered[size:])
            del gathered[size:]
        return bytes(gathered)


def commit(
    graph: Graph,
    parent: Image,
    layer_id: str,
    made: Commit,
    name: Reference | None,
    whole: Callable[[], None] = lambda: None,
) -> Image:
    """An image of the parent's layers and the container's own (``layer_id``), with its name at once.

    whole: called when that layer has been read, or could not be; raises if it was being removed meanwhile.
    Raises NoSuchImage, InvalidParameter, what ``whole`` raises.
    """
    with graph.lease() as lease:
        top = graph.chain(parent)[-1] if parent.top else None
        if top is not None and lease.find(top.diff_id, top.parent) is None:
            raise NoSuchImage(parent.id)
        pieces = graph.driver.diff(layer_id)
        try:
            layer = lease.register(cast("BinaryIO", Pieces(pieces)), top.chain_id if top else None)
            whole()
        except OSError:
            whole()
            raise
        finally:
            if (end := getattr(pieces, "close", None)) is not None:
                end()
        empty = layer.diff_id == EMPTY
        created = now()
        step: dict[str, object] = {"created": created, "created_by": " ".join(made.command)}
        step |= {key: value for key, value in (("author", made.author), ("comment", made.comment)) if value}
        if empty:
            step["empty_layer"] = True
        file: dict[str, object] = json.loads(parent.raw)
        for key in ("author", "comment", "id", "parent", "throwaway"):  # the parent's own
            file.pop(key, None)
        if made.author:
            file["author"] = made.author
        file |= {
            "config": msgspec.Raw(made.config),
            "container": made.container,
            "container_config": msgspec.Raw(made.container_config),
            "created": created,
            "docker_version": "28.2.2",
            "history": [*(parent.config.history or []), step],
            "os": parent.config.os or "linux",
            "rootfs": {"type": "layers", "diff_ids": [*parent.config.diff_ids, *([] if empty else [layer.diff_id])]},
        }
        return graph.put_image(msgspec.json.encode(file), name, parent.id)
