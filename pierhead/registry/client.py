"""Pulling: from a reference to a verified manifest, configuration and layer blobs."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import sha256
from io import RawIOBase

import urllib3
from urllib3 import BaseHTTPResponse

from pierhead import manifest
from pierhead.errors import InvalidParameter, NotFound
from pierhead.manifest import Descriptor, Manifest, Platform
from pierhead.reference import Reference
from pierhead.registry.auth import Credentials
from pierhead.registry.hosts import Hosts, RegistryError
from pierhead.registry.repository import Repository
from pierhead.registry.session import Session
from pierhead.registry.transport import CANCELLED

CHUNK = 1 << 20
ATTEMPTS = 5
BACKOFF = 0.25
"""Seconds before a broken download goes on; twice as many each time."""
MAX_DEPTH = 2
_NO_HOSTS = Hosts()


@dataclass(frozen=True, slots=True)
class Resolved:
    """An image in a registry. digest: of what the reference names (the index's, where it is one)."""

    digest: str
    manifest: Manifest
    config: bytes


class Blob(RawIOBase):
    """A blob while it is downloaded: resumed where a connection breaks, digested on the way.

    ``check`` must be called when everything was read: until then none of it may be trusted.
    """

    def __init__(self, repository: Repository, descriptor: Descriptor, tell: Callable[[int], None]) -> None:
        super().__init__()
        self._repository = repository
        self._session = repository.session
        self._descriptor = descriptor
        self._tell = tell
        self.count = 0
        """Bytes that have come."""
        self._digest = sha256()
        self._context: AbstractContextManager[BaseHTTPResponse] | None = None
        self._response: BaseHTTPResponse | None = None
        self._attempts = 0

    def readable(self) -> bool:
        return True

    def _connect(self) -> BaseHTTPResponse:
        if self._response is None:
            self._context = self._repository.blob(self._descriptor.digest, self.count)
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
            except (RegistryError, urllib3.exceptions.HTTPError, OSError) as error:
                self._disconnect()
                self._attempts += 1
                if self._session.cancelled:
                    raise RegistryError(CANCELLED) from error
                if self._attempts >= ATTEMPTS:
                    if isinstance(error, RegistryError):
                        raise
                    raise RegistryError(
                        f"blob {self._descriptor.digest}: unexpected EOF ({type(error).__name__})"
                    ) from error
                self._session.transport.pause(BACKOFF * 2 ** (self._attempts - 1))
                continue
            self._digest.update(piece)
            self.count += len(piece)
            if self.count > self._descriptor.size:
                raise InvalidParameter(f"blob {self._descriptor.digest} is larger than its descriptor says")
            self._tell(self.count)
            return piece
        return b""

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
    """A repository to pull from. Use as a context manager."""

    def __init__(self, reference: Reference, credentials: Credentials | None, hosts: Hosts = _NO_HOSTS) -> None:
        self._session = Session(reference.domain, credentials, hosts, (f"repository:{reference.path}:pull",))
        self._repository = Repository(self._session, reference)

    def __enter__(self) -> "Registry":
        self._session.connect()
        return self

    def __exit__(self, *error: object) -> None:
        self._session.close()

    def cancel(self) -> None:
        """From another thread: make everything under way fail soon."""
        self._session.cancel()

    def _document(self, what: str, descriptor: Descriptor | None) -> tuple[str, Manifest | manifest.Index]:
        """A manifest by tag or digest, and its digest; verified where a digest was asked for."""
        answer = self._repository.manifest(what)
        digest = "sha256:" + sha256(answer.body).hexdigest()
        if what.startswith("sha256:") and digest != what:
            raise InvalidParameter(f"manifest verification failed for digest {what}")
        if descriptor is not None and descriptor.size != len(answer.body):
            raise InvalidParameter(f"manifest {what} has {len(answer.body)} bytes, not {descriptor.size}")
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        return digest, manifest.parse(answer.body, media_type)

    def tags(self) -> list[str]:
        """Every tag of the repository. Raises NotFound."""
        return self._repository.tags()

    def resolve(self, reference: Reference, platform: Platform) -> Resolved:
        """The image that a reference into this repository means on a platform. Raises NotFound in Docker's words."""
        what = reference.digest or reference.tag or "latest"
        digest, document = self._document(what, None)
        for _ in range(MAX_DEPTH):
            if isinstance(document, Manifest):
                break
            chosen = manifest.choose(document, platform)
            if chosen is None:
                raise NotFound(f"no matching manifest for {platform} in the manifest list entries")
            _, document = self._document(chosen.digest, chosen)
        if not isinstance(document, Manifest):
            raise InvalidParameter("invalid index: it nests too deeply")
        return Resolved(digest, document, self._config(document.config))

    def _config(self, descriptor: Descriptor) -> bytes:
        if descriptor.size > manifest.LIMIT:
            raise InvalidParameter(f"image configuration of more than {manifest.LIMIT} bytes")
        blob = Blob(self._repository, descriptor, lambda count: None)
        try:
            data = b"".join(iter(blob.read, b""))
            blob.check()
        finally:
            blob.close()
        return data

    def blob(self, descriptor: Descriptor, tell: Callable[[int], None]) -> Blob:
        """A layer's blob, to be read, checked and closed. tell: called with the bytes that have come."""
        return Blob(self._repository, descriptor, tell)
