"""Layers that overlay2 merges, held against the kernel's own overlayfs: a container must not see the difference."""

import io
import os
import stat
from pathlib import Path

import pytest

from pierhead.driver.graphdriver import detached, overlaylayout, usage
from pierhead.driver.graphdriver.overlay import OverlayDriver
from tests.harness.archives import NS, Item, archive, device, file, folder, hardlink, opaque, symlink, whiteout
from tests.harness.filesystems import file_system
from tests.harness.processes import run

LAYERS: list[list[Item]] = [
    [
        folder("d", 0o750, uid=1, gid=2, xattrs={"user.k": "old", "user.gone": "x"}),
        *(file(f"d/f{number}", f"{number}") for number in range(4)),
        folder("d/deep"),
        folder("d/deep/er"),
        file("d/deep/er/x", "x"),
        folder("e"),
        file("e/old"),
        file("becomes-folder"),
        folder("becomes-file"),
        file("becomes-file/x"),
        file("suid", "s", mode=0o4711, uid=9, xattrs={"user.k": "v"}),
        hardlink("linked", "suid"),
        symlink("link", "d"),
        device("null", 1, 3),
    ],
    [whiteout("d/f0"), file("d/f1", "newer", uid=5), whiteout("d/deep"), whiteout("never")],
    [folder("d", 0o701, xattrs={"user.k": "new"}, mtime=NS + 10**9), folder("d/deep", 0o711), file("d/deep/y", "y")],
    [folder("e", 0o700), opaque("e"), file("e/new"), folder("becomes-folder"), file("becomes-folder/z")],
    [file("becomes-file", "now"), whiteout("linked"), symlink("link", "e")],
    [whiteout("d/f3"), folder("d/f2"), file("d/f2/inside")],
]


def described(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything that can be seen of a tree."""
    found: dict[str, tuple[object, ...]] = {}
    for at, folders, files in os.walk(root):
        for name in [*folders, *files, ""]:
            path = os.path.join(at, name)
            seen = os.lstat(path)
            kind = stat.S_IFMT(seen.st_mode)
            content = os.readlink(path) if kind == stat.S_IFLNK else ""
            content = Path(path).read_text() if kind == stat.S_IFREG else content
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
            }
            xattrs = {key: value for key, value in xattrs.items() if not key.startswith("trusted.overlay.")}
            found[os.path.relpath(path, root)] = (
                *(seen.st_mode, seen.st_uid, seen.st_gid, seen.st_rdev, content),
                seen.st_mtime_ns if path != f"{root}/" else 0,  # the archives say nothing of the top
                tuple(sorted(xattrs.items())),
            )
    return found


def chain(home: Path, *, named: str = "") -> OverlayDriver:
    driver = OverlayDriver(str(home))
    for number, items in enumerate(LAYERS):
        driver.create(f"{named}{number}", f"{named}{number - 1}" if number else None)
        driver.apply(f"{named}{number}", io.BytesIO(archive(*items)))
    return driver


def seen(driver: OverlayDriver, id: str) -> dict[str, tuple[object, ...]]:
    fd = driver.open_root(id)
    try:
        return described(Path(f"/proc/self/fd/{fd}"))
    finally:
        os.close(fd)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_merged_layers_look_as_the_kernel_stacks_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    stacked = chain(tmp_path / "a")
    monkeypatch.setattr(overlaylayout, "MAX_LOWER", depth)
    merged = chain(tmp_path / "b")
    for number in range(len(LAYERS)):
        assert seen(merged, f"{number}") == seen(stacked, f"{number}")
        assert [*merged.changes(f"{number}")] == [*stacked.changes(f"{number}")]
    root = merged.root(f"{len(LAYERS) - 1}")
    assert any(path.endswith("/base") for path in root.lower) and len(root.lower) <= max(depth, 2)


def test_a_merged_tree_takes_its_directories_alone_and_goes_with_its_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlaylayout, "MAX_LOWER", 2)
    driver = OverlayDriver(str(tmp_path))
    driver.create("a", None)
    driver.apply("a", io.BytesIO(archive(folder("d"), file("d/large", b"x" * 1_000_000), file("d/hidden"))))
    driver.create("b", "a")
    driver.apply("b", io.BytesIO(archive(file("more", b"y" * 10_000), whiteout("d/hidden"))))
    base = tmp_path / "overlay2/b/base"
    assert os.stat(base / "d/large").st_nlink == 2 and not (base / "d/hidden").exists()
    owned = driver.measure("b").disk
    large = usage.blocks(str(base / "d/large"))
    assert owned == usage.measure(str(base.parent)).disk - large, "the large file is a's"
    for id in ("c", "w"):  # both stand on the same one
        driver.create(id, "b", writable=id == "w")
        assert any(os.path.samefile(path, base) for path in driver.root(id).lower)
    assert [driver.remove(id) for id in ("c", "w")] and base.exists()
    assert driver.remove("b") == owned
    assert not base.exists() and driver.remove("a") >= 1_000_000


def test_a_merge_that_was_interrupted_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlaylayout, "MAX_LOWER", 2)
    driver = chain(tmp_path)
    base = tmp_path / "overlay2/1/base"
    half = base.with_name("base.new")
    base.rename(half)
    (half / "stray").touch()
    driver.create("w", "1", writable=True)
    assert base.exists() and not half.exists() and not (base / "stray").exists()


def test_a_file_system_without_types_in_its_directories_is_refused(tmp_path: Path) -> None:
    """As xfs made with ftype=0: overlayfs on it mixes things up."""
    with file_system("ext4", tmp_path, 16, "-O", "^filetype") as place:
        with pytest.raises(OSError, match="d_type"):
            OverlayDriver(str(place)).probe()
        assert not [name for name in os.listdir(place / "overlay2") if name.startswith("probe")]


def test_an_older_kernels_way_leaves_no_mount_to_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detached, "_LAYER_BY_LAYER", False)
    driver = chain(tmp_path)
    where = os.getcwd()
    before = Path("/proc/self/mountinfo").read_text()
    driver.create("w", "5", writable=True)
    fd = driver.open_root("w", readonly=False)
    try:
        os.mkdir("made", dir_fd=fd)
        assert Path("/proc/self/mountinfo").read_text() == before and os.getcwd() == where
    finally:
        os.close(fd)
    assert [change.path for change in driver.changes("w")] == ["/made"]


def test_ext4_begins_each_layer_where_little_was_deleted(tmp_path: Path) -> None:
    # Without a journal all that was removed there lately is looked through, one by one, for each file of a new one.
    # Flexible groups put the tables of sixteen groups, more than this disk has, in one.
    with file_system("ext4", tmp_path, 512, "-O", "^has_journal,^flex_bg") as root:
        driver = OverlayDriver(str(root))
        driver.probe()
        for number in range(8):
            driver.create(f"l{number}", None, large=True)
        told = run(["dumpe2fs", "-h", str(tmp_path / "ext4.img")]).check().stdout
        inodes = next(int(line.split()[-1]) for line in told.splitlines() if line.startswith("Inodes per group"))

        def groups(pattern: str) -> set[int]:
            return {path.stat().st_ino // inodes for path in (root / "overlay2").glob(pattern)}

        assert len(groups("places/*")) == 4, "512 MB have as many"
        assert len(groups("l?")) > 1, "one that is slow at the moment is passed over, on a busy machine more than that"
