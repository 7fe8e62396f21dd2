"""Images without the internet: imported, loaded, saved, pulled from a registry on loopback, tagged, removed, pruned."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.api import Api
from tests.harness.engines import Engine
from tests.harness.images import busybox_rootfs, config_of, digest, docker_archive, oci_archive, oci_manifest, tar
from tests.harness.registry import Answers, Registry, serving_registry
from tests.harness.registry import registry as started_registry

TAR = "application/x-tar"
LAYERS = (busybox_rootfs(), tar({"etc/second": "second layer\n"}), tar({"etc/.wh.os-release": ""}))


@pytest.fixture
def api(engine: Engine) -> Iterator[Api]:
    before = {tag for image in engine.api.get("/images/json") for tag in image["RepoTags"] or []}
    yield engine.api
    engine.forget()
    for image in engine.api.get("/images/json"):
        tags = [tag for tag in image["RepoTags"] or [] if tag != "<none>:<none>"]
        for tag in tags or [image["Id"]]:
            if tag not in before:
                engine.api.send("DELETE", f"/images/{tag}", force=1)


def load(api: Api, archive: bytes) -> str:
    answer = api.ok("POST", "/images/load", raw=archive, content_type=TAR, quiet=1)
    return "".join(record.get("stream", "") for record in answer.records)


def refused(api: Api, archive: bytes) -> str:
    """What loading this says; it must be an error in the stream, where clients look for it."""
    answer = api.ok("POST", "/images/load", raw=archive, content_type=TAR, quiet=1)
    errors = [record["error"] for record in answer.records if "error" in record]
    assert errors, f"loaded: {answer.body!r}"
    return str(errors[0])


def test_an_imported_image_tells_about_itself(api: Api) -> None:
    answer = api.ok(
        "POST",
        "/images/create?changes=ENV%20A%3Db&changes=CMD%20%5B%22id%22%5D",
        raw=busybox_rootfs(),
        content_type=TAR,
        fromSrc="-",
        repo="mine",
        tag="1",
        message="made by a test",
    )
    id = answer.records[-1]["status"]
    seen = api.get("/images/mine:1/json")
    assert seen["Id"] == id and seen["RepoTags"] == ["mine:1"] and seen["Os"] == "linux"
    assert seen["Config"]["Env"] == ["A=b"] and seen["Config"]["Cmd"] == ["id"]
    assert seen["RootFS"] == {"Type": "layers", "Layers": [digest(busybox_rootfs())]}
    assert seen["Size"] > 1_000_000
    assert api.get("/images/mine:1/history")[0]["Comment"] in ("made by a test", "Imported from -")
    assert "uid=0" in api.output("id", image="mine:1")


def test_an_archive_is_imported_from_where_it_lies(engine: Engine, api: Api) -> None:
    answers = Answers()
    answers.bodies["/files/root.tar.gz"] = gzip.compress(busybox_rootfs())
    answers.bodies["/files/broken.tar.gz"] = gzip.compress(os.urandom(100_000))
    answers.moved = {"/latest": "/files/root.tar.gz", "/round": "/round"}
    answers.break_once = {"/files/broken.tar.gz"}
    with serving_registry(engine.host, answers) as address:
        for client in (engine.docker, engine.pier) if engine.kind == "pierd" else (engine.docker,):
            said = client("import", "-c", "CMD id", f"http://{address}/latest", "fetched:1").check()
            assert said.lines[0] == f"Downloading from http://{address}/latest" and "sha256:" in said.lines[-1]
            assert api.get("/images/fetched:1/json")["RootFS"]["Layers"] == [digest(busybox_rootfs())]
            assert api.get("/images/fetched:1/history")[0]["Comment"] == f"Imported from http://{address}/latest"
        for path, words in (
            ("nothing", f"failed to GET http://{address}/nothing with status 404 Not Found"),
            ("round", "stopped after 10 redirects"),
            ("files/broken.tar.gz", ""),
        ):
            missing = engine.docker("import", f"http://{address}/{path}", "not:1")
            assert missing.status == 1 and words in missing.stderr, missing
    assert "connection refused" in engine.docker("import", f"http://{address}/latest").stderr
    assert api.send("GET", "/images/not:1/json").status == 404


@pytest.mark.parametrize("kind", ["docker-save", "oci-layout"])
def test_an_archive_has_the_id_of_its_configuration(api: Api, engine: Engine, kind: str) -> None:
    if kind == "oci-layout" and engine.kind == "docker":
        pytest.skip("Debian's dockerd 20.10 loads no OCI layout")
    config = config_of(LAYERS, ["cat", "/etc/second"])
    archive = (
        docker_archive(LAYERS, ["loaded:1"], config)
        if kind == "docker-save"
        else oci_archive(LAYERS, "loaded:1", config)
    )
    assert "Loaded image: loaded:1" in load(api, archive)
    seen = api.get("/images/loaded:1/json")
    assert seen["Id"] == digest(config)
    assert seen["RootFS"]["Layers"] == [digest(layer) for layer in LAYERS]
    assert api.output(image="loaded:1") == "second layer\n"
    assert "No such file" in api.output("cat", "/etc/os-release", image="loaded:1"), "a whiteout hides what is below"
    assert len(api.get("/images/loaded:1/history")) == 3


@pytest.mark.needs_docker28("OCI layouts")
def test_an_image_with_attestations_beside_it_is_loaded_without_them(api: Api) -> None:
    with tarfile.open(fileobj=io.BytesIO(oci_archive(LAYERS[1:2], "attested:1"))) as plain:
        files: dict[str, bytes | str] = {
            member.name: file.read() for member in plain.getmembers() if (file := plain.extractfile(member))
        }
    statement, nowhere = b'{"_type": "https://in-toto.io/Statement/v0.1"}', {"architecture": "unknown", "os": "unknown"}
    config = json.dumps({**nowhere, "rootfs": {"type": "layers", "diff_ids": [digest(statement)]}}).encode()
    manifest = oci_manifest(config, [statement])
    index = json.loads(files["index.json"])
    image = index["manifests"][0]
    marks = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image["digest"]}
    attestation = {"mediaType": image["mediaType"], "digest": digest(manifest), "size": len(manifest)}
    index["manifests"] = [{**attestation, "platform": nowhere}, image, {**attestation, "annotations": marks}]
    files |= {"blobs/sha256/" + digest(blob)[7:]: blob for blob in (config, manifest, statement)}
    assert "Loaded image: attested:1" in load(api, tar({**files, "index.json": json.dumps(index)}))
    assert api.get("/images/attested:1/json")["RootFS"]["Layers"] == [digest(LAYERS[1])]
    index["manifests"] = [{**attestation, "annotations": marks}]
    assert "no image in it" in refused(api, tar({**files, "index.json": json.dumps(index)}))


def test_what_was_saved_can_be_loaded_again_with_the_same_id(api: Api) -> None:
    load(api, docker_archive(LAYERS, ["again:1"]))
    id = api.get("/images/again:1/json")["Id"]
    saved = api.ok("GET", "/images/again:1/get").body
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert manifest[0]["RepoTags"] == ["again:1"]
        config = archive.extractfile(manifest[0]["Config"])
        assert config is not None and "sha256:" + hashlib.sha256(config.read()).hexdigest() == id
        for path, layer in zip(manifest[0]["Layers"], LAYERS, strict=True):
            member = archive.extractfile(path)
            assert member is not None and digest(member.read()) == digest(layer), "the layers byte for byte"
    api.ok("DELETE", "/images/again:1")
    load(api, saved)
    assert api.get("/images/again:1/json")["Id"] == id


def test_several_images_are_saved_in_one_archive(api: Api) -> None:
    load(api, docker_archive(LAYERS[:1], ["one:1"]))
    load(api, docker_archive(LAYERS[:2], ["two:1"]))
    saved = api.ok("GET", "/images/get?names=one:1&names=two:1").body
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert {tag for entry in manifest for tag in entry["RepoTags"]} == {"one:1", "two:1"}
    for name, words in (("three", "No such image: three"), ("one:2", "reference does not exist")):
        missing = api.send("GET", "/images/get", names=name)
        assert (missing.status, missing.message) == (404, words)


def test_archives_that_lie_or_escape_are_refused_and_leave_nothing(api: Api, tmp_path: Path) -> None:
    before = {image["Id"] for image in api.get("/images/json", all=1)}
    lying = config_of([b"something else"])
    assert refused(api, docker_archive(LAYERS[:1], ["lie:1"], lying))
    assert refused(api, tar({"manifest.json": "this is no json"}))
    assert refused(api, tar({"manifest.json": json.dumps([{"Config": "../../../etc/passwd", "Layers": []}])}))
    assert refused(api, b"this is no tar" * 100)
    assert {image["Id"] for image in api.get("/images/json", all=1)} == before


@pytest.mark.only_pierhead("dockerd accepts or clamps some of these")
@pytest.mark.parametrize("way", ["dots", "absolute-link", "hardlink"])
def test_layers_never_write_outside_of_their_folder(api: Api, tmp_path: Path, way: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:

        def add(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(data)
            archive.addfile(info, io.BytesIO(data))

        if way == "dots":
            add("../" * 12 + str(victim).lstrip("/"), data=b"changed")
        elif way == "absolute-link":
            add("out", tarfile.SYMTYPE, str(tmp_path))
            add("out/victim", data=b"changed")
        else:
            add("out", tarfile.LNKTYPE, str(victim))
            add("out", data=b"changed")
    layer = buffer.getvalue()
    api.send("POST", "/images/load", raw=docker_archive([layer], ["escape:1"]), content_type=TAR, quiet=1)
    assert victim.read_text() == "untouched"


def test_tags_are_names_of_one_image(api: Api) -> None:
    id = api.get("/images/busybox/json")["Id"]
    assert api.ok("POST", "/images/busybox/tag", repo="registry.example:5000/team/name", tag="v1").status == 201
    assert api.get("/images/registry.example:5000/team/name:v1/json")["Id"] == id
    bad = api.send("POST", "/images/busybox/tag", repo="UPPER", tag="x")
    assert bad.status in (400, 500) and "must be lowercase" in bad.message
    deleted = api.ok("DELETE", "/images/registry.example:5000/team/name:v1").json
    assert deleted == [{"Untagged": "registry.example:5000/team/name:v1"}]
    assert api.get("/images/busybox/json")["Id"] == id


def test_images_are_found_by_id_short_id_and_name(api: Api) -> None:
    id = api.get("/images/busybox/json")["Id"]
    for name in ("busybox", "busybox:latest", "docker.io/library/busybox", id, id[7:], id[7:19]):
        assert api.get(f"/images/{name}/json")["Id"] == id, name
    missing = api.send("GET", "/images/nothing/json")
    assert (missing.status, missing.message) == (404, "No such image: nothing:latest") or (
        "no such image: nothing" in missing.message.lower()
    )


def test_an_image_in_use_is_kept(api: Api) -> None:
    id = api.run("sleep", "1000")
    refusal = api.send("DELETE", "/images/busybox")
    assert refusal.status == 409 and "conflict: unable to remove repository reference" in refusal.message
    assert id[:12] in refusal.message
    assert api.send("DELETE", "/images/nothing").status == 404


def test_removing_the_last_name_removes_layers(api: Api) -> None:
    load(api, docker_archive(LAYERS, ["gone:1"]))
    deleted = api.ok("DELETE", "/images/gone:1").json
    assert {"Untagged": "gone:1"} in deleted
    assert any(entry.get("Deleted", "").startswith("sha256:") for entry in deleted)
    assert api.send("GET", "/images/gone:1/json").status == 404


def test_lists_are_filtered(api: Api) -> None:
    load(api, docker_archive(LAYERS, ["apple:1"]))

    def tags(**filters: list[str]) -> set[str]:
        return {tag for image in api.get("/images/json", filters=filters) for tag in image["RepoTags"] or []}

    assert tags(reference=["app*"]) == {"apple:1"}
    assert tags(reference=["apple:1"]) == {"apple:1"}
    assert tags(reference=["nothing"]) == set()
    assert tags(reference=["[^b]pple"]) == {"apple:1"}
    unclosed = api.send("GET", "/images/json", filters={"reference": ["["]})
    assert (unclosed.status >= 400, unclosed.message) == (True, "syntax error in pattern")
    assert "apple:1" in tags(dangling=["false"]) and "apple:1" not in tags(dangling=["true"])
    assert api.send("GET", "/images/json", filters={"bogus": ["x"]}).status == 400


def test_prune_takes_images_without_a_name(api: Api) -> None:
    load(api, docker_archive(LAYERS[:2], ["moving:1"]))
    old = api.get("/images/moving:1/json")["Id"]
    load(api, docker_archive(LAYERS, ["moving:1"]))
    assert api.get(f"/images/{old}/json")["RepoTags"] in ([], None)
    answer = api.ok("POST", "/images/prune").json
    assert {"Deleted": old} in answer["ImagesDeleted"]
    assert api.send("GET", f"/images/{old}/json").status == 404


@pytest.fixture
def registry(engine: Engine, peers: Path, tmp_path: Path) -> Iterator[Registry]:
    with started_registry(engine.host, tmp_path) as made:
        yield made


@pytest.mark.parametrize("docker", [True, False], ids=["docker-manifest", "oci-manifest"])
def test_an_image_is_pulled_from_a_registry(api: Api, registry: Registry, docker: bool) -> None:
    config = config_of(LAYERS)
    manifest = registry.push("team/app", "v1", LAYERS, config, docker)
    name = f"{registry.address}/team/app"
    answer = api.ok("POST", "/images/create", fromImage=name, tag="v1")
    said = [record.get("status", "") for record in answer.records]
    assert f"Digest: {manifest}" in said and f"Status: Downloaded newer image for {name}:v1" in said
    seen = api.get(f"/images/{name}:v1/json")
    assert seen["Id"] == digest(config) and seen["RepoDigests"] == [f"{name}@{manifest}"]
    again = api.ok("POST", "/images/create", fromImage=name, tag="v1")
    assert f"Status: Image is up to date for {name}:v1" in [record.get("status", "") for record in again.records]
    api.ok("DELETE", f"/images/{name}:v1")
    api.ok("POST", "/images/create", fromImage=name, tag=manifest)
    assert api.get(f"/images/{name}@{manifest}/json")["Id"] == digest(config)


def test_a_missing_image_or_registry_is_said(api: Api, registry: Registry) -> None:
    missing = api.send("POST", "/images/create", fromImage=f"{registry.address}/no/such", tag="v1")
    text = missing.body.decode()
    assert "not found" in text or "manifest unknown" in text
    nobody = api.send("POST", "/images/create", fromImage="127.0.0.1:5999/no/such", tag="v1", timeout=60)
    assert "connection refused" in nobody.body.decode().lower()
    bad = api.send("POST", "/images/create", fromImage="Not A Name")
    assert bad.status in (400, 500) and "invalid reference format" in bad.message
    digest_like = api.send("POST", "/images/busybox/tag", repo="sha256", tag="1")
    assert (digest_like.status, "refusing to create an ambiguous tag" in digest_like.message) == (400, True)


def test_a_registry_that_lies_about_a_layer_is_refused(api: Api, registry: Registry, tmp_path: Path) -> None:
    registry.push("team/lie", "v1", [tar({"unheard": "of\n" * 100_000, "other": "file"})])
    blobs = list((tmp_path / "registry").rglob("data"))
    large = max(blobs, key=lambda path: path.stat().st_size)
    content = bytearray(large.read_bytes())
    content[-100] ^= 0xFF
    large.write_bytes(bytes(content))
    answer = api.send("POST", "/images/create", fromImage=f"{registry.address}/team/lie", tag="v1")
    assert "error" in answer.body.decode()
    assert api.send("GET", f"/images/{registry.address}/team/lie:v1/json").status == 404


@pytest.mark.needs_docker28("platforms of images that are here")
def test_an_image_of_another_platform_than_asked_for_is_not_there(api: Api) -> None:
    older, api = Api(api.path, "v1.47"), Api(api.path, "v1.50")
    layers = [tar({"for": "somebody else"})]
    archive = docker_archive(layers, ["other:1"], config_of(layers, architecture="s390x"))
    api.ok("POST", "/images/load", raw=archive, content_type=TAR)
    here, other = (json.dumps({"os": "linux", "architecture": name}) for name in ("amd64", "s390x"))
    for what in ("json", "history", "get"):
        assert api.ok("GET", f"/images/other:1/{what}", platform=other).status == 200
        refused = api.send("GET", f"/images/other:1/{what}", platform=here)
        assert refused.status == 404, what
        assert refused.message == (
            "image with reference other:1 was found but its platform (linux/s390x) does not match the specified "
            "platform (linux/amd64)"
        )
    for wrong, words in (
        ("linux/amd64", "failed to parse platform"),
        ('{"os": "linux"}', "both OS and Architecture must be provided"),
        ('{"variant": "v7"}', "optional platform fields provided, but OS and Architecture are missing"),
    ):
        refused = api.send("GET", "/images/other:1/history", platform=wrong)
        assert refused.status == 400 and words in refused.message
    both = api.send("GET", "/images/other:1/json", platform=other, manifests=1)
    assert both.status == 400 and "manifests and platform options cannot both be set" in both.message
    for ours, told in ((older, False), (Api(api.path, "v1.44"), True)):
        assert ("ContainerConfig" in ours.get("/images/other:1/json")) is told
    # Older clients do not know of it.
    assert older.ok("GET", "/images/other:1/history", platform=here).status == 200
    assert api.send("DELETE", "/images/other:1", platforms=here).status == 404
    api.ok("DELETE", "/images/other:1", platforms=other)


@pytest.mark.needs_docker28("platforms of archives")
def test_of_an_archive_one_platform_can_be_loaded(api: Api) -> None:
    api = Api(api.path, "v1.50")
    layers = [tar({"for": "anybody"})]
    archive = docker_archive(layers, ["other:1"], config_of(layers, architecture="s390x"))
    here, other = (json.dumps({"os": "linux", "architecture": name}) for name in ("amd64", "s390x"))
    loaded = api.ok("POST", "/images/load", raw=archive, content_type=TAR, platform=here)
    assert loaded.records == [] and api.send("GET", "/images/other:1/json").status == 404
    api.ok("POST", "/images/load", raw=archive, content_type=TAR, platform=other)
    assert api.get("/images/other:1/json")["Architecture"] == "s390x"
    api.ok("DELETE", "/images/other:1")


def test_configurations_as_builders_have_written_them_are_loaded(api: Api) -> None:
    layer = busybox_rootfs()
    plain = json.loads(config_of([layer]))
    for name, change in (
        ("later", {"created": "2300-01-01T00:00:00Z"}),
        ("nulls", {"config": {"Cmd": ["sh"], "Labels": {"a": None, "b": "x"}, "Env": None}}),
        ("bare", {"os": "", "created": None}),
    ):
        assert f"Loaded image: {name}:1" in load(api, docker_archive([layer], [f"{name}:1"], encoded(plain | change)))
        assert api.output("echo", name, image=f"{name}:1") == f"{name}\n"
        assert api.get(f"/images/{name}:1/json")["Os"] == "linux"
    assert api.get("/images/nulls:1/json")["Config"]["Labels"] == {"a": "", "b": "x"}
    foreign = docker_archive([layer], ["foreign:1"], encoded(plain | {"os": "windows"}))
    assert refused(api, foreign) == "cannot load windows image on linux"


def encoded(config: dict[str, object]) -> bytes:
    return json.dumps(config).encode()
