"""``--userns-remap``: whose subordinate ids (/etc/subuid, /etc/subgid) the users of containers are on the host.

The rules and the words are dockerd's: "default" is the user ``dockremap``, made with ranges of its own if missing.
"""

import grp
import logging
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pierhead.daemon.config import Config
from pierhead.errors import InvalidParameter
from pierhead.linux import calls, const, idmap, mountapi
from pierhead.linux.idmap import IdMaps, Range

log = logging.getLogger(__name__)

DEFAULT_USER = "dockremap"
SUBUID, SUBGID = "/etc/subuid", "/etc/subgid"
FIRST, LENGTH = 100000, 65536
"""Of a range that is made: what useradd of Debian gives."""

_LIMIT = 1 << 31


def remapped(config: Config) -> Config:
    """The settings with the id maps, and with roots that no daemon with other maps uses, as dockerd has them.

    Raises InvalidParameter, OSError.
    """
    if not config.userns_remap:
        return config
    user = user_of(config.userns_remap)
    if user == "root":
        log.warning("User namespaces: root cannot be remapped with itself; user namespaces are OFF")
        return config
    maps = maps_of(user, Path(SUBUID).read_text(), Path(SUBGID).read_text())
    log.info("User namespaces: ID ranges will be mapped to subuid/subgid ranges of: %s", user)
    folder = "{}.{}".format(*maps.root)
    return replace(
        config,
        id_maps=maps,
        data_root=os.path.join(config.data_root, folder),
        exec_root=os.path.join(config.exec_root, folder),
    )


def user_of(text: str) -> str:
    """The name of the user of "uid[:gid]", "name[:group]" or "default". Raises InvalidParameter, OSError."""
    user, colon, group = text.partition(":")
    if ":" in group or not user:
        raise InvalidParameter(f'Invalid user/group specification in --userns-remap: "{text}"')
    number = _number(user)
    try:
        name = pwd.getpwuid(number).pw_name if number is not None else pwd.getpwnam(_alias(user)).pw_name
    except KeyError:
        if number is not None:
            raise InvalidParameter(f"Uid {number} has no entry in /etc/passwd") from None
        if user != "default":
            raise InvalidParameter(
                f'Error during uid lookup for "{user}": no matching entries in passwd file'
            ) from None
        make_user(DEFAULT_USER)
        name = DEFAULT_USER
    _check_group(group if colon else _alias(user))
    return name


def _alias(user: str) -> str:
    return DEFAULT_USER if user == "default" else user


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 11 and int(text) < _LIMIT else None


def _check_group(group: str) -> None:
    number = _number(group)
    try:
        if number is not None:
            grp.getgrgid(number)
        else:
            grp.getgrnam(group)
    except KeyError:
        if number is not None:
            raise InvalidParameter(f"Gid {number} has no entry in /etc/group") from None
        raise InvalidParameter(f'Error during gid lookup for "{group}": no matching entries in group file') from None


def maps_of(user: str, subuid: str, subgid: str) -> IdMaps:
    """A user's ranges, one after the other, as the ids of containers from 0 on. Raises InvalidParameter.

    subuid, subgid: what is in the files.  Lines may begin with the user's number instead of the name.
    """
    try:
        names = {user, str(pwd.getpwnam(user).pw_uid)}
    except KeyError:
        names = {user}
    found = []
    for content, what in ((subuid, "subuid"), (subgid, "subgid")):
        ranges = _in_a_row((first, length) for name, first, length in _lines(content) if name in names)
        if not ranges:
            raise InvalidParameter(
                f'Can\'t create ID mappings: no {what} ranges found for user "{user}": '
                f"usermod --add-{what}s {FIRST}-{FIRST + LENGTH - 1} {user}, or a line "
                f"{user}:{FIRST}:{LENGTH} in /etc/{what}"
            )
        found.append(ranges)
    try:
        return IdMaps(*found)
    except ValueError as error:
        raise InvalidParameter(f"Can't create ID mappings: {error}") from None


def _in_a_row(found: Iterable[tuple[int, int]]) -> tuple[Range, ...]:
    ranges, inside = [], 0
    for first, length in found:
        ranges.append(Range(inside, first, length))
        inside += length
    return tuple(ranges)


def _lines(content: str) -> list[tuple[str, int, int]]:
    """subuid(5): name, first, length. Raises InvalidParameter."""
    found = []
    for line in content.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, *numbers = line.split(":")
        if len(numbers) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 11 for part in numbers):
            raise InvalidParameter(f"Can't create ID mappings: not a line of subuid or subgid: {line!r}")
        found.append((name, int(numbers[0]), int(numbers[1])))
    return found


def make_user(name: str) -> None:
    """A system user with a range of subordinate ids that nobody has. Raises OSError that says what to do instead."""
    tools = [shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin") for tool in ("useradd", "usermod")]
    instead = (
        f"make the user {name}, and for it a line like {name}:{FIRST}:{LENGTH} in {SUBUID} and {SUBGID}, "
        "or name another user in --userns-remap"
    )
    if not all(tools):
        raise OSError(f'Error during "{name}" user creation: there is no useradd: {instead}')
    commands = [[str(tools[0]), "--system", "--user-group", "--no-create-home", "--shell", "/bin/false", name]]
    for option, path in (("--add-subuids", SUBUID), ("--add-subgids", SUBGID)):
        lines = _lines(Path(path).read_text() if os.path.exists(path) else "")
        if not any(one == name for one, _, _ in lines):
            first = max([FIRST, *(start + length for _, start, length in lines)])
            commands.append([str(tools[1]), option, f"{first}-{first + LENGTH - 1}", name])
    for command in commands:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f'Error during "{name}" user creation: {done.stderr.strip()}: {instead}')


def probe(maps: IdMaps, folder: str) -> None:
    """Try what every container will need. Raises OSError that says what is missing. Not with other threads around."""
    read, write = os.pipe()
    try:
        pid, pidfd = calls.clone3(const.CLONE_NEWUSER)
    except OSError as error:
        why = "no more of them are allowed (sysctl user.max_user_namespaces)" if error.errno == 28 else error.strerror
        raise OSError(error.errno, f"--userns-remap: the kernel makes no user namespace: {why}") from None
    if not pid:
        os.close(write)
        os.read(read, 1)  # until we have seen enough
        os._exit(0)
    try:
        for name, ranges in (("gid_map", maps.gids), ("uid_map", maps.uids)):
            Path(f"/proc/{pid}/{name}").write_text(idmap.text(ranges))
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        tree = mountapi.clone_tree(const.AT_FDCWD, folder, recursive=False)
        try:
            mountapi.map_owners(tree, namespace, folder)
        except OSError as error:
            raise OSError(
                error.errno,
                f"--userns-remap: layers below {folder} cannot be shown with other owners (idmapped mounts): "
                f"{error.strerror}. ext4, xfs and btrfs can, tmpfs since Linux 6.3: use another --data-root",
            ) from None
        finally:
            os.close(tree)
            os.close(namespace)
    finally:
        os.close(read)
        os.close(write)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
