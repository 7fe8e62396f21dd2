"""A disk without a free byte: what needs one is refused in plain words, the rest goes on, and nothing half is left."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.harness.api import Answer, demultiplex
from tests.harness.breaking import failure
from tests.harness.engines import Pierd
from tests.harness.filesystems import file_system
from tests.harness.images import docker_archive, tar
from tests.harness.processes import run, wait_until
from tests.harness.reality import settled

pytestmark = pytest.mark.only_pierhead("a data root of ours")

SIZE = 32 << 20
FULL = "no space left on device"
TALKS = "n=0; while :; do n=$((n+1)); echo line $n; usleep 20000; done"


@pytest.fixture
def small(pierd: Pierd) -> Iterator[Pierd]:
    """The daemon on a small disk of its own."""
    assert pierd.stop() == 0
    run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "small", str(pierd.data_root)]).check()
    try:
        pierd.start()
        pierd.provide_images()
        yield pierd
        pierd.forget()
        assert pierd.stop() == 0
    finally:
        run(["umount", "-l", str(pierd.data_root)]).check()
        pierd.start()


def problems(pierd: Pierd) -> list[str]:
    return settled(pierd, f"mount {pierd.data_root} in the host's namespace")


@pytest.fixture
def ext4(pierd: Pierd) -> Iterator[Pierd]:
    """The same with the file system that most have."""
    assert pierd.stop() == 0
    with file_system("ext4", pierd.root, SIZE >> 20, "-m", "0", at=pierd.data_root):
        pierd.start()
        pierd.provide_images()
        yield pierd
        pierd.forget()
        assert pierd.stop() == 0
    pierd.start()


@contextmanager
def filled(folder: Path, but: int = 0) -> Iterator[None]:
    """Not a byte is free there, or so many."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue
            file.truncate(file.tell() - but)
            yield
        finally:
            filler.unlink()


def test_an_image_that_does_not_fit_is_refused_and_gives_its_bytes_back(small: Pierd) -> None:
    def free() -> int:
        found = os.statvfs(small.data_root)
        return found.f_bavail * found.f_frsize

    before = free()
    archive = docker_archive([tar({f"file{number}": os.urandom(SIZE // 3)}) for number in range(3)], ["too:big"])
    for program in (small.docker, small.pier):
        refused = program("load", stdin=archive)
        assert refused.status == 1 and FULL in refused.stderr and "Errno" not in refused.stderr
        assert problems(small) == []
        assert abs(free() - before) < 1 << 20


def test_containers_run_on_and_end_in_order_on_a_full_disk(small: Pierd) -> None:
    id = small.api.run("sh", "-c", TALKS, name="talks")
    wait_until(lambda: b"line 5\n" in small.api.logs(id), "some lines")
    with filled(small.data_root):
        refused = small.api.send("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"]})
        assert refused.status == 500 and FULL in refused.message
        assert small.docker("exec", "talks", "echo", "hi").check().stdout == "hi\n"
        assert small.docker("ps", "--format", "{{.Names}}").check().lines == ["talks"]
        small.kill()
        small.start()
        assert small.docker("exec", "talks", "echo", "again").check().stdout == "again\n"
    seen = len(small.api.logs(id))
    wait_until(lambda: len(small.api.logs(id)) > seen + 100, "lines again")
    small.docker("stop", "-t", "0", "talks").check()
    numbers = [int(line.split()[1]) for line in demultiplex(small.api.logs(id))[0].splitlines()]
    assert numbers == sorted(set(numbers)), "no line is torn or there twice"
    assert problems(small) == []


def test_a_container_that_ends_on_a_full_disk_is_recorded_and_can_be_removed(small: Pierd) -> None:
    id = small.api.run("sleep", "1000", HostConfig={"PortBindings": {"80/tcp": [{"HostPort": "8081"}]}})
    with filled(small.data_root):
        small.api.ok("POST", f"/containers/{id}/stop", t=0)
        assert small.api.inspect(id)["State"]["ExitCode"] == 137
        small.api.ok("DELETE", f"/containers/{id}")
    assert problems(small) == []


def test_whatever_does_not_fit_any_more_is_told_and_can_be_done_when_there_is_room(ext4: Pierd) -> None:
    api = ext4.api
    container = api.create("true")
    content = tar({f"srv/file{number}": os.urandom(150_000) for number in range(8)}, ["srv"])
    api.ok("PUT", f"/containers/{container}/archive?path=/", raw=content, content_type="application/x-tar")
    archive = docker_archive([content], ["full:load"])
    binds = {"Image": "busybox", "Volumes": {"/bin": {}}, "HostConfig": {"NetworkMode": "none"}}
    asked: dict[str, Callable[[], Answer]] = {
        "load": lambda: api.send("POST", "/images/load", raw=archive, content_type="application/x-tar"),
        "import": lambda: api.send(
            "POST", "/images/create?fromSrc=-&repo=full&tag=import", raw=content, content_type="application/x-tar"
        ),
        "commit": lambda: api.send("POST", "/commit", {}, container=container, repo="full", tag="commit"),
        "create": lambda: api.send("POST", "/containers/create", binds, name="full"),
        "volume": lambda: api.send("POST", "/volumes/create", {"Name": "full"}),
    }
    taken_back: dict[str, Callable[[], Answer]] = {
        **{name: partial(api.send, "DELETE", f"/images/full:{name}") for name in ("load", "import", "commit")},
        "create": lambda: api.send("DELETE", "/containers/full", v=1),
        "volume": lambda: api.send("DELETE", "/volumes/full"),
    }
    refused = set()
    for margin in (0, 4 << 10, 64 << 10, 700 << 10, 1400 << 10):
        for name, ask in asked.items():
            with filled(ext4.data_root, margin):
                why = failure(ask())
                assert not why or FULL in why, f"{name} with {margin} bytes free: {why}"
                if why:
                    refused.add(name)
                    taken_back[name]()  # finds nothing, and does no harm
                    assert problems(ext4) == [], f"{name} with {margin} bytes free"
            if why:
                assert not failure(ask()), name
            taken_back[name]()
            assert problems(ext4) == [], f"{name} with {margin} bytes free"
    assert refused == set(asked)
    api.ok("DELETE", f"/containers/{container}")
