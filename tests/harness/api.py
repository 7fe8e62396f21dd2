"""The Engine API, raw: one connection a request on the unix socket, and hijacked ones by hand."""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from tests.harness.processes import DEADLINE

VERSION = "v1.41"
"""What Debian's dockerd speaks, so that every test can be aimed at both."""


class UnixConnection(http.client.HTTPConnection):
    """http.client over a unix socket."""

    def __init__(self, path: str, timeout: float = DEADLINE) -> None:
        super().__init__("docker", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = connect(self.path, self.timeout or DEADLINE)


def connect(path: str, timeout: float = DEADLINE) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """The text of an error."""
        return str(self.json["message"])

    @property
    def records(self) -> list[Any]:
        """A stream of JSON objects, one a line."""
        return [json.loads(line) for line in self.body.splitlines() if line.strip()]


@dataclass(frozen=True, slots=True)
class Hijacked:
    """A connection after the upgrade: raw bytes both ways."""

    socket: socket.socket
    status: int
    head: str
    early: bytes

    def read_all(self) -> bytes:
        """What comes until the other side closes."""
        data = self.early
        while chunk := self.socket.recv(65536):
            data += chunk
        return data

    def read_until(self, marker: bytes) -> bytes:
        data = self.early
        while marker not in data:
            chunk = self.socket.recv(65536)
            assert chunk, f"closed before {marker!r}: {data!r}"
            data += chunk
        return data


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """stdcopy's frames: (1 stdout | 2 stderr, payload)."""
    found = []
    while data:
        length = int.from_bytes(data[4:8], "big")
        assert data[1:4] == b"\0\0\0" and len(data) >= 8 + length, f"not a frame: {data[:32]!r}"
        found.append((data[0], data[8 : 8 + length]))
        data = data[8 + length :]
    return found


def demultiplex(data: bytes) -> tuple[bytes, bytes]:
    """stdout and stderr out of stdcopy's frames."""
    split = frames(data)
    return b"".join(p for s, p in split if s == 1), b"".join(p for s, p in split if s == 2)


class Api:
    """Requests to one engine."""

    def __init__(self, path: str, version: str = VERSION) -> None:
        self.path = path
        self.version = version

    def _target(self, path: str, query: Mapping[str, Any]) -> str:
        values = {
            key: json.dumps(value) if isinstance(value, dict | list) else value
            for key, value in query.items()
            if value is not None
        }
        joined = "&" if "?" in path else "?"
        return f"/{self.version}{path}" + (f"{joined}{urlencode(values)}" if values else "")

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        content_type: str = "application/json",
        timeout: float = DEADLINE,
        **query: Any,
    ) -> Answer:
        """One request and its whole answer, whatever its status."""
        connection = UnixConnection(self.path, timeout)
        data = raw if raw is not None else (json.dumps(body).encode() if body is not None else None)
        try:
            headers = {"Content-Type": content_type} if data is not None else {}
            connection.request(method, self._target(path, query), data, headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def ok(self, method: str, path: str, body: Any = None, **rest: Any) -> Answer:
        """A request that must succeed."""
        answer = self.send(method, path, body, **rest)
        assert 200 <= answer.status < 400, f"{method} {path}: {answer.status} {answer.body.decode(errors='replace')}"
        return answer

    def get(self, path: str, **query: Any) -> Any:
        return self.ok("GET", path, **query).json

    def stream(self, path: str, timeout: float = DEADLINE, **query: Any) -> Iterator[Any]:
        """JSON objects as they come; closing the iterator closes the connection."""
        connection = UnixConnection(self.path, timeout)
        try:
            connection.request("GET", self._target(path, query))
            response = connection.getresponse()
            assert response.status == 200, response.read()
            for line in response:
                if line.strip():
                    yield json.loads(line)
        finally:
            connection.close()

    def hijack(
        self, path: str, body: Any = None, *, upgrade: bool = True, timeout: float = DEADLINE, **query: Any
    ) -> Hijacked:
        """POST that turns the connection into a raw stream (attach, exec start)."""
        data = json.dumps(body).encode() if body is not None else b""
        head = [f"POST {self._target(path, query)} HTTP/1.1", "Host: docker", f"Content-Length: {len(data)}"]
        head.append("Content-Type: application/json")
        if upgrade:
            head += ["Connection: Upgrade", "Upgrade: tcp"]
        connection = connect(self.path, timeout)
        connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + data)
        answer = b""
        while b"\r\n\r\n" not in answer:
            chunk = connection.recv(65536)
            assert chunk, f"closed: {answer!r}"
            answer += chunk
        text, _, early = answer.partition(b"\r\n\r\n")
        return Hijacked(connection, int(text.split()[1]), text.decode(), early)

    # What nearly every test does.

    def create(self, *command: str, image: str = "busybox", name: str | None = None, **config: Any) -> str:
        """Create a container; returns its id."""
        body = {"Image": image, **({"Cmd": list(command)} if command else {}), **config}
        return str(self.ok("POST", "/containers/create", body, name=name).json["Id"])

    def run(self, *command: str, image: str = "busybox", name: str | None = None, **config: Any) -> str:
        """Create and start; returns the id."""
        id = self.create(*command, image=image, name=name, **config)
        self.ok("POST", f"/containers/{id}/start")
        return id

    def wait(self, id: str) -> int:
        return int(self.ok("POST", f"/containers/{id}/wait").json["StatusCode"])

    def inspect(self, id: str) -> Any:
        return self.get(f"/containers/{id}/json")

    def logs(self, id: str, **query: Any) -> bytes:
        """The raw answer of logs: stdcopy frames unless the container has a terminal."""
        return self.ok("GET", f"/containers/{id}/logs", **({"stdout": 1, "stderr": 1} | query)).body

    def output(self, *command: str, **config: Any) -> str:
        """Run to the end, stdout and stderr together; the container is removed."""
        id = self.run(*command, **config)
        try:
            self.wait(id)
            return b"".join(payload for _, payload in frames(self.logs(id))).decode(errors="replace")
        finally:
            self.send("DELETE", f"/containers/{id}", force=1)


@contextmanager
def waiting(api: Api, id: str, condition: str) -> Iterator[http.client.HTTPResponse]:
    """A wait for a container that the engine knows of: it has answered with the head, and its body comes later."""
    connection = UnixConnection(api.path)
    connection.request("POST", f"/{api.version}/containers/{id}/wait?condition={condition}")
    with closing(connection), connection.getresponse() as response:
        assert response.status == 200
        yield response
