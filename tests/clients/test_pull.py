"""`run` of an image that is not there: pulled from a registry first, and said."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.engines import Engine
from tests.harness.images import busybox_rootfs, tar
from tests.harness.registry import Registry
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


def test_a_registry_that_is_gone_is_said_and_run_has_status_125(own_engine: Engine) -> None:
    said = own_engine.docker("run", "--rm", "127.0.0.1:5000/team/app:v1", "true")
    assert said.status == 125 and "connection refused" in said.stderr
