"""What can be mounted into a container: every type and option of a mount, and what cannot be."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.api import Api, frames
from tests.harness.engines import Engine, Pierd
from tests.harness.images import config_of, docker_archive, tar
from tests.harness.processes import run

needs_docker28 = pytest.mark.needs_docker28("has it later")
sees_mounts = pytest.mark.only_pierhead("the peers' daemon does not see what is mounted after its start")


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


def inside(api: Api, id: str, command: str) -> str:
    made = api.ok(
        "POST", f"/containers/{id}/exec", {"Cmd": ["sh", "-c", command], "AttachStdout": True, "AttachStderr": True}
    )
    answer = api.ok("POST", f"/exec/{made.json['Id']}/start", {"Detach": False})
    return b"".join(payload for _, payload in frames(answer.body)).decode()


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A folder that is a shared mount, with another file system mounted in it."""
    (tmp_path / "below").mkdir()
    run(["mount", "--bind", str(tmp_path), str(tmp_path)])
    try:
        run(["mount", "--make-shared", str(tmp_path)])
        run(["mount", "-t", "tmpfs", "below", str(tmp_path / "below")])
        yield tmp_path
    finally:
        run(["umount", "-R", "-l", str(tmp_path)])


@pytest.mark.only_pierhead("Debian's dockerd sees a copy of the mounts, made before those of the test")
@pytest.mark.parametrize(
    ("options", "readonly", "top", "below"),
    [
        pytest.param({}, False, "rw", "rw", marks=sees_mounts),
        pytest.param({}, True, "ro", "ro", marks=needs_docker28),
        pytest.param({"ReadOnlyNonRecursive": True}, True, "ro", "rw", marks=needs_docker28),
        pytest.param({"ReadOnlyForceRecursive": True}, True, "ro", "ro", marks=needs_docker28),
        ({"NonRecursive": True}, False, "rw", None),
        pytest.param({"Propagation": "rslave"}, False, "rw", "rw", marks=sees_mounts),
    ],
)
def test_a_bind_is_as_recursive_and_as_read_only_as_asked(
    api: Api, tree: Path, options: dict[str, Any], readonly: bool, top: str, below: str | None
) -> None:
    mount = {"Type": "bind", "Source": str(tree), "Target": "/m", "ReadOnly": readonly, "BindOptions": options}
    id = api.run("sleep", "1000", HostConfig={"Mounts": [mount]})
    found = {words[4]: words for words in map(str.split, inside(api, id, "cat /proc/self/mountinfo").splitlines())}
    assert found["/m"][5].split(",")[0] == top
    assert (found["/m/below"][5].split(",")[0] if "/m/below" in found else None) == below
    assert any(word.startswith("master:") for word in found["/m"]) == (options.get("Propagation") == "rslave")


def test_mounts_are_passed_on_only_from_where_they_can_be(api: Api, tree: Path) -> None:
    run(["mount", "--make-private", str(tree)])
    for propagation, words in ("rslave", "shared or slave"), ("shared", "shared"):
        mount = {"Type": "bind", "Source": str(tree), "Target": "/m", "BindOptions": {"Propagation": propagation}}
        refused = api.send("POST", f"/containers/{api.create('true', HostConfig={'Mounts': [mount]})}/start")
        assert refused.status == 500
        assert refused.message.startswith(f"path {tree} is mounted on /")
        assert refused.message.endswith(f"but it is not a {words} mount")


@needs_docker28
def test_a_part_of_a_volume_is_mounted_and_no_link_leads_out_of_it(api: Api) -> None:
    whole = api.run("sleep", "1000", HostConfig={"Binds": ["data:/d"]})
    inside(api, whole, "mkdir -p /d/a/b; echo deep > /d/a/b/file; echo one > /d/one; ln -s /etc /d/out")

    def mount(subpath: str) -> dict[str, Any]:
        return {"Type": "volume", "Source": "data", "Target": "/m", "VolumeOptions": {"Subpath": subpath}}

    id = api.run("sleep", "1000", HostConfig={"Mounts": [mount("a/b")]})
    assert inside(api, id, "cat /m/file; echo new > /m/new") == "deep\n"
    assert inside(api, whole, "cat /d/a/b/new") == "new\n"
    file = api.run("sleep", "1000", HostConfig={"Mounts": [mount("one") | {"ReadOnly": True}]})
    assert inside(api, file, "cat /m") == "one\n" and "Read-only" in inside(api, file, "echo x > /m")
    for missing in ("none", "out/passwd", "one/two"):
        made = api.create("true", HostConfig={"Mounts": [mount(missing)]})
        refused = api.send("POST", f"/containers/{made}/start")
        assert refused.status in (400, 500) and "cannot access path" in refused.message


@needs_docker28
def test_an_image_is_mounted_read_only_as_a_whole_or_in_part_and_stays_while_it_is(api: Api) -> None:
    layers = [tar({"a/one": "first", "a/two": "covered"}), tar({"a/two": "second"})]
    archive = docker_archive(layers, ["pair:latest"], config_of(layers))
    api.ok("POST", "/images/load", raw=archive, content_type="application/x-tar")
    mount = {"Type": "image", "Source": "pair", "Target": "/whole"}
    parts = [
        {"Type": "image", "Source": "pair", "Target": "/part", "ImageOptions": {"Subpath": "a"}},
        {"Type": "image", "Source": "pair", "Target": "/file", "ImageOptions": {"Subpath": "a/two"}},
    ]
    id = api.run("sleep", "1000", HostConfig={"Mounts": [mount, *parts]})
    assert inside(api, id, "cat /whole/a/one /whole/a/two /part/one /file") == "firstsecondfirstsecond"
    assert "Read-only" in inside(api, id, "touch /whole/x") and "Read-only" in inside(api, id, "touch /part/x")
    shown = {point["Destination"]: point for point in api.inspect(id)["Mounts"]}
    assert shown["/whole"]["Type"] == "image" and not shown["/whole"]["RW"]
    assert api.send("DELETE", "/images/pair").status == 409
    missing = {"Type": "image", "Source": "pair", "Target": "/x", "ImageOptions": {"Subpath": "none"}}
    refused = api.send("POST", f"/containers/{api.create('true', HostConfig={'Mounts': [missing]})}/start")
    assert refused.status in (400, 500) and "none" in refused.message
    unknown = {"Type": "image", "Source": "nosuch", "Target": "/x"}
    body = {"Image": "busybox", "HostConfig": {"Mounts": [unknown]}}
    assert api.send("POST", "/containers/create", body).status == 404
    for container in api.get("/containers/json", all=1):
        api.ok("DELETE", f"/containers/{container['Id']}", force=1)
    api.ok("DELETE", "/images/pair")


def test_a_volume_can_be_a_tmpfs_that_its_containers_share_and_lose(api: Api) -> None:
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=7,noexec"}
    api.ok("POST", "/volumes/create", {"Name": "memory", "DriverOpts": options})
    assert api.get("/volumes/memory")["Options"] == options
    first = api.run("sleep", "1000", HostConfig={"Binds": ["memory:/m"]})
    second = api.run("sleep", "1000", HostConfig={"Binds": ["memory:/m:ro"]})
    inside(api, first, "echo shared > /m/file")
    assert inside(api, second, "cat /m/file; stat -c %u /m") == "shared\n7\n"
    mounted = inside(api, first, "grep ' /m ' /proc/mounts")
    assert "tmpfs" in mounted and "size=1024k" in mounted and "noexec" in mounted
    api.ok("POST", f"/containers/{first}/restart", t=0)
    assert inside(api, first, "cat /m/file") == "shared\n"
    for id in (first, second):
        api.ok("POST", f"/containers/{id}/stop", t=0)
    api.ok("POST", f"/containers/{first}/start")
    assert inside(api, first, "ls /m") == ""


def test_a_volume_can_be_a_folder_of_the_hosts(api: Api, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("here")
    options = {"type": "none", "device": str(tmp_path), "o": "bind"}
    api.ok("POST", "/volumes/create", {"Name": "folder", "DriverOpts": options})
    id = api.run("sleep", "1000", HostConfig={"Binds": ["folder:/m"]})
    assert inside(api, id, "cat /m/given; echo made > /m/made") == "here"
    api.ok("DELETE", f"/containers/{id}", force=1)
    api.ok("DELETE", "/volumes/folder")
    assert sorted(os.listdir(tmp_path)) == ["given", "made"]


def test_a_volume_that_cannot_be_mounted_says_why_at_the_start(api: Api) -> None:
    options = {"type": "none", "device": "/nosuch", "o": "bind"}
    api.ok("POST", "/volumes/create", {"Name": "broken", "DriverOpts": options})
    answer = api.send("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Binds": ["broken:/m:nocopy"]}})
    refused = api.send("POST", f"/containers/{answer.json['Id']}/start") if answer.status == 201 else answer
    assert refused.status == 500
    assert "failed to mount local volume: mount /nosuch:" in refused.message
    assert refused.message.endswith("no such file or directory")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wat": "1"}, 'invalid option: "wat"'),
        ({"device": "x"}, 'missing required option: "type"'),
        ({"type": "tmpfs"}, 'missing required option: "device"'),
        ({"o": "bind"}, 'missing required option: "'),
        ({"size": "1g"}, "quota size requested but no quota support"),
    ],
)
def test_options_that_no_volume_has_are_refused(api: Api, options: dict[str, str], words: str) -> None:
    refused = api.send("POST", "/volumes/create", {"Name": "none", "DriverOpts": options})
    assert refused.status == 400 and words in refused.message
    assert api.send("GET", "/volumes/none").status == 404


def test_containers_that_share_their_ipc_namespace_share_the_memory_too(api: Api) -> None:
    owner = api.run("sleep", "1000", HostConfig={"IpcMode": "shareable", "ShmSize": 3 << 20})
    inside(api, owner, "echo shared > /dev/shm/file")
    guest = api.run("sleep", "1000", HostConfig={"IpcMode": f"container:{owner}"})
    assert inside(api, guest, "cat /dev/shm/file; echo back > /dev/shm/back; ls /etc/hostname") == (
        "shared\n/etc/hostname\n"
    )
    assert inside(api, owner, "cat /dev/shm/back; df -k /dev/shm | tail -1").split()[:3] == ["back", "shm", "3072"]
    ipc = [inside(api, id, "readlink /proc/1/ns/ipc") for id in (owner, guest)]
    mounts = [inside(api, id, "readlink /proc/1/ns/mnt") for id in (owner, guest)]
    assert ipc[0] == ipc[1] and mounts[0] != mounts[1]
    closed = api.run("sleep", "1000", HostConfig={"IpcMode": "private"})
    outside = api.create("true", HostConfig={"IpcMode": f"container:{closed}"})
    refused = api.send("POST", f"/containers/{outside}/start")
    assert refused.status in (400, 500) and "non-shareable IPC" in refused.message
    none = api.run("sleep", "1000", HostConfig={"IpcMode": "none"})
    assert "shm" not in inside(api, none, "cat /proc/mounts")


TMPFS = {"Type": "tmpfs", "Target": "/m"}


@needs_docker28
def test_a_tmpfs_has_the_options_it_was_given(api: Api) -> None:
    mount = TMPFS | {"TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1700, "Options": [["exec"]]}}
    other = {"Type": "tmpfs", "Target": "/r", "ReadOnly": True}
    id = api.run("sleep", "1000", HostConfig={"Mounts": [mount, other], "Tmpfs": {"/t": "size=2m,uid=5"}})
    found = {words[1]: words[3] for words in map(str.split, inside(api, id, "cat /proc/mounts").splitlines())}
    assert "size=1024k" in found["/m"] and "noexec" not in found["/m"] and "mode=1700" in found["/m"]
    assert found["/r"].startswith("ro,") and "noexec" in found["/r"]
    assert "size=2048k" in found["/t"] and "uid=5" in found["/t"]


VOLUME = {"Type": "volume", "Target": "/m", "Source": "v"}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"Type": "tmpfs"}, "field Target must not be empty"),
    ({"Type": "tmpfs", "Target": "/"}, "invalid specification: destination can't be '/'"),
    ({"Type": "tmpfs", "Target": "x"}, "invalid mount path: 'x' mount path must be absolute"),
    (TMPFS | {"Source": "/x"}, "field Source must not be specified"),
    (TMPFS | {"BindOptions": {"Propagation": "shared"}}, "field BindOptions must not be specified"),
    ({"Type": "bind", "Target": "/m"}, "field Source must not be empty"),
    ({"Type": "bind", "Target": "/m", "Source": "x"}, "invalid mount path: 'x' mount path must be absolute"),
    ({"Type": "bind", "Target": "/m", "Source": "/nosuch"}, "bind source path does not exist: /nosuch"),
    (
        {"Type": "bind", "Target": "/m", "Source": "/etc", "BindOptions": {"Propagation": "wat"}},
        "invalid propagation mode: wat",
    ),
    (
        {"Type": "bind", "Target": "/m", "Source": "/etc", "VolumeOptions": {"NoCopy": True}},
        "field VolumeOptions must not be specified",
    ),
    (
        {"Type": "volume", "Target": "/m", "Source": "v", "BindOptions": {"Propagation": "shared"}},
        "field BindOptions must not be specified",
    ),
    ({"Type": "volume", "Target": "/m", "ReadOnly": True}, "must not set ReadOnly mode when using anonymous volumes"),
    ({"Type": "wat", "Target": "/m"}, "mount type unknown"),
]

REFUSED_28: list[tuple[dict[str, Any], str]] = [
    (
        {"Type": "volume", "Target": "/m", "VolumeOptions": {"Subpath": "x"}},
        "must not set Subpath when using anonymous volumes",
    ),
    (
        {"Type": "volume", "Target": "/m", "Source": "v", "VolumeOptions": {"Subpath": "../x"}},
        "subpath must be a relative path within the volume",
    ),
    ({"Type": "image", "Target": "/m"}, "field Source must not be empty"),
    (VOLUME | {"TmpfsOptions": {"Mode": 5}}, "field TmpfsOptions must not be specified"),
    (VOLUME | {"ImageOptions": {"Subpath": "x"}}, "field ImageOptions must not be specified"),
    (VOLUME | {"ClusterOptions": {}}, "field ClusterOptions must not be specified"),
    (TMPFS | {"VolumeOptions": {"NoCopy": True}}, "field VolumeOptions must not be specified"),
    (TMPFS | {"TmpfsOptions": {"Options": [["wat"]]}}, "invalid option: wat"),
]


@pytest.mark.parametrize("table", ["all", pytest.param("28", marks=needs_docker28)])
def test_a_mount_that_cannot_be_is_refused_before_anything_is_made(api: Api, table: str) -> None:
    for mount, words in REFUSED if table == "all" else REFUSED_28:
        body = {"Image": "busybox", "HostConfig": {"Mounts": [mount]}}
        refused = api.send("POST", "/containers/create", body)
        expected = f'invalid mount config for type "{mount["Type"]}": {words}'
        assert refused.status == 400 and refused.message == expected, mount
    assert api.get("/containers/json", all=1) == [] and not api.get("/volumes")["Volumes"]


@needs_docker28
def test_a_missing_source_of_a_bind_is_made_where_that_is_asked_for(api: Api, tmp_path: Path) -> None:
    missing = tmp_path / "not/yet"
    mount = {"Type": "bind", "Source": str(missing), "Target": "/m", "Consistency": "delegated"}
    body = {"Image": "busybox", "Cmd": ["touch", "/m/file"], "HostConfig": {"Mounts": [mount]}}
    refused = api.send("POST", "/containers/create", body)
    assert refused.status == 400 and f"bind source path does not exist: {missing}" in refused.message
    mount["BindOptions"] = {"CreateMountpoint": True}  # type: ignore[assignment]
    assert api.wait(api.run("touch", "/m/file", HostConfig=body["HostConfig"])) == 0
    assert (missing / "file").exists()


def test_a_volume_of_a_driver_that_is_not_there_is_refused_however_it_is_asked_for(api: Api) -> None:
    words = 'error looking up volume plugin wat: plugin "wat" not found'
    mount = {"Type": "volume", "Target": "/m", "Source": "v", "VolumeOptions": {"DriverConfig": {"Name": "wat"}}}
    for host in ({"Binds": ["v:/m"], "VolumeDriver": "wat"}, {"Mounts": [mount]}):
        refused = api.send("POST", "/containers/create", {"Image": "busybox", "HostConfig": host})
        assert refused.status == 404 and words in refused.message
    refused = api.send("POST", "/volumes/create", {"Name": "v", "Driver": "wat"})
    assert refused.status == 404 and words in refused.message
    assert api.get("/containers/json", all=1) == [] and not api.get("/volumes")["Volumes"]


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_a_restarted_daemon_knows_whose_mounts_a_volumes_are(pierd: Pierd, way: str) -> None:
    api = pierd.api
    for name in ("kept", "left"):
        options = {"type": "tmpfs", "device": "tmpfs"}
        api.ok("POST", "/volumes/create", {"Name": name, "DriverOpts": options})
    kept = api.run("sleep", "1000", HostConfig={"Binds": ["kept:/m"]})
    left = api.run("sleep", "1000", HostConfig={"Binds": ["left:/m"]})
    inside(api, kept, "echo x > /m/file")
    if way == "stop":
        pierd.stop()
    else:
        pierd.kill()
    pierd.start()
    api.ok("DELETE", f"/containers/{left}", force=1)
    second = api.run("sleep", "1000", HostConfig={"Binds": ["kept:/m"]})
    assert inside(api, second, "cat /m/file") == "x\n"
    data = pierd.data_root / "volumes"
    assert os.path.ismount(data / "kept/_data") and not os.path.ismount(data / "left/_data")
