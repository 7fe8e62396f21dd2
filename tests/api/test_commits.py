"""``commit`` and ``export``: what a container has become, as an image and as an archive."""

import io
import json
import tarfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.harness.api import Api
from tests.harness.engines import Engine
from tests.harness.images import config_of, digest, tar
from tests.harness.processes import wait_until

CHANGE = (
    "rm /etc/os-release; rm -r /var/tmp; mkdir /var/tmp; echo new >/var/tmp/new; echo BZh >/BZh91AY; "
    "ln /var/tmp/new /home/hard; ln -s /etc /home/soft; mkfifo /home/fifo; chown 33:10 /home/hard; "
    "chmod 4755 /var/tmp/new; echo v >/data/kept"
)

STATUS = pytest.mark.needs_docker28("the status of a bad reference")
TMPFS = {"Tmpfs": {"/tm": ""}}
LAYERS = tar({"one": "1"}), tar({"two": "2"})
BASE, CHILD = config_of(LAYERS[:1]), config_of(LAYERS)
"""Of two images of an archive, the second with a step and a layer more."""


@pytest.fixture
def api(engine: Engine) -> Iterator[Api]:
    yield engine.api
    engine.forget()
    for image in engine.api.get("/images/json"):
        for tag in image["RepoTags"] or [image["Id"]]:
            if tag not in ("busybox:latest", "web:latest"):
                engine.api.send("DELETE", f"/images/{image['Id'] if tag == '<none>:<none>' else tag}", force=1)


def test_a_commit_is_an_image_with_what_the_container_had_changed(engine: Engine, api: Api) -> None:
    engine.docker(
        *("run", "--name", "box", "-v", "/data", "-e", "A=b", "-l", "x=y", "--hostname", "h", "-w", "/home"),
        *("busybox", "sh", "-c", CHANGE),
    ).check()
    options = ["-c", "EXPOSE 80", "-a", "Me <me@x>", "-m", "why", "-c", 'CMD ["cat", "new"]', "-c", "ENV A=c D=e"]
    for client in (engine.docker, engine.pier) if engine.kind == "pierd" else (engine.docker,):
        id = client("commit", *options, "-c", "WORKDIR /var/tmp", "box", "made/of:box").check().stdout.strip()
        seen = api.get("/images/made/of:box/json")
        assert (seen["Id"], seen["Author"], seen["Comment"]) == (id, "Me <me@x>", "why")
        # What Compose 1 reads of an image before it recreates a container.
        assert seen["Container"] == api.get("/containers/box/json")["Id"]
        assert seen["ContainerConfig"]["Cmd"] == ["sh", "-c", CHANGE]
        assert api.get("/images/busybox/json")["ContainerConfig"]["Volumes"] is None
        config = seen["Config"]
        assert config["Cmd"] == ["cat", "new"] and config["WorkingDir"] == "/var/tmp"
        assert {"A=c", "D=e"} <= set(config["Env"]) and "80/tcp" in config["ExposedPorts"]
        assert config["Labels"] == {"x": "y"} and config["Volumes"] == {"/data": {}}
        base = api.get("/images/busybox/json")["RootFS"]["Layers"]
        assert seen["RootFS"]["Layers"][:-1] == base
    assert seen["Architecture"] == api.get("/images/busybox/json")["Architecture"]
    step = api.get("/images/made/of:box/history")[0]
    assert step["CreatedBy"] == f"sh -c {CHANGE}" and step["Comment"] == "why" and step["Size"] > 0
    show = "cat new; stat -c '%a %u %g %h' new; ls /var/tmp /data /etc/os-release; readlink /home/soft; cat /BZh91AY"
    said = api.output("sh", "-c", show, image="made/of:box").split("\n")
    assert "4755 33 10 2" in said and "ls: /etc/os-release: No such file or directory" in said
    assert {"/etc", "BZh"} <= set(said) and "kept" not in said


def test_nothing_changed_is_no_layer_and_an_entrypoint_forgets_the_command(api: Api) -> None:
    id = api.create("echo", "hi", Entrypoint=["env"])
    made = api.ok("POST", f"/commit?container={id}", changes='ENTRYPOINT ["sh"]', author="").json["Id"]
    image = api.get(f"/images/{made}/json")
    assert image["RootFS"] == api.get("/images/busybox/json")["RootFS"]
    assert image["Config"]["Entrypoint"] == ["sh"] and not image["Config"].get("Cmd")
    assert image["RepoTags"] in ([], ["<none>:<none>"]) or not image["RepoTags"]
    assert api.get(f"/images/{made}/history")[0]["Size"] == 0
    # The body is a configuration in the place of the container's, completed by it.
    other = api.ok("POST", f"/commit?container={id}&repo=other", {"Cmd": ["x"], "Env": ["PATH=/p"]}).json["Id"]
    config = api.get(f"/images/{other}/json")["Config"]
    assert config["Cmd"] == ["x"] and config["Env"] == ["PATH=/p"]
    assert api.get("/images/other:latest/json")["Id"] == other


def test_an_image_stays_below_what_was_committed_on_it_and_goes_with_the_last_of_it(api: Api) -> None:
    base = made(api, api.create("sleep", "1"), "below")
    for name in ("one", "two"):
        id = api.create("sleep", "1", image="below", name=name)
        made(api, id, name)
        api.ok("DELETE", f"/containers/{id}")
    child = api.get("/images/one/json")
    assert child["Parent"] == base
    steps = api.get("/images/one/history")
    assert [(step["Id"], step["Tags"]) for step in steps[:2]] == [
        (child["Id"], ["one:latest"]), (base, ["below:latest"]),
    ]  # fmt: skip
    for name in (base, base[7:19]):
        answer = api.send("DELETE", f"/images/{name}", force=1)
        said = f"conflict: unable to delete {base[7:19]} (cannot be forced) - image has dependent child images"
        assert (answer.status, answer.message) == (409, said)
    assert api.ok("DELETE", "/images/below", force=1).json == [{"Untagged": "below:latest"}]
    # Without a name it is shown to those who ask for all, and pruned by nobody.
    assert base not in {image["Id"] for image in api.get("/images/json")}
    assert {image["ParentId"] for image in api.get("/images/json", all=1) if image["RepoTags"]} >= {base}
    assert not api.ok("POST", "/images/prune").json["ImagesDeleted"]
    assert base not in str(api.ok("DELETE", "/images/one").json)
    gone = api.ok("DELETE", "/images/two").json
    assert {"Deleted": base} in gone and gone[0] == {"Untagged": "two:latest"}
    assert api.send("GET", f"/images/{base}/json").status == 404


def test_parents_stay_when_they_are_not_to_be_pruned(api: Api) -> None:
    base = made(api, api.create("sleep", "1"), "below")
    id = api.create("sleep", "1", image="below")
    made(api, id, "above")
    api.ok("DELETE", f"/containers/{id}")
    api.ok("DELETE", "/images/below")
    api.ok("DELETE", "/images/above", noprune=1)
    assert api.get(f"/images/{base}/json")["RepoTags"] in ([], None)
    assert {"Deleted": base} in api.ok("POST", "/images/prune").json["ImagesDeleted"]


def test_who_is_whose_parent_is_saved_and_loaded(api: Api) -> None:
    base = made(api, api.create("sleep", "1"), "below")
    id = api.create("sleep", "1", image="below")
    child = made(api, id, "above")
    api.ok("DELETE", f"/containers/{id}")
    both = api.ok("GET", "/images/get?names=above&names=below").body
    alone = api.ok("GET", "/images/get?names=above").body
    assert {item.get("Parent") for item in saved_items(both)} == {base, None} and "Parent" not in saved_items(alone)[0]
    api.ok("DELETE", "/images/above")
    api.ok("DELETE", "/images/below")
    load(api, both)
    assert api.get("/images/above/json")["Parent"] == base and not api.get("/images/below/json")["Parent"]
    assert api.send("DELETE", f"/images/{base}", force=1).status == 409
    gone = api.ok("DELETE", "/images/below").json + api.ok("DELETE", "/images/above").json
    assert {"Deleted": base} in gone and {"Deleted": child} in gone
    load(api, alone)
    assert not api.get("/images/above/json")["Parent"]


def test_a_loaded_image_has_no_parent_that_did_not_come_with_it(api: Api) -> None:
    """Else whoever made the archive could have it that an image that is here stays."""
    for parent in (digest(CHILD), api.get("/images/busybox/json")["Id"]):
        load(api, archive(BASE, CHILD, {digest(CHILD): parent}))
        assert not api.get("/images/child/json")["Parent"]
        assert {"Deleted": digest(CHILD)} in api.ok("DELETE", "/images/child").json


@pytest.mark.parametrize(
    ("base", "child", "circle"),
    [
        (BASE, CHILD, True),
        (BASE.replace(b"layer 0", b"layer X"), CHILD, False),
        pytest.param(
            config_of(LAYERS[1:]), CHILD, False,
            marks=pytest.mark.only_pierhead("Docker compares what histories say alone"),
        ),
    ],
    ids=["circle", "other history", "other layers"],
)  # fmt: skip
def test_an_archive_that_lies_about_parents_is_refused(
    engine: Engine, api: Api, base: bytes, child: bytes, circle: bool
) -> None:
    said = {digest(child): digest(base)} | ({digest(base): digest(child)} if circle else {})
    assert "is not a valid parent for sha256:" in load(api, archive(base, child, said))
    if engine.kind == "pierd":  # Docker has made the images by then
        assert {api.send("GET", f"/images/{name}/json").status for name in ("child", "base")} == {404}


def archive(base: bytes, child: bytes, parents: Mapping[str, str]) -> bytes:
    """Two images as docker-save writes them, with what it says of their parents."""
    layers = {digest(layer): layer for layer in LAYERS}
    files = {id[7:]: data for id, data in (layers | {digest(base): base, digest(child): child}).items()}
    items = [
        {
            "Config": digest(config)[7:],
            "RepoTags": [f"{name}:latest"],
            "Layers": [layer[7:] for layer in json.loads(config)["rootfs"]["diff_ids"]],
            "Parent": parents.get(digest(config), ""),
        }
        for config, name in ((child, "child"), (base, "base"))
    ]
    return tar({**files, "manifest.json": json.dumps(items)})


def saved_items(data: bytes) -> list[Any]:
    """manifest.json of an archive."""
    with tarfile.open(fileobj=io.BytesIO(data)) as saved:
        return list(json.load(saved.extractfile("manifest.json")))  # type: ignore[arg-type]


def load(api: Api, data: bytes) -> str:
    """What is said at a load: its error, or its stream."""
    answer = api.send("POST", "/images/load", raw=data, content_type="application/x-tar", quiet=1)
    return answer.message if answer.status >= 400 else answer.body.decode()


def made(api: Api, container: str, name: str) -> str:
    """The id of an image committed from a container."""
    return str(api.ok("POST", f"/commit?container={container}&repo={name}").json["Id"])


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("container=nobody", 404, "No such container: nobody"),
        pytest.param("container=box&repo=UPPER", 400, "must be lowercase", marks=STATUS),
        pytest.param("container=box&repo=a@sha256:" + "0" * 64, 400, "cannot import digest reference", marks=STATUS),
        ("container=box&changes=RUN+x", 400, "run is not a valid change command"),
    ],
)
def test_a_commit_that_cannot_be_is_refused(api: Api, query: str, status: int, words: str) -> None:
    api.create("true", name="box")
    refused = api.send("POST", f"/commit?{query}")
    assert (refused.status, words in refused.message) == (status, True), refused.message


@pytest.mark.parametrize("pause", [1, 0])
def test_a_running_container_stands_still_while_it_is_committed(api: Api, pause: int) -> None:
    id = api.run("sh", "-c", "echo 1 >/one; sleep 1000")
    begin = f"{time.time():.9f}"
    made = api.ok("POST", f"/commit?container={id}&pause={pause}&comment=c&repo=still").json["Id"]
    assert api.inspect(id)["State"]["Status"] == "running"
    events = api.ok("GET", "/events", since=begin, until=f"{time.time():.9f}").records
    told = [event for event in events if event["Type"] == "container"]
    assert [event["Action"] for event in told] == (["pause", "commit", "unpause"] if pause else ["commit"])
    attributes = told[pause]["Actor"]["Attributes"]
    assert (attributes["comment"], attributes["imageID"]) == ("c", made)
    assert attributes["imageRef"] in ("still:latest", "still")  # 20.10 leaves the tag out


def test_an_export_is_the_files_without_what_is_mounted(engine: Engine, api: Api) -> None:
    id = api.run("sh", "-c", CHANGE + "; echo done; sleep 1000", Volumes={"/data": {}}, HostConfig=TMPFS)
    wait_until(lambda: b"done" in api.logs(id), "the changes")
    answer = api.ok("GET", f"/containers/{id}/export")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
        found = {member.name: member for member in tar.getmembers()}
        assert tar.extractfile(found["BZh91AY"]).read() == b"BZh\n"  # type: ignore[union-attr]
    assert found[".dockerenv"].isfile() and not found["etc/hosts"].size
    assert "etc/os-release" not in found and "data/kept" not in found and "bin/busybox" in found
    assert found["home/soft"].issym() and found["home/fifo"].isfifo()
    new = found["var/tmp/new"]
    assert (new.mode & 0o7777, new.uid, new.gid) == (0o4755, 33, 10)
    assert engine.docker("import", "-", "again", stdin=answer.body).check()
    assert api.output("cat", "/home/hard", image="again") == "new\n"
    if engine.kind == "pierd":
        for client in (engine.docker, engine.pier):
            target = engine.root / f"{client.__name__}.tar"
            assert client("export", "-o", str(target), id).check().stdout == ""
            assert target.read_bytes() == answer.body
            refused = client("export", "-o", "/nowhere/x", id)
            assert refused.stderr.startswith("failed to export container: invalid output path: ")
    assert api.send("GET", "/containers/nobody/export").status == 404
