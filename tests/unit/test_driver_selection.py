"""Which graph driver a daemon takes: a wrong choice hides every image that there is."""

import errno
from collections.abc import Collection
from typing import cast

import pytest

from pierhead.driver.graphdriver.api import GraphDriver
from pierhead.driver.graphdriver.selection import choose


class Fake:
    """A driver that works here or not."""

    def __init__(self, name: str, lack: str = "") -> None:
        self.name, self._lack = name, lack

    def probe(self) -> None:
        if self._lack:
            raise OSError(errno.ENOTSUP, self._lack)


def chosen(asked: str = "", used: Collection[str] = (), **lacks: str) -> str:
    made = {name: cast("GraphDriver", Fake(name, lacks.get(name, ""))) for name in ("overlay2", "btrfs", "vfs")}
    return choose(made, asked, used, "/data").name


def test_the_first_that_works_is_taken() -> None:
    assert chosen() == "overlay2"
    assert chosen(overlay2="no overlay") == "btrfs"


def test_what_was_asked_for_is_taken_or_said_to_be_impossible() -> None:
    assert chosen("vfs") == "vfs"
    with pytest.raises(OSError, match="no overlay"):
        chosen("overlay2", overlay2="no overlay")
    with pytest.raises(OSError, match="unknown storage driver zfs: use one of overlay2, btrfs, vfs"):
        chosen("zfs")


def test_the_driver_of_the_layers_that_are_there_is_taken_again_or_the_start_refused() -> None:
    assert chosen(used=["vfs"]) == "vfs"
    assert chosen("btrfs", used=["btrfs"]) == "btrfs"
    with pytest.raises(OSError, match="no subvolumes"):
        chosen(used=["btrfs"], btrfs="no subvolumes")
    with pytest.raises(
        OSError, match=r"images or containers of the storage driver overlay2: .*--storage-driver overlay2"
    ):
        chosen("vfs", used=["overlay2"])
    with pytest.raises(OSError, match="of several storage drivers: btrfs, vfs"):
        chosen(used=["vfs", "btrfs"])


def test_the_last_resort_is_told_once_and_why(caplog: pytest.LogCaptureFixture) -> None:
    assert chosen(overlay2="no overlay", btrfs="no btrfs") == "vfs"
    assert [record.getMessage() for record in caplog.records] == [
        "every container copies its image: only vfs works here (overlay2: no overlay; btrfs: no btrfs)"
    ]
