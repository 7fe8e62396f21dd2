"""What a kernel may or may not have, asked by trying.

A test that needs some of it says so (``need("sctp")``): where it is missing the test is skipped, and the reason names
it.  The test machine (`make test-vm`, PIERHEAD_VM=1) has Debian's kernel, which has all of it: there it is a failure.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.harness.echo import SCTP
from tests.harness.filesystems import file_system
from tests.harness.processes import IN_TEST_MACHINE, Output, run


def need(*features: str) -> None:
    """Skip the test (in the test machine: fail it) unless this kernel has all of these; see FEATURES."""
    for feature in features:
        if why := lacking(feature):
            lacks(feature, why)


def lacks(feature: str, why: str) -> None:
    """This kernel was found not to have it."""
    reason = f"this kernel has no {feature}: {why}"
    if IN_TEST_MACHINE:
        pytest.fail(f"{reason}; but the test machine's has", pytrace=False)
    pytest.skip(reason)


@cache
def lacking(feature: str) -> str:
    """What the kernel says when this is tried; empty where it works. Needs root."""
    return FEATURES[feature]()


def _sctp() -> str:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP).close()
    except OSError as error:
        return str(error)
    return ""


def _said(done: Output) -> str:
    return (done.stderr.strip() or f"status {done.status}") if done.status else ""


def _link(*what: str) -> Callable[[], str]:
    """Whether a link of this kind can be made on a veth, in a network namespace of its own."""
    script = f"ip link add base type veth peer name other && ip link add {' '.join(what)}"

    def probe() -> str:
        return _said(run(["unshare", "--net", "sh", "-c", script]))

    return probe


def _br_netfilter() -> str:
    file = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    return "" if file.exists() else f"there is no {file}"


def _unified() -> str:
    controllers = Path("/sys/fs/cgroup/cgroup.controllers")
    return "" if controllers.exists() else f"there is no {controllers}"


def _apparmor() -> str:
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    if not enabled.exists() or enabled.read_text().strip() != "Y":
        return "its security modules are without it"
    policy = Path("/sys/kernel/security/apparmor/profiles")
    return "" if policy.exists() else f"there is no {policy}"


def _project_quotas() -> str:
    """Whether the file system where tests keep their files counts blocks for projects."""
    said = run(["findmnt", "--noheadings", "--output", "SOURCE,OPTIONS", "--target", "/tmp"]).stdout.split()
    return "" if len(said) > 1 and {"prjquota", "pquota"} & set(said[1].split(",")) else " ".join(said)


def _btrfs() -> str:
    """Whether it can be mounted: a module may be loaded for that."""
    if not shutil.which("mkfs.btrfs"):
        return "there is no mkfs.btrfs: apt-get install btrfs-progs"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with file_system("btrfs", Path(folder), 128):
                return ""
        except AssertionError as error:
            return str(error)


def _fuse_overlayfs() -> str:
    if not shutil.which("fuse-overlayfs"):
        return "there is no such program: apt-get install fuse-overlayfs"
    return "" if os.access("/dev/fuse", os.R_OK | os.W_OK) else "/dev/fuse cannot be used"


def _seccomp_notifications() -> str:
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    known = actions.read_text().split() if actions.exists() else []
    return "" if "user_notif" in known else f"{actions}: {' '.join(known) or 'not there'}"


FEATURES: dict[str, Callable[[], str]] = {
    "apparmor": _apparmor,
    "btrfs": _btrfs,
    "vlan": _link("base.5", "link", "base", "type", "vlan", "id", "5"),
    "br_netfilter": _br_netfilter,
    "cgroup v2 alone": _unified,
    "dummy": _link("probe", "type", "dummy"),
    "fuse-overlayfs": _fuse_overlayfs,
    "ipvlan": _link("probe", "link", "base", "type", "ipvlan"),
    "macvlan": _link("probe", "link", "base", "type", "macvlan"),
    "project quotas": _project_quotas,
    "sctp": _sctp,
    "seccomp notifications": _seccomp_notifications,
}
"""Name to a probe that gives what is wrong, or an empty string."""
