"""The overlay2 graph driver: a layer holds only what it adds; the kernel's overlayfs puts layers on top of each other.

<data_root>/overlay2/
    l/<short>          -> ../<id>/diff: short names, for mount options are limited to a page
    empty/             the second lower directory that overlayfs wants where there is but one
    <id>/diff          the layer's own files; whiteouts are devices 0:0, opaque directories have an attribute
    <id>/link          its short name
    <id>/lower         the short names of what is below it, topmost first, ":" between them
    <id>/parent        the parent's id
    <id>/work          for overlayfs, in writable layers
    <id>/base          the layer and all below it in one tree, where there are as many as MAX_LOWER: what is on top of
                       it begins a chain again (see ``merge``)
"""

import base64
import contextlib
import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator, Sequence, Set
from contextlib import AbstractContextManager
from functools import partial
from typing import BinaryIO

from pierhead.difference import Difference, Kind
from pierhead.driver.graphdriver.api import Applied, Change, Kept, Record, Remainder, Usage
from pierhead.driver.graphdriver.compare import compare
from pierhead.driver.graphdriver.detached import open_overlay
from pierhead.driver.graphdriver.merge import merge, unshared
from pierhead.driver.graphdriver.notes import check_note, check_parent, lost, read_note, write_note
from pierhead.driver.graphdriver.pack import END, Packer
from pierhead.driver.graphdriver.projects import confine
from pierhead.driver.graphdriver.remove import remove_tree
from pierhead.driver.graphdriver.tree import copy_attributes, inherit, walk
from pierhead.driver.graphdriver.usage import blocks, measure
from pierhead.driver.graphdriver.whiteout import OPAQUE, PREFIX, OverlayExtractor, is_opaque, is_whiteout
from pierhead.linux.mount import OverlayRoot, Root

MAX_LOWER = 450
"""Layers that are put on top of each other before they are merged. The kernel takes 500 (OVL_MAX_STACK)."""
BASE = "base"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


SKELETON = "skeleton"
SKELETON_FOLDERS = ("proc", "sys", "dev", "etc")
SKELETON_FILES = ("etc/hosts", "etc/hostname", "etc/resolv.conf")
"""What every container mounts something on, below all layers of its image: whatever the image has hides it, and no
container's own layer gets (and loses again) a dozen entries only to be mounted on."""


class OverlayDriver:
    """``GraphDriver`` on overlayfs."""

    name = "overlay2"
    stacks = True
    reserved: tuple[str, ...] = ("l", "empty", "skeleton")
    extractor = OverlayExtractor
    marks = False
    """Whether files named ``.wh.…`` in a layer are notes of whoever stacks the layers."""
    needs = (
        "It needs root, the kernel module overlay (modprobe overlay) and a file system such as ext4, xfs with ftype=1 "
        "or btrfs; else use --storage-driver vfs"
    )

    def __init__(self, data_root: str) -> None:
        self._home = os.path.join(data_root, self.name)
        self._merging = threading.Lock()

    def _dir(self, id: str, *parts: str) -> str:
        return os.path.join(self._home, id, *parts)

    def _read(self, id: str, what: str) -> str:
        with open(self._dir(id, what)) as file:
            return file.read()

    def _write(self, id: str, what: str, text: str) -> None:
        with open(self._dir(id, what), "x") as file:
            file.write(text)

    def probe(self) -> None:
        """Mount one and delete a file through it: whiteouts need mknod, opaque directories trusted attributes."""
        self._prepare()
        trial = os.path.join(self._home, f"probe-{secrets.token_hex(8)}")
        try:
            for part in ("", "lower", "upper", "work"):
                os.mkdir(os.path.join(trial, part), 0o700)
            with open(os.path.join(trial, "lower", "file"), "x"):
                pass
            os.setxattr(os.path.join(trial, "lower"), "trusted.overlay.opaque", b"y")
            root = OverlayRoot((f"{trial}/lower", f"{self._home}/empty"), f"{trial}/upper", f"{trial}/work")
            fd = self._open_overlay(root, readonly=False)
            try:
                os.unlink("file", dir_fd=fd)
            finally:
                os.close(fd)
            if not is_whiteout(os.lstat(os.path.join(trial, "upper", "file"))):
                raise OSError(errno.ENOTSUP, "no whiteout was left")
        except OSError as error:
            raise OSError(
                error.errno, f"{self.name} does not work in {self._home}: {error.strerror}. {self.needs}"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                remove_tree(trial)

    def _prepare(self) -> None:
        os.makedirs(os.path.join(self._home, "l"), mode=0o710, exist_ok=True)
        for folder in SKELETON_FOLDERS:
            os.makedirs(os.path.join(self._home, SKELETON, folder), mode=0o755, exist_ok=True)
        for name in SKELETON_FILES:
            with open(os.path.join(self._home, SKELETON, name), "a"):
                pass
        # Last, for it says that all of this is there.
        os.makedirs(os.path.join(self._home, "empty"), mode=0o755, exist_ok=True)

    def create(self, id: str, parent: str | None, *, writable: bool = False, limit: int = 0) -> None:
        """Make the layer's directory and its short name."""
        if not os.path.isdir(os.path.join(self._home, "empty")):
            self._prepare()
        lower = "" if parent is None else self._on(parent)
        os.mkdir(self._dir(id), 0o710)
        os.mkdir(self._dir(id, "diff"), 0o755)
        if parent is not None:
            self._write(id, "parent", parent)
            self._like(self._dir(parent, "diff"), self._dir(id, "diff"))
        if writable:
            # Nothing is ever stacked on a container's layer: it needs no short name, and its chain is its parent's.
            os.mkdir(self._dir(id, "work"), 0o700)
            if limit:
                confine((self._dir(id, "diff"), self._dir(id, "work")), limit)
            return
        self._write(id, "lower", lower)
        self._write(id, "link", self._shorten(id))

    def _shorten(self, id: str) -> str:
        """A short name for a layer."""
        while True:
            # 40 bits: long enough to be unique (and tried again if not), short enough for hundreds in a page.
            short = base64.b32encode(secrets.token_bytes(5)).decode()
            try:
                os.symlink(f"../{id}/diff", os.path.join(self._home, "l", short))
                return short
            except FileExistsError:
                continue

    @staticmethod
    def _like(source: str, target: str, *, opaque: bool = False) -> None:
        """The merged root directory looks like the topmost layer's: begin with the parent's.

        opaque: the target hides what is below it, and goes on doing so.
        """
        found = os.stat(source)
        os.chown(target, found.st_uid, found.st_gid)
        os.chmod(target, stat.S_IMODE(found.st_mode))
        to_fd = os.open(target, _DIRECTORY)
        from_fd = os.open(source, _DIRECTORY)
        try:
            copy_attributes(from_fd, to_fd)
            if not opaque:
                with contextlib.suppress(OSError):
                    os.removexattr(to_fd, "trusted.overlay.opaque")
            os.utime(to_fd, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(from_fd)
            os.close(to_fd)

    def _chain_through(self, id: str) -> str:
        """What is below a layer on top of this one: its short name and all below it, or its merged tree."""
        lower = self._read(id, "lower")
        chain = self._read(id, "link") + (":" + lower if lower else "")
        return chain if chain.count(":") + 1 < MAX_LOWER else f"../{id}/{BASE}"

    def _on(self, id: str) -> str:
        """The same, which is there from now on."""
        self._merge_long(id)
        return self._chain_through(id)

    def _merge_long(self, id: str) -> None:
        """Merge a layer with all below it if these are that many. The tree is the layer's own: whatever uses it is on
        top of that and goes before it."""
        if not self._chain_through(id).startswith("../"):
            return
        base = self._dir(id, BASE)
        with self._merging:
            if os.path.isdir(base):
                return
            remove_tree(f"{base}.new")
            os.mkdir(f"{base}.new", 0o755)
            chain = [*reversed(self._read(id, "lower").split(":")), self._read(id, "link")]
            with _opened(f"{base}.new") as fd:
                merge([os.path.join(self._home, "l", short) for short in chain], fd)
            os.rename(f"{base}.new", base)

    def parent(self, id: str) -> str | None:
        """As ``create`` was told."""
        try:
            return self._read(id, "parent")
        except FileNotFoundError:
            return None

    def apply(self, id: str, tar: BinaryIO, record: Record | None = None) -> Applied:
        """Unpack into ``diff``."""
        parent = self.parent(id)
        fd = self.open_layer(id)
        try:
            applied = self.extractor(fd, record=record).run(tar)
        finally:
            os.close(fd)
        if applied.opaque:
            # overlayfs does not ask the roots of its layers whether they are opaque: cut the chain here.
            write_note(self._dir(id, "lower"), "")
        if parent is not None:
            self._inherit(id, parent, applied)
            self._merge_long(id)
        return applied

    def stack(self, id: str, parent: str, applied: Applied) -> None:
        """Nothing of the unpacked files depends on the parent but the attributes of what the archive does not have."""
        lower = self._on(parent)
        self._write(id, "parent", parent)
        if not applied.opaque:
            write_note(self._dir(id, "lower"), lower)
        self._inherit(id, parent, applied)
        self._merge_long(id)

    def _inherit(self, id: str, parent: str, applied: Applied) -> None:
        """Directories that the archive does not have hide those of the layers below: they get their attributes."""
        wanted = [path for path in applied.inherits if path]
        if len(wanted) < len(applied.inherits):
            self._like(self._dir(parent, "diff"), self._dir(id, "diff"), opaque=applied.opaque)
        if not wanted:
            return
        fd = self.open_layer(id)
        try:
            below = self.open_root(parent)
            try:
                for path in wanted:
                    inherit(below, fd, path)
            finally:
                os.close(below)
        finally:
            os.close(fd)

    def remove(self, id: str) -> int:
        """The short name first: it is found through the directory."""
        try:
            short = self._read(id, "link")
        except (FileNotFoundError, NotADirectoryError):
            short = ""
        freed = 0
        if short:
            link = os.path.join(self._home, "l", short)
            freed = blocks(link)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(link)
        return freed + remove_tree(self._dir(id))

    def exists(self, id: str) -> bool:
        """Whether there is a directory of the id."""
        return os.path.isdir(self._dir(id))

    def list(self) -> Iterator[str]:
        """Every id."""
        try:
            names = sorted(os.listdir(self._home))
        except FileNotFoundError:
            return
        yield from (name for name in names if name not in self.reserved)

    def check(self, layers: Sequence[Kept]) -> Iterator[Difference]:
        """Folders, notes, and the short names, which lead where they must."""
        for layer in layers:
            diff = self._dir(layer.id, "diff")
            if not os.path.isdir(diff):
                yield lost(layer, diff)
                continue
            yield from check_parent(layer, self._dir(layer.id, "parent"))
            if not layer.writable:
                yield from self._check_names(layer)
            elif not os.path.isdir(work := self._dir(layer.id, "work")):
                yield Difference(
                    Kind.MISSING,
                    "layer",
                    layer.id,
                    f"{work} is missing, without which layer {layer.id[:12]} cannot be mounted: its container cannot "
                    "start",
                    "it is made again",
                    partial(os.mkdir, work, 0o700),
                )
        yield from self._check_strays()

    def _check_names(self, layer: Kept) -> Iterator[Difference]:
        links = os.path.join(self._home, "l")
        short = read_note(self._dir(layer.id, "link"))
        if not short or "/" in short or _target(os.path.join(links, short)) != f"../{layer.id}/diff":
            yield Difference(
                Kind.MISSING,
                "layer",
                layer.id,
                f"layer {layer.id[:12]} has no short name in {links} that leads to it: no container of it can start",
                "it is given one",
                partial(self._rename, layer.id),
            )
        with _opened(self._dir(layer.id, "diff")) as fd:
            cut = is_opaque(fd)
        try:
            lower = "" if layer.parent is None or cut else self._chain_through(layer.parent)
        except OSError:
            return  # said of the parent
        if lower.startswith("../") and not os.path.isdir(merged := os.path.join(links, lower)):
            yield Difference(
                Kind.MISSING,
                "layer",
                layer.id,
                f"{os.path.normpath(merged)}, the files below layer {layer.id[:12]}, is missing: no container of it "
                "can start",
                "it is made again of the layers",
                partial(self._on, layer.parent or ""),
            )
        yield from check_note(
            layer, self._dir(layer.id, "lower"), lower, f"the layers below {layer.id[:12]} are not found by it"
        )

    def _rename(self, id: str) -> None:
        """Make note and short name fit each other again; what is above it is told by ``check`` afterwards."""
        links = os.path.join(self._home, "l")
        old = read_note(self._dir(id, "link"))
        if old and "/" not in old and _target(os.path.join(links, old)) is None:
            os.symlink(f"../{id}/diff", os.path.join(links, old))
            return
        there = (short for short in os.listdir(links) if _target(os.path.join(links, short)) == f"../{id}/diff")
        write_note(self._dir(id, "link"), next(there, None) or self._shorten(id))

    def _check_strays(self) -> Iterator[Difference]:
        """A short name is made after what it names and before the note of it, and removed before both."""
        links = os.path.join(self._home, "l")
        with contextlib.suppress(FileNotFoundError):
            for short in sorted(os.listdir(links)):
                path = os.path.join(links, short)
                id = (_target(path) or "").removeprefix("../").removesuffix("/diff")
                note = read_note(self._dir(id, "link")) if id and "/" not in id else None
                if (os.path.exists(path) and note in (None, short)) or not os.path.lexists(path):
                    continue
                yield Difference(
                    Kind.LEFTOVER,
                    "short name",
                    path,
                    f"{path} is the short name of {'a layer that has another' if note else 'what is not there'}",
                    "it is deleted",
                    partial(os.unlink, path),
                )

    def root(self, id: str) -> OverlayRoot:
        """A writable layer is the upper directory; any other is the topmost of a read-only view."""
        if os.path.isdir(self._dir(id, "work")):
            parent = self.parent(id)
            chain = "" if parent is None else self._chain_through(parent)
            below = [f"{self._home}/l/{short}" for short in chain.split(":") if short]
            return OverlayRoot(
                (*below, os.path.join(self._home, SKELETON)), self._dir(id, "diff"), self._dir(id, "work")
            )
        lower = [f"{self._home}/l/{short}" for short in self._read(id, "lower").split(":") if short]
        own = f"{self._home}/l/{self._read(id, 'link')}"
        return OverlayRoot((own, *(lower or [f"{self._home}/empty"])))

    def mounted(self, id: str) -> AbstractContextManager[Root]:
        """The kernel mounts it where it is wanted."""
        return contextlib.nullcontext(self.root(id))

    def open_root(self, id: str, *, readonly: bool = True) -> int:
        """A detached overlay mount. readonly leaves a writable layer's upper directory out of use for others to use."""
        root = self.root(id)
        if root.upper is not None:
            lower = (*root.lower[:-1], os.path.join(self._home, "empty"))  # nothing is mounted there: no skeleton
            root = OverlayRoot((root.upper, *lower)) if readonly else OverlayRoot(lower, root.upper, root.work)
        return self._open_overlay(root, readonly=readonly)

    def _open_overlay(self, root: OverlayRoot, *, readonly: bool) -> int:
        return open_overlay(root, readonly=readonly)

    def open_layer(self, id: str) -> int:
        """``diff``."""
        return os.open(self._dir(id, "diff"), _DIRECTORY)

    def diff(self, id: str) -> Iterator[bytes]:
        """``diff`` with its whiteouts translated."""
        packer = Packer()
        fd = self.open_layer(id)
        try:
            if is_opaque(fd):
                yield packer.marker(OPAQUE)
            for above, base, path, found in walk(fd):
                if self.marks and base.startswith(PREFIX):
                    continue
                if is_whiteout(found):
                    parent, slash, name = path.rpartition(b"/")
                    yield packer.marker(parent + slash + PREFIX + name)
                    continue
                yield from packer.node(above, base, path, found)
                if stat.S_ISDIR(found.st_mode) and self._opaque_at(above, base):
                    yield packer.marker(path + b"/" + OPAQUE)
            yield END
        finally:
            os.close(fd)

    @staticmethod
    def _opaque_at(above: int, base: bytes) -> bool:
        try:
            fd = os.open(base, _DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            return is_opaque(fd)
        finally:
            os.close(fd)

    def changes(self, id: str) -> Iterator[Change]:
        """``diff`` against the parent's assembled root."""
        parent = self.parent(id)
        below = None if parent is None else self.open_root(parent)
        try:
            fd = self.open_layer(id)
            try:
                yield from compare(fd, below, overlay=True)
            finally:
                os.close(fd)
        finally:
            if below is not None:
                os.close(below)

    def measure(self, id: str) -> Usage:
        """``diff``; on disk also the rest of the directory, and the short name."""
        try:
            names = os.listdir(self._dir(id))
            parts = {name: measure(self._dir(id, name)) for name in names if name != BASE}
            disk = blocks(self._dir(id)) + sum(part.disk for part in parts.values())
            if "link" in parts:
                disk += blocks(os.path.join(self._home, "l", self._read(id, "link")))
            if BASE in names:
                disk += unshared(self._dir(id, BASE))
        except FileNotFoundError:  # it is not there, or is just being removed
            return Usage(0, measure(self._dir(id)).disk)
        return Usage(parts["diff"].content if "diff" in parts else 0, disk)

    def remainder(self, known: Set[str]) -> Remainder:
        """Directories of other ids, and short names that are nobody's."""
        try:
            present = set(os.listdir(self._home))
        except FileNotFoundError:
            return Remainder(0, (), frozenset(known))
        links = os.path.join(self._home, "l")
        own = blocks(self._home) + blocks(links)
        own += sum(measure(os.path.join(self._home, name)).disk for name in self.reserved if name != "l")
        strays = [self._dir(id) for id in sorted(present.difference(known, self.reserved))]
        short: dict[str, list[str]] = {}
        for name in os.listdir(links) if "l" in present else ():
            target = _target(os.path.join(links, name)) or ""
            short.setdefault(target.removesuffix("/diff")[3:], []).append(name)
        for id, names in short.items():
            if id in known and id in present and len(names) == 1:
                continue
            kept = ""
            with contextlib.suppress(FileNotFoundError):
                kept = self._read(id, "link") if id in known else ""
            strays += [os.path.join(links, name) for name in names if name != kept]
        found = tuple((path, measure(path).disk) for path in strays)
        return Remainder(own, found, frozenset(known - present))

    def status(self) -> tuple[tuple[str, str], ...]:
        """As dockerd's."""
        return (
            ("Backing Filesystem", _backing(self._home)),
            ("Supports d_type", "true"),
            ("Using metacopy", "false"),
            ("Native Overlay Diff", "true"),
            ("userxattr", "false"),
        )


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    """A directory's descriptor, for a while."""
    fd = os.open(path, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _target(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _backing(path: str) -> str:
    """The name of the file system that a directory is on, by /proc/self/mountinfo (proc(5))."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields = line.split()
            if fields[2] == wanted:
                kind = fields[fields.index("-") + 1]
                return {"ext2": "extfs", "ext3": "extfs", "ext4": "extfs"}.get(kind, kind)
    return "<unknown>"
