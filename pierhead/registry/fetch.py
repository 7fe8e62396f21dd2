"""An archive from an address of the user's (``docker import http://…``); nobody's credentials go there."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from urllib3 import BaseHTTPResponse

from pierhead.errors import Forbidden, InvalidParameter, NotFound, PierheadError, Unauthorized
from pierhead.registry.hosts import Hosts, RegistryError
from pierhead.registry.transport import MOVED, Transport, followed

REDIRECTS = 10
_ERRORS = {400: InvalidParameter, 401: Unauthorized, 403: Forbidden, 404: NotFound}


class Download:
    """What comes, as it is on the wire. total: its bytes, 0 where nobody says."""

    def __init__(self, response: BaseHTTPResponse) -> None:
        self._response = response
        length = response.headers.get("Content-Length", "")
        self.total = int(length) if length.isascii() and length.isdecimal() else 0

    def read(self, size: int = -1, /) -> bytes:
        """The next piece; b"" at the end."""
        return self._response.read(None if size < 0 else size, decode_content=False)


class Fetch:
    """An archive to be had. url: as it is asked for. Raises InvalidParameter for what is no address."""

    def __init__(self, address: str, hosts: Hosts) -> None:
        self.url = address if "://" in address else f"http://{address}"
        self._transport = Transport(_host(self.url), hosts)

    def cancel(self) -> None:
        """From another thread: end it."""
        self._transport.cancel()

    @contextmanager
    def answer(self) -> Iterator[Download]:
        """What is there, wherever it has moved. Raises PierheadError, also where it breaks while it is read."""
        url = self.url
        try:
            for _ in range(REDIRECTS):
                with self._transport.request("GET", url, {}) as response:
                    location = response.headers.get("Location", "")
                    if response.status not in MOVED or not location:
                        self._check(response)
                        yield Download(response)
                        return
                url = followed(url, location, url)
            raise RegistryError(f'Get "{url}": stopped after {REDIRECTS} redirects')
        finally:
            self._transport.close()

    def _check(self, response: BaseHTTPResponse) -> None:
        if response.status < 400:
            return
        said = self._transport.read(response).decode(errors="replace").strip()[:1000]
        error = _ERRORS.get(response.status, PierheadError)
        raise error(f"failed to GET {self.url} with status {response.status} {response.reason}: {said}")


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise InvalidParameter(f'parse "{url}": {error}') from None
    if parts.scheme not in ("http", "https"):
        raise InvalidParameter(f'Get "{url}": unsupported protocol scheme "{parts.scheme}"')
    if not parts.hostname:
        raise InvalidParameter(f'Get "{url}": http: no Host in request URL')
    return parts.netloc
