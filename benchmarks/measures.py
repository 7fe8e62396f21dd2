"""What is measured: each measure does one thing once and gives the seconds it took."""

import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.wire import Connection, hijacked
from tests.harness.engines import Engine, processes_in

IMAGE = "busybox"
Measure = Callable[[Engine], float]


def _config(network: str, command: list[str], port: bool = False) -> dict[str, Any]:
    host: dict[str, Any] = {"NetworkMode": network}
    config: dict[str, Any] = {"Image": IMAGE, "Cmd": command, "HostConfig": host}
    if port:
        config["ExposedPorts"] = {"8080/tcp": {}}
        host["PortBindings"] = {"8080/tcp": [{"HostPort": "18080"}]}
    return config


def _life(connection: Connection, config: dict[str, Any]) -> None:
    id = connection.json("POST", "/containers/create", config)["Id"]
    connection.request("POST", f"/containers/{id}/start")
    connection.request("POST", f"/containers/{id}/wait")
    connection.request("DELETE", f"/containers/{id}")


def life(network: str, port: bool = False) -> Measure:
    """create + start + wait + remove of `true`."""

    def once(engine: Engine) -> float:
        connection = Connection(engine.socket)
        try:
            begin = time.perf_counter()
            _life(connection, _config(network, ["true"], port))
            return time.perf_counter() - begin
        finally:
            connection.close()

    return once


def crowd(engine: Engine, count: int = 40, at_a_time: int = 8) -> float:
    """Seconds a container, of `count` lives with so many under way at once."""
    connections = [Connection(engine.socket) for _ in range(at_a_time)]

    def lane(connection: Connection) -> None:
        for _ in range(count // at_a_time):
            _life(connection, _config("bridge", ["true"]))

    try:
        begin = time.perf_counter()
        with ThreadPoolExecutor(at_a_time) as pool:
            list(pool.map(lane, connections))
        return (time.perf_counter() - begin) / count
    finally:
        for connection in connections:
            connection.close()


def sleeper(engine: Engine) -> float:
    """start + rm -f of a container that sleeps."""
    connection = Connection(engine.socket)
    try:
        id = connection.json("POST", "/containers/create", _config("bridge", ["sleep", "1000"]))["Id"]
        begin = time.perf_counter()
        connection.request("POST", f"/containers/{id}/start")
        connection.request("DELETE", f"/containers/{id}?force=1")
        return time.perf_counter() - begin
    finally:
        connection.close()


def execute(engine: Engine) -> float:
    """exec of `true` in a running container, until its exit code is known."""
    connection = Connection(engine.socket)
    try:
        begin = time.perf_counter()
        config = {"Cmd": ["true"], "AttachStdout": True, "AttachStderr": True}
        id = connection.json("POST", "/containers/bench-target/exec", config)["Id"]
        hijacked(engine.socket, f"/exec/{id}/start", {"Detach": False, "Tty": False})
        while connection.json("GET", f"/exec/{id}/json")["Running"]:
            pass
        return time.perf_counter() - begin
    finally:
        connection.close()


def listing(engine: Engine) -> float:
    """GET /containers/json once, with 25 running."""
    connection = Connection(engine.socket)
    try:
        begin = time.perf_counter()
        connection.request("GET", "/containers/json")
        return time.perf_counter() - begin
    finally:
        connection.close()


def process(*words: str, pier: bool = False) -> Measure:
    """A whole client process."""

    def once(engine: Engine) -> float:
        argv = engine.pier_argv(*words) if pier else engine.docker_argv(*words)
        environment = engine.client_environment()
        begin = time.perf_counter()
        # Not run(timeout=…): that polls in steps that double, and would measure 31 or 63 ms and nothing between.
        client = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        watchdog = threading.Timer(60, client.kill)
        watchdog.start()
        try:
            status = client.wait()
        finally:
            elapsed = time.perf_counter() - begin
            watchdog.cancel()
        if status:
            raise subprocess.CalledProcessError(status, argv)
        return elapsed

    return once


def start_many(engine: Engine, count: int = 25) -> list[str]:
    """Start sleeping containers on bridge; their ids."""
    connection = Connection(engine.socket)
    try:
        ids = []
        for _ in range(count):
            ids.append(connection.json("POST", "/containers/create", _config("bridge", ["sleep", "1000"]))["Id"])
            connection.request("POST", f"/containers/{ids[-1]}/start")
        return ids
    finally:
        connection.close()


def remove(engine: Engine, ids: list[str]) -> None:
    connection = Connection(engine.socket)
    try:
        for id in ids:
            connection.request("DELETE", f"/containers/{id}?force=1")
    finally:
        connection.close()


def memory(engine: Engine) -> int:
    """PSS in bytes of the engine's own processes: those on its machine's network. Containers have their own."""
    total = 0
    for pid in processes_in(engine.host.path):
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                total += next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
    return total
