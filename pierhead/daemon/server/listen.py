"""Where the daemon listens: unix sockets and TCP addresses."""

import contextlib
import errno
import grp
import os
import socket
import stat
from dataclasses import dataclass

from pierhead.errors import InvalidParameter

GROUP = "docker"
DEFAULT_PORT = 2375
_MAX_PATH = 107
"""sockaddr_un's limit; longer paths are bound through their folder's descriptor."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket. path and inode of a unix socket, to remove it at the end if it is still ours."""

    host: str
    socket: socket.socket
    path: str = ""
    inode: int = 0

    def close(self) -> None:
        """Stop listening; take the socket file away."""
        self.socket.close()
        if self.path:
            with contextlib.suppress(FileNotFoundError):
                if os.lstat(self.path).st_ino == self.inode:
                    os.unlink(self.path)


def listen(host: str) -> Listener:
    """Listen on "unix:///path" or "tcp://address[:port]" (or the address alone). Raises OSError, InvalidParameter."""
    target = parsed(host)
    return _listen_unix(host, target) if isinstance(target, str) else _listen_tcp(host, *target)


def parsed(host: str) -> str | tuple[str, int]:
    """The path of a unix socket, or name and port of TCP. Raises InvalidParameter."""
    scheme, separator, rest = host.partition("://")
    if not separator and "/" not in host:
        scheme, rest = "tcp", host  # as Docker has it
    elif separator and scheme not in ("unix", "tcp"):
        raise InvalidParameter(f"{host}: only unix:// and tcp:// are served")
    if not rest:
        raise InvalidParameter(f"unable to parse docker host `{host}`")
    return os.path.abspath(rest) if scheme == "unix" else _split_address(host, rest.rstrip("/"))


def _listen_tcp(host: str, name: str, port: int) -> Listener:
    family, kind, protocol, _, target = socket.getaddrinfo(
        name or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(target)
        listener.listen(512)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"listen {host}: {error.strerror}") from error
    return Listener(host, listener)


def _split_address(host: str, address: str) -> tuple[str, int]:
    if address.startswith("["):
        name, _, port = address[1:].partition("]")
        port = port.removeprefix(":")
    else:
        name, _, port = address.partition(":")
    if port and not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise InvalidParameter(f"unable to parse docker host `{host}`: bad port")
    return name, int(port) if port else DEFAULT_PORT


def _listen_unix(host: str, path: str) -> Listener:
    folder, name = os.path.split(path)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # The short way keeps within sockaddr_un however deep the folder is.
        address = path if len(os.fsencode(path)) <= _MAX_PATH else f"/proc/self/fd/{directory}/{name}"
        _remove_stale(directory, name, path, address)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _bind(listener, address)
            os.chmod(name, 0o660, dir_fd=directory)
            _give_to_group(name, directory)
            listener.listen(512)
            listener.setblocking(False)
            inode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise OSError(error.errno, f"listen {host}: {error.strerror}") from error
    finally:
        os.close(directory)
    return Listener(host, listener, path, inode)


def _bind(listener: socket.socket, address: str) -> None:
    """Bind so that nobody else can connect in the moment before the mode is set."""
    mask = os.umask(0o177)
    try:
        listener.bind(address)
    finally:
        os.umask(mask)


def _give_to_group(name: str, directory: int) -> None:
    if os.geteuid() != 0:
        return
    try:
        group = grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return
    os.chown(name, 0, group, dir_fd=directory, follow_symlinks=False)


def _remove_stale(directory: int, name: str, path: str, address: str) -> None:
    """Remove a socket that nobody listens on. Raises OSError for anything else at that place."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, f"{path} is there and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            os.unlink(name, dir_fd=directory)
            return
    raise OSError(errno.EADDRINUSE, f"another daemon listens on {path}")
