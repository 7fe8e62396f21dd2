"""Where the demo plays: a mount namespace in which Pierhead's default folders are fresh ones.

So `pier` starts its embedded daemon exactly as it would for a user, while a daemon that this machine may have is not
seen and not touched.  Every process of ours is known by that namespace, every mount ends with it.
"""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
DEFAULTS = {"data": "/var/lib/pierhead", "run": "/run/pierhead"}
PLACES = """
mount --make-rprivate /
mount --bind "$1/data" /var/lib/pierhead
mount --bind "$1/run" /run/pierhead
shift
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a start of Pierhead would add to: compared before and after. Others may play beside us, so what carries a
    mark counts only with our own (``instance``)."""

    interfaces: frozenset[str]
    folders: frozenset[str]
    marked: frozenset[str] = frozenset()

    @classmethod
    def look(cls, instance: str = "") -> "Machine":
        marked = []
        if instance:
            tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, timeout=30, check=False)
            marked = [f"nft {line}" for line in tables.stdout.splitlines() if instance in line]
            top = Path("/sys/fs/cgroup")
            marked += [f"cgroup {path}" for pattern in ("*/", "*/*/") for path in top.glob(f"{pattern}{instance}")]
        return cls(
            frozenset(name for _, name in socket.if_nameindex()),
            frozenset(path for path in DEFAULTS.values() if os.path.exists(path)),
            frozenset(marked),
        )

    def added_to(self, before: "Machine") -> list[str]:
        """What is here now and was not before, in words."""
        added = [f"interface {name}" for name in sorted(self.interfaces - before.interfaces)]
        added += [f"folder {path}" for path in sorted(self.folders - before.folders)]
        return added + sorted(self.marked - before.marked)


def instance_of(folder: Path) -> str:
    """The id that everything of the demo's daemon carries; empty if none ever started."""
    database = folder / "data/graph.db"
    if not database.exists():
        return ""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        return str(db.execute("SELECT value FROM meta WHERE key = 'instance'").fetchone()[0])


def players(namespace: str) -> list[int]:
    """The processes in a mount namespace ("mnt:[…]"), this one apart."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != os.getpid():
            try:
                if os.readlink(f"/proc/{entry}/ns/mnt") == namespace:
                    found.append(int(entry))
            except OSError:
                continue
    return found


@contextmanager
def _folders() -> Iterator[Path]:
    """The fresh folder, and the places over which its parts are mounted (made where missing, and then removed)."""
    made = [path for path in DEFAULTS.values() if not os.path.exists(path)]
    for path in made:
        os.makedirs(path, mode=0o711)
    try:
        with tempfile.TemporaryDirectory(prefix="pierhead-demo-", ignore_cleanup_errors=True) as name:
            for part in DEFAULTS:
                (Path(name) / part).mkdir(mode=0o711)
            yield Path(name)
    finally:
        for path in made:
            os.rmdir(path)


def play(arguments: list[str]) -> int:
    """Run the demo's scenes on the stage; look at the machine afterwards. Returns the exit status."""
    before = Machine.look()
    with _folders() as folder:
        scenes = [sys.executable, "-m", "demo.scenes", *arguments]
        command = ["unshare", "--mount", "sh", "-euc", PLACES, "sh", str(folder), *scenes]
        process = subprocess.Popen(command, cwd=TOP)
        # Ctrl-C reaches the scenes themselves, which clean up; what is sent to us alone is passed on.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: process.send_signal(signal.SIGINT))
        namespace = _namespace_of(process.pid)
        status = process.wait()
        left = [f"process {pid} {_command(pid)}" for pid in _gone(namespace)]
        for pid in players(namespace) if namespace else []:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        instance = instance_of(folder)
    left += Machine.look(instance).added_to(before)
    if left:
        print("\nLeft behind, and that is a bug:\n  " + "\n  ".join(left))
        return status or 1
    print("\nNothing is left: no process, mount, interface, control group, rule or folder of ours.")
    return status


def _namespace_of(pid: int) -> str:
    """The mount namespace of a process, once it has one of its own."""
    own = os.readlink("/proc/self/ns/mnt")
    for _ in range(500):
        try:
            theirs = os.readlink(f"/proc/{pid}/ns/mnt")
        except OSError:
            return ""
        if theirs != own:
            return theirs
        time.sleep(0.01)
    return ""


def _gone(namespace: str) -> list[int]:
    """The processes that are still there some seconds after the end.

    A daemon that was only just being started when we were interrupted is told to end: it had no socket yet, so the
    scenes have not seen it. So is a client that would start one.
    """
    left: list[int] = []
    told: set[int] = set()
    for _ in range(100):
        left = players(namespace) if namespace else []
        if not left:
            break
        for pid in set(left) - told:
            words = _command(pid).split()
            if "--embedded" in words or "pier" in map(os.path.basename, words[:2]):
                told.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        time.sleep(0.1)
    return left


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
