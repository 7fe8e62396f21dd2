"""Names of images: normalized references to image ids, in GraphDB's table ``tag``."""

import time

from pierhead.graph.graphdb import GraphDB
from pierhead.reference import Reference, parse


class TagStore:
    """A reference is either name and tag or name and digest; each names one image, an image may have many."""

    def __init__(self, db: GraphDB) -> None:
        self._db = db

    @staticmethod
    def _key(reference: Reference) -> str:
        if reference.digest is not None:
            return f"{reference.name}@{reference.digest}"
        return str(reference.tagged())

    def get(self, reference: Reference) -> str | None:
        """The image's id. A reference with a digest is looked up by it alone, one with neither as ":latest"."""
        row = self._db.first("SELECT image_id FROM tag WHERE reference = ?", (self._key(reference),))
        return None if row is None else str(row["image_id"])

    def set(self, reference: Reference, image_id: str) -> str | None:
        """Give an image a name; the id of another image that had it before."""
        with self._db.transaction(durable=True):
            before = self.get(reference)
            row = (self._key(reference), image_id, time.time_ns())
            self._db.execute("INSERT OR REPLACE INTO tag VALUES (?, ?, ?)", row)
        return before if before != image_id else None

    def remove(self, reference: Reference) -> bool:
        """Take a name away; whether there was one."""
        with self._db.transaction(durable=True):
            return self._db.execute("DELETE FROM tag WHERE reference = ?", (self._key(reference),)) > 0

    def of(self, image_id: str) -> list[Reference]:
        """An image's names in order."""
        rows = self._db.all("SELECT reference FROM tag WHERE image_id = ? ORDER BY reference", (image_id,))
        return [parse(row["reference"]) for row in rows]

    def tagged(self, image_id: str) -> int:
        """When the image got its latest name, in ns; 0: it has none."""
        row = self._db.one("SELECT coalesce(max(tagged), 0) AS latest FROM tag WHERE image_id = ?", (image_id,))
        return int(row["latest"])

    def all(self) -> dict[str, list[Reference]]:
        """Every image's names."""
        found: dict[str, list[Reference]] = {}
        for row in self._db.all("SELECT reference, image_id FROM tag ORDER BY reference"):
            found.setdefault(row["image_id"], []).append(parse(row["reference"]))
        return found
