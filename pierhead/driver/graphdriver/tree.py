"""Directory trees by descriptor: walk one, copy one."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

from pierhead.linux.idmap import IdMaps
from pierhead.linux.openat import open_in_root

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE = 16 << 20


def open_directory(above: int, base: bytes) -> int:
    """Open a directory of a tree for reading; a symlink in its place is refused."""
    return os.open(base, _DIRECTORY, dir_fd=above)


def walk(
    fd: int, path: bytes = b"", enter: Callable[[int], bool] | None = None
) -> Iterator[tuple[int, bytes, bytes, os.stat_result]]:
    """Everything below a directory in path order: (parent's descriptor, name, path from the top, lstat).

    The parent's descriptor is valid until the next item is asked for.  enter: asked about each open directory whether
    what is below it counts.
    """
    for name in sorted(map(os.fsencode, os.listdir(fd))):
        try:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            continue  # a running container has just deleted it
        below = path + b"/" + name if path else name
        yield fd, name, below, found
        if stat.S_ISDIR(found.st_mode):
            try:
                directory = open_directory(fd, name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                continue
            try:
                if enter is None or enter(directory):
                    yield from walk(directory, below, enter)
            finally:
                os.close(directory)


def copy_attributes(source: int | bytes, target: int | bytes) -> None:
    """Extended attributes from one node to another; what the target's file system refuses is left out."""
    follow = isinstance(source, int)
    for key in os.listxattr(source) if follow else os.listxattr(source, follow_symlinks=False):
        try:
            if follow:
                os.setxattr(target, key, os.getxattr(source, key))
            else:
                os.setxattr(target, key, os.getxattr(source, key, follow_symlinks=False), follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.ENODATA):
                raise


def _directory_at(root: int, path: bytes, *, links: bool) -> int | None:
    try:
        return open_in_root(root, os.fsdecode(path), _DIRECTORY, links=links)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return None


def inherit(source: int, target: int, path: bytes) -> None:
    """Make a directory of one tree what the other tree's of that name is, if both have it."""
    to_fd = _directory_at(target, path, links=True)
    if to_fd is None:
        return  # replaced by a later entry of the archive
    try:
        from_fd = _directory_at(source, path, links=False)
        if from_fd is None:
            return
        try:
            found = os.fstat(from_fd)
            os.fchown(to_fd, found.st_uid, found.st_gid)
            os.fchmod(to_fd, stat.S_IMODE(found.st_mode))
            copy_attributes(from_fd, to_fd)
            os.utime(to_fd, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(from_fd)
    finally:
        os.close(to_fd)


def copy_tree(source: int, target: int, maps: IdMaps | None = None) -> None:
    """Copy everything below one directory into another, empty one, with owners, modes, times, links and attributes.

    maps: the owners are those of a container; in the copy they are who these are on the host. Raises OSError for
    one who is nobody there.
    """
    _copy_level(source, target, target, b"", {}, maps)


def _owner(found: os.stat_result, maps: IdMaps | None) -> tuple[int, int]:
    return (found.st_uid, found.st_gid) if maps is None else (maps.uid(found.st_uid), maps.gid(found.st_gid))


def _copy_level(
    source: int, target: int, top: int, path: bytes, links: dict[tuple[int, int], bytes], maps: IdMaps | None
) -> None:
    for text in os.listdir(source):
        name = os.fsencode(text)
        below = path + b"/" + name if path else name
        try:
            found = os.stat(name, dir_fd=source, follow_symlinks=False)
        except FileNotFoundError:
            continue  # overlayfs lists whiteouts, too, of a directory that is of one layer alone
        if stat.S_ISDIR(found.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            from_fd = open_directory(source, name)
            try:
                to_fd = open_directory(target, name)
                try:
                    _copy_level(from_fd, to_fd, top, below, links, maps)
                finally:
                    os.close(to_fd)
            finally:
                os.close(from_fd)
            continue
        key = (found.st_dev, found.st_ino)
        if found.st_nlink > 1 and key in links:
            os.link(links[key], name, src_dir_fd=top, dst_dir_fd=target, follow_symlinks=False)
            continue
        if found.st_nlink > 1:
            links[key] = below
        copy_node(source, target, name, found, _owner(found, maps))
    found = os.fstat(source)
    os.fchown(target, *_owner(found, maps))
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    copy_attributes(source, target)
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def copy_node(source: int, target: int, name: bytes, found: os.stat_result, owner: tuple[int, int]) -> None:
    """One thing that is no directory."""
    if stat.S_ISREG(found.st_mode):
        from_fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
        try:
            to_fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
            try:
                copy_content(from_fd, to_fd)
                os.fchown(to_fd, *owner)
                os.fchmod(to_fd, stat.S_IMODE(found.st_mode))
                copy_attributes(from_fd, to_fd)
                os.utime(to_fd, ns=(found.st_atime_ns, found.st_mtime_ns))
            finally:
                os.close(to_fd)
        finally:
            os.close(from_fd)
        return
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    else:
        os.mknod(name, stat.S_IFMT(found.st_mode) | 0o600, found.st_rdev, dir_fd=target)
        os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=target)
    os.chown(name, *owner, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=target)  # chown(2) takes set-id bits away
    copy_attributes(b"/proc/self/fd/%d/%s" % (source, name), b"/proc/self/fd/%d/%s" % (target, name))
    os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def copy_content(source: int, target: int) -> None:
    """A file's content; its holes stay holes."""
    size = os.fstat(source).st_size
    end = 0
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
            end = os.lseek(source, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break  # nothing but a hole
            if error.errno != errno.EINVAL:
                raise
            start, end = end, size  # it does not know where it has holes
        _copy_part(source, target, start, end)
    os.ftruncate(target, size)


def _copy_part(source: int, target: int, start: int, end: int) -> None:
    """Shared between the two where the file system can (copy_file_range reflinks on btrfs, xfs)."""
    with contextlib.suppress(OSError):
        while start < end and (done := os.copy_file_range(source, target, min(_PIECE, end - start), start, start)):
            start += done
    while start < end and (piece := os.pread(source, min(1 << 20, end - start), start)):
        start += os.pwrite(target, piece, start)
