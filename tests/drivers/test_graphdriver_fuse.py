"""What of the fuse-overlayfs graph driver no other has: a program, a process for each mount, a device."""

import io
import os
import shutil
from pathlib import Path

import pytest

from pierhead.driver.graphdriver import fuseoverlay
from pierhead.driver.graphdriver.fuseoverlay import FuseOverlayDriver
from pierhead.linux.mount import DirectoryRoot
from tests.harness.archives import archive, device, file, folder, listing
from tests.harness.engines import mounts_below
from tests.harness.kernel import need
from tests.harness.processes import processes_naming, run, wait_until


@pytest.fixture
def driver(tmp_path: Path) -> FuseOverlayDriver:
    need("fuse-overlayfs")
    made = FuseOverlayDriver(str(tmp_path))
    made.probe()
    made.create("a", None)
    made.apply("a", io.BytesIO(archive(folder("d"), file("d/x", "x"), file("su", mode=0o4755), device("null", 1, 3))))
    made.create("w", "a", writable=True)
    return made


def test_every_mount_has_a_process_that_ends_with_it_and_is_nobodys_child(
    driver: FuseOverlayDriver, tmp_path: Path
) -> None:
    with driver.mounted("w") as root:
        assert isinstance(root, DirectoryRoot) and mounts_below(tmp_path) == [root.path]
        held = os.open(root.path, os.O_RDONLY)
        (pid,) = processes_naming(root.path)
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert parent != os.getpid() and os.getsid(pid) != os.getsid(0)
    try:
        assert mounts_below(tmp_path) == [] and os.listdir(held) and os.path.exists(f"/proc/{pid}")
    finally:
        os.close(held)
    wait_until(lambda: not processes_naming(root.path), "its end")
    assert os.listdir(tmp_path / "fuse-overlayfs/mounts") == []


def test_devices_and_set_id_bits_work_in_it(driver: FuseOverlayDriver) -> None:
    with driver.mounted("w") as root:
        assert isinstance(root, DirectoryRoot)
        Path(root.path, "null").write_text("nowhere")
        said = run(["findmnt", "--noheadings", "--output", "OPTIONS", root.path]).check().stdout
        assert not {"nosuid", "nodev", "noexec"} & set(said.strip().split(","))


def test_marks_of_the_program_are_in_no_layer(driver: FuseOverlayDriver) -> None:
    fd = driver.open_root("w", readonly=False)
    try:
        os.unlink("d/x", dir_fd=fd)
        os.rmdir("d", dir_fd=fd)
        os.mkdir("d", dir_fd=fd)
        os.chmod(f"/proc/self/fd/{fd}/su", 0o600)
    finally:
        os.close(fd)
    layer = b"".join(driver.diff("w"))
    assert set(listing(layer)) == {"d", "d/.wh..wh..opq", "su"} and b"fuseoverlayfs" not in layer
    assert {change.path for change in driver.changes("w")} == {"/d", "/d/x", "/su"}


def test_what_a_killed_daemon_left_mounted_is_taken_away_at_the_next_start(
    driver: FuseOverlayDriver, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match=r"umount2|Invalid|No such"), driver.mounted("w") as root:
        assert isinstance(root, DirectoryRoot) and mounts_below(tmp_path) == [root.path]
        FuseOverlayDriver(str(tmp_path)).probe()
        assert mounts_below(tmp_path) == []
    wait_until(lambda: not processes_naming(root.path), "its end")


def test_what_is_missing_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FuseOverlayDriver(str(tmp_path))
    monkeypatch.setattr(fuseoverlay, "DEVICE", "/dev/no-fuse")
    if shutil.which("fuse-overlayfs"):
        with pytest.raises(OSError, match=r"/dev/no-fuse cannot be used .*modprobe fuse.*--device /dev/fuse"):
            driver.probe()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(OSError, match="apt-get install fuse-overlayfs"):
        driver.probe()
    with pytest.raises(OSError, match="--userns-remap"):
        FuseOverlayDriver(str(tmp_path), remapped=True).probe()
    assert list(tmp_path.iterdir()) == []
