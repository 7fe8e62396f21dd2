"""Log drivers: what ``--log-driver`` and ``--log-opt`` ask for, as the one format that the shim writes.

``json-file`` is Docker's.  ``local`` is kept in the same file: Docker's own format is for its daemon alone, and what
clients see of the driver are its options, its bounds, and that LogPath stays empty.
"""

import re

from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.jobs.describe import args_of, config_of, variables
from pierhead.daemon.jobs.files import log_path
from pierhead.driver.execdriver.api import LogConfig
from pierhead.errors import InvalidParameter
from pierhead.graph.containers import Container
from pierhead.wire.containers import HostConfig

DRIVERS = ("json-file", "local", "none")
DEFAULT_LOG_SIZE = 20 * 1000 * 1000
DEFAULT_LOG_FILES = 5
_DIGITS = 9
"""Of a number, the most: with every unit an int64 holds it."""
_UNITS = {"": 1, "b": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "kb": 1000, "mb": 1000**2, "gb": 1000**3}
_BOTH = {"max-size", "max-file", "compress", "mode", "max-buffer-size"}
_TOLD = {"labels", "env", "tag"}
"""Options that have something said by every entry."""
_OPTIONS = {"json-file": _BOTH | _TOLD, "local": _BOTH}
_PATTERNS = {"labels-regex": "labels", "env-regex": "env"}
"""Docker's patterns take time that grows with the text; Python's may take for ever, and images name variables."""
_FIELD = re.compile(r"\{\{-? *\.(\w+) *-?\}\}")


def log_config(engine: Engine, container: Container, host: HostConfig) -> LogConfig:
    """The log of a container; bounded even where nothing was said. Raises InvalidParameter for bad options."""
    options = (host.log_config.config or {}) if host.log_config else {}
    kind = (host.log_config.type if host.log_config else "") or "json-file"
    if kind == "none":
        return LogConfig()
    if kind not in _OPTIONS:
        raise InvalidParameter(f"logger: no log driver named '{kind}' is registered")
    for option in options:
        if kind == "json-file" and option in _PATTERNS:
            raise InvalidParameter(f"log opt '{option}' is not supported: name them with '{_PATTERNS[option]}'")
        if option not in _OPTIONS[kind]:
            where = "json-file log driver" if kind == "json-file" else f"log driver {kind}"
            raise InvalidParameter(f"unknown log opt '{option}' for {where}")
    size = _size(options["max-size"]) if options.get("max-size", "-1") != "-1" else DEFAULT_LOG_SIZE
    few = kind == "json-file" and "max-size" in options
    count = options.get("max-file", str(1 if few else DEFAULT_LOG_FILES))
    if not count.isascii() or not count.isdigit() or len(count) > _DIGITS or int(count) < 1:
        raise InvalidParameter(f"invalid value for max-file: {count!r}: it must be a number of at least 1")
    attrs = _attributes(container, options) if options.keys() & _TOLD else ()
    return LogConfig(path=log_path(engine, container.id), max_size=size, max_files=int(count), attrs=attrs)


def shown_path(engine: Engine, container: Container, host: HostConfig) -> str:
    """``LogPath``: a file that others may read, so json-file's alone."""
    return log_path(engine, container.id) if host.log_config is None or host.log_config.type == "json-file" else ""


def _size(text: str) -> int:
    number = text.rstrip("bBkKmMgG")
    unit = text[len(number) :].lower()
    if not number.isascii() or not number.isdigit() or len(number) > _DIGITS or unit not in _UNITS:
        raise InvalidParameter(f"invalid value for max-size: invalid size: '{text}'")
    return int(number) * _UNITS[unit]


def _attributes(container: Container, options: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """What every entry of the log says besides: labels and variables that were asked for, and the tag."""
    config = config_of(container)
    found: dict[str, str] = {}
    for option, known in (("labels", config.labels or {}), ("env", variables(config))):
        named = options.get(option, "").split(",")
        found |= {key: value for key, value in known.items() if key in named}
    if tag := options.get("tag"):
        found["tag"] = _FIELD.sub(lambda field: _field(container, field), tag)
    return tuple(found.items())


def _field(container: Container, field: re.Match[str]) -> str:
    """A field of a tag's template; whatever else a template can say stays as it is written."""
    id, image = container.id, container.image_id
    fields = {
        "ID": id[:12],
        "FullID": id,
        "ContainerID": id,
        "Name": container.name,
        "FullName": f"/{container.name}",
        "ContainerName": f"/{container.name}",
        "ImageID": image[:12],
        "ImageFullID": image,
        "ContainerImageID": image,
        "ImageName": container.image_name,
        "ContainerImageName": container.image_name,
        "DaemonName": "docker",
    }
    if field[1] == "Command":
        return " ".join((container.path, *args_of(container)))
    return fields.get(field[1], field[0])
