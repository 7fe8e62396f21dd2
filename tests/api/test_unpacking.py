"""Large layers are unpacked by processes of their own: what becomes of a load when one of them, or pierd, is killed."""

import http.client
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.harness.api import Answer, Api
from tests.harness.breaking import failure, fsck, strays
from tests.harness.engines import Pierd
from tests.harness.images import docker_archive, tar
from tests.harness.processes import wait_until
from tests.harness.reality import kept

pytestmark = pytest.mark.only_pierhead("processes of ours")

NAME = "unpacker:1"
LARGE = random.Random(1).randbytes(12 << 20)
LAYERS = [tar({f"{number}/file": LARGE[number:]}) for number in range(3)]


def load(api: Api, layers: list[bytes]) -> Answer:
    return api.send("POST", "/images/load", raw=docker_archive(layers, [NAME]), content_type="application/x-tar")


def nothing_of_it(pierd: Pierd) -> bool:
    """Whether neither an image of the load nor anything of its layers is there."""
    names = [name for image in pierd.api.get("/images/json") for name in image["RepoTags"]]
    return NAME not in names and not fsck(pierd.api) and not strays(pierd.api) and not kept(pierd)


def unpacking(daemon: int) -> list[int]:
    """The processes that unpack for a daemon."""
    found = []
    for child in Path(f"/proc/{daemon}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            for pid in child.read_text().split():
                if Path(f"/proc/{pid}/comm").read_text().strip() == "pierhead-unpack":
                    found.append(int(pid))
    return found


@contextmanager
def stopped_load(pierd: Pierd) -> Iterator[tuple[int, list[Answer]]]:
    """A load whose first process was stopped in the middle of its work; then the answer."""
    answers: list[Answer] = []

    def ask() -> None:
        try:
            answers.append(load(pierd.api, LAYERS))
        except (OSError, http.client.HTTPException):
            return

    client = threading.Thread(target=ask)
    client.start()
    try:
        wait_until(lambda: unpacking(pierd.pid), "a process that unpacks")
        pid = unpacking(pierd.pid)[0]
        os.kill(pid, signal.SIGSTOP)
        yield pid, answers
    finally:
        client.join()


def test_a_large_layer_comes_as_it_is_and_a_hostile_one_not_at_all(pierd: Pierd) -> None:
    assert failure(load(pierd.api, LAYERS)) == ""
    assert pierd.api.ok("GET", f"/images/{NAME}/get").body.count(LARGE[2:]) == len(LAYERS)
    assert not unpacking(pierd.pid)
    pierd.api.ok("DELETE", f"/images/{NAME}")
    assert "points outside" in failure(load(pierd.api, [LAYERS[0], tar({"large": LARGE, "../../x": "out"})]))
    assert "unexpected EOF" in failure(load(pierd.api, [LAYERS[0][:-2_000_000]]))
    assert nothing_of_it(pierd)


def test_a_process_that_was_killed_fails_its_load_and_leaves_nothing(pierd: Pierd) -> None:
    with stopped_load(pierd) as (pid, answers):
        os.kill(pid, signal.SIGKILL)
    assert "has ended" in failure(answers[0])
    assert nothing_of_it(pierd)
    assert failure(load(pierd.api, LAYERS)) == ""


def test_nobody_unpacks_any_more_for_a_pierd_that_was_killed(pierd: Pierd) -> None:
    with stopped_load(pierd) as (pid, _):
        pierd.kill()
    pierd.start()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end of who unpacked for it")
    assert nothing_of_it(pierd)
