"""GraphDB's file over time: one that an older Pierhead wrote goes on being used."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from pierhead.graph.graphdb import SCHEMA_VERSION, GraphDB, IntegrityError

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


def test_interfaces_of_running_containers_keep_their_numbers(tmp_path: Path) -> None:
    names = {"b": "eth0", "c": "eth12", "d": ""}
    first_version(tmp_path / "db")
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        db.executemany(
            "INSERT INTO endpoint (id, network_id, container_id, settings, interface) VALUES (?, ?, ?, '{}', ?)",
            [(letter * 64, "a" * 64, letter * 64, name) for letter, name in names.items()],
        )
        db.commit()
    upgraded = GraphDB(str(tmp_path / "db"))
    found = upgraded.all("SELECT interface, number FROM endpoint")
    assert {row["interface"]: row["number"] for row in found} == {"eth0": 0, "eth12": 12, "": 0}
    upgraded.close()


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


def test_ports_at_containers_own_addresses_are_in_nobodys_way(tmp_path: Path) -> None:
    """Two containers of routed networks, and one that has the same port at all of the host's addresses."""
    db = GraphDB(str(tmp_path / "db"))
    db.execute("PRAGMA foreign_keys=OFF")
    for ip, direct in (("10.1.0.2", 1), ("", 0), ("10.1.0.3", 1)):
        db.execute("INSERT INTO port VALUES (?, 'tcp', ?, 80, 80, 80, ?)", ("c" * 64, ip, direct))
    with pytest.raises(IntegrityError, match="already allocated"):
        db.execute("INSERT INTO port VALUES (?, 'tcp', '127.0.0.1', 80, 80, 80, 0)", ("c" * 64,))
    db.close()


ADDRESSES = ("", "0.0.0.0", "::", "127.0.0.1", "192.0.2.10", "::1")


def shared(one: str, other: str) -> bool:
    """Whether two addresses, as published ports have them, have one in common."""
    wide = {"": "46", "0.0.0.0": "4", "::": "6"}
    families = [wide.get(ip) or ("6" if ":" in ip else "4") for ip in (one, other)]
    return one == other or (bool({one, other} & set(wide)) and bool(set(families[0]) & set(families[1])))


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GraphDB]:
    db = GraphDB(str(tmp_path_factory.mktemp("ports") / "db"))
    db.execute(
        "INSERT INTO container (id, name, image_id, image_name, layer_id, driver, config, host_config, path, args, "
        "created) VALUES (?, 'web', 'i', 'i', 'l', 'd', '{}', '{}', 'p', '[]', 0)",
        ("c" * 64,),
    )
    yield db
    db.close()


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    some.lists(
        some.tuples(
            some.sampled_from(("tcp", "udp")), some.sampled_from(ADDRESSES), some.integers(1, 30), some.integers(0, 9)
        ),
        max_size=12,
    )
)
def test_a_published_port_belongs_to_one_container_alone(
    ports: GraphDB, asked: list[tuple[str, str, int, int]]
) -> None:
    ports.execute("DELETE FROM port")
    kept: list[tuple[str, str, int, int]] = []
    for proto, ip, low, more in asked:
        high = low + more
        free = not any(
            proto == other[0] and low <= other[3] and other[2] <= high and shared(ip, other[1]) for other in kept
        )
        try:
            ports.execute("INSERT INTO port VALUES (?, ?, ?, ?, ?, 80, 0)", ("c" * 64, proto, ip, low, high))
            kept.append((proto, ip, low, high))
            assert free
        except IntegrityError:
            assert not free
