"""Set-up that was interrupted is begun again by the next one."""

import os
import subprocess
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]


def make(venv: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    command = [TOP / "scripts/make-venv", venv]
    return subprocess.run(command, env=os.environ | more, capture_output=True, text=True, timeout=60, check=False)


def test_an_environment_that_was_interrupted_in_the_making_is_made_anew(tmp_path: Path) -> None:
    pip = tmp_path / "venv/bin/pip"
    pip.parent.mkdir(parents=True)
    pip.write_text("#!/bin/sh\nexit 1\n")
    pip.chmod(0o755)
    assert make(tmp_path / "venv").returncode == 1 and pip.exists()
    # What is there is not built upon, though this time no Python is to be had.
    again = make(tmp_path / "venv", PYTHONHOME="/nonexistent")
    assert again.returncode == 1 and "no Python of 3.11" in again.stderr
    assert not pip.exists()
