"""Trees are deleted whole and counted right, by one thread and by many."""

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from pierhead.driver.graphdriver.remove import remove_at, waits
from pierhead.driver.graphdriver.usage import measure


@pytest.mark.parametrize("waited", [waits, zip(count(step=1000), count()).__next__], ids=["one thread", "threads"])
def test_a_removal_leaves_nothing_and_says_what_it_gave_back(
    tmp_path: Path, waited: Callable[[], tuple[int, float]]
) -> None:
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


@pytest.mark.parametrize(
    ("wait", "seconds", "threads"),
    [(1000, 1.0, True), (1000, 0.0, False), (0, 1.0, False)],
    ids=["disk", "lock", "CPU"],
)
def test_threads_help_only_where_unlinks_wait_for_long(
    tmp_path: Path, wait: int, seconds: float, threads: bool
) -> None:
    asked = list[int]()

    def waited() -> tuple[int, float]:
        asked.append(1)
        return wait * len(asked), seconds * len(asked)

    (tmp_path / "tree").mkdir()
    for number in range(256):
        (tmp_path / "tree" / str(number)).touch()
    above = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        remove_at(above, b"tree", waited)
    finally:
        os.close(above)
    assert (len(asked) == 2) == threads, "nobody asks any more when there are threads"
