"""Registries as the daemon sees them: how they are reached, who the client is there, whether they know it."""

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.registry.auth import Credentials
from pierhead.registry.hosts import Hosts
from pierhead.wire.images import AuthConfig, AuthResponse

HUB = "docker.io"


def hosts(engine: Engine) -> Hosts:
    """What the daemon's settings say of registries."""
    config = engine.config
    return Hosts(config.insecure_registries, config.registry_mirrors, config.registry_certs)


def credentials(auth: AuthConfig | None) -> Credentials | None:
    """Those of a request; None for an empty header."""
    if auth is None or not (auth.username or auth.identitytoken or auth.registrytoken):
        return None
    return Credentials(auth.username, auth.password, auth.identitytoken, auth.registrytoken)


async def login(engine: Engine, auth: AuthConfig) -> AuthResponse:
    """``docker login``: the registry decides. Raises Unauthorized, RegistryError."""
    from pierhead.registry.session import Session  # urllib3 with it: memory that most daemons save

    address = auth.serveraddress.removeprefix("https://").removeprefix("http://")
    session = Session(address.partition("/")[0] or HUB, credentials(auth), hosts(engine))
    try:
        token = await blocking(session.login)
    finally:
        session.cancel()
        session.close()
    return AuthResponse(status="Login Succeeded", identity_token=token)
