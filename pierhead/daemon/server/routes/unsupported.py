"""What the API knows and this engine does not do: each says so, in the way its clients understand."""

from pierhead.daemon.server import answer
from pierhead.daemon.server.answer import Answer
from pierhead.daemon.server.call import Call
from pierhead.daemon.server.router import Handler, Route
from pierhead.errors import NotImplementedHere, Unavailable

_NO_SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)


_EXPERIMENTAL = (
    "This experimental feature is disabled by default. "
    "Start the Docker daemon in experimental mode in order to enable it."
)


async def no_swarm(call: Call) -> Answer:
    raise Unavailable(_NO_SWARM)


async def no_plugins(call: Call) -> Answer:
    return answer.json([])


async def no_build_cache(call: Call) -> Answer:
    """``docker system prune`` asks for this last, and tells what was removed only when it is answered."""
    return answer.json({"CachesDeleted": None, "SpaceReclaimed": 0})


async def no_checkpoints(call: Call) -> Answer:
    raise NotImplementedHere(_EXPERIMENTAL)


def _missing(what: str) -> Handler:
    async def handler(call: Call) -> Answer:
        raise NotImplementedHere(f"{what} is not supported by this engine")

    return handler


_SWARM = tuple(
    Route(method, path, no_swarm)
    for kind in ("nodes", "services", "tasks", "secrets", "configs")
    for method, path in (
        ("GET", f"/{kind}"),
        ("POST", f"/{kind}/create"),
        ("GET", f"/{kind}/{{id*}}"),
        ("POST", f"/{kind}/{{id*}}"),
        ("DELETE", f"/{kind}/{{id*}}"),
    )
)

_MISSING = (
    ("POST", "/build", "building images"),
    ("POST", "/build/cancel", "building images"),
    ("POST", "/session", "building images with BuildKit"),
    ("POST", "/grpc", "building images with BuildKit"),
    ("GET", "/containers/{name}/attach/ws", "attaching through a websocket"),
    ("GET", "/plugins/{name*}", "plugins"),
    ("POST", "/plugins/{name*}", "plugins"),
    ("DELETE", "/plugins/{name*}", "plugins"),
    ("POST", "/swarm/init", "swarm mode"),
    ("POST", "/swarm/join", "swarm mode"),
)

_CHECKPOINTS = (
    ("POST", "/containers/{name}/checkpoints"),
    ("GET", "/containers/{name}/checkpoints"),
)

ROUTES = (
    *(Route(method, path, no_checkpoints) for method, path in _CHECKPOINTS),
    *(Route(method, path, _missing(what)) for method, path, what in _MISSING),
    *_SWARM,
    Route("GET", "/swarm", no_swarm),
    Route("GET", "/swarm/unlockkey", no_swarm),
    Route("POST", "/swarm/leave", no_swarm),
    Route("POST", "/swarm/update", no_swarm),
    Route("POST", "/swarm/unlock", no_swarm),
    Route("GET", "/plugins", no_plugins),
    Route("POST", "/build/prune", no_build_cache),
)
