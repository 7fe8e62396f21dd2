"""`push`: what arrives in a registry is the same image, each layer sent once; skopeo is the judge."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.engines import PEERS, Engine, peers_environment
from tests.harness.images import (
    MANIFEST,
    busybox_rootfs,
    compressed,
    config_of,
    digest,
    docker_archive,
    oci_manifest,
    tar,
)
from tests.harness.processes import run
from tests.harness.registry import PASSWORD, USER, Registry
from tests.harness.registry import registry as started_registry
from tests.harness.tokens import token_server

LAYERS = (tar({"bin/cargo": "first\n"}), tar({"etc/pushed": "over the wire\n"}))
CLIENTS = ("docker", "pier")
OTHER = 5002
INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture
def registry(own_engine: Engine, peers: Path, tmp_path: Path) -> Iterator[Registry]:
    with started_registry(own_engine.host, tmp_path) as made:
        yield made


def skopeo(engine: Engine, *arguments: str) -> str:
    program = engine.host.argv(str(PEERS / "usr/bin/skopeo"), "--insecure-policy", *arguments)
    return run(program, env=peers_environment()).check().stdout


def inspected(engine: Engine, name: str) -> Any:
    return json.loads(skopeo(engine, "inspect", "--raw", "--tls-verify=false", f"docker://{name}"))


def clients(engine: Engine) -> tuple[str, ...]:
    return CLIENTS if engine.kind == "pierd" else ("docker",)


def test_what_was_pulled_is_pushed_with_the_very_same_blobs(own_engine: Engine, registry: Registry) -> None:
    original = registry.push("team/app", "v1", LAYERS)
    source = f"{registry.address}/team/app:v1"
    own_engine.docker("pull", source).check()
    blobs = [digest(compressed(layer)) for layer in LAYERS]
    for program in clients(own_engine):
        client = own_engine.docker if program == "docker" else own_engine.pier
        name = f"{registry.address}/team/{program}:v2"
        client("tag", source, name).check()
        said = client("push", name).check()
        assert said.lines[0] == f"The push refers to repository [{registry.address}/team/{program}]"
        assert said.stdout.count("Mounted from team/") == 2 and "Pushed" not in said.stdout
        pushed = inspected(own_engine, name)
        assert [layer["digest"] for layer in pushed["layers"]] == blobs
        again = client("push", name).check()
        assert again.stdout.count("Layer already exists") == 2
        assert again.lines[-1] == said.lines[-1] and again.lines[-1].startswith("v2: digest: sha256:")
        assert client("push", "-q", name).check().stdout == f"{name}\n"
    listed = own_engine.api.get("/images/json", digests=1)
    names = next(image["RepoDigests"] for image in listed if source in image["RepoTags"])
    assert f"{registry.address}/team/app@{original}" in names
    assert any(entry.startswith(f"{registry.address}/team/docker@sha256:") for entry in names)


@pytest.mark.needs_docker28("layers of zstd")
def test_what_skopeo_made_of_a_saved_image_is_pulled_for_its_platform_and_goes_on_as_it_is(
    own_engine: Engine, registry: Registry, tmp_path: Path
) -> None:
    """An OCI index of two platforms; one image of it came from `save`, its layers are zstd by now."""
    own_engine.docker("load", stdin=docker_archive(LAYERS, ["saved:1"])).check()
    id = own_engine.api.get("/images/saved:1/json")["Id"]
    own_engine.docker("save", "-o", f"{tmp_path}/saved", "saved:1").check()
    own_engine.docker("rmi", "saved:1").check()
    name = f"{registry.address}/team/both"
    zstd = ("--format", "oci", "--dest-compress-format", "zstd", "--dest-tls-verify=false")
    skopeo(own_engine, "copy", *zstd, f"oci-archive:{tmp_path}/saved", f"docker://{name}:here")
    here = skopeo(own_engine, "inspect", "--raw", "--tls-verify=false", f"docker://{name}:here").encode()
    blobs = [layer["digest"] for layer in json.loads(here)["layers"]]
    assert {layer["mediaType"][-5:] for layer in json.loads(here)["layers"]} == {"+zstd"}
    config = config_of(LAYERS, architecture="s390x")
    registry.push("team/both", "other", LAYERS, config, docker=False)
    other = oci_manifest(config, [compressed(layer) for layer in LAYERS])
    machine = json.loads(config_of(LAYERS))["architecture"]
    entries = [
        {"mediaType": MANIFEST, "digest": digest(text), "size": len(text), "platform": {"os": "linux", **of}}
        for text, of in ((other, {"architecture": "s390x"}), (here, {"architecture": machine}))
    ]
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    registry.request("PUT", "/v2/team/both/manifests/v1", index, INDEX)
    known = own_engine.api.get(f"/distribution/{name}:v1/json")
    assert known["Descriptor"]["digest"] == digest(index)
    assert [platform["architecture"] for platform in known["Platforms"]] == ["s390x", machine]
    own_engine.docker("pull", "--platform", "linux/s390x", f"{name}:v1").check()
    assert own_engine.api.get(f"/images/{name}:v1/json")["Id"] == digest(config)
    own_engine.docker("rmi", f"{name}:v1").check()
    assert f"Digest: {digest(index)}" in own_engine.docker("pull", f"{name}:v1").check().stdout
    assert own_engine.api.get(f"/images/{name}:v1/json")["Id"] == id
    own_engine.docker("tag", f"{name}:v1", f"{name}-copy:1").check()
    assert own_engine.docker("push", f"{name}-copy:1").check().stdout.count("Mounted from team/both") == 2
    assert [layer["digest"] for layer in inspected(own_engine, f"{name}-copy:1")["layers"]] == blobs


@pytest.mark.needs_docker28("a push of the API without X-Registry-Auth")
def test_what_was_never_a_blob_is_compressed_and_comes_back_the_same(
    own_engine: Engine, registry: Registry, tmp_path: Path
) -> None:
    own_engine.provide_images()
    image = own_engine.api.get("/images/busybox:latest/json")["Id"]
    name = f"{registry.address}/made/here"
    for tag in ("one", "two"):
        own_engine.docker("tag", "busybox", f"{name}:{tag}").check()
    lines = own_engine.api.ok("POST", f"/images/{name}/push", tag="one").records
    assert any(line.get("status") == "Pushed" for line in lines)
    aux = lines[-1]["aux"]
    assert aux["Tag"] == "one" and lines[-2]["status"] == f"one: digest: {aux['Digest']} size: {aux['Size']}"
    # skopeo refuses layers and configurations that are not what their digests say.
    skopeo(own_engine, "copy", "--src-tls-verify=false", f"docker://{name}:one", f"dir:{tmp_path}/copy")
    assert json.loads((tmp_path / "copy/manifest.json").read_bytes())["config"]["digest"] == image
    every = own_engine.docker("push", "-a", name).check()
    assert "one: digest: " in every.stdout and "two: digest: " in every.stdout
    assert every.stdout.count("Layer already exists") == 2
    own_engine.docker("rmi", "-f", image).check()
    own_engine.docker("pull", f"{name}@{aux['Digest']}").check()
    assert own_engine.api.get(f"/images/{name}@{aux['Digest']}/json")["Id"] == image


def test_what_cannot_be_pushed_is_said(own_engine: Engine, registry: Registry) -> None:
    name = f"{registry.address}/not/here"
    for program in clients(own_engine):
        client = own_engine.docker if program == "docker" else own_engine.pier
        missing = client("push", f"{name}:v1")
        assert missing.status == 1
        assert missing.stderr == f"An image does not exist locally with the tag: {name}\n"
    own_engine.provide_images()
    own_engine.docker("tag", "busybox", f"{name}:v1").check()
    other = own_engine.docker("push", f"{name}:v2")
    assert other.status == 1 and other.stderr == f"tag does not exist: {name}:v2\n"
    own_engine.docker("tag", "busybox", "127.0.0.1:5999/not/there").check()
    gone = own_engine.docker("push", "127.0.0.1:5999/not/there")
    assert gone.status == 1 and "connection refused" in gone.stderr


def test_a_push_asks_the_token_server_for_what_it_does(own_engine: Engine, peers: Path, tmp_path: Path) -> None:
    own_engine.provide_images()
    with (
        token_server(own_engine.host, tmp_path) as tokens,
        started_registry(own_engine.host, tmp_path, auth=tokens.settings) as harbour,
    ):
        name = f"{harbour.address}/team/one:v1"
        own_engine.docker("tag", "busybox", name).check()
        refused = own_engine.docker("push", name)
        assert refused.status == 1 and ("denied" in refused.stderr or "unauthorized" in refused.stderr)
        own_engine.docker("login", "-u", USER, "-p", PASSWORD, harbour.address).check()
        tokens.scopes.clear()
        own_engine.docker("push", name).check()
        assert "repository:team/one:pull,push" in tokens.scopes or "repository:team/one:push,pull" in tokens.scopes
        own_engine.docker("tag", "busybox", f"{harbour.address}/team/two:v1").check()
        second = own_engine.docker("push", f"{harbour.address}/team/two:v1").check()
        assert "Mounted from team/one" in second.stdout and "repository:team/one:pull" in tokens.scopes


@pytest.fixture
def other(own_engine: Engine, peers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with started_registry(own_engine.host, tmp_path_factory.mktemp("other"), OTHER) as made:
        yield made


def kept(engine: Engine) -> set[str]:
    return {"sha256:" + path.name for path in (engine.data_root / "blobs/sha256").iterdir()}


@pytest.mark.only_pierhead("Docker makes blobs and manifest anew")
def test_the_very_bytes_that_were_pulled_go_to_another_registry(
    own_engine: Engine, other: Registry, tmp_path: Path
) -> None:
    with started_registry(own_engine.host, tmp_path) as registry:
        original = registry.push("team/app", "v1", LAYERS, docker=False)
        source = f"{registry.address}/team/app:v1"
        own_engine.docker("pull", source).check()
    blobs = {digest(compressed(layer)) for layer in LAYERS}
    assert kept(own_engine) == blobs
    name = f"{other.address}/harbour/app:v1"
    own_engine.docker("tag", source, name).check()
    said = own_engine.docker("push", name).check()
    assert said.stdout.count(": Pushed") == 2 and f"v1: digest: {original} " in said.stdout
    own_engine.docker("rmi", source, name).check()
    assert kept(own_engine) == set()
    own_engine.docker("pull", f"{name.removesuffix(':v1')}@{original}").check()


@pytest.mark.only_pierhead("Docker makes blobs and manifest anew")
def test_blobs_that_were_dropped_are_fetched_from_where_they_came_or_said_to_be_others(
    own_engine: Engine, other: Registry, tmp_path: Path
) -> None:
    own_engine.stop()
    own_engine.start("--compressed-blobs", "drop")
    name = f"{other.address}/harbour/app"
    with started_registry(own_engine.host, tmp_path) as registry:
        original = registry.push("team/app", "v1", LAYERS)
        source = f"{registry.address}/team/app:v1"
        own_engine.docker("pull", source).check()
        for tag in ("one", "two"):
            own_engine.docker("tag", source, f"{name}-{tag}").check()
        said = own_engine.api.ok("POST", f"/images/{name}-one/push", tag="latest").body.decode()
        assert said.count(f"Fetching from {registry.address}/team/app") == 2 and original in said
        assert kept(own_engine) == set()
        # What is not in the one registry any more, and the other is gone:
        registry.push("team/plain", "v1", (tar({"etc/other": "x\n"}),))
        own_engine.docker("pull", f"{registry.address}/team/plain:v1").check()
        own_engine.docker("tag", f"{registry.address}/team/plain:v1", f"{name}-plain").check()
    said = own_engine.api.ok("POST", f"/images/{name}-plain/push", tag="latest").body.decode()
    assert "Compressing: the blob that was pulled is not to be had" in said and '"Pushed"' in said


@pytest.mark.only_pierhead("Docker fetches a layer that it has no blob of")
def test_what_was_here_before_the_pull_is_known_in_its_repository_and_nowhere_else(
    own_engine: Engine, registry: Registry
) -> None:
    own_engine.provide_images()  # the layer is here, and no blob of it
    registry.push("team/base", "v1", (busybox_rootfs(),))
    source, copy = f"{registry.address}/team/base:v1", f"{registry.address}/team/copy:v1"
    assert "Already exists" in own_engine.docker("pull", source).check().stdout
    assert "Layer already exists" in own_engine.docker("push", source).check().stdout
    own_engine.docker("tag", source, copy).check()
    assert "Pushed" in own_engine.docker("push", copy).check().stdout
