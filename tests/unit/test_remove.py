"""Trees are deleted whole and counted right, by one thread and by many."""

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from pierhead.driver.graphdriver.remove import remove_at, waits
from pierhead.driver.graphdriver.usage import measure


@pytest.mark.parametrize("waited", [waits, count(step=1000).__next__], ids=["one thread", "threads"])
def test_a_removal_leaves_nothing_and_says_what_it_gave_back(tmp_path: Path, waited: Callable[[], int]) -> None:
    tree = tmp_path / "tree"
    for folder in ("many", "few/below", "many/below"):
        (tree / folder).mkdir(parents=True)
    for number in range(400):
        (tree / "many" / str(number)).write_bytes(b"x" * 5000)
        os.link(tree / "many" / str(number), tree / "few/below" / str(number))
    (tree / os.fsdecode(b"\xff")).write_text("a name that is no text")
    (tree / "few/link").symlink_to("/")
    (tmp_path / "kept").write_bytes(b"x" * 9000)
    os.link(tmp_path / "kept", tree / "many/below/kept")
    deep = tree
    for _ in range(150):
        deep /= "deeper"
        deep.mkdir()
    (deep / "file").write_bytes(b"x" * 5000)
    there = measure(str(tree)).disk - measure(str(tmp_path / "kept")).disk
    above = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert remove_at(above, b"tree", waited) == there
        assert remove_at(above, b"tree", waited) == 0
    finally:
        os.close(above)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
