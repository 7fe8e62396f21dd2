"""Pulling: from a reference to a verified manifest, configuration and layer blobs."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import sha256
from io import RawIOBase
from typing import TypeVar

import urllib3
from urllib3 import BaseHTTPResponse

from pierhead import manifest
from pierhead.errors import InvalidParameter, NotFound, PierheadError
from pierhead.manifest import Descriptor, Manifest, Platform
from pierhead.reference import DEFAULT_DOMAIN, Reference
from pierhead.registry.auth import Credentials
from pierhead.registry.hosts import Hosts, RegistryError, parse_mirror
from pierhead.registry.repository import Repository
from pierhead.registry.session import Session
from pierhead.registry.transport import CANCELLED, backoff

CHUNK = 1 << 20
BACKOFF = 0.5
"""Seconds before a broken download goes on (``transport.backoff``)."""
MAX_DEPTH = 2
CONFIG_LIMIT = 4 << 20
_NO_HOSTS = Hosts()
T = TypeVar("T")
log = logging.getLogger("pierd")


@dataclass(frozen=True, slots=True)
class Resolved:
    """An image in a registry.

    digest: of what the reference names (the index's, where it is one); document: the image's own manifest as it came,
    described by ``descriptor``.
    """

    digest: str
    manifest: Manifest
    config: bytes
    descriptor: Descriptor
    document: bytes


@dataclass(frozen=True, slots=True)
class Described:
    """What a name in a registry stands for. platforms: of an index; config: of an image."""

    descriptor: Descriptor
    platforms: tuple[Platform, ...]
    config: bytes


class Blob(RawIOBase):
    """A blob while it is downloaded: resumed where a connection breaks, digested on the way.

    ``check`` must be called when everything was read: until then none of it may be trusted.
    """

    def __init__(
        self,
        places: Sequence[Repository],
        descriptor: Descriptor,
        tell: Callable[[int], None],
        attempts: int,
        retrying: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """places: where to get it; a mirror that fails is not asked again.

        tell: called with the bytes that have come.  attempts: how often it is begun at most; retrying: called with the
        seconds until the next one.
        """
        super().__init__()
        self._left = attempts - 1
        self._retrying = retrying
        self._places = list(places)
        self._descriptor = descriptor
        self._tell = tell
        self.count = 0
        """Bytes that have come."""
        self._digest = sha256()
        self._context: AbstractContextManager[BaseHTTPResponse] | None = None
        self._response: BaseHTTPResponse | None = None
        self._broke = 0

    def readable(self) -> bool:
        return True

    def _connect(self) -> BaseHTTPResponse:
        if self._response is None:
            self._context = self._places[0].blob(self._descriptor.digest, self.count)
            self._response = self._context.__enter__()
        return self._response

    def _disconnect(self) -> None:
        context, self._context, self._response = self._context, None, None
        if context is not None:
            context.__exit__(None, None, None)

    def read(self, size: int = -1, /) -> bytes:
        """At most CHUNK bytes; b"" at the end. Raises RegistryError, InvalidParameter for a blob of the wrong size."""
        while self.count < self._descriptor.size:
            try:
                piece = self._connect().read(CHUNK if size < 0 else min(size, CHUNK), decode_content=False)
                if not piece:
                    raise RegistryError(f"blob {self._descriptor.digest}: the connection ended too early")
            except (PierheadError, urllib3.exceptions.HTTPError, OSError) as error:
                self._disconnect()
                self._broken(error)
                continue
            self._digest.update(piece)
            self.count += len(piece)
            if self.count > self._descriptor.size:
                raise InvalidParameter(f"blob {self._descriptor.digest} is larger than its descriptor says")
            self._tell(self.count)
            return piece
        return b""

    def _broken(self, error: Exception) -> None:
        """Prepare the next attempt, or raise."""
        transport = self._places[0].session.transport
        if transport.cancelled:
            raise RegistryError(CANCELLED) from error
        if len(self._places) > 1:
            del self._places[0]
            self._places[0].session.connect()
            return
        if isinstance(error, PierheadError):
            if not isinstance(error, RegistryError) or self._broke >= self._left:
                raise error
        elif self._broke >= self._left:
            raise RegistryError(f"blob {self._descriptor.digest}: unexpected EOF ({type(error).__name__})") from error
        seconds = backoff(BACKOFF, self._broke)
        self._broke += 1
        self._retrying(seconds)
        transport.pause(seconds)

    def check(self) -> None:
        """Raises InvalidParameter if the bytes were not those of the digest."""
        while self.read():
            pass
        if "sha256:" + self._digest.hexdigest() != self._descriptor.digest:
            raise InvalidParameter(f"filesystem layer verification failed for digest {self._descriptor.digest}")

    def close(self) -> None:
        """End the download."""
        self._disconnect()
        super().close()


class Registry:
    """A repository to pull from: docker.io's at the mirrors first. Use as a context manager.

    Mirrors get no credentials; one that fails, whatever it says, only costs the attempt.
    """

    def __init__(self, reference: Reference, credentials: Credentials | None, hosts: Hosts = _NO_HOSTS) -> None:
        self._attempts = hosts.attempts
        scopes = (f"repository:{reference.path}:pull",)
        mirrors = map(parse_mirror, hosts.mirrors) if reference.domain == DEFAULT_DOMAIN else ()
        sessions = [Session(mirror.domain, None, hosts, scopes, mirror) for mirror in mirrors]
        sessions.append(Session(reference.domain, credentials, hosts, scopes))
        self._places = [Repository(session, reference) for session in sessions]

    def __enter__(self) -> "Registry":
        if len(self._places) == 1:
            self._places[0].session.connect()
        return self

    def __exit__(self, *error: object) -> None:
        for place in self._places:
            place.session.close()

    def cancel(self) -> None:
        """From another thread: make everything under way fail soon."""
        for place in self._places:
            place.session.cancel()

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` was called."""
        return self._places[-1].session.cancelled

    def check_cancelled(self) -> None:
        """Raises RegistryError when ``cancel`` was called."""
        if self.cancelled:
            raise RegistryError(CANCELLED)

    def _ask(self, question: Callable[[Repository], T]) -> T:
        """The first answer; who gave it is asked first from then on. Raises what the registry itself raises."""
        for place in self._places:
            try:
                place.session.connect()
                answer = question(place)
            except PierheadError as error:
                if place is self._places[-1] or self.cancelled:
                    raise
                log.info("mirror %s: %s", place.session.domain, error)
                continue
            self._places = self._places[self._places.index(place) :]
            return answer
        raise AssertionError("the registry itself is always asked")

    def tags(self) -> list[str]:
        """Every tag of the repository. Raises NotFound."""
        return self._ask(lambda place: place.tags())

    def resolve(self, reference: Reference, platform: Platform) -> Resolved:
        """The image that a reference into this repository means on a platform. Raises NotFound in Docker's words."""
        return self._ask(lambda place: _resolve(place, reference, platform, self._attempts))

    def describe(self, reference: Reference) -> Described:
        """What a reference means, without its layers. Raises NotFound in Docker's words."""
        return self._ask(lambda place: _describe(place, reference, self._attempts))

    def blob(
        self,
        descriptor: Descriptor,
        tell: Callable[[int], None],
        retrying: Callable[[float], None] = lambda seconds: None,
    ) -> Blob:
        """A layer's blob, to be read, checked and closed. tell, retrying: see ``Blob``."""
        return Blob(self._places, descriptor, tell, self._attempts, retrying)


def _document(
    place: Repository, what: str, descriptor: Descriptor | None
) -> tuple[Descriptor, Manifest | manifest.Index, bytes]:
    """A manifest by tag or digest: what it is, read and as it came; verified where a digest was asked for."""
    answer = place.manifest(what)
    digest = "sha256:" + sha256(answer.body).hexdigest()
    if what.startswith("sha256:") and digest != what:
        raise InvalidParameter(f"manifest verification failed for digest {what}")
    if descriptor is not None and descriptor.size != len(answer.body):
        raise InvalidParameter(f"manifest {what} has {len(answer.body)} bytes, not {descriptor.size}")
    media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
    document = manifest.parse(answer.body, media_type, place.session.hosts.manifest_size)
    if media_type not in manifest.ACCEPTED:
        media_type = manifest.OCI_MANIFEST if isinstance(document, Manifest) else manifest.OCI_INDEX
    return Descriptor(media_type, digest, len(answer.body)), document, answer.body


def _resolve(place: Repository, reference: Reference, platform: Platform, attempts: int) -> Resolved:
    found, document, raw = _document(place, reference.digest or reference.tag or "latest", None)
    own = found
    for _ in range(MAX_DEPTH):
        if isinstance(document, Manifest):
            break
        chosen = manifest.choose(document, platform)
        if chosen is None:
            raise NotFound(f"no matching manifest for {platform} in the manifest list entries")
        own, document, raw = _document(place, chosen.digest, chosen)
    if not isinstance(document, Manifest):
        raise InvalidParameter("invalid index: it nests too deeply")
    return Resolved(found.digest, document, _config(place, document.config, attempts), own, raw)


def _describe(place: Repository, reference: Reference, attempts: int) -> Described:
    found, document, _ = _document(place, reference.digest or reference.tag or "latest", None)
    if isinstance(document, manifest.Index):
        entries = (entry.platform for entry in document.manifests)
        return Described(found, tuple(platform for platform in entries if platform is not None), b"")
    return Described(found, (), _config(place, document.config, attempts))


def _config(place: Repository, descriptor: Descriptor, attempts: int) -> bytes:
    if descriptor.size > CONFIG_LIMIT:
        raise InvalidParameter(f"image configuration of more than {CONFIG_LIMIT} bytes")
    blob = Blob([place], descriptor, lambda count: None, attempts)
    try:
        data = b"".join(iter(blob.read, b""))
        blob.check()
    finally:
        blob.close()
    return data
