"""What a request may not say: refused with Docker's status and words, and nothing is left of it."""

import json
from typing import Any

import pytest

from tests.harness.api import Api
from tests.harness.engines import Engine
from tests.harness.images import config_of, docker_archive, tar

needs_docker28 = pytest.mark.needs_docker28("answers this otherwise, or later")


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"HostConfig": {"Memory": -5}}, "Minimum memory limit allowed is 6MB"),
        ({"HostConfig": {"Memory": 6291455}}, "Minimum memory limit allowed is 6MB"),
        ({"HostConfig": {"CgroupnsMode": "wat"}}, "invalid cgroup namespace mode: wat"),
        ({"Healthcheck": {"Interval": 5}}, "Interval in Healthcheck cannot be less than 1ms"),
        ({"Healthcheck": {"Retries": -1}}, "Retries in Healthcheck cannot be negative"),
        pytest.param({"HostConfig": {"Isolation": "wat"}}, "linux only supports 'default'", marks=needs_docker28),
        pytest.param(
            {"HostConfig": {"StorageOpt": {"size": "1G"}}}, "--storage-opt is supported", marks=needs_docker28
        ),
    ],
)
def test_a_container_that_cannot_be_is_not_made(api: Api, body: dict[str, Any], words: str) -> None:
    refused = api.send("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], **body})
    assert refused.status == 400 and words in refused.message
    assert api.get("/containers/json", all=1) == []


@pytest.mark.parametrize(
    ("platform", "status", "words"),
    [
        (
            "linux/s390x",
            404,
            "was found but does not match the specified platform: wanted linux/s390x",
        ),
        ("windows/amd64", 404, "was found but does not match the specified platform: wanted windows/amd64"),
        ("zz", 400, "unknown operating system or architecture"),
    ],
)
def test_an_image_of_another_platform_is_not_taken_for_the_one_asked_for(
    api: Api, platform: str, status: int, words: str
) -> None:
    refused = api.send("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"]}, platform=platform)
    assert refused.status == status and words in refused.message
    assert api.get("/containers/json", all=1) == []


def test_an_image_of_another_platform_that_nobody_asked_for_is_warned_of(api: Api) -> None:
    layers = [tar({"bin/prog": "not of this machine"})]
    archive = docker_archive(layers, ["foreign:one"], config_of(layers, ["/bin/prog"], "s390x"))
    api.ok("POST", "/images/load", raw=archive, content_type="application/x-tar")
    made = api.ok("POST", "/containers/create", {"Image": "foreign:one"}).json
    assert any("linux/s390x) does not match the detected host platform" in warning for warning in made["Warnings"])
    asked = api.ok("POST", "/containers/create", {"Image": "foreign:one"}, platform="linux/s390x").json
    assert not asked["Warnings"]
    for id in (made["Id"], asked["Id"]):
        started = api.send("POST", f"/containers/{id}/start")
        if started.status == 204:  # runc finds out too late for an answer
            assert api.wait(id) != 0
            said = api.logs(id).decode(errors="replace")
        else:
            said = started.message
        assert "exec format error" in said
        api.ok("DELETE", f"/containers/{id}")
    api.ok("DELETE", "/images/foreign:one")


def test_an_import_for_another_system_is_refused(api: Api) -> None:
    images = len(api.get("/images/json"))
    path = "/images/create?fromSrc=-&repo=other&platform=windows"
    refused = api.send("POST", path, raw=tar({"a": "b"}), content_type="application/x-tar")
    assert refused.status == 400 and "is not supported" in refused.message
    assert len(api.get("/images/json")) == images


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"RestartPolicy": {"Name": "wat"}}, "invalid restart policy"),
        ({"Memory": -1}, "Minimum memory limit allowed is 6MB"),
        ({"CpusetCpus": "999"}, "Requested CPUs are not available"),
    ],
)
def test_an_update_that_cannot_be_changes_nothing(api: Api, body: dict[str, Any], words: str) -> None:
    id = api.run("sleep", "1000", HostConfig={"RestartPolicy": {"Name": "on-failure"}, "Memory": 50_000_000})
    before = api.inspect(id)["HostConfig"]
    refused = api.send("POST", f"/containers/{id}/update", body)
    assert refused.status == 400 and words in refused.message
    assert api.inspect(id)["HostConfig"] == before


def test_filters_on_what_no_container_has_find_none(api: Api) -> None:
    api.run("sleep", "1000")
    for filters, count in ({"health": ["healthy"]}, 0), ({"health": ["none"]}, 1), ({"is-task": ["true"]}, 0):
        assert len(api.get("/containers/json", filters=json.dumps(filters))) == count, filters
    refused = api.send("GET", "/containers/json", filters=json.dumps({"health": ["wat"]}))
    assert refused.status == 400 and "filter value for health: wat" in refused.message
