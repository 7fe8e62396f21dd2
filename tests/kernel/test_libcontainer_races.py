"""Another container swaps a directory of a shared volume for a link, again and again, while ours starts.

Errors are fine; the host's sentinel, its mounts and its devices must stay as they are. (Class C of the known ways out:
CVE-2021-30465, CVE-2024-45310, CVE-2025-31133, CVE-2025-62161, CVE-2025-52881, CVE-2025-62596.)  Each race is as many
rounds as a few seconds have; with PIERHEAD_LONG=1 three thousand, or a minute.
"""

import contextlib
import io
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pierhead.driver.graphdriver import archiving
from pierhead.errors import PierheadError
from pierhead.libcontainer import view
from pierhead.libcontainer.init import SetupError
from pierhead.libcontainer.spec import Mount
from tests.harness.archives import archive, file, folder, symlink
from tests.harness.sentinel import snapshot
from tests.harness.swapping import swapping
from tests.kernel.box import MOUNTS, Box, enter, running, script

LONG = bool(os.environ.get("PIERHEAD_LONG"))
ROUNDS, SECONDS = (3000, 60) if LONG else (300, 2.5)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def rounds() -> Iterator[int]:
    """Numbers for as long as a race may last."""
    end = time.monotonic() + SECONDS
    for number in range(ROUNDS):
        yield number
        if time.monotonic() > end:
            return


@pytest.mark.parametrize("target", ["sentinel", "/proc/self", "/proc/sys/kernel"])
@pytest.mark.parametrize("below", ["", "/made/below"])
def test_a_mount_point_that_is_swapped_never_leads_out(box: Box, tmp_path: Path, target: str, below: str) -> None:
    sentinel = tmp_path / "sentinel"
    (sentinel / "d").mkdir(parents=True)
    source = tmp_path / "source"
    source.mkdir()
    (source / "ours").touch()
    volume = tmp_path / "volume"
    (volume / "dst").mkdir(parents=True)
    (volume / "link").symlink_to(str(sentinel) if target == "sentinel" else target)
    before = snapshot(sentinel)
    mounts = (
        *MOUNTS,
        Mount("/vol", "bind", str(volume), ("rbind",)),
        Mount(f"/vol/dst{below}", "bind", str(source), ("rbind",)),
    )
    with swapping(volume / "dst", volume / "link"):
        for _ in rounds():
            with contextlib.suppress(SetupError):
                script(box, "ls /proc/self/ours /proc/sys/kernel/ours && echo BAD", mounts=mounts)
    assert snapshot(sentinel) == before
    assert str(sentinel) not in Path("/proc/self/mountinfo").read_text()


def test_a_null_device_that_is_swapped_never_unmasks(box: Box, tmp_path: Path) -> None:
    dev = tmp_path / "dev"
    dev.mkdir()
    os.mknod(dev / "null", 0o020666, os.makedev(1, 3))
    (dev / "link").symlink_to("/proc/uptime")
    mounts = (MOUNTS[0], Mount("/dev", "bind", str(dev), ("rbind",)))
    with swapping(dev / "null", dev / "link"):
        for _ in rounds():
            result = script(box, "stat -c %t:%T /proc/keys; wc -c < /proc/keys", mounts=mounts)
            assert result.out.split() == ["1:3", "0"]


def test_where_proc_belongs_a_swapped_link_never_gets_it(box: Box, tmp_path: Path) -> None:
    """The image itself is shared here: its /proc is a directory and a link by turns."""
    (box.image / "proc").mkdir()
    (box.image / "elsewhere").mkdir()
    (box.image / "link").symlink_to("elsewhere")
    with swapping(box.image / "proc", box.image / "link"):
        for _ in rounds():
            with contextlib.suppress(SetupError):
                script(box, "true", root=box.directory())
    assert list((box.image / "elsewhere").iterdir()) == []


def test_sysctls_and_the_oom_score_go_to_the_kernel_or_nowhere(box: Box, tmp_path: Path) -> None:
    """CVE-2025-52881: what was written to /proc went to a file that a mount had put there."""
    volume, dummy = tmp_path / "volume", tmp_path / "dummy"
    for place in (volume / "dst", dummy):
        place.mkdir(parents=True)
    for name in ("ip_forward", "oom_score_adj", "exec", "current"):
        (dummy / name).touch()
    (volume / "link").symlink_to("/proc/sys/net/ipv4")
    before = snapshot(dummy)
    mounts = (
        *MOUNTS,
        Mount("/vol", "bind", str(volume), ("rbind",)),
        Mount("/vol/dst", "bind", str(dummy), ("rbind",)),
    )
    show = "cat /proc/sys/net/ipv4/ip_forward /proc/self/oom_score_adj"
    started = 0
    with swapping(volume / "dst", volume / "link"):
        for _ in rounds():
            with contextlib.suppress(SetupError):
                result = script(box, show, mounts=mounts, sysctls=(("net.ipv4.ip_forward", "1"),), oom_score_adj=5)
                assert result.out.split() == ["1", "5"]
                started += 1
    assert started, "no start ever found a folder there: this says nothing"
    assert snapshot(dummy) == before


@pytest.mark.parametrize("kind", ["fifo", "device", "link"])
def test_a_user_file_that_is_swapped_is_never_opened_as_what_it_is_not(box: Box, tmp_path: Path, kind: str) -> None:
    """CVE-2026-93320's class: a FIFO would hang the look-up, a device would be opened by it."""
    other = box.image / "etc/other"
    if kind == "fifo":
        os.mkfifo(other)
    elif kind == "device":
        os.mknod(other, 0o020666, os.makedev(1, 5))
    else:
        other.symlink_to("/proc/1/environ")
    spec = box.spec("sleep", "1000", root=box.directory())
    with running(spec) as child, swapping(box.image / "etc/passwd", other):
        for _ in rounds():
            try:
                found = enter(child, spec, "stat", "-c", "%u", "/proc/self/", user="joe").out
            except SetupError as error:
                assert "passwd" in str(error) or "unable to find user" in str(error)
            else:
                assert found == "1000\n"


def test_a_working_directory_that_is_swapped_is_below_the_root(box: Box) -> None:
    """CVE-2024-21626's class, with the directory swapped for a link to a descriptor."""
    (box.image / "work").mkdir()
    (box.image / "link").symlink_to("/proc/self/fd/4")
    spec = box.spec("sleep", "1000", root=box.directory())
    with running(spec) as child, swapping(box.image / "work", box.image / "link"):
        for _ in rounds():
            with contextlib.suppress(SetupError):
                assert enter(child, spec, "readlink", "/proc/self/cwd", cwd="/work").out in ("/work\n", "/link\n")


@pytest.mark.parametrize("target", ["absolute", "dots", "/proc/self/root"])
def test_a_volumes_subpath_that_is_swapped_shows_the_volume_alone(box: Box, tmp_path: Path, target: str) -> None:
    """CVE-2017-1002101's class: a folder of a shared volume, swapped for a link while it is mounted elsewhere."""
    outside = tmp_path / "outside"
    (outside / "deeper").mkdir(parents=True)
    (outside / "deeper/theirs").touch()
    volume = tmp_path / "volume"
    (volume / "dst/deeper").mkdir(parents=True)
    (volume / "dst/deeper/ours").touch()
    where = {"absolute": str(outside), "dots": "../outside"}.get(target, target)
    (volume / "link").symlink_to(where)
    mounts = (*MOUNTS, Mount("/part", "bind", str(volume), ("rbind",), subpath="dst/deeper"))
    started = 0
    with swapping(volume / "dst", volume / "link"):
        for _ in rounds():
            with contextlib.suppress(SetupError):
                assert script(box, "ls /part", mounts=mounts).out == "ours\n"
                started += 1
    assert started, "no start ever found a folder there: this says nothing"


class Copies:
    """Everything that ``docker cp`` does with an open root, again and again."""

    # What it replaces reads the same, so that whatever is read later is known.
    new = archive(folder("d", 0o777, uid=1), file("d/new", "x"), file("f", "own", mode=0o777), symlink("s", "/"))

    def __init__(self) -> None:
        self.done = 0
        self.read = b""

    def all(self, root: int) -> None:
        for path in ("/m/d", "/m/d/f", "/m/d/d/", "/m"):
            with contextlib.suppress(OSError, PierheadError):
                wanted = archiving.path(path)
                node = archiving.find(root, wanted)
                archiving.link_target(root, wanted)
                self.read += b"".join(archiving.pack(node, wanted.name, None))
                self.done += 1
        with contextlib.suppress(OSError, PierheadError):
            os.close(archiving.open_target(root, archiving.path("/m/d")))
            unpacked = archiving.FileExtractor(root, "/m/d", lambda _, uid, gid: (uid, gid), strict=False)
            unpacked.run(io.BytesIO(self.new))
            self.done += 1


@pytest.mark.parametrize("state", ["running", "assembled"])
def test_a_copy_below_a_directory_that_is_swapped_stays_in_the_container(box: Box, tmp_path: Path, state: str) -> None:
    """CVE-2018-15664, CVE-2019-10152, CVE-2021-41089, CVE-2026-41568, CVE-2026-42306: files out and in, modes, and the
    mount points that are made for a container that does not run."""
    sentinel, shared, below = (tmp_path / name for name in ("sentinel", "shared", "below"))
    (sentinel / "d").mkdir(parents=True)
    (sentinel / "f").write_text("the host's")
    (shared / "d/d").mkdir(parents=True)
    (shared / "d/f").write_text("own")
    (shared / "link").symlink_to(sentinel)
    below.mkdir()
    before, points = snapshot(sentinel), Path("/proc/self/mountinfo").read_text().count(str(tmp_path))
    mounts = (Mount("/m", "bind", str(shared), ("rbind",)), Mount("/m/d/d", "bind", str(below), ("rbind",)))
    copies = Copies()

    def assembled() -> None:  # the mount namespace ends with its thread
        with contextlib.suppress(OSError):
            root = view.assembled(box.root, mounts, readonly=False)
            try:
                copies.all(root)
            finally:
                os.close(root)

    with contextlib.ExitStack() as stack:
        root = -1
        if state == "running":
            child = stack.enter_context(running(box.spec("sleep", "1000", mounts=(*MOUNTS, *mounts))))
            root = view.running(child.pid, "")
            stack.callback(os.close, root)
        stack.enter_context(swapping(shared / "d", shared / "link"))
        for _ in rounds():
            if state == "running":
                copies.all(root)
            else:
                thread = threading.Thread(target=assembled)
                thread.start()
                thread.join()
    assert copies.done > 10 and b"own" in copies.read, "no copy ever succeeded: this says nothing"
    assert b"the host's" not in copies.read
    assert snapshot(sentinel) == before
    assert Path("/proc/self/mountinfo").read_text().count(str(tmp_path)) == points


def test_a_process_number_that_is_anothers_by_now_leads_into_no_namespace(box: Box) -> None:
    open_before = len(os.listdir("/proc/self/fd"))
    with running(box.spec("sleep", "1000")) as child:
        found = view.namespaces(child.pid, "", ("net", "mnt"))
        for descriptor, kind in zip(found, ("net", "mnt"), strict=True):
            assert os.fstat(descriptor).st_ino == os.stat(f"/proc/{child.pid}/ns/{kind}").st_ino
            os.close(descriptor)
        with pytest.raises(PermissionError, match="not container ffffffffffff's any more"):
            view.namespaces(child.pid, "f" * 64, ("net",))
        with pytest.raises(PermissionError, match="any more"):
            view.namespaces(os.getpid(), "", ("net",))
    with pytest.raises(ProcessLookupError):
        view.namespaces(child.pid, "", ("net",))
    assert len(os.listdir("/proc/self/fd")) == open_before
