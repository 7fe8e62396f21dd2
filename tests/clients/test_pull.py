"""`run` of an image that is not there: pulled from a registry first, and said."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness.api import UnixConnection
from tests.harness.engines import Engine, Pierd
from tests.harness.images import DOCKER_MANIFEST, busybox_rootfs, compressed, digest, docker_archive, oci_archive, tar
from tests.harness.processes import wait_until
from tests.harness.registry import Answers, Registry, serving_registry, stalling_registry
from tests.harness.registry import registry as started_registry

LAYERS = (busybox_rootfs(), tar({"etc/pulled": "over the wire\n"}))


@pytest.fixture
def registry(own_engine: Engine, peers: Path, tmp_path: Path) -> Iterator[Registry]:
    with started_registry(own_engine.host, tmp_path) as made:
        yield made


@pytest.mark.parametrize("program", ["docker", "pier"])
def test_run_of_a_missing_image_pulls_it_first(own_engine: Engine, registry: Registry, program: str) -> None:
    if program == "pier" and own_engine.kind != "pierd":
        pytest.skip("pier is tested with pierd")
    client = own_engine.docker if program == "docker" else own_engine.pier
    name = f"{registry.address}/team/app:v1"
    manifest = registry.push("team/app", "v1", LAYERS)
    said = client("run", "--rm", name, "cat", "/etc/pulled").check()
    assert said.stdout == "over the wire\n"
    assert f"Unable to find image '{name}' locally" in said.stderr
    assert f"Digest: {manifest}" in said.stderr and f"Status: Downloaded newer image for {name}" in said.stderr
    again = client("run", "--rm", name, "cat", "/etc/pulled").check()
    assert again.stderr == ""
    pulled = client("pull", name).check()
    assert f"Status: Image is up to date for {name}" in pulled.stdout and pulled.lines[-1] == name


def test_all_tags_are_pulled_at_once_and_what_is_here_is_said_to_be(own_engine: Engine, registry: Registry) -> None:
    name = f"{registry.address}/team/all"
    for tag in ("one", "two"):
        registry.push("team/all", tag, (*LAYERS, tar({"etc/tag": tag})))
    for outcome in ("Downloaded newer image", "Image is up to date"):
        said = own_engine.docker("pull", "-a", name).check().lines
        assert [line for line in said if line.startswith("Status: ")] == [f"Status: {outcome} for {name}"]
        assert {"one: Pulling from team/all", "two: Pulling from team/all"} <= set(said)
    assert not [line for line in said if "exists" in line], (
        "there is nothing to say of the layers of an image that is here"
    )
    assert own_engine.docker("images", "-q", name).check().stdout.count("\n") == 2


def test_a_registry_that_is_gone_is_said_and_run_has_status_125(own_engine: Engine) -> None:
    said = own_engine.docker("run", "--rm", "127.0.0.1:5000/team/app:v1", "true")
    assert said.status == 125 and "connection refused" in said.stderr


def test_two_pulls_of_one_layer_fetch_it_once(pierd: Pierd) -> None:
    with (
        stalling_registry(pierd.host, (tar({"a": "below"}), tar({"b": "above"}))) as registry,
        ThreadPoolExecutor() as pool,
    ):
        name, tag = registry.image.rsplit(":", 1)
        first = pool.submit(pierd.api.ok, "POST", "/images/create", fromImage=name, tag=tag)
        assert registry.stalled.wait(60)
        connection = UnixConnection(pierd.socket)
        connection.request("POST", f"/v1.41/images/create?fromImage={name}&tag={tag}")
        said = []
        for line in connection.getresponse():
            said.append(json.loads(line)["status"])
            if said[-1] == "Waiting":
                registry.go.set()
        connection.close()
        ends = sorted((first.result().records[-1]["status"], said[-1]))
    assert "Waiting" in said
    assert ends == [
        f"Status: Downloaded newer image for {registry.image}",
        f"Status: Image is up to date for {registry.image}",
    ]
    assert sorted(
        path.rpartition("/")[2] for path in registry.asked if path.endswith(tuple(registry.layers))
    ) == sorted(registry.layers)


def layers_on_disk(pierd: Pierd) -> set[str]:
    """Every file of every layer, and every other trace of one; not the places for layers to come, if they are empty."""
    folders = ("overlay2", "split", "tmp")
    found = {path.relative_to(pierd.data_root) for name in folders for path in (pierd.data_root / name).rglob("*")}
    return {str(path) for path in found if not (path.match("overlay2/places") or path.match("overlay2/places/*"))}


def test_a_layer_is_unpacked_while_the_one_below_it_still_comes(pierd: Pierd) -> None:
    images = [tar({"below/a": "1"}), tar({"below/b": "2"}), tar({"below/c": "3"})]
    with stalling_registry(pierd.host, images, stalls=0) as registry, ThreadPoolExecutor() as pool:
        name, tag = registry.image.rsplit(":", 1)
        pulling = pool.submit(pierd.api.ok, "POST", "/images/create", fromImage=name, tag=tag)
        wait_until(
            lambda: {"b", "c"} <= {path.rpartition("/")[2] for path in layers_on_disk(pierd)}, "the layers above"
        )
        assert not pulling.done() and pierd.api.send("GET", f"/images/{registry.image}/json").status == 404
        registry.go.set()
        pulling.result()
    assert pierd.api.get(f"/images/{registry.image}/json")["RootFS"]["Layers"] == [digest(one) for one in images]


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_a_pull_that_fails_in_one_layer_leaves_nothing_of_the_others(pierd: Pierd, wrong: int) -> None:
    answers = Answers()
    blobs = answers.image("app", [tar({name: name * 3_000_000}) for name in "abc"])
    answers.bodies[f"/v2/app/blobs/{digest(blobs[1 + wrong])}"] = blobs[1 + wrong][:-1] + b"x"
    before = layers_on_disk(pierd)
    with serving_registry(pierd.host, answers) as address:
        answer = pierd.api.send("POST", "/images/create", fromImage=f"{address}/app", tag="1")
        assert "error" in answer.records[-1]
    assert layers_on_disk(pierd) == before


def test_layers_whose_downloads_break_go_on_where_they_broke_all_at_once(pierd: Pierd) -> None:
    layers = [tar({name: os.urandom(2_000_000)}) for name in "abcd"]
    answers = Answers()
    blobs = {f"/v2/app/blobs/{digest(blob)}": len(blob) for blob in answers.image("app", layers)[1:]}
    answers.break_once = set(blobs)
    with serving_registry(pierd.host, answers) as address:
        said = pierd.api.ok("POST", "/images/create", fromImage=f"{address}/app", tag="1").records
    assert [record["status"] for record in said].count("Retrying in 1 second") == len(layers)
    found = pierd.api.get(f"/images/{address}/app:1/json")["RootFS"]["Layers"]
    assert found == [digest(layer) for layer in layers]
    for path, size in blobs.items():
        assert [wanted for asked, wanted in answers.asked if asked == path] == ["", f"bytes={size // 2}-"]


def test_pulls_of_images_with_the_same_layers_at_once_fetch_each_once(pierd: Pierd) -> None:
    shared = [tar({name: os.urandom(1_000_000)}) for name in "abc"]
    answers = Answers()
    for number in range(3):
        answers.image(f"app{number}", [*shared, tar({"own": f"{number}"})])
    with serving_registry(pierd.host, answers) as address, ThreadPoolExecutor() as pool:
        pulls = [
            pool.submit(pierd.api.ok, "POST", "/images/create", fromImage=f"{address}/app{number}", tag="1")
            for number in range(3)
        ]
        for one in pulls:
            assert "Downloaded newer image" in one.result().records[-1]["status"]
    blobs = [path.rpartition("/")[2] for path, _ in answers.asked]
    assert [blobs.count(digest(compressed(layer))) for layer in shared] == [1, 1, 1]


def peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def test_memory_does_not_grow_with_the_image(pierd: Pierd) -> None:
    answers = Answers()
    answers.image("small", [tar({name: os.urandom(1_000_000)}) for name in "abc"])
    answers.image("large", [tar({name: os.urandom(50_000_000)}) for name in "def"])
    with serving_registry(pierd.host, answers) as address:
        pierd.api.ok("POST", "/images/create", fromImage=f"{address}/small", tag="1")
        before = peak(pierd.pid)
        pierd.api.ok("POST", "/images/create", fromImage=f"{address}/large", tag="1")
        # Three layers at a time, each with queues of a few pieces: not 150 MB of content.
        assert peak(pierd.pid) - before < 80 << 20


def test_what_an_image_may_cost_is_the_administrators(pierd: Pierd) -> None:
    pierd.stop()
    pierd.start("--max-layers", "2", "--max-unpacked-size", "1m", "--max-manifest-size", "10k")
    before = layers_on_disk(pierd)
    answers = Answers()
    answers.image("deep", [tar({name: name}) for name in "abc"])
    answers.image("bomb", [tar({"a": "a"}), tar({"zeros": bytes(5_000_000)})])
    answers.image("wordy", [tar({"a": "a"})])
    answers.bodies["/v2/wordy/manifests/1"] += b" " * 20_000
    wanted = {"deep": "max depth exceeded", "bomb": "unpacks to more than 1048576", "wordy": "larger than 10240 bytes"}
    with serving_registry(pierd.host, answers) as address:
        for name, words in wanted.items():
            answer = pierd.api.send("POST", "/images/create", fromImage=f"{address}/{name}", tag="1")
            assert words in answer.body.decode(), name
    layers = [tar({"a": "a"}), tar({"zeros": bytes(5_000_000)})]
    deep = oci_archive([tar({name: name}) for name in "abc"], "docker.io/x/deep:1")
    for archive, words in ((docker_archive(layers, ["bomb:1"]), wanted["bomb"]), (deep, wanted["deep"])):
        answer = pierd.api.send("POST", "/images/load", raw=archive, content_type="application/x-tar")
        assert words in answer.body.decode()
    assert layers_on_disk(pierd) == before


def test_a_mirror_is_asked_first_and_a_dead_one_costs_nothing_but_the_attempt(
    pierd: Pierd, peers: Path, tmp_path: Path
) -> None:
    pierd.stop()
    mirrors = ("--registry-mirror", "http://127.0.0.1:5999", "--registry-mirror", "http://127.0.0.1:5000")
    pierd.start(*mirrors, "--max-concurrent-downloads", "1")
    with started_registry(pierd.host, tmp_path) as registry:
        original = registry.push("library/cargo", "v1", LAYERS)
        said = pierd.docker("pull", "cargo:v1").check()
        assert f"Digest: {original}" in said.stdout
        assert said.lines[-1] == "docker.io/library/cargo:v1"
        assert pierd.api.get("/info")["RegistryConfig"]["Mirrors"] == [
            "http://127.0.0.1:5999/",
            "http://127.0.0.1:5000/",
        ]


def test_what_a_name_stands_for_is_told_without_pulling_it(own_engine: Engine, registry: Registry) -> None:
    original = registry.push("team/app", "v1", LAYERS)
    found = own_engine.api.get(f"/distribution/{registry.address}/team/app:v1/json")
    assert found["Descriptor"]["digest"] == original and found["Descriptor"]["mediaType"] == DOCKER_MANIFEST
    assert found["Descriptor"]["size"] > 0
    assert [platform["os"] for platform in found["Platforms"]] == ["linux"]
    missing = own_engine.api.send("GET", f"/distribution/{registry.address}/team/app:v2/json")
    assert missing.status == 404 and "manifest unknown" in missing.message
