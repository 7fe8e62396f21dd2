"""Kept blobs: the very bytes as long as a layer needs them, whatever happens to the disk."""

import errno
import io
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from pierhead.graph.content import Content, Copied
from pierhead.graph.graphdb import GraphDB

DATA = os.urandom(100_000)
DIGEST = "sha256:" + sha256(DATA).hexdigest()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[GraphDB]:
    made = GraphDB(str(tmp_path / "graph.db"))
    for name in ("one", "two"):
        made.execute(
            "INSERT INTO layer (chain_id, diff_id, cache_id, driver, state) VALUES (?, ?, ?, 'vfs', 'ready')",
            (f"sha256:{name}", name, name),
        )
    yield made
    made.close()


@pytest.fixture
def content(db: GraphDB, tmp_path: Path) -> Content:
    (tmp_path / "tmp").mkdir()
    return Content(db, str(tmp_path), keeps=True)


def keep(content: Content, data: bytes = DATA, diff_id: str = "one") -> str:
    digest = "sha256:" + sha256(data).hexdigest()
    with content.begin() as file:
        file.write(data)
        content.keep(file, digest, diff_id, "gzip")
    return digest


def test_a_kept_blob_is_the_very_bytes_and_goes_with_its_last_layer(content: Content, db: GraphDB) -> None:
    assert keep(content) == keep(content) == DIGEST
    file = content.open(DIGEST)
    assert file is not None
    with file:
        assert file.read() == DATA
    (known,) = content.of("one")
    assert (known.digest, known.size, known.media_type) == (DIGEST, len(DATA), "gzip") and known.disk >= len(DATA)
    assert content.tidy() == 0
    db.execute("DELETE FROM layer WHERE diff_id = 'one'")
    assert content.tidy() == known.disk and content.all() == [] and content.strays() == []


def test_what_is_not_named_leaves_nothing(content: Content) -> None:
    with content.begin() as file:
        file.write(DATA)
        assert content.strays() == [] and not content.has(DIGEST)


def test_a_damaged_blob_is_never_given_out(content: Content) -> None:
    keep(content)
    with open(content.path(DIGEST), "r+b") as file:
        file.write(b"other")
    assert content.is_damaged(DIGEST)
    assert content.open(DIGEST) is None and not content.has(DIGEST)
    keep(content)
    os.unlink(content.path(DIGEST))
    assert content.open(DIGEST) is None and content.all() == []


def test_a_daemon_that_drops_keeps_nothing(db: GraphDB, tmp_path: Path) -> None:
    content = Content(db, str(tmp_path), keeps=False)
    keep(content)
    assert content.all() == [] and content.strays() == []


def test_a_file_in_the_place_of_a_blob_is_no_way_to_another_content(content: Content) -> None:
    Path(content.path(DIGEST)).write_bytes(b"somebody's")
    keep(content)
    file = content.open(DIGEST)
    assert file is not None
    with file:
        assert file.read() == DATA


class Full(io.FileIO):
    """A file on a disk that is full after the first piece."""

    def write(self, data: object, /) -> int:
        if os.fstat(self.fileno()).st_size:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)  # type: ignore[arg-type]


def test_a_full_disk_costs_the_copy_and_not_the_layer(tmp_path: Path) -> None:
    with Full(tmp_path / "copy", "w+b") as copy:
        reading = Copied(io.BytesIO(DATA), copy)
        assert reading.read(1000) + reading.read(1000) + reading.read() == DATA
        assert os.fstat(copy.fileno()).st_size == 0
