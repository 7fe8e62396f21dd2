"""Which compressed blobs a layer is known as, and in which repositories: table ``blob`` of GraphDB.

Verified: the blob's bytes had its digest, and what they unpacked to had the DiffID.  What a repository merely said of a
layer that was here already is good for that repository alone.
"""

import time
from dataclasses import dataclass, replace

from pierhead.graph.graphdb import GraphDB


@dataclass(frozen=True, slots=True)
class Blob:
    """A layer's blob. repository: with its registry, as "docker.io/library/busybox"; media_type: as it came."""

    digest: str
    size: int
    media_type: str
    repository: str
    verified: bool = True


class Blobs:
    """The table. Rows go with the last layer of their DiffID."""

    def __init__(self, db: GraphDB) -> None:
        self._db = db

    def of(self, diff_id: str) -> list[Blob]:
        """What is known of a layer, the latest first."""
        rows = self._db.all("SELECT * FROM blob WHERE diff_id = ? ORDER BY seen DESC", (diff_id,))
        return [
            Blob(row["digest"], row["size"], row["media_type"], row["repository"], bool(row["verified"]))
            for row in rows
        ]

    def add(self, diff_id: str, blob: Blob) -> None:
        """A blob that was seen in a repository, and is the layer."""
        self._db.execute(
            "INSERT OR REPLACE INTO blob VALUES (?, ?, ?, ?, ?, ?, ?)",
            (diff_id, blob.digest, blob.repository, blob.size, blob.media_type, blob.verified, time.time_ns()),
        )

    def claimed(self, diff_id: str, blob: Blob) -> None:
        """A repository says that a blob, which was not fetched, is the layer."""
        verified = any(known.digest == blob.digest and known.verified for known in self.of(diff_id))
        self.add(diff_id, replace(blob, verified=verified))

    def tidy(self) -> None:
        """Rows of layers that are not here any more."""
        self._db.execute("DELETE FROM blob WHERE diff_id NOT IN (SELECT diff_id FROM layer WHERE state <> 'removing')")

    def forget(self, diff_id: str, blob: Blob) -> None:
        """The repository does not have it any more."""
        self._db.execute(
            "DELETE FROM blob WHERE diff_id = ? AND digest = ? AND repository = ?",
            (diff_id, blob.digest, blob.repository),
        )
