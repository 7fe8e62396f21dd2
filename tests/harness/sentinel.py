"""A folder of the host's that everything hostile points to: neither it nor the host around it may ever change."""

import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_POINTS = ("/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/etc", "/tmp")


def snapshot(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Everything below a folder, by lstat and content: what a hostile image must not change."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        info = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
        found[str(path)] = (info.st_mode, info.st_uid, info.st_gid, content)
    return found


def _host(folder: Path) -> list[object]:
    """The host where a container's work could come out by mistake; others' tests mount things elsewhere."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mounts = [line for line in lines if line.split()[4] in _POINTS or str(folder) in line]
    null = os.stat("/dev/null")
    program = os.path.realpath(sys.executable)
    return [
        mounts,
        sorted(os.listdir("/dev")),
        (null.st_mode, null.st_uid, null.st_gid, null.st_rdev),
        hashlib.sha256(Path(program).read_bytes()).hexdigest(),
    ]


@contextmanager
def sentinel(parent: Path) -> Iterator[Path]:
    """Make it (f, d/, fifo, ptmx) below a folder of the test's; AssertionError at the end for whatever has changed."""
    folder = parent / "sentinel"
    (folder / "d").mkdir(parents=True)
    (folder / "f").write_text("the host's")
    (folder / "ptmx").write_text("the host's")
    os.mkfifo(folder / "fifo")
    before, host = snapshot(folder), _host(parent)
    yield folder
    assert snapshot(folder) == before
    assert _host(parent) == host
