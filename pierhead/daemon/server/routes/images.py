"""Images."""

from pierhead.daemon.jobs import images, pins, previews, registries
from pierhead.daemon.server import answer
from pierhead.daemon.server.answer import Answer, Stream
from pierhead.daemon.server.call import Call
from pierhead.daemon.server.progress import after_first, progress
from pierhead.daemon.server.router import Route
from pierhead.errors import InvalidParameter
from pierhead.manifest import Platform
from pierhead.wire import codec, versions
from pierhead.wire.containers import ContainerConfig
from pierhead.wire.images import ImageInspect, ImageSummary, OCIPlatform


async def list_(call: Call) -> Answer:
    found = await call.engine.run(
        images.list,
        call.flag("all"),
        call.filters(),
        call.flag("digests"),
        call.flag("shared-size"),
        call.flag("manifests"),
    )
    if call.version < versions.IMAGE_VIRTUAL_SIZE_GONE:
        for image in found:
            _add_virtual_size(image)
    return answer.json(found)


def _add_virtual_size(image: ImageSummary | ImageInspect) -> None:
    image.virtual_size = image.size


def _decoded(text: str) -> Platform:
    try:
        wanted = codec.decode(text.encode(), OCIPlatform)
    except InvalidParameter as error:
        raise InvalidParameter(f"failed to parse platform: {error}") from None
    if not wanted.os and not wanted.architecture and (wanted.variant or wanted.os_version or wanted.os_features):
        raise InvalidParameter("optional platform fields provided, but OS and Architecture are missing")
    if not wanted.os or not wanted.architecture:
        raise InvalidParameter("both OS and Architecture must be provided")
    return Platform(wanted.os, wanted.architecture, wanted.variant)


def _platform(call: Call, since: versions.Version) -> Platform | None:
    """The parameter ``platform``, the OCI's JSON; clients before ``since`` do not have it. Raises InvalidParameter."""
    given = call.texts("platform") if call.version >= since else ()
    if len(given) > 1:
        raise InvalidParameter("multiple platform parameters not supported")
    return _decoded(given[0]) if given and given[0] else None


async def inspect(call: Call) -> Answer:
    platform = _platform(call, versions.IMAGE_INSPECT_PLATFORM)
    if platform is not None and call.flag("manifests"):
        raise InvalidParameter("conflicting options: manifests and platform options cannot both be set")
    found = await call.engine.run(images.inspect, call.path["name"], platform)
    if call.version < versions.IMAGE_VIRTUAL_SIZE_GONE:
        _add_virtual_size(found)
    if call.version >= versions.IMAGE_CONTAINER_GONE:
        found.container, found.container_config = "", None
    if call.version >= versions.IMAGE_LEGACY_CONFIG_GONE:
        return answer.json(found)
    # Older clients expect every field of a container's Config, the empty ones too.
    value = codec.to_builtins(found)
    value["Config"] = codec.to_builtins(ContainerConfig()) | value.get("Config", {})
    return answer.json(value)


async def history(call: Call) -> Answer:
    platform = _platform(call, versions.IMAGE_PLATFORM)
    return answer.json(await call.engine.run(images.history, call.path["name"], platform))


async def tag(call: Call) -> Answer:
    await call.engine.run(images.tag, call.path["name"], call.text("repo"), call.text("tag"))
    return answer.CREATED


async def remove(call: Call) -> Answer:
    wanted = call.texts("platforms") if call.version >= versions.IMAGE_REMOVE_PLATFORMS else ()
    platforms = tuple(map(_decoded, wanted))
    removed, released = await call.engine.run(
        images.remove, call.path["name"], call.flag("force"), call.flag("noprune"), platforms
    )
    return answer.removed(released, answer.json(removed))


async def prune(call: Call) -> Answer:
    job = previews.images if call.flag("dry-run") else images.prune
    return answer.json(await call.engine.run(job, call.filters()))


async def pinned(call: Call) -> Answer:
    """Our own, as the next two."""
    return answer.json(await call.engine.run(pins.pinned))


async def pin(call: Call) -> Answer:
    await call.engine.run(pins.pin, call.path["name"])
    return answer.NO_CONTENT


async def unpin(call: Call) -> Answer:
    await call.engine.run(pins.unpin, call.path["name"])
    return answer.NO_CONTENT


async def create(call: Call) -> Answer:
    """Pull (fromImage) or import (fromSrc)."""
    platform = call.text("platform")
    if name := call.text("fromImage"):
        reference = _reference(name, call.text("tag"))
        return await progress(await call.engine.run(images.pull, reference, platform, call.registry_auth()))
    source = call.text("fromSrc")
    if not source:
        raise InvalidParameter("neither fromImage nor fromSrc given")
    messages = await call.engine.run(
        images.import_,
        call.body,
        source,
        call.text("repo"),
        call.text("tag"),
        call.text("message"),
        call.texts("changes"),
        platform,
    )
    return await progress(messages)


def _reference(name: str, tag: str) -> str:
    if not tag:
        return name
    return f"{name}@{tag}" if ":" in tag else f"{name}:{tag}"


async def push(call: Call) -> Answer:
    platform = _platform(call, versions.IMAGE_PUSH_PLATFORM)
    messages = await call.engine.run(images.push, call.path["name"], call.text("tag"), platform, call.registry_auth())
    return await progress(messages)


async def distribution(call: Call) -> Answer:
    return answer.json(await call.engine.run(registries.distribution, call.path["name"], call.registry_auth()))


async def load(call: Call) -> Answer:
    quiet = call.flag("quiet", default=True)
    platform = _platform(call, versions.IMAGE_PLATFORM)
    return await progress(await call.engine.run(images.load, call.body, quiet, platform), refusing=False)


async def save(call: Call) -> Answer:
    names = (call.path["name"],) if "name" in call.path else call.texts("names")
    names = tuple(part for name in names for part in name.split(",") if part)
    if not names:
        raise InvalidParameter("no images given: names is missing")
    chunks = await call.engine.run(images.save, names, _platform(call, versions.IMAGE_PLATFORM))
    return Stream(await after_first(chunks), "application/x-tar")


async def search(call: Call) -> Answer:
    try:
        limit = call.number("limit")
    except InvalidParameter as error:
        raise InvalidParameter(f"invalid limit specified: {error}") from None
    found = await call.engine.run(registries.search, call.text("term"), limit, call.filters(), call.registry_auth())
    return answer.json(found)


ROUTES = (
    Route("GET", "/images/json", list_),
    Route("GET", "/images/search", search, cancellable=True),
    Route("POST", "/images/create", create, cancellable=True),
    Route("POST", "/images/load", load, cancellable=True),
    Route("POST", "/images/prune", prune),
    Route("GET", "/images/pins", pinned),
    Route("POST", "/images/{name*}/pin", pin),
    Route("DELETE", "/images/{name*}/pin", unpin),
    Route("GET", "/images/get", save, cancellable=True),
    Route("GET", "/images/{name*}/get", save, cancellable=True),
    Route("GET", "/images/{name*}/json", inspect),
    Route("GET", "/images/{name*}/history", history),
    Route("POST", "/images/{name*}/tag", tag),
    Route("GET", "/distribution/{name*}/json", distribution, cancellable=True),
    Route("POST", "/images/{name*}/push", push, cancellable=True),
    Route("DELETE", "/images/{name*}", remove),
)
