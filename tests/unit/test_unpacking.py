"""A process that unpacks layers, asked by itself."""

import io
import os
from pathlib import Path

import pytest

from pierhead.graph.stream import NO_LIMITS
from pierhead.graph.unpacking import Unpacker

MORE_THAN_A_PIPE = bytes(8 << 20)


def test_a_process_that_cannot_even_begin_keeps_nobody_waiting(tmp_path: Path) -> None:
    unknown = type("Extractor", (), {"__module__": "no_such_module"})
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    split = os.open(tmp_path / "split", os.O_WRONLY | os.O_CREAT)
    unpacker = Unpacker()
    try:
        with pytest.raises(RuntimeError, match="ModuleNotFoundError"):
            unpacker.unpack(unknown, root, io.BytesIO(MORE_THAN_A_PIPE), split, NO_LIMITS)
    finally:
        unpacker.end()
        os.close(root)
        os.close(split)
