"""The API's table: every route, with its handler, in one module per kind of object."""

from pierhead.daemon.server.router import Route
from pierhead.daemon.server.routes import containers, execs, images, jobs, networks, system, unsupported, volumes


def all_routes() -> tuple[Route, ...]:
    """What the server answers."""
    return (
        *system.ROUTES,
        *containers.ROUTES,
        *execs.ROUTES,
        *images.ROUTES,
        *networks.ROUTES,
        *volumes.ROUTES,
        *jobs.ROUTES,
        *unsupported.ROUTES,
    )
