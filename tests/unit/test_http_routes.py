"""Every route hands its parameters to the right job, in the job's own terms, and answers as Docker does."""

import base64
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pierhead.daemon.server import routes
from pierhead.daemon.server.router import Router
from pierhead.errors import Conflict, NoSuchContainer, NotModified, PierheadError, StartFailed
from pierhead.libcontainer.spec import SetupFailed
from pierhead.wire import containers, execs, images, networks, system, volumes
from tests.harness.serving import Serving, request, unchunk

MODULES = ("containers", "lifecycle", "streams", "execs", "images", "networks", "volumes", "system")


def known_as(job: Callable[..., Awaitable[Any]]) -> str:
    """The name that docs/plan.md gives a job, wherever it is at home."""
    for module in MODULES:
        if getattr(import_module(f"pierhead.daemon.jobs.{module}"), job.__name__, None) is job:
            return f"{module}.{job.__name__}"
    raise AssertionError(f"{job} is not in the plan")


class RecordingEngine:
    """Takes the place of the engine: answers jobs from ``results`` and keeps what they were called with."""

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def request(self, name: str) -> AbstractContextManager[None]:
        """Like Engine.request."""
        return nullcontext()

    async def run(self, job: Callable[..., Awaitable[Any]], /, *args: object, **kwargs: object) -> object:
        """Like Engine.run; the arguments must fit the real job."""
        name = known_as(job)
        bound = inspect.signature(job).bind(self, *args, **kwargs)
        self.calls.append((name, dict(list(bound.arguments.items())[1:])))
        result = self.results.get(name)
        if isinstance(result, Exception):
            raise result
        return result


class Api:
    """The whole API over a recording engine."""

    def __init__(self, path: str) -> None:
        self.engine = RecordingEngine()
        self.serving = Serving(path, application=Router(self.engine, routes.all_routes()))  # type: ignore[arg-type]

    def __call__(self, method: str, path: str, body: object = None, *headers: str) -> tuple[int, str, bytes]:
        """(status, head, content)."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        if data and not headers:
            headers = ("Content-Type: application/json",)
        raw = self.serving.talk(request(method, path, *headers, body=data))
        head, _, content = raw.partition(b"\r\n\r\n")
        if b"Transfer-Encoding: chunked" in head:
            content, whole = unchunk(raw)
            assert whole
        return int(head.split(b" ", 2)[1]), head.decode(), content

    def message(self, method: str, path: str, body: object = None, *headers: str) -> tuple[int, str]:
        """(status, the error's message)."""
        status, _, content = self(method, path, body, *headers)
        return status, json.loads(content)["message"]

    @property
    def last(self) -> tuple[str, dict[str, Any]]:
        """The last job and its arguments by name."""
        return self.engine.calls[-1]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    api = Api(str(tmp_path / "s"))
    yield api
    api.serving.close()


async def stream(*values: Any) -> AsyncIterator[Any]:
    """A job's stream; an exception among the values is raised in its turn."""
    for value in values:
        if isinstance(value, Exception):
            raise value
        yield value


SIMPLE = [
    ("GET", "/containers/json?all=1&limit=3&size=true", "containers.list", {"all": True, "limit": 3, "size": True}),
    ("GET", "/containers/json?all=false&limit=-1", "containers.list", {"all": False, "limit": 0}),
    ("GET", "/containers/web/json?size=0", "containers.inspect", {"name": "web", "size": False}),
    ("GET", "/containers/web/top?ps_args=aux", "containers.top", {"name": "web", "ps_args": "aux"}),
    ("GET", "/containers/web/changes", "containers.changes", {"name": "web"}),
    ("POST", "/containers/prune?filters=%7B%7D", "containers.prune", {}),
    ("POST", "/containers/web/start", "lifecycle.start", {"name": "web"}),
    ("POST", "/containers/web/stop?t=5&signal=INT", "lifecycle.stop", {"name": "web", "signal": "INT", "timeout": 5}),
    ("POST", "/containers/web/stop", "lifecycle.stop", {"name": "web", "timeout": None}),
    ("POST", "/containers/web/stop?t=-1", "lifecycle.stop", {"timeout": -1}),
    ("POST", "/containers/web/restart?t=0", "lifecycle.restart", {"timeout": 0}),
    ("POST", "/containers/web/kill?signal=9", "lifecycle.kill", {"signal": "9"}),
    ("POST", "/containers/web/pause", "lifecycle.pause", {"name": "web"}),
    ("POST", "/containers/web/unpause", "lifecycle.unpause", {"name": "web"}),
    ("POST", "/containers/web/rename?name=db", "containers.rename", {"name": "web", "new": "db"}),
    ("POST", "/containers/web/resize?h=24&w=80", "streams.resize", {"rows": 24, "columns": 80}),
    ("DELETE", "/containers/web?v=1&force=true", "containers.remove", {"force": True, "volumes": True, "link": False}),
    ("GET", "/exec/abc/json", "execs.inspect", {"id": "abc"}),
    ("POST", "/exec/abc/resize?h=1&w=2", "execs.resize", {"id": "abc", "rows": 1, "columns": 2}),
    ("GET", "/images/json?all=1&digests=1", "images.list", {"all": True, "digests": True, "shared_size": False}),
    ("GET", "/images/localhost:5000/a/b:c/json", "images.inspect", {"name": "localhost:5000/a/b:c"}),
    ("GET", "/images/a%2Fb/history", "images.history", {"name": "a/b"}),
    ("POST", "/images/a/b/tag?repo=c/d&tag=e", "images.tag", {"name": "a/b", "repo": "c/d", "tag": "e"}),
    ("DELETE", "/images/a/b:c?force=1&noprune=1", "images.remove", {"name": "a/b:c", "force": True, "noprune": True}),
    ("GET", "/networks", "networks.list", {}),
    ("GET", "/networks/n?verbose=true&scope=local", "networks.inspect", {"verbose": True, "scope": "local"}),
    ("DELETE", "/networks/n", "networks.remove", {"name": "n"}),
    ("GET", "/volumes", "volumes.list", {}),
    ("GET", "/volumes/v", "volumes.inspect", {"name": "v"}),
    ("DELETE", "/volumes/v?force=1", "volumes.remove", {"name": "v", "force": True}),
    ("GET", "/version", "system.version", {}),
    ("GET", "/info", "system.info", {}),
]

STATUS = {"lifecycle": 204, "containers.remove": 204, "containers.rename": 204, "networks.remove": 204}
STATUS |= {"volumes.remove": 204, "images.tag": 201}


@pytest.mark.parametrize(
    ("method", "path", "job", "arguments"), SIMPLE, ids=lambda value: value if "/" in value else ""
)
@pytest.mark.parametrize("prefix", ["", "/v1.24", "/v1.50"])
def test_a_request_becomes_its_job(
    api: Api, prefix: str, method: str, path: str, job: str, arguments: dict[str, Any]
) -> None:
    empty = {
        "images.inspect": images.ImageInspect(),
        "images.list": [],
        "images.remove": ([], None),
        "containers.list": [],
        "containers.inspect": containers.ContainerInspectResponse(),
    }
    api.engine.results = dict(empty)
    status, _, _ = api(method, prefix + path)
    assert status == STATUS.get(job, STATUS.get(job.partition(".")[0], 200))
    name, given = api.last
    assert name == job
    assert {key: given[key] for key in arguments} == arguments


def test_filters_arrive_parsed(api: Api) -> None:
    api.engine.results["containers.list"] = []
    api("GET", "/containers/json?filters=%7B%22label%22%3A%7B%22a%3Db%22%3Atrue%7D%7D")
    assert dict(api.last[1]["filters"]) == {"label": ("a=b",)}


# Bodies


def test_a_container_is_created_from_its_body(api: Api) -> None:
    api.engine.results["containers.create"] = containers.ContainerCreateResponse(id="abc")
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Memory": 5}, "NetworkingConfig": None}
    status, _, content = api("POST", "/v1.50/containers/create?name=web&platform=linux%2Famd64", body)
    assert (status, json.loads(content)) == (201, {"Id": "abc", "Warnings": []})
    name, given = api.last
    assert name == "containers.create" and given["name"] == "web" and given["platform"] == "linux/amd64"
    assert given["request"].cmd == ["true"] and given["request"].host_config.memory == 5


@pytest.mark.parametrize(
    ("body", "headers", "message"),
    [
        (b"", (), "config cannot be empty in order to create a container"),
        (b"{}", (), "config cannot be empty in order to create a container"),
        (b'{"HostConfig":{}}', (), "config cannot be empty in order to create a container"),
        (b"{", (), "invalid JSON: unexpected EOF"),
        (b"  ", (), "invalid JSON: got EOF while reading request body"),
        (b'{"Image":"a"}x', (), "unexpected content after JSON"),
        (
            b'{"Image":"a","NetworkingConfig":{"EndpointsConfig":{"n":{"GwPriority":-9223372036854775809}}}}',
            (),
            "invalid JSON: cannot unmarshal number -9223372036854775809 into Go value of type int64",
        ),
        (b"{}", ("X: y",), "malformed Content-Type header (): mime: no media type"),
        (
            b"{}",
            ("Content-Type: text/plain",),
            "unsupported Content-Type header (text/plain): must be 'application/json'",
        ),
    ],
    ids=repr,
)
def test_a_malformed_creation_is_refused(api: Api, body: bytes, headers: tuple[str, ...], message: str) -> None:
    assert api.message("POST", "/containers/create", body, *headers) == (400, message)
    assert api.engine.calls == []


def test_a_container_without_image_reaches_the_job_that_refuses_it(api: Api) -> None:
    api.engine.results["containers.create"] = containers.ContainerCreateResponse(id="abc")
    assert api("POST", "/containers/create", {"Cmd": ["a"]})[0] == 201


@pytest.mark.parametrize(
    ("path", "body", "job", "result", "status"),
    [
        ("/networks/create", {"Name": "n"}, "networks.create", networks.NetworkCreateResponse(id="a"), 201),
        ("/networks/n/connect", {"Container": "web"}, "networks.connect", None, 200),
        ("/networks/n/disconnect", {"Container": "web", "Force": True}, "networks.disconnect", None, 200),
        ("/volumes/create", {"Name": "v"}, "volumes.create", volumes.Volume(name="v"), 201),
        ("/volumes/create", None, "volumes.create", volumes.Volume(name="v"), 201),
        ("/containers/web/update", {"Memory": 1}, "containers.update", containers.ContainerUpdateResponse(), 200),
        ("/containers/web/exec", {"Cmd": ["a"]}, "execs.create", execs.ExecCreateResponse(id="e"), 201),
    ],
)
def test_a_body_becomes_the_job_s_request(
    api: Api, path: str, body: object, job: str, result: object, status: int
) -> None:
    api.engine.results[job] = result
    assert api("POST", path, body)[0] == status
    assert api.last[0] == job


def test_old_clients_prune_named_volumes_too(api: Api) -> None:
    api.engine.results["volumes.prune"] = volumes.VolumePruneResponse()
    api("POST", "/v1.41/volumes/prune")
    assert dict(api.last[1]["filters"]) == {"all": ("true",)}
    api("POST", "/v1.42/volumes/prune")
    assert dict(api.last[1]["filters"]) == {}


# Answers


def test_ping_says_what_is_spoken_here(api: Api) -> None:
    status, head, content = api("GET", "/_ping")
    assert (status, content) == (200, b"OK")
    assert "Api-Version: 1.50\r\n" in head and "Ostype: linux\r\n" in head and "Cache-Control: no-cache" in head
    status, head, content = api("HEAD", "/_ping")
    assert (status, content) == (200, b"") and "Content-Length: 0" in head


def test_no_changes_are_null_as_in_docker(api: Api) -> None:
    api.engine.results["containers.changes"] = []
    assert api("GET", "/containers/a/changes")[2] == b"null\n"


def test_old_clients_see_an_image_s_virtual_size_and_whole_config(api: Api) -> None:
    api.engine.results["images.inspect"] = images.ImageInspect(size=5, config=images.ImageConfig(cmd=["sh"]))
    old = json.loads(api("GET", "/v1.43/images/a/json")[2])
    api.engine.results["images.inspect"] = images.ImageInspect(size=5, config=images.ImageConfig(cmd=["sh"]))
    new = json.loads(api("GET", "/v1.50/images/a/json")[2])
    assert old["VirtualSize"] == 5 and old["Config"]["Cmd"] == ["sh"] and old["Config"]["Hostname"] == ""
    assert "VirtualSize" not in new and new["Config"] == {"Cmd": ["sh"]}


def test_wait_sends_its_header_before_its_answer(api: Api) -> None:
    """The docker client starts the container only once it has seen the header."""
    import asyncio

    go = asyncio.Event()

    async def waiting() -> containers.ContainerWaitResponse:
        await go.wait()
        return containers.ContainerWaitResponse(status_code=3)

    api.engine.results["lifecycle.wait"] = waiting()
    with api.serving.connect() as client:
        client.sendall(request("POST", "/containers/a/wait?condition=next-exit"))
        head = client.recv(65536)
        assert head.startswith(b"HTTP/1.1 200") and b"StatusCode" not in head
        assert api.last[1]["condition"] == "next-exit"
        api.serving.loop.call_soon_threadsafe(go.set)
        rest = b""
        while b"0\r\n\r\n" not in rest:
            rest += client.recv(65536)
        assert b'{"StatusCode":3}' in rest


def test_a_failed_wait_says_so_in_its_answer(api: Api) -> None:
    async def waiting() -> containers.ContainerWaitResponse:
        raise PierheadError("broken")

    api.engine.results["lifecycle.wait"] = waiting()
    _, _, content = api("POST", "/containers/a/wait")
    assert json.loads(content) == {"StatusCode": -1, "Error": {"Message": "broken"}}
    assert api.message("POST", "/containers/a/wait?condition=x") == (400, 'invalid condition: "x"')


# Streams


def test_a_pull_shows_its_progress_line_by_line(api: Api) -> None:
    api.engine.results["images.pull"] = stream(
        images.JSONMessage(status="Pulling", id="a"),
        images.JSONMessage(status="x", progress_detail=images.ProgressDetail()),
    )
    auth = base64.urlsafe_b64encode(b'{"username":"u"}').decode().rstrip("=")
    status, head, content = api(
        "POST", "/images/create?fromImage=a/b&tag=c&platform=linux", None, f"X-Registry-Auth: {auth}"
    )
    assert status == 200 and "Content-Type: application/json" in head
    assert content == b'{"status":"Pulling","id":"a"}\n{"status":"x","progressDetail":{}}\n'
    assert api.last[1]["reference"] == "a/b:c" and api.last[1]["auth"].username == "u"


def test_a_pull_by_digest_or_with_unreadable_credentials_goes_on(api: Api) -> None:
    api.engine.results["images.pull"] = stream()
    api("POST", "/images/create?fromImage=a&tag=sha256:00", None, "X-Registry-Auth: *")
    assert api.last[1]["reference"] == "a@sha256:00" and api.last[1]["auth"] is None


def test_a_pull_that_fails_at_once_is_an_error_and_later_a_message(api: Api) -> None:
    api.engine.results["images.pull"] = stream(Conflict("no"))
    assert api.message("POST", "/images/create?fromImage=a") == (409, "no")
    api.engine.results["images.pull"] = stream(images.JSONMessage(status="x"), Conflict("no"))
    _, _, content = api("POST", "/images/create?fromImage=a")
    assert content.endswith(b'{"errorDetail":{"message":"no"},"error":"no"}\n')


def test_an_import_and_a_load_read_the_body(api: Api) -> None:
    api.engine.results["images.import_"] = stream(images.JSONMessage(status="sha256:0"))
    url = "/images/create?fromSrc=-&repo=r&tag=t&message=m&changes=CMD+a&changes=ENV+b"
    assert api("POST", url, b"tar", "Content-Type: application/x-tar")[0] == 200
    name, given = api.last
    assert name == "images.import_" and (given["repo"], given["tag"]) == ("r", "t")
    assert list(given["changes"]) == ["CMD a", "ENV b"] and given["origin"] == "-"
    api.engine.results["images.load"] = stream()
    assert api("POST", "/images/load?quiet=0", b"tar", "Content-Type: application/x-tar")[0] == 200
    assert api.last[1]["quiet"] is False
    api.engine.results["images.import_"] = stream()
    assert api("POST", "/images/create?fromSrc=http://x/")[0] == 200 and api.last[1]["origin"] == "http://x/"
    assert api.message("POST", "/images/create")[0] == 400


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/images/a/b/get", ["a/b"]),
        ("/images/get?names=a&names=b", ["a", "b"]),
        ("/images/get?names=a,b", ["a", "b"]),
    ],
)
def test_a_save_streams_an_archive(api: Api, path: str, names: list[str]) -> None:
    api.engine.results["images.save"] = stream(b"one", b"two")
    status, head, content = api("GET", path)
    assert (status, content) == (200, b"onetwo") and "Content-Type: application/x-tar" in head
    assert list(api.last[1]["names"]) == names


def test_events_take_times(api: Api) -> None:
    api.engine.results["system.events"] = stream(system.EventMessage(type="container", action="die"))
    status, _, content = api("GET", "/events?since=1.5&until=2")
    assert status == 200 and json.loads(content)["Action"] == "die"
    assert (api.last[1]["since"], api.last[1]["until"]) == (1_500_000_000, 2_000_000_000)
    assert api.message("GET", "/events?since=2&until=1")[0] == 400
    assert api.message("GET", "/events?since=soon")[0] == 400


# Errors


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NoSuchContainer("web"), 404),
        (Conflict("x"), 409),
        (StartFailed("x", 127), 400),
        (StartFailed("x", 128), 500),
        (PierheadError("x"), 500),
        (RuntimeError("x"), 500),
        (SetupFailed(5, "x", "/y", "mount", "mount"), 500),
    ],
    ids=repr,
)
def test_an_error_is_docker_s_json(api: Api, error: Exception, status: int) -> None:
    api.engine.results["lifecycle.start"] = error
    assert api.message("POST", "/containers/web/start") == (status, str(error))


def test_a_failed_system_call_is_told_in_plain_words(api: Api) -> None:
    for error, words in (
        (OSError(28, "No space left on device"), "no space left on device"),
        (OSError(2, "No such file or directory", "/x"), "/x: no such file or directory"),
        (OSError("GraphDB is gone"), "GraphDB is gone"),
    ):
        api.engine.results["lifecycle.start"] = error
        assert api.message("POST", "/containers/web/start") == (500, words)


def test_nothing_to_do_has_no_body(api: Api) -> None:
    api.engine.results["lifecycle.start"] = NotModified()
    status, head, content = api("POST", "/containers/web/start")
    assert (status, content) == (304, b"") and "Content-Type" not in head


@pytest.mark.parametrize("path", ["/", "/nothing", "/containers", "/containers//json", "/v1.50", "/v1.50/", "*"])
def test_an_unknown_page_is_not_found(api: Api, path: str) -> None:
    assert api.message("GET", path) == (404, "page not found")
    assert api.message("DELETE", "/containers/json/x")[0] == 404


def test_versions_are_checked(api: Api) -> None:
    assert api.message("GET", "/v1.23/info")[0] == 400
    assert api.message("GET", "/v1.51/info") == (
        400,
        "client version 1.51 is too new. Maximum supported API version is 1.50",
    )


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("POST", "/containers/a/stop?t=x", 'strconv.Atoi: parsing "x": invalid syntax'),
        ("GET", "/containers/json?limit=x", 'strconv.Atoi: parsing "x": invalid syntax'),
        ("GET", "/containers/json?filters=x", "invalid filter"),
        ("GET", "/containers/a/logs", "Bad parameters: you must choose at least one stream"),
        ("GET", "/containers/a/stats?one-shot=1", "cannot have stream=true and one-shot=true"),
        ("POST", "/containers/a/attach?detachKeys=ctrl-", "Invalid detach keys (ctrl-) provided"),
        (
            "POST",
            "/containers/a/resize?h=x&w=1",
            'invalid resize height "x": strconv.ParseUint: parsing "x": invalid syntax',
        ),
    ],
)
def test_bad_parameters_are_refused_in_docker_s_words(api: Api, method: str, path: str, message: str) -> None:
    assert api.message(method, path) == (400, message)
    assert api.engine.calls == []


def test_a_start_with_a_configuration_is_refused_as_by_docker(api: Api) -> None:
    assert api.message("POST", "/containers/a/start", {"Binds": []})[0] == 400
    assert api("POST", "/containers/a/start", b"{}")[0] == 204


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nodes", 503),
        ("GET", "/services/a", 503),
        ("GET", "/swarm", 503),
        ("POST", "/build?t=a", 501),
        ("POST", "/session", 501),
    ],
)
def test_what_is_not_done_here_says_so(api: Api, method: str, path: str, status: int) -> None:
    got, message = api.message(method, path)
    assert got == status and message


# Attach, exec and logs


def test_a_command_that_cannot_run_is_said_on_the_exec_s_stdout(api: Api) -> None:
    api.engine.results["execs.inspect"] = execs.ExecInspectResponse(id="e")
    api.engine.results["execs.start"] = StartFailed("no such file", 127)
    status, _, content = api("POST", "/v1.50/exec/e/start", {"Detach": False})
    assert status == 200 and content == b"\x01\0\0\0\0\0\0\x0eno such file\r\n"
    assert api.message("POST", "/v1.50/exec/e/start", {"Detach": True}) == (400, "no such file")
    api.engine.results["execs.start"] = None
    assert api("POST", "/v1.50/exec/e/start", {"Detach": True})[0] == 200


def test_logs_have_the_content_type_that_tells_how_to_read_them(api: Api) -> None:
    from pierhead.daemon.jobs.streams import Logs

    for version, terminal, kind in (("1.41", False, "raw"), ("1.42", False, "multiplexed"), ("1.50", True, "raw")):
        api.engine.results["streams.logs"] = Logs(terminal, stream(b"x"))
        _, head, content = api("GET", f"/v{version}/containers/a/logs?stdout=1&tail=5&since=1&timestamps=1")
        assert f"Content-Type: application/vnd.docker.{kind}-stream" in head and content == b"x"
    options = api.last[1]["options"]
    assert (options.stdout, options.stderr, options.tail, options.since) == (True, False, 5, 10**9)
    api.engine.results["streams.logs"] = Logs(False, stream())
    api("GET", "/containers/a/logs?stdout=1&tail=all")
    assert api.last[1]["options"].tail == -1
