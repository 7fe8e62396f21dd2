"""The network's rows: throughput and latency of published ports and between containers, and what ports cost."""

import json
import re
import time
from collections.abc import Callable
from functools import partial

from benchmarks import measures, tools
from benchmarks.measures import Measure
from benchmarks.table import Goal, Row, row
from tests.harness.engines import Engine, peers_environment
from tests.harness.netns import Namespace
from tests.harness.processes import run, wait_until

SECONDS = 1
"""Of traffic for each sample."""

SERVER = "bench-server"
CLIENT = "bench-client"
_WAIT = 60.0


def _said(place: Namespace, *argv: str) -> str:
    kept = place.argv("taskset", "-c", str(tools.CLIENTS_CPU), *argv)
    return run(kept, env=peers_environment(), timeout=_WAIT).check().stdout


def _requests(place: Callable[[Engine], Namespace], address: Callable[[Engine], str]) -> Measure:
    """Requests a second to the published web server, 16 connections."""

    def once(engine: Engine) -> float:
        url = f"http://{address(engine)}:{tools.HTTP}/"
        said = _said(place(engine), tools.program("wrk"), "-t1", "-c16", f"-d{SECONDS}s", url)
        found = re.search(r"Requests/sec:\s*([\d.]+)", said)
        assert found and "Non-2xx" not in said and "Socket errors" not in said, said
        return float(found[1])

    return once


def _latency(place: Callable[[Engine], Namespace], address: Callable[[Engine], str]) -> Measure:
    """Seconds of a request and its answer on one connection, the median of a sample."""

    def once(engine: Engine) -> float:
        url = f"http://{address(engine)}:{tools.HTTP}/"
        said = _said(place(engine), tools.program("wrk"), "-t1", "-c1", f"-d{SECONDS}s", "--latency", url)
        found = re.search(r"50%\s+([\d.]+)(us|ms|s)", said)
        assert found, said
        return float(found[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[found[2]]

    return once


def _gigabits(report: str) -> float:
    return float(json.loads(report)["end"]["sum_received"]["bits_per_second"]) / 1e9


def _throughput(place: Callable[[Engine], Namespace], address: Callable[[Engine], str]) -> Measure:
    """Gbit/s of one TCP connection to the published port."""

    def once(engine: Engine) -> float:
        argv = (tools.program("iperf3"), "-J", "-t", str(SECONDS), "-c", address(engine), "-p", str(tools.IPERF))
        return _gigabits(_said(place(engine), *argv))

    return once


def _between(engine: Engine) -> float:
    """Gbit/s of one TCP connection from a container to another on the same network."""
    server = _own_address(engine)
    id = engine.api.ok(
        "POST",
        f"/containers/{CLIENT}/exec",
        {"Cmd": ["iperf3", "-J", "-t", str(SECONDS), "-c", server], "AttachStdout": True, "Tty": True},
    ).json["Id"]
    stream = engine.api.hijack(f"/exec/{id}/start", {"Detach": False, "Tty": True})
    try:
        return _gigabits(stream.read_all().decode())
    finally:
        stream.socket.close()


def _host(engine: Engine) -> Namespace:
    return engine.host


def _neighbour(engine: Engine) -> Namespace:
    return engine.world.neighbour


def _loopback(engine: Engine) -> str:
    return "127.0.0.1"


def _address(engine: Engine) -> str:
    return engine.world.host_address


def _own_address(engine: Engine) -> str:
    return str(engine.api.inspect(SERVER)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"])


NOISE = 0.1
"""Fourteen samples of dockerd's latency lay between 39 and 72 µs, ours beside them between 38 and 74: medians of eleven
differ by a tenth where nothing differs."""
NOT_SLOWER = Goal(ratio=1, noise=NOISE)

RATES: tuple[tuple[str, str, Measure, Goal], ...] = (
    ("published, 127.0.0.1: requests", "/s", _requests(_host, _loopback), Goal(ratio=2)),
    ("published, 127.0.0.1: throughput", "Gbit/s", _throughput(_host, _loopback), Goal(ratio=2)),
    # What the kernel's way into a container can give when nothing is published or translated.
    ("container's address: throughput", "Gbit/s", _throughput(_host, _own_address), NOT_SLOWER),
    ("published, other host: requests", "/s", _requests(_neighbour, _address), NOT_SLOWER),
    ("published, other host: throughput", "Gbit/s", _throughput(_neighbour, _address), NOT_SLOWER),
    ("container to container: throughput", "Gbit/s", _between, NOT_SLOWER),
)
LATENCIES: tuple[tuple[str, Measure, Goal], ...] = (
    ("published, 127.0.0.1: latency", _latency(_host, _loopback), NOT_SLOWER),
    ("published, other host: latency", _latency(_neighbour, _address), NOT_SLOWER),
)

Turns = Callable[[list[Engine], Measure, int], dict[str, list[float]]]


def traffic(engines: list[Engine], rounds: int, turns: Turns) -> list[Row]:
    """The rows of traffic, on all engines."""
    together = {"NetworkMode": "bridge", "CpusetCpus": str(tools.CLIENTS_CPU)}
    for engine in engines:
        tools.provide(engine)
        tools.serve(engine, SERVER)
        engine.api.run("sleep", "100000", image=tools.IMAGE, name=CLIENT, HostConfig=together)
        wait_until(partial(_answers, engine), f"the servers of {engine.kind}")
    rows = [row(what, unit, turns(engines, measure, rounds), goal, 1, rate=True) for what, unit, measure, goal in RATES]
    rows += [row(what, "µs", turns(engines, measure, rounds), goal, 1e6) for what, measure, goal in LATENCIES]
    for engine in engines:
        measures.remove(engine, [SERVER, CLIENT])
    return rows


def _answers(engine: Engine) -> bool:
    try:
        for port in (tools.HTTP, tools.IPERF):
            engine.host.connect("127.0.0.1", port, 2).close()
    except OSError:
        return False
    return True


def many_ports(engines: list[Engine], rounds: int, turns: Turns) -> list[Row]:
    """What a start with a published port costs beside 1,000 ports, against what it cost beside none: of ours alone."""
    ours = [engine for engine in engines if engine.kind == "pierd"]
    life = measures.life("bridge", port=True)
    before = turns(ours, life, rounds)
    ids = [_fifty(engine, 20000 + 50 * number) for engine in ours for number in range(20)]
    time.sleep(1)
    after = turns(ours, life, rounds)
    for engine in ours:
        measures.remove(engine, ids)
    ratios = {
        kind: [later / first for first, later in zip(sorted(before[kind]), sorted(after[kind]), strict=True)]
        for kind in before
    }
    return [row("a start beside 1,000 ports, beside none", "×", ratios, Goal(most=1.2), 1)]


def _fifty(engine: Engine, first: int) -> str:
    """A container that publishes fifty ports, each onto another number; its id."""
    ports = {f"{port}/tcp": [{"HostPort": str(port + 10000)}] for port in range(first, first + 50)}
    host = {"PortBindings": ports, "NetworkMode": "bridge"}
    return engine.api.run("sleep", "100000", ExposedPorts={key: {} for key in ports}, HostConfig=host)
