"""``pier`` alone on a machine: it starts the daemon by itself, says so once, and ends it when told to.

Each test has a network, a /run and a /var/lib of its own, so that the defaults of root can be used.
"""

import os
import subprocess

import pytest

from tests.harness.engines import PIER
from tests.harness.images import busybox_rootfs

pytestmark = pytest.mark.only_pierhead("docker does not start its daemon")

MACHINE = """
set -u
mount -t tmpfs run /run; mount -t tmpfs lib /var/lib; ip link set lo up
pier() { "$PIER" "$@"; }
"""


def machine(script: str, stdin: bytes = b"") -> tuple[int, list[str], str]:
    """Run a shell script there: its status, lines of output, and what it said on standard error."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", MACHINE + script],
        input=stdin,
        capture_output=True,
        env={**environment, "PIER": str(PIER), "DOCKER_CONFIG": "/nonexistent"},
        timeout=100,
    )
    return done.returncode, done.stdout.decode().splitlines(), done.stderr.decode()


def test_the_first_command_starts_a_daemon_and_says_so_once() -> None:
    status, lines, said = machine("pier ps; pier ps; pier images -q; pier system stop; ls /run/pierhead/*.sock")
    assert lines[0] == lines[1] and lines[0].startswith("CONTAINER ID") and len(lines) == 2
    assert said.count("pier: no daemon was running: started one") == 1
    assert "No such file" in said or "cannot access" in said, "the socket is still there"
    assert status != 0


def test_containers_go_on_until_they_are_told_to_stop_too() -> None:
    script = """
    pier import - busybox >/dev/null
    pier run -d --name lives --stop-timeout 1 busybox sleep 1000 >/dev/null
    pier system stop
    pier ps --format '{{.Names}} {{.State}}'
    pier system stop -f
    pier ps -a --format '{{.Names}} {{.State}}'
    pier rm -f lives >/dev/null
    pier system stop; echo $?
    pier system stop
    """
    _, lines, said = machine(script, busybox_rootfs())
    assert lines[:3] == ["lives running", "lives exited", "0"], said
    assert lines[3] == "No daemon is running at unix:///run/pierhead/pierd.sock."
    assert "Still running, and found again by the next daemon: lives." in said


def test_a_daemon_that_somebody_asked_for_is_not_started() -> None:
    status, _, said = machine("DOCKER_HOST=unix:///run/none.sock pier ps")
    assert status == 1
    assert said == "Cannot connect to the Docker daemon at unix:///run/none.sock. Is the docker daemon running?\n"


def test_a_daemon_that_cannot_start_says_what_failed_and_what_to_do() -> None:
    status, _, said = machine("mkdir -p /var/lib/pierhead; echo x > /var/lib/pierhead/graph.db; pier ps")
    assert status == 1 and "Cannot start a Pierhead daemon: it ended with status" in said
    assert "/run/pierhead/pierd.log" in said and "'pier doctor'" in said


@pytest.mark.parametrize(
    ("lacking", "says"),
    [
        ("PATH=/usr/bin:/bin; mount -t tmpfs none /usr/sbin", "apt-get install nftables"),
        ("umount -lR /sys/fs/cgroup", "mount -t cgroup2 none /sys/fs/cgroup"),
        (
            "for at in $(grep ' - cgroup' /proc/self/mountinfo | cut -d' ' -f5); do mount -o remount,bind,ro $at; done",
            "mount -o remount,rw",
        ),
    ],
    ids=["nftables", "control groups", "control groups that can be written"],
)
def test_a_machine_that_lacks_something_is_told_what_would_mend_it(lacking: str, says: str) -> None:
    status, lines, said = machine(f"{lacking}; pier doctor; pier ps")
    assert status == 1 and says in said.partition("Its last words")[2], said
    missing = [line for line in lines if line.startswith("MISSING")]
    assert len(missing) == 1 and says in missing[0], lines


def test_Ctrl_C_while_a_daemon_is_being_started_leaves_none() -> None:
    script = """
    # A job in the background is begun with SIGINT ignored.
    env --default-signal=INT "$PIER" ps & waits=$!
    until [ -e /run/pierhead/pierd.log ]; do sleep 0.01; done
    kill -INT $waits; wait $waits; echo $?
    here=$(readlink /proc/self/ns/mnt)
    ours() { for one in $(pgrep -f -- [-]-embedded); do readlink /proc/$one/ns/mnt; done | grep -F "$here"; }
    for _ in $(seq 500); do ours || break; sleep 0.02; done >/dev/null
    ours
    ip -o link | cut -d: -f2
    """
    _, lines, said = machine(script)
    assert lines == ["130", " lo"], said
    assert not said


def test_the_trace_shows_the_parts_at_work() -> None:
    script = "pier import - busybox >/dev/null; pier run --rm --trace busybox true; pier jobs -a; pier system stop"
    _, lines, said = machine(script, busybox_rootfs())
    for part in ("containers.create", "lifecycle.start", "graphdriver", "networkdriver", "execdriver", "libcontainer"):
        assert part in said, f"{part} is missing in\n{said}"
    assert lines[0].split()[:2] == ["JOB", "ID"] and any("running" in line for line in lines)
