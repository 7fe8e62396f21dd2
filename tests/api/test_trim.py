"""What is deleted goes back to whoever has lent the disk: a virtual machine's host sees the file of its disk shrink."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness.engines import Engine
from tests.harness.engines import engine as started_engine
from tests.harness.filesystems import file_system
from tests.harness.images import tar
from tests.harness.processes import run, wait_until

pytestmark = pytest.mark.only_pierhead("trim is ours")

SIZE = 48 << 20


@contextmanager
def on_lent_disk(folder: Path, kind: str = "ext4", *extra: str) -> Iterator[tuple[Engine, Path]]:
    """A daemon whose data root is on a file system in a sparse file, and that file."""
    with started_engine("pierd", images=False) as engine:
        assert engine.stop() == 0
        with file_system(kind, folder, 256, at=engine.data_root):
            engine.start(*extra)
            try:
                yield engine, folder / f"{kind}.img"
            finally:
                engine.forget()
                assert engine.stop() == 0


def blocks(path: Path) -> int:
    """What a file takes on the disk, when all that was written to it is there."""
    os.sync()
    return path.stat().st_blocks * 512


def fill(engine: Engine) -> str:
    path = "/images/create?fromSrc=-&repo=large&tag=1"
    archive = tar({f"file{n}": os.urandom(1 << 20) for n in range(SIZE >> 20)})
    return str(engine.api.ok("POST", path, raw=archive, content_type="application/x-tar").records[-1]["status"])


def trim(engine: Engine) -> list[dict[str, Any]]:
    records = engine.api.ok("POST", "/system/trim").records
    return [record["Result"] for record in records if "Result" in record]


def test_the_file_of_a_disk_shrinks_after_rmi_and_trim(tmp_path: Path) -> None:
    with on_lent_disk(tmp_path, "ext4", "--trim=false") as (engine, disk):
        trim(engine)
        before = blocks(disk)
        fill(engine)
        full = blocks(disk)
        assert full >= before + SIZE
        engine.api.ok("DELETE", "/images/large:1")
        assert blocks(disk) >= before + SIZE, "nobody has told the disk yet"
        (result,) = trim(engine)
        assert result["Kind"] == "ext4" and "loop" in result["Device"] and result["Trimmed"] >= SIZE
        assert blocks(disk) <= before + (2 << 20)
        said = engine.pier("system", "trim")
        assert said.status == 0 and re.search(r"data \(ext4 on /dev/loop\d+\): \S+ given back\n", said.stdout), said


def test_the_file_of_a_disk_shrinks_by_itself_after_a_removal(tmp_path: Path) -> None:
    with on_lent_disk(tmp_path) as (engine, disk):
        before = blocks(disk)
        fill(engine)
        assert blocks(disk) >= before + SIZE
        engine.api.ok("DELETE", "/images/large:1")
        wait_until(lambda: blocks(disk) <= before + (2 << 20), "the disk's file to shrink")


def test_a_file_system_that_cannot_be_trimmed_is_said_to_be_one(tmp_path: Path) -> None:
    with started_engine("pierd", images=False) as engine:
        assert engine.stop() == 0
        run(["mount", "-t", "tmpfs", "tmpfs", str(engine.data_root)]).check()
        try:
            engine.start("--storage-driver", "vfs")
            (result,) = trim(engine)
            assert result["Trimmed"] == 0 and result["Kind"] == "tmpfs" and result["Error"]
            said = engine.pier("system", "trim")
            assert said.status == 1 and "(tmpfs on tmpfs): " in said.stderr, said
            assert engine.stop() == 0
        finally:
            run(["umount", str(engine.data_root)]).check()
