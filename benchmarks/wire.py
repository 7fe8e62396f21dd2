"""A client that costs next to nothing: one kept connection, requests as prepared bytes, answers read to their end."""

import json
import socket
from typing import Any

VERSION = "/v1.41"


class Connection:
    """One kept-alive connection to an engine's unix socket."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(120)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def request(self, method: str, path: str, body: Any = None) -> bytes:
        """The body of the answer; RuntimeError for a status of 400 and more."""
        data = b"" if body is None else json.dumps(body).encode()
        self.socket.sendall(
            f"{method} {VERSION}{path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        status = int(self.file.readline().split()[1])
        headers = {}
        while (line := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        answer = self._body(status, headers)
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {answer.decode(errors='replace')}")
        return answer

    def _body(self, status: int, headers: dict[bytes, bytes]) -> bytes:
        if status in (204, 304):
            return b""
        if headers.get(b"transfer-encoding") == b"chunked":
            answer = b""
            while size := int(self.file.readline().split(b";")[0], 16):
                answer += self.file.read(size)
                self.file.readline()
            self.file.readline()
            return answer
        if b"content-length" in headers:
            return self.file.read(int(headers[b"content-length"]))
        return self.file.read()

    def json(self, method: str, path: str, body: Any = None) -> Any:
        return json.loads(self.request(method, path, body))


def hijacked(path: str, target: str, body: Any) -> bytes:
    """What comes over a connection that the request turns into a stream, until its end."""
    data = json.dumps(body).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(120)
        connection.connect(path)
        connection.sendall(
            f"POST {VERSION}{target} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
            f"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer
