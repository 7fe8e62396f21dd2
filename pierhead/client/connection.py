"""HTTP/1.1 over one socket, as little of it as the Engine API needs.

Own code instead of ``http.client``: that imports the whole e-mail package (20 ms), and it cannot hand over a hijacked
connection together with the bytes that were already read from it.  ``_socket`` instead of its public front, which is
imported for TCP alone: that makes enumerations of all its constants.
"""

from __future__ import annotations

import _socket
import os

from pierhead.client.errors import ClientError, NoDaemon
from pierhead.client.host import Host, Tls

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterator

READ = 65536


class Connection:
    """A connection to the daemon; one request at a time, kept alive in between."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.socket = _connect(host)
        self.buffer = bytearray()

    def send(self, method: str, path: str, headers: dict[str, str], body: bytes | Iterator[bytes] | None) -> None:
        """Send a request; an iterator's blocks are sent chunked."""
        head = [f"{method} {path} HTTP/1.1", f"Host: {self._name()}", "User-Agent: Docker-Client/28.2.2 (linux)"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        if body is None or isinstance(body, bytes):
            if body is not None or method == "POST":
                head.append(f"Content-Length: {len(body or b'')}")
            self.socket.sendall(("\r\n".join(head) + "\r\n\r\n").encode() + (body or b""))
            return
        head.append("Transfer-Encoding: chunked")
        self.socket.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
        try:
            for block in body:
                if block:
                    self.socket.sendall(b"%x\r\n%b\r\n" % (len(block), block))
            self.socket.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            return  # the daemon refused in the middle: its answer says why

    def _name(self) -> str:
        address = self.host.address
        return "localhost" if address.startswith("unix:") else address.partition("://")[2]

    def fill(self) -> bool:
        """Read what there is; False at the end."""
        data = self.socket.recv(READ)
        self.buffer += data
        return bool(data)

    def line(self) -> bytes:
        """Up to the next line end, without it. Raises ConnectionError when the peer ends before."""
        while (end := self.buffer.find(b"\n")) < 0:
            if not self.fill():
                raise ConnectionResetError("unexpected EOF: the daemon closed the connection")
        found = bytes(self.buffer[:end]).rstrip(b"\r")
        del self.buffer[: end + 1]
        return found

    def answer(self, method: str) -> Response:
        """The head of the answer."""
        status = int(self.line().split(None, 2)[1])
        headers = {}
        while line := self.line():
            name, _, value = line.partition(b":")
            headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
        return Response(self, status, headers, method == "HEAD" or status in (204, 304))

    def take(self, count: int) -> bytes:
        """Exactly so many bytes."""
        while len(self.buffer) < count:
            if not self.fill():
                raise ConnectionResetError("unexpected EOF: the daemon closed the connection")
        found = bytes(self.buffer[:count])
        del self.buffer[:count]
        return found

    def close(self) -> None:
        """Close it."""
        self.socket.close()


class Response:
    """An answer whose body is read as it comes."""

    def __init__(self, connection: Connection, status: int, headers: dict[str, str], empty: bool) -> None:
        self.connection = connection
        self.status = status
        self.headers = headers
        self.empty = empty

    def blocks(self) -> Iterator[bytes]:
        """The body in pieces, as they arrive."""
        connection = self.connection
        if self.empty:
            return
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(connection.line().partition(b";")[0], 16):
                while size:
                    if not connection.buffer and not connection.fill():
                        raise ConnectionResetError("unexpected EOF: the daemon closed the connection")
                    block = connection.take(min(size, len(connection.buffer)))
                    size -= len(block)
                    yield block
                connection.line()
            while connection.line():
                pass
            return
        length = self.headers.get("content-length")
        if length is not None:
            yield connection.take(int(length))
            return
        while connection.buffer or connection.fill():
            yield connection.take(len(connection.buffer))

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.blocks())

    def lines(self) -> Iterator[bytes]:
        """The body by lines, for streams of JSON values."""
        rest = b""
        for block in self.blocks():
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                if line.strip():
                    yield line
        if rest.strip():
            yield rest


def _connect(host: Host) -> _socket.socket:
    address = host.address
    try:
        if address.startswith("unix://"):
            sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
            sock.connect(address.removeprefix("unix://"))
            return sock
        import socket

        name, _, port = address.partition("://")[2].partition("/")[0].rpartition(":")
        if not name:
            name, port = port, "2376" if host.tls else "2375"
        plain = socket.create_connection((name.strip("[]"), int(port)))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _secure(plain, name.strip("[]"), host.tls) if host.tls or address.startswith("https:") else plain
    except PermissionError as error:
        raise ClientError(
            f"permission denied while trying to connect to the Docker daemon socket at {address}: {error.strerror}"
        ) from None
    except (OSError, ValueError) as error:
        raise NoDaemon(f"Cannot connect to the Docker daemon at {address}. Is the docker daemon running?") from error


def _secure(plain: socket.socket, name: str, tls: Tls | None) -> ssl.SSLSocket:
    import ssl

    context = ssl.create_default_context(cafile=(tls.ca or None) if tls else None)
    if tls is not None:
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if tls.cert and os.path.exists(tls.cert):
            context.load_cert_chain(tls.cert, tls.key or None)
    try:
        return context.wrap_socket(plain, server_hostname=name)
    except ssl.SSLError as error:
        plain.close()
        raise ClientError(f"error during connect: {error}") from None
