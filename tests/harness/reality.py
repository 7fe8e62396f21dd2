"""GraphDB against the machine: whatever of one pierd is on only one of the two sides."""

import json
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.harness.engines import Pierd, cgroups_named, mounts_below, processes_in

MAPS = ("exact4", "any4", "ranges4", "exact6", "any6", "ranges6")


def differences(pierd: Pierd) -> list[str]:
    """What GraphDB knows and is not there, and what is there and GraphDB does not know; for a daemon at rest."""
    with closing(sqlite3.connect(f"file:{pierd.data_root}/graph.db?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        return [
            *_states(db),
            *_folders(pierd, db),
            *_run_time(pierd, db),
            *_links(pierd, db),
            *_ports(pierd, db),
            *_mounts(pierd),
        ]


def kept(pierd: Pierd) -> list[str]:
    """The differences of what a data root holds, and mounts: for a daemon that runs nothing."""
    with closing(sqlite3.connect(f"file:{pierd.data_root}/graph.db?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        return [*_states(db), *_folders(pierd, db), *_mounts(pierd)]


def settled(pierd: Pierd, known: str = "") -> list[str]:
    """The differences that stay: links go with their namespace and helper processes end, each in its own time.

    known: one that the test has made itself.
    """
    end = time.monotonic() + 20
    while (left := [one for one in differences(pierd) if one != known]) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def _mounts(pierd: Pierd) -> list[str]:
    """But for the data root itself, which may be a disk of the test's own."""
    points = [point for point in mounts_below(pierd.root) if point != str(pierd.data_root)]
    return [f"mount {point} in the host's namespace" for point in points]


def _ids(db: sqlite3.Connection, query: str) -> set[str]:
    return {str(row[0]) for row in db.execute(query)}


def _compare(what: str, known: set[str], there: Iterable[str]) -> list[str]:
    found = set(there)
    left = [f"{what} {name}: on the machine, not in GraphDB" for name in sorted(found - known)]
    return left + [f"{what} {name}: in GraphDB, not on the machine" for name in sorted(known - found)]


def _waits(pid: int) -> str:
    """What a process is at, and whose child it is."""
    try:
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        return f"(child of {parent}) in {Path(f'/proc/{pid}/syscall').read_text().split()[:2]}"
    except (OSError, IndexError):
        return "has ended"


def _listed(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder.exists() else set()


def _states(db: sqlite3.Connection) -> list[str]:
    left = [
        f"container {row['name']} is {row['state']} with intent {row['intent']!r}"
        for row in db.execute("SELECT name, state, intent FROM container WHERE intent <> '' OR state = 'removing'")
    ]
    for table in ("network", "volume", "layer"):
        left += [f"{table} is {row[0]}" for row in db.execute(f"SELECT state FROM {table} WHERE state <> 'ready'")]
    query = (
        "SELECT c.name FROM container c JOIN endpoint e ON e.container_id = c.id "
        "WHERE e.active AND c.state NOT IN ('running', 'paused')"
    )
    left += [f"container {row[0]} does not run and has an active endpoint" for row in db.execute(query)]
    query = "SELECT c.name FROM container c JOIN port p ON p.container_id = c.id WHERE c.pid = 0"
    return left + [f"container {row[0]} does not run and has a port" for row in db.execute(query)]


def _folders(pierd: Pierd, db: sqlite3.Connection) -> list[str]:
    layers = _ids(db, "SELECT cache_id FROM layer") | _ids(db, "SELECT layer_id FROM container")
    overlay = pierd.data_root / "overlay2"
    there = _listed(overlay) | _listed(pierd.data_root / "btrfs") | _listed(pierd.data_root / "vfs")
    left = _compare("layer", layers, there - {"l", "empty", "skeleton", "places"})
    names = {name for id in _listed(overlay) if (name := _short_name(overlay / id))}
    left += _compare("short name", names, _listed(overlay / "l"))
    left += _compare("folder", _ids(db, "SELECT id FROM container"), _listed(pierd.data_root / "containers"))
    left += _compare("volume", _ids(db, "SELECT name FROM volume"), _listed(pierd.data_root / "volumes"))
    return left + _compare("scratch file", set(), _listed(pierd.data_root / "tmp"))


def _short_name(layer: Path) -> str:
    try:
        return (layer / "link").read_text()
    except FileNotFoundError:  # it has none, or is being removed
        return ""


def _run_time(pierd: Pierd, db: sqlite3.Connection) -> list[str]:
    running = _ids(db, "SELECT id FROM container WHERE state IN ('running', 'paused')")
    left = _compare("run-time folder", running, _listed(pierd.exec_root / "containers"))
    for top in cgroups_named(pierd.instance):
        left += _compare(f"cgroup of {top}:", running, (path.name for path in Path(top).iterdir() if path.is_dir()))
    for row in db.execute("SELECT name, pid FROM container WHERE state IN ('running', 'paused')"):
        if not Path(f"/proc/{row['pid']}").exists():
            left.append(f"container {row['name']}: its process {row['pid']} is gone")
    # The daemon, the zygote and its spare; beyond these one shim for each container (its processes are elsewhere,
    # unless it has the host's network).
    ours = processes_in(pierd.host.path)
    shims = [pid for pid in ours if _name(pid) == "pierhead-shim"]
    if len(shims) - len(running) not in (0, 1):  # the zygote may be about to fork its next spare
        waiting = "; ".join(f"{pid} {_name(pid)} {_waits(pid)}" for pid in ours if _name(pid).startswith("pierhead"))
        left.append(f"{len(shims)} shims (one is the spare) for {len(running)} running containers: {waiting}")
    return left


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _links(pierd: Pierd, db: sqlite3.Connection) -> list[str]:
    known = {"lo", "ens33", "virbr0"}
    for row in db.execute("SELECT id, name FROM network WHERE driver = 'bridge'"):
        known.add("docker0" if row["name"] == "bridge" else f"br-{row['id'][:12]}")
    query = "SELECT e.id FROM endpoint e JOIN network n ON n.id = e.network_id WHERE e.active AND n.driver = 'bridge'"
    known |= {f"veth{row[0][:8]}" for row in db.execute(query)}
    return _compare("interface", known, pierd.host.interfaces())


def _ports(pierd: Pierd, db: sqlite3.Connection) -> list[str]:
    """Protocol and port of every element of the maps, against the rows (each row of one port, IPv4)."""
    table = f"pierhead-{pierd.instance}"
    said = pierd.host.run("nft", "-j", "list", "table", "inet", table).check().stdout
    there = set()
    for item in json.loads(said)["nftables"]:
        if item.get("map", {}).get("name") in MAPS:
            there |= {_key(element[0]) for element in item["map"].get("elem", ())}
    known = {f"{row['proto']} {row['low']}" for row in db.execute("SELECT proto, low FROM port WHERE direct = 0")}
    return _compare("port", known, there)


def _key(key: dict[str, Any]) -> str:
    words = key["concat"]
    return f"{words[-2]} {words[-1]}"
