"""Images and layers on a real disk: shared, loaded, saved, lied about, interrupted; and every byte given back."""

import bz2
import contextlib
import gc
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from backports import zstd

from pierhead.driver.graphdriver.overlay import OverlayDriver
from pierhead.driver.graphdriver.vfs import VfsDriver
from pierhead.errors import Conflict, InvalidParameter, NotFound, PierheadError
from pierhead.graph import committing, loading, saving
from pierhead.graph.comparison import compare
from pierhead.graph.graph import Graph, Image
from pierhead.graph.graphdb import GraphDB
from pierhead.graph.holdings import holdings
from pierhead.graph.image import chain_ids, parse_config
from pierhead.graph.importing import import_rootfs
from pierhead.manifest import DOCKER_LAYER_GZIP
from pierhead.reference import parse
from tests.harness.archives import archive, device, file, folder, hardlink, opaque, symlink, whiteout
from tests.harness.images import compressed, config_of, digest, docker_archive, oci_archive, tar

LAYERS = [
    archive(folder("etc"), file("etc/one", "1"), file("etc/two", "2"), hardlink("etc/three", "etc/two")),
    archive(whiteout("etc/one"), file("big", b"x" * 300_000), symlink("l", "big"), file("a" * 150, "long")),
    archive(folder("etc"), opaque("etc"), file("etc/new", "3"), file("\udcff", "odd")) + bytes(20480),
]


@dataclass
class Store:
    root: Path
    db: GraphDB
    graph: Graph

    def load(self, data: bytes) -> list[loading.Loaded]:
        with open(self.root / "archive", "wb+", buffering=0) as spool:
            os.unlink(self.root / "archive")
            spool.write(data)
            # Several layers at a time; the daemon's default, one, is what the tests of the API have.
            return loading.load(self.graph, spool.fileno(), lambda *progress: None, parallel=3)

    def save(self, *names: str) -> bytes:
        chosen = saving.choose(self.graph, [(self.graph.tags.get(parse(name)) or name, parse(name)) for name in names])
        return b"".join(saving.save(self.graph, chosen))

    def left(self) -> set[str]:
        """What is on disk of layers."""
        return {
            str(path.relative_to(self.root))
            for place in ("overlay2", "vfs", "split", "tmp")
            for path in (self.root / place).glob("*")
        } - {"overlay2/l", "overlay2/empty", "overlay2/skeleton", "overlay2/places"} | {
            f"l/{name}" for name in os.listdir(self.root / "overlay2/l")
        }

    def again(self) -> "Store":
        """As after a restart of the daemon."""
        self.db.close()
        return store_in(self.root)


def store_in(root: Path, driver: type[OverlayDriver] | type[VfsDriver] = OverlayDriver) -> Store:
    made = driver(str(root))
    OverlayDriver(str(root)).probe()
    made.probe()
    db = GraphDB(str(root / "graph.db"))
    return Store(root, db, Graph(db, made, str(root)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = store_in(tmp_path)
    yield made
    made.db.close()


@pytest.mark.parametrize(
    "compress", [None, gzip.compress, zstd.compress, "bz2", "xz"], ids=["plain", "gzip", "zstd", "bz2", "xz"]
)
def test_a_root_file_system_becomes_an_image(store: Store, compress: object) -> None:
    pack = {"bz2": bz2.compress, "xz": lzma.compress}.get(str(compress), compress)
    data = pack(LAYERS[0]) if callable(pack) else LAYERS[0]
    image = import_rootfs(store.graph, io.BytesIO(data), b'{"Cmd": ["x"]}', "a message")
    assert image.config.diff_ids == [digest(LAYERS[0])] and image.config.comment == "a message"
    assert image.id == digest(image.raw) and image.size == 2
    assert b"".join(store.graph.archive(store.graph.chain(image)[0])) == LAYERS[0]
    store.graph.delete_image(image.id)
    assert store.left() == set()


@pytest.mark.parametrize("driver", [OverlayDriver, VfsDriver], ids=["overlay2", "vfs"])
def test_layers_are_saved_byte_for_byte(tmp_path: Path, driver: type[OverlayDriver] | type[VfsDriver]) -> None:
    store = store_in(tmp_path, driver)
    loaded = store.load(docker_archive(LAYERS, ["x:1"]))[0]
    data = store.save("x:1")
    with tarfile.open(fileobj=io.BytesIO(data)) as saved:
        names = saved.getnames()
        for layer in LAYERS:
            member = saved.extractfile("blobs/sha256/" + digest(layer)[7:])
            assert member is not None and member.read() == layer
        index = json.load(cast("BinaryIO", saved.extractfile("index.json")))
        assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == "docker.io/library/x:1"
    assert {"oci-layout", "manifest.json", "index.json", "repositories"} <= set(names)
    store.graph.delete_image(loaded.image.id)
    assert store.left() == set()
    assert store.load(data)[0].image.id == loaded.image.id
    store.db.close()


@pytest.mark.parametrize("driver", [OverlayDriver, VfsDriver], ids=["overlay2", "vfs"])
def test_whatever_an_archive_holds_its_layer_is_found_whole(
    tmp_path: Path, driver: type[OverlayDriver] | type[VfsDriver]
) -> None:
    odd = [
        archive(folder("d"), file("d"), file("f"), folder("f"), file("f/y", "1")),
        archive(
            symlink("bin", "usr/bin"), folder("usr"), folder("usr/bin"), file("bin/sh", "x"), hardlink("h", "bin/sh")
        ),
        archive(file("gone"), whiteout("gone"), whiteout("usr/bin/sh"), file("usr/bin/sh"), file("set", mode=0o4755)),
        archive(
            device("null", 1, 3),
            device("pipe", 0, 0, tarfile.FIFOTYPE),
            file("deep/er/est", "x"),
            folder("deep", 0o700),
        ),
        archive(folder(".", 0o711), opaque("usr"), file("usr/new"), file("same"), file("same", "2")),
    ]
    store = store_in(tmp_path, driver)
    store.load(docker_archive([*LAYERS, *odd], ["x:1"]))
    assert list(compare(store.graph, deep=True)) == []
    store.db.close()


def test_what_was_saved_is_also_an_oci_layout(store: Store) -> None:
    id = store.load(docker_archive(LAYERS, ["x:1", "y:2"]))[0].image.id
    data = store.save("x:1", "y:2")
    store.graph.delete_image(id)
    with tarfile.open(fileobj=io.BytesIO(data)) as saved:
        files = {
            member.name: cast("BinaryIO", saved.extractfile(member)).read()
            for member in saved.getmembers()
            if member.isreg() and member.name not in ("manifest.json", "repositories")
        }
    found = store.load(tar(files))
    assert {one.image.id for one in found} == {id}
    assert [str(name) for name in store.graph.tags.of(id)] == ["docker.io/library/x:1", "docker.io/library/y:2"]


def test_layers_are_shared_and_kept_for_the_other_image(store: Store) -> None:
    one = store.load(docker_archive(LAYERS[:2], ["one:1"]))[0].image
    two = store.load(docker_archive(LAYERS, ["two:1"]))[0].image
    assert len(list(store.graph.driver.list())) == 3
    held = holdings(store.graph)
    assert {id: image.shared for id, image in held.images.items()} == {one.id: one.size, two.id: one.size}
    removed, freed = store.graph.delete_image(two.id)
    assert removed == chain_ids(two.config.diff_ids)[2:] and freed > 0
    assert store.graph.delete_image(one.id)[0] == chain_ids(one.config.diff_ids)[::-1]
    assert store.left() == set()


def test_a_name_that_moves_leaves_the_old_image_without_one(store: Store) -> None:
    old = store.load(docker_archive(LAYERS[:1], ["x:1"]))[0].image
    new = store.load(docker_archive(LAYERS[:2], ["x:1"]))[0]
    assert new.moved == ((parse("x:1"), old.id),) and store.graph.tags.of(old.id) == []


def saved_with(layers: list[bytes], **changes: object) -> bytes:
    """A docker archive whose manifest.json says something else."""
    config = config_of(layers)
    entry = {"Config": "config.json", "RepoTags": ["lie:1"], "Layers": [f"{n}.tar" for n in range(len(layers))]}
    files = {"config.json": config, **{f"{n}.tar": layer for n, layer in enumerate(layers)}}
    return tar({**files, "manifest.json": json.dumps([entry | changes])})


def oci_with(change: str) -> bytes:
    """An OCI layout with a lie in it."""
    with tarfile.open(fileobj=io.BytesIO(oci_archive(LAYERS[:1], "lie:1"))) as good:
        files = {member.name: cast("BinaryIO", good.extractfile(member)).read() for member in good.getmembers()}
    blobs = [name for name in files if name.startswith("blobs/")]
    layer = next(name for name in blobs if files[name][:2] == b"\x1f\x8b")
    config = next(name for name in blobs if b"diff_ids" in files[name])
    if change == "layer":
        files[layer] = gzip.compress(LAYERS[1])
    elif change == "recompressed":
        files[layer] = gzip.compress(LAYERS[0], 9)[:-1] + b"\0"
    elif change == "config":
        files[config] = files[config].replace(b"linux", b"Linux")
    elif change == "missing":
        del files[layer]
    elif change == "version":
        files["oci-layout"] = b'{"imageLayoutVersion": "9"}'
    elif change == "index":
        files["index.json"] = b"[]"
    return tar(files)


LIES: dict[str, bytes] = {
    "another diff id": docker_archive(LAYERS[:1], ["lie:1"], config_of([b"something else"])),
    "second layer": docker_archive(LAYERS[:2], ["lie:1"], config_of([LAYERS[0], b"something else"])),
    "too few layers": saved_with(LAYERS[:2], Layers=["0.tar"]),
    "too many layers": saved_with(LAYERS[:1], Layers=["0.tar", "0.tar"]),
    "config outside": saved_with([], Config="../../../../etc/passwd"),
    "layer outside": saved_with(LAYERS[:1], Layers=["../../../etc/passwd"]),
    "config digest": tar(
        {"a" * 64 + ".json": config_of([]), "manifest.json": json.dumps([{"Config": "a" * 64 + ".json"}])}
    ),
    "bad tag": saved_with(LAYERS[:1], RepoTags=["Not A Tag"]),
    "tag without a tag": saved_with(LAYERS[:1], RepoTags=["x"]),
    "tags as text": saved_with(LAYERS[:1], RepoTags="x:1"),
    "no image": tar({"manifest.json": "[]"}),
    "nothing": tar({"x": "y"}),
    "no json": tar({"manifest.json": "{"}),
    "deep json": tar({"manifest.json": "[" * 200_000}),
    "no tar": b"this is no tar" * 100,
    "cut": docker_archive(LAYERS, ["lie:1"])[:-400_000],
    "escaping layer": docker_archive([archive(file("../../../escape", "x"))], ["lie:1"]),
    "second layer escapes": docker_archive([LAYERS[0], archive(file("../../../escape", "x"))], ["lie:1"]),
    "same file twice": docker_archive([archive(file("x", "1"), file("x", "2"))], ["lie:1"]),
    "link chain": archive(*[symlink(f"l{n}", f"l{n + 1}") for n in range(20)], symlink("manifest.json", "l0")),
    **{f"oci {what}": oci_with(what) for what in ("layer", "recompressed", "config", "missing", "version", "index")},
}


@pytest.mark.parametrize("lie", LIES)
def test_an_archive_that_lies_changes_nothing_and_leaves_nothing(store: Store, lie: str) -> None:
    with pytest.raises(InvalidParameter):
        store.load(LIES[lie])
    assert store.graph.images() == [] and store.graph.tags.all() == {} and store.left() == set()
    assert store.db.all("SELECT * FROM layer") == []


def test_of_several_images_all_or_none_are_loaded(store: Store) -> None:
    good, bad = config_of(LAYERS[:1]), config_of([b"else"])
    manifest = [
        {"Config": "good", "RepoTags": ["good:1"], "Layers": ["layer"]},
        {"Config": "bad", "RepoTags": ["bad:1"], "Layers": ["layer"]},
    ]
    data = tar({"good": good, "bad": bad, "layer": LAYERS[0], "manifest.json": json.dumps(manifest)})
    with pytest.raises(InvalidParameter):
        store.load(data)
    assert store.graph.images() == [] and store.left() == set()


@pytest.mark.parametrize(
    "config",
    [
        b"null",
        b"[]",
        b"{}",
        b'{"rootfs": null}',
        b'{"rootfs": {"type": "layers", "diff_ids": ["sha256:../x"]}}',
        b'{"rootfs": {"type": "other", "diff_ids": []}}',
        b'{"rootfs": {"diff_ids": []}, "config": {"Env": "x"}}',
        b'{"rootfs": {"diff_ids": []}, "config": {"Labels": {"a": 1}}}',
        b'{"rootfs": {"diff_ids": []}, "config": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"rootfs": {"diff_ids": []}, "history": 5}',
        b'{"rootfs": {"diff_ids": ' + json.dumps(["sha256:" + "0" * 64] * 451).encode() + b"}}",
        b'{"os": ' + b"9" * 5000 + b"}",
        b"\xff\xfe",
    ],
    ids=range(13),
)
def test_a_configuration_that_is_none_is_refused(config: bytes) -> None:
    with pytest.raises(InvalidParameter):
        parse_config(config)


@pytest.mark.parametrize("driver", [OverlayDriver, VfsDriver])
def test_blobs_of_a_loaded_layout_stay_as_long_as_their_layers(
    tmp_path: Path, driver: type[OverlayDriver] | type[VfsDriver]
) -> None:
    store = store_in(tmp_path, driver)
    (first,) = store.load(oci_archive(LAYERS, "docker.io/library/a:1"))
    store.load(docker_archive(LAYERS[:2], ["b:1"]))
    blobs = {digest(compressed(layer)): digest(layer) for layer in LAYERS}
    assert {kept.digest: kept.diff_id for kept in store.graph.content.all()} == blobs
    assert {kept.media_type for kept in store.graph.content.all()} == {DOCKER_LAYER_GZIP}
    removed, freed = store.graph.delete_image(first.image.id)
    assert len(removed) == 1 and freed > 0, "the others are b's too"
    left = {kept.digest for kept in store.graph.content.all()}
    assert left == {digest(compressed(layer)) for layer in LAYERS[:2]} == on_disk(tmp_path)


def on_disk(root: Path) -> set[str]:
    return {"sha256:" + name for name in os.listdir(root / "blobs/sha256")}


def test_a_crash_at_any_moment_leaves_nothing(store: Store) -> None:
    """Rows and directories as a SIGKILL in the middle of a load, an unpacking and a removal leaves them."""
    kept = store.load(docker_archive(LAYERS[:1], ["kept:1"]))[0].image
    top = store.graph.layer(cast("str", kept.top))
    for state, name in (("making", "a"), ("removing", "b")):
        store.db.execute(
            "INSERT INTO layer (chain_id, diff_id, parent, cache_id, driver, state) "
            "VALUES (?, '', ?, ?, 'overlay2', ?)",
            (f"sha256:{state}-{name}", top.chain_id, name * 64, state),
        )
        store.graph.driver.create(name * 64, top.cache_id)
        (store.root / "split" / (name * 64)).touch()
    store.db.execute(  # ready, but its image was never written
        "INSERT INTO layer (chain_id, diff_id, parent, cache_id, driver, state) "
        "VALUES ('sha256:x', 'x', ?, ?, 'overlay2', 'ready')",
        (top.chain_id, "c" * 64),
    )
    store.graph.driver.create("c" * 64, top.cache_id)
    store.graph.driver.create("d" * 64, None)  # not even a row
    (store.root / "split" / ("d" * 64)).touch()
    (store.root / "tmp" / "spool").mkdir()
    store = store.again()
    mended(store)
    assert list(store.graph.driver.list()) == [top.cache_id] and os.listdir(store.root / "split") == [top.cache_id]
    assert [row["chain_id"] for row in store.db.all("SELECT chain_id FROM layer")] == [top.chain_id]
    assert os.listdir(store.root / "tmp") == [] and len(os.listdir(store.root / "overlay2/l")) == 1
    assert b"".join(store.graph.archive(top)) == LAYERS[0]
    store.db.close()


def test_a_layer_goes_although_who_unpacked_it_is_still_dying(store: Store) -> None:
    id = "a" * 64
    store.db.execute(
        "INSERT INTO layer (chain_id, diff_id, cache_id, driver, state) "
        "VALUES ('sha256:a', '', ?, 'overlay2', 'making')",
        (id,),
    )
    store.graph.driver.create(id, None)
    layer = store.graph.driver.open_layer(id)
    begun = threading.Event()

    def unpack() -> None:
        with contextlib.suppress(FileNotFoundError):  # the folder is gone
            for number in range(5000):
                os.close(os.open(str(number), os.O_WRONLY | os.O_CREAT, dir_fd=layer))
                begun.set()

    unpacking = threading.Thread(target=unpack)
    unpacking.start()
    begun.wait()
    mended(store)
    unpacking.join()
    os.close(layer)
    assert store.left() == set()


def mended(store: Store) -> None:
    """As the daemon's start does it."""
    for difference in compare(store.graph):
        assert difference.mend is not None, difference.found
        difference.mend()


def container_of(store: Store, image: Image, layer_id: str) -> None:
    store.db.execute(
        "INSERT INTO container "
        "(id, name, image_id, image_name, layer_id, driver, config, host_config, path, args, created) "
        "VALUES (?, 'c', ?, 'x', ?, 'overlay2', '{}', '{}', 'x', '[]', 1)",
        ("c" * 64, image.id, layer_id),
    )


def test_a_container_keeps_its_layers_when_its_image_is_forced_away(store: Store) -> None:
    image = store.load(docker_archive(LAYERS, ["x:1"]))[0].image
    container_of(store, image, "w" * 64)
    with pytest.raises(PierheadError, match="just being made"):
        store.graph.delete_image(image.id)
    store.graph.driver.create("w" * 64, store.graph.layer(cast("str", image.top)).cache_id, writable=True)
    with pytest.raises(PierheadError, match="image is being used by stopped container"):
        store.graph.delete_image(image.id)
    (container,) = store.db.all("SELECT id FROM container")
    assert store.graph.delete_image(image.id, {container["id"]}) == ([], 0)
    assert len(list(store.graph.driver.list())) == 4
    store = store.again()
    mended(store)
    assert len(list(store.graph.driver.list())) == 4, "a restart must not take them either"
    assert store.graph.remove_writable("w" * 64) > 300_000
    assert store.left() == set(), "with the container the last of its image goes"
    assert store.graph.remove_writable("w" * 64) == 0
    store.db.close()


def test_the_same_image_loaded_many_times_at_once_is_one(store: Store) -> None:
    data = docker_archive(LAYERS, ["x:1"])
    (store.root / "data").write_bytes(data)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            fd = os.open(store.root / "data", os.O_RDONLY)
            try:
                loading.load(store.graph, fd, lambda *progress: None)
            finally:
                os.close(fd)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == [] and len(store.graph.images()) == 1 and len(list(store.graph.driver.list())) == 3
    store.graph.delete_image(store.graph.images()[0].id)
    assert store.left() == set()


class Broken(io.RawIOBase):
    """A source that ends with an error after so many bytes."""

    def __init__(self, data: bytes, after: int, error: type[BaseException]) -> None:
        super().__init__()
        self._data = io.BytesIO(data[:after])
        self._error = error

    def read(self, size: int = -1, /) -> bytes:
        piece = self._data.read(min(size, 1000))
        if not piece:
            raise self._error("gone")
        return piece


@pytest.mark.parametrize("after", [0, 100, 700, 200_000])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_import_leaves_nothing(store: Store, after: int, error: type[BaseException]) -> None:
    gc.collect()  # what an earlier test has left to it must not go meanwhile
    threads = threading.active_count()
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(error):
        import_rootfs(store.graph, cast("BinaryIO", Broken(LAYERS[1], after, error)), b"{}", "")
    assert store.left() == set() and store.graph.images() == []
    assert threading.active_count() == threads and os.listdir("/proc/self/fd") == descriptors


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
def test_damaged_compression_is_refused(store: Store, compress: object) -> None:
    assert callable(compress)
    whole = compress(LAYERS[1] * 3)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    for data in (whole[: len(whole) // 2], bytes(damaged)):
        with pytest.raises(InvalidParameter):
            import_rootfs(store.graph, io.BytesIO(data), b"{}", "")
    assert store.left() == set()


def test_a_zstd_window_of_two_gigabytes_is_refused(store: Store) -> None:
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: 31,
        zstd.CompressionParameter.enable_long_distance_matching: 1,
    }
    compressor = zstd.ZstdCompressor(options=options)
    bomb = compressor.compress(LAYERS[0]) + compressor.flush()
    with pytest.raises(InvalidParameter):
        import_rootfs(store.graph, io.BytesIO(bomb), b"{}", "")


def test_several_compressed_files_in_a_row_are_one_archive(store: Store) -> None:
    data = LAYERS[1]
    parts = gzip.compress(data[:1000]) + gzip.compress(data[1000:]) + bytes(100)
    assert import_rootfs(store.graph, io.BytesIO(parts), b"{}", "").config.diff_ids == [digest(data)]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """On a small tmpfs in a mount namespace of its own; two hundred megabytes in one."""
    script = f"""
import gzip, io, os, resource, sys
sys.path[:0] = {[os.getcwd()]!r}
from pierhead.driver.graphdriver.vfs import VfsDriver
from pierhead.graph.graph import Graph
from pierhead.graph.graphdb import GraphDB
from pierhead.graph.holdings import holdings
from pierhead.graph.importing import import_rootfs
from tests.harness.archives import archive, file
root = {str(tmp_path)!r}
bomb = gzip.compress(archive(file("large", b"x" * (200 << 20))), 1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
graph = Graph(GraphDB(root + "/db"), VfsDriver(root), root)
try:
    import_rootfs(graph, io.BytesIO(bomb), b"{{}}", "")
except OSError as error:
    assert error.errno == 28, error
else:
    raise SystemExit("it fitted?")
assert os.listdir(root + "/vfs") == [] and os.listdir(root + "/split") == [], os.listdir(root + "/vfs")
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < 64 << 10, f"{{grown}} KiB"
"""
    command = 'mount -t tmpfs -o size=64m none "$1" && exec "$2" -c "$3"'
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", command, "sh", tmp_path, sys.executable, script],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr


def test_saving_a_layer_that_was_tampered_with_fails(store: Store) -> None:
    image = store.load(docker_archive(LAYERS[:1], ["x:1"]))[0].image
    layer = store.graph.chain(image)[0]
    fd = store.graph.driver.open_layer(layer.cache_id)
    try:
        with open(os.open("etc/one", os.O_WRONLY, dir_fd=fd), "wb") as file_:
            file_.write(b"9")
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="is not what it was"):
        b"".join(store.graph.archive(layer))


def test_what_a_name_means_to_save(store: Store) -> None:
    one = store.load(docker_archive(LAYERS[:1], ["x:1", "x:2"]))[0].image
    two = store.load(docker_archive(LAYERS[:2], ["x:3"]))[0].image
    everything = saving.choose(store.graph, [(one.id, parse("x"))])
    assert {(item.image.id, *(name.tag for name in item.names)) for item in everything} == {
        (one.id, "1", "2"),
        (two.id, "3"),
    }
    assert saving.choose(store.graph, [(one.id, None)])[0].names == []
    assert [name.tag for name in saving.choose(store.graph, [(one.id, parse("x:2"))])[0].names] == ["2"]
    with pytest.raises(NotFound):
        saving.choose(store.graph, [(one.id, parse("y:2"))])


def test_an_id_is_found_by_its_beginning(store: Store) -> None:
    image = store.load(docker_archive(LAYERS[:1], ["x:1"]))[0].image
    for length in (6, 12, 64):
        assert store.graph.by_prefix(image.id[: 7 + length]) == image.id
    assert store.graph.by_prefix("sha256:" + "z") is None and store.graph.by_prefix(image.id + "0") is None


def test_a_commit_of_a_container_that_is_removed_meanwhile_makes_no_image_of_what_is_left(store: Store) -> None:
    parent = import_rootfs(store.graph, io.BytesIO(LAYERS[0]), b"{}", "")
    store.graph.driver.create("container", store.graph.chain(parent)[0].cache_id, writable=True)

    def whole() -> None:
        raise Conflict("it is being removed")

    made = committing.Commit("c", b"{}", b"{}", [], "", "")
    with pytest.raises(Conflict):
        committing.commit(store.graph, parent, "container", made, parse("half:1"), whole)
    assert [image.id for image in store.graph.images()] == [parent.id] and not store.graph.tags.all()
    store.graph.remove_writable("container")
    with pytest.raises(Conflict):  # not in the words of a file that is not there
        committing.commit(store.graph, parent, "container", made, None, whole)
