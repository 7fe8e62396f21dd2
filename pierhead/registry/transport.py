"""HTTP for one registry: requests that can be cancelled, errors in Docker's form, answers of bounded size.

Plain blocking code on urllib3.  The registry itself and everybody it sends us to (token servers, where blobs lie) have
connections of their own: what belongs to the registry never gets to the others.
"""

import random
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3 import BaseHTTPResponse

from pierhead import __version__
from pierhead.registry.hosts import Hosts, RegistryError

ANSWER_LIMIT = 1 << 20
CONNECT_SECONDS = 15
READ_SECONDS = 60
CANCELLED = "the request was cancelled"
MOVED = (301, 302, 303, 307, 308)
_BLOCK = 256 << 10


def backoff(first: float, attempt: int) -> float:
    """Seconds until the next attempt: twice as many each time, a quarter more or less: not everybody comes at once."""
    return first * 2.0**attempt * random.uniform(0.75, 1.25)


class Unreachable(RegistryError):
    """The connection could not be made, or broke."""


class Upload(Protocol):
    """A body that is read while it is sent."""

    def read(self, size: int = -1, /) -> bytes:
        """The next piece; b"" at the end."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A small answer, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def _tracking(connected: Callable[[socket.socket], None]) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    """Connection pools that tell of every connection they make."""

    class Plain(urllib3.connection.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            connected(cast("socket.socket", self.sock))

    class Secure(urllib3.connection.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            connected(cast("socket.socket", self.sock))

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


class Transport:
    """Requests on behalf of the registry at ``domain`` (host and port). patience: seconds for each answer."""

    def __init__(self, domain: str, hosts: Hosts, patience: float = READ_SECONDS) -> None:
        self._patience = patience
        self._domain = domain
        self._hosts = hosts
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._stopped = threading.Event()
        self._pools: dict[str, urllib3.PoolManager] = {}

    def _pool(self, domain: str) -> urllib3.PoolManager:
        """Connections to one host, whose TLS is its own."""
        with self._lock:
            pool = self._pools.get(domain)
            if pool is None:
                pool = urllib3.PoolManager(
                    num_pools=4,
                    maxsize=8,
                    timeout=urllib3.Timeout(connect=min(CONNECT_SECONDS, self._patience), read=self._patience),
                    retries=False,
                    blocksize=_BLOCK,
                    ssl_context=self._hosts.context(domain, self._domain),
                )
                pool.pool_classes_by_scheme = _tracking(self._connected)
                self._pools[domain] = pool
        return pool

    def _connected(self, made: socket.socket) -> None:
        """Keep a new connection's socket, for ``cancel``."""
        with self._lock:
            self._sockets.add(made)
            if self._stopped.is_set():
                with suppress(OSError):
                    made.shutdown(socket.SHUT_RDWR)

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` was called."""
        return self._stopped.is_set()

    def cancel(self) -> None:
        """From another thread: end every transfer and refuse new ones."""
        with self._lock:
            self._stopped.set()
            for connected in self._sockets:
                # A thread may be waiting in read(2): shutting the socket down wakes it.
                with suppress(OSError):
                    connected.shutdown(socket.SHUT_RDWR)

    def pause(self, seconds: float) -> None:
        """Wait before another attempt. Raises RegistryError when it is cancelled meanwhile."""
        if self._stopped.wait(seconds):
            raise RegistryError(CANCELLED)

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            pools = list(self._pools.values())
        for pool in pools:
            pool.clear()

    @contextmanager
    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Upload | None = None,
        form: Mapping[str, str] | None = None,
    ) -> Iterator[BaseHTTPResponse]:
        """One request; the answer's body is still to be read. Redirects are not followed.

        Raises Unreachable, also where the connection breaks while the answer is read.
        """
        agent = {"User-Agent": f"docker/28.2.2 pierhead/{__version__}", **headers}
        if self.cancelled:
            raise RegistryError(CANCELLED)
        try:
            pool = self._pool(urlsplit(url).netloc)
            if form is not None:
                response = pool.request(
                    method,
                    url,
                    headers=agent,
                    fields=dict(form),
                    encode_multipart=False,
                    preload_content=False,
                    redirect=False,
                )
            else:
                response = pool.request(
                    method,
                    url,
                    headers=agent,
                    body=body,  # type: ignore[arg-type]
                    preload_content=False,
                    redirect=False,
                )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._broken(method, url, error) from error
        try:
            if self.cancelled:
                raise RegistryError(CANCELLED)
            yield response
        except urllib3.exceptions.HTTPError as error:
            raise self._broken(method, url, error) from error
        finally:
            response.close()

    def _broken(self, method: str, url: str, error: Exception) -> RegistryError:
        if self.cancelled:
            return RegistryError(CANCELLED)
        return Unreachable(_why(method, url, error))

    @staticmethod
    def read(response: BaseHTTPResponse, limit: int = ANSWER_LIMIT) -> bytes:
        """A small answer's body. Raises RegistryError above the limit."""
        body = b""
        while piece := response.read(64 << 10):
            body += piece
            if len(body) > limit:
                raise RegistryError(f"the registry's answer is larger than {limit} bytes")
        return body


def followed(url: str, location: str, who: str) -> str:
    """Where the Location of an answer from ``url`` leads. who: as the error names who says so.

    Raises RegistryError for what is no URL, and from TLS to none.
    """
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        known = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is none, or half an IPv6 address
        target, known = location, False
    if not known:
        raise RegistryError(f"{who} redirects to {target[:200]!r}")
    if parts.scheme == "http" and urlsplit(url).scheme == "https":
        raise RegistryError(f"{who} redirects from TLS to {target[:200]!r}: refused")
    return target


def _why(method: str, url: str, error: Exception) -> str:
    """Docker's form: Get "https://…": what."""
    text = str(error.args[-1]) if error.args else type(error).__name__
    verification = _cause(error)
    if verification is not None:
        why = "x509: certificate signed by unknown authority"
        if verification.verify_code not in (18, 19, 20, 21):  # X509_V_ERR_*: what has no known issuer
            why = f"x509: {verification.verify_message}"
        text = f"tls: failed to verify certificate: {why}"
    elif isinstance(error, urllib3.exceptions.SSLError) and "WRONG_VERSION_NUMBER" in str(error):
        text = "http: server gave HTTP response to HTTPS client"
    elif isinstance(error, urllib3.exceptions.NameResolutionError):
        text = f"dial tcp: lookup {urlsplit(url).hostname}: no such host"
    elif isinstance(error, urllib3.exceptions.NewConnectionError) and "refused" in str(error):
        text = f"dial tcp {urlsplit(url).netloc}: connect: connection refused"
    elif isinstance(error, urllib3.exceptions.TimeoutError):
        text = "net/http: request canceled (timeout exceeded while awaiting the answer)"
    return f'{method.capitalize()} "{url}": {text}'


def _cause(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """The refusal of a certificate that an error is about."""
    while error is not None:
        for part in (error, *error.args):
            if isinstance(part, ssl.SSLCertVerificationError):
                return part
        error = error.__cause__ or error.__context__
    return None
