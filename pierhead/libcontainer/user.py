"""Who a container's process is: "name", "1000", "name:group", "1000:50" and additional groups, by the image's files.

Parsed as bytes, by hand: no name service of the C library may load code from the container's root (and the container
may have shadowed it).  The rules are Docker's (moby/sys/user, GetExecUser); its messages too.  The zygote imports this.
"""

from __future__ import annotations

import os

from pierhead.linux.openat import open_regular

MAX_ID = (1 << 31) - 1
_MAX_BYTES = 4 << 20  # of passwd or group; a hostile image may bring one of any size
_MAX_GROUPS = 65536  # NGROUPS_MAX
_DIGITS = frozenset("0123456789")


class UserError(ValueError):
    """The user or a group cannot be found, or is out of range. The text is Docker's."""


class Identity:
    """What setgroups, setresgid and setresuid get; home is what HOME becomes if the environment has none."""

    __slots__ = ("gid", "groups", "home", "uid")

    def __init__(self, uid: int, gid: int, groups: list[int], home: str) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.home = home


def resolve(root: int, user: str, additional: tuple[str, ...] = ()) -> Identity:
    """Resolve ``user`` (as in ``docker run --user``) and additional groups below the open directory ``root``.

    The primary group always is the first of the supplementary ones.  Raises UserError, or OSError for files that
    cannot be used (no regular file, too big).
    """
    passwd = _entries(root, "/etc/passwd", 7)
    needs_groups = ":" in user or additional or passwd
    groups = _entries(root, "/etc/group", 4) if needs_groups else []
    return select(passwd, groups, user, additional)


def select(passwd: list[list[str]], group: list[list[str]], user: str, additional: tuple[str, ...]) -> Identity:
    """``resolve`` on the files' fields. Pure."""
    wanted, colon, wanted_group = user.partition(":")
    uid, gid, home, name, found = 0, 0, "/", "", False
    for entry in passwd:
        if _matches(entry, wanted):
            name, uid, gid, home, found = entry[0], _id(entry[2]), _id(entry[3]), entry[5] or "/", True
            break
    if wanted and not found:
        if not _numeric(wanted):
            raise UserError(f"unable to find user {wanted}: no matching entries in passwd file")
        uid = _id(wanted)
    supplementary: list[int] = []
    if colon and wanted_group:
        gid = _group(group, wanted_group)
    elif name:
        supplementary = [_id(entry[2]) for entry in group if name in entry[3].split(",")]
    supplementary += [_group(group, one) for one in additional]
    groups = list(dict.fromkeys([gid, *supplementary]))
    if len(groups) > _MAX_GROUPS:
        raise UserError(f"too many groups: {len(groups)}, the kernel takes {_MAX_GROUPS}")
    return Identity(uid, gid, groups, home)


def _matches(entry: list[str], wanted: str) -> bool:
    """A number is an id and never a name, whatever names the image made up; no user means user 0."""
    if wanted and not _numeric(wanted):
        return entry[0] == wanted and not _signed(wanted)
    return entry[2].lstrip("0") == wanted.lstrip("0")


def _group(group: list[list[str]], wanted: str) -> int:
    if _numeric(wanted):
        return _id(wanted)
    for entry in group:
        if entry[0] == wanted and not _signed(wanted):
            return _id(entry[2])
    raise UserError(f"unable to find group {wanted}: no matching entries in group file")


def _numeric(text: str) -> bool:
    """Only ASCII digits make a number: "+0", "-1" and other scripts' digits are names, and found nowhere."""
    return bool(text) and _DIGITS.issuperset(text)


def _signed(text: str) -> bool:
    """A number with a sign: to Docker a number (out of range, or 0), to the image's files perhaps a name for root."""
    return text[:1] in ("+", "-") and _numeric(text[1:])


def _id(text: str) -> int:
    # The length first: Python refuses to convert thousands of digits with another error.
    if len(text) > 20 or int(text) > MAX_ID:
        raise UserError(f"uids and gids must be in range 0-{MAX_ID}")
    return int(text)


def _entries(root: int, path: str, fields: int) -> list[list[str]]:
    """The usable lines of a passwd or group file, each split and filled up to ``fields``; none if it is missing.

    A line without a name or with ids that are no numbers is passed over, as Docker and libc do.
    """
    numbers = (2, 3) if fields == 7 else (2,)
    found = []
    for line in _read(root, path).decode("utf-8", "surrogateescape").split("\n"):
        entry = line.strip().split(":")
        entry += [""] * (fields - len(entry))
        if entry[0] and all(_numeric(entry[number]) for number in numbers):
            found.append(entry)
    return found


def _read(root: int, path: str) -> bytes:
    try:
        descriptor = open_regular(root, path)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    try:
        if os.fstat(descriptor).st_size > _MAX_BYTES:
            raise OSError(27, f"larger than {_MAX_BYTES} bytes", path)  # EFBIG
        parts = []
        left = _MAX_BYTES + 1
        while left > 0 and (part := os.read(descriptor, min(left, 65536))):
            parts.append(part)
            left -= len(part)
        if left <= 0:
            raise OSError(27, f"larger than {_MAX_BYTES} bytes", path)
        return b"".join(parts)
    finally:
        os.close(descriptor)
