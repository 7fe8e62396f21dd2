"""Volumes, binds and tmpfs: data outlives containers, is where it was asked for, and may be read only."""

import io
import json
import re
import tarfile
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.harness.api import Api
from tests.harness.engines import Engine
from tests.harness.processes import wait_until


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


def test_a_volume_outlives_its_containers(api: Api) -> None:
    made = api.ok("POST", "/volumes/create", {"Name": "data", "Labels": {"a": "b"}}).json
    assert made["Name"] == "data" and made["Driver"] == "local" and made["Scope"] == "local"
    assert made["Mountpoint"].endswith("/volumes/data/_data")
    api.output("sh", "-c", "echo kept > /data/file", HostConfig={"Binds": ["data:/data"]})
    assert api.output("cat", "/data/file", HostConfig={"Binds": ["data:/data:ro"]}) == "kept\n"
    assert api.get("/volumes/data")["Labels"] == {"a": "b"}
    assert "Read-only file system" in api.output("touch", "/data/x", HostConfig={"Binds": ["data:/data:ro"]})


def test_a_named_volume_is_made_at_its_first_use(api: Api) -> None:
    id = api.run("sleep", "1000", HostConfig={"Binds": ["fresh:/fresh"]})
    assert [volume["Name"] for volume in api.get("/volumes")["Volumes"]] == ["fresh"]
    mount = api.inspect(id)["Mounts"][0]
    assert (mount["Type"], mount["Name"], mount["Destination"], mount["RW"]) == ("volume", "fresh", "/fresh", True)
    refused = api.send("DELETE", "/volumes/fresh")
    assert refused.status == 409 and "volume is in use" in refused.message and id in refused.message


def test_a_new_volume_gets_what_the_image_has_there(api: Api) -> None:
    assert "root:x:0:0" in api.output("cat", "/etc/passwd", HostConfig={"Binds": ["filled:/etc"]})


def test_what_a_volume_gets_has_its_owners_modes_and_links_and_nocopy_gets_nothing(engine: Engine, api: Api) -> None:
    def owned(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid, info.gid = 7, 8
        return info

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name, mode in (("srv", 0o755), ("srv/data", 0o2750), ("srv/data/deep", 0o700)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, mode, 1_600_000_000
            made.addfile(owned(folder))
        text = tarfile.TarInfo("srv/data/deep/file")
        text.size, text.mode, text.mtime = 4, 0o4640, 1_600_000_000
        made.addfile(owned(text), io.BytesIO(b"text"))
        link = tarfile.TarInfo("srv/data/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        made.addfile(owned(link))
    id = api.create("true", name="source")
    api.ok("PUT", f"/containers/{id}/archive?path=/", raw=buffer.getvalue(), content_type="application/x-tar")
    api.ok("POST", "/commit?container=source&repo=withdata&tag=1")
    looks = "cd /v; stat -c '%n %a %u:%g %Y' . deep deep/file; readlink link"
    told = api.output("sh", "-c", looks, image="withdata:1", HostConfig={"Binds": ["fresh:/v"]}, WorkingDir="/")
    assert ". 755 0:0" in told, "a path that the image has not is a new folder"
    where = {"Binds": ["copied:/srv/data"]}
    told = api.output("sh", "-c", looks.replace("/v", "/srv/data"), image="withdata:1", HostConfig=where)
    if engine.kind == "docker":  # it leaves the folders' times to the copy
        told = re.sub(r"^(\. 2750|deep 700) 7:8 \d+", r"\1 7:8 1600000000", told, flags=re.MULTILINE)
    assert told.splitlines() == [
        *(". 2750 7:8 1600000000", "deep 700 7:8 1600000000", "deep/file 4640 7:8 1600000000", "/etc/passwd")
    ]
    where = {"Binds": ["empty:/srv/data:nocopy"]}
    assert api.output("ls", "-A", "/srv/data", image="withdata:1", HostConfig=where) == ""
    for container in api.get("/containers/json", all=1):
        api.ok("DELETE", f"/containers/{container['Id']}", force=1)
    api.ok("DELETE", "/images/withdata:1")


def test_anonymous_volumes_go_with_the_container_that_asked(api: Api) -> None:
    id = api.create("true", Volumes={"/anon": {}})
    name = api.inspect(id)["Mounts"][0]["Name"]
    assert len(name) == 64
    api.ok("DELETE", f"/containers/{id}", v=1)
    assert not api.get("/volumes")["Volumes"]


def test_wrong_volumes_are_refused(api: Api) -> None:
    missing = api.send("GET", "/volumes/nothing")
    assert missing.status == 404 and "no such volume" in missing.message
    assert api.send("DELETE", "/volumes/nothing").status == 404
    assert api.send("DELETE", "/volumes/nothing", force=1).status == 204
    bad = api.send("POST", "/volumes/create", {"Name": "../../etc"})
    assert bad.status == 400 and "includes invalid characters for a local volume name" in bad.message
    short = api.send("POST", "/volumes/create", {"Name": "a"})
    assert short.status == 400 and "volume name is too short, names should be at least two" in short.message


def test_volumes_are_filtered_and_pruned(api: Api) -> None:
    api.ok("POST", "/volumes/create", {"Name": "one", "Labels": {"tier": "x"}})
    api.ok("POST", "/volumes/create", {"Name": "two"})
    api.create("true", HostConfig={"Binds": ["two:/two"]})

    def names(**filters: list[str]) -> set[str]:
        return {volume["Name"] for volume in api.get("/volumes", filters=filters)["Volumes"] or []}

    assert names(label=["tier=x"]) == {"one"} and names(name=["tw"]) == {"two"}
    assert names(dangling=["true"]) == {"one"} and names(dangling=["false"]) == {"two"}


def test_prune_takes_unused_anonymous_volumes(api: Api) -> None:
    # The oldest API asked for takes named ones too (since 1.42 only with all=true); anonymous ones go in both.
    id = api.create("true", Volumes={"/anon": {}})
    name = api.inspect(id)["Mounts"][0]["Name"]
    api.ok("DELETE", f"/containers/{id}")
    assert name in api.ok("POST", "/volumes/prune").json["VolumesDeleted"]


@pytest.mark.needs_docker28("speaks 1.41, where every unused volume is pruned")
def test_prune_spares_volumes_with_a_name_unless_all_is_asked_for(engine: Engine) -> None:
    api = Api(engine.socket, "v1.42")
    api.ok("POST", "/volumes/create", {"Name": "named", "Labels": {"keep": "no"}})
    api.ok("POST", "/volumes/create", {"Name": "kept", "Labels": {"keep": "yes"}})
    api.ok("POST", "/volumes/create", {"Name": "used"})
    api.create("true", HostConfig={"Binds": ["used:/used"]})
    anonymous = api.ok("POST", "/volumes/create", {}).json["Name"]
    assert api.ok("POST", "/volumes/prune").json["VolumesDeleted"] == [anonymous]
    filters = {"all": ["true"], "label!": ["keep=yes"]}
    assert api.ok("POST", f"/volumes/prune?filters={quote(json.dumps(filters))}").json["VolumesDeleted"] == ["named"]
    assert {volume["Name"] for volume in api.get("/volumes")["Volumes"]} == {"kept", "used"}


def test_a_bind_shows_the_hosts_folder(api: Api, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the host\n")
    binds = {"Binds": [f"{tmp_path}:/here"]}
    assert api.output("cat", "/here/file", HostConfig=binds) == "of the host\n"
    api.output("sh", "-c", "echo of the container > /here/back", HostConfig=binds)
    assert (tmp_path / "back").read_text() == "of the container\n"
    read_only = {"Mounts": [{"Type": "bind", "Source": str(tmp_path), "Target": "/here", "ReadOnly": True}]}
    assert "Read-only file system" in api.output("touch", "/here/x", HostConfig=read_only)


def test_a_bind_of_nothing_is_refused(api: Api, tmp_path: Path) -> None:
    missing = {"Mounts": [{"Type": "bind", "Source": str(tmp_path / "no"), "Target": "/here"}]}
    refused = api.send("POST", "/containers/create", {"Image": "busybox", "HostConfig": missing})
    assert refused.status == 400 and "bind source path does not exist" in refused.message
    relative = api.send("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Binds": ["a/b:/c"]}})
    assert relative.status == 400
    root = api.send("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Binds": ["/tmp:/"]}})
    assert root.status in (400, 500) and "destination can't be '/'" in root.message
    twice = api.send(
        "POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Binds": ["/tmp:/x", "/var:/x"]}}
    )
    assert twice.status == 400 and "Duplicate mount point: /x" in twice.message


def test_a_bind_in_short_form_makes_the_missing_folder(api: Api, tmp_path: Path) -> None:
    api.output("touch", "/here/x", HostConfig={"Binds": [f"{tmp_path}/made/for/it:/here"]})
    assert (tmp_path / "made/for/it/x").exists()


def test_tmpfs_is_in_memory_and_has_its_size(api: Api) -> None:
    config = {"Tmpfs": {"/mem": "size=1m,mode=1777"}}
    said = api.output("sh", "-c", "mount | grep ' /mem '; dd if=/dev/zero of=/mem/x bs=1M count=2", HostConfig=config)
    assert "tmpfs" in said and "size=1024k" in said and "noexec" in said and "No space left on device" in said


def test_a_read_only_root_is_read_only_and_its_mounts_are_not(api: Api) -> None:
    config = {"ReadonlyRootfs": True, "Tmpfs": {"/mem": ""}, "Binds": ["vol:/vol"]}
    said = api.output("sh", "-c", "touch /x; touch /mem/x /vol/x && echo fine", HostConfig=config)
    assert "Read-only file system" in said and "fine" in said


def test_volumes_from_another_container(api: Api) -> None:
    source = api.run(
        "sh", "-c", "echo shared > /data/file; sleep 1000", HostConfig={"Binds": ["shared:/data"]}, name="src"
    )
    assert api.inspect(source)["Mounts"]
    wait_until(
        lambda: api.output("cat", "/data/file", HostConfig={"VolumesFrom": ["src"]}) == "shared\n", "the shared file"
    )
    for text, writable in ("src", True), ("src:ro", False), ("src:z", True):
        (mount,) = api.inspect(api.create("true", HostConfig={"VolumesFrom": [text]}))["Mounts"]
        assert (mount["Mode"], mount["RW"]) == ("", writable), text
