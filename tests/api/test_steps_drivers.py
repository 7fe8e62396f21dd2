"""Layers that are copies or snapshots: pierd killed with -9 at every step of what makes and removes some of them.

A selection of ``test_steps_images`` and ``test_steps_containers``, which are on overlay2: what is the drivers' own.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.api import test_steps_containers, test_steps_images
from tests.harness.breakable import Breakable, breakable
from tests.harness.breaking import Breaking
from tests.harness.filesystems import file_system
from tests.harness.kernel import need

pytestmark = [pytest.mark.only_pierhead("steps of ours"), pytest.mark.timeout(400)]

OPERATIONS = {
    operation.name: operation for operation in (*test_steps_images.OPERATIONS, *test_steps_containers.OPERATIONS)
}


@pytest.fixture(scope="module", params=["btrfs", "vfs"])
def pierd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Breakable]:
    """A daemon on it, on a disk of its own where that must be."""
    with ExitStack() as opened:
        if request.param == "btrfs":
            need("btrfs")
            made = opened.enter_context(breakable())
            assert made.stop() == 0
            opened.enter_context(file_system("btrfs", tmp_path_factory.mktemp("disk"), 256, at=made.data_root))
            made.start("--storage-driver", "btrfs")
            opened.callback(made.stop)
        else:
            made = opened.enter_context(breakable("--storage-driver", request.param))
        made.api.ok("POST", "/images/load", raw=test_steps_containers.IMAGE, content_type="application/x-tar")
        test_steps_containers.with_volumes(made.api)
        test_steps_containers.everything_removed(made.api)
        yield made


@pytest.mark.parametrize("name", ["commit", "rmi"])
def test_killed_at_any_step_it_is_done_or_not_begun(pierd: Breakable, name: str) -> None:
    Breaking(pierd, OPERATIONS[name]).killed_everywhere()
