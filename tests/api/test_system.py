"""Ping, version, info, events, disk usage, and how wrong requests are answered."""

import json
import tempfile
import time

import pytest

from tests.harness.api import Api, connect
from tests.harness.engines import Engine, docker_client
from tests.harness.engines import engine as started_engine
from tests.harness.hands import Background
from tests.harness.processes import wait_until


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


def test_ping_answers_with_the_version_that_clients_negotiate(api: Api) -> None:
    for method in ("GET", "HEAD"):
        answer = api.send(method, "/_ping")
        assert answer.status == 200 and answer.headers["Api-Version"] >= "1.41" and answer.headers["Ostype"] == "linux"
        assert answer.body == (b"OK" if method == "GET" else b"")


def test_version_and_info_tell_what_runs(api: Api) -> None:
    version = api.get("/version")
    assert {"Version", "ApiVersion", "MinAPIVersion", "Os", "Arch", "KernelVersion"} <= set(version)
    assert version["Components"][0]["Name"] == "Engine"
    api.run("sleep", "1000")
    api.create("true")
    info = api.get("/info")
    assert (info["Containers"], info["ContainersRunning"], info["ContainersStopped"]) == (2, 1, 1)
    assert info["Images"] >= 2 and info["Driver"] in ("overlay2", "vfs") and info["OSType"] == "linux"
    assert info["NCPU"] >= 1 and info["MemTotal"] > 0 and info["ID"] and info["DockerRootDir"]
    assert {"bridge", "host", "null"} <= set(info["Plugins"]["Network"]) and "local" in info["Plugins"]["Volume"]


@pytest.mark.parametrize("version", ["v1.24", "v1.30", "v1.41"])
def test_older_clients_are_served(engine: Engine, version: str) -> None:
    api = Api(engine.socket, version)
    id = api.run("sleep", "1000")
    assert api.inspect(id)["State"]["Running"]
    assert api.get("/containers/json")[0]["Id"] == id


@pytest.mark.only_pierhead("Debian's dockerd speaks up to 1.41")
@pytest.mark.parametrize("version", ["v1.44", "v1.47", "v1.50"])
def test_newer_clients_are_served(engine: Engine, version: str) -> None:
    api = Api(engine.socket, version)
    id = api.run("sleep", "1000")
    assert api.inspect(id)["State"]["Running"]


def test_a_version_too_new_is_refused(engine: Engine) -> None:
    refused = Api(engine.socket, "v1.99").send("GET", "/info")
    assert refused.status == 400
    assert "client version 1.99 is too new. Maximum supported API version is" in refused.message


def test_an_unknown_page_is_said(api: Api) -> None:
    answer = api.send("GET", "/nothing/here")
    assert (answer.status, answer.message) == (404, "page not found")


def test_requests_that_are_no_http_do_no_harm(api: Api) -> None:
    for junk in (
        b"\0\1\2\3\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /v1.41/containers/create HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ):
        with connect(api.path, timeout=10) as connection:
            connection.sendall(junk)
            answer = connection.recv(4096)
            assert answer == b"" or b" 400 " in answer.split(b"\r\n")[0]
    assert api.send("GET", "/_ping").status == 200


def test_a_connection_serves_many_requests(engine: Engine) -> None:
    with connect(engine.socket) as connection:
        for _ in range(3):
            connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"OK"):
                answer += connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 200 OK")


def since_now(api: Api) -> float:
    return time.time() - 0.001


def test_events_tell_a_containers_life_in_order(api: Api) -> None:
    start = f"{since_now(api):.9f}"
    id = api.run("sh", "-c", "exit 3", name="told", Labels={"mark": "x"})
    api.wait(id)
    api.ok("DELETE", f"/containers/{id}")
    time.sleep(0.05)
    wanted = {"container": [id], "colour": ["a filter that is not known"]}
    seen = list(api.stream("/events", since=start, until=f"{time.time():.9f}", filters=wanted))
    actions = [entry["Action"] for entry in seen]
    assert [action for action in actions if action in ("create", "start", "die", "destroy")] == [
        "create",
        "start",
        "die",
        "destroy",
    ]
    die = next(entry for entry in seen if entry["Action"] == "die")
    assert die["Type"] == "container" and die["Actor"]["ID"] == id and die["id"] == id and die["status"] == "die"
    attributes = die["Actor"]["Attributes"]
    assert attributes["exitCode"] == "3" and attributes["name"] == "told" and attributes["mark"] == "x"
    assert attributes["image"] == "busybox"
    assert die["time"] == die["timeNano"] // 1_000_000_000


def test_events_of_networks_volumes_and_images(api: Api) -> None:
    start = f"{since_now(api):.9f}"
    network = api.ok("POST", "/networks/create", {"Name": "told"}).json["Id"]
    id = api.run("sleep", "1000", HostConfig={"NetworkMode": "told", "Binds": ["told:/told"]})
    api.ok("DELETE", f"/containers/{id}", force=1)
    api.ok("DELETE", f"/networks/{network}")
    api.ok("POST", "/images/busybox/tag", repo="told", tag="1")
    api.ok("DELETE", "/images/told:1")
    time.sleep(0.05)
    seen = list(api.stream("/events", since=start, until=f"{time.time():.9f}"))
    told = {(entry["Type"], entry["Action"]) for entry in seen}
    assert {
        ("network", "create"), ("network", "connect"), ("network", "disconnect"), ("network", "destroy"),
        ("volume", "create"), ("volume", "mount"), ("volume", "unmount"),
        ("image", "tag"), ("image", "untag"), ("container", "kill"), ("container", "die"),
    } <= told  # fmt: skip


def test_events_of_an_image_are_found_with_and_without_its_tag(api: Api) -> None:
    start = f"{since_now(api):.9f}"
    api.ok("POST", "/images/busybox/tag", repo="told", tag="1")
    id = api.create("true", Image="told:1")
    api.ok("DELETE", f"/containers/{id}")
    api.ok("DELETE", "/images/told:1")
    time.sleep(0.05)

    def actions(image: str) -> list[str]:
        seen = api.stream("/events", since=start, until=f"{time.time():.9f}", filters={"image": [image]})
        return [entry["Action"] for entry in seen]

    assert actions("told:1")[:2] == actions("told")[:2] == ["tag", "create"]
    assert actions("tol") == actions("told:2") == []


def test_events_tell_of_the_stop_in_a_restart_and_of_top(api: Api) -> None:
    start = f"{since_now(api):.9f}"
    id = api.run("sleep", "1000")
    api.get(f"/containers/{id}/top")
    api.ok("POST", f"/containers/{id}/restart", t=0)
    time.sleep(0.05)
    seen = [entry["Action"] for entry in api.stream("/events", since=start, until=f"{time.time():.9f}")]
    wanted = ["start", "top", "die", "stop", "start", "restart"]
    assert [action for action in seen if action in wanted] == wanted


def test_events_are_followed_as_they_happen_and_filtered(api: Api) -> None:
    def first_two() -> list[str]:
        stream = api.stream("/events", filters={"type": ["container"], "event": ["start", "die"]})
        seen = [next(stream)["Action"], next(stream)["Action"]]
        stream.close()
        return seen

    before = api.get("/info")["NEventsListener"]
    following = Background(first_two)
    wait_until(lambda: api.get("/info")["NEventsListener"] > before, "who follows")
    api.output("true")
    assert following.finish() == ["start", "die"]


def test_disk_usage_counts_images_containers_volumes(api: Api) -> None:
    id = api.run("dd", "if=/dev/zero", "of=/file", "bs=1024", "count=200", HostConfig={"Binds": ["told:/told"]})
    api.wait(id)
    usage = api.get("/system/df")
    assert usage["LayersSize"] > 0 and any("busybox:latest" in (image["RepoTags"] or []) for image in usage["Images"])
    container = next(entry for entry in usage["Containers"] if entry["Id"] == id)
    assert container["SizeRw"] >= 204800
    assert [volume["Name"] for volume in usage["Volumes"]] == ["told"]
    sized = api.get(f"/containers/{id}/json", size=1)
    assert sized["SizeRw"] >= 204800 and sized["SizeRootFs"] > sized["SizeRw"]


def test_errors_are_json_with_a_message(api: Api) -> None:
    answer = api.send("GET", "/containers/nobody/json")
    assert answer.headers["Content-Type"] == "application/json"
    assert set(json.loads(answer.body)) == {"message"}


def test_many_clients_at_once_are_served(api: Api) -> None:
    work = [Background(lambda: api.output("echo", "hello")) for _ in range(8)]
    assert [one.finish(90) for one in work] == ["hello\n"] * 8
    wait_until(lambda: not api.get("/containers/json", all=1), "nothing is left")


def test_checkpoints_are_refused_as_docker_does_without_experimental_features(api: Api) -> None:
    id = api.create("true")
    for method, path in (("GET", ""), ("POST", ""), ("DELETE", "/one")):
        refused = api.send(method, f"/containers/{id}/checkpoints{path}")
        assert refused.status == 501 and refused.message.startswith("This experimental feature is disabled by default.")
    refused = api.send("POST", f"/containers/{id}/start", checkpoint="one")
    assert refused.status == 400 and refused.message == "checkpoint is only supported in experimental mode"


@pytest.mark.only_pierhead("starts one of its own with our flags")
def test_the_daemons_defaults_hold_for_containers_that_do_not_say() -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(profile, file)
        file.flush()
        flags = ("--default-shm-size=3m", "--default-ipc-mode=shareable", "--no-new-privileges", "--init")
        with started_engine(
            "pierd", (*flags, f"--seccomp-profile={file.name}", "--default-ulimit=nofile=77:88")
        ) as made:
            words = "df -k /dev/shm | tail -1; ulimit -n; grep NoNewPrivs /proc/1/status; mkdir /tmp/x || echo refused"
            said = made.api.output("sh", "-c", words)
            assert "3072" in said and "\n77\n" in said and "NoNewPrivs:\t1" in said and "refused" in said
            id = made.api.create("true")
            host = made.api.inspect(id)["HostConfig"]
            assert (host["IpcMode"], host["ShmSize"], host["Init"]) == ("shareable", 3 << 20, True)
            other = {"SecurityOpt": ["seccomp=builtin", "no-new-privileges=false"], "Init": False}
            said = made.api.output("sh", "-c", "grep NoNewPrivs /proc/self/status; mkdir /x; echo $$", HostConfig=other)
            assert said == "NoNewPrivs:\t0\n1\n"


@pytest.mark.only_pierhead("dockerd waits for seconds before it listens there")
def test_a_daemon_is_reached_at_each_of_its_addresses_and_says_which_are_open_to_anybody() -> None:
    with started_engine("pierd", ("-H", "tcp://127.0.0.1:2375", "-H", "192.0.2.10:2376"), images=False) as made:
        for address in ("127.0.0.1:2375", "192.0.2.10:2376"):
            shown = made.host.run(docker_client(), "-H", f"tcp://{address}", "info", "--format", "{{.Driver}}").check()
            assert shown.stdout.strip() == made.api.get("/info")["Driver"]
        warnings = made.api.get("/info")["Warnings"]
        assert [warning.split(" without encryption.")[0] for warning in warnings] == [
            "WARNING: API is accessible on http://127.0.0.1:2375",
            "WARNING: API is accessible on http://192.0.2.10:2376",
        ]
        assert "API is accessible on http://192.0.2.10:2376 without encryption. Access to" in made.log.read_text()
