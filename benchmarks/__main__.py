"""`make bench`: run every measure on every engine, turn about, and print the table."""

import argparse
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import measures, network, resolver, storage, tools
from benchmarks.measures import Measure
from benchmarks.table import Goal, Row, render, row
from tests.harness.engines import Engine, engine, orderly_end
from tests.harness.processes import run

MB = 1_000_000
PAUSE = 0.2
"""Seconds before each sample: an engine's clearing up after its own turn must not be counted to the next one."""

SETTLED = 1.0
"""Seconds before memory is read: a process forked for the next start has by then what it will have."""

TIMES: tuple[tuple[str, Measure, int, Goal], ...] = (
    ("create+start+wait+remove, none", measures.life("none"), 30, Goal(ratio=10)),
    ("create+start+wait+remove, host", measures.life("host"), 30, Goal(ratio=10)),
    ("create+start+wait+remove, bridge", measures.life("bridge"), 30, Goal(ratio=10)),
    ("create+start+wait+remove, bridge+port", measures.life("bridge", port=True), 30, Goal(ratio=10)),
    ("40 containers 8 at a time, bridge, each", measures.crowd, 3, Goal(ratio=7)),
    ("start + rm -f of a sleeper", measures.sleeper, 20, Goal(most=30)),
    ("exec true", measures.execute, 30, Goal(ratio=6)),
    ("docker run --rm busybox true (process)", measures.process("run", "--rm", "busybox", "true"), 20, Goal(ratio=5)),
)


def interleaved(engines: list[Engine], measure: Measure, rounds: int, warm: int = 2) -> dict[str, list[float]]:
    """Samples by engine; the engines take turns, so that a noisy moment hits both."""
    samples: dict[str, list[float]] = {each.kind: [] for each in engines}
    for number in range(rounds + warm):
        for each in engines:
            time.sleep(PAUSE)
            seconds = measure(each)
            if number >= warm:
                samples[each.kind].append(seconds)
    return samples


def timed(engines: list[Engine], rounds: int | None) -> list[Row]:
    """The rows of one container or command at a time."""
    for each in engines:
        each.api.run("sleep", "10000", name="bench-target")
    rows = []
    for what, measure, count, goal in TIMES:
        print(f"  {what} …", file=sys.stderr, flush=True)
        rows.append(
            row(what, "ms", interleaved(engines, measure, min(count, rounds or count), 1 if count < 10 else 2), goal)
        )
    for each in engines:
        measures.remove(each, ["bench-target"])
    return rows


def with_many(engines: list[Engine], rounds: int | None) -> list[Row]:
    """The rows with 25 running: listing, pier ps, memory."""
    time.sleep(SETTLED)
    idle = {each.kind: measures.memory(each) for each in engines}
    print("  25 running …", file=sys.stderr, flush=True)
    ids = {each.kind: measures.start_many(each) for each in engines}
    time.sleep(SETTLED)
    busy = {each.kind: measures.memory(each) for each in engines}
    count = rounds or 30
    rows = [row("list 25 running", "ms", interleaved(engines, measures.listing, count), Goal(ratio=1))]
    rows.append(row("docker ps (process)", "ms", interleaved(engines, measures.process("ps"), count), Goal(ratio=1)))
    ours = [each for each in engines if each.kind == "pierd"]
    rows.append(
        row("pier ps (process)", "ms", interleaved(ours, measures.process("ps", pier=True), count), Goal(most=60))
    )
    growth = {kind: [(busy[kind] - idle[kind]) / 25 / MB] for kind in idle}
    rows.append(row("memory a running container (PSS)", "MB", growth, Goal(most=1.5), scale=1))
    daemons = {kind: [idle[kind] / MB] for kind in idle}
    rows.append(row("daemons with none running (PSS)", "MB", daemons, Goal(most=70), scale=1))
    for each in engines:
        measures.remove(each, ids[each.kind])
    return rows


def networking(engines: list[Engine], rounds: int | None) -> list[Row]:
    """The network's rows."""
    if lack := tools.available():
        sys.exit(f"benchmarks: {lack}: `make peers` unpacks what is needed")

    def turns(engines: list[Engine], measure: Measure, rounds: int) -> dict[str, list[float]]:
        return interleaved(engines, measure, rounds, 1)

    print("  traffic …", file=sys.stderr, flush=True)
    rows = network.traffic(engines, min(11, rounds or 11), turns)
    print("  1,000 ports …", file=sys.stderr, flush=True)
    return rows + network.many_ports(engines, rounds or 20, turns)


def names(engines: list[Engine], rounds: int | None) -> list[Row]:
    """The resolver's row."""
    print("  names …", file=sys.stderr, flush=True)
    with ExitStack() as stack:
        askers = {each.kind: stack.enter_context(resolver.asking(each)) for each in engines}

        def measure(each: Engine) -> float:
            return resolver.tail(askers[each.kind])

        samples = interleaved(engines, measure, min(5, rounds or 5), 1)
    return [row(f"resolver, p99 at {resolver.RATE:,} queries/s", "ms", samples, Goal(most=2))]


def images(engines: list[Engine], rounds: int | None) -> list[Row]:
    """The rows of images and storage."""
    print("  images …", file=sys.stderr, flush=True)

    def turns(engines: list[Engine], measure: Measure, rounds: int) -> dict[str, list[float]]:
        return interleaved(engines, measure, rounds, 1)

    return storage.rows(engines, rounds, turns)


GROUPS = {"containers": timed, "running": with_many, "network": networking, "names": names, "images": images}


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--engines", default="docker,pierd", help="comma-separated: docker, pierd")
    parser.add_argument("--rounds", type=int, help="samples of each measure (default: 20 to 30)")
    parser.add_argument("--only", help=f"comma-separated: {', '.join(GROUPS)} (default: all)")
    parser.add_argument("--output", type=Path, help="write the table to a file too")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("benchmarks: needs root (namespaces, control groups): run it as root")
    orderly_end()
    Engine.debug = False
    with ExitStack() as stack:
        engines = [stack.enter_context(engine(kind)) for kind in options.engines.split(",")]
        wanted = options.only.split(",") if options.only else list(GROUPS)
        rows = [row for group in wanted for row in GROUPS[group](engines, options.rounds)]
        client = run([engines[0].docker_argv()[0], "--version"]).stdout.strip()
    machine = f"Linux {os.uname().release}, {os.cpu_count()} cores; client: {client}"
    text = f"{machine}\nMedians; the engines took turns. Ratio: how many times better ours is.\n\n{render(rows)}\n"
    print(text)
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
