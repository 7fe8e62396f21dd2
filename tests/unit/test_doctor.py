"""What the doctor says to somebody who is not root."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
NOBODY = 65534


def test_a_user_is_told_to_become_root_and_nothing_that_would_follow_from_it() -> None:
    root = os.geteuid() == 0
    closed = [folder for folder in TOP.parents if not folder.stat().st_mode & 1]
    if root and closed:
        pytest.skip(f"other users may not look into {closed[0]}")
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if root else []
    done = subprocess.run(
        [*as_nobody, sys.executable, "-m", "pierhead.daemon.main", "--doctor"],
        cwd=TOP,
        env={"PATH": os.defpath, "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and lines, done.stderr
    assert [line for line in lines if line.startswith("MISSING")] == [lines[0]]
    assert lines[0].split()[:2] == ["MISSING", "root"] and "sudo" in lines[0]
    assert "unknown  capabilities  only root sees it" in lines
