"""The folder of an overlay driver: what is in it by which name, what of it is whose, and whether it is as it must be.

<data_root>/overlay2/
    l/<short>          -> ../<id>/diff: short names, for mount options are limited to a page
    places/            empty folders that become layers' (``places``)
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
import os
import secrets
import threading
from collections.abc import Iterator, Sequence, Set
from functools import partial

from pierhead.difference import Difference, Kind
from pierhead.driver.graphdriver.api import MARK, Kept, Remainder, Usage
from pierhead.driver.graphdriver.merge import merge, unshared
from pierhead.driver.graphdriver.notes import check_note, check_parent, lost, read_note, write_note
from pierhead.driver.graphdriver.places import PLACES, Places
from pierhead.driver.graphdriver.remove import remove_tree
from pierhead.driver.graphdriver.usage import blocks, measure
from pierhead.driver.graphdriver.whiteout import is_opaque
from pierhead.linux.placement import spread

MAX_LOWER = 450
"""Layers that are put on top of each other before they are merged. The kernel takes 500 (OVL_MAX_STACK)."""
BASE = "base"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


SKELETON = "skeleton"
SKELETON_FOLDERS = ("proc", "sys", "dev", "etc")
SKELETON_FILES = ("etc/hosts", "etc/hostname", "etc/resolv.conf", MARK)
"""What every container mounts something on, below all layers of its image: whatever the image has hides it, and no
container's own layer gets (and loses again) a dozen entries only to be mounted on."""


class OverlayLayout:
    """What concerns the folder alone, of ``GraphDriver``."""

    name: str
    reserved: tuple[str, ...] = ("l", "empty", "skeleton", PLACES)

    def __init__(self, data_root: str) -> None:
        self._home = os.path.join(data_root, self.name)
        self._merging = threading.Lock()
        self._places = Places(self._home)

    def _dir(self, id: str, *parts: str) -> str:
        return os.path.join(self._home, id, *parts)

    def _read(self, id: str, what: str) -> str:
        with open(self._dir(id, what)) as file:
            return file.read()

    def _write(self, id: str, what: str, text: str) -> None:
        with open(self._dir(id, what), "x") as file:
            file.write(text)

    def _prepare(self) -> None:
        os.makedirs(self._home, exist_ok=True)
        spread(self._home)
        self._places.tidy()
        self._make_folders()

    def _make_folders(self) -> None:
        os.makedirs(os.path.join(self._home, "l"), mode=0o710, exist_ok=True)
        for folder in SKELETON_FOLDERS:
            os.makedirs(os.path.join(self._home, SKELETON, folder), mode=0o755, exist_ok=True)
        for name in SKELETON_FILES:
            with open(os.path.join(self._home, SKELETON, name), "a"):
                pass
        # Last, for it says that all of this is there.
        os.makedirs(os.path.join(self._home, "empty"), mode=0o755, exist_ok=True)

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
            with opened(f"{base}.new") as fd:
                merge([os.path.join(self._home, "l", short) for short in chain], fd)
            os.rename(f"{base}.new", base)

    def parent(self, id: str) -> str | None:
        """As ``create`` was told."""
        try:
            return self._read(id, "parent")
        except FileNotFoundError:
            return None

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
        freed += remove_tree(self._dir(id))
        return freed

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
        folders = [os.path.join(self._home, name) for name in self.reserved if name != "l"]
        own += sum(measure(folder, across=False).disk for folder in folders)
        strays = [self._dir(id) for id in sorted(present.difference(known, self.reserved))]
        short: dict[str, list[str]] = {}
        if "l" in present:
            with opened(links) as fd:
                for name, target in _targets(fd):
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

    def check(self, layers: Sequence[Kept]) -> Iterator[Difference]:
        """Folders, notes, and the short names, which lead where they must."""
        needed = ("l", "empty", *(f"{SKELETON}/{name}" for name in (*SKELETON_FOLDERS, *SKELETON_FILES)))
        missing = [path for path in map(self._dir, needed) if not os.path.exists(path)]
        if layers and missing:
            yield Difference(
                Kind.MISSING,
                "folder",
                self._home,
                f"{', '.join(missing)} cannot be found: containers cannot start without",
                "what is missing is made again, empty",
                self._make_folders,
            )
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
        try:
            with opened(diff := self._dir(layer.id, "diff")) as fd:
                cut = is_opaque(fd)
        except FileNotFoundError:  # somebody is just removing it: whoever compares looks again
            yield lost(layer, diff)
            return
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


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
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


def _targets(folder: int) -> Iterator[tuple[str, str]]:
    """What is in an open folder, and where each of it leads; "" for what is no link."""
    for name in os.listdir(folder):
        try:
            yield name, os.readlink(name, dir_fd=folder)
        except OSError:
            yield name, ""
