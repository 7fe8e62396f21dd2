"""A pull on a terminal is drawn by pier as the docker client draws it, and told line by line elsewhere."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.test_pier_requests import Recorder
from tests.conftest import client_present, client_version
from tests.harness.engines import PIER, docker_client
from tests.harness.terminal import Terminal

MESSAGES: list[dict[str, Any]] = [
    {"status": "Pulling from library/x", "id": "latest"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "aaaaaaaaaaaa"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "bbbbbbbbbbbb"},
    {"status": "Waiting", "progressDetail": {}, "id": "bbbbbbbbbbbb"},
    {"status": "Downloading", "progressDetail": {"current": 1, "total": 2000}, "id": "aaaaaaaaaaaa", "progress": "x"},
    {"status": "Downloading", "progressDetail": {"current": 1234567, "total": 9876543}, "id": "aaaaaaaaaaaa"},
    {"status": "Downloading", "progressDetail": {"current": 9876543, "total": 9876543}, "id": "bbbbbbbbbbbb"},
    {"status": "Downloading", "progressDetail": {"current": 5000}, "id": "bbbbbbbbbbbb"},
    {"status": "Verifying Checksum", "progressDetail": {}, "id": "aaaaaaaaaaaa"},
    {"status": "Download complete", "progressDetail": {}, "id": "aaaaaaaaaaaa"},
    {"status": "Extracting", "progressDetail": {"current": 3, "units": "s"}, "id": "aaaaaaaaaaaa"},
    {"status": "Pull complete", "progressDetail": {}, "id": "aaaaaaaaaaaa"},
    {"status": "Already exists", "progressDetail": {}, "id": "bbbbbbbbbbbb"},
    {"status": "Digest: sha256:0"},
    {"status": "Status: Downloaded newer image for x:latest"},
]
FAILURE = {"errorDetail": {"message": "it broke"}, "error": "it broke"}


class Pulling(Recorder):
    """A daemon that pulls anything, in the messages above."""

    messages = MESSAGES

    def answer(self, file: Any) -> bool:
        first = file.readline().decode()
        if not first:
            return False
        while file.readline().strip():
            pass
        if "/images/create" in first:
            body = b"".join(json.dumps(message).encode() + b"\r\n" for message in self.messages)
            file.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + body)
            file.flush()
            return False
        head = b"Api-Version: 1.50\r\nOstype: linux\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        file.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + (b"" if first.startswith("HEAD") else b"{}"))
        file.flush()
        return True


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Pulling]:
    if not client_present() or client_version() < (28,):
        pytest.skip("needs the docker client 28 to compare with")
    made = Pulling(tmp_path / "s")
    yield made
    made.close()


def environment(daemon: Pulling) -> dict[str, str]:
    found = {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}
    folder = str(daemon.path.parent)
    return {**found, "DOCKER_HOST": f"unix://{daemon.path}", "DOCKER_CONFIG": folder, "TERM": "xterm"}


def screen(daemon: Pulling, program: str, columns: int) -> tuple[int, str]:
    with Terminal([program, "pull", "x"], environment(daemon), 24, columns) as terminal:
        return terminal.wait(), terminal.seen.decode()


@pytest.mark.parametrize("columns", [60, 100, 200])
def test_a_terminal_shows_the_same_bars(daemon: Pulling, columns: int) -> None:
    assert screen(daemon, str(PIER), columns) == screen(daemon, docker_client(), columns)


@pytest.mark.parametrize("words", [["pull", "x"], ["pull", "-q", "x"], ["pull", "reg.io/a/b:c"]])
@pytest.mark.parametrize("broken", [False, True])
def test_a_pipe_gets_the_same_lines(daemon: Pulling, words: list[str], broken: bool) -> None:
    daemon.messages = [*MESSAGES[:6], FAILURE] if broken else MESSAGES
    said = []
    for program in (str(PIER), docker_client()):
        done = subprocess.run([program, *words], env=environment(daemon), capture_output=True, text=True, timeout=60)
        said.append((done.returncode, done.stdout, done.stderr.replace("docker", "pier")))
    assert said[0] == said[1]
