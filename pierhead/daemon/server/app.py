"""The API server of a daemon: every route, on every host."""

from collections.abc import Iterable

from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.server import routes
from pierhead.daemon.server.router import Router
from pierhead.daemon.server.serving import Server


async def serve(engine: Engine, hosts: Iterable[str]) -> Server:
    """Serve the Engine API on every host. Raises OSError, InvalidParameter; then nothing listens."""
    server = Server(Router(engine, routes.all_routes()))
    try:
        for host in hosts:
            await server.listen(host)
    except BaseException:
        await server.close()
        raise
    return server
