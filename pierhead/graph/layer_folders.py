"""What the folders of layers must be like, where no header of an archive says it: see ``layer_contents``.

An archive need not name the folders that its files are in, nor the layer's own top.  The unpacker makes them all the
same, as the layers below have them, if they do (``graphdriver.whiteout``).  And what hides the folder of a layer below
is no file but a mark on a folder, where the driver stacks layers.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

from pierhead.driver.graphdriver.api import GraphDriver
from pierhead.driver.graphdriver.extract import IMPLIED_MODE
from pierhead.driver.graphdriver.tar import DIRECTORY, Budget, Entry, TarReader
from pierhead.driver.graphdriver.tree import walk
from pierhead.driver.graphdriver.whiteout import META, OPAQUE, PREFIX
from pierhead.linux.openat import open_in_root

Attributes = tuple[int, int, int]
"""Mode, owner, group."""
Choice = frozenset[Attributes] | None
"""One of these; None: not known, so that nothing is wrong."""
Key = tuple[int, int]
_NEW: Choice = frozenset({(IMPLIED_MODE, 0, 0)})
_FOLDER = os.O_PATH | os.O_DIRECTORY


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something of a layer that is not as it was unpacked. mend: puts it right, below the layer's descriptor."""

    text: str
    mend: Callable[[int], None] | None = None


@dataclass(slots=True)
class Told:
    """What an archive says: entries by name (the last of each), and what its whiteouts hide of the layers below.

    opaque: folders whose content below is hidden.  used: folders that it has something in.  replaced: names that were
    a folder and something else, one after the other.
    """

    wanted: dict[bytes, Entry] = field(default_factory=dict)
    hidden: set[bytes] = field(default_factory=set)
    opaque: set[bytes] = field(default_factory=set)
    used: set[bytes] = field(default_factory=set)
    replaced: set[bytes] = field(default_factory=set)

    def folders(self) -> list[bytes]:
        """Those it has something in and says nothing of, each after the one that it is in."""
        found: set[bytes] = set()
        for path in self.used:
            while path and path not in found:
                found.add(path)
                path = path.rpartition(b"/")[0]
        return sorted(path for path in found if path not in self.wanted)

    def hides(self, path: bytes) -> bool:
        """Whether what the layers below have there is hidden at some moment."""
        while path:
            if path in self.hidden or path in self.replaced:
                return True
            path = path.rpartition(b"/")[0]
            if path in self.opaque:
                return True
        return False


def told(source: BinaryIO) -> Told:
    """Reads to the very end."""
    said = Told()
    for entry in TarReader(source, Budget()):
        above, slash, base = entry.name.rpartition(b"/")
        if not base.startswith(PREFIX):
            before = said.wanted.get(entry.name)
            if before is not None and (before.kind == DIRECTORY) != (entry.kind == DIRECTORY):
                said.replaced.add(entry.name)
            said.wanted[entry.name] = entry
        elif base == OPAQUE:
            said.opaque.add(above)
        elif base.startswith(META):
            continue
        else:
            said.hidden.add(above + slash + base.removeprefix(PREFIX))
        said.used.add(above)
    while source.read(1 << 20):
        pass
    return said


@dataclass(frozen=True, slots=True)
class _Layer:
    """folders: its own, by their names. sound: names that are not there are of the layers below, or nobody's."""

    parent: str | None
    folders: dict[bytes, Choice]
    sound: bool


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder that is there. path: its name without links on the way; None where that cannot be said."""

    found: os.stat_result
    path: bytes | None

    @property
    def key(self) -> Key:
        """Which it is."""
        return self.found.st_dev, self.found.st_ino


class Folders:
    """Of layers, each told of after the one below it; they are named by their cache ids."""

    def __init__(self, driver: GraphDriver) -> None:
        self._driver = driver
        self._layers: dict[str, _Layer] = {}

    def compare(self, id: str, parent: str | None, said: Told, layer: int, *, sound: bool) -> Iterator[Flaw]:
        """layer: the descriptor of its own files. sound: nothing that has a header is missing or too much."""
        own, named = _named(said, layer)
        top = own.setdefault(b"", _NEW if parent is None else self._below(parent, b""))
        if b"" not in said.wanted:
            yield from _flaws(_Place(os.fstat(layer), b""), b"", top)
        implied: dict[Key, tuple[_Place, bytes, Choice]] = {}
        lost: list[bytes] = []
        folders = said.folders()
        with self._opened(parent if folders else None) as below:
            for path in folders:
                place = _place(layer, path)
                if place is None:
                    lost += [path] if _place(layer, path.rpartition(b"/")[0]) is not None else []
                elif place.key not in named:
                    choice = self._made(parent, below, said, place, path)
                    if place.key in implied:  # by another name, through a link
                        choice = _either(implied[place.key][2], choice)
                    implied[place.key] = place, path, choice
        for place, path, choice in implied.values():
            own[path if place.path is None else place.path] = choice
            yield from _flaws(place, path, choice)
        if self._driver.stacks:
            found = [Flaw(f"{os.fsdecode(path)} is missing") for path in lost]
            found += _strange(said, layer, named | implied.keys(), self._driver.opaque_marks)
            sound = sound and not found
            yield from found
        self._layers[id] = _Layer(parent, own, sound)

    @contextmanager
    def _opened(self, id: str | None) -> Iterator[int | None]:
        """What the layer below and all those below that show; None where that cannot be seen, which is said of them."""
        descriptor = None
        with suppress(OSError):
            if id is not None:
                descriptor = self._driver.open_root(id) if self._driver.stacks else self._driver.open_layer(id)
        try:
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _below(self, id: str | None, path: bytes) -> Choice:
        """What a folder is like that there is in a layer on top of all those below it."""
        while id is not None and (layer := self._layers.get(id)) is not None and (layer.sound or not path):
            if path in layer.folders:
                return layer.folders[path]
            id = layer.parent
        return None

    def _sound(self, id: str | None) -> bool:
        while id is not None:
            layer = self._layers.get(id)
            if layer is None or not layer.sound:
                return False
            id = layer.parent
        return True

    def _made(self, parent: str | None, below: int | None, said: Told, place: _Place, path: bytes) -> Choice:
        """What the unpacker gave a folder that has no header. below: the layers below it as one tree."""
        if parent is None:
            return _NEW
        if below is None or place.path is None:
            return None
        if self._driver.stacks and place.path != path:
            return None  # it is not said by which name it was made
        old = _place(below, path, links=not self._driver.stacks)
        if old is None:
            return _NEW if self._sound(parent) else None
        if old.path != place.path:
            return None
        was = self._below(parent, place.path)
        if self._driver.stacks:  # what is hidden gives its attributes all the same
            return was
        return _either(was, _NEW) if said.hides(path) or said.hides(place.path) else was


def _named(said: Told, layer: int) -> tuple[dict[bytes, Choice], set[Key]]:
    """The folders that have a header; what is wrong with those is said of everything that has one."""
    own: dict[bytes, Choice] = {}
    named = set()
    for name, entry in said.wanted.items():
        if entry.kind == DIRECTORY and (place := _place(layer, name, os.O_NOFOLLOW)) is not None:
            named.add(place.key)
            attributes = (stat.S_IMODE(entry.mode), entry.uid, entry.gid)
            own[name if place.path is None else place.path] = frozenset({attributes})
    return own, named


def _either(one: Choice, other: Choice) -> Choice:
    return None if one is None or other is None else one | other


def _place(root: int, path: bytes, flags: int = 0, *, links: bool = True) -> _Place | None:
    """The folder that a path leads to, over links if that may be; None: there is none."""
    name = os.fsdecode(path) or "."
    for over in (False, True) if links else (False,):
        try:
            descriptor = open_in_root(root, name, _FOLDER | flags, over)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                continue
            raise
        try:
            return _Place(os.fstat(descriptor), _name(root, descriptor) if over else path)
        finally:
            os.close(descriptor)
    return None


def _name(root: int, descriptor: int) -> bytes | None:
    """A folder's path from the root, by the kernel."""
    try:
        top, name = (os.readlink(b"/proc/self/fd/%d" % each) for each in (root, descriptor))
    except OSError:
        return None  # longer than a page
    top = top.rstrip(b"/") + b"/"
    return name.removeprefix(top) if name.startswith(top) else None


# -- what is wrong ----------------------------------------------------------------------------------------------------


def owned(found: os.stat_result, mode: int | None, uid: int, gid: int) -> Iterator[str]:
    """Mode (None: any) and owner of something, where they are others."""
    if mode is not None and stat.S_IMODE(found.st_mode) != mode:
        yield f"has mode {stat.S_IMODE(found.st_mode):o}, not {mode:o}"
    if (found.st_uid, found.st_gid) != (uid, gid):
        yield f"is owned by {found.st_uid}:{found.st_gid}, not {uid}:{gid}"


def shown(path: bytes) -> str:
    """A name for people."""
    return os.fsdecode(path) or "/"


def _flaws(place: _Place, path: bytes, choice: Choice) -> Iterator[Flaw]:
    found = place.found
    if choice is None or (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) in choice:
        return
    wanted = min(choice)
    mend = partial(_set, place.path, wanted) if place.path is not None and len(choice) == 1 else None
    for text in owned(found, *wanted):
        yield Flaw(f"{shown(path)} {text}", mend)


def _set(path: bytes, wanted: Attributes, layer: int) -> None:
    mode, uid, gid = wanted
    with _open(layer, path) as folder:
        os.fchown(folder, uid, gid)
        os.fchmod(folder, mode)


def _strange(said: Told, layer: int, known: Set[Key], marks: Sequence[str]) -> list[Flaw]:
    """Folders that nothing in the archive tells of, and marks that are gone or too much."""
    marked = {place.key for path in said.opaque if (place := _place(layer, path)) is not None}
    marked |= {place.key for path in said.hidden if (place := _place(layer, path, os.O_NOFOLLOW)) is not None}
    # One that was something else meanwhile may have lost its mark with that.
    unsure = {place.key for path in said.replaced if (place := _place(layer, path)) is not None}
    top = os.fstat(layer)
    found = _mark(b"", b"/proc/self/fd/%d/." % layer, marks, (top.st_dev, top.st_ino) in marked)
    for above, base, path, node in walk(layer):
        key = node.st_dev, node.st_ino
        if not stat.S_ISDIR(node.st_mode):
            continue
        if key not in known and path not in said.wanted:
            found.append(Flaw(f"{os.fsdecode(path)} was not in the archive"))
        if key not in unsure:
            found += _mark(path, b"/proc/self/fd/%d/%s" % (above, base), marks, key in marked)
    return found


def _mark(path: bytes, node: bytes, marks: Sequence[str], wanted: bool) -> list[Flaw]:
    there = {mark: value for mark in marks if (value := _attribute(node, mark)) is not None}
    if wanted and there.get(marks[0]) != b"y":
        text = "does not hide any more what the layers below have in it"
        return [Flaw(f"{shown(path)} {text}", partial(_hide, path, marks[0]))]
    if there and not wanted:
        text = "hides what the layers below have in it, which was not in the archive"
        return [Flaw(f"{shown(path)} {text}", partial(_show, path, tuple(there)))]
    return []


def _attribute(node: bytes, key: str) -> bytes | None:
    try:
        return os.getxattr(node, key, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise


def _hide(path: bytes, mark: str, layer: int) -> None:
    with _open(layer, path) as folder:
        os.setxattr(folder, mark, b"y")


def _show(path: bytes, marks: Sequence[str], layer: int) -> None:
    with _open(layer, path) as folder:
        for mark in marks:
            os.removexattr(folder, mark)


@contextmanager
def _open(layer: int, path: bytes) -> Iterator[int]:
    descriptor = open_in_root(layer, os.fsdecode(path) or ".", os.O_RDONLY | os.O_DIRECTORY, links=False)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
