"""Registries as the daemon sees them: how they are reached, who the client is there, whether they know it."""

import re
from typing import TYPE_CHECKING

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.errors import InvalidParameter
from pierhead.graph.image import parse_config
from pierhead.reference import is_domain, parse
from pierhead.registry.auth import Credentials
from pierhead.registry.hosts import Hosts
from pierhead.wire.filters import Filters
from pierhead.wire.images import (
    AuthConfig,
    AuthResponse,
    DistributionInspect,
    ImageSearchResult,
    OCIDescriptor,
    OCIPlatform,
)

if TYPE_CHECKING:
    from pierhead.registry.client import Described

HUB = "docker.io"
SEARCH_FILTERS = frozenset({"is-automated", "is-official", "stars"})


def hosts(engine: Engine) -> Hosts:
    """What the daemon's settings say of registries."""
    config = engine.config
    return Hosts(
        config.insecure_registries,
        config.registry_mirrors,
        config.registry_certs,
        config.max_download_attempts,
        config.max_manifest_size,
    )


def credentials(auth: AuthConfig | None) -> Credentials | None:
    """Those of a request; None for an empty header."""
    if auth is None or not (auth.username or auth.identitytoken or auth.registrytoken):
        return None
    return Credentials(auth.username, auth.password, auth.identitytoken, auth.registrytoken)


async def distribution(engine: Engine, name: str, auth: AuthConfig | None) -> DistributionInspect:
    """What a name stands for in its registry: digest, size, platforms. Raises NotFound, InvalidParameter."""
    try:
        reference = parse(name)
    except InvalidParameter as error:
        if re.fullmatch("[0-9a-f]{64}", name):
            raise InvalidParameter(f"unknown image reference format: {name}") from error
        raise
    from pierhead.registry.client import Registry  # urllib3 with it: memory that most daemons save

    registry = Registry(reference, credentials(auth), hosts(engine))

    def ask() -> "Described":
        with registry:
            return registry.describe(reference)

    try:
        found = await blocking(ask)
    finally:
        registry.cancel()
    platforms = [OCIPlatform(one.architecture, one.os, variant=one.variant) for one in found.platforms]
    if found.config:
        config = parse_config(found.config)
        own = OCIPlatform(config.architecture or "", config.os or "", variant=config.variant or "")
        platforms = [own] if own.os or own.architecture else []
    thing = found.descriptor
    return DistributionInspect(
        descriptor=OCIDescriptor(media_type=thing.media_type, digest=thing.digest, size=thing.size),
        platforms=platforms,
    )


def _stars(filters: Filters) -> int:
    """The most that is asked for."""
    most = 0
    for text in filters.values_of("stars"):
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise InvalidParameter(f"invalid filter 'stars={text}': strconv.Atoi: parsing \"{text}\": invalid syntax")
        most = max(most, int(text))
    return most


async def search(
    engine: Engine, term: str, limit: int | None, filters: Filters, auth: AuthConfig | None
) -> list[ImageSearchResult]:
    """``docker search``: of Docker Hub, or of the registry that the term begins with. Raises InvalidParameter."""
    filters.validate(SEARCH_FILTERS)
    automated, official = filters.flag("is-automated"), filters.flag("is-official")
    stars = _stars(filters)
    from pierhead.registry.search import LIMIT, MOST, Found, Search, split_term  # urllib3 with it

    if automated:
        return []  # as Docker since 25: nothing is
    domain, what = split_term(term)
    limit = limit or LIMIT
    if not 1 <= limit <= MOST:
        raise InvalidParameter(f"limit {limit} is outside the range of [1, {MOST}]")
    registry = Search(domain, credentials(auth), hosts(engine))
    try:
        answer: list[Found] = await blocking(registry.run, what, limit)
    finally:
        registry.cancel()
    return [
        ImageSearchResult(
            star_count=one.star_count,
            is_official=one.is_official,
            name=one.name,
            description=one.description or "",
        )
        for one in answer
        if one.star_count >= stars and ("is-official" not in filters or one.is_official == official)
    ]


async def login(engine: Engine, auth: AuthConfig) -> AuthResponse:
    """``docker login``: the registry decides. Raises InvalidParameter, Unauthorized, RegistryError."""
    from pierhead.registry.session import Session  # urllib3 with it: memory that most daemons save

    address = auth.serveraddress.removeprefix("https://").removeprefix("http://")
    domain = address.partition("/")[0] or HUB
    if not is_domain(domain):
        raise InvalidParameter(f"invalid registry address: {auth.serveraddress[:200]!r}")
    session = Session(domain, credentials(auth), hosts(engine))
    try:
        token = await blocking(session.login)
    finally:
        session.cancel()
        session.close()
    return AuthResponse(status="Login Succeeded", identity_token=token)
