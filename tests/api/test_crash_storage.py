"""pierd killed at random times while many make and remove images, containers and volumes, and again while it mends."""

import http.client
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.harness.api import Answer, Api
from tests.harness.breakable import Breakable, breakable
from tests.harness.breaking import failure, fsck, state, strays
from tests.harness.images import docker_archive, tar
from tests.harness.reality import kept, settled
from tests.harness.steps import kill, nth

pytestmark = [pytest.mark.only_pierhead("kill -9 of ours"), pytest.mark.timeout(400)]

CLIENTS = 3
ROUNDS = 6
BASE = tar({"home/seed": "seed\n"}, ["home"])


@dataclass(slots=True)
class Client:
    """Makes and removes things of its own; ``known`` is what its answers say of each: there, gone, or one of both."""

    api: Api
    number: int
    dice: random.Random
    known: dict[tuple[str, str], frozenset[bool]] = field(default_factory=dict)
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
            self.failed.append(str(error))

    def _step(self) -> None:
        kind = self.dice.choice(["image", "commit", "container", "volume", "prune"])
        if kind == "prune":
            self._asked(self.api.send("POST", "/images/prune"))  # of those without a name: there is never one
            return
        name = f"{kind}{self.number}-{self.dice.randrange(3)}"
        there = True in self.known.get((kind, name), frozenset({False}))
        self.known[kind, name] = frozenset({False, True})
        self._asked(self._remove(kind, name) if there else self._make(kind, name))
        self.known[kind, name] = frozenset({not there})

    @staticmethod
    def _asked(answer: Answer) -> None:
        assert not failure(answer), failure(answer)

    def _make(self, kind: str, name: str) -> Answer:
        if kind == "volume":
            return self.api.send("POST", "/volumes/create", {"Name": name})
        if kind == "commit":
            return self.api.send("POST", "/commit", {"Env": [f"NAME={name}"]}, container="kept", repo=name)
        if kind == "container":
            body = {"Image": "base", "Volumes": {"/home": {}}, "HostConfig": {"NetworkMode": "none"}}
            return self.api.send("POST", "/containers/create", body, name=name)
        layers = [BASE, tar({f"srv/{name}{number}": f"{number}\n" for number in range(5)}, ["srv"])]
        archive = docker_archive(layers, [f"{name}:latest"])
        return self.api.send("POST", "/images/load", raw=archive, content_type="application/x-tar")

    def _remove(self, kind: str, name: str) -> Answer:
        if kind == "volume":
            return self.api.send("DELETE", f"/volumes/{name}")
        if kind == "container":
            return self.api.send("DELETE", f"/containers/{name}", v=1)
        return self.api.send("DELETE", f"/images/{name}")

    def check(self) -> None:
        """What was answered holds."""
        for (kind, name), allowed in self.known.items():
            folder = {"volume": "volumes", "container": "containers"}.get(kind, "images")
            path = f"/{folder}/{name}" + ("" if kind == "volume" else "/json")
            answer = self.api.send("GET", path)
            assert answer.status in (200, 404), answer.body
            assert (answer.status == 200) in allowed, f"{kind} {name}: {answer.status}; its client knows {allowed}"
            self.known[kind, name] = frozenset({answer.status == 200})

    def tidy(self) -> None:
        """Remove what there is."""
        for (kind, name), there in self.known.items():
            if True in there:
                self._asked(self._remove(kind, name))


@pytest.fixture
def pierd() -> Iterator[Breakable]:
    with breakable() as made:
        archive = docker_archive([BASE], ["base:latest"])
        made.api.ok("POST", "/images/load", raw=archive, content_type="application/x-tar")
        made.api.create(image="base", name="kept", HostConfig={"NetworkMode": "none"}, Cmd=["x"])
        made.api.ok(
            "PUT", "/containers/kept/archive?path=/", raw=tar({"new": "new\n"}), content_type="application/x-tar"
        )
        made.api.ok("POST", "/volumes/create", {"Name": "kept"})
        yield made


def test_what_was_answered_holds_and_nothing_else_is_there_however_often_it_is_killed(pierd: Breakable) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    before = state(pierd)
    clients = [Client(pierd.api, number, random.Random(seed + number)) for number in range(CLIENTS)]
    for round in range(ROUNDS):
        threads = [threading.Thread(target=client.live) for client in clients]
        for thread in threads:
            thread.start()
        time.sleep(dice.uniform(0.1, 0.8))
        pierd.kill()
        for thread in threads:
            thread.join()
        for client in clients:
            assert not client.failed, f"round {round}: {client.failed}"
        mending = 0
        while not pierd.comes_up(kill(nth(dice.randrange(1, 60)))):
            mending += 1  # killed while it mends what the last one has left
            if mending == 4:
                pierd.start()
                break
        print(f"round {round}: {sum(client.done for client in clients)} answers; killed {mending} times at its start")
        assert not (left := kept(pierd) or fsck(pierd.api) or strays(pierd.api)), f"round {round}: {left}"
        for client in clients:
            client.check()
    for client in clients:
        client.tidy()
    after = state(pierd)
    assert after == before, f"now: {sorted(after - before)}; before: {sorted(before - after)}"
    assert settled(pierd) == []
