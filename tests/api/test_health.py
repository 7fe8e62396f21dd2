"""Health checks: run as asked, told in inspect, lists and events, and gone on with by the daemon that comes next."""

import itertools
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.harness.api import Api
from tests.harness.engines import Engine, Pierd
from tests.harness.images import tar
from tests.harness.processes import wait_until

MS = 10**6
CHANGE = "HEALTHCHECK --interval=1m30s --timeout=1.5s --retries=4 CMD test -e /ok || exit 1"
CHECKED = {"Test": ["CMD-SHELL", "echo looked; test -e /ok"], "Interval": 100 * MS, "Retries": 2}


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


def health(api: Api, id: str) -> Any:
    return api.inspect(id)["State"].get("Health")


def becomes(api: Api, id: str, status: str) -> Any:
    """Its health once it has this status."""
    wait_until(lambda: health(api, id)["Status"] == status, f"the status {status}")
    return health(api, id)


def inside(api: Api, id: str, command: str) -> None:
    made = api.ok("POST", f"/containers/{id}/exec", {"Cmd": ["sh", "-c", command], "AttachStdout": True})
    api.ok("POST", f"/exec/{made.json['Id']}/start", {"Detach": False})


def listed(api: Api, **filters: list[str]) -> dict[str, str]:
    """Ids and what ``docker ps`` says of them."""
    return {one["Id"]: one["Status"] for one in api.get("/containers/json", filters=json.dumps(filters))}


def events(api: Api, id: str, since: float, *actions: str) -> list[Any]:
    filters = json.dumps({"container": [id], "event": list(actions)})
    return api.ok("GET", "/events", since=since, until=time.time(), filters=filters).records


def test_a_container_is_healthy_when_its_check_succeeds_and_unhealthy_when_it_fails_again_and_again(api: Api) -> None:
    since = time.time()
    id = api.run("sleep", "1000", Healthcheck=CHECKED | {"StartPeriod": 3_600_000 * MS} | {"StartInterval": 100 * MS})
    assert health(api, id)["Status"] == "starting"
    assert listed(api, health=["starting"])[id].endswith("(health: starting)")
    inside(api, id, "touch /ok")
    healthy = becomes(api, id, "healthy")
    assert healthy["FailingStreak"] == 0
    assert listed(api, health=["healthy"])[id].endswith("(healthy)") and not listed(api, health=["unhealthy"])
    inside(api, id, "rm /ok")
    unhealthy = becomes(api, id, "unhealthy")
    assert unhealthy["FailingStreak"] >= 2
    assert listed(api, health=["unhealthy"])[id].endswith("(unhealthy)")
    wait_until(lambda: len(health(api, id)["Log"]) == 5 and health(api, id)["FailingStreak"] > 5, "more than is kept")
    found = health(api, id)["Log"]
    assert [(one["ExitCode"], one["Output"]) for one in found] == [(1, "looked\n")] * 5
    assert all(first["End"] <= second["Start"] for first, second in itertools.pairwise(found))
    changes = [one["Action"] for one in events(api, id, since, "health_status")]
    assert changes == ["health_status: healthy", "health_status: unhealthy"]
    command = "/bin/sh -c echo looked; test -e /ok"
    assert events(api, id, since, f"exec_start: {command}")


@pytest.mark.parametrize(
    ("test", "code", "output"),
    [
        (["CMD", "echo", "it's"], 0, "it's\n"),
        (["CMD-SHELL", "echo err >&2; exit 3"], 3, "err\n"),
        (["CMD-SHELL", "head -c 10000 /dev/zero | tr '\\0' x"], 0, "x" * 4096 + "..."),
        (["CMD", "/missing"], -1, "/missing"),
        (["CMD-SHELL", "exec sleep 1000"], -1, "Health check exceeded timeout (300ms)"),
        (["CMD-SHELL", 'echo $NAME $PWD; test "$(id -u)" = 7'], 0, "value /tmp\n"),
    ],
)
def test_a_check_is_run_as_asked_and_its_result_told(api: Api, test: list[str], code: int, output: str) -> None:
    check = {"Test": test, "Interval": 50 * MS, "Timeout": 300 * MS}
    if code == 0:
        check |= {"Timeout": 0}
    id = api.run("sleep", "1000", Healthcheck=check, Env=["NAME=value"], User="7", WorkingDir="/tmp")
    wait_until(lambda: health(api, id)["Log"], "a result")
    first = health(api, id)["Log"][0]
    if code == -1:  # Debian's dockerd names the reason of what cannot be executed by another number
        assert first["ExitCode"] in (-1, 126, 127) and output in first["Output"], first
    else:
        assert (first["ExitCode"], first["Output"]) == (code, output)


def test_a_start_that_takes_its_time_is_no_failure_in_the_period_it_was_given(api: Api) -> None:
    id = api.run("sleep", "1000", Healthcheck=CHECKED | {"StartPeriod": 3_600_000 * MS, "StartInterval": 50 * MS})
    wait_until(lambda: len(health(api, id)["Log"]) > 2, "three failures")
    assert health(api, id)["Status"] == "starting" and health(api, id)["FailingStreak"] == 0


@pytest.mark.needs_docker28("knows no start interval")
def test_within_the_start_period_another_interval_holds(api: Api) -> None:
    hour = 3_600_000 * MS
    check = CHECKED | {"Interval": hour, "StartPeriod": hour, "StartInterval": 50 * MS}
    id = api.run("sleep", "1000", Healthcheck=check)
    wait_until(lambda: len(health(api, id)["Log"]) > 1, "two results")


def test_without_a_check_there_is_no_health(api: Api) -> None:
    none = [
        api.run("sleep", "1000"),
        api.run("sleep", "1000", Healthcheck={"Test": ["NONE"]}),
        api.run("sleep", "1000", Healthcheck={"Interval": 5 * MS}),
    ]
    assert all(health(api, id) is None for id in none)
    assert set(listed(api, health=["none"])) == set(none)


def test_an_image_brings_its_check_and_what_is_not_said_of_it_stays(api: Api) -> None:
    made = tar({"bin/prog": "x"})
    query = urlencode({"fromSrc": "-", "repo": "checked", "changes": CHANGE})
    api.ok("POST", f"/images/create?{query}", raw=made, content_type="application/x-tar")
    brought = {"Test": ["CMD-SHELL", "test -e /ok || exit 1"], "Interval": 90_000 * MS, "Timeout": 1_500 * MS}
    brought["Retries"] = 4
    assert api.get("/images/checked/json")["Config"]["Healthcheck"] == brought
    for asked, shown in (
        ({}, brought),
        ({"Healthcheck": {"Retries": 7}}, brought | {"Retries": 7}),
        ({"Healthcheck": {"Test": ["NONE"]}}, brought | {"Test": ["NONE"]}),
    ):
        id = api.create("/bin/prog", image="checked", **asked)
        assert api.inspect(id)["Config"]["Healthcheck"] == shown
        api.ok("DELETE", f"/containers/{id}")
    api.ok("DELETE", "/images/checked")


def test_no_check_is_run_in_a_paused_container_nor_in_one_that_has_ended(api: Api) -> None:
    id = api.run("sleep", "1000", Healthcheck=CHECKED | {"Test": ["CMD", "true"]})
    becomes(api, id, "healthy")
    api.ok("POST", f"/containers/{id}/pause")
    seen = health(api, id)
    assert "Paused" in api.get("/containers/json")[0]["Status"]
    api.ok("POST", f"/containers/{id}/unpause")
    wait_until(lambda: health(api, id)["Log"][-1] != seen["Log"][-1], "a check after the pause")
    becomes(api, id, "healthy")
    api.ok("POST", f"/containers/{id}/stop", t=0)
    ended = health(api, id)
    assert ended["Status"] == "unhealthy" and ended["Log"]
    assert "healthy" not in api.get("/containers/json", all=1)[0]["Status"]
    api.ok("POST", f"/containers/{id}/start")
    becomes(api, id, "healthy")
    api.ok("DELETE", f"/containers/{id}", force=1)


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_a_restarted_daemon_goes_on_checking_and_knows_what_was_found(pierd: Pierd, way: str) -> None:
    api = pierd.api
    id = api.run("sleep", "1000", Healthcheck=CHECKED | {"Test": ["CMD", "true"]})
    hanging = api.run("sleep", "1000", Healthcheck=CHECKED | {"Test": ["CMD", "sleep", "4242"]})
    becomes(api, id, "healthy")

    def checks() -> list[str]:
        table = api.get(f"/containers/{hanging}/top")
        return [row[1] for row in table["Processes"] if "4242" in row[-1]]

    wait_until(checks, "a check that hangs")
    first = checks()
    leave: Callable[[], object] = pierd.kill if way == "kill" else pierd.stop
    leave()
    pierd.start()
    found = health(api, id)
    assert found["Status"] == "healthy" and found["Log"]
    wait_until(lambda: health(api, id)["Log"][-1]["Start"] > found["Log"][-1]["Start"], "a check of the new daemon")
    wait_until(lambda: checks() and checks() != first, "the check that hung to be gone and another one to be there")
