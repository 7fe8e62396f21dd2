"""Every graph driver there is, for the tests that each of them must pass."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from pierhead.driver.graphdriver import detached
from pierhead.driver.graphdriver.api import Applied, GraphDriver, Record
from pierhead.driver.graphdriver.btrfs import BtrfsDriver
from pierhead.driver.graphdriver.fuseoverlay import FuseOverlayDriver
from pierhead.driver.graphdriver.overlay import OverlayDriver
from pierhead.driver.graphdriver.vfs import VfsDriver
from tests.harness.filesystems import file_system
from tests.harness.kernel import need
from tests.harness.processes import run


class Stacked(OverlayDriver):
    """Layers get their parents when they have been unpacked, as those of an image do that come at the same time."""

    def __init__(self, data_root: str) -> None:
        super().__init__(data_root)
        self._later: dict[str, str] = {}

    def create(self, id: str, parent: str | None, *, writable: bool = False, limit: int = 0) -> None:
        super().create(id, parent if writable else None, writable=writable, limit=limit)
        if parent is not None and not writable:
            self._later[id] = parent

    def apply(self, id: str, tar: BinaryIO, record: Record | None = None) -> Applied:
        applied = super().apply(id, tar, record)
        if (parent := self._later.pop(id, None)) is not None:
            self.stack(id, parent, applied)
        return applied


GRAPH_DRIVERS: dict[str, Callable[[str], GraphDriver]] = {
    "overlay2": OverlayDriver,
    "overlay2 by mount": OverlayDriver,
    "stacked": Stacked,
    "fuse-overlayfs": FuseOverlayDriver,
    "vfs": VfsDriver,
    "btrfs": BtrfsDriver,
}
"""By mount: as before Linux 6.8, with mount(2) instead of the mount option lowerdir+."""


@pytest.fixture(scope="module")
def btrfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system for the driver that needs its own."""
    need("btrfs")
    with file_system("btrfs", tmp_path_factory.mktemp("disk"), 256) as place:
        run(["btrfs", "quota", "enable", str(place)]).check()
        yield place


@pytest.fixture(params=GRAPH_DRIVERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def home(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> Path:
    """The data root, on the file system that the driver wants."""
    if kind != "btrfs":
        return tmp_path
    place: Path = request.getfixturevalue("btrfs") / secrets.token_hex(4)
    place.mkdir()
    return place


@pytest.fixture
def driver(kind: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> GraphDriver:
    if kind == "overlay2 by mount":
        monkeypatch.setattr(detached, "_LAYER_BY_LAYER", False)
    if kind == "fuse-overlayfs":
        need("fuse-overlayfs")
    made = GRAPH_DRIVERS[kind](str(home))
    made.probe()
    return made
