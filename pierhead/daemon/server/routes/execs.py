"""Further processes in a running container."""

from pierhead.daemon.jobs import execs
from pierhead.daemon.server import answer, detach
from pierhead.daemon.server.answer import MULTIPLEXED_STREAM, RAW_STREAM, Answer, Hijack
from pierhead.daemon.server.call import Call
from pierhead.daemon.server.router import Route
from pierhead.daemon.server.routes.containers import dimensions
from pierhead.errors import StartFailed
from pierhead.wire import stdcopy, versions
from pierhead.wire.execs import ExecConfig, ExecStartConfig


async def create(call: Call) -> Answer:
    request = await call.json(ExecConfig)
    detach.parse(request.detach_keys)
    if call.version < versions.CONSOLE_SIZE_AT_CREATE or not request.tty:
        request.console_size = None
    return answer.json(await call.engine.run(execs.create, call.path["name"], request), 201)


async def start(call: Call) -> Answer:
    """Join the client to the command's stdio; a command that cannot be run is said there, as Docker does.

    Whether its output comes in frames is said here, whatever the command has for a terminal.
    """
    id = call.path["id"]
    request = await call.json(ExecStartConfig)
    if call.version < versions.CONSOLE_SIZE_AT_CREATE or not request.tty:
        request.console_size = None
    instance = await call.engine.run(execs.inspect, id)
    try:
        attached = await call.engine.run(execs.start, id, request)
    except StartFailed as error:
        if request.detach:
            raise
        text = f"{error}\r\n".encode()
        output = text if request.tty else stdcopy.frame(stdcopy.STDOUT, text)
        return Hijack(None, _content_type(call, request.tty), output=output)
    if attached is None:
        return answer.OK
    return Hijack(
        attached,
        _content_type(call, request.tty),
        stdin=instance.open_stdin,
        detach_keys=detach.parse(instance.detach_keys) if attached.terminal else b"",
    )


def _content_type(call: Call, raw: bool) -> str:
    return RAW_STREAM if raw or call.version < versions.MULTIPLEXED_STREAM_TYPE else MULTIPLEXED_STREAM


async def inspect(call: Call) -> Answer:
    return answer.json(await call.engine.run(execs.inspect, call.path["id"]))


async def resize(call: Call) -> Answer:
    rows, columns = dimensions(call)
    await call.engine.run(execs.resize, call.path["id"], rows, columns)
    return answer.OK


ROUTES = (
    Route("POST", "/containers/{name}/exec", create),
    Route("POST", "/exec/{id}/start", start),
    Route("POST", "/exec/{id}/resize", resize),
    Route("GET", "/exec/{id}/json", inspect),
)
