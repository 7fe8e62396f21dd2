"""The pull job."""

from collections.abc import AsyncIterator

from pierhead.daemon.engine.engine import Engine
from pierhead.errors import NotImplementedHere
from pierhead.wire.images import AuthConfig, JSONMessage


async def pull(engine: Engine, reference: str, platform: str, auth: AuthConfig | None) -> AsyncIterator[JSONMessage]:
    raise NotImplementedHere("pull")
