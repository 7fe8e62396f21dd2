"""A pull on a terminal is drawn by pier as the docker client draws it, and told line by line elsewhere."""

import json
import os
import signal
import subprocess
import threading
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
    # Whether it goes on for ever after the last message.
    stays = False

    def __init__(self, path: Path) -> None:
        self.ended = threading.Event()
        super().__init__(path)

    def answer(self, file: Any) -> bool:
        first = file.readline().decode()
        if not first:
            return False
        head = b"".join(iter(file.readline, b"\r\n")).lower()
        if b"transfer-encoding: chunked" in head:
            while size := int(file.readline(), 16):
                file.read(size + 2)
            file.readline()
        if "/images/" in first and first.startswith("POST"):
            # A load tells its progress to those alone who say that they want it.
            quiet = "/images/load" in first and "quiet=0" not in first
            messages = [message for message in self.messages if not (quiet and "id" in message)]
            body = b"".join(json.dumps(message).encode() + b"\r\n" for message in messages)
            file.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + body)
            file.flush()
            if self.stays:
                self.ended.wait(60)
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
    made.ended.set()
    made.close()


def environment(daemon: Pulling) -> dict[str, str]:
    found = {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}
    folder = str(daemon.path.parent)
    return {**found, "DOCKER_HOST": f"unix://{daemon.path}", "DOCKER_CONFIG": folder, "TERM": "xterm"}


def screen(daemon: Pulling, program: str, columns: int, *words: str) -> tuple[int, str]:
    with Terminal([program, *(words or ("pull", "x"))], environment(daemon), 24, columns) as terminal:
        return terminal.wait(), terminal.seen.decode()


@pytest.mark.parametrize("command", ["push", "load"])
def test_pushes_and_loads_are_drawn_the_same(daemon: Pulling, tmp_path: Path, command: str) -> None:
    (tmp_path / "archive").write_bytes(bytes(10240))
    words = ["load", "-i", str(tmp_path / "archive")] if command == "load" else ["push", "x:1"]
    daemon.messages = [
        {**message, "status": {"push": "Pushing", "load": "Loading layer"}[command]} if "id" in message else message
        for message in MESSAGES
    ]
    assert screen(daemon, str(PIER), 100, *words) == screen(daemon, docker_client(), 100, *words)


def test_ctrl_c_leaves_the_cursor_below_the_bars(daemon: Pulling) -> None:
    daemon.messages, daemon.stays = MESSAGES[:6], True
    seen = []
    for program in (str(PIER), docker_client()):
        with Terminal([program, "pull", "x"], environment(daemon), 24, 100) as terminal:
            terminal.expect("9.877MB\r\x1b[2B")  # the last message, to its end
            terminal.type("\x03")
            status = terminal.wait()
            # Who ends at once may have ended before the terminal has shown what was typed.
            seen.append(terminal.seen.decode().replace("^C", ""))
            # To a shell both are 130. Docker's client takes its own cancelling for the end of the stream now and then.
            assert status in (130, -signal.SIGINT) or (status == 0 and program == docker_client())
    assert seen[0] == seen[1]


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
