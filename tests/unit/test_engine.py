"""The Engine: jobs, spans, locks; and what GraphDB refuses by itself."""

import asyncio
import gc
import os
from pathlib import Path
from typing import Any, cast

import pytest

from pierhead.daemon.engine.engine import Engine, Locks, phase
from pierhead.daemon.engine.running import watch
from pierhead.driver.execdriver.api import Exited, Monitor
from pierhead.errors import Conflict, Unavailable
from pierhead.graph.containers import Container, Containers
from pierhead.graph.graphdb import GraphDB, IntegrityError
from pierhead.graph.state import TRANSITIONS, State


def engine() -> Engine:
    parts: dict[str, Any] = dict.fromkeys(
        name for name, field in Engine.__dataclass_fields__.items() if field.default is field.default_factory
    )
    return Engine(**parts)


def container(id: str, name: str) -> Container:
    return Container(
        id, name, State.CREATED, "sha256:0", "x", id, "vfs", b"{}", b"{}", b"[]", "true", b"[]", 1, 0, 0, 0, 0, "",
        False, 0, False, "",
    )  # fmt: skip


async def inner(engine: Engine) -> str:
    with phase("a phase"):
        await asyncio.sleep(0)
    return "done"


async def outer(engine: Engine, subject: str) -> str:
    return await engine.run(inner)


def test_a_job_within_a_job_is_its_child_and_phases_are_seen() -> None:
    ours = engine()
    assert asyncio.run(ours.run(outer, "web")) == "done"
    (span,) = ours.past
    assert (span.name, span.subject, span.outcome) == ("test_engine.outer", "web", "OK")
    assert [child.name for child in span.children] == ["test_engine.inner"]
    assert [part.name for part in span.children[0].children] == ["a phase"]
    assert span.ended >= span.children[0].ended > 0
    assert not ours.jobs


def test_a_closing_daemon_takes_no_new_request_and_finishes_what_is_under_way() -> None:
    ours = engine()
    with ours.request("before"):
        ours.closing = True
        assert asyncio.run(ours.run(outer, "web")) == "done"
    with pytest.raises(Unavailable), ours.request("after"):
        pass


def test_what_must_be_finished_is_finished_when_the_asker_goes_away() -> None:
    async def main() -> None:
        begun, goes_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def work() -> None:
            begun.set()
            await goes_on.wait()
            done.set()

        ours = engine()
        asker = asyncio.create_task(ours.finish(work()))
        await begun.wait()
        asker.cancel()
        await asyncio.sleep(0)
        goes_on.set()
        await asyncio.wait_for(done.wait(), 60)

    asyncio.run(main())


def test_a_lock_excludes_the_same_object_only_and_is_forgotten() -> None:
    order: list[str] = []

    async def main() -> None:
        locks = Locks()

        async def use(id: str, name: str) -> None:
            async with locks.hold(id):
                order.append(f"+{name}")
                await asyncio.sleep(0.01)
                order.append(f"-{name}")

        await asyncio.gather(use("a", "1"), use("a", "2"), use("b", "3"))
        assert not locks._locks

    asyncio.run(main())
    assert order.index("-1") < order.index("+2")
    assert order.index("+3") < order.index("-1")


def test_the_database_refuses_a_second_container_of_one_name_and_names_the_holder(tmp_path: Path) -> None:
    table = Containers(GraphDB(str(tmp_path / "db")))
    table.add(container("a" * 64, "web"))
    with pytest.raises(Conflict) as caught:
        table.add(container("b" * 64, "web"))
    assert f'The container name "/web" is already in use by container "{"a" * 64}"' in str(caught.value)


@pytest.mark.parametrize(("before", "after"), sorted((b, a) for b in State for a in State if b is not a))
def test_the_database_allows_exactly_the_known_transitions(tmp_path: Path, before: State, after: State) -> None:
    db = GraphDB(str(tmp_path / "db"))
    table = Containers(db)
    table.add(container("a" * 64, "web"))
    db.execute("DROP TRIGGER container_state")
    table.update("a" * 64, state=before)
    db.execute(
        "CREATE TRIGGER container_state BEFORE UPDATE OF state ON container WHEN old.state <> new.state AND NOT EXISTS "
        "(SELECT 1 FROM transition WHERE before = old.state AND after = new.state) BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    if (before, after) in TRANSITIONS:
        table.update("a" * 64, state=after)
    else:
        with pytest.raises(IntegrityError):
            table.update("a" * 64, state=after)
    db.close()


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        (("tcp", "", 80, 80), ("tcp", "", 80, 80), True),
        (("tcp", "", 80, 80), ("udp", "", 80, 80), False),
        (("tcp", "", 80, 90), ("tcp", "127.0.0.1", 85, 85), True),
        (("tcp", "127.0.0.1", 80, 80), ("tcp", "127.0.0.2", 80, 80), False),
        (("tcp", "0.0.0.0", 80, 80), ("tcp", "127.0.0.2", 80, 80), True),
        (("tcp", "0.0.0.0", 80, 80), ("tcp", "::1", 80, 80), False),
        (("tcp", "::", 80, 80), ("tcp", "::1", 70, 80), True),
        (("tcp", "", 80, 80), ("tcp", "", 81, 90), False),
    ],
)
def test_the_database_refuses_overlapping_ports(
    tmp_path: Path, first: tuple[str, str, int, int], second: tuple[str, str, int, int], clash: bool
) -> None:
    db = GraphDB(str(tmp_path / "db"))
    table = Containers(db)
    for id, row in (("a" * 64, first), ("b" * 64, second)):
        table.add(container(id, id[:1] + "x"))
        values = (id, *row, 1)
        if id[0] == "b" and clash:
            with pytest.raises(IntegrityError, match="port is already allocated"):
                db.execute("INSERT INTO port VALUES (?, ?, ?, ?, ?, ?, 0)", values)
        else:
            db.execute("INSERT INTO port VALUES (?, ?, ?, ?, ?, ?, 0)", values)
    db.close()


def test_a_prefix_of_an_id_finds_it_and_two_are_refused(tmp_path: Path) -> None:
    table = Containers(GraphDB(str(tmp_path / "db")))
    table.add(container("ab" + "0" * 62, "one"))
    table.add(container("ac" + "0" * 62, "two"))
    assert table.find("ab").name == "one"
    assert table.find("/two").id.startswith("ac")
    with pytest.raises(Exception, match="Multiple IDs found with provided prefix: a"):
        table.find("a")
    with pytest.raises(Exception, match="No such container: ad"):
        table.find("ad")


def test_what_was_committed_is_found_after_a_crash(tmp_path: Path) -> None:
    """The laid-out log holds zeros behind the last frame: a copy taken alive must open like after a kill -9."""
    db = GraphDB(str(tmp_path / "db"))
    for number in range(20):
        with db.transaction(durable=True):
            db.set_meta("counter", str(number))
    for name in ("db", "db-wal"):
        (tmp_path / f"copy{name[2:]}").write_bytes((tmp_path / name).read_bytes())
    copy = GraphDB(str(tmp_path / "copy"))
    assert copy.meta("counter") == "19" and copy.instance == db.instance
    copy.close()
    db.close()
    again = GraphDB(str(tmp_path / "db"))
    assert again.meta("counter") == "19"
    again.close()


def test_a_list_is_never_older_than_the_database_and_made_once_for_each_content(tmp_path: Path) -> None:
    ours = engine()
    db = ours.db = GraphDB(str(tmp_path / "db"))
    ours.containers = Containers(db)
    made = 0

    def names(engine: Engine) -> list[str]:
        nonlocal made
        made += 1
        return [one.name for one in engine.containers.all()]

    assert ours.derived(names) == ours.derived(names) == [] and made == 1
    ours.containers.add(container("a" * 64, "one"))
    assert ours.derived(names) == ours.derived(names) == ["one"] and made == 2
    with pytest.raises(ZeroDivisionError), db.transaction():
        ours.containers.rename("a" * 64, "never")
        _ = 1 / 0
    assert ours.derived(names) == ["one"]
    ours.containers.rename("a" * 64, "two")
    assert ours.derived(names) == ["two"]
    db.execute("DELETE FROM container")
    assert ours.derived(names) == []
    db.close()


class _Ending:
    """A Monitor that tells of its container's end as soon as it is asked."""

    id = "c"

    def __init__(self) -> None:
        self._ends = os.pipe()
        os.write(self._ends[1], b"x")

    def fileno(self) -> int:
        return self._ends[0]

    def events(self) -> tuple[Exited, ...]:
        return (Exited(0, 0, 0),)

    def close(self) -> None:
        for end in self._ends:
            os.close(end)


def test_a_container_that_ends_while_something_is_asked_of_it_leaves_no_error_in_the_log() -> None:
    said: list[dict[str, object]] = []

    async def scene() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: said.append(context))
        running = watch("c", cast(Monitor, _Ending()), lambda running, exit: None, lambda id: Exited(255, 0, 0))
        running.expect()
        await running.exited

    asyncio.run(scene())
    gc.collect()
    assert said == []
