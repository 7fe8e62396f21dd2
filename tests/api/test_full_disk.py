"""A disk without a free byte: what needs one is refused in plain words, the rest goes on, and nothing half is left."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness.api import demultiplex
from tests.harness.engines import Pierd
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


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue
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
