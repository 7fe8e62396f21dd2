"""Layers' compressed blobs as they came, kept so that a push sends the very bytes again: table ``content`` of GraphDB.

<data_root>/blobs/sha256/<hex>

A blob is written into a file without a name while it comes.  When all of it is verified, its row is committed, then the
file gets its name (linkat(2)), then the row says "ready".  It goes with the last layer that has its DiffID.  What is
missing here is fetched again or made again: nothing of the store is needed to run anything.
"""

import contextlib
import errno
import io
import logging
import os
import tempfile
import threading
from dataclasses import dataclass
from hashlib import file_digest
from io import RawIOBase
from typing import BinaryIO

from pierhead.driver.graphdriver.remove import remove_tree
from pierhead.graph.graphdb import GraphDB

log = logging.getLogger("pierd")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class KeptBlob:
    """One blob. diff_id: of the layers that it unpacks to; size: bytes; disk: bytes on the disk (st_blocks × 512)."""

    digest: str
    diff_id: str
    size: int
    disk: int
    media_type: str


class Content:
    """The blobs of one data root. keeps: new ones are kept; else those that are here go at the daemon's start."""

    def __init__(self, db: GraphDB, data_root: str, *, keeps: bool) -> None:
        self._db = db
        self.keeps = keeps
        self._scratch = os.path.join(data_root, "tmp")
        self.folder = os.path.join(data_root, "blobs", "sha256")
        self._lock = threading.Lock()
        self.make_folder()

    def make_folder(self) -> None:
        """Where they are."""
        os.makedirs(self.folder, mode=0o700, exist_ok=True)

    def path(self, digest: str) -> str:
        """Where a blob is, or would be."""
        return os.path.join(self.folder, digest.removeprefix("sha256:"))

    def begin(self) -> io.FileIO:
        """A file without a name, which ``keep`` can give one."""
        try:
            fd = os.open(self.folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
                raise
            # A file system without such files (NFS): this one cannot be kept.
            fd, name = tempfile.mkstemp(dir=self._scratch)
            os.unlink(name)
        return io.FileIO(fd, "r+b")

    def keep(self, file: io.FileIO, digest: str, diff_id: str, media_type: str) -> None:
        """Name a file whose bytes have the digest and unpack to a layer that is here. A full disk keeps nothing."""
        if not self.keeps:
            return
        size = os.fstat(file.fileno()).st_size
        with self._lock:
            if self._db.first("SELECT 1 FROM content WHERE digest = ?", (digest,)) is not None:
                return
            self._db.execute("INSERT INTO content VALUES (?, ?, ?, ?, 'making')", (digest, diff_id, size, media_type))
            try:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.path(digest))  # without a row it is nobody's
                self._name(file, digest)
            except OSError as error:
                log.warning("blob %s is not kept: %s", digest, error)
                self._drop(digest)
                return
            self._db.execute("UPDATE content SET state = 'ready' WHERE digest = ?", (digest,))

    def _name(self, file: io.FileIO, digest: str) -> None:
        folder = os.open(self.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # With a folder it is linkat(2) with AT_SYMLINK_FOLLOW; without one os.link would link the symlink in /proc.
            os.link(f"/proc/self/fd/{file.fileno()}", os.path.basename(self.path(digest)), dst_dir_fd=folder)
        finally:
            os.close(folder)

    def all(self) -> list[KeptBlob]:
        """Every blob that is here, the largest first."""
        return self._rows("ORDER BY size DESC, digest")

    def of(self, diff_id: str) -> list[KeptBlob]:
        """The blobs that a layer came as."""
        return self._rows("AND diff_id = :diff_id", diff_id)

    def _rows(self, which: str, diff_id: str = "") -> list[KeptBlob]:
        rows = self._db.all(f"SELECT * FROM content WHERE state = 'ready' {which}", {"diff_id": diff_id})
        return [
            KeptBlob(row["digest"], row["diff_id"], row["size"], self._disk(row["digest"]), row["media_type"])
            for row in rows
        ]

    def _disk(self, digest: str) -> int:
        try:
            return os.lstat(self.path(digest)).st_blocks * 512
        except FileNotFoundError:
            return 0

    def has(self, digest: str) -> bool:
        """Whether a blob is here."""
        return self._db.first("SELECT 1 FROM content WHERE digest = ? AND state = 'ready'", (digest,)) is not None

    def open(self, digest: str) -> io.FileIO | None:
        """A blob's file, its bytes verified; None where it is not here. One that was damaged goes."""
        if not self.has(digest):
            return None
        try:
            file = io.FileIO(self.path(digest))
        except FileNotFoundError:
            self.forget(digest)
            return None
        if _digest(file) != digest:
            log.error("blob %s is damaged on the disk: it is dropped", digest)
            file.close()
            self.forget(digest)
            return None
        file.seek(0)
        return file

    def forget(self, digest: str) -> int:
        """Delete a blob; the bytes that gives back."""
        with self._lock:
            return self._drop(digest)

    def _drop(self, digest: str) -> int:
        self._db.execute("UPDATE content SET state = 'removing' WHERE digest = ?", (digest,))
        freed = self._disk(digest)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(digest))
        self._db.execute("DELETE FROM content WHERE digest = ?", (digest,))
        return freed

    def tidy(self) -> int:
        """Delete blobs of layers that are not here any more; the bytes that gives back."""
        with self._lock:
            gone = self._db.all(
                "SELECT digest FROM content WHERE diff_id NOT IN (SELECT diff_id FROM layer WHERE state <> 'removing')"
            )
            return sum(self._drop(row["digest"]) for row in gone)

    # -- for who compares -------------------------------------------------------------------------------------------

    def states(self) -> list[tuple[str, str, int, int]]:
        """Every row while nothing is being kept or removed: digest, state, size, the file's (-1: there is none)."""
        with self._lock:
            rows = self._db.all("SELECT digest, state, size FROM content ORDER BY digest")
            return [(row["digest"], row["state"], row["size"], self._size(row["digest"])) for row in rows]

    def _size(self, digest: str) -> int:
        try:
            return os.lstat(self.path(digest)).st_size
        except FileNotFoundError:
            return -1

    def strays(self) -> list[str]:
        """Names of files that have no row."""
        with self._lock:
            known = {os.path.basename(self.path(row["digest"])) for row in self._db.all("SELECT digest FROM content")}
            return sorted(set(listed(self.folder)) - known)

    def remove_stray(self, name: str) -> None:
        """Delete such a file."""
        if name in self.strays():
            remove_tree(self.path(name))

    def is_damaged(self, digest: str) -> bool:
        """Whether a blob that is here has another digest."""
        try:
            with io.FileIO(self.path(digest)) as file:
                return _digest(file) != digest and self.has(digest)
        except FileNotFoundError:
            return False


def listed(folder: str) -> list[str]:
    """The names in a folder; none where somebody has deleted it, which the comparison says."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _digest(file: io.FileIO) -> str:
    return "sha256:" + file_digest(file, "sha256").hexdigest()


class Copied(RawIOBase):
    """A stream that leaves what is read of it in a file too, as long as the disk has room for both."""

    def __init__(self, source: BinaryIO, copy: io.FileIO) -> None:
        super().__init__()
        self._source = source
        self._copy: io.FileIO | None = copy

    def readable(self) -> bool:
        return True

    @property
    def complete(self) -> bool:
        """Whether nothing is missing in the file."""
        return self._copy is not None

    def read(self, size: int = -1, /) -> bytes:
        """As the source's."""
        piece = self._source.read(size)
        if self._copy is not None:
            try:
                write_all(self._copy, piece)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                os.ftruncate(self._copy.fileno(), 0)
                self._copy = None
        return piece


def write_all(file: io.FileIO, data: bytes) -> None:
    """Write everything: a raw file may take less at once."""
    written = file.write(data)
    while written < len(data):
        written += file.write(data[written:])
