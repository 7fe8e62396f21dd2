"""A container's own folder: hosts, hostname, resolv.conf and the log."""

import hashlib
import os

from pierhead.daemon.engine.engine import Engine
from pierhead.driver.execdriver.api import LogConfig
from pierhead.errors import InvalidParameter
from pierhead.graph.containers import Container
from pierhead.linux.idmap import IdMaps
from pierhead.wire.containers import HostConfig

DEFAULT_LOG_SIZE = 20 * 1000 * 1000
DEFAULT_LOG_FILES = 5
_UNITS = {"": 1, "b": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "kb": 1000, "mb": 1000**2, "gb": 1000**3}


def container_folder(engine: Engine, id: str) -> str:
    """<data root>/containers/<id>; made if it is missing."""
    folder = os.path.join(engine.config.data_root, "containers", id)
    if not os.path.isdir(folder):
        os.mkdir(folder, 0o710)
    return folder


def log_path(engine: Engine, id: str) -> str:
    """The newest log file, at Docker's LogPath."""
    return os.path.join(engine.config.data_root, "containers", id, f"{id}-json.log")


def digest(content: bytes) -> bytes:
    """What is kept beside a file that the container may change, to know whether it has."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}".encode()


def write_files(folder: str, hostname: str, hosts: bytes, resolv: bytes, maps: IdMaps | None = None) -> None:
    """Write what is bound to /etc/hostname, /etc/hosts and /etc/resolv.conf, and the digest of the last.

    maps: of the container's user namespace, whose root owns them.
    """
    files = {
        "hostname": f"{hostname}\n".encode(),
        "hosts": hosts,
        "resolv.conf": resolv,
        "resolv.conf.hash": digest(resolv),
    }
    for name, content in files.items():
        descriptor = os.open(
            os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644
        )
        try:
            os.write(descriptor, content)
            if maps is not None and name != "resolv.conf.hash":  # that one is ours
                os.fchown(descriptor, *maps.root)
        finally:
            os.close(descriptor)


def _size(text: str) -> int:
    number = text.rstrip("bBkKmMgG")
    unit = text[len(number) :].lower()
    if not number.isascii() or not number.isdigit() or unit not in _UNITS:
        raise InvalidParameter(f"invalid value for max-size: invalid size: '{text}'")
    return int(number) * _UNITS[unit]


def log_config(engine: Engine, container: Container, host: HostConfig) -> LogConfig:
    """The log of a container; bounded even where nothing was said. Raises InvalidParameter for bad options."""
    options = (host.log_config.config or {}) if host.log_config else {}
    kind = (host.log_config.type if host.log_config else "") or "json-file"
    if kind == "none":
        return LogConfig()
    if kind != "json-file":
        raise InvalidParameter(f"logger: no log driver named '{kind}' is registered")
    for option in options:
        if option not in ("max-size", "max-file", "labels", "env", "tag", "mode", "compress", "max-buffer-size"):
            raise InvalidParameter(f"unknown log opt '{option}' for json-file log driver")
    size = _size(options["max-size"]) if options.get("max-size", "-1") != "-1" else DEFAULT_LOG_SIZE
    count = options.get("max-file", str(DEFAULT_LOG_FILES if "max-size" not in options else 1))
    if not count.isascii() or not count.isdigit() or int(count) < 1:
        raise InvalidParameter(f"invalid value for max-file: {count!r}: it must be a number of at least 1")
    return LogConfig(path=log_path(engine, container.id), max_size=size, max_files=int(count))
