"""Somebody who exchanges a directory for a link, again and again, while something is done below it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SWAP = """
import ctypes, sys
libc = ctypes.CDLL(None)
a, b = (path.encode() for path in sys.argv[1:])
print("swapping", flush=True)
while libc.renameat2(-100, a, -100, b, 2) == 0:  # RENAME_EXCHANGE
    pass
"""


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Exchange two names (renameat2, RENAME_EXCHANGE) until the end of the block; it must not have stopped before."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", _SWAP, one, other], stdout=subprocess.PIPE) as racer:
        try:
            assert racer.stdout is not None
            racer.stdout.readline()
            yield
            assert racer.poll() is None
        finally:
            racer.kill()
