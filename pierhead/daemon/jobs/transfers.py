"""Jobs that move images as archives: import, load, save. Each runs in a thread of its own, fed and read by the loop."""

import asyncio
import os
import re
import shlex
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import BinaryIO, cast

import msgspec

from pierhead import manifest
from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.jobs.image_names import event, find, names_id, parse_target
from pierhead.daemon.jobs.pipes import Cancelled, Inflow, Outflow, on_loop, pour, stream
from pierhead.daemon.jobs.progress import bar
from pierhead.daemon.jobs.progress import size as size_of
from pierhead.daemon.jobs.registries import hosts
from pierhead.errors import InvalidParameter, NoSuchImage, NotFound
from pierhead.graph import loading, saving
from pierhead.graph.graph import Image
from pierhead.graph.importing import host_architecture, import_rootfs
from pierhead.graph.stream import limited
from pierhead.reference import Reference, parse
from pierhead.registry.fetch import Download, Fetch
from pierhead.wire import codec
from pierhead.wire.containers import ContainerConfig, HealthConfig
from pierhead.wire.images import JSONMessage, ProgressDetail
from pierhead.wire.time import parse_duration

STEP = 4 << 20
"""Bytes between two progress messages of one layer."""
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)


# -- import -----------------------------------------------------------------------------------------------------------


async def import_(
    engine: Engine,
    source: AsyncIterator[bytes],
    origin: str,
    repo: str,
    tag: str,
    message: str,
    changes: Sequence[str],
    platform: str,
) -> AsyncIterator[JSONMessage]:
    """A root file system archive becomes an image. Raises InvalidParameter before anything is read.

    origin: "-" for what the client sends, else where the daemon is to get it from (http, https).
    """
    reference = parse_target(repo, tag)
    config = ContainerConfig()
    for change in changes:
        apply_change(config, change)
    wanted = manifest.parse_platform(platform, manifest.Platform("linux", host_architecture()))
    if wanted.os != "linux":
        raise InvalidParameter(f'operating system "{wanted.os}" is not supported')

    async def imported(image: Image) -> None:
        event(engine, "import", image, reference.familiar if reference else "")

    done = on_loop(imported)

    def make(archive: BinaryIO, out: Outflow[JSONMessage]) -> None:
        image = import_rootfs(
            engine.graph,
            archive,
            codec.encode(config),
            message or f"Imported from {origin}",
            wanted.architecture,
            wanted.variant,
            reference,
        )
        done(image)
        out.put(JSONMessage(status=image.id))

    if origin == "-":
        flow = Inflow(source, asyncio.get_running_loop())
        return stream(lambda out: make(cast("BinaryIO", flow), out), "image import", flow.cancel)
    fetch = Fetch(origin, hosts(engine))

    def download(out: Outflow[JSONMessage]) -> None:
        with fetch.answer() as found:
            out.put(JSONMessage(status=f"Downloading from {fetch.url}"))
            make(cast("BinaryIO", _Told(found, out)), out)

    return stream(download, "image import", fetch.cancel)


class _Told:
    """What is downloaded, said while it is read."""

    def __init__(self, found: Download, out: Outflow[JSONMessage]) -> None:
        self._found = found
        self._out = out
        self._count = self._told = 0

    def read(self, size: int = -1, /) -> bytes:
        piece = self._found.read(size)
        self._count += len(piece)
        if self._count - self._told >= STEP or not piece:
            self._told, total = self._count, self._found.total
            shown = bar(self._count, total) if total else size_of(self._count)
            detail = ProgressDetail(current=self._count, total=total)
            self._out.put(JSONMessage(status="Importing", progress=shown, progress_detail=detail))
        return piece


def apply_change(config: ContainerConfig, change: str) -> None:
    """One ``--change``: a Dockerfile instruction that only touches the configuration. Raises InvalidParameter."""
    word, _, rest = change.strip().partition(" ")
    rest = rest.strip()
    name = word.upper()
    if name not in _CHANGES:
        raise InvalidParameter(f"{name.lower() or change} is not a valid change command")
    if not rest and name not in ("CMD", "ENTRYPOINT"):
        raise InvalidParameter(f"{name} requires at least one argument")
    _CHANGES[name](config, rest)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InvalidParameter(f"invalid change {text!r}: {error}") from None


def _command(text: str) -> list[str]:
    """The JSON form, or a line for the shell."""
    if text.startswith("["):
        try:
            return msgspec.json.decode(text, type=list[str])
        except msgspec.DecodeError:
            pass
    return ["/bin/sh", "-c", text] if text else []


def _pairs(text: str, what: str) -> dict[str, str]:
    words = _words(text)
    if "=" not in words[0]:
        key, _, value = text.partition(" ")
        if not value:
            raise InvalidParameter(f"{what} must have two arguments")
        return {key: value.strip()}
    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InvalidParameter(f"Syntax error - can't find = in {word!r}. Must be of the form: name=value")
        pairs[key] = value
    return pairs


def _env(config: ContainerConfig, text: str) -> None:
    pairs = _pairs(text, "ENV")
    kept = [entry for entry in config.env or [] if entry.partition("=")[0] not in pairs]
    config.env = kept + [f"{key}={value}" for key, value in pairs.items()]


def _label(config: ContainerConfig, text: str) -> None:
    config.labels = {**(config.labels or {}), **_pairs(text, "LABEL")}


def _expose(config: ContainerConfig, text: str) -> None:
    ports = dict(config.exposed_ports or {})
    for word in _words(text):
        match = _PORT.fullmatch(word)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if match is None or not 0 < low <= high < 65536:
            raise InvalidParameter(f"invalid containerPort: {word}")
        for port in range(low, high + 1):
            ports[f"{port}/{(match[3] or 'tcp').lower()}"] = {}
    config.exposed_ports = ports


def _volume(config: ContainerConfig, text: str) -> None:
    names = _command(text) if text.startswith("[") else _words(text)
    config.volumes = {**(config.volumes or {}), **codec.decode(codec.encode({n: {} for n in names}), dict)}


def _workdir(config: ContainerConfig, text: str) -> None:
    config.working_dir = os.path.normpath(os.path.join(config.working_dir or "/", text))


def _set(field: str) -> Callable[[ContainerConfig, str], None]:
    return lambda config, text: setattr(config, field, text)


def _set_command(field: str) -> Callable[[ContainerConfig, str], None]:
    return lambda config, text: setattr(config, field, _command(text))


def _onbuild(config: ContainerConfig, text: str) -> None:
    config.on_build = [*(config.on_build or []), text]


_HEALTH_TIMES = {
    "interval": "interval",
    "timeout": "timeout",
    "start-period": "start_period",
    "start-interval": "start_interval",
}


def _healthcheck(config: ContainerConfig, text: str) -> None:
    """NONE, or [--interval=1m --timeout=…] CMD and a command."""
    health = HealthConfig()
    kind, _, rest = text.partition(" ")
    while kind.startswith("--"):
        name, _, value = kind[2:].partition("=")
        try:
            if name == "retries":
                health.retries = int(value)
            elif name in _HEALTH_TIMES:
                setattr(health, _HEALTH_TIMES[name], parse_duration(value))
            else:
                raise InvalidParameter(f"unknown flag: --{name}")
        except ValueError as error:
            raise InvalidParameter(str(error)) from None
        kind, _, rest = rest.lstrip().partition(" ")
    rest = rest.strip()
    if kind.upper() == "NONE":
        if rest or health != HealthConfig():
            raise InvalidParameter("HEALTHCHECK NONE takes no arguments")
        health.test = ["NONE"]
    elif kind.upper() != "CMD":
        raise InvalidParameter(f"Unknown type {kind.upper()!r} in HEALTHCHECK (try CMD)".replace("'", '"'))
    elif not rest:
        raise InvalidParameter("Missing command after HEALTHCHECK CMD")
    else:
        words = _command(rest)
        health.test = ["CMD-SHELL", rest] if words[:2] == ["/bin/sh", "-c"] else ["CMD", *words]
    config.healthcheck = health


_CHANGES: dict[str, Callable[[ContainerConfig, str], None]] = {
    "CMD": _set_command("cmd"),
    "ENTRYPOINT": _set_command("entrypoint"),
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _set("stop_signal"),
    "USER": _set("user"),
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}


# -- load -------------------------------------------------------------------------------------------------------------


async def load(
    engine: Engine, source: AsyncIterator[bytes], quiet: bool, platform: manifest.Platform | None = None
) -> AsyncIterator[JSONMessage]:
    """Every image of an archive, all or none; with a platform: those that are of it."""
    flow = Inflow(source, asyncio.get_running_loop())

    async def told(image: Image) -> None:
        event(engine, "load", image)

    loaded = on_loop(told)
    parallel, most = engine.config.max_concurrent_unpacks, engine.config.max_layers

    def work(out: Outflow[JSONMessage]) -> None:
        told: dict[str, int] = {}

        def progress(diff_id: str, count: int, total: int) -> None:
            if out.cancelled:
                raise Cancelled
            if quiet or (count < total and count - told.get(diff_id, 0) < STEP) or told.get(diff_id) == count:
                return
            told[diff_id] = count
            out.put(
                JSONMessage(
                    status="Loading layer",
                    id=diff_id[7:19],
                    progress=bar(count, total),
                    progress_detail=ProgressDetail(current=count, total=total),
                )
            )

        # Without a name: nothing is left of it, whatever ends this process.
        with tempfile.TemporaryFile(dir=engine.graph.scratch) as spool:
            for piece in limited(cast("BinaryIO", flow), replace(engine.graph.limits, size=0)):
                spool.write(piece)
            spool.flush()
            for found in loading.load(engine.graph, spool.fileno(), progress, parallel, most, platform):
                for name, before in found.moved:
                    out.put(
                        JSONMessage(
                            stream=f"The image {name.familiar} already exists, renaming the old one with ID {before} "
                            "to empty string\n"
                        )
                    )
                loaded(found.image)
                for name in found.names:
                    out.put(JSONMessage(stream=f"Loaded image: {name.familiar}\n"))
                if not found.names:
                    out.put(JSONMessage(stream=f"Loaded image ID: {found.image.id}\n"))

    return stream(work, "image load", flow.cancel)


# -- save -------------------------------------------------------------------------------------------------------------


async def save(engine: Engine, names: Sequence[str], platform: manifest.Platform | None = None) -> AsyncIterator[bytes]:
    """Images as one archive. platform: what each must be of. Raises NotFound before it begins."""
    if platform is not None:
        for name in names:
            find(engine, name, platform)
    chosen = await blocking(lambda: saving.choose(engine.graph, [_chosen(engine, name) for name in names]))
    for item in chosen:
        event(engine, "save", item.image)

    def work(out: Outflow[bytes]) -> None:
        pour(saving.save(engine.graph, chosen), out)

    return stream(work, "image save")


def _chosen(engine: Engine, name: str) -> tuple[str, Reference | None]:
    try:
        image = find(engine, name)
    except NoSuchImage:
        reference = parse(name)
        if reference.is_name_only:  # there may be other tags than "latest"
            for id, known in engine.graph.tags.all().items():
                if any(other.name == reference.name and other.digest is None for other in known):
                    return id, reference
            raise NotFound(f"No such image: {name}") from None
        raise NotFound("reference does not exist") from None
    return image.id, None if names_id(image.id, name) else parse(name)
