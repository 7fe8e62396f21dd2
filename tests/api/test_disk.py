"""Where the disk has gone: every byte of the data root has an owner, to the byte, on every storage driver."""

import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.harness.api import Api, UnixConnection
from tests.harness.archives import archive, file, folder, hardlink, opaque, symlink, whiteout
from tests.harness.engines import Engine, Pierd
from tests.harness.engines import engine as started_engine
from tests.harness.filesystems import file_system
from tests.harness.hands import Background
from tests.harness.images import docker_archive, oci_archive
from tests.harness.processes import wait_until

pytestmark = pytest.mark.only_pierhead("Docker does not say where every byte is")

LAYERS = [
    archive(folder("etc"), file("etc/one", "1" * 5000), file("etc/two", "2"), hardlink("etc/three", "etc/two")),
    archive(whiteout("etc/one"), file("big", b"x" * 300_000), symlink("l" * 90, "big/" * 20), file("a" * 150, "long")),
    archive(folder("etc"), opaque("etc"), file("etc/new", "3"), file("\udcff", "odd")),
]
WRITING = """
mkdir -p /w/deep/er && echo hidden > /w/deep/.x && rm /bin/busybox2 2>/dev/null
head -c 700000 /dev/urandom > /w/one && ln /w/one /w/two && ln /w/one /w/deep/three
dd if=/dev/zero of=/w/sparse bs=1 count=1 seek=50000000 2>/dev/null
for i in $(seq 400); do : > /w/deep/$(printf %060d $i); done
ln -s $(printf %0100d 1) /w/long; rm /etc/group; mv /etc/passwd /etc/other
cp /w/one /v/; ln /v/one /v/again; mkdir /v/d
seq 20000
"""


def on_disk(*paths: Path) -> int:
    """Bytes on disk of trees, counted without Pierhead: everything once, whatever its names are."""
    seen: dict[tuple[int, int], int] = {}

    def meet(path: Path) -> None:
        found = os.lstat(path)
        if found.st_dev != device:
            return
        seen[found.st_dev, found.st_ino] = found.st_blocks * 512
        if stat.S_ISDIR(found.st_mode):
            for name in os.listdir(os.fsencode(path)):
                meet(path / os.fsdecode(name))

    device = os.lstat(paths[0]).st_dev
    for path in paths:
        meet(path)
    return sum(seen.values())


def load(api: Api, layers: list[bytes], name: str, oci: bool = False) -> None:
    """oci: with compressed layers, which are kept."""
    data = oci_archive(layers, f"docker.io/library/{name}") if oci else docker_archive(layers, [name])
    api.ok("POST", "/images/load", raw=data, content_type="application/x-tar")


def owners(disk: dict[str, Any]) -> int:
    """The sum of what has an owner."""
    parts = [*disk["Layers"].values(), *disk["Containers"].values()]
    return sum(parts) + sum(disk[key] for key in ("Volumes", "Blobs", "Database", "Engine", "Scratch", "Elsewhere"))


@pytest.fixture(scope="module", params=["overlay2", "vfs"])
def used(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A daemon that has been used, and rests."""
    with started_engine("pierd", ("--storage-driver", request.param)) as made:
        load(made.api, LAYERS[:2], "y:1", oci=True)
        load(made.api, LAYERS, "x:1")
        writer = made.api.run(
            "sh", "-c", WRITING, name="writer", HostConfig={"Binds": ["named:/v"]}, Volumes={"/a": {}}
        )
        made.api.wait(writer)
        made.api.create("true", name="never")
        yield made


def test_what_has_an_owner_and_what_is_there_are_the_same_bytes(used: Engine) -> None:
    root = used.data_root
    usage = used.api.get("/system/df")
    disk = usage["Pierhead"]
    assert disk["Unaccounted"] == 0 and not disk["Strays"]
    assert owners(disk) == disk["Total"] == on_disk(root)
    assert disk["Root"] == str(root) and 0 < disk["Free"] < disk["Capacity"]
    assert used.api.get("/system/df", fresh=1)["Pierhead"] | {"Free": 0} == disk | {"Free": 0}


def test_each_owner_has_the_bytes_that_are_its_own(used: Engine) -> None:
    root = used.data_root
    usage = used.api.get("/system/df")
    disk = usage["Pierhead"]
    assert disk["Database"] == on_disk(*root.glob("graph.db*"))
    assert disk["Volumes"] == on_disk(*(root / "volumes").iterdir())
    assert disk["Blobs"] == on_disk(*(root / "blobs/sha256").iterdir()) > 0
    writer = next(one for one in usage["Containers"] if one["Names"] == ["/writer"])
    home = root / "containers" / writer["Id"]
    logs = list(home.glob("*-json.log*"))
    assert writer["DiskLogs"] == on_disk(*logs) > 800_000
    assert writer["DiskFiles"] == on_disk(home) - on_disk(*logs)
    # Hard links once; of a sparse file what is written.
    assert 700_000 < writer["SizeRw"] - 50_000_001 < 720_000
    assert writer["DiskRw"] > 700_000
    named = next(one for one in usage["Volumes"] if one["Name"] == "named")["UsageData"]
    assert (named["Size"], named["Disk"]) == (700_000, on_disk(root / "volumes/named"))
    inspected = used.api.get("/containers/writer/json", size=1)
    for key in ("SizeRw", "DiskRw", "DiskLogs", "DiskFiles"):
        assert inspected[key] == writer[key], key
    assert "DiskRw" not in used.api.get("/containers/writer/json")


def test_layers_of_several_images_count_once(used: Engine) -> None:
    usage = used.api.get("/system/df")
    images = {image["RepoTags"][0]: image for image in usage["Images"] if image["RepoTags"]}
    layers = usage["Pierhead"]["Layers"]
    assert images["x:1"]["DiskShared"] == images["y:1"]["Disk"] == images["y:1"]["DiskShared"]
    # busybox and web are one layer; x and y share two.
    assert layers["Shared"] == images["busybox:latest"]["Disk"] + images["y:1"]["Disk"]
    assert layers["Unique"] == images["x:1"]["Disk"] - images["x:1"]["DiskShared"] > 0
    assert layers["Kept"] == 0


def test_only_what_was_asked_for_is_looked_at(used: Engine) -> None:
    found = used.api.get("/system/df", type="image")
    assert found["Images"] and not found["Containers"] and not found["Volumes"] and "Pierhead" not in found
    assert used.api.send("GET", "/system/df?type=nothing").message == "unknown object type: nothing"


def test_what_is_nobodys_is_said_with_its_place(used: Engine) -> None:
    root = used.data_root
    driver = used.api.get("/info")["Driver"]
    strays = [
        root / "left",
        root / driver / ("a" * 64),
        root / "containers/old",
        root / "volumes/gone",
        root / "blobs/sha256/y",
        root / "split/x",
        root / "volumes" / os.fsdecode(b"a\xff"),
    ]
    if driver == "overlay2":
        os.symlink(f"../{'b' * 64}/diff", root / "overlay2/l/NOBODYS")
    try:
        for path in strays:
            (path / "below").mkdir(parents=True)
            (path / "below/file").write_bytes(b"x" * 10_000)
        expected = on_disk(*strays) + (on_disk(root / "overlay2/l/NOBODYS") if driver == "overlay2" else 0)
        disk = used.api.get("/system/df")["Pierhead"]
        assert disk["Unaccounted"] == expected == sum(one["Size"] for one in disk["Strays"])
        told = {os.fsencode(path).decode(errors="replace") for path in strays}
        assert told <= {one["Path"] for one in disk["Strays"]}
        checked = used.pier("system", "fsck")
        assert f"{root}/volumes/a\ufffd is not a volume of this daemon's" in checked.stdout
        assert disk["Total"] == on_disk(root)
    finally:
        for path in strays:
            (path / "below/file").unlink()
            (path / "below").rmdir()
            path.rmdir()
        (root / "overlay2/l/NOBODYS").unlink(missing_ok=True)
    assert used.api.get("/system/df")["Pierhead"]["Unaccounted"] == 0


def test_what_another_daemon_has_in_the_data_root_is_its_own(used: Engine) -> None:
    other = used.data_root / "100000.100000"  # with --userns-remap
    (other / "volumes").mkdir(parents=True)
    (other / "graph.db").write_bytes(bytes(5000))
    disk = used.api.get("/system/df")["Pierhead"]
    assert disk["Elsewhere"] == on_disk(other) > 0 and disk["Unaccounted"] == 0
    shutil.rmtree(other)


def test_layers_of_an_older_pierhead_are_measured_once(pierd: Pierd) -> None:
    before = pierd.api.get("/system/df")["Pierhead"]
    pierd.stop()
    pierd.edit("UPDATE layer SET disk = -1")
    pierd.start()
    after = pierd.api.get("/system/df")["Pierhead"]
    assert after["Layers"] == before["Layers"] and after["Unaccounted"] == 0
    assert after["Total"] == on_disk(pierd.data_root)


def test_what_is_just_being_made_or_removed_is_not_unaccounted(used: Engine) -> None:
    api = used.api

    layers = [archive(folder(f"d{part}"), *(file(f"d{part}/{n}", "x") for n in range(40))) for part in range(3)]

    def churn() -> None:
        for number in range(3):
            load(api, layers, "c:1", oci=True)
            id = api.create("true", image="c:1", HostConfig={"Binds": [f"churn{number}:/v"]})
            api.ok("DELETE", f"/containers/{id}")
            api.ok("DELETE", f"/volumes/churn{number}")
            api.ok("DELETE", "/images/c:1")

    work = Background(churn)
    looks = 0
    while work.thread.is_alive() or not looks:
        disk = api.get("/system/df")["Pierhead"]
        assert not disk["Strays"] and disk["Unaccounted"] == 0
        looks += 1
    work.finish()
    assert api.get("/system/df")["Pierhead"]["Total"] == on_disk(used.data_root)


# -- what removals give back ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pierd]:
    """A daemon whose data root is a file system of its own, where nobody else changes what is free."""
    folder = tmp_path_factory.mktemp("disk")
    with started_engine("pierd", images=False) as made:
        assert isinstance(made, Pierd) and made.stop() == 0
        with file_system("ext4", folder, 256, at=made.data_root):
            made.start("--storage-driver", "overlay2", "--trim=false")
            made.provide_images()
            yield made
            made.forget()
            assert made.stop() == 0


def there(engine: Engine) -> int:
    """Bytes on disk but for the database, which keeps what it has."""
    return on_disk(engine.data_root) - on_disk(*engine.data_root.glob("graph.db*"))


def used_by_others(engine: Engine) -> dict[str, Any]:
    """What df says, but for the engine's own folders, which do not shrink."""
    disk: dict[str, Any] = engine.api.get("/system/df")["Pierhead"]
    return {key: disk[key] for key in disk if key not in ("Database", "Engine", "Total", "Free")}


def free(engine: Engine) -> int:
    found = os.statvfs(engine.data_root)
    return found.f_bfree * found.f_frsize


def given_back(headers: Mapping[str, str]) -> tuple[int, int]:
    return int(headers["Pierhead-Space-Reclaimed"]), int(headers["Pierhead-Free-Space-Change"])


def test_a_removal_says_to_the_byte_what_it_has_given_back(small: Pierd) -> None:
    empty, free_before = used_by_others(small), free(small)
    load(small.api, LAYERS[:2], "y:1", oci=True)
    load(small.api, LAYERS, "x:1")
    small.api.ok("POST", "/volumes/create", {"Name": "named"})
    for name in ("one", "two", "kept"):
        id = small.api.run("sh", "-c", WRITING, name=name, HostConfig={"Binds": ["named:/v"]}, Volumes={"/a": {}})
        small.api.wait(id)
    steps = [
        ("DELETE", "/containers/one", {"v": 1}),
        ("DELETE", "/images/x:1", {}),  # its topmost layer alone: the others are the second image's too
        ("DELETE", "/images/y:1", {}),
        ("DELETE", "/containers/kept", {"force": 1, "v": 1}),
        ("POST", "/containers/prune", {}),
        ("POST", "/volumes/prune", {"filters": {"all": ["true"]}}),
    ]
    for method, path, query in steps:
        before, room = there(small), free(small)
        answer = small.api.ok(method, path, **query)
        if method == "DELETE":
            reclaimed, change = given_back(answer.headers)
        else:
            reclaimed, change = answer.json["SpaceReclaimed"], answer.json["FreeSpaceChange"]
        assert reclaimed == before - there(small) > 4096, path
        # Blocks of attributes that files share are each file's; and the database may have grown.
        assert change == free(small) - room and abs(change - reclaimed) < 1 << 16, path
    gone = small.api.send("DELETE", "/volumes/named")
    assert gone.status == 404 or given_back(gone.headers)[0] > 700_000
    assert used_by_others(small) == empty and abs(free(small) - free_before) < 1 << 16


def test_a_kept_layer_goes_with_the_container_that_it_was_kept_for(small: Pierd) -> None:
    load(small.api, LAYERS, "x:1")
    small.api.create("true", image="x:1", name="holder")
    assert given_back(small.api.ok("DELETE", "/images/x:1", force=1).headers)[0] == 0
    usage = small.api.get("/system/df")["Pierhead"]
    assert usage["Layers"]["Kept"] > 300_000 and usage["Unaccounted"] == 0
    before = there(small)
    assert given_back(small.api.ok("DELETE", "/containers/holder").headers)[0] == before - there(small) > 300_000


def test_a_file_that_somebody_holds_open_is_counted_and_not_free_yet(small: Pierd) -> None:
    small.api.ok("POST", "/volumes/create", {"Name": "held"})
    with open(small.data_root / "volumes/held/_data/file", "wb") as file:
        file.write(bytes(5_000_000))
        file.flush()
        os.fsync(file.fileno())
        reclaimed, change = given_back(small.api.ok("DELETE", "/volumes/held").headers)
        assert reclaimed > 5_000_000 and change < 100_000


# -- logs -------------------------------------------------------------------------------------------------------------

COUNTING = "i=0; while :; do echo line $i; i=$((i+1)); [ $((i%20)) = 0 ] && sleep 0.02; done"


def test_a_log_is_truncated_while_it_is_written_and_followed(used: Engine) -> None:
    api = used.api
    config = {"Type": "json-file", "Config": {"max-size": "100k", "max-file": "3"}}
    id = api.run("sh", "-c", COUNTING, name="counting", HostConfig={"LogConfig": config})
    seen = bytearray()

    def follow() -> None:
        connection = UnixConnection(used.socket)
        connection.request("GET", f"/containers/{id}/logs?stdout=1&follow=1")
        with closing(connection), connection.getresponse() as response:
            while data := response.read1(65536):
                seen.extend(data)

    def more() -> bool:
        return len(seen) > behind + 6000

    home = used.data_root / "containers" / id
    follower = Background(follow)
    for _ in range(3):
        behind = len(seen)
        wait_until(more, "lines that go on")
        answer = api.ok("POST", f"/pierhead/containers/{id}/logs/truncate").json
        assert answer["SpaceReclaimed"] >= 4096
    behind = len(seen)
    wait_until(more, "lines after the last")
    api.ok("POST", f"/containers/{id}/kill")
    follower.finish()
    lines = re.findall(rb"line (\d+)\n", bytes(seen))
    assert [int(number) for number in lines] == list(range(len(lines))) and len(lines) > 1000
    assert api.ok("POST", f"/pierhead/containers/{id}/logs/truncate").json["SpaceReclaimed"] > 0
    assert api.logs(id) == b"" and on_disk(*home.glob("*-json.log*")) == 0
    assert used.pier("logs", "--truncate", "counting").check().stdout.startswith("Total reclaimed space: 0B\n")
    assert api.get("/system/df")["Pierhead"]["Unaccounted"] == 0
    api.ok("DELETE", f"/containers/{id}")


def test_a_log_is_bounded_where_nobody_asked_for_a_bound(used: Engine) -> None:
    id = used.api.run("sh", "-c", "yes $(printf %04000d 0) | head -c 21000000", name="talkative")
    used.api.wait(id)
    sizes = {path.name: path.stat().st_size for path in (used.data_root / "containers" / id).glob("*-json.log*")}
    assert set(sizes) == {f"{id}-json.log", f"{id}-json.log.1"}
    assert max(sizes.values()) < 20_020_000, "20 MB and the entry that was the last one"
    used.api.ok("DELETE", f"/containers/{id}")


def test_a_log_that_is_not_kept_cannot_be_truncated(used: Engine) -> None:
    id = used.api.create("true", HostConfig={"LogConfig": {"Type": "none"}})
    assert "does not support truncation" in used.api.send("POST", f"/pierhead/containers/{id}/logs/truncate").message
    assert used.api.send("POST", "/pierhead/containers/nobody/logs/truncate").status == 404
    used.api.ok("DELETE", f"/containers/{id}")
