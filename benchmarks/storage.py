"""Images and what they take: load, pull, save, commit and removal of large trees, listing and counting of many."""

import io
import random
import socket
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

from benchmarks.measures import Measure, remove
from benchmarks.table import Goal, Row, row
from benchmarks.wire import VERSION, Connection
from tests.harness.engines import Engine, processes_in
from tests.harness.images import docker_archive, tar
from tests.harness.processes import wait_until
from tests.harness.registry import Registry, registry

LAYERS, FILES, BYTES = 5, 12_000, 320_000_000
"""The image that is moved: of each, in all."""
MANY = 200
"""Images there are when they are listed and counted."""
CHANGED = 10_000
"""Files in a container that is committed, and removed."""
PATIENCE = 600
SAMPLE = 0.03
"""Seconds between two looks at an engine's memory."""
POOL = 8 << 20
"""Bytes of which files are cut: more than any compression looks back."""
TAG = "bench-image:1"

Turns = Callable[[list[Engine], Measure, int], dict[str, list[float]]]


def layers(files: int = FILES, size: int = BYTES) -> list[bytes]:
    """Layers as packages make them: files of all sizes, half of what is in them compressible."""
    chance = random.Random(1)
    weights = [chance.paretovariate(1.2) for _ in range(files)]
    unit = size / sum(weights)
    words = [chance.randbytes(12).hex().encode() for _ in range(500)]
    text, noise = b" ".join(chance.choices(words, k=POOL // 25)), chance.randbytes(POOL)
    made = []
    for layer in range(LAYERS):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for number in range(layer, files, LAYERS):
                length = max(1, int(weights[number] * unit))
                at = chance.randrange(POOL)
                data = _piece(noise, at, length - length // 2) + _piece(text, at, length // 2)
                entry = tarfile.TarInfo(f"usr/share/{layer}/{number % 97}/file-{number}")
                entry.size, entry.mode, entry.mtime = length, 0o644, 1_700_000_000
                archive.addfile(entry, io.BytesIO(data))
        made.append(buffer.getvalue())
    return made


def _piece(pool: bytes, at: int, length: int) -> bytes:
    """So many bytes of a pool, from there on and round it."""
    return (
        (pool[at:] + pool * (length // len(pool) + 1))[:length] if length > len(pool) - at else pool[at : at + length]
    )


# One move of an image ------------------------------------------------------------------------------------------------


def load(archive: Path, engine: Engine) -> float:
    """Load the archive and remove the image: seconds of both."""
    begin = time.perf_counter()
    _sent(engine, "/images/load?quiet=1", archive)
    _gone(engine, TAG)
    return time.perf_counter() - begin


def pull(name: str, engine: Engine) -> float:
    """Seconds until all of it is here. It is removed afterwards."""
    connection = Connection(engine.socket)
    try:
        begin = time.perf_counter()
        said = connection.request("POST", f"/images/create?fromImage={quote(name, safe='')}")
        seconds = time.perf_counter() - begin
        if b'"error"' in said:
            raise RuntimeError(f"pull of {name}: {said[-500:].decode(errors='replace')}")
    finally:
        connection.close()
    _gone(engine, name)
    return seconds


def save(engine: Engine) -> float:
    """Seconds until the whole archive of the image has come."""
    begin = time.perf_counter()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(engine.socket)
        connection.sendall(f"GET {VERSION}/images/{TAG}/get HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
        count, room = 0, bytearray(1 << 20)
        while got := connection.recv_into(room):
            count += got
    if count < BYTES:
        raise RuntimeError(f"save: {count} bytes")
    return time.perf_counter() - begin


def commit(engine: Engine) -> float:
    """Seconds of a commit of the container with many files. The image is removed afterwards."""
    connection = Connection(engine.socket)
    try:
        begin = time.perf_counter()
        connection.request("POST", "/commit?container=bench-files&repo=bench-commit&tag=1", {})
        seconds = time.perf_counter() - begin
    finally:
        connection.close()
    _gone(engine, "bench-commit:1")
    return seconds


def removal(engine: Engine) -> float:
    """Seconds of `rm -f` of a running container with as many files."""
    with_files(engine, "bench-removal")
    begin = time.perf_counter()
    remove(engine, ["bench-removal"])
    return time.perf_counter() - begin


def asked(path: str, engine: Engine) -> float:
    """Seconds of a GET."""
    connection = Connection(engine.socket)
    try:
        begin = time.perf_counter()
        connection.request("GET", path)
        return time.perf_counter() - begin
    finally:
        connection.close()


def with_files(engine: Engine, name: str) -> None:
    """A running container that has written its files."""
    script = f"i=0; mkdir /d; while [ $i -lt {CHANGED} ]; do echo $i > /d/$i; i=$((i+1)); done; echo done; sleep 10000"
    engine.api.run("sh", "-c", script, name=name)
    wait_until(lambda: b"done" in engine.api.logs(name), f"the files of {name}", PATIENCE)


def _gone(engine: Engine, name: str) -> None:
    connection = Connection(engine.socket)
    try:
        connection.request("DELETE", f"/images/{name}")
    finally:
        connection.close()


def _sent(engine: Engine, path: str, file: Path) -> None:
    with file.open("rb") as source, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(engine.socket)
        connection.sendall(
            f"POST {VERSION}{path} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/x-tar\r\n"
            f"Content-Length: {file.stat().st_size}\r\n\r\n".encode()
        )
        connection.sendfile(source)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    if b" 200 " not in answer.split(b"\r\n", 1)[0] or b'"error"' in answer:
        raise RuntimeError(f"POST {path}: {answer[-500:].decode(errors='replace')}")


# Memory --------------------------------------------------------------------------------------------------------------


def peak(name: str, engine: Engine) -> float:
    """Megabytes by which the resident memory of the daemon, and of what it starts to unpack for it, grows at most."""
    before = _resident(engine)
    highest, ended = [before], threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE):
            highest.append(_resident(engine))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        pull(name, engine)
    finally:
        ended.set()
        watching.join()
    return (max(highest) - before) / 1000


def _resident(engine: Engine) -> int:
    """kB of all of an engine's processes."""
    return sum(
        _status(pid, "VmRSS") for pid, name in processes_in(engine.host.path).items() if "/docker-registry " not in name
    )


def _status(pid: int, field: str) -> int:
    """kB of a line of /proc/PID/status; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


# The rows ------------------------------------------------------------------------------------------------------------


@contextmanager
def _registries(engines: list[Engine], folder: Path) -> Iterator[list[Registry]]:
    """One on each engine's machine, all with the same storage."""
    with ExitStack() as stack:
        yield [stack.enter_context(registry(each.host, folder)) for each in engines]


def moved(engines: list[Engine], rounds: int, turns: Turns) -> list[Row]:
    """Load, save, pull, and the memory of pulls."""
    with tempfile.TemporaryDirectory(prefix="pierhead-bench-") as name:
        folder = Path(name)
        content = layers()
        archive = folder / "image.tar"
        archive.write_bytes(docker_archive(content, [TAG]))
        rows = [row("load + remove, 320 MB", "ms", turns(engines, partial(load, archive), rounds), Goal(ratio=2))]
        for each in engines:
            _sent(each, "/images/load?quiet=1", archive)
        rows.append(row("save, 320 MB", "ms", turns(engines, save, rounds), Goal(ratio=1.5)))
        for each in engines:
            _gone(each, TAG)
        with _registries(engines, folder) as registries:
            registries[0].push("bench", "large", content)
            registries[0].push("bench", "small", layers(FILES // 8, BYTES // 8))
            large, small = (f"127.0.0.1:5000/bench:{tag}" for tag in ("large", "small"))
            rows.append(row("pull, 320 MB", "ms", turns(engines, partial(pull, large), rounds), Goal(ratio=2)))
            # The highest of several: a small pull is over before as many unpackers are at work as may be, or it is not.
            growth = {
                each.kind: max(peak(large, each) for _ in range(3)) / max(1.0, *(peak(small, each) for _ in range(6)))
                for each in engines
            }
        figures = {kind: [value] for kind, value in growth.items()}
        rows.append(row("peak memory of a pull, 320 MB to 40 MB", "×", figures, Goal(most=1.3), scale=1))
    return rows


def changed(engines: list[Engine], rounds: int, turns: Turns) -> list[Row]:
    """Commit and removal of a container with many files."""
    for each in engines:
        with_files(each, "bench-files")
    rows = [row("commit, 10,000 files", "ms", turns(engines, commit, rounds), Goal(ratio=1, noise=0.1))]
    for each in engines:
        remove(each, ["bench-files"])
    rows.append(row("rm -f, 10,000 files", "ms", turns(engines, removal, rounds), Goal(ratio=1, noise=0.1)))
    return rows


def many(engines: list[Engine], rounds: int, turns: Turns) -> list[Row]:
    """`images` and `system df` with many images."""
    for each in engines:
        for number in range(MANY):
            raw = tar({f"file-{number}": f"{number}\n" * 100})
            path = f"/images/create?fromSrc=-&repo=bench-many&tag={number}"
            each.api.ok("POST", path, raw=raw, content_type="application/x-tar")
    rows = [
        row(f"images, {MANY}", "ms", turns(engines, partial(asked, "/images/json"), rounds), Goal(ratio=3)),
        row(f"system df, {MANY} images", "ms", turns(engines, partial(asked, "/system/df"), rounds), Goal(ratio=3)),
    ]
    for each in engines:
        for number in range(MANY):
            _gone(each, f"bench-many:{number}")
    return rows


def rows(engines: list[Engine], rounds: int | None, turns: Turns) -> list[Row]:
    """All of them."""
    few = min(5, rounds or 5)
    return [*moved(engines, few, turns), *changed(engines, few, turns), *many(engines, rounds or 20, turns)]
