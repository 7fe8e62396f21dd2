"""Layer archives entry by entry, by Python's own tarfile: an independent witness for our reader and writer."""

import io
import tarfile
from dataclasses import dataclass, field

NS = 1_700_000_000_123_456_789


@dataclass
class Item:
    """One entry; mtime in ns."""

    name: str
    kind: bytes = tarfile.REGTYPE
    data: bytes = b""
    link: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = NS
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, str] = field(default_factory=dict)


def file(name: str, data: bytes | str = b"", **more: object) -> Item:
    return Item(name, data=data.encode() if isinstance(data, str) else data, **more)  # type: ignore[arg-type]


def folder(name: str, mode: int = 0o755, **more: object) -> Item:
    return Item(name, tarfile.DIRTYPE, mode=mode, **more)  # type: ignore[arg-type]


def symlink(name: str, target: str) -> Item:
    return Item(name, tarfile.SYMTYPE, link=target, mode=0o777)


def hardlink(name: str, target: str) -> Item:
    return Item(name, tarfile.LNKTYPE, link=target)


def device(name: str, major: int, minor: int, kind: bytes = tarfile.CHRTYPE) -> Item:
    return Item(name, kind, device=(major, minor), mode=0o600)


def whiteout(path: str) -> Item:
    parent, slash, base = path.rpartition("/")
    return Item(f"{parent}{slash}.wh.{base}")


def opaque(path: str) -> Item:
    return Item(f"{path}/.wh..wh..opq" if path else ".wh..wh..opq")


def archive(*items: Item, form: int = tarfile.PAX_FORMAT) -> bytes:
    """An uncompressed archive; names may hold surrogates for bytes that are no UTF-8."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, errors="surrogateescape") as tar:
        for item in items:
            info = tarfile.TarInfo(item.name)
            info.type, info.linkname, info.mode = item.kind, item.link, item.mode
            info.uid, info.gid, info.size = item.uid, item.gid, len(item.data)
            info.mtime = item.mtime // 10**9
            info.devmajor, info.devminor = item.device
            if form == tarfile.PAX_FORMAT:
                whole, rest = divmod(item.mtime, 10**9)
                info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in item.xattrs.items()}
                if rest:
                    info.pax_headers["mtime"] = f"{whole}.{rest:09d}"
            tar.addfile(info, io.BytesIO(item.data) if item.kind == tarfile.REGTYPE else None)
    return buffer.getvalue()


def block(**fields: bytes) -> bytes:
    """A header block with fields at will, its checksum right."""
    places = {"name": 0, "mode": 100, "uid": 108, "gid": 116, "size": 124, "mtime": 136, "kind": 156, "link": 157}
    places |= {"magic": 257, "major": 329, "minor": 337}
    made = bytearray(512)
    for part, value in {"name": b"x", "kind": b"0", "magic": b"ustar\x0000", **fields}.items():
        made[places[part] : places[part] + len(value)] = value
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def listing(data: bytes) -> dict[str, tarfile.TarInfo]:
    """The entries of an archive by name."""
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
        return {member.name: member for member in tar.getmembers()}
