"""Volumes."""

from pierhead.daemon.jobs import previews, volumes
from pierhead.daemon.server import answer
from pierhead.daemon.server.answer import NO_CONTENT, Answer
from pierhead.daemon.server.call import Call
from pierhead.daemon.server.router import Route
from pierhead.wire import versions
from pierhead.wire.filters import Filters
from pierhead.wire.volumes import VolumeCreateOptions


async def list_(call: Call) -> Answer:
    return answer.json(await call.engine.run(volumes.list, call.filters()))


async def inspect(call: Call) -> Answer:
    return answer.json(await call.engine.run(volumes.inspect, call.path["name"]))


async def create(call: Call) -> Answer:
    return answer.json(await call.engine.run(volumes.create, await call.json(VolumeCreateOptions)), 201)


async def remove(call: Call) -> Answer:
    released = await call.engine.run(volumes.remove, call.path["name"], call.flag("force"))
    return answer.removed(released, NO_CONTENT)


async def prune(call: Call) -> Answer:
    filters = call.filters()
    if call.version < versions.VOLUMES_ANONYMOUS_ONLY_PRUNED:
        filters = Filters({**filters, "all": ("true",)})
    job = previews.volumes if call.flag("dry-run") else volumes.prune
    return answer.json(await call.engine.run(job, filters))


ROUTES = (
    Route("GET", "/volumes", list_),
    Route("POST", "/volumes/create", create),
    Route("POST", "/volumes/prune", prune),
    Route("GET", "/volumes/{name}", inspect),
    Route("DELETE", "/volumes/{name}", remove),
)
