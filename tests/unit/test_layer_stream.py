"""What a layer's blob may unpack to: bombs are stopped after a few pieces, whatever compressed them."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from typing import BinaryIO, cast

import pytest
from backports import zstd

from pierhead.graph.stream import CHUNK, BadStream, LayerStream, Limits, limited

ZEROS = bytes(32 << 20)
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "gzip in pieces": lambda data: gzip.compress(data[: len(data) // 2]) * 2,
    "zstd": zstd.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


class Reading(io.BytesIO):
    """A blob that says how much was read of it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(min(size or CHUNK, 4096))
        self.count += len(piece)
        return piece


@pytest.mark.parametrize("kind", COMPRESSIONS)
@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(size=4 << 20), "unpacks to more than 4194304 bytes"),
        (Limits(ratio=30, allowance=1 << 20), "unpacks to more than 30 times its size"),
    ],
    ids=["size", "ratio"],
)
def test_a_bomb_is_stopped_early(kind: str, limits: Limits, words: str) -> None:
    got = 0
    with pytest.raises(BadStream, match=words):
        for piece in limited(cast("BinaryIO", Reading(COMPRESSIONS[kind](ZEROS))), limits):
            got += len(piece)
    assert got <= 4 << 20


def test_a_layer_that_unpacks_to_too_much_is_refused_where_it_is_unpacked() -> None:
    with (
        pytest.raises(BadStream, match="unpacks to more than"),
        LayerStream(cast("BinaryIO", io.BytesIO(gzip.compress(ZEROS))), Limits(size=1 << 20)) as stream,
    ):
        while stream.read():
            pass


def test_what_compresses_well_is_no_bomb() -> None:
    assert sum(map(len, limited(cast("BinaryIO", io.BytesIO(gzip.compress(ZEROS))), Limits(ratio=1000)))) == len(ZEROS)
    plain = Limits(ratio=1, allowance=0)
    assert sum(map(len, limited(cast("BinaryIO", io.BytesIO(ZEROS)), plain))) == len(ZEROS)
