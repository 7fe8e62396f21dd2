"""`pier system fsck`: what the database and the disk do not agree about is said, and mended where it can be."""

import io
import json
import os
import shutil
import sqlite3
import stat
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pierhead.driver.networkdriver.marks import group
from tests.harness.api import Api, UnixConnection
from tests.harness.engines import Pierd, mounts_below
from tests.harness.engines import engine as started_engine
from tests.harness.images import busybox_rootfs, compressed, digest, docker_archive, oci_archive, tar
from tests.harness.processes import run, wait_until
from tests.harness.registry import stalling_registry

pytestmark = pytest.mark.only_pierhead("fsck is ours")

ID = "ab" * 32


@pytest.fixture(scope="module")
def shared() -> Iterator[Pierd]:
    with started_engine("pierd", ("--mend-networks=false",)) as made:
        assert isinstance(made, Pierd)
        yield made


@pytest.fixture
def pierd(shared: Pierd) -> Iterator[Pierd]:
    yield shared
    shared.forget()
    assert fsck(shared) == [], "every test leaves the disk as the database says"


def fsck(pierd: Pierd, **query: int) -> list[dict[str, Any]]:
    """The differences; what the result says of them is checked on the way."""
    records = pierd.api.ok("POST", "/system/fsck", **query).records
    found = [record["Difference"] for record in records if "Difference" in record]
    left = sum(not difference["Mended"] for difference in found)
    assert records[-1] == {"Result": {"Found": len(found), "Left": left}}
    return found


def said(found: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(difference["Kind"], difference["Area"]) for difference in found}


def mended(pierd: Pierd, *expected: tuple[str, str], deep: int = 0) -> None:
    """Exactly these are said, twice the same (looking changes nothing); then all are mended."""
    first = fsck(pierd, deep=deep)
    assert said(first) == set(expected), first
    assert fsck(pierd, deep=deep) == first
    repaired = fsck(pierd, deep=deep, repair=1)
    assert all(difference["Mended"] for difference in repaired), repaired
    assert fsck(pierd, deep=deep) == []


def sql(pierd: Pierd, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(pierd.data_root / "graph.db", timeout=20, isolation_level=None)) as db:
        return db.execute(statement, values).fetchall()


def create(pierd: Pierd, name: str, **config: object) -> str:
    """A container that is not started."""
    return pierd.api.create(name=name, **{"Cmd": ["sleep", "1000"], **config})


def layer_of(pierd: Pierd, container: str) -> Path:
    (cache_id,) = sql(pierd, "SELECT layer_id FROM container WHERE id = ?", container)[0]
    return pierd.data_root / "overlay2" / cache_id


def import_image(pierd: Pierd, name: str, files: dict[str, bytes | str]) -> str:
    """Its layer's cache id."""
    return import_archive(pierd, name, tar(files))


def import_archive(pierd: Pierd, name: str, archive: bytes) -> str:
    """The same."""
    path = f"/images/create?fromSrc=-&repo={quote(name)}&tag=1"
    id = pierd.api.ok("POST", path, raw=archive, content_type="application/x-tar").records[-1]["status"]
    return str(sql(pierd, "SELECT cache_id FROM layer JOIN image ON top = chain_id WHERE id = ?", id)[0][0])


# -- what nothing needs -----------------------------------------------------------------------------------------------


def test_what_nothing_needs_is_said_and_deleted(pierd: Pierd) -> None:
    data = pierd.data_root
    (data / "overlay2" / ID / "diff").mkdir(parents=True)
    (data / "overlay2" / ID / "diff" / "file").write_bytes(bytes(10_000))
    mended(pierd, ("leftover", "layer"))
    os.symlink(f"../{ID}/diff", data / "overlay2/l/AAAAAAAA")
    mended(pierd, ("leftover", "short name"))
    (data / "split" / ID).write_text("x")
    (data / "tmp" / "spool").mkdir()
    (data / "tmp" / "spool" / "file").write_text("x")
    mended(pierd, ("leftover", "layer"), ("leftover", "scratch"))
    (data / "containers" / ID).mkdir()
    (data / "containers" / ID / f"{ID}-json.log").write_text("x")
    mended(pierd, ("leftover", "container"))
    (pierd.exec_root / "containers" / ID).mkdir()
    mended(pierd, ("leftover", "run"))
    for left in ("overlay2", "split", "tmp", "containers"):
        assert ID not in os.listdir(data / left)


def test_mounts_that_nobody_needs_are_unmounted_and_nothing_in_them_is_touched(pierd: Pierd, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    place = pierd.data_root / "overlay2" / ID / "diff"
    place.mkdir(parents=True)
    run(["mount", "--bind", str(tmp_path), str(place)]).check()
    mended(pierd, ("leftover", "mount"), ("leftover", "layer"))
    options = {"type": "none", "o": "bind", "device": str(tmp_path)}
    pierd.api.ok("POST", "/volumes/create", {"Name": "bound", "DriverOpts": options})
    run(["mount", "--bind", str(tmp_path), str(pierd.data_root / "volumes/bound/_data")]).check()
    mended(pierd, ("leftover", "mount"))
    assert (tmp_path / "precious").read_text() == "x"


def test_a_volume_that_was_unmounted_under_its_container_is_mounted_again(pierd: Pierd, tmp_path: Path) -> None:
    options = {"type": "none", "o": "bind", "device": str(tmp_path)}
    pierd.api.ok("POST", "/volumes/create", {"Name": "bound", "DriverOpts": options})
    id = create(pierd, "user", HostConfig={"Binds": ["bound:/v"]})
    pierd.api.ok("POST", f"/containers/{id}/start")
    run(["umount", str(pierd.data_root / "volumes/bound/_data")]).check()
    mended(pierd, ("missing", "mount"))
    assert mounts_below(pierd.root) == [str(pierd.data_root / "volumes/bound/_data")]


# -- volumes ----------------------------------------------------------------------------------------------------------


def test_a_volume_that_the_database_has_lost_comes_back_with_its_files(pierd: Pierd) -> None:
    home = pierd.data_root / "volumes"
    (home / "lost" / "_data").mkdir(parents=True)
    (home / "lost" / "_data" / "file").write_text("precious")
    (home / "empty" / "_data").mkdir(parents=True)
    mended(pierd, ("leftover", "volume"))
    assert [volume["Name"] for volume in pierd.api.get("/volumes")["Volumes"]] == ["lost"]
    assert (home / "lost" / "_data" / "file").read_text() == "precious" and not (home / "empty").exists()
    (home / "stranger").write_text("not ours")
    found = fsck(pierd, repair=1)
    assert said(found) == {("leftover", "volume")} and not found[0]["Mended"] and "not touched" in found[0]["Repair"]
    assert (home / "stranger").read_text() == "not ours"
    (home / "stranger").unlink()


def test_a_volume_whose_folder_is_gone_is_said_to_be_and_can_be_used_again(pierd: Pierd) -> None:
    pierd.api.ok("POST", "/volumes/create", {"Name": "gone"})
    shutil.rmtree(pierd.data_root / "volumes/gone")
    mended(pierd, ("missing", "volume"))
    id = create(pierd, "user", HostConfig={"Binds": ["gone:/v"]}, Cmd=["touch", "/v/file"])
    pierd.api.ok("POST", f"/containers/{id}/start")
    pierd.api.ok("POST", f"/containers/{id}/wait")
    assert (pierd.data_root / "volumes/gone/_data/file").exists()


# -- what nobody is at any more ---------------------------------------------------------------------------------------


def test_what_was_half_made_or_half_removed_is_finished(pierd: Pierd) -> None:
    sql(
        pierd,
        "INSERT INTO layer (chain_id, diff_id, cache_id, driver, state) VALUES (?, '', ?, 'overlay2', 'making')",
        f"sha256:making-{ID}",
        ID,
    )
    (pierd.data_root / "overlay2" / ID / "diff").mkdir(parents=True)
    pierd.api.ok("POST", "/volumes/create", {"Name": "half"})
    sql(pierd, "UPDATE volume SET state = 'removing' WHERE name = 'half'")
    making, removing = create(pierd, "making"), create(pierd, "removing")
    sql(pierd, "UPDATE container SET intent = 'create' WHERE id = ?", making)
    sql(pierd, "UPDATE container SET state = 'removing' WHERE id = ?", removing)
    folders = [layer_of(pierd, making), layer_of(pierd, removing), pierd.data_root / "volumes/half"]
    mended(pierd, ("unfinished", "layer"), ("unfinished", "volume"), ("unfinished", "container"))
    assert not any(folder.exists() for folder in folders) and pierd.api.get("/containers/json", all=1) == []


# -- networks ---------------------------------------------------------------------------------------------------------


def test_what_was_done_to_networks_is_said_and_mended(pierd: Pierd) -> None:
    options = {"com.docker.network.bridge.name": "br-fsck"}
    pierd.api.ok("POST", "/networks/create", {"Name": "fsck", "Options": options})
    bindings = {"80/tcp": [{"HostPort": "8081"}]}
    id = pierd.api.run("sleep", "1000", name="web", HostConfig={"NetworkMode": "fsck", "PortBindings": bindings})
    host, table, mark = pierd.host, f"inet pierhead-{pierd.instance}", str(group(pierd.instance))
    host.run("ip", "link", "add", "astray", "group", mark, "up", "type", "bridge").check()
    mended(pierd, ("leftover", "interface"))
    for harm in ("ip link delete br-fsck", f"nft flush map {table} any4", f"nft delete table {table}"):
        host.run("sh", "-c", harm).check()
        mended(pierd, ("damaged", "network"))
    sql(pierd, "UPDATE endpoint SET active = 1 WHERE container_id = ?", create(pierd, "ended"))
    mended(pierd, ("unfinished", "container"))
    (end,) = (name for name in host.interfaces() if name.startswith("veth"))
    host.run("ip", "link", "delete", end).check()
    (lost,) = fsck(pierd, repair=1)
    assert (lost["Kind"], lost["Area"], lost["Mended"]) == ("missing", "endpoint", False)
    assert f"{end}, the link of container web to network fsck" in lost["Found"], lost
    assert "pier restart web" in lost["Repair"]
    pierd.pier("restart", "-t", "0", "web").check()
    assert fsck(pierd) == []
    pierd.api.ok("DELETE", f"/containers/{id}", force=1)
    sql(pierd, "UPDATE network SET state = 'removing' WHERE name = 'fsck'")
    mended(pierd, ("unfinished", "network"))
    assert "br-fsck" not in host.interfaces()


# -- containers and layers --------------------------------------------------------------------------------------------


def test_a_container_starts_again_after_its_folder_or_its_notes_were_lost(pierd: Pierd) -> None:
    id = create(pierd, "web")
    layer = layer_of(pierd, id)
    shutil.rmtree(pierd.data_root / "containers" / id)
    mended(pierd, ("missing", "container"))
    (layer / "parent").write_text("nonsense")
    mended(pierd, ("damaged", "layer"))
    (layer / "work").rmdir()
    mended(pierd, ("missing", "layer"))
    below = layer.parent / (layer / "parent").read_text()
    (layer.parent / "l" / (below / "link").read_text()).unlink()
    mended(pierd, ("missing", "layer"))
    (below / "link").unlink()
    mended(pierd, ("missing", "layer"))
    pierd.api.ok("POST", f"/containers/{id}/start")


def test_folders_of_the_data_root_that_somebody_has_deleted_are_made_again(pierd: Pierd) -> None:
    root, id = pierd.data_root, create(pierd, "web")
    for name, *expected in (
        ("tmp", ("missing", "folder")),
        ("blobs", ("missing", "folder")),
        ("containers", ("missing", "container")),
        ("overlay2/skeleton", ("missing", "folder")),
        ("overlay2/l", ("missing", "folder"), ("missing", "layer")),
    ):
        shutil.rmtree(root / name)
        mended(pierd, *expected)
    pierd.api.ok("POST", f"/containers/{id}/start")
    (root / "split").rename(root / "apart")
    assert ("missing", "folder") in said(fsck(pierd, repair=1))
    (root / "split").rmdir()
    (root / "apart").rename(root / "split")


def test_layers_find_each_other_again_after_their_chain_was_damaged(pierd: Pierd) -> None:
    import_image(pierd, "base", {"base": "x"})
    id = create(pierd, "below", image="base:1", Cmd=["/none"])
    pierd.api.ok("PUT", f"/containers/{id}/archive?path=/", raw=tar({"above": "y"}), content_type="application/x-tar")
    pierd.api.ok("POST", "/commit", {}, container=id, repo="above", tag="1")
    pierd.api.ok("DELETE", f"/containers/{id}")
    layer = layer_of(pierd, create(pierd, "over", image="above:1", Cmd=["/none"]))
    above = layer.parent / (layer / "parent").read_text()
    (above / "lower").write_text("NONSENSE")
    (above / "parent").unlink()
    mended(pierd, ("damaged", "layer"), ("missing", "layer"))
    archive = pierd.api.ok("GET", "/containers/over/export").body
    assert b"above" in archive and b"base" in archive
    pierd.api.ok("DELETE", "/containers/over")
    pierd.api.ok("DELETE", "/images/above:1")
    pierd.api.ok("DELETE", "/images/base:1")


def test_the_loss_of_a_layer_names_who_has_it_and_what_helps(pierd: Pierd) -> None:
    cache_id = import_image(pierd, "lossy", {"file": "x"})
    create(pierd, "victim", image="lossy:1", Cmd=["/none"])
    shutil.rmtree(pierd.data_root / "overlay2" / cache_id)
    found = [difference for difference in fsck(pierd, repair=1) if not difference["Mended"]]
    assert said(found) == {("missing", "layer")}, found
    assert "image lossy:1 and container victim" in found[0]["Found"]
    assert "pier rm victim; pier rmi lossy:1; pier pull lossy:1" in found[0]["Repair"]
    pierd.api.ok("DELETE", "/containers/victim")
    pierd.api.ok("DELETE", "/images/lossy:1")


def test_the_commands_that_are_named_bring_a_lost_layer_back(pierd: Pierd) -> None:
    images = [busybox_rootfs(), tar({"etc/pulled": "over the wire"})]
    with stalling_registry(pierd.host, images, stalls=0) as registry, ThreadPoolExecutor() as pool:
        name, tag = registry.image.rsplit(":", 1)
        pulling = pool.submit(pierd.api.ok, "POST", "/images/create", fromImage=name, tag=tag)
        wait_until(lambda: any(pierd.data_root.glob("overlay2/*/diff/etc/pulled")), "the upper layer")
        assert fsck(pierd, deep=1, repair=1) == [], "what is being pulled is no difference, finished or not"
        registry.go.set()
        pulling.result()
        create(pierd, "victim", image=registry.image)
        (file,) = pierd.data_root.glob("overlay2/*/diff/etc/pulled")
        shutil.rmtree(file.parents[2])
        (lost,) = (difference for difference in fsck(pierd, repair=1) if not difference["Mended"])
        commands = lost["Repair"].partition("anew: ")[2].split("; ")
        assert len(commands) == 3
        for command in commands:
            pierd.pier(*command.split()[1:]).check()
        assert fsck(pierd, deep=1) == []
        assert pierd.pier("run", "--rm", registry.image, "cat", "/etc/pulled").stdout == "over the wire"
        pierd.api.ok("DELETE", f"/images/{registry.image}")


def test_a_container_without_its_files_is_said_to_be_lost(pierd: Pierd) -> None:
    id = create(pierd, "victim")
    shutil.rmtree(layer_of(pierd, id))
    found = fsck(pierd, repair=1)
    assert (
        said(found) == {("missing", "container")} and not found[0]["Mended"] and "pier rm victim" in found[0]["Repair"]
    )


# -- digests ----------------------------------------------------------------------------------------------------------


def test_a_changed_byte_in_a_layer_is_found_by_its_digest(pierd: Pierd) -> None:
    assert fsck(pierd, deep=1) == []
    cache_id = import_image(pierd, "rotten", {"file": "what it was"})
    path = pierd.data_root / "overlay2" / cache_id / "diff/file"
    path.write_text("what it is!")
    assert fsck(pierd) == []
    found = fsck(pierd, deep=1, repair=1)
    assert said(found) == {("damaged", "layer")} and "image rotten:1" in found[0]["Found"]
    path.unlink()
    found = fsck(pierd, deep=1)
    assert said(found) == {("damaged", "layer")} and "no such file" in found[0]["Found"]
    pierd.api.ok("DELETE", "/images/rotten:1")


def test_kept_blobs_are_compared_and_a_damaged_one_goes(pierd: Pierd) -> None:
    folder = pierd.data_root / "blobs/sha256"
    layers = (tar({"one": "1"}), tar({"two": "2"}))
    pierd.api.ok(
        "POST", "/images/load", raw=oci_archive(layers, "docker.io/library/kept:1"), content_type="application/x-tar"
    )
    first, second = (folder / digest(compressed(layer))[7:] for layer in layers)
    assert {first, second} == set(folder.iterdir())
    (folder / ID).write_text("x")
    mended(pierd, ("leftover", "blob"))
    sql(pierd, "UPDATE content SET state = 'making' WHERE digest LIKE ?", f"%{first.name}")
    mended(pierd, ("unfinished", "blob"))
    assert not first.exists()
    came = second.read_bytes()
    second.write_bytes(came[:-1])
    (found,) = fsck(pierd)
    assert f"has {len(came) - 1} bytes, and had {len(came)} when it came" in found["Found"]
    second.write_bytes(b"?" + came[1:])
    assert fsck(pierd) == []
    assert said(fsck(pierd, deep=1, repair=1)) == {("damaged", "blob")} and not second.exists()
    pierd.api.ok("DELETE", "/images/kept:1")


def test_what_has_no_content_to_be_digested_is_compared_as_well(pierd: Pierd) -> None:
    files: dict[str, bytes | str] = {"folder/empty": "", "folder/none": "", "secret": "x", "file": "x"}
    diff = pierd.data_root / "overlay2" / import_image(pierd, "rotten", files) / "diff"
    (diff / "folder/empty").unlink()
    (diff / "secret").chmod(0o4666)
    (diff / "folder/added").write_text("x")
    (diff / "folder/none").unlink()
    (diff / "folder/none").mkdir()
    (found,) = fsck(pierd, deep=1)
    assert (
        "folder/empty is missing; folder/none has become something else; secret has mode 4666, not 644 and 1 more"
        in (found["Found"])
    )
    (diff / "folder/none").rmdir()
    for name in ("folder/empty", "folder/none"):
        (diff / name).touch()
        os.utime(diff / name, (1_700_000_000, 1_700_000_000))  # as in every archive of the tests
    (diff / "secret").chmod(0o644)
    (found,) = fsck(pierd, deep=1)
    assert "folder/added was not in the archive" in found["Found"]
    (diff / "folder/added").unlink()
    assert fsck(pierd, deep=1) == []
    pierd.api.ok("DELETE", "/images/rotten:1")


def test_what_a_layer_hides_is_compared_as_well(pierd: Pierd) -> None:
    lower = tar({"gone": "1", "kept": "2", "twice": "3", "d/a": "4", "e/a": "5"})
    upper = tar(
        {".wh.gone": "", "twice": "new", ".wh.twice": "", "d/.wh..wh..opq": "", "e/.wh.a": "", ".wh..wh.plnk": ""}
    )
    archive = docker_archive((lower, upper), ("hiding:1",))
    pierd.api.ok("POST", "/images/load", raw=archive, content_type="application/x-tar")
    assert fsck(pierd, deep=1) == []
    diff = Path(pierd.api.get("/images/hiding:1/json")["GraphDriver"]["Data"]["UpperDir"])
    (diff / "gone").unlink()
    os.mknod(diff / "kept", stat.S_IFCHR)
    (found,) = fsck(pierd, deep=1)
    assert "gone of the layers below is not hidden any more; kept of the layers below is hidden" in found["Found"]
    (diff / "kept").unlink()
    os.mknod(diff / "gone", stat.S_IFCHR)
    assert fsck(pierd, deep=1) == []
    pierd.api.ok("DELETE", "/images/hiding:1")


def test_folders_that_no_header_names_and_marks_are_compared_and_mended(pierd: Pierd) -> None:
    lower = tar({"d/a": "1", "e/f/a": "2", "g/a": "3"})
    upper = tar({"d/.wh..wh..opq": "", "d/b": "1", "e/f/b": "2", "g/b": "3", "new/c": "4"})
    archive = docker_archive((lower, upper), ("hiding:1",))
    pierd.api.ok("POST", "/images/load", raw=archive, content_type="application/x-tar")
    # A committed layer has the marks that overlayfs itself has set, and tells nothing of its top.
    make = "chmod 700 /; rm -r /home /root; mkdir /home; touch /home/x; chown 5:6 /usr; touch /usr/y"
    pierd.pier("run", "--name", "made", "busybox", "sh", "-c", make).check()
    pierd.pier("commit", "made", "hiding:2").check()
    pierd.pier("rm", "made").check()
    assert fsck(pierd, deep=1) == []
    diff = Path(pierd.api.get("/images/hiding:1/json")["GraphDriver"]["Data"]["UpperDir"])
    diff.chmod(0o777)
    os.chown(diff / "e", 7, 8)
    os.removexattr(diff / "d", "trusted.overlay.opaque")
    os.setxattr(diff / "g", "trusted.overlay.opaque", b"y")
    (found,) = fsck(pierd, deep=1)
    assert "/ has mode 777, not 755; e is owned by 7:8, not 0:0; d does not hide any more" in found["Found"]
    mended(pierd, ("damaged", "layer"), deep=1)
    assert diff.stat().st_mode == stat.S_IFDIR | 0o755 and os.getxattr(diff / "d", "trusted.overlay.opaque") == b"y"
    committed = Path(pierd.api.get("/images/hiding:2/json")["GraphDriver"]["Data"]["UpperDir"])
    os.removexattr(committed / "home", "trusted.overlay.opaque")
    (committed / "usr").chmod(0o700)
    mended(pierd, ("damaged", "layer"), deep=1)
    pierd.api.ok("DELETE", "/images/hiding:1")
    pierd.api.ok("DELETE", "/images/hiding:2")


def test_whose_a_file_is_since_when_and_what_it_may_is_compared_as_well(pierd: Pierd) -> None:
    buffer = io.BytesIO()
    kinds = {"file": tarfile.REGTYPE, "twin": tarfile.LNKTYPE, "link": tarfile.SYMTYPE, "pipe": tarfile.FIFOTYPE}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind in kinds.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.uid, entry.gid, entry.mtime = kind, "file" * (name != "file"), 7, 8, 1e9
            entry.size, entry.mode = len(b"text") * (name == "file"), 0o640
            if name == "file":
                marks = ("overlay.opaque", "fuseoverlayfs.origin")  # which are nobody's damage
                entry.pax_headers = {f"SCHILY.xattr.user.{key}": "yes" for key in ("kept", *marks)}
            archive.addfile(entry, io.BytesIO(b"text"))
    diff = pierd.data_root / "overlay2" / import_archive(pierd, "rotten", buffer.getvalue()) / "diff"
    assert fsck(pierd, deep=1) == []
    os.chown(diff / "file", 1000, 8)
    os.setxattr(diff / "file", "user.kept", b"no")
    os.utime(diff / "pipe", (1e9 + 60, 1e9 + 60))
    (found,) = fsck(pierd, deep=1)
    assert (
        "file is owned by 1000:8, not 7:8; file has another attribute user.kept; "
        "pipe was changed at 2001-09-09T01:47:40Z, not 2001-09-09T01:46:40Z" in found["Found"]
    ), found["Found"]
    mended(pierd, ("damaged", "layer"), deep=1)
    now = os.stat(diff / "file")
    assert (now.st_uid, now.st_gid, now.st_mtime, os.getxattr(diff / "file", "user.kept")) == (7, 8, 1e9, b"yes")
    may_all = struct.pack("<IIIII", 0x02000001, 0xFFFFFFFF, 0, 0xFFFFFFFF, 0)  # VFS_CAP_REVISION_2, effective
    os.setxattr(diff / "file", "security.capability", may_all)
    (diff / "link").unlink()
    os.symlink("/etc/shadow", diff / "link")
    os.chown(diff / "link", 7, 8, follow_symlinks=False)
    os.utime(diff / "link", (1e9, 1e9), follow_symlinks=False)
    (diff / "twin").unlink()
    (diff / "twin").write_text("another")
    (found,) = fsck(pierd, deep=1)
    for words in (
        *("file has another attribute security.capability", "link leads to /etc/shadow, not file"),
        "twin is not file under another name any more",
    ):
        assert words in found["Found"], found["Found"]
    pierd.api.ok("DELETE", "/images/rotten:1")


# -- beside everything else -------------------------------------------------------------------------------------------


def test_what_is_being_done_at_the_moment_is_no_difference(pierd: Pierd) -> None:
    done = threading.Event()
    failures: list[str] = []
    rounds = [0, 0, 0]

    def busy(number: int, work: Callable[[Api, str], None]) -> None:
        api = Api(pierd.socket)
        try:
            while not done.is_set():
                work(api, f"b{number}")
                rounds[number] += 1
        except Exception as error:
            failures.append(repr(error))

    def containers(api: Api, name: str) -> None:
        body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}, "Volumes": {"/v": {}}}
        api.ok("POST", "/containers/create", body, name=name)
        api.ok("POST", f"/containers/{name}/start")
        api.ok("DELETE", f"/containers/{name}", force=1, v=1)

    def images(api: Api, name: str) -> None:
        path = f"/images/create?fromSrc=-&repo={name}&tag=1"
        api.ok("POST", path, raw=tar({"file": os.urandom(100_000)}), content_type="application/x-tar")
        api.ok("DELETE", f"/images/{name}:1")

    def volumes(api: Api, name: str) -> None:
        api.ok("POST", "/volumes/create", {"Name": name})
        api.ok("DELETE", f"/volumes/{name}")

    threads = [threading.Thread(target=busy, args=(n, w)) for n, w in enumerate((containers, images, volumes))]
    for thread in threads:
        thread.start()
    try:
        compared = 0
        while compared < 30 or min(rounds) < 8:
            assert fsck(pierd, repair=compared % 2) == [] and not failures
            compared += 1
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_a_client_that_goes_away_ends_the_comparison(pierd: Pierd) -> None:
    import_image(pierd, "large", {f"file{n}": os.urandom(4_000_000) for n in range(12)})
    with closing(UnixConnection(pierd.socket)) as connection:
        connection.request("POST", "/system/fsck?deep=1")
        assert b"Progress" in connection.getresponse().readline()
    wait_until(
        lambda: not any("fsck" in job["name"] and job["duration"] is None for job in pierd.api.get("/pierhead/jobs")),
        "the end of the comparison",
    )
    pierd.api.ok("DELETE", "/images/large:1")


def test_pier_says_differences_in_sentences_and_has_a_status(pierd: Pierd) -> None:
    clean = pierd.pier("system", "fsck")
    assert (clean.status, clean.stdout) == (0, "No differences.\n"), clean
    (pierd.data_root / "split" / ID).write_text("x")
    found = pierd.pier("system", "fsck")
    assert found.status == 1 and "with --repair it is deleted" in found.stdout and "1 left" in found.stdout, found
    as_json = [json.loads(line) for line in pierd.pier("system", "fsck", "--format", "json").stdout.splitlines()]
    assert as_json[0]["Kind"] == "leftover" and as_json[-1] == {"Found": 1, "Left": 1}
    repaired = pierd.pier("system", "fsck", "--repair", "--deep")
    assert repaired.status == 0 and "1 difference, 1 mended, 0 left." in repaired.stdout, repaired


def test_the_daemons_start_mends_the_same(pierd: Pierd) -> None:
    pierd.api.ok("POST", "/volumes/create", {"Name": "half"})
    gone = create(pierd, "gone")
    pierd.stop()
    sql(pierd, "UPDATE volume SET state = 'removing' WHERE name = 'half'")
    shutil.rmtree(pierd.data_root / "containers" / gone)
    for place in ("overlay2", "split", "tmp", "containers", "volumes"):
        (pierd.data_root / place / ID).mkdir()
    (pierd.data_root / "volumes" / ID / "_data").mkdir()
    pierd.start()
    assert fsck(pierd) == []
    with suppress(FileNotFoundError):
        assert pierd.api.get("/containers/gone/json")["State"]["Status"] == "created"
