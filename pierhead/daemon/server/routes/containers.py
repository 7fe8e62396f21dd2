"""Containers: from creation to removal, and their streams; and below /pierhead what is ours and not Docker's."""

from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable

from pierhead.daemon.jobs import archives, bundles, commits, containers, lifecycle, log_truncation, previews, streams
from pierhead.daemon.jobs.streams import AttachOptions, LogOptions
from pierhead.daemon.server import answer, detach
from pierhead.daemon.server.answer import MULTIPLEXED_STREAM, NO_CONTENT, RAW_STREAM, Answer, Hijack, Reply, Stream
from pierhead.daemon.server.call import Call, has_keys_besides
from pierhead.daemon.server.progress import after_first, lines
from pierhead.daemon.server.router import Route
from pierhead.daemon.server.routes.unsupported import no_checkpoints
from pierhead.errors import InvalidParameter, NoSuchContainer, PierheadError
from pierhead.wire import codec, legacy, versions
from pierhead.wire.containers import (
    ContainerConfig,
    ContainerCreateRequest,
    ContainerUpdateRequest,
    ContainerWaitExitError,
    ContainerWaitResponse,
    PathStat,
)
from pierhead.wire.time import parse_moment

_CONDITIONS = frozenset({"not-running", "next-exit", "removed"})
_LARGEST_EMPTY_BODY = 7
"""A start with so few bytes has none that count: old clients send "null" or "{}"."""


async def list_(call: Call) -> Answer:
    limit = call.number("limit") or 0
    found = await call.engine.run(containers.list, call.flag("all"), max(limit, 0), call.flag("size"), call.filters())
    return answer.json(found)


async def create(call: Call) -> Answer:
    data = await call.json_bytes()
    request = codec.decode(data, ContainerCreateRequest) if data else ContainerCreateRequest()
    if not request.image and not (data and has_keys_besides(data, "HostConfig", "NetworkingConfig")):
        raise InvalidParameter("config cannot be empty in order to create a container")
    warnings = legacy.modernize(request, call.version)
    created = await call.engine.run(containers.create, call.text("name"), request, call.text("platform"))
    created.warnings += warnings
    return answer.json(created, 201)


async def inspect(call: Call) -> Answer:
    found = await call.engine.run(containers.inspect, call.path["name"], call.flag("size"))
    legacy.age(found, call.version)
    return answer.json(found)


async def start(call: Call) -> Answer:
    if call.request.length > _LARGEST_EMPTY_BODY or call.request.chunked:
        raise InvalidParameter(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
        )
    detach.parse(call.text("detachKeys"))
    if call.text("checkpoint"):
        raise InvalidParameter("checkpoint is only supported in experimental mode")
    await call.engine.run(lifecycle.start, call.path["name"])
    return NO_CONTENT


async def stop(call: Call) -> Answer:
    await call.engine.run(lifecycle.stop, call.path["name"], call.text("signal"), call.number("t"))
    return NO_CONTENT


async def restart(call: Call) -> Answer:
    await call.engine.run(lifecycle.restart, call.path["name"], call.text("signal"), call.number("t"))
    return NO_CONTENT


async def kill(call: Call) -> Answer:
    await call.engine.run(lifecycle.kill, call.path["name"], call.text("signal"))
    return NO_CONTENT


async def pause(call: Call) -> Answer:
    await call.engine.run(lifecycle.pause, call.path["name"])
    return NO_CONTENT


async def unpause(call: Call) -> Answer:
    await call.engine.run(lifecycle.unpause, call.path["name"])
    return NO_CONTENT


async def rename(call: Call) -> Answer:
    await call.engine.run(containers.rename, call.path["name"], call.text("name"))
    return NO_CONTENT


async def update(call: Call) -> Answer:
    request = await call.json(ContainerUpdateRequest)
    return answer.json(await call.engine.run(containers.update, call.path["name"], request))


async def remove(call: Call) -> Answer:
    if "/" in call.path["name"] and not call.flag("link"):  # the name of a link
        raise NoSuchContainer(call.path["name"])
    released = await call.engine.run(
        containers.remove, call.path["name"], call.flag("force"), call.flag("v"), call.flag("link")
    )
    return answer.removed(released, NO_CONTENT)


async def prune(call: Call) -> Answer:
    job = previews.containers if call.flag("dry-run") else containers.prune
    return answer.json(await call.engine.run(job, call.filters()))


async def top(call: Call) -> Answer:
    return answer.json(await call.engine.run(containers.top, call.path["name"], call.text("ps_args")))


async def changes(call: Call) -> Answer:
    found = await call.engine.run(containers.changes, call.path["name"])
    return answer.json(found or None)  # Docker's nil slice


async def export(call: Call) -> Answer:
    chunks = await call.engine.run(commits.export, call.path["name"])
    return Stream(await after_first(chunks), "application/octet-stream")


def _path(call: Call) -> str:
    path = call.text("path")
    if not path:
        raise InvalidParameter("bad parameter: pathcannot be empty")  # Docker's words, to the letter
    return path


def _stat_header(found: PathStat) -> tuple[tuple[str, str], ...]:
    return (("X-Docker-Container-Path-Stat", b64encode(codec.encode(found)).decode()),)


async def archive_stat(call: Call) -> Answer:
    found = await call.engine.run(archives.stat, call.path["name"], _path(call))
    return Reply(200, headers=_stat_header(found))


async def archive(call: Call) -> Answer:
    found, chunks = await call.engine.run(archives.read, call.path["name"], _path(call))
    return Stream(chunks, "application/x-tar", _stat_header(found))


async def extract(call: Call) -> Answer:
    await call.engine.run(
        archives.write,
        call.path["name"],
        _path(call),
        call.body,
        call.flag("noOverwriteDirNonDir"),
        call.flag("copyUIDGID"),
    )
    return answer.OK


async def commit(call: Call) -> Answer:
    data = await call.json_bytes()
    config = codec.decode(data, ContainerConfig) if data and has_keys_besides(data) else None
    id = await call.engine.run(
        commits.commit,
        call.text("container"),
        call.text("repo"),
        call.text("tag"),
        call.text("author"),
        call.text("comment"),
        call.texts("changes"),
        config,
        call.flag("pause", default=True),
    )
    return answer.json({"Id": id}, 201)


async def bundle(call: Call) -> Answer:
    chunks = await call.engine.run(bundles.bundle, call.path["name"])
    return Stream(await after_first(chunks), "application/x-tar")


async def wait(call: Call) -> Answer:
    """The header goes out at once: the docker client starts the container only when it has seen it."""
    condition = call.text("condition") if call.version >= versions.WAIT_CONDITION else ""
    if condition and condition not in _CONDITIONS:
        raise InvalidParameter(f'invalid condition: "{condition}"')
    waiting = await call.engine.run(lifecycle.wait, call.path["name"], condition or "not-running")
    return Stream(_waited(waiting))


async def _waited(waiting: Awaitable[ContainerWaitResponse]) -> AsyncIterator[bytes]:
    try:
        result = await waiting
    except PierheadError as error:
        result = ContainerWaitResponse(status_code=-1, error=ContainerWaitExitError(message=str(error)))
    yield codec.encode(result) + b"\n"


async def attach(call: Call) -> Answer:
    options = AttachOptions(
        logs=call.flag("logs"),
        stream=call.flag("stream"),
        stdin=call.flag("stdin"),
        stdout=call.flag("stdout"),
        stderr=call.flag("stderr"),
    )
    keys = detach.parse(call.text("detachKeys"))
    attached = await call.engine.run(streams.attach, call.path["name"], options)
    return Hijack(
        attached,
        _content_type(call, attached.terminal),
        stdin=options.stdin,
        detach_keys=keys if attached.terminal else b"",
    )


async def logs(call: Call) -> Answer:
    if not (call.flag("stdout") or call.flag("stderr")):
        raise InvalidParameter("Bad parameters: you must choose at least one stream")
    options = LogOptions(
        stdout=call.flag("stdout"),
        stderr=call.flag("stderr"),
        follow=call.flag("follow"),
        timestamps=call.flag("timestamps"),
        details=call.flag("details"),
        since=parse_moment(call.text("since"), "since"),
        until=parse_moment(call.text("until"), "until"),
        tail=_tail(call.text("tail")),
    )
    found = await call.engine.run(streams.logs, call.path["name"], options)
    return Stream(found.chunks, _content_type(call, found.terminal))


async def truncate_logs(call: Call) -> Answer:
    return answer.json(await call.engine.run(log_truncation.truncate, call.path["name"]))


def _tail(text: str) -> int:
    """Everything that is no number means all, as in Docker."""
    return int(text) if text.isascii() and text.isdigit() else -1


def _content_type(call: Call, terminal: bool) -> str:
    return RAW_STREAM if terminal or call.version < versions.MULTIPLEXED_STREAM_TYPE else MULTIPLEXED_STREAM


async def stats(call: Call) -> Answer:
    stream = call.flag("stream", default=True)
    one_shot = call.flag("one-shot") and call.version >= versions.STATS_ONE_SHOT
    if stream and one_shot:
        raise InvalidParameter("cannot have stream=true and one-shot=true")
    samples = await call.engine.run(streams.stats, call.path["name"], stream, one_shot)
    return Stream(lines(samples if stream else await after_first(samples)))


async def resize(call: Call) -> Answer:
    rows, columns = dimensions(call)
    await call.engine.run(streams.resize, call.path["name"], rows, columns)
    return answer.OK


def dimensions(call: Call) -> tuple[int, int]:
    """h and w of a terminal. Raises InvalidParameter."""
    sizes = []
    for name, what in (("h", "height"), ("w", "width")):
        text = call.text(name)
        if not (text.isascii() and text.isdigit()):
            raise InvalidParameter(
                f'invalid resize {what} "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
            )
        if int(text) > 65535:
            raise InvalidParameter(
                f'invalid resize {what} "{text}": strconv.ParseUint: parsing "{text}": value out of range'
            )
        sizes.append(int(text))
    return sizes[0], sizes[1]


ROUTES = (
    Route("GET", "/containers/json", list_),
    Route("POST", "/containers/create", create),
    Route("POST", "/containers/prune", prune),
    Route("GET", "/containers/{name}/json", inspect),
    Route("POST", "/containers/{name}/start", start),
    Route("POST", "/containers/{name}/stop", stop),
    Route("POST", "/containers/{name}/restart", restart),
    Route("POST", "/containers/{name}/kill", kill),
    Route("POST", "/containers/{name}/pause", pause),
    Route("POST", "/containers/{name}/unpause", unpause),
    Route("POST", "/containers/{name}/rename", rename),
    Route("POST", "/containers/{name}/update", update),
    Route("POST", "/containers/{name}/wait", wait, cancellable=True),
    Route("POST", "/containers/{name}/attach", attach),
    Route("POST", "/containers/{name}/resize", resize),
    Route("GET", "/containers/{name}/logs", logs, cancellable=True),
    Route("GET", "/containers/{name}/stats", stats, cancellable=True),
    Route("GET", "/containers/{name}/top", top),
    Route("GET", "/containers/{name}/changes", changes),
    Route("DELETE", "/containers/{name}/checkpoints/{checkpoint}", no_checkpoints),
    Route("DELETE", "/containers/{name*}", remove),
    Route("GET", "/containers/{name}/export", export, cancellable=True),
    Route("HEAD", "/containers/{name}/archive", archive_stat),
    Route("GET", "/containers/{name}/archive", archive, cancellable=True),
    Route("PUT", "/containers/{name}/archive", extract, cancellable=True),
    Route("POST", "/commit", commit),
    Route("POST", "/pierhead/containers/{name}/logs/truncate", truncate_logs),
    Route("GET", "/pierhead/containers/{name}/bundle", bundle, cancellable=True),
)
