"""Programs of the tests' own, from the C sources beside this: static, so that they run in any image."""

import functools
import subprocess
import tempfile
from pathlib import Path

from tests.harness.processes import DEADLINE

STATIC = ("-O1", "-static", "-no-pie")
LIBRARY = ("-O1", "-shared", "-fPIC", "-nostdlib")


@functools.cache
def program(name: str, how: tuple[str, ...] = STATIC) -> bytes:
    """``name``.c compiled; not position independent, so that its data has addresses for the 32-bit entry."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, name)
        source = Path(__file__).with_name(f"{name}.c")
        command = ["gcc", *how, "-Wall", "-Wextra", "-Werror", "-o", str(made), str(source)]
        subprocess.run(command, check=True, timeout=2 * DEADLINE)
        return made.read_bytes()
