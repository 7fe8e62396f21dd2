"""A machine that systemd has booted: PID 1 of a PID namespace, on control groups that are its own.

It sees nothing of this machine's groups and may set none of its limits; /etc is an overlay that ends with it.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.processes import Output, run, wait_until

SYSTEMD = "/lib/systemd/systemd"
UNIFIED = Path("/sys/fs/cgroup")
"""Where cgroup v2 is mounted on a machine that has nothing else."""

OUTER = r"""
set -e
awk '$3 ~ /^cgroup/ {print $3, $2, $4}' /proc/mounts >"$TOP/hierarchies"
while read -r kind where options; do
    mkdir "$where/$NAME"
    if [ "$kind" = cgroup ]; then
        for file in cpuset.cpus cpuset.mems; do
            [ ! -e "$where/$file" ] || cat "$where/$file" >"$where/$NAME/$file"
        done
    else
        for one in $(cat "$where/cgroup.controllers"); do echo "+$one" >"$where/cgroup.subtree_control"; done
    fi
done <"$TOP/hierarchies"
exec unshare --mount --pid --fork --uts --ipc --net --kill-child sh -c "$JOIN"
"""

# Only what will be PID 1: with another process in its own group systemd could not limit those below (cgroup v2).
JOIN = r"""
set -e
while read -r kind where options; do echo 0 >"$where/$NAME/cgroup.procs"; done <"$TOP/hierarchies"
exec unshare --cgroup sh -c "$INNER"
"""

INNER = r"""
set -e
mount --make-rprivate /
mount -t proc proc /proc
mkdir "$TOP/upper" "$TOP/work" "$TOP/proc"
mount -t overlay -o "lowerdir=/etc,upperdir=$TOP/upper,workdir=$TOP/work" overlay /etc
mount -t tmpfs -o mode=755 tmpfs /run
umount -R -l /sys/fs/cgroup
if grep -q '^cgroup ' "$TOP/hierarchies"; then mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup; fi
while read -r kind where options; do
    mkdir -p "$where"
    case $kind in
        cgroup2) mount -t cgroup2 cgroup2 "$where" ;;
        *) mount -t cgroup -o "${options##*relatime,}" cgroup "$where" ;;
    esac
done <"$TOP/hierarchies"
# systemd raises limits of the whole machine.
mount -t proc proc "$TOP/proc"
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount --bind "$TOP/proc/sys/net" /proc/sys/net
mkdir -p /run/systemd/system
printf '[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sleep infinity\n' >/run/systemd/system/idle.service
exec env -i container=test "PATH=$PATH" /lib/systemd/systemd --unit=idle.service --log-target=console --show-status=0
"""


class Booted:
    """Such a machine."""

    def __init__(self, pid: int, name: str) -> None:
        """pid: its PID 1, as we see it; name: its control group."""
        self.pid = pid
        self._visitors = UNIFIED / name / "visitors"

    def argv(self, *command: str) -> list[str]:
        """A command line that runs in it, and in the network namespace of whoever runs it."""
        entered = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--cgroup", "--uts", "--ipc", *command]
        if not (UNIFIED / "cgroup.controllers").exists():
            return entered
        # With cgroup v2 its systemd moves no process that comes from outside of its namespace (nsdelegate).
        self._visitors.mkdir(exist_ok=True)
        return ["sh", "-c", 'echo 0 >"$0" && exec "$@"', f"{self._visitors}/cgroup.procs", *entered]

    def systemctl(self, *arguments: str) -> Output:
        return run(self.argv("systemctl", *arguments))


@contextmanager
def booted() -> Iterator[Booted]:
    """A machine of its own; killed at the end, its control groups removed."""
    top = Path(tempfile.mkdtemp(prefix="pier-systemd-", dir="/tmp"))
    name = top.name
    environment = {"PATH": os.environ["PATH"], "NAME": name, "TOP": str(top), "JOIN": JOIN, "INNER": INNER}
    with open(top / "log", "wb") as log:
        process = subprocess.Popen(["sh", "-c", OUTER], env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: "systemd" in map(_name, _children(process.pid)), "systemd")
        machine = Booted(_children(process.pid)[0], name)
        wait_until(
            lambda: machine.systemctl("is-active", "idle.service").stdout.strip() == "active",
            "a booted machine",
        )
        yield machine
    except AssertionError as error:
        error.add_note((top / "log").read_text(errors="replace"))
        raise
    finally:
        for pid in _children(process.pid):
            run(["kill", "-9", str(pid)])
        process.kill()
        process.wait()
        _remove(name)
        shutil.rmtree(top, ignore_errors=True)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _remove(name: str) -> None:
    """Its control groups, as soon as the last process in them is gone."""
    for mount in [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if " cgroup" in line]:
        for _ in range(100):
            for folder, _, _ in os.walk(f"{mount}/{name}", topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    pass
            if not os.path.exists(f"{mount}/{name}"):
                break
            time.sleep(0.02)
