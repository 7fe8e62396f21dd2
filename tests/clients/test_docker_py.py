"""docker-py, unchanged: what a program that uses it would lose."""

import io
import tarfile
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from docker.errors import APIError, ContainerError, ImageLoadError, ImageNotFound, NotFound

from tests.harness.engines import Engine
from tests.harness.images import busybox_rootfs
from tests.harness.processes import wait_until


@pytest.fixture
def client(engine: Engine) -> Iterator[Any]:
    made = docker.DockerClient(f"unix://{engine.socket}", version="auto", timeout=60)
    yield made
    made.close()


def test_run_gives_the_output_and_raises_what_failed(client: Any) -> None:
    assert client.containers.run("busybox", ["echo", "hello"], remove=True) == b"hello\n"
    with pytest.raises(ContainerError) as failed:
        client.containers.run("busybox", ["sh", "-c", "echo why >&2; exit 3"], remove=True)
    assert failed.value.exit_status == 3 and b"why" in failed.value.stderr
    with pytest.raises(APIError, match="executable file not found"):
        client.containers.run("busybox", ["nosuchprogram"])


def test_missing_things_raise_not_found(client: Any) -> None:
    with pytest.raises(NotFound):
        client.containers.get("nobody")
    with pytest.raises(ImageNotFound):
        client.images.get("nothing")
    with pytest.raises(NotFound):
        client.networks.get("nothing")
    with pytest.raises(NotFound):
        client.volumes.get("nothing")


def test_a_containers_life(client: Any) -> None:
    container = client.containers.run("busybox", ["sleep", "1000"], detach=True, name="life", labels={"a": "b"})
    assert container.status == "created" or container.status == "running"
    container.reload()
    assert container.status == "running" and container.labels == {"a": "b"} and container.name == "life"
    container.pause()
    container.reload()
    assert container.status == "paused"
    container.unpause()
    container.restart(timeout=0)
    container.rename("after")
    assert [one.name for one in client.containers.list(filters={"label": "a=b"})] == ["after"]
    container.stop(timeout=0)
    assert container.wait()["StatusCode"] == 137
    container.remove()
    assert client.containers.list(all=True) == []


def test_exec_gives_code_output_and_streams(client: Any) -> None:
    container = client.containers.run("busybox", ["sleep", "1000"], detach=True)
    for _ in range(20):
        code, output = container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 4"], demux=True)
        assert (code, output) == (4, (b"out\n", b"err\n"))
    assert container.exec_run("cat /etc/os-release").output.startswith(b"NAME=")
    _, stream = container.exec_run(["sh", "-c", "echo one; echo two"], stream=True)
    assert b"".join(stream) == b"one\ntwo\n"


def test_logs_are_read_and_followed(client: Any) -> None:
    container = client.containers.run("busybox", ["sh", "-c", "echo one; sleep 0.3; echo two"], detach=True)
    assert b"".join(container.logs(stream=True, follow=True)) == b"one\ntwo\n"
    assert container.logs(tail=1) == b"two\n"


def test_attach_reads_what_comes(client: Any) -> None:
    container = client.containers.create("busybox", ["sh", "-c", "echo attached"])
    stream = container.attach(stream=True, logs=False)
    container.start()
    assert b"".join(stream) == b"attached\n"


def test_stats_top_diff(client: Any) -> None:
    container = client.containers.run("busybox", ["sh", "-c", "echo x > /file; sleep 1000"], detach=True)
    assert container.stats(stream=False)["memory_stats"]["usage"] > 0
    assert "sleep 1000" in str(container.top()["Processes"])
    wait_until(lambda: {"Path": "/file", "Kind": 1} in (container.diff() or []), "the file")


def test_images_are_imported_saved_loaded_tagged(client: Any) -> None:
    client.api.import_image_from_data(busybox_rootfs(), repository="fresh", tag="1")
    image = client.images.get("fresh:1")
    assert image.tags == ["fresh:1"] and image.history()
    saved = b"".join(image.save(named=True))
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
        assert "manifest.json" in archive.getnames()
    assert image.tag("other", "2")
    client.images.remove("fresh:1")
    client.images.remove("other:2")
    assert [one.tags for one in client.images.load(saved)] == [["fresh:1"]]
    client.images.remove("fresh:1")
    with pytest.raises(ImageLoadError):
        client.images.load(b"no archive")


def test_a_commit_takes_the_lines_of_a_dockerfile(client: Any) -> None:
    container = client.containers.create("busybox", "true")
    made = container.commit("changed", "1", changes="ENV A=b \\\n  C=d\n# the command\nCMD env")
    assert made.attrs["Config"]["Cmd"] == ["/bin/sh", "-c", "env"]
    said = client.containers.run("changed:1", remove=True).splitlines()
    assert b"A=b" in said and b"C=d" in said
    client.images.remove("changed:1")


def test_networks_and_volumes(client: Any) -> None:
    network = client.networks.create("own", driver="bridge", labels={"x": "y"})
    container = client.containers.run("busybox", ["sleep", "1000"], detach=True, network="own")
    network.reload()
    assert [one.id for one in network.containers] == [container.id]
    network.disconnect(container)
    network.connect(container, aliases=["other"])
    volume = client.volumes.create("data")
    mounted = {"data": {"bind": "/data", "mode": "rw"}}
    client.containers.run("busybox", ["sh", "-c", "echo kept > /data/f"], volumes=mounted, remove=True)
    assert client.containers.run("busybox", ["cat", "/data/f"], volumes=mounted, remove=True) == b"kept\n"
    volume.remove()
    container.remove(force=True)
    network.remove()


def test_events_version_info_df(client: Any) -> None:
    events = client.events(decode=True, filters={"type": "container", "event": "start"})
    container = client.containers.run("busybox", ["true"], detach=True)
    assert next(events)["Actor"]["ID"] == container.id
    events.close()
    assert client.ping() and client.version()["ApiVersion"] and client.info()["ID"]
    assert any("busybox:latest" in (image["RepoTags"] or []) for image in client.df()["Images"])
