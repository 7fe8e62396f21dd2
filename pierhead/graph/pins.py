"""Images that are kept: no prune and no clean-up takes them, a removal by name does. Table ``pin`` of GraphDB.

A pin is on a name, and holds whatever image has it, or on an image's id.
"""

import time

from pierhead.graph.graphdb import GraphDB


class Pins:
    """The table. Names are normalized references, ids begin with "sha256:"."""

    def __init__(self, db: GraphDB) -> None:
        self._db = db

    def add(self, name: str) -> None:
        """Keep it."""
        with self._db.transaction(durable=True):
            self._db.execute("INSERT OR IGNORE INTO pin VALUES (?, ?)", (name, time.time_ns()))

    def remove(self, name: str) -> bool:
        """No longer; whether it was kept."""
        with self._db.transaction(durable=True):
            return self._db.execute("DELETE FROM pin WHERE name = ?", (name,)) > 0

    def all(self) -> list[str]:
        """In order."""
        return [row["name"] for row in self._db.all("SELECT name FROM pin ORDER BY name")]

    def images(self) -> set[str]:
        """Ids of the images that are kept now."""
        rows = self._db.all(
            "SELECT image_id AS id FROM tag WHERE reference IN (SELECT name FROM pin) "
            "UNION SELECT id FROM image WHERE id IN (SELECT name FROM pin)"
        )
        return {row["id"] for row in rows}
