"""Networks; and below /pierhead what is ours and not Docker's."""

from pierhead.daemon.jobs import listening, network_check, network_map, networks, port_warnings, previews
from pierhead.daemon.server import answer
from pierhead.daemon.server.answer import NO_CONTENT, Answer
from pierhead.daemon.server.call import Call
from pierhead.daemon.server.router import Route
from pierhead.wire.network_map import PortSight
from pierhead.wire.networks import NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest


async def list_(call: Call) -> Answer:
    return answer.json(await call.engine.run(networks.list, call.filters()))


async def inspect(call: Call) -> Answer:
    found = await call.engine.run(networks.inspect, call.path["name"], call.flag("verbose"), call.text("scope"))
    return answer.json(found)


async def create(call: Call) -> Answer:
    return answer.json(await call.engine.run(networks.create, await call.json(NetworkCreateRequest)), 201)


async def remove(call: Call) -> Answer:
    await call.engine.run(networks.remove, call.path["name"])
    return NO_CONTENT


async def connect(call: Call) -> Answer:
    await call.engine.run(networks.connect, call.path["name"], await call.json(NetworkConnectRequest))
    return answer.OK


async def disconnect(call: Call) -> Answer:
    await call.engine.run(networks.disconnect, call.path["name"], await call.json(NetworkDisconnectRequest))
    return answer.OK


async def reload(call: Call) -> Answer:
    """Our own: ``pier network reload``."""
    return answer.json(await call.engine.run(networks.reload))


async def prune(call: Call) -> Answer:
    job = previews.networks if call.flag("dry-run") else networks.prune
    return answer.json(await call.engine.run(job, call.filters()))


async def map_(call: Call) -> Answer:
    return answer.json(await call.engine.run(network_map.show))


async def check(call: Call) -> Answer:
    return answer.json(await call.engine.run(network_check.check, call.text("source"), call.text("destination")))


async def ports(call: Call) -> Answer:
    """What ``pier ps`` adds to the list: more than Docker's fields can say of ports."""
    run = call.engine.run
    return answer.json(PortSight(listening=await run(listening.show), past_firewall=await run(port_warnings.show)))


ROUTES = (
    Route("GET", "/networks", list_),
    Route("GET", "/networks/", list_),
    Route("POST", "/networks/create", create),
    Route("POST", "/networks/prune", prune),
    Route("POST", "/pierhead/networks/reload", reload),
    Route("GET", "/networks/{name*}", inspect),
    Route("DELETE", "/networks/{name*}", remove),
    Route("POST", "/networks/{name*}/connect", connect),
    Route("POST", "/networks/{name*}/disconnect", disconnect),
    Route("GET", "/pierhead/network/map", map_),
    Route("GET", "/pierhead/network/check", check, cancellable=True),
    Route("GET", "/pierhead/ports", ports),
)
