"""The OCI runtimes among the peers: runc; in the test machine, which has cgroup v2 alone, crun."""

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest

from tests.harness.engines import PEERS
from tests.harness.processes import IN_TEST_MACHINE

NAME = "crun" if IN_TEST_MACHINE else "runc"


def oci_runtime(name: str = NAME) -> str:
    """The path of one; where there is none the test is skipped (in the test machine: fails)."""
    found = _found(name)
    if not found:
        reason = f"no {name}: `make peers` unpacks it"
        if IN_TEST_MACHINE:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found


@cache
def _found(name: str) -> str:
    installed = shutil.which(name)
    if installed:
        return installed
    unpacked = shutil.which(name, path=f"{PEERS}/usr/bin:{PEERS}/usr/sbin")
    if unpacked is None:
        return ""
    # Its libraries are unpacked beside it, where nothing but the peers themselves looks for them.
    folder = Path(tempfile.mkdtemp(prefix="oci-runtime-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program = folder / name
    libraries = PEERS / "usr/lib" / f"{os.uname().machine}-linux-gnu"
    program.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {unpacked} "$@"\n')
    program.chmod(0o755)
    return str(program)
