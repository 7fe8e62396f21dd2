"""Our own: what the engine is doing and has done, for ``pier jobs`` and ``pier run --trace``."""

from pierhead.daemon.jobs import system
from pierhead.daemon.server import answer
from pierhead.daemon.server.answer import Answer
from pierhead.daemon.server.call import Call
from pierhead.daemon.server.router import Route


async def list_(call: Call) -> Answer:
    return answer.json(await call.engine.run(system.jobs))


ROUTES = (Route("GET", "/pierhead/jobs", list_),)
