"""Registries as the daemon sees them: how they are reached, who the client is there, whether they know it."""

import re
from typing import TYPE_CHECKING

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.errors import InvalidParameter
from pierhead.graph.image import parse_config
from pierhead.reference import is_domain, parse
from pierhead.registry.auth import Credentials
from pierhead.registry.hosts import Hosts
from pierhead.wire.images import AuthConfig, AuthResponse, DistributionInspect, OCIDescriptor, OCIPlatform

if TYPE_CHECKING:
    from pierhead.registry.client import Described

HUB = "docker.io"


def hosts(engine: Engine) -> Hosts:
    """What the daemon's settings say of registries."""
    config = engine.config
    return Hosts(
        config.insecure_registries, config.registry_mirrors, config.registry_certs, config.max_download_attempts
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
