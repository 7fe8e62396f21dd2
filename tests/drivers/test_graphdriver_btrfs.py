"""What of the btrfs graph driver no other has: snapshots, subvolumes made in containers, quota groups."""

import io
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from pierhead.driver.graphdriver.btrfs import BtrfsDriver
from pierhead.errors import InvalidParameter
from tests.harness.archives import archive, file, folder
from tests.harness.filesystems import file_system
from tests.harness.kernel import need
from tests.harness.processes import run


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    need("btrfs")
    with file_system("btrfs", tmp_path_factory.mktemp("disk"), 256) as place:
        yield place


@pytest.fixture
def driver(disk: Path) -> Iterator[BtrfsDriver]:
    home = disk / secrets.token_hex(4)
    home.mkdir()
    made = BtrfsDriver(str(home))
    made.probe()
    made.create("a", None)
    made.apply("a", io.BytesIO(archive(folder("d"), file("d/large", b"x" * 1_000_000), file("small", "x"))))
    yield made
    for id in ("w", "b", "a"):
        made.remove(id)
    assert list(made.list()) == []


def subvolumes(disk: Path) -> list[str]:
    """Those that are not deleted, by their numbers."""
    return [line.split()[1] for line in run(["btrfs", "subvolume", "list", str(disk)]).check().lines]


def inside(driver: BtrfsDriver, id: str) -> Path:
    return Path(driver.root(id).path)


def test_an_unpacked_layer_can_be_written_by_nobody(driver: BtrfsDriver) -> None:
    with pytest.raises(OSError, match="Read-only"):
        (inside(driver, "a") / "d/new").touch()


def test_a_container_costs_what_it_writes_and_no_more(driver: BtrfsDriver, disk: Path) -> None:
    driver.create("w", "a", writable=True)
    (inside(driver, "w") / "d/large").read_bytes()
    assert driver.measure("w").content == 0
    (inside(driver, "w") / "mine").write_bytes(os.urandom(300_000))
    with (inside(driver, "w") / "d/large").open("r+b") as changed:
        changed.write(b"y")
    assert driver.measure("w").content == 1_300_000
    given_back = driver.remove("w")
    assert 300_000 <= given_back < 500_000, "of the large file only the block that was written"
    assert driver.remove("a") >= 1_000_000


def test_subvolumes_that_a_container_made_go_with_it(driver: BtrfsDriver, disk: Path) -> None:
    before = subvolumes(disk)
    driver.create("w", "a", writable=True)
    deep = inside(driver, "w") / "one/two"
    deep.mkdir(parents=True)
    for path in (deep / "outer", deep / "outer/inner", inside(driver, "w") / "other"):
        run(["btrfs", "subvolume", "create", str(path)]).check()
        (path / "file").write_text("x")
    run(["btrfs", "property", "set", str(deep / "outer"), "ro", "true"]).check()
    assert driver.remove("w") > 0 and not driver.exists("w")
    assert subvolumes(disk) == before


def test_a_limit_without_quotas_is_refused_and_says_what_to_do(driver: BtrfsDriver) -> None:
    with pytest.raises(InvalidParameter, match="btrfs quota enable"):
        driver.create("w", "a", writable=True, limit=1 << 20)


def test_elsewhere_than_on_btrfs_it_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="it needs its data root on btrfs"):
        BtrfsDriver(str(tmp_path)).probe()
    assert list(tmp_path.iterdir()) == []
