"""The embedded name server under load: queries at a fixed rate from inside a container, and how long each took.

Run as a module it is the load client itself, a process of its own in the container's network namespace, so that it
shares nothing with the bench but the machine: ``python -m benchmarks.resolver RATE SECONDS NAME…`` prints JSON.
"""

import json
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import quantiles
from typing import Any

from tests.harness.engines import TOP, Engine

SERVER = ("127.0.0.11", 53)
RATE = 2000
SECONDS = 5.0
SOCKETS = 16
PATIENCE = 5.0
NETWORK, NAMES = "bench-names", ("bench-web", "bench-web.bench-names", "bench-shared", "bench-asker")


def questions(names: list[str]) -> list[bytes]:
    """For each name what a C library asks: A and AAAA; without the two bytes of the id."""
    found = []
    for name in names:
        wire = b"".join(bytes((len(label),)) + label.encode() for label in name.split(".")) + b"\0"
        for kind in (1, 28):
            found.append(struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0) + wire + struct.pack(">HH", kind, 1))
    return found


def load(rate: float, seconds: float, names: list[str]) -> dict[str, Any]:
    """Send at the rate, whatever comes back (an open loop: a slow answer does not slow the questions). Latencies in
    seconds, counted from when a query was due, so that one that waited for its turn here counts in full."""
    asked = questions(names)
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(SOCKETS)]
    with selectors.SelectSelector() as selector:  # epoll and poll wait for whole milliseconds
        for number, one in enumerate(sockets):
            one.connect(SERVER)
            one.setblocking(False)
            selector.register(one, selectors.EVENT_READ, number)
        total = int(rate * seconds)
        due: dict[tuple[int, int], float] = {}
        latencies: list[float] = []
        wrong = sent = 0
        begin = time.perf_counter() + 0.05
        while sent < total or due:
            now = time.perf_counter()
            while sent < total and begin + sent / rate <= now:
                which, id = sent % SOCKETS, sent // SOCKETS % 65536
                due[which, id] = begin + sent / rate
                sockets[which].send(struct.pack(">H", id) + asked[sent % len(asked)])
                sent += 1
            wait = max(0.0, begin + sent / rate - time.perf_counter()) if sent < total else 1.0
            ready = selector.select(wait)
            if not ready and sent == total:
                break  # what has not come by now does not come
            for key, _ in ready:
                while True:
                    try:
                        reply = sockets[key.data].recv(4096)
                    except BlockingIOError:
                        break
                    latencies.append(time.perf_counter() - due.pop((key.data, reply[0] << 8 | reply[1])))
                    wrong += reply[3] & 0x0F != 0
    return {"latencies": latencies, "lost": len(due), "wrong": wrong}


@contextmanager
def asking(engine: Engine) -> Iterator[int]:
    """A network with names, and in it a container that asks: its process id."""
    engine.api.ok("POST", "/networks/create", {"Name": NETWORK})
    ids = []
    try:
        for name in ("bench-web", "bench-db", "bench-asker"):
            aliases = {"EndpointsConfig": {NETWORK: {"Aliases": ["bench-shared"]}}}
            host = {"NetworkMode": NETWORK}
            ids.append(engine.api.run("sleep", "100000", name=name, HostConfig=host, NetworkingConfig=aliases))
        yield int(engine.api.inspect(ids[-1])["State"]["Pid"])
    finally:
        for id in ids:
            engine.api.send("DELETE", f"/containers/{id}", force=1)
        engine.api.send("DELETE", f"/networks/{NETWORK}")


def tail(pid: int, rate: float = RATE, seconds: float = SECONDS, share: float = 0.99) -> float:
    """Seconds within which that share of the queries of a run was answered; a lost one counts as a C library would wait
    for it. Raises RuntimeError for a wrong answer."""
    argv = ["nsenter", f"--net=/proc/{pid}/ns/net", "--", sys.executable, "-m", "benchmarks.resolver"]
    said = subprocess.run(
        [*argv, str(rate), str(seconds), *NAMES], cwd=TOP, capture_output=True, text=True, check=True, timeout=120
    )
    result = json.loads(said.stdout)
    if result["wrong"]:
        raise RuntimeError(f"{result['wrong']} answers are errors")
    latencies: list[float] = result["latencies"] + [PATIENCE] * result["lost"]
    return quantiles(latencies, n=1000)[round(share * 1000) - 1]


if __name__ == "__main__":
    print(json.dumps(load(float(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])))
