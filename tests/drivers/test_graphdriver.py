"""What every graph driver must do: one suite, run by each driver."""

import io
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from pierhead.driver.graphdriver.api import MARK, Change, GraphDriver, Kept
from pierhead.driver.graphdriver.overlay import OverlayDriver
from pierhead.driver.graphdriver.tar import BadArchive
from pierhead.graph.layer_contents import compare
from pierhead.graph.layer_folders import Flaw, Folders, Told, told
from tests.harness.archives import (
    NS,
    Item,
    archive,
    block,
    device,
    file,
    folder,
    hardlink,
    listing,
    opaque,
    symlink,
    whiteout,
)
from tests.harness.kernel import need
from tests.harness.processes import run

MODIFIED, ADDED, DELETED = 0, 1, 2
WHOLE = ("vfs", "btrfs")
"""Drivers whose layers are whole trees, so that nothing is stacked."""


def layer(driver: GraphDriver, id: str, parent: str | None, *items: Item) -> str:
    driver.create(id, parent)
    driver.apply(id, io.BytesIO(archive(*items)))
    return id


@contextmanager
def opened(driver: GraphDriver, id: str, *, readonly: bool = True) -> Iterator[Path]:
    """The assembled root as a path, for as long as it is open."""
    fd = driver.open_root(id, readonly=readonly)
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def tree(root: Path) -> set[str]:
    """What is there, without what only containers have."""
    found = {os.path.join(at, name) for at, dirs, files in os.walk(root) for name in dirs + files}
    return {os.path.relpath(path, root) for path in found} - {MARK}


def disk(path: Path) -> int:
    found = [os.lstat(os.path.join(at, name)) for at, dirs, files in os.walk(path) for name in dirs + files]
    return sum({each.st_ino: each.st_blocks * 512 for each in found}.values())


def test_a_container_sees_all_its_layers(driver: GraphDriver) -> None:
    layer(driver, "a", None, folder("etc"), file("etc/one", "1"), file("etc/two", "old"))
    layer(driver, "b", "a", file("etc/two", "new"), folder("opt", 0o700), symlink("opt/link", "/etc/one"))
    driver.create("w", "b", writable=True)
    with opened(driver, "w", readonly=False) as root:
        assert tree(root) == {"etc", "etc/one", "etc/two", "opt", "opt/link"}
        assert (root / "etc/two").read_text() == "new" and os.readlink(root / "opt/link") == "/etc/one"
        (root / "etc/one").write_text("mine")
    with opened(driver, "w") as root:
        assert (root / "etc/one").read_text() == "mine"
    with opened(driver, "b") as root:
        assert (root / "etc/one").read_text() == "1", "an image never changes"


def test_a_read_only_root_cannot_be_written(driver: GraphDriver) -> None:
    layer(driver, "a", None, file("x"))
    with opened(driver, "a") as root, pytest.raises(OSError, match="Read-only"):
        (root / "y").touch()


def test_owners_modes_and_times_are_the_archives(driver: GraphDriver) -> None:
    layer(
        driver,
        "a",
        None,
        folder("d", 0o2750, uid=7, gid=8),
        file("d/suid", "x", mode=0o4755, uid=1000, gid=1001),
        symlink("d/l", "nowhere"),
        file("big-id", uid=3_000_000, gid=4_000_000_000),
    )
    with opened(driver, "a") as root:
        found = os.lstat(root / "d")
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns) == (0o2750, 7, 8, NS)
        found = os.lstat(root / "d/suid")
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns) == (
            0o4755,
            1000,
            1001,
            NS,
        )
        assert os.lstat(root / "d/l").st_mtime_ns == NS
        assert (os.lstat(root / "big-id").st_uid, os.lstat(root / "big-id").st_gid) == (3_000_000, 4_000_000_000)


def test_whiteouts_hide_what_is_below(driver: GraphDriver) -> None:
    layer(driver, "a", None, folder("d"), file("d/gone"), file("d/kept"), folder("e"), file("e/x"), file("top"))
    layer(driver, "b", "a", whiteout("d/gone"), whiteout("e"), whiteout("top"), whiteout("never-was"))
    with opened(driver, "b") as root:
        assert tree(root) == {"d", "d/kept"}
    with opened(driver, "a") as root:
        assert "d/gone" in tree(root)


def test_an_opaque_directory_hides_its_old_content_only(driver: GraphDriver) -> None:
    layer(driver, "a", None, folder("d"), file("d/old"), folder("d/sub"), file("d/sub/old"), file("other"))
    layer(driver, "b", "a", folder("d"), file("d/before"), opaque("d"), file("d/after"), folder("d/sub"))
    with opened(driver, "b") as root:
        assert tree(root) == {"d", "d/before", "d/after", "d/sub", "other"}


def test_an_opaque_root_hides_everything(driver: GraphDriver) -> None:
    layer(driver, "a", None, folder("d"), file("d/old"), file("old"))
    layer(driver, "b", "a", opaque(""), file("new"))
    layer(driver, "c", "b", file("newer"))
    with opened(driver, "c") as root:
        assert tree(root) == {"new", "newer"}


@pytest.mark.parametrize("first", ["whiteout", "file"])
def test_a_whiteout_spares_its_own_layer_in_either_order(driver: GraphDriver, first: str) -> None:
    layer(driver, "a", None, folder("d"), file("d/old"), file("f", "old"))
    hide, make = [whiteout("d"), whiteout("f")], [folder("d"), file("d/new"), file("f", "new")]
    layer(driver, "b", "a", *(hide + make if first == "whiteout" else make + hide))
    with opened(driver, "b") as root:
        assert tree(root) == {"d", "d/new", "f"} and (root / "f").read_text() == "new"


def test_a_directory_may_become_a_file_and_a_file_a_directory(driver: GraphDriver) -> None:
    layer(driver, "a", None, folder("d"), file("d/x"), file("f", "text"), symlink("l", "d"))
    layer(driver, "b", "a", file("d", "now a file"), folder("f"), file("f/y"), folder("l"))
    with opened(driver, "b") as root:
        assert tree(root) == {"d", "f", "f/y", "l"} and (root / "d").read_text() == "now a file"
        assert not (root / "l").is_symlink()


def test_a_directory_that_a_layer_only_passes_through_keeps_its_owner(driver: GraphDriver) -> None:
    layer(driver, "a", None, folder("tmp", 0o1777), folder("home", 0o750, uid=5, gid=6))
    layer(driver, "b", "a", file("tmp/x"), file("home/y"))
    with opened(driver, "b") as root:
        assert stat.S_IMODE(os.stat(root / "tmp").st_mode) == 0o1777
        found = os.stat(root / "home")
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o750, 5, 6)


def test_hard_links_stay_links(driver: GraphDriver) -> None:
    layer(driver, "a", None, file("one", "same"), hardlink("two", "one"), symlink("s", "x"), hardlink("s2", "s"))
    with opened(driver, "a") as root:
        assert os.stat(root / "one").st_ino == os.stat(root / "two").st_ino
        assert os.readlink(root / "s2") == "x"


def test_devices_pipes_and_attributes(driver: GraphDriver) -> None:
    layer(
        driver,
        "a",
        None,
        device("null", 1, 3),
        device("disk", 8, 0, tarfile.BLKTYPE),
        Item("pipe", tarfile.FIFOTYPE),
        file("f", "x", xattrs={"user.colour": "blue", "trusted.overlay.opaque": "y"}),
        folder("d", xattrs={"user.colour": "red", "trusted.overlay.opaque": "y"}),
    )
    with opened(driver, "a") as root:
        assert os.lstat(root / "null").st_rdev == os.makedev(1, 3) and stat.S_ISCHR(os.lstat(root / "null").st_mode)
        assert os.lstat(root / "disk").st_rdev == os.makedev(8, 0) and stat.S_ISBLK(os.lstat(root / "disk").st_mode)
        assert stat.S_ISFIFO(os.lstat(root / "pipe").st_mode)
        assert os.getxattr(root / "f", "user.colour") == b"blue"
    fd = driver.open_layer("a")
    try:
        assert os.listxattr(f"/proc/self/fd/{fd}/d") == ["user.colour"], "an archive does not steer overlayfs"
    finally:
        os.close(fd)


def test_capabilities_of_files_come_and_go_with_layers(driver: GraphDriver) -> None:
    """cap_net_raw=ep, as ping has it."""
    value = "\x01\0\0\x02\0\x20" + "\0" * 14
    layer(driver, "a", None, file("ping", "x", mode=0o755, xattrs={"security.capability": value}), file("plain", "x"))
    driver.create("w", "a", writable=True)
    with opened(driver, "w", readonly=False) as root:
        assert os.getxattr(root / "ping", "security.capability") == value.encode()
        os.setxattr(root / "plain", "security.capability", value.encode())
    assert list(driver.changes("w")) == [Change("/plain", MODIFIED)]
    data = b"".join(driver.diff("w"))
    assert listing(data)["plain"].pax_headers["SCHILY.xattr.security.capability"] == value
    driver.create("b", "a")
    driver.apply("b", io.BytesIO(data))
    with opened(driver, "b") as root:
        assert os.getxattr(root / "plain", "security.capability") == value.encode()


def test_holes_in_files_take_no_space_anywhere(driver: GraphDriver) -> None:
    size = 32 << 20
    driver.create("w", None, writable=True)
    with opened(driver, "w", readonly=False) as root, (root / "sparse").open("wb") as sparse:
        sparse.write(b"begin")
        sparse.seek(size // 2)
        sparse.write(b"middle")
        sparse.truncate(size)
    data = b"".join(driver.diff("w"))
    assert listing(data)["sparse"].size == size
    driver.create("a", None)
    driver.apply("a", io.BytesIO(data))
    driver.create("c", "a", writable=True)
    for id in ("a", "c"):  # where layers are copies: of the copy, too
        with opened(driver, id) as root:
            content = (root / "sparse").read_bytes()
            assert len(content) == size and content[:5] == b"begin" and content[size // 2 :][:6] == b"middle"
            assert content.count(0) == size - 11
        fd = driver.open_layer(id)
        try:
            if id == "a" or driver.name in WHOLE:
                assert os.stat("sparse", dir_fd=fd).st_blocks * 512 < size // 4
        finally:
            os.close(fd)


@pytest.mark.parametrize(
    "name",
    ["with space", "new\nline", "ünïcödé", "\udcff\udcfe", "-rf", "a" * 255, "x" * 90 + "/" + "y" * 200, "*?[", ".whx"],
)
def test_odd_names(driver: GraphDriver, name: str) -> None:
    layer(driver, "a", None, file(name, "content"))
    with opened(driver, "a") as root:
        assert (root / name).read_text() == "content"
    assert name in listing(b"".join(driver.diff("a")))


def test_a_chain_of_130_layers(driver: GraphDriver) -> None:
    count = 30 if driver.name in WHOLE else 130
    parent = None
    for number in range(count):
        parent = layer(driver, f"l{number}", parent, file(f"f{number}"))
    driver.create("w", parent, writable=True)
    with opened(driver, "w", readonly=False) as root:
        assert len(tree(root)) == count


def test_a_chain_beyond_what_the_kernel_stacks(driver: GraphDriver) -> None:
    """It takes 500 lower directories."""
    if driver.name in WHOLE:
        pytest.skip("its layers are whole trees: nothing is stacked")
    layer(driver, "l0", None, folder("d", 0o700), file("d/one", "1"), hardlink("d/two", "d/one"), file("gone"))
    expected = {"d", "d/one", "d/two", "gone"}
    for number in range(1, 600):
        items = [folder("d", 0o700), file(f"d/f{number}", str(number))]
        if number % 10 == 0:
            items.append(whiteout(f"d/f{number - 1}"))
            expected.discard(f"d/f{number - 1}")
        if number == 440:
            items.append(whiteout("gone"))
            expected.discard("gone")
        layer(driver, f"l{number}", f"l{number - 1}", *items)
        expected.add(f"d/f{number}")
    driver.create("w", "l599", writable=True)
    with opened(driver, "w", readonly=False) as root:
        assert tree(root) == expected and stat.S_IMODE(os.stat(root / "d").st_mode) == 0o700
        assert os.stat(root / "d/one").st_ino == os.stat(root / "d/two").st_ino
        assert [(root / f"d/f{number}").read_text() for number in (1, 448, 450, 451, 599)] == [
            *("1", "448", "450", "451", "599")
        ]
        (root / "d/f1").unlink()
    assert list(driver.changes("w")) == [Change("/d", MODIFIED), Change("/d/f1", DELETED)]


def test_changes_are_dockers(driver: GraphDriver) -> None:
    layer(driver, "a", None, folder("d"), file("d/gone"), file("d/same"), file("edit", "old"), folder("e"), file("e/x"))
    driver.create("w", "a", writable=True)
    with opened(driver, "w", readonly=False) as root:
        (root / "d/gone").unlink()
        (root / "edit").write_text("newer")
        (root / "new").mkdir()
        (root / "new/file").touch()
        (root / "e/x").unlink()
        (root / "e").rmdir()
        (root / "e").mkdir()
        (root / "e/y").touch()
    assert list(driver.changes("w")) == [
        Change("/d", MODIFIED),
        Change("/d/gone", DELETED),
        Change("/e", MODIFIED),
        Change("/e/x", DELETED),
        Change("/e/y", ADDED),
        Change("/edit", MODIFIED),
        Change("/new", ADDED),
        Change("/new/file", ADDED),
    ]
    assert [change.kind for change in driver.changes("a")] == [ADDED] * 6


def snapshot(root: Path) -> dict[str, os.stat_result]:
    """Every path, as "/a/b"."""
    return {
        "/" + os.path.relpath(os.path.join(at, name), root): os.lstat(os.path.join(at, name))
        for at, folders, files in os.walk(root)
        for name in folders + files
    }


def compared(before: dict[str, os.stat_result], after: dict[str, os.stat_result]) -> dict[str, int]:
    """Docker's rules (pkg/archive/changes.go) in the plainest way: two lists of everything, one beside the other."""
    found: dict[str, int] = {}

    def under(path: str, what: dict[str, os.stat_result]) -> bool:
        return all(
            stat.S_ISDIR(what[above].st_mode) if above in what else False
            for above in (path[:at] for at in range(1, len(path)) if path[at] == "/")
        )

    for path in before.keys() | after.keys():
        old, new = before.get(path), after.get(path)
        if new is None:
            if under(path, after):
                found[path] = DELETED
        elif old is None:
            found[path] = ADDED
        elif compared_node(old) != compared_node(new):
            found[path] = MODIFIED
    for path in list(found):
        while path := path.rpartition("/")[0]:
            found.setdefault(path, MODIFIED)
    return found


def compared_node(found: os.stat_result) -> tuple[int, ...]:
    """What makes a node another one: of folders not the size and the time."""
    own = (0, 0) if stat.S_ISDIR(found.st_mode) else (found.st_size, found.st_mtime_ns)
    return found.st_mode, found.st_uid, found.st_gid, found.st_rdev, *own


def scramble(root: Path, random: Random) -> None:
    """Forty changes of all kinds that a container can make to its files."""
    for number in range(40):
        paths = sorted(snapshot(root))
        path = root / random.choice(paths)[1:]
        folders = [root, *(root / one[1:] for one in paths if stat.S_ISDIR(os.lstat(root / one[1:]).st_mode))]
        place = random.choice(folders)
        match random.choice(["write", "write", "make", "delete", "delete", "again", "mode", "owner", "link", "pipe"]):
            case "write" if path.is_file() and not path.is_symlink():
                path.write_text(f"changed {number}")
            case "make":
                (place / f"made{number}").mkdir()
            case "delete" | "again" as what:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
                if what == "again":
                    path.mkdir() if number % 2 else path.write_text("again")
            case "mode" if not path.is_symlink():
                path.chmod(0o700 + number % 8)
            case "owner":
                os.chown(path, number, number, follow_symlinks=False)
            case "link" if path.is_file() and not path.is_symlink():
                os.link(path, place / f"linked{number}")
                (place / f"symbolic{number}").symlink_to(path.name)
            case "pipe":
                os.mkfifo(place / f"pipe{number}")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_changes_and_difference_agree_with_a_plain_comparison(driver: GraphDriver, seed: int) -> None:
    items = [f"d{a}" + "/e" * b for a in range(3) for b in range(3)]
    layer(
        driver,
        "a",
        None,
        *map(folder, items),
        *(file(f"{name}/f{number}", f"{number}") for name in items for number in range(2)),
        symlink("d0/s", "f0"),
        hardlink("d1/h", "d0/f1"),
    )
    driver.create("w", "a", writable=True)
    with opened(driver, "w", readonly=False) as root:
        (root / MARK).unlink(missing_ok=True)
        before = snapshot(root)
        scramble(root, Random(seed))
        after = snapshot(root)
    changes = list(driver.changes("w"))
    assert {change.path: change.kind for change in changes} == compared(before, after)
    assert {change.kind for change in changes} == {MODIFIED, ADDED, DELETED}
    assert [change.path for change in changes] == sorted(
        (change.path for change in changes), key=lambda one: one.split("/")
    )
    driver.create("b", "a")
    driver.apply("b", io.BytesIO(b"".join(driver.diff("w"))))
    with opened(driver, "b") as root:
        again = snapshot(root)
    assert {path: facts(found) for path, found in again.items()} == {
        path: facts(found) for path, found in after.items()
    }


def facts(found: os.stat_result) -> tuple[int, ...]:
    """What a layer keeps of a node, whatever the file system (which alone knows how large a folder is)."""
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return found.st_mode, found.st_uid, found.st_gid, size


def test_a_layer_with_a_limit_takes_no_more_and_others_are_not_concerned(driver: GraphDriver) -> None:
    if driver.name != "btrfs":
        need("project quotas")
    layer(driver, "a", None, file("x", "x"))
    driver.create("limited", "a", writable=True, limit=1 << 20)
    driver.create("large", "a", writable=True, limit=1 << 24)
    driver.create("free", "a", writable=True)

    def written(id: str) -> bool:
        with opened(driver, id, readonly=False) as root:
            path = str(root).replace("self", str(os.getpid()))
            # Without the right to go beyond every quota, which no container has.
            plain = ["setpriv", "--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource"]
            return run([*plain, "dd", "if=/dev/zero", f"of={path}/y", "bs=64k", "count=40"]).status == 0

    assert [written(id) for id in ("limited", "large", "free")] == [False, True, True]
    driver.remove("limited")
    driver.create("next", "a", writable=True, limit=1 << 23)
    assert written("next"), "what was counted is forgotten with the layer"


def test_an_untouched_container_has_no_changes(driver: GraphDriver) -> None:
    layer(driver, "a", None, folder("d"), file("d/x", "text"))
    driver.create("w", "a", writable=True)
    with opened(driver, "w", readonly=False) as root:
        assert (root / "d/x").read_text() == "text"
    assert list(driver.changes("w")) == [] and driver.measure("w").content == 0


def test_a_container_knows_that_it_is_one_and_its_image_does_not(driver: GraphDriver) -> None:
    layer(driver, "a", None, file("x"))
    layer(driver, "marked", "a", symlink(MARK, "/nowhere"))
    for id, parent in ("w", "a"), ("own", "marked"):
        driver.create(id, parent, writable=True)
        fd = driver.open_root(id, places=True)
        try:
            assert stat.S_ISLNK(os.lstat(f"/proc/self/fd/{fd}/{MARK}").st_mode) == (id == "own")
        finally:
            os.close(fd)
        assert list(driver.changes(id)) == [] and listing(b"".join(driver.diff(id))) == {}
    assert MARK in listing(b"".join(driver.diff("marked"))), "what an image has is the image's"


def test_the_difference_applied_elsewhere_is_the_same_tree(driver: GraphDriver) -> None:
    base = (folder("d"), file("d/gone"), file("d/kept", "kept"), folder("e"), file("e/x"))
    layer(driver, "a", None, *base)
    driver.create("w", "a", writable=True)
    with opened(driver, "w", readonly=False) as root:
        (root / "d/gone").unlink()
        (root / "one").write_text("linked")
        os.link(root / "one", root / "two")
        os.mknod(root / "pipe", stat.S_IFIFO | 0o640)
        os.symlink("/etc/passwd", root / "link")
        (root / "e/x").unlink()
        (root / "e").rmdir()
        (root / "e").mkdir(mode=0o711)
        os.setxattr(root / "one", "user.k", b"v")
    data = b"".join(driver.diff("w"))
    driver.create("b", "a")
    driver.apply("b", io.BytesIO(data))
    with opened(driver, "b") as root, opened(driver, "w") as was:
        assert tree(root) == tree(was)
        assert os.stat(root / "one").st_ino == os.stat(root / "two").st_ino
        assert os.getxattr(root / "two", "user.k") == b"v"
        assert stat.S_IMODE(os.stat(root / "e").st_mode) == 0o711
    assert {"d/.wh.gone", "one", "two"} <= set(listing(data))
    assert not any(name.endswith("kept") for name in listing(data))


def test_removing_gives_every_byte_back(driver: GraphDriver, home: Path) -> None:
    before = disk(home)
    applied_to = layer(driver, "a", None, folder("d"), file("d/x", b"x" * 100_000), hardlink("d/y", "d/x"))
    driver.create("w", "a", writable=True)
    with opened(driver, "w", readonly=False) as root:
        deep = root
        for _ in range(200):
            deep = deep / "deeper"
            deep.mkdir()
        os.unlink(root / "d/x")
    assert driver.exists("w") and set(driver.list()) == {"a", "w"}
    assert driver.remove("w") > 0
    assert driver.remove(applied_to) >= 100_000
    assert driver.remove("a") == 0, "a second time does no harm"
    assert not driver.exists("a") and list(driver.list()) == []
    assert disk(home) == before


def test_what_was_unpacked_is_counted(driver: GraphDriver) -> None:
    driver.create("a", None)
    made = folder("d"), file("d/x", b"x" * 5000), hardlink("y", "d/x"), symlink("s", "d/x")
    applied = driver.apply("a", io.BytesIO(archive(*made)))
    assert applied.size == 5003 and applied.entries == 4
    assert driver.measure("a").content == 5003
    assert driver.parent("a") is None and driver.parent("nothing") is None


def test_a_new_name_of_an_old_file_counts_its_content_once(driver: GraphDriver) -> None:
    layer(driver, "a", None, file("old", b"x" * 9000))
    driver.create("w", "a", writable=True)
    with opened(driver, "w", readonly=False) as root:
        os.link(root / "old", root / "again")
        os.link(root / "old", root / "also")
    # btrfs knows the file by its number, which both have, and sees that nothing was written.
    assert driver.measure("w").content == (0 if driver.name == "btrfs" else 9000)


def test_layers_and_what_is_besides_are_all_that_is_on_disk(driver: GraphDriver, home: Path) -> None:
    home /= driver.name
    layer(driver, "a", None, folder("d"), file("d/x", b"x" * 9000), hardlink("y", "d/x"), symlink("l", "/" * 200))
    layer(driver, "b", "a", whiteout("y"), file("z", "z"))
    driver.create("w", "b", writable=True)
    with opened(driver, "w", readonly=False) as root:
        (root / "d/x").write_bytes(b"y" * 5000)
        (root / "sparse").touch()
        os.truncate(root / "sparse", 1 << 30)
        assert driver.measure("w").content == 5000 + (1 << 30)
        deep = root
        for _ in range(600):
            deep = deep / "down"
            deep.mkdir()
    parts = {id: driver.measure(id).disk for id in ("a", "b", "w")}
    rest = driver.remainder(frozenset(parts))
    assert not rest.strays and not rest.missing
    if driver.name != "btrfs":  # there they share blocks, which are the lowest one's
        assert sum(parts.values()) + rest.own == disk(home) + os.lstat(home).st_blocks * 512
    rest = driver.remainder({"b", "gone"})
    assert rest.missing == {"gone"} and sum(size for _, size in rest.strays) == parts["a"] + parts["w"]
    assert {id: driver.remove(id) for id in ("w", "b", "a")} == parts
    assert driver.measure("a").disk == 0


def test_what_is_written_beside_layers_is_compared_and_written_again(driver: GraphDriver, home: Path) -> None:
    layer(driver, "a", None, folder("etc"), file("etc/one", "1"))
    layer(driver, "b", "a", file("etc/two", "2"))
    layer(driver, "o", "b", opaque("."), file("alone", "3"))
    driver.create("w", "b", writable=True)
    known = [Kept("a", None), Kept("b", "a"), Kept("o", "b"), Kept("w", "b", writable=True)]
    assert list(driver.check(known)) == []
    with opened(driver, "w") as root:
        whole = tree(root)
    notes = [path for id in "abow" for path in (home / driver.name / id).iterdir() if not path.is_dir()]
    links = sorted((home / driver.name).glob("l/*"))
    for path in [*notes, *links]:
        path.unlink()
        found = list(driver.check(known))
        assert found and len(list(driver.check(known))) == len(found), f"{path}: looking changes nothing"
        while found:
            for difference in found:
                assert difference.mend is not None, difference
                difference.mend()
            found = list(driver.check(known))
        with opened(driver, "w") as root:
            assert tree(root) == whole, path
        with opened(driver, "o") as root:
            assert tree(root) == {"alone"}, path
    assert notes


class Images:
    """Layers whose archives are held against them, as ``pier system fsck --deep`` does."""

    def __init__(self, driver: GraphDriver) -> None:
        self._driver = driver
        self._layers: dict[str, tuple[str | None, Told]] = {}

    def add(self, id: str, parent: str | None, *items: Item) -> None:
        self._layers[id] = parent, told(io.BytesIO(archive(*items)))
        layer(self._driver, id, parent, *items)

    def flaws(self) -> dict[str, list[Flaw]]:
        folders, flaws = Folders(self._driver), {}
        for id, (parent, said) in self._layers.items():
            fd = self._driver.open_layer(id)
            try:
                found = list(compare(said.wanted, fd, alone=self._driver.stacks, hidden=said.hidden))
                found += folders.compare(id, parent, said, fd, sound=not found)
            finally:
                os.close(fd)
            flaws |= {id: found} if found else {}
        return flaws

    @contextmanager
    def changed(self, id: str, path: str, *expected: str) -> Iterator[int]:
        """What somebody does to a folder of one layer is said of it alone, and mended."""
        with self._driver.mending(id) as fd:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            try:
                yield folder
            finally:
                os.close(folder)
        found = self.flaws()
        assert {at: [flaw.text for flaw in flaws] for at, flaws in found.items()} == {id: list(expected)}
        with self._driver.mending(id) as fd:
            for flaw in found[id]:
                assert flaw.mend is not None, flaw
                flaw.mend(fd)
        assert self.flaws() == {}


def test_folders_that_no_header_names_are_compared_and_mended(driver: GraphDriver) -> None:
    images = Images(driver)
    images.add("a", None, folder(".", 0o711, uid=3), folder("home", 0o750, uid=5, gid=6), file("new/old/x"), file("l"))
    images.add("b", "a", file("home/y"), file("new/z"), whiteout("l"), folder("l", 0o700), file("l/deep/x"))
    images.add("c", "b", file("home/z"), whiteout("new"), file("new/a/x"), folder(".", 0o755, gid=9))
    images.add("d", "c", file("home/q"), file("new/a/y"), folder("l", 0o701))
    assert images.flaws() == {}
    with images.changed("b", ".", "/ has mode 777, not 711", "/ is owned by 0:0, not 3:0") as top:
        os.fchmod(top, 0o777)
        os.fchown(top, 0, 0)
    with images.changed("c", ".", "/ is owned by 7:9, not 0:9") as top:
        os.fchown(top, 7, 9)
    with images.changed("b", "home", "home has mode 700, not 750", "home is owned by 0:0, not 5:6") as home:
        os.fchmod(home, 0o700)
        os.fchown(home, 0, 0)
    with images.changed("b", "l/deep", "l/deep has mode 4777, not 755") as deep:
        os.fchmod(deep, 0o4777)
    with images.changed("d", "new/a", "new/a is owned by 1:1, not 0:0") as new:
        os.fchown(new, 1, 1)
    with images.changed("a", "home", "home has mode 777, not 750") as named:
        os.fchmod(named, 0o777)


def test_marks_that_hide_folders_below_are_compared_and_mended(driver: GraphDriver) -> None:
    images = Images(driver)
    images.add("a", None, file("d/x"), file("e/x"), file("f/x"), file("g/h/x"), file("odd", "1"))
    images.add("b", "a", opaque("d"), file("d/y"), whiteout("e"), file("e/y"), file("f/y"), file("f/g/y"))
    images.add("c", "b", file("f/z"), opaque("g"), whiteout("g/h"), folder("odd"), whiteout("odd"))
    images.add("d", "c", opaque("."), file("g/h/y"))
    images.add("e", "d", file("g/h/z"))
    assert images.flaws() == {}
    with opened(driver, "e") as root:
        whole = tree(root)
    if not driver.stacks:
        return
    mark = driver.opaque_marks[0]
    for id, path in (("b", "d"), ("b", "e"), ("c", "g"), ("c", "odd"), ("d", ".")):
        name = "/" if path == "." else path
        with images.changed(id, path, f"{name} does not hide any more what the layers below have in it") as lost:
            os.removexattr(lost, mark)
    for path in ("f", "f/g", "."):
        for mark in driver.opaque_marks:
            name = "/" if path == "." else path
            text = f"{name} hides what the layers below have in it, which was not in the archive"
            with images.changed("b", path, text) as added:
                os.setxattr(added, mark, b"y")
    with opened(driver, "e") as root:
        assert tree(root) == whole


def test_folders_that_were_added_or_are_lost_are_said(driver: GraphDriver) -> None:
    images = Images(driver)
    images.add("a", None, file("d/x"))
    images.add("b", "a", whiteout("d/x"))
    assert images.flaws() == {}
    if driver.stacks:  # else they may be of the layers below
        with driver.mending("b") as fd:
            os.makedirs(f"/proc/self/fd/{fd}/added/below")
            os.unlink("d/x", dir_fd=fd)
            os.rmdir("d", dir_fd=fd)
        texts = ["d is missing", "added was not in the archive", "added/below was not in the archive"]
        assert [flaw.text for flaw in images.flaws()["b"]] == texts


def test_an_empty_archive_is_an_empty_layer(driver: GraphDriver) -> None:
    driver.create("a", None)
    driver.apply("a", io.BytesIO(bytes(1024)))
    with opened(driver, "a") as root:
        assert tree(root) == set()
    driver.create("w", None, writable=True)
    with opened(driver, "w", readonly=False) as root:
        (root / "x").touch()
    assert list(driver.changes("w")) == [Change("/x", ADDED)]


# -- hostile ----------------------------------------------------------------------------------------------------------


def test_links_lead_nowhere_but_inside(driver: GraphDriver, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    (victim / "file").write_text("untouched")
    items = [
        symlink("out", str(victim)),
        folder("out2"),
        symlink("up", "../../../../../.." + str(victim)),
        file("sentinel", "x"),
    ]
    driver.create("a", None)
    driver.apply("a", io.BytesIO(archive(folder(str(victim)), *items, file("out/file", "changed"), file("up/new"))))
    assert (victim / "file").read_text() == "untouched" and os.listdir(victim) == ["file"]
    with opened(driver, "a") as root:
        assert (root / str(victim).lstrip("/") / "file").read_text() == "changed", "as a chroot would"


def test_a_link_of_a_lower_layer_is_no_way_out_either(driver: GraphDriver, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    layer(driver, "a", None, symlink("out", str(victim)))
    driver.create("b", "a")
    try:
        driver.apply("b", io.BytesIO(archive(file("out/file", "x"), folder("out", 0o777))))
    except BadArchive:
        pass
    assert os.listdir(victim) == [] and stat.S_IMODE(os.stat(victim).st_mode) != 0o777


def test_fifty_thousand_opaque_marks_cost_no_more_than_one(driver: GraphDriver) -> None:
    """CVE-2026-95838: each mark emptied the whole directory again."""
    layer(driver, "a", None, folder("d"), *(file(f"d/{number}") for number in range(200)))
    driver.create("b", "a")
    driver.apply("b", io.BytesIO(block(name=b"d/.wh..wh..opq") * 50_000 + bytes(1024)))
    with opened(driver, "b") as root:
        assert os.listdir(root / "d") == []


def test_no_descriptor_is_left_open(driver: GraphDriver) -> None:
    before = set(os.listdir("/proc/self/fd"))
    layer(driver, "a", None, *(file(f"d{number}/x") for number in range(300)))
    driver.create("b", "a")
    with pytest.raises(BadArchive):
        driver.apply("b", io.BytesIO(archive(file("d1/y"), file("../x"))))
    list(driver.changes("b"))
    b"".join(driver.diff("a"))
    next(driver.diff("a"))
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_layer_that_goes_while_it_is_compared_is_said_to_be_missing(tmp_path: Path) -> None:
    driver = OverlayDriver(str(tmp_path))
    driver.create("going", None)
    (tmp_path / "overlay2/l" / (tmp_path / "overlay2/going/link").read_text()).unlink()
    found = driver.check([Kept("going", None, False)])
    assert "no short name" in next(found).found
    driver.remove("going")
    assert "is missing: its content is gone" in next(found).found
    assert not list(found)
