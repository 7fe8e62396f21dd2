"""Where the demo plays: a mount namespace in which Pierhead's default folders are fresh ones.

So `pier` starts its embedded daemon exactly as it would for a user, while a daemon that this machine may have is not
seen and not touched.  Every process of ours is known by that namespace, every mount ends with it.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    """What a start of Pierhead would add to: compared before and after."""

    interfaces: frozenset[str]
    tables: frozenset[str]
    cgroups: frozenset[str]
    folders: frozenset[str]

    @classmethod
    def look(cls) -> "Machine":
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, timeout=30, check=False)
        top = Path("/sys/fs/cgroup")
        cgroups = [*top.glob("pierhead/*/"), *top.glob("*/pierhead/*/"), *top.glob("pierhead"), *top.glob("*/pierhead")]
        return cls(
            frozenset(name for _, name in socket.if_nameindex()),
            frozenset(line for line in tables.stdout.splitlines() if "pierhead" in line),
            frozenset(str(path) for path in cgroups if path.is_dir()),
            frozenset(path for path in DEFAULTS.values() if os.path.exists(path)),
        )

    def added_to(self, before: "Machine") -> list[str]:
        """What is here now and was not before, in words."""
        words = (("interface", "interfaces"), ("nft", "tables"), ("cgroup", "cgroups"), ("folder", "folders"))
        return [
            f"{word} {name}" for word, field in words for name in sorted(getattr(self, field) - getattr(before, field))
        ]


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
            os.kill(pid, signal.SIGKILL)
    left += Machine.look().added_to(before)
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
    """The processes that are still there some seconds after the end."""
    left: list[int] = []
    for _ in range(100):
        left = players(namespace) if namespace else []
        if not left:
            break
        time.sleep(0.1)
    return left


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
