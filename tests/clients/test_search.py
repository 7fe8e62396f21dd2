"""`search`: what a registry knows, filtered and shown; one that cannot be searched says so."""

import json
from collections.abc import Iterator

import pytest

from tests.harness.api import Api
from tests.harness.engines import Engine
from tests.harness.registry import Answers, serving_registry

FOUND = [
    {
        "name": "cargo",
        "description": "Everything\nthat a ship carries, and a good deal more than that",
        "star_count": 7,
    },
    {"name": "harbour/cargo", "description": None, "star_count": 41, "is_official": True, "is_automated": True},
]


@pytest.fixture
def registry(engine: Engine) -> Iterator[str]:
    answers = Answers()
    answers.bodies["/v1/_ping"] = b"{}"
    for limit in (25, 100):
        answers.bodies[f"/v1/search?q=cargo&n={limit}"] = json.dumps({"num_results": 2, "results": FOUND}).encode()
    answers.bodies["/v1/search?q=odd&n=25"] = b"<html>"
    with serving_registry(engine.host, answers) as address:
        yield address


def names(api: Api, registry: str, **filters: str) -> list[str]:
    found = api.get("/images/search", term=f"{registry}/cargo", filters={key: [text] for key, text in filters.items()})
    return [one["name"] for one in found]


def test_results_come_as_docker_has_them(engine: Engine, registry: str) -> None:
    found = engine.api.get("/images/search", term=f"{registry}/cargo", limit=100)
    assert [one["name"] for one in found] == ["cargo", "harbour/cargo"]
    assert {"star_count", "is_official", "name", "is_automated", "description"} == set(found[0])
    assert found[1]["description"] == "" and found[1]["is_official"] is True


def test_filters_choose(engine: Engine, registry: str) -> None:
    assert names(engine.api, registry, stars="8") == ["harbour/cargo"]
    assert names(engine.api, registry, **{"is-official": "true"}) == ["harbour/cargo"]
    assert names(engine.api, registry, **{"is-official": "false"}) == ["cargo"]


@pytest.mark.needs_docker28("automated builds are none any more")
def test_nothing_is_automated(engine: Engine, registry: str) -> None:
    assert names(engine.api, registry, **{"is-automated": "true"}) == []
    assert not any(one["is_automated"] for one in engine.api.get("/images/search", term=f"{registry}/cargo"))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"limit": 101}, "limit 101 is outside the range of [1, 100]"),
        ({"limit": "many"}, "invalid limit specified"),
        ({"filters": {"stars": ["many"]}}, "invalid filter 'stars=many'"),
        ({"filters": {"colour": ["red"]}}, "invalid filter 'colour'"),
        ({"term": "https://127.0.0.1:5000/cargo"}, "should not have a scheme"),
    ],
)
@pytest.mark.needs_docker28("other words")
def test_what_cannot_be_asked_is_said(engine: Engine, registry: str, query: dict[str, object], words: str) -> None:
    refused = engine.api.send("GET", "/images/search", **{"term": f"{registry}/cargo", **query})
    assert refused.status == 400 and words in refused.message


def test_a_registry_without_search_is_named(engine: Engine, registry: str) -> None:
    missing = engine.api.send("GET", "/images/search", term=f"{registry}/elsewhere")
    assert missing.status == 500 and "Unexpected status code 404" in missing.message
    if engine.kind == "pierd":
        assert f"the registry {registry} offers no search" in missing.message
    odd = engine.api.send("GET", "/images/search", term=f"{registry}/odd")
    assert odd.status == 500
    gone = engine.api.send("GET", "/images/search", term="127.0.0.1:5999/cargo")
    assert gone.status >= 400 and "refused" in gone.message


@pytest.mark.only_pierhead("pier beside docker")
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--no-trunc",),
        ("--format", "{{json .}}"),
        ("--filter", "stars=10"),
        ("--format", "{{.Name}}: {{.IsOfficial}}"),
    ],
)
def test_pier_shows_what_docker_shows(engine: Engine, registry: str, arguments: tuple[str, ...]) -> None:
    docker, pier = (
        client("search", *arguments, f"{registry}/cargo").check() for client in (engine.docker, engine.pier)
    )
    assert docker.stdout == pier.stdout and "harbour/cargo" in pier.stdout
