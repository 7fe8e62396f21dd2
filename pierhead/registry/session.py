"""HTTP to one repository of one registry (distribution-spec v2): manifests, blobs, authorization.

Plain blocking code on urllib3.  Nothing is retried over HTTP that failed over HTTPS; only a literal loopback address,
"localhost", and what the administrator listed is spoken to without TLS (the address that is checked is the one that is
dialled: a name that merely resolves to it does not count).
"""

import ipaddress
import re
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import cast
from urllib.parse import urljoin, urlsplit

import msgspec
import urllib3
from urllib3 import BaseHTTPResponse

from pierhead import __version__
from pierhead.errors import Forbidden, NotFound, PierheadError, Unauthorized
from pierhead.reference import DEFAULT_DOMAIN, Reference
from pierhead.registry.auth import Challenge, Credentials, parse_challenge, parse_token, token_request

HUB = "registry-1.docker.io"
ANSWER_LIMIT = 1 << 20
REDIRECTS = 5
PAGES = 100
CONNECT_SECONDS = 15
READ_SECONDS = 60
_NEXT = re.compile(r'<([^>]+)>\s*;.*rel="?next"?')


class RegistryError(PierheadError):
    """A registry that cannot be reached or does not do its part."""


class _Entry(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


class _Errors(msgspec.Struct):
    errors: list[_Entry] = []


@dataclass(frozen=True, slots=True)
class Answer:
    """A small answer, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def is_loopback(host: str) -> bool:
    """Whether a registry's host is a literal address of 127.0.0.0/8 or ::1, or "localhost"."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _split_host(domain: str) -> str:
    if domain.startswith("["):
        return domain[: domain.index("]") + 1]
    return domain.partition(":")[0]


def is_insecure(domain: str, listed: tuple[str, ...]) -> bool:
    """Whether a registry may be spoken to without TLS: loopback, or listed by name, address or network."""
    host = _split_host(domain)
    if is_loopback(host) or domain in listed or host in listed:
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    for entry in listed:
        with suppress(ValueError):
            if address in ipaddress.ip_network(entry):
                return True
    return False


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


def denied(reference: Reference) -> NotFound:
    """What Docker says when a registry neither shows a repository nor says why."""
    return NotFound(
        f"pull access denied for {reference.familiar_name}, repository does not exist or may require 'docker login': "
        "denied: requested access to the resource is denied"
    )


class Session:
    """One repository. ``cancel`` may be called from another thread: what is under way ends with an error."""

    def __init__(self, reference: Reference, credentials: Credentials | None, insecure: tuple[str, ...] = ()) -> None:
        self._reference = reference
        self._credentials = credentials
        domain = HUB if reference.domain == DEFAULT_DOMAIN else reference.domain
        self._insecure = is_insecure(domain, insecure)
        self._domain = domain
        self._scheme = "https"
        self._authorization = ""
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._cancelled = False
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        options: dict[str, object] = {}
        if self._insecure:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            options["ssl_context"] = context
            options["cert_reqs"] = "CERT_NONE"
        self._pool = urllib3.PoolManager(num_pools=4, maxsize=8, timeout=timeout, retries=False, **options)  # type: ignore[arg-type]
        self._elsewhere = urllib3.PoolManager(num_pools=4, maxsize=8, timeout=timeout, retries=False)
        for pool in (self._pool, self._elsewhere):
            pool.pool_classes_by_scheme = _tracking(self._connected)

    def _connected(self, made: socket.socket) -> None:
        """Keep a new connection's socket, for ``cancel``."""
        with self._lock:
            self._sockets.add(made)
            if self._cancelled:
                with suppress(OSError):
                    made.shutdown(socket.SHUT_RDWR)

    # -- connection -------------------------------------------------------------------------------------------------

    @property
    def _base(self) -> str:
        return f"{self._scheme}://{self._domain}"

    def connect(self) -> None:
        """Find out how the registry is spoken to (GET /v2/). Raises RegistryError."""
        url = f"{self._base}/v2/"
        try:
            self._small(url, {}, authorize=False)
        except RegistryError as error:
            if not self._insecure:
                raise
            self._scheme = "http"
            try:
                self._small(f"{self._base}/v2/", {}, authorize=False)
            except RegistryError as second:
                raise second from error

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """End every transfer and refuse new ones."""
        with self._lock:
            self._cancelled = True
            for connected in self._sockets:
                # A thread may be waiting in read(2): shutting the socket down wakes it.
                with suppress(OSError):
                    connected.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()
        self._elsewhere.clear()

    @contextmanager
    def _request(
        self, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None = None
    ) -> Iterator[BaseHTTPResponse]:
        pool = self._pool if urlsplit(url).netloc == self._domain else self._elsewhere
        agent = {"User-Agent": f"docker/28.2.2 pierhead/{__version__}", **headers}
        if self._cancelled:
            raise RegistryError("the pull was cancelled")
        try:
            if form is None:
                response = pool.request("GET", url, headers=agent, preload_content=False, redirect=False)
            else:
                response = pool.request(
                    "POST",
                    url,
                    headers=agent,
                    fields=dict(form),
                    encode_multipart=False,
                    preload_content=False,
                    redirect=False,
                )
        except urllib3.exceptions.HTTPError as error:
            raise RegistryError(self._why(url, error)) from error
        try:
            if self._cancelled:
                raise RegistryError("the pull was cancelled")
            yield response
        except urllib3.exceptions.HTTPError as error:
            raise RegistryError(self._why(url, error)) from error
        finally:
            response.close()

    def _why(self, url: str, error: Exception) -> str:
        """Docker's form: Get "https://…": what."""
        if self._cancelled:
            return "the pull was cancelled"
        text = str(error.args[-1]) if error.args else type(error).__name__
        if isinstance(error, urllib3.exceptions.NameResolutionError):
            text = f"dial tcp: lookup {urlsplit(url).hostname}: no such host"
        elif isinstance(error, urllib3.exceptions.NewConnectionError) and "refused" in str(error):
            text = f"dial tcp {urlsplit(url).netloc}: connect: connection refused"
        elif isinstance(error, urllib3.exceptions.TimeoutError):
            text = "net/http: request canceled (timeout exceeded while awaiting the answer)"
        return f'Get "{url}": {text}'

    def _small(
        self, url: str, headers: Mapping[str, str], *, authorize: bool = True, limit: int = ANSWER_LIMIT
    ) -> Answer:
        """A request whose answer is small; a 401 is answered once."""
        for attempt in range(2):
            wanted = dict(headers)
            if authorize and self._authorization:
                wanted["Authorization"] = self._authorization
            with self._request(url, wanted) as response:
                body = self._read(response, limit)
                answer = Answer(response.status, response.headers, body)
            if answer.status != 401 or not authorize or attempt:
                break
            self._authorize(answer.headers.get("WWW-Authenticate", ""))
        return answer

    @staticmethod
    def _read(response: BaseHTTPResponse, limit: int) -> bytes:
        body = b""
        while piece := response.read(64 << 10):
            body += piece
            if len(body) > limit:
                raise RegistryError(f"the registry's answer is larger than {limit} bytes")
        return body

    # -- authorization ----------------------------------------------------------------------------------------------

    def _authorize(self, header: str) -> None:
        challenge = parse_challenge(header)
        if challenge is None:
            raise Unauthorized(f"unauthorized: authentication required ({self._reference.familiar_name})")
        credentials = self._credentials
        if challenge.scheme == "basic":
            if credentials is None or not credentials.basic:
                raise PierheadError(f'Get "{self._base}/v2/": no basic auth credentials')
            self._authorization = credentials.basic
            return
        if credentials is not None and credentials.registry_token:
            self._authorization = f"Bearer {credentials.registry_token}"
            return
        self._authorization = f"Bearer {self._token(challenge, credentials)}"

    def _token(self, challenge: Challenge, credentials: Credentials | None) -> str:
        scope = f"repository:{self._reference.path}:pull"
        wanted = token_request(challenge, scope, credentials, insecure=self._insecure)
        with self._request(wanted.url, wanted.headers, wanted.form) as response:
            body = self._read(response, ANSWER_LIMIT)
            status = response.status
        if status == 401 and credentials is not None:
            raise Unauthorized(f'Get "{wanted.url.partition("?")[0]}": unauthorized: incorrect username or password')
        if status in (401, 403):
            raise denied(self._reference)
        if status != 200:
            raise RegistryError(f"the token server answered {status}: {_said(body)}")
        return parse_token(body)

    # -- what is there ----------------------------------------------------------------------------------------------

    def manifest(self, what: str, accept: tuple[str, ...], limit: int) -> Answer:
        """GET a manifest by tag or digest. Raises NotFound with Docker's wording, RegistryError."""
        url = f"{self._base}/v2/{self._reference.path}/manifests/{what}"
        answer = self._small(url, {"Accept": ", ".join(accept)}, limit=limit)
        if answer.status == 200:
            return answer
        said = _entries(answer.body)
        codes = {entry.code for entry in said}
        if answer.status in (401, 403) or codes & {"UNAUTHORIZED", "DENIED", "NAME_UNKNOWN"}:
            if "NAME_UNKNOWN" in codes and self._reference.domain != DEFAULT_DOMAIN:
                raise NotFound(self._missing(what, f"name unknown: {said[0].message or 'repository name not known'}"))
            raise denied(self._reference)
        if answer.status == 404:
            text = said[0].message if said and said[0].message else "manifest unknown"
            raise NotFound(self._missing(what, f"manifest unknown: {text}"))
        if answer.status == 429:
            raise RegistryError(f"toomanyrequests: {_said(answer.body)}")
        raise RegistryError(f"received unexpected HTTP status: {answer.status} {_said(answer.body)}".rstrip())

    def tags(self) -> list[str]:
        """GET tags/list, page after page. Raises NotFound, RegistryError."""
        url = f"{self._base}/v2/{self._reference.path}/tags/list?n=1000"
        found: list[str] = []
        for _ in range(PAGES):
            answer = self._small(url, {})
            if answer.status in (401, 403, 404):
                raise denied(self._reference)
            if answer.status != 200:
                raise RegistryError(f"received unexpected HTTP status: {answer.status}")
            try:
                found += msgspec.json.decode(answer.body, type=_Tags).tags or []
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                raise RegistryError(f"invalid list of tags: {error}") from error
            following = _NEXT.match(answer.headers.get("Link", ""))
            if following is None:
                break
            url = urljoin(url, following[1])
            if urlsplit(url).netloc != self._domain:
                raise RegistryError("the list of tags goes on at another host: refused")
        return found

    def _missing(self, what: str, why: str) -> str:
        separator = "@" if what.startswith("sha256:") else ":"
        name = self._reference.familiar_name
        return f"manifest for {name}{separator}{what} not found: {why}"

    @contextmanager
    def blob(self, digest: str, offset: int = 0) -> Iterator[BaseHTTPResponse]:
        """GET a blob, redirects followed without our credentials. Raises RegistryError, NotFound."""
        url = f"{self._base}/v2/{self._reference.path}/blobs/{digest}"
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        authorized = False
        for _ in range(REDIRECTS + 1):
            home = urlsplit(url).netloc == self._domain and urlsplit(url).scheme == self._scheme
            wanted = dict(headers)
            if home and self._authorization:
                wanted["Authorization"] = self._authorization
            with self._request(url, wanted) as response:
                if response.status in (301, 302, 303, 307, 308):
                    url = self._redirected(url, response.headers.get("Location", ""))
                    continue
                if response.status == 401 and home and not authorized:
                    authorized = True
                    header = response.headers.get("WWW-Authenticate", "")
                elif response.status in (200, 206):
                    if offset and response.status != 206:
                        raise RegistryError("the registry cannot resume a download")
                    yield response
                    return
                elif response.status == 404:
                    raise NotFound(f"unknown blob {digest}")
                elif response.status == 403:
                    raise Forbidden(f"blob {digest}: access denied by the registry")
                else:
                    raise RegistryError(f"received unexpected HTTP status: {response.status}")
            self._authorize(header)
        raise RegistryError(f"blob {digest}: too many redirects")

    def _redirected(self, url: str, location: str) -> str:
        target = urljoin(url, location)
        parts = urlsplit(target)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise RegistryError(f"the registry redirects to {target[:200]!r}")
        if parts.scheme == "http" and self._scheme == "https":
            raise RegistryError(f"the registry redirects from TLS to {target[:200]!r}: refused")
        return target


def _entries(body: bytes) -> list[_Entry]:
    try:
        return msgspec.json.decode(body, type=_Errors).errors
    except (msgspec.DecodeError, ValueError, RecursionError):
        return []


def _said(body: bytes) -> str:
    entries = _entries(body)
    if entries:
        return "; ".join(entry.message for entry in entries)[:500]
    return body[:200].decode("utf-8", "replace").strip()
