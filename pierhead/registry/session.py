"""A registry to which we may have to say who we are: requests, the answer to a 401, the login.

The Authorization header goes to the registry's own host in the scheme that it was found at, and nowhere else.  Nothing
is retried over HTTP that failed over HTTPS, except at registries that may be spoken to without TLS (``hosts``).
"""

import copy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from urllib.parse import urlsplit

import msgspec
from urllib3 import BaseHTTPResponse

from pierhead.errors import Forbidden, PierheadError, Unauthorized
from pierhead.registry.auth import Challenge, Credentials, parse_challenge, parse_tokens, token_request
from pierhead.registry.hosts import Hosts, Mirror, RegistryError
from pierhead.registry.transport import ANSWER_LIMIT, Answer, Transport, Upload, followed

HUB = "registry-1.docker.io"
HUB_NAMES = ("docker.io", "index.docker.io", HUB)
REDIRECTS = 5
PARTING_SECONDS = 5
"""How long an answer to a last word is waited for."""


class _Entry(msgspec.Struct):
    code: str | int = ""
    message: str = ""


class _Errors(msgspec.Struct):
    errors: list[_Entry] = []


class Session:
    """One registry. scopes: what tokens are asked for, as "repository:team/app:pull,push".

    ``cancel`` may be called from another thread: what is under way ends with an error.
    """

    def __init__(
        self,
        domain: str,
        credentials: Credentials | None,
        hosts: Hosts,
        scopes: tuple[str, ...] = (),
        mirror: Mirror | None = None,
    ) -> None:
        self.domain = mirror.domain if mirror else HUB if domain in HUB_NAMES else domain
        self._credentials = credentials
        self._scopes = scopes
        self._insecure = hosts.is_insecure(self.domain) and mirror is None
        self._scheme = mirror.scheme if mirror else "https"
        self._authorization = ""
        self._refresh = ""
        self.hosts = hosts
        self.transport = Transport(self.domain, hosts)
        self._connecting = threading.Lock()
        self._connected = False

    @property
    def base(self) -> str:
        """The registry's URL, without a slash at its end."""
        return f"{self._scheme}://{self.domain}"

    def connect(self) -> None:
        """Find out how the registry is spoken to (GET /v2/); asked once. Raises RegistryError."""
        with self._connecting:
            if self._connected:
                return
            try:
                self._ping()
            except RegistryError as error:
                if not self._insecure:
                    raise
                self._scheme = "http"
                try:
                    self._ping()
                except RegistryError as second:
                    raise second from error
            self._connected = True

    def _ping(self) -> Answer:
        with self.transport.request("GET", f"{self.base}/v2/", {}) as response:
            return Answer(response.status, response.headers, self.transport.read(response))

    def close(self) -> None:
        """Close idle connections."""
        self.transport.close()

    def cancel(self) -> None:
        """From another thread: end every transfer and refuse new ones."""
        self.transport.cancel()

    def parting(self) -> "Session":
        """The same registry as it is spoken to now, for a last word after ``cancel``; it is closed on its own."""
        other = copy.copy(self)
        other.transport = Transport(self.domain, self.hosts, PARTING_SECONDS)
        return other

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` was called."""
        return self.transport.cancelled

    def is_home(self, url: str) -> bool:
        """Whether a URL is the registry's own, spoken to as it was found."""
        parts = urlsplit(url)
        return parts.netloc == self.domain and parts.scheme == self._scheme

    @contextmanager
    def open(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | Upload | None = None
    ) -> Iterator[BaseHTTPResponse]:
        """One request, with the Authorization that is known so far. Raises RegistryError."""
        wanted = dict(headers)
        if self._authorization and self.is_home(url):
            wanted["Authorization"] = self._authorization
        with self.transport.request(method, url, wanted, body) as response:
            yield response

    def call(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        limit: int = ANSWER_LIMIT,
    ) -> Answer:
        """A request whose answer is small; a 401 of the registry itself is answered once."""
        for attempt in range(2):
            with self.open(method, url, headers or {}, body) as response:
                answer = Answer(response.status, response.headers, self.transport.read(response, limit))
            if answer.status != 401 or attempt or not self.is_home(url):
                break
            self.authorize(answer.headers.get("WWW-Authenticate", ""))
        return answer

    def follow(self, url: str, location: str) -> str:
        """Where an answer's Location leads. Raises RegistryError for what is no URL, and from TLS to none."""
        return followed(url, location, "the registry")

    # -- authorization ----------------------------------------------------------------------------------------------

    def authorize(self, header: str) -> None:
        """Answer a challenge. Raises Unauthorized, Forbidden (the token server refuses), RegistryError."""
        challenge = parse_challenge(header)
        if challenge is None:
            raise Unauthorized("unauthorized: authentication required")
        credentials = self._credentials
        if challenge.scheme == "basic":
            if credentials is None or not credentials.basic:
                raise PierheadError(f'Get "{self.base}/v2/": no basic auth credentials')
            self._authorization = credentials.basic
            return
        if credentials is not None and credentials.registry_token:
            self._authorization = f"Bearer {credentials.registry_token}"
            return
        self._authorization = f"Bearer {self._token(challenge, credentials, offline=False)}"

    def _token(self, challenge: Challenge, credentials: Credentials | None, *, offline: bool) -> str:
        clear = self._scheme == "http"
        wanted = token_request(challenge, self._scopes, credentials, insecure=clear, offline=offline)
        method = "GET" if wanted.form is None else "POST"
        with self.transport.request(method, wanted.url, wanted.headers, form=wanted.form) as response:
            body = self.transport.read(response)
            status = response.status
        if status == 401 and credentials is not None:
            told = said(body) if entries(body) else "incorrect username or password"
            raise Unauthorized(f'Get "{self.base}/v2/": unauthorized: {told}')
        if status in (401, 403):
            raise Forbidden("denied: requested access to the resource is denied")
        if status != 200:
            raise RegistryError(f"the token server answered {status}: {said(body)}")
        token, self._refresh = parse_tokens(body)
        return token

    def login(self) -> str:
        """Whether the registry knows us: an identity token, or "" where the password is to be kept.

        Raises Unauthorized, RegistryError.
        """
        self.connect()
        url = f"{self.base}/v2/"
        answer = self._ping()
        if answer.status == 401:
            challenge = parse_challenge(answer.headers.get("WWW-Authenticate", ""))
            if challenge is not None and challenge.scheme == "bearer":
                try:
                    self._authorization = f"Bearer {self._token(challenge, self._credentials, offline=True)}"
                except Forbidden as error:
                    raise Unauthorized(f'Get "{url}": {error}') from error
            else:
                self.authorize(answer.headers.get("WWW-Authenticate", ""))
            with self.open("GET", url, {}) as response:
                answer = Answer(response.status, response.headers, self.transport.read(response))
        if answer.status != 200:
            phrase = HTTPStatus(answer.status).phrase if answer.status in set(HTTPStatus) else ""
            text = f"login attempt to {url} failed with status: {answer.status} {phrase}".rstrip()
            raise Unauthorized(text) if answer.status == 401 else RegistryError(text)
        return self._refresh


def entries(body: bytes) -> list[tuple[str, str]]:
    """Code and message of each error in a registry's answer."""
    try:
        return [(str(entry.code), entry.message) for entry in msgspec.json.decode(body, type=_Errors).errors]
    except (msgspec.DecodeError, ValueError, RecursionError):
        return []


def said(body: bytes) -> str:
    """What a registry's answer says, in one line."""
    found = entries(body)
    if found:
        return "; ".join(message for _, message in found)[:500]
    return body[:200].decode("utf-8", "replace").strip()


def unexpected(answer: Answer) -> RegistryError:
    """An answer that has no meaning here."""
    return RegistryError(f"received unexpected HTTP status: {answer.status} {said(answer.body)}".rstrip())
