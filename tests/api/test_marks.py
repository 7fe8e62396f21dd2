"""Clean-up by marks on a small disk: what nobody needs goes in time, least recently used first, and nothing else."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.harness.engines import Engine
from tests.harness.engines import engine as started_engine
from tests.harness.filesystems import file_system
from tests.harness.images import tar
from tests.harness.processes import wait_until
from tests.harness.registry import Answers, serving_registry

pytestmark = pytest.mark.only_pierhead("marks are ours")

MARKS = ("--disk-high-mark", "68%", "--disk-low-mark", "51%", "--disk-keep", "0s")
SIZE = 10 << 20
"""Of an image: between eight and nine per cent of the disk, of which the engine itself has four."""


@contextmanager
def small_disk(folder: Path, *extra: str) -> Iterator[Engine]:
    with started_engine("pierd", images=False) as engine:
        assert engine.stop() == 0
        with file_system("ext4", folder, 128, "-O", "^has_journal", "-m", "0", at=engine.data_root):
            engine.start(*MARKS, *extra)
            try:
                yield engine
            finally:
                engine.forget()
                assert engine.stop() == 0


def import_image(engine: Engine, name: str) -> str:
    path = f"/images/create?fromSrc=-&repo={name}&tag=1"
    archive = tar({"file": os.urandom(SIZE)})
    return str(engine.api.ok("POST", path, raw=archive, content_type="application/x-tar").records[-1]["status"])


def pulled(engine: Engine, name: str, id: str) -> None:
    """As if it had come from a registry: it has a digest by which it can be had again."""
    with closing(sqlite3.connect(engine.data_root / "graph.db", timeout=20, isolation_level=None)) as db:
        reference = f"docker.io/library/{name}@sha256:{id[7:]}"
        db.execute("INSERT INTO tag VALUES (?, ?, ?)", (reference, id, time.time_ns()))


def names(engine: Engine) -> list[str]:
    tags = (tag for entry in engine.api.get("/images/json") for tag in entry["RepoTags"])
    return sorted(tag.rpartition(":")[0].rpartition("/")[2] for tag in tags)


def clean_ups(engine: Engine) -> list[dict[str, str]]:
    events = engine.api.ok("GET", "/events", since="0.000000001", until=f"{time.time():.9f}").records
    return [event["Actor"]["Attributes"] for event in events if event["Action"] == "clean-up"]


def fill(engine: Engine, *more: str) -> None:
    """Images one after the other until a clean-up has come."""
    before = len(clean_ups(engine))
    for name in more:
        pulled(engine, name, import_image(engine, name))
    wait_until(lambda: len(clean_ups(engine)) > before, "a clean-up")


def test_images_that_can_be_had_again_go_least_recently_used_first(tmp_path: Path) -> None:
    answers = Answers()
    # Its compressed layer, which is kept as well, takes nothing worth counting.
    answers.image("second", [tar({"file": os.urandom(1 << 12) * (SIZE >> 12)})])
    with small_disk(tmp_path) as engine, serving_registry(engine.host, answers) as registry:
        second = f"{registry}/second"
        pulled(engine, "used", import_image(engine, "used"))
        import_image(engine, "mine")
        pulled(engine, "pinned", import_image(engine, "pinned"))
        pulled(engine, "first", import_image(engine, "first"))
        import_image(engine, "again")
        engine.pier("pull", "-q", f"{second}:1").check()
        engine.api.ok("POST", "/images/pinned:1/pin")
        engine.api.create("/none", image="used:1", name="user")
        engine.api.create("/none", image="first:1", name="short")
        engine.api.ok("DELETE", "/containers/short")
        assert clean_ups(engine) == []
        preview = engine.api.get("/system/prune")["CleanUp"]
        assert [one["Name"] for one in preview["Order"]] == [f"{second}:1", "first:1"] and preview["High"] == 68
        said = engine.pier("system", "prune", "--dry-run").check().lines
        assert said[-2].startswith(f"image {second}:1, last used ") and said[-1].startswith("image first:1, last used ")
        import_image(engine, "again")  # what it was until now has no name any more
        # Eight of them are above the mark.  First goes what has no name, then "second": "first" was used.
        fill(engine, "third")
        gone = {"used", "mine", "pinned", "first", "again", "second", "third"} - set(names(engine))
        (told,) = clean_ups(engine)
        assert gone == {"second", "first"} and told["removed"] == "3" and int(told["reclaimed"]) >= 3 * SIZE, told
        assert float(told["before"][:-1]) >= 68 > 51 >= float(told["after"][:-1])
        removed = [line for line in engine.log.read_text().splitlines() if "clean-up: removed" in line]
        assert ["second:1" in removed[1], "first:1" in removed[2]] == [True, True], removed
        engine.pier("pull", "-q", f"{second}:1").check()
        assert "second" in names(engine), "what has gone can be had again"


def test_what_was_made_here_and_containers_go_only_where_that_was_asked_for(tmp_path: Path) -> None:
    with small_disk(tmp_path) as engine:
        order = ["two", "three", "four", "five", "six", "seven", "eight"]
        for name in ("one", *order[:-1]):
            import_image(engine, name)
        engine.api.create("/none", image="one:1", name="ended")
        import_image(engine, "eight")
        wait_until(lambda: bool(clean_ups(engine)), "a clean-up that finds nothing it may take")
        assert len(names(engine)) == 8 and clean_ups(engine)[0]["removed"] == "0"
        assert "nothing is left that the clean-up may remove" in engine.log.read_text()
        assert engine.stop() == 0
        engine.start(*MARKS, "--disk-remove", "local,containers=0s")
        wait_until(lambda: bool(clean_ups(engine)), "a clean-up")
        gone = [name for name in order if name not in names(engine)]
        assert gone and gone == order[: len(gone)] and "one" in names(engine)
        assert engine.api.inspect("ended"), "images went first, and were enough"
