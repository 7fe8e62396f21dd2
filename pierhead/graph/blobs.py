"""What images and layers are in registries: tables ``blob`` (of layers, by repository) and ``manifest`` of GraphDB.

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
    """Both tables. Rows go with the last layer of their DiffID, and with the image."""

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

    def put_manifest(self, image_id: str, digest: str, media_type: str, document: bytes) -> None:
        """Remember the manifest that an image came with."""
        self._db.execute(
            "INSERT OR REPLACE INTO manifest VALUES (?, ?, ?, ?)", (digest, image_id, media_type, document)
        )

    def manifests(self, image_id: str) -> list[tuple[bytes, str]]:
        """The manifests that an image came with, each with its media type."""
        rows = self._db.all("SELECT document, media_type FROM manifest WHERE image_id = ? ORDER BY digest", (image_id,))
        return [(row["document"], row["media_type"]) for row in rows]

    def tidy(self) -> None:
        """Rows of layers that are not here any more."""
        self._db.execute("DELETE FROM blob WHERE diff_id NOT IN (SELECT diff_id FROM layer WHERE state <> 'removing')")

    def forget(self, diff_id: str, blob: Blob) -> None:
        """The repository does not have it any more."""
        self._db.execute(
            "DELETE FROM blob WHERE diff_id = ? AND digest = ? AND repository = ?",
            (diff_id, blob.digest, blob.repository),
        )
