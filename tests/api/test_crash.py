"""pierd killed with -9 at any moment, in the middle of anything: what was answered holds, and nothing else is there."""

import http.client
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.harness.api import Api, demultiplex
from tests.harness.engines import Pierd
from tests.harness.processes import wait_until
from tests.harness.reality import settled

pytestmark = pytest.mark.only_pierhead("kill -9 of ours")

SEEDS = (1, 2, 3, 4, 5, 6)
CLIENTS = 4
SERVE = (
    "trap 'exit 7' TERM; echo hello > /www/index.html; httpd -p 8080 -h /www; "
    "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.02; done"
)
GONE = frozenset({"gone"})


@dataclass(slots=True)
class Known:
    """What one client knows of a container: the states that the answers it has got allow."""

    name: str
    network: str
    port: int
    states: frozenset[str] = GONE
    anonymous: bool = False
    auto_remove: bool = False


@dataclass(slots=True)
class Client:
    """A client that does things until the daemon is gone; ``containers`` is what must be true afterwards."""

    api: Api
    number: int
    dice: random.Random
    containers: dict[str, Known] = field(default_factory=dict)
    done: int = 0
    failed: list[str] = field(default_factory=list)

    def live(self) -> None:
        """Until the connection breaks."""
        try:
            while True:
                self._step()
                self.done += 1
        except (OSError, http.client.HTTPException):
            return
        except AssertionError as error:
            if not str(error).startswith("closed"):  # a connection that broke while it was hijacked
                self.failed.append(str(error))

    def _step(self) -> None:
        here = [one for one in self.containers.values() if one.states != GONE]
        if len(here) < 2 or (len(here) < 5 and self.dice.random() < 0.4):
            self._create()
            return
        one = self.dice.choice(here)
        if one.states == {"created"} or one.states == {"exited"}:
            self.dice.choice([self._start, self._start, self._remove])(one)
        else:
            self.dice.choice([self._execute, self._stop, self._kill, self._remove, self._restart])(one)

    def _create(self) -> None:
        number = len(self.containers)
        network = self.dice.choice(["none", "bridge", "own"])
        port = 0 if network == "none" else 10_000 + 1000 * self.number + number
        one = Known(f"c{self.number}-{number}", network, port, anonymous=self.dice.random() < 0.5)
        one.auto_remove = self.dice.random() < 0.2
        host = {"NetworkMode": network, "Binds": [f"shared{self.number}:/shared"], "AutoRemove": one.auto_remove}
        body = {"Image": "busybox", "Cmd": ["sh", "-c", SERVE], "HostConfig": host}
        if port:
            host["PortBindings"] = {"8080/tcp": [{"HostPort": str(port)}]}
            body["ExposedPorts"] = {"8080/tcp": {}}
        if one.anonymous:
            body["Volumes"] = {"/anonymous": {}}
        self.containers[one.name] = one
        one.states = GONE | {"created"}
        self.api.ok("POST", "/containers/create", body, name=one.name)
        one.states = frozenset({"created"})

    def _move(self, one: Known, method: str, action: str, after: str, *between: str) -> None:
        """A request that leads to a state; without its answer the one before or any between is possible too."""
        if one.auto_remove:
            after = "gone" if after == "exited" else after
            between = tuple("gone" if state == "exited" else state for state in between)
        one.states |= {after, *between}
        self.api.ok(method, f"/containers/{one.name}{action}")
        one.states = frozenset({after})

    def _start(self, one: Known) -> None:
        self._move(one, "POST", "/start", "running")

    def _stop(self, one: Known) -> None:
        self._move(one, "POST", "/stop?t=5", "exited")

    def _kill(self, one: Known) -> None:
        self._move(one, "POST", "/kill", "exited")

    def _restart(self, one: Known) -> None:
        if not one.auto_remove:  # the container of a restart that was killed in between is removed at its end, rightly
            self._move(one, "POST", "/restart?t=5", "running", "exited")

    def _remove(self, one: Known) -> None:
        self._move(one, "DELETE", "?force=1&v=1", "gone", "exited")

    def _execute(self, one: Known) -> None:
        assert executed(self.api, one.name) == (0, "hi\n")


def executed(api: Api, name: str) -> tuple[int, str]:
    """Exit code and output of `echo hi` in a container."""
    made = api.ok("POST", f"/containers/{name}/exec", {"Cmd": ["echo", "hi"], "AttachStdout": True}).json["Id"]
    connection = api.hijack(f"/exec/{made}/start", {"Detach": False})
    with connection.socket:
        output = demultiplex(connection.read_all())[0].decode()
    wait_until(lambda: not api.get(f"/exec/{made}/json")["Running"], "the end of an exec")
    return int(api.get(f"/exec/{made}/json")["ExitCode"]), output


def answers(pierd: Pierd, port: int) -> bool:
    try:
        return "hello" in pierd.host.http_get("127.0.0.1", port, "/index.html", timeout=5)
    except OSError:
        return False


def check(pierd: Pierd, one: Known) -> None:
    """The container is in a state that its client's answers allow, and works."""
    answer = pierd.api.send("GET", f"/containers/{one.name}/json")
    state = "gone" if answer.status == 404 else answer.json["State"]["Status"]
    assert state in one.states or (one.auto_remove and state == "gone"), (
        f"{one.name} (auto-remove {one.auto_remove}) is {state}; its client knows: {sorted(one.states)}"
    )
    one.states = frozenset({state})
    if state == "gone":
        return
    if state == "running":
        assert executed(pierd.api, one.name) == (0, "hi\n")
        if one.port:
            wait_until(lambda: answers(pierd, one.port), f"an answer of {one.name} on port {one.port}")
    text = demultiplex(pierd.api.logs(one.name))[0].decode()
    # A container that was started several times has counted several times.
    runs = text.split("line 1\n")[1:]
    for run in runs:
        numbers = [int(line.split()[1]) for line in run.splitlines()]
        assert numbers == list(range(2, len(numbers) + 2)), f"{one.name}: a gap in its log"


@pytest.fixture
def crashed(pierd: Pierd) -> Iterator[Pierd]:
    pierd.api.ok("POST", "/networks/create", {"Name": "own"})
    yield pierd


def test_whatever_was_answered_holds_after_kill_9_and_nothing_else_is_there(crashed: Pierd) -> None:
    pierd = crashed
    clients = [Client(pierd.api, number, random.Random(number)) for number in range(CLIENTS)]
    for seed in SEEDS:
        dice = random.Random(seed)
        for client in clients:
            client.dice = random.Random(seed * 100 + client.number)
        threads = [threading.Thread(target=client.live) for client in clients]
        for thread in threads:
            thread.start()
        moment = dice.uniform(0.3, 1.5)
        time.sleep(moment)
        pierd.kill()
        for thread in threads:
            thread.join()
        print(f"seed {seed}: killed after {moment:.3f} s, {sum(client.done for client in clients)} requests answered")
        for client in clients:
            assert not client.failed, f"seed {seed}: {client.failed}"
        pierd.start()
        assert settled(pierd) == [], f"seed {seed}"
        for client in clients:
            for one in client.containers.values():
                check(pierd, one)
    for client in clients:
        for one in client.containers.values():
            pierd.api.send("DELETE", f"/containers/{one.name}", force=1, v=1)
    assert pierd.api.get("/containers/json", all=1) == []
    assert [volume["Name"] for volume in pierd.api.get("/volumes")["Volumes"] or ()] == sorted(
        f"shared{number}" for number in range(CLIENTS)
    )
    assert settled(pierd) == []
