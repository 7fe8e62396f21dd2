"""What the shim is, and a process of pytest's is not: alone with its directory."""

import os
from collections.abc import Iterator

import pytest

from pierhead.linux import calls

CLONE_FS = 0x200


@pytest.fixture(autouse=True)
def own_directory() -> Iterator[None]:
    """An exec visits the container's mounts: who shares its directory with other threads may not, and it is lost."""
    calls.unshare(CLONE_FS)
    here = os.getcwd()
    yield
    os.chdir(here)
