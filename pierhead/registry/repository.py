"""One repository of a registry (distribution-spec v2): what is in it, read."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urljoin, urlsplit

import msgspec
from urllib3 import BaseHTTPResponse

from pierhead import manifest
from pierhead.errors import Forbidden, NotFound, Unauthorized
from pierhead.reference import DEFAULT_DOMAIN, Reference
from pierhead.registry.hosts import RegistryError
from pierhead.registry.session import REDIRECTS, Session, entries, said, unexpected
from pierhead.registry.transport import MOVED, Answer

PAGES = 100
_NEXT = re.compile(r'<([^>]+)>\s*;.*rel="?next"?')


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


def denied(reference: Reference) -> NotFound:
    """What Docker says when a registry neither shows a repository nor says why."""
    return NotFound(
        f"pull access denied for {reference.familiar_name}, repository does not exist or may require 'docker login': "
        "denied: requested access to the resource is denied"
    )


class Repository:
    """Manifests, tags and blobs."""

    def __init__(self, session: Session, reference: Reference) -> None:
        self.session = session
        self.reference = reference

    @property
    def url(self) -> str:
        """Of everything in it, without a slash at its end."""
        return f"{self.session.base}/v2/{self.reference.path}"

    def _get(self, url: str, accept: str = "", limit: int = manifest.LIMIT) -> Answer:
        try:
            return self.session.call("GET", url, {"Accept": accept} if accept else {}, limit=limit)
        except Forbidden as error:
            raise denied(self.reference) from error

    def manifest(self, what: str) -> Answer:
        """GET a manifest by tag or digest. Raises NotFound with Docker's wording, RegistryError."""
        limit = self.session.hosts.manifest_size
        answer = self._get(f"{self.url}/manifests/{what}", ", ".join(manifest.ACCEPTED), limit)
        if answer.status == 200:
            return answer
        told = entries(answer.body)
        codes = {code for code, _ in told}
        if answer.status in (401, 403) or codes & {"UNAUTHORIZED", "DENIED", "NAME_UNKNOWN"}:
            if "NAME_UNKNOWN" in codes and self.reference.domain != DEFAULT_DOMAIN:
                raise NotFound(self._missing(what, f"name unknown: {told[0][1] or 'repository name not known'}"))
            raise denied(self.reference)
        if answer.status == 404:
            text = told[0][1] if told and told[0][1] else "manifest unknown"
            raise NotFound(self._missing(what, f"manifest unknown: {text}"))
        if answer.status == 429:
            raise RegistryError(f"toomanyrequests: {said(answer.body)}")
        raise unexpected(answer)

    def _missing(self, what: str, why: str) -> str:
        separator = "@" if what.startswith("sha256:") else ":"
        return f"manifest for {self.reference.familiar_name}{separator}{what} not found: {why}"

    def tags(self) -> list[str]:
        """GET tags/list, page after page. Raises NotFound, RegistryError."""
        url = f"{self.url}/tags/list?n=1000"
        found: list[str] = []
        for _ in range(PAGES):
            answer = self._get(url)
            if answer.status in (401, 403, 404):
                raise denied(self.reference)
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
            if urlsplit(url).netloc != self.session.domain:
                raise RegistryError("the list of tags goes on at another host: refused")
        return found

    @contextmanager
    def blob(self, digest: str, offset: int = 0) -> Iterator[BaseHTTPResponse]:
        """GET a blob, redirects followed without our credentials. Raises RegistryError, NotFound."""
        url = f"{self.url}/blobs/{digest}"
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        authorized = False
        for _ in range(REDIRECTS + 1):
            with self.session.open("GET", url, headers) as response:
                if response.status in MOVED:
                    url = self.session.follow(url, response.headers.get("Location", ""))
                    continue
                if response.status == 401 and not authorized and self.session.is_home(url):
                    authorized = True
                    header = response.headers.get("WWW-Authenticate", "")
                elif response.status in (200, 206):
                    if offset and response.status != 206:
                        raise RegistryError("the registry cannot resume a download")
                    yield response
                    return
                elif response.status == 404:
                    raise NotFound(f"unknown blob {digest}")
                elif response.status == 401:
                    raise Unauthorized(f"blob {digest}: unauthorized: authentication required")
                elif response.status == 403:
                    raise Forbidden(f"blob {digest}: access denied by the registry")
                else:
                    raise RegistryError(f"received unexpected HTTP status: {response.status}")
            self.session.authorize(header)
        raise RegistryError(f"blob {digest}: too many redirects")
