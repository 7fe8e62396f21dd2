"""Style, types and layers are tests like others: a run that is green has them green."""

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
CHECKS = {
    "ruff": ["ruff", "check", "--no-cache", "--quiet", "."],
    "format": ["ruff", "format", "--no-cache", "--check", "--quiet", "."],
    "types": ["mypy"],
    "layers": ["lint-imports"],
}


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.timeout(300)
def test_source_keeps_its_style_types_and_layers(name: str) -> None:
    program, *arguments = CHECKS[name]
    if not (BIN / program).exists():
        pytest.skip(f"no {program} beside {sys.executable}: make setup")
    done = subprocess.run(
        [BIN / program, *arguments], cwd=TOP, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
