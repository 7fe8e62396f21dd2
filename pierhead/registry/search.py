"""Searching a registry (Docker's registry API v1, ``/v1/search``), which Docker Hub offers and few others do."""

from urllib.parse import urlencode

import msgspec

from pierhead.errors import InvalidParameter
from pierhead.reference import is_domain
from pierhead.registry.auth import Credentials
from pierhead.registry.hosts import Hosts, Mirror, RegistryError
from pierhead.registry.session import REDIRECTS, Session

HUB = "docker.io"
INDEX = "index.docker.io"
LIMIT = 25
MOST = 100


class Found(msgspec.Struct):
    """A repository that was found."""

    name: str = ""
    description: str | None = None
    star_count: int = 0
    is_official: bool = False


class _Results(msgspec.Struct):
    results: list[Found] | None = None


def split_term(term: str) -> tuple[str, str]:
    """The registry and what to look for there, as Docker tells them apart. Raises InvalidParameter."""
    if term.startswith(("http://", "https://")):
        raise InvalidParameter(f"invalid repository name: repository name ({term}) should not have a scheme")
    first, slash, rest = term.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first, rest = HUB, term
    if first in (HUB, INDEX):
        return HUB, rest.removeprefix("library/")
    if not is_domain(first):
        raise InvalidParameter(f"invalid index name ({first[:100]})")
    return first, rest


class Search:
    """One registry to search. Credentials go to it when it asks for them, and nowhere else."""

    def __init__(self, domain: str, credentials: Credentials | None, hosts: Hosts) -> None:
        index = Mirror("https", INDEX) if domain == HUB else None
        self._domain = INDEX if domain == HUB else domain
        self._session = Session(domain, credentials, hosts, ("registry:catalog:search",), index)

    def cancel(self) -> None:
        """From another thread: make what is under way fail soon."""
        self._session.cancel()

    def run(self, term: str, limit: int) -> list[Found]:
        """What it finds, at most ``limit`` (1 to MOST). Raises RegistryError, Unauthorized."""
        session = self._session
        try:
            session.connect()
            url = f"{session.base}/v1/search?{urlencode({'q': term, 'n': limit})}"
            for _ in range(REDIRECTS + 1):
                answer = session.call("GET", url, {"X-Docker-Token": "true", "Accept": "application/json"})
                if answer.status not in (301, 302, 303, 307, 308):
                    break
                url = session.follow(url, answer.headers.get("Location", ""))
        finally:
            session.close()
        if answer.status == 404:
            raise RegistryError(f"Unexpected status code 404: the registry {self._domain} offers no search")
        if answer.status != 200:
            raise RegistryError(f"Unexpected status code {answer.status}")
        try:
            found = msgspec.json.decode(answer.body, type=_Results).results or []
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise RegistryError(f"error decoding registry search results: {error}") from error
        return found[:limit]
