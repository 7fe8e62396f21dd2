"""Layers made by an enemy (class D of the known ways out), each with what must become of it on every way in."""

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.harness.archives import Item, archive, block, device, file, folder, hardlink, opaque, symlink, whiteout

REFUSED = None
"""Instead of a tree: the archive is refused."""


@dataclass(frozen=True)
class Case:
    """Layers from the lowest up, and the tree they must be; either: a driver may refuse or hold it in its own way."""

    layers: tuple[bytes, ...]
    tree: frozenset[str] | None
    either: bool = False


def pax(*records: bytes, then: bytes = b"") -> bytes:
    """An extended header of these records and the entry it is about."""
    data = b""
    for record in records:
        length = len(record) + 3
        while len(b"%d %s\n" % (length, record)) != length:
            length = len(b"%d %s\n" % (length, record))
        data += b"%d %s\n" % (length, record)
    padded = data.ljust(-(-len(data) // 512) * 512, b"\0")
    return block(kind=b"x", size=b"%011o" % len(data)) + padded + (then or block())


def _long(name: str) -> bytes:
    return archive(file(name), form=tarfile.GNU_FORMAT)


def corpus(sentinel: Path) -> dict[str, Case]:
    """All cases; links point to the sentinel, a folder of the host."""
    away = str(sentinel)
    inside = away.lstrip("/")
    parents = {inside.rsplit("/", count)[0] for count in range(inside.count("/") + 1)}
    up = "../" * 24 + inside
    end = bytes(1024)
    xattrs = {"user.colour": "blue", "trusted.overlay.opaque": "y", "trusted.overlay.redirect": away}
    result: dict[str, Case] = {}

    def refused(name: str, *layers: tuple[Item, ...] | bytes) -> None:
        result[name] = Case(tuple(one if isinstance(one, bytes) else archive(*one) for one in layers), REFUSED)

    def becomes(name: str, tree: str, *layers: tuple[Item, ...] | bytes, either: bool = False) -> None:
        packed = tuple(one if isinstance(one, bytes) else archive(*one) for one in layers)
        result[name] = Case(packed, frozenset(tree.split()), either)

    # Names
    refused("dots", (file("../f", "x"),))
    refused("dots to the sentinel", (file(up + "/f", "x"),))
    refused("dots inside", (folder("a"), file("a/../../f", "x")))
    refused("dots behind a slash", (file("/../f", "x"),))
    refused("dots deep inside", (file("a/b/../../../f", "x"),))
    refused("no name", block(name=b"") + end)
    refused("the root's name for a file", (file("./", "x"),))
    refused("a slash for a file", (file("/", "x"),))
    refused("a name of 5000 bytes", _long("/".join(["n" * 99] * 50)))
    refused("a component of 300 bytes", (file("n" * 300),))
    refused("600 folders deep", (file("/".join(["d"] * 600)),))
    becomes("500 folders deep", " ".join("d" + "/d" * n for n in range(500)), (file("/".join(["d"] * 500)),))
    refused("NUL in a pax name", pax(b"path=x\0y") + end)
    refused("dots in a pax name", pax(b"path=../f") + end)
    becomes("NUL ends a name", "x", block(name=b"x\0../../f") + end)
    becomes("an absolute name", "abs", (file("/abs", "x"),))
    becomes("dots that stay inside", "b", (file("a/../b", "x"),))
    becomes("dots and slashes", "x x/y", (file(".//x//./y", "x"),))
    becomes("a name that is no UTF-8", "\udcff\udcfe", (file("\udcff\udcfe", "x"),))
    becomes("names of options", "-rf --help", (file("-rf"), file("--help")))

    # Symbolic links
    refused("through an absolute link", (symlink("l", away), file("l/f", "x")))
    refused("through a link with dots", (symlink("l", up), file("l/f", "x")))
    refused("through a link to a file", (symlink("l", away + "/f"), file("l/x", "x")))
    refused("through a loop", (symlink("a", "b"), symlink("b", "a"), file("a/x")))
    refused("through a chain", (symlink("a", "b"), symlink("b", "c"), symlink("c", away), file("a/f", "x")))
    refused("a folder becomes a link and is used", (folder("d"), symlink("d", away), file("d/f", "x")))
    refused("a link of a target that is too long", (symlink("l", "t" * 5000),))
    becomes(
        "through links, with the place inside",
        " ".join({*parents, "l", "u", inside + "/f", inside + "/g"}),
        (folder(inside), symlink("l", away), symlink("u", up), file("l/f", "x"), file("u/g", "x")),
    )
    becomes("a file where a link is", "l", (symlink("l", away + "/f"), file("l", "x")))
    becomes("a folder where a link is", "l", (symlink("l", away), folder("l", 0o777)))
    becomes("a device where a link is", "l", (symlink("l", away + "/f"), device("l", 1, 3)))
    becomes("a link where a folder is", "d", (folder("d"), symlink("d", away)))
    becomes("file, folder, link of one name", "x", (file("x"), folder("x"), symlink("x", away)))
    becomes("attributes of a link", "l", (Item("l", tarfile.SYMTYPE, link=away + "/f", mode=0o777, xattrs=xattrs),))
    becomes("a link with an owner", "l", (Item("l", tarfile.SYMTYPE, link=away + "/f", uid=7, gid=7, mode=0o4777),))
    refused("across layers: used as a folder", (symlink("l", away),), (file("l/f", "x"), file("l/../../f")))
    becomes("across layers: only modes", "l", (symlink("l", away),), (folder("l", 0o777, uid=9),))
    becomes("across layers: a file below", "l l/f", (symlink("l", away),), (file("l/f", "x"),), either=True)
    becomes("across layers: a folder becomes a link", "d", (folder("d"), file("d/f")), (symlink("d", away),))
    becomes("across layers: whiteout behind a link", "l", (symlink("l", away),), (whiteout("l/f"),), either=True)
    becomes("across layers: opaque behind a link", "l", (symlink("l", away),), (opaque("l"),), either=True)

    # Hard links
    refused("hard link outside", (hardlink("x", "../../../../etc/passwd"),))
    refused("hard link to an absolute name", (hardlink("x", away + "/f"),))
    refused("hard link through a link", (symlink("l", away), hardlink("x", "l/f")))
    refused("hard link to a later entry", (hardlink("x", "y"), file("y")))
    refused("hard link to itself", (file("x"), hardlink("x", "x")))
    refused("hard link to a folder", (folder("d"), hardlink("x", "d")))
    refused("hard link to the root", (hardlink("x", "/"),))
    refused("hard link by pax outside", pax(b"linkpath=../../f", then=block(kind=b"1", link=b"y")) + end)
    refused("hard link to a whiteout", (whiteout("a"), hardlink("b", ".wh.a")))
    becomes("hard link to a link, then written", "s x", (symlink("s", away + "/f"), hardlink("x", "s"), file("x", "x")))
    becomes("hard link to a link", "s x", (symlink("s", away + "/f"), hardlink("x", "s")))

    # Whiteouts
    refused("whiteout of dots", (Item(".wh..."),))
    refused("whiteout of a dot", (Item("d/.wh.."),))
    refused("whiteout of nothing", (Item(".wh."),))
    refused("below a whiteout", (file(".wh.a/b"),))
    refused("whiteout that is a folder", (Item(".wh.a", tarfile.DIRTYPE),))
    refused("whiteout as overlayfs has it", (device("x", 0, 0),))
    refused("whiteout behind dots", (file("../.wh.f"),))
    becomes("opaque root", "new", (file("old"), folder("d")), (opaque(""), file("new")))
    becomes("two thousand opaque marks", "d", (folder("d"), file("d/x")), tuple([opaque("d")] * 2000))
    becomes("what aufs leaves", "", (file(".wh..wh.plnk"), file(".wh..wh.aufs")))
    becomes("attributes that would steer overlayfs", "d f", (folder("d", xattrs=xattrs), file("f", xattrs=xattrs)))

    # Nodes
    becomes(
        "devices and pipes",
        "disk mem pipe",
        (device("disk", 8, 0, tarfile.BLKTYPE), device("mem", 1, 1)),
        (Item("pipe", tarfile.FIFOTYPE),),
    )
    becomes("set-uid", "su", (file("su", "x", mode=0o4755),))
    refused("a file as a folder", (file("x", "x"), file("x/y")))
    refused("below a device", (device("x", 1, 3), file("x/y")))

    # Headers that lie
    refused("a negative size", block(size=b"\xff" * 12) + end)
    refused("a size beyond any disk", block(size=b"\x80" + b"\xff" * 11) + end)
    refused("a negative pax size", pax(b"size=-1") + end)
    refused("a pax size with underscores", pax(b"size=1_0") + end)
    refused("a pax header of 512 MiB", block(kind=b"x", size=b"04000000000") + end)
    refused("a long name of 1 GiB", block(kind=b"L", size=b"10000000000") + end)
    refused("a sparse file of 1 TiB", block(kind=b"S", size=b"\x80" + bytes(6) + b"\x01" + bytes(4)) + end)
    refused("a sparse file by pax", pax(b"GNU.sparse.major=1", b"GNU.sparse.realsize=1099511627776") + end)
    refused("a kind that nobody knows", block(kind=b"V") + end)
    refused("cut in a header", block()[:300])
    refused("cut in its content", block(size=b"00000001000") + b"x" * 100)
    refused("a wrong checksum", block()[:148] + b"000000\0 " + block()[156:] + end)
    refused("three hundred attributes", pax(*(b"SCHILY.xattr.user.a%d=x" % n for n in range(300))) + end)
    refused("an owner that is nobody", pax(b"uid=4294967295") + end)
    refused(
        "a hundred global headers",
        (block(kind=b"g", size=b"00000000010") + b"8 a=bcd\n".ljust(512, b"\0")) * 100 + block() + end,
    )
    return result


def names(cases: Mapping[str, Case]) -> list[str]:
    """The names of the cases, at least as many as the reference asks for."""
    assert len(cases) >= 60
    return list(cases)
