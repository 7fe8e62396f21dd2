"""The daemon itself: ping, version, info, events, disk usage, credentials."""

from pierhead.daemon.jobs import fsck, previews, registries, system, trim
from pierhead.daemon.server import answer
from pierhead.daemon.server.answer import Answer, Reply, Stream
from pierhead.daemon.server.call import Call
from pierhead.daemon.server.progress import lines, progress
from pierhead.daemon.server.router import Route
from pierhead.errors import InvalidParameter
from pierhead.wire import versions
from pierhead.wire.images import AuthConfig
from pierhead.wire.time import parse_moment

_PING_HEADERS = (
    ("Cache-Control", "no-cache, no-store, must-revalidate"),
    ("Pragma", "no-cache"),
    ("Swarm", "inactive"),
)
_PING = Reply(200, b"OK", "text/plain; charset=utf-8", _PING_HEADERS)
_PING_HEAD = Reply(200, b"", "text/plain; charset=utf-8", _PING_HEADERS)


async def ping(call: Call) -> Answer:
    """Not a job: it says that the server answers, and what it speaks."""
    return _PING_HEAD if call.request.method == "HEAD" else _PING


async def version(call: Call) -> Answer:
    return answer.json(await call.engine.run(system.version))


async def info(call: Call) -> Answer:
    return answer.json(await call.engine.run(system.info))


async def events(call: Call) -> Answer:
    since, until = parse_moment(call.text("since"), "since"), parse_moment(call.text("until"), "until")
    if since and until and until < since:
        raise InvalidParameter(
            f"`since` time ({call.text('since')}) cannot be after `until` time ({call.text('until')})"
        )
    return Stream(lines(await call.engine.run(system.events, since, until, call.filters())))


async def data_usage(call: Call) -> Answer:
    types = call.texts("type")
    for kind in types:
        if kind not in system.DATA_TYPES:
            raise InvalidParameter(f"unknown object type: {kind}")
    return answer.json(await call.engine.run(system.data_usage, types or system.DATA_TYPES, call.flag("fresh")))


async def check(call: Call) -> Answer:
    """Our own."""
    return await progress(await call.engine.run(fsck.fsck, call.flag("repair"), call.flag("deep")))


async def give_back(call: Call) -> Answer:
    """Our own."""
    return await progress(await call.engine.run(trim.run))


async def prune_preview(call: Call) -> Answer:
    """Our own."""
    filters, named = call.filters(), call.version < versions.VOLUMES_ANONYMOUS_ONLY_PRUNED
    found = await call.engine.run(previews.system, filters, call.flag("all"), call.flag("volumes"), named)
    return answer.json(found)


async def auth(call: Call) -> Answer:
    return answer.json(await call.engine.run(registries.login, await call.json(AuthConfig)))


ROUTES = (
    Route("POST", "/auth", auth, cancellable=True),
    Route("GET", "/_ping", ping),
    Route("HEAD", "/_ping", ping),
    Route("GET", "/version", version),
    Route("GET", "/info", info),
    Route("GET", "/events", events, cancellable=True),
    Route("GET", "/system/df", data_usage),
    Route("GET", "/system/prune", prune_preview),
    Route("POST", "/system/fsck", check, cancellable=True),
    Route("POST", "/system/trim", give_back, cancellable=True),
)
