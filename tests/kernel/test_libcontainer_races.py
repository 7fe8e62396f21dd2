"""Another container swaps a directory of a shared volume for a link, again and again, while ours starts.

Errors are fine; the host's sentinel, its mounts and its devices must stay as they are (CVE-2021-30465, CVE-2024-45310,
CVE-2025-31133).
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pierhead.libcontainer.init import SetupError
from pierhead.libcontainer.spec import Mount
from tests.harness.sentinel import snapshot
from tests.kernel.box import MOUNTS, Box, script

ROUNDS = 20

_SWAP = """
import ctypes, sys
libc = ctypes.CDLL(None)
a, b = (path.encode() for path in sys.argv[1:])
print("swapping", flush=True)
while libc.renameat2(-100, a, -100, b, 2) == 0:  # RENAME_EXCHANGE
    pass
"""


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", _SWAP, one, other], stdout=subprocess.PIPE) as racer:
        try:
            assert racer.stdout is not None
            racer.stdout.readline()
            yield
            assert racer.poll() is None
        finally:
            racer.kill()


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
        for _ in range(ROUNDS):
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
        for _ in range(ROUNDS):
            result = script(box, "stat -c %t:%T /proc/keys; wc -c < /proc/keys", mounts=mounts)
            assert result.out.split() == ["1:3", "0"]


def test_where_proc_belongs_a_swapped_link_never_gets_it(box: Box, tmp_path: Path) -> None:
    """The image itself is shared here: its /proc is a directory and a link by turns."""
    (box.image / "proc").mkdir()
    (box.image / "elsewhere").mkdir()
    (box.image / "link").symlink_to("elsewhere")
    with swapping(box.image / "proc", box.image / "link"):
        for _ in range(ROUNDS):
            with contextlib.suppress(SetupError):
                script(box, "true", root=box.directory())
    assert list((box.image / "elsewhere").iterdir()) == []
