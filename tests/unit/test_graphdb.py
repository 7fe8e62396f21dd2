"""GraphDB's file over time: one that an older Pierhead wrote goes on being used."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pierhead.graph.graphdb import SCHEMA_VERSION, GraphDB

FIRST = Path(__file__).with_name("graphdb_1.sql").read_text()


def first_version(path: Path) -> None:
    """A file as the first version left it, with a network in it."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(FIRST + "PRAGMA user_version=1;")
        db.execute("INSERT INTO meta VALUES ('instance', '0a1b2c3d')")
        db.execute("INSERT INTO network (id, name, driver, created) VALUES (?, 'mine', 'bridge', 1)", ("a" * 64,))
        db.execute("INSERT INTO pool (network_id, subnet) VALUES (?, '10.1.0.0/24')", ("a" * 64,))
        db.commit()


def layout(path: Path) -> dict[str, object]:
    """Tables with their columns, and the statements that made indexes and triggers."""
    with closing(sqlite3.connect(path)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        made = db.execute("SELECT name, sql FROM sqlite_schema WHERE type <> 'table'").fetchall()
        return {name: db.execute(f"PRAGMA table_xinfo({name})").fetchall() for name in tables} | dict(made)


def test_networks_of_the_first_version_are_still_there(tmp_path: Path) -> None:
    first_version(tmp_path / "db")
    db = GraphDB(str(tmp_path / "db"))
    row = db.one("SELECT n.*, p.subnet FROM network n JOIN pool p ON p.network_id = n.id")
    assert (row["name"], row["subnet"], db.instance) == ("mine", "10.1.0.0/24", "0a1b2c3d")
    db.close()


def test_an_old_file_becomes_what_a_new_one_is(tmp_path: Path) -> None:
    first_version(tmp_path / "old")
    for name in ("old", "new"):
        GraphDB(str(tmp_path / name)).close()
    assert layout(tmp_path / "old") == layout(tmp_path / "new")


def test_an_upgrade_that_fails_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    first_version(tmp_path / "db")
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        db.execute("ALTER TABLE network RENAME TO elsewhere")
    before = layout(tmp_path / "db")
    with pytest.raises(OSError, match=f"from schema 1 to {SCHEMA_VERSION}"):
        GraphDB(str(tmp_path / "db"))
    assert layout(tmp_path / "db") == before


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    GraphDB(str(tmp_path / "db")).close()
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    with pytest.raises(OSError, match="newer Pierhead"):
        GraphDB(str(tmp_path / "db"))
