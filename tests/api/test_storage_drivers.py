"""A whole daemon on each graph driver that is not the usual one: what its containers write, and that it comes back."""

from collections.abc import Iterator

import pytest

from tests.harness.engines import Pierd, processes_in
from tests.harness.engines import engine as started_engine
from tests.harness.filesystems import file_system
from tests.harness.kernel import need
from tests.harness.ociruntimes import oci_runtime
from tests.harness.processes import wait_until

pytestmark = pytest.mark.only_pierhead("Debian's dockerd is not built for all of them")


@pytest.fixture(scope="module", params=["btrfs", "fuse-overlayfs", "vfs"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def other(driver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pierd]:
    """A daemon that uses it, and knows an OCI runtime."""
    options = ["--storage-driver", driver, "--add-runtime", f"peer={oci_runtime()}"]
    if driver != "btrfs":
        if driver == "fuse-overlayfs":
            need(driver)
        with started_engine("pierd", options) as made:
            assert isinstance(made, Pierd)
            yield made
        return
    need("btrfs")
    folder = tmp_path_factory.mktemp("disk")
    with started_engine("pierd", images=False) as made:
        assert isinstance(made, Pierd) and made.stop() == 0
        with file_system(driver, folder, 256, at=made.data_root):
            made.start(*options)
            made.provide_images()
            yield made
            made.forget()
            assert made.stop() == 0


def stacking(engine: Pierd) -> list[str]:
    """The programs that stack layers."""
    programs = [command.partition(" ")[0] for command in processes_in(engine.host.path).values()]
    return [program for program in programs if program.endswith("fuse-overlayfs")]


def test_a_container_writes_into_its_own_layer_and_is_found_again(other: Pierd, driver: str) -> None:
    info = other.api.get("/info")
    assert info["Driver"] == driver and info["DriverStatus"] == {"btrfs": [["Btrfs", ""]]}.get(driver, [])
    command = "test -f /.dockerenv && echo mine >/etc/mine; rm /bin/vi; exec sleep 1000"
    host = {"Binds": ["vol:/new/place"]}
    id = other.api.run("sh", "-c", command, name="one", HostConfig=host)
    other.docker("exec", "one", "test", "-e", "/etc/mine").check()
    other.kill()
    other.start()
    assert other.api.inspect(id)["State"]["Running"] and bool(stacking(other)) == (driver == "fuse-overlayfs")
    assert other.docker("exec", "one", "cat", "/etc/mine").check().stdout == "mine\n"
    changes = {change["Path"]: change["Kind"] for change in other.api.get(f"/containers/{id}/changes")}
    assert changes == {"/etc": 0, "/etc/mine": 1, "/bin": 0, "/bin/vi": 2, "/new": 1, "/new/place": 1}
    assert other.api.get("/containers/json", size=1)[0]["SizeRw"] == 5
    other.docker("commit", "one", "mine:1").check()
    assert other.api.get("/system/df")["Pierhead"]["Strays"] == []
    assert other.docker("run", "--rm", "mine:1", "sh", "-c", "cat /etc/mine; ls /bin/vi").stdout == "mine\n"
    other.docker("rm", "-f", "one").check()
    wait_until(lambda: not stacking(other), "the end of whatever held its file system")
    other.docker("create", "--name", "two", "busybox", "cat", "/etc/copied").check()
    (other.root / "copied").write_text("copied\n")
    other.docker("cp", str(other.root / "copied"), "two:/etc/copied").check()
    assert other.docker("start", "-a", "two").check().stdout == "copied\n"
    other.docker("rm", "two").check()
    other.docker("rmi", "mine:1").check()
    assert other.docker("run", "--rm", "busybox", "ls", "/bin/vi", "/bin/sh").check().stdout


def test_an_oci_runtime_finds_the_files_too(other: Pierd) -> None:
    other.docker("run", "-d", "--name", "peer", "--runtime", "peer", "busybox", "sleep", "1000").check()
    told = other.docker("exec", "peer", "sh", "-c", "echo made >/etc/made; cat /etc/made").check()
    assert told.stdout == "made\n"
    other.docker("rm", "-f", "peer").check()


def test_another_driver_than_the_layers_is_refused_at_the_start(other: Pierd, driver: str) -> None:
    assert other.stop() == 0
    try:
        with pytest.raises(AssertionError, match=f"images or containers of the storage driver {driver}"):
            other.start("--storage-driver", "overlay2")
    finally:
        other.start("--storage-driver", driver)
