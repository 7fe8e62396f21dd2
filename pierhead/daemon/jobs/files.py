"""A container's own folder: hosts, hostname, resolv.conf, and where the log is."""

import hashlib
import os

from pierhead.daemon.engine.engine import Engine
from pierhead.linux.idmap import IdMaps


def own_folder(engine: Engine, id: str) -> str:
    """<data root>/containers/<id>, whether it is there or not."""
    return os.path.join(engine.config.data_root, "containers", id)


def container_folder(engine: Engine, id: str) -> str:
    """The same, made if it is missing: only for who holds the container's lock, lest it comes back after a removal."""
    folder = own_folder(engine, id)
    if not os.path.isdir(folder):
        try:
            os.mkdir(folder, 0o710)
        except FileNotFoundError:  # somebody has deleted all of them
            os.makedirs(os.path.dirname(folder), 0o710, exist_ok=True)
            os.mkdir(folder, 0o710)
    return folder


def log_path(engine: Engine, id: str) -> str:
    """The newest log file, at Docker's LogPath."""
    return os.path.join(own_folder(engine, id), f"{id}-json.log")


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
