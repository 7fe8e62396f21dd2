"""Putting blobs and manifests into a repository (distribution-spec "Push").

A blob is uploaded at most once: what the repository has is found by its digest, what another one of the same registry
has is mounted from there, and an upload that breaks goes on where the registry says it broke.
"""

import logging
import os
from collections.abc import Callable
from typing import BinaryIO
from urllib.parse import urlencode, urlsplit

from pierhead.errors import Forbidden, PierheadError, Unauthorized
from pierhead.registry.hosts import RegistryError
from pierhead.registry.repository import Repository
from pierhead.registry.session import entries, said
from pierhead.registry.transport import Answer, Unreachable, backoff

ATTEMPTS = 5
BACKOFF = 1.0
"""Seconds before a broken upload goes on (``transport.backoff``)."""
MONOLITHIC = 1 << 20
"""Bytes that are sent together with the request that completes an upload."""
_OCTETS = "application/octet-stream"
log = logging.getLogger("pierd")


class _Slice:
    """A stretch of a file, read while it is sent; several threads may send the same file."""

    def __init__(self, file: BinaryIO, start: int, end: int, tell: Callable[[int], None]) -> None:
        self._fd = file.fileno()
        self._at = start
        self._end = end
        self._tell = tell

    def read(self, size: int = -1, /) -> bytes:
        """The next piece."""
        left = self._end - self._at
        piece = os.pread(self._fd, left if size < 0 else min(size, left), self._at)
        if not piece and left:
            raise OSError("a blob became shorter while it was sent")
        self._at += len(piece)
        if piece:
            self._tell(self._at)
        return piece


class Uploads:
    """Writing to one repository, by a session whose scopes allow it."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._session = repository.session

    def exists(self, digest: str) -> bool:
        """Whether the repository has a blob. Raises RegistryError, Unauthorized."""
        answer = self._session.call("HEAD", f"{self._repository.url}/blobs/{digest}")
        if answer.status == 404:
            return False
        # Registries redirect to where they store what they have.
        if answer.status == 200 or 300 <= answer.status < 400:
            return True
        raise refusal(answer)

    def mount(self, digest: str, source: str) -> tuple[bool, str]:
        """Take a blob over from another repository: whether it is here now, else where it can be uploaded to."""
        answer = self._session.call("POST", self._begun({"mount": digest, "from": source}))
        if answer.status == 201:
            return True, ""
        return False, self._location(answer) if answer.status == 202 else ""

    def _begun(self, query: dict[str, str]) -> str:
        return f"{self._repository.url}/blobs/uploads/" + (f"?{urlencode(query)}" if query else "")

    def _location(self, answer: Answer) -> str:
        location = answer.headers.get("Location", "")
        if not location:
            raise RegistryError("the registry does not say where to upload to")
        return self._session.follow(self._begun({}), location)

    def _begin(self) -> str:
        answer = self._session.call("POST", self._begun({}))
        if answer.status != 202:
            raise refusal(answer)
        return self._location(answer)

    def put(
        self,
        file: BinaryIO,
        digest: str,
        size: int,
        tell: Callable[[int], None],
        retrying: Callable[[float], None],
        location: str = "",
    ) -> None:
        """Upload a blob from a file. location: of an upload that was begun.

        tell: called with the bytes sent so far; retrying: with the seconds until the next attempt.
        Raises RegistryError, Unauthorized, Forbidden.
        """
        sent = 0
        try:
            for attempt in range(ATTEMPTS):
                try:
                    if attempt:
                        if self.exists(digest):
                            return  # only the answer was lost
                        location, sent = self._resumed(location)
                    location = location or self._begin()
                    if size - sent > MONOLITHIC:
                        location = self._patch(location, file, sent, size, tell)
                        sent = size
                    self._complete(location, digest, file, sent, size, tell)
                    return
                except Unreachable:
                    if attempt == ATTEMPTS - 1:
                        raise
                seconds = backoff(BACKOFF, attempt)
                retrying(seconds)
                self._session.transport.pause(seconds)
        except BaseException:
            self._abandon(location)
            raise

    def _abandon(self, location: str) -> None:
        """End an upload that will not be completed, so that the registry can give its bytes back; if it can be told."""
        if location:
            parting = self._session.parting()
            try:
                parting.call("DELETE", location)
            except PierheadError as error:
                log.info("an upload is left unfinished at %s: %s", urlsplit(location).netloc, error)
            finally:
                parting.close()

    def _resumed(self, location: str) -> tuple[str, int]:
        """Where an upload goes on, and after how many bytes; ("", 0): it must begin anew."""
        if not location:
            return "", 0
        answer = self._session.call("GET", location)
        if answer.status != 204:
            return "", 0
        _, _, last = answer.headers.get("Range", "").partition("-")
        # "0-0" is what registries say of one byte, and of none.
        if not last.isascii() or not last.isdigit() or last == "0":
            return "", 0
        if answer.headers.get("Location"):
            location = self._session.follow(location, answer.headers["Location"])
        return location, int(last) + 1

    def _send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        file: BinaryIO,
        part: tuple[int, int],
        tell: Callable[[int], None],
    ) -> Answer:
        """A request with a stretch of the file; a 401 is answered once. Raises Unreachable for what may be repeated."""
        wanted = {"Content-Type": _OCTETS, "Content-Length": str(part[1] - part[0]), **headers}
        for attempt in range(2):
            body = _Slice(file, *part, tell) if part[1] > part[0] else b""
            with self._session.open(method, url, wanted, body) as response:
                answer = Answer(response.status, response.headers, self._session.transport.read(response))
            if answer.status != 401 or attempt or not self._session.is_home(url):
                break
            self._session.authorize(answer.headers.get("WWW-Authenticate", ""))
        if answer.status in (404, 416, 429) or answer.status >= 500:
            raise Unreachable(str(refusal(answer)))
        return answer

    def _patch(self, location: str, file: BinaryIO, sent: int, size: int, tell: Callable[[int], None]) -> str:
        headers = {"Content-Range": f"{sent}-{size - 1}"} if sent else {}
        answer = self._send("PATCH", location, headers, file, (sent, size), tell)
        if answer.status not in (202, 204):
            raise refusal(answer)
        new = answer.headers.get("Location", "")
        return self._session.follow(location, new) if new else location

    def _complete(
        self, location: str, digest: str, file: BinaryIO, sent: int, size: int, tell: Callable[[int], None]
    ) -> None:
        separator = "&" if urlsplit(location).query else "?"
        url = f"{location}{separator}{urlencode({'digest': digest})}"
        answer = self._send("PUT", url, {}, file, (sent, size), tell)
        if answer.status not in (201, 204):
            raise refusal(answer)

    def manifest(self, what: str, document: bytes, media_type: str, digest: str) -> None:
        """Store a manifest under a tag. Raises RegistryError, Unauthorized, Forbidden."""
        url = f"{self._repository.url}/manifests/{what}"
        answer = self._session.call("PUT", url, {"Content-Type": media_type}, document)
        if answer.status not in (200, 201, 202):
            raise refusal(answer)
        stored = answer.headers.get("Docker-Content-Digest", digest)
        if stored != digest:
            raise RegistryError(f"the registry stored the manifest as {stored[:80]!r}, not as {digest}")


def refusal(answer: Answer) -> PierheadError:
    """Why a registry does not take something, as Docker says it: "denied: requested access … is denied"."""
    told = "\n".join(f"{code.lower().replace('_', ' ')}: {message}" for code, message in entries(answer.body))
    if answer.status == 401:
        return Unauthorized(told or "unauthorized: authentication required")
    if answer.status == 403:
        return Forbidden(told or "denied: requested access to the resource is denied")
    return RegistryError(told or f"received unexpected HTTP status: {answer.status} {said(answer.body)}".rstrip())
