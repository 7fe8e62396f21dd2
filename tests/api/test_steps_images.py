"""pierd killed with -9 at every step of what makes and removes images, then started: all of it is there, or nothing."""

import json
from collections.abc import Iterator

import pytest

from tests.harness.api import Answer, Api
from tests.harness.breakable import Breakable, breakable
from tests.harness.breaking import Breaking, Operation
from tests.harness.images import config_of, docker_archive, tar
from tests.harness.registry import Answers, serving_registry
from tests.harness.steps import BROKEN, FULL, Fault

pytestmark = [pytest.mark.only_pierhead("steps of ours"), pytest.mark.timeout(400)]

BASE = [tar({"etc/base": "base\n"}, ["etc"])]
LARGE = [*BASE, tar({"etc/a": "a\n", "srv/large": bytes(4 << 20)}, ["etc"])]
"""One that is unpacked by a process of its own."""
LAYERS = [*BASE, tar({"etc/a": "a\n"}, ["etc"]), tar({"srv/b": "b\n", "etc/.wh.a": ""}, ["srv"])]
NAME = "127.0.0.1:5000/half"
REFERENCE = f"{NAME}:1"


def here(api: Api, reference: str) -> bool:
    """Whether an image is there under its name, whole (every byte of its layers is read); else nothing of it is."""
    found = [image for image in api.get("/images/json") if reference in (image["RepoTags"] or ())]
    if not found:
        assert {name for image in api.get("/images/json") for name in image["RepoTags"] or ["<none>"]} == {"base:1"}
        return False
    saved = api.ok("GET", f"/images/{reference}/get")
    assert len(saved.body) > 2048
    return True


def gone(api: Api, reference: str) -> bool:
    return not here(api, reference)


def removed(api: Api, reference: str) -> None:
    answer = api.send("DELETE", f"/images/{reference}", force=1)
    assert answer.status in (200, 404), answer.body


@pytest.fixture(scope="module")
def pierd() -> Iterator[Breakable]:
    with breakable() as made:
        base = json.loads(config_of(BASE))
        base["config"]["Labels"] = {"kept": "1"}
        archive = docker_archive(BASE, ["base:1"], json.dumps(base).encode())
        made.api.ok("POST", "/images/load", raw=archive, content_type="application/x-tar")
        # The first large layer has folders made that stay (graphdriver/places.py).
        assert ask_load(made.api, LARGE).status == 200
        removed(made.api, REFERENCE)
        answers = Answers()
        answers.image("half", LAYERS[1:])
        with serving_registry(made.host, answers):
            yield made


def ask_load(api: Api, layers: list[bytes]) -> Answer:
    return api.send("POST", "/images/load", raw=docker_archive(layers, [REFERENCE]), content_type="application/x-tar")


def loaded(api: Api) -> None:
    assert ask_load(api, LAYERS).status == 200


def container(api: Api) -> None:
    """One that has changed something, for its commit."""
    if api.send("GET", "/containers/half/json").status == 404:
        body = {"Image": "base:1", "Cmd": ["x"], "HostConfig": {"NetworkMode": "none"}}
        api.ok("POST", "/containers/create", body, name="half")
        api.ok("PUT", "/containers/half/archive?path=/", raw=tar({"new": "new\n"}), content_type="application/x-tar")


def container_removed(api: Api) -> None:
    removed(api, REFERENCE)
    api.send("DELETE", "/containers/half")


def tag_removed(api: Api) -> None:
    if here(api, REFERENCE):
        assert api.ok("DELETE", f"/images/{REFERENCE}").json == [{"Untagged": REFERENCE}]


IMPORTED = f"/images/create?fromSrc=-&repo={NAME}&tag=1"
OPERATIONS = [
    Operation(
        "pull",
        lambda api: api.send("POST", "/images/create", fromImage=NAME, tag="1"),
        lambda api: here(api, REFERENCE),
        lambda api: removed(api, REFERENCE),
    ),
    Operation(
        "load",
        lambda api: ask_load(api, LARGE),
        lambda api: here(api, REFERENCE),
        lambda api: removed(api, REFERENCE),
    ),
    Operation(
        "import",
        lambda api: api.send("POST", IMPORTED, raw=LAYERS[1], content_type="application/x-tar"),
        lambda api: here(api, REFERENCE),
        lambda api: removed(api, REFERENCE),
    ),
    Operation(
        "commit",
        lambda api: api.send("POST", "/commit", {}, container="half", repo=NAME, tag="1"),
        lambda api: here(api, REFERENCE),
        container_removed,
        container,
    ),
    Operation(
        "tag",
        lambda api: api.send("POST", "/images/base:1/tag", repo=NAME, tag="1"),
        lambda api: here(api, REFERENCE),
        tag_removed,
    ),
    Operation(
        "rmi",
        lambda api: api.send("DELETE", f"/images/{REFERENCE}"),
        lambda api: gone(api, REFERENCE),
        lambda api: removed(api, REFERENCE),
        loaded,
    ),
    Operation(
        "image prune",
        lambda api: api.send("POST", "/images/prune", filters={"dangling": ["0"], "label!": ["kept"]}),
        lambda api: gone(api, REFERENCE),
        lambda api: removed(api, REFERENCE),
        loaded,
    ),
]


each = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)


@each
def test_killed_at_any_step_it_is_done_or_not_begun(pierd: Breakable, operation: Operation) -> None:
    Breaking(pierd, operation).killed_everywhere()


@each
@pytest.mark.parametrize("fault", [FULL, BROKEN], ids=lambda fault: fault.name)
def test_failed_at_any_step_it_says_so_and_can_be_done_again(
    pierd: Breakable, operation: Operation, fault: Fault
) -> None:
    Breaking(pierd, operation).failed_everywhere(fault)
