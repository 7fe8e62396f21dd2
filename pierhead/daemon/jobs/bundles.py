"""A container as an OCI bundle: config.json, and its root file system as it is now, for ``runc run`` and the like.

The bundle stands alone: what the engine gives a container while it runs (its network, its published ports, its names,
its log) is not in it.  Binds and volumes are named by their paths on this host.
"""

import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.jobs import specs
from pierhead.daemon.jobs.describe import config_of, host_config_of
from pierhead.daemon.jobs.files import container_folder
from pierhead.daemon.jobs.pipes import Outflow, stream
from pierhead.driver.graphdriver.pack import END, Packer, header
from pierhead.driver.graphdriver.tar import BLOCK, DIRECTORY, REGULAR, Entry
from pierhead.driver.graphdriver.tree import walk
from pierhead.errors import Conflict, InvalidParameter
from pierhead.graph.containers import Container
from pierhead.graph.state import State
from pierhead.libcontainer import oci
from pierhead.libcontainer.spec import Mount, NamespaceMode, NetworkSetup, Spec
from pierhead.libcontainer.user import Identity, UserError, resolve
from pierhead.linux.mount import DirectoryRoot

FILES = "files"
"""The folder of a bundle with what the engine binds into /etc."""

_HOSTS = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


async def bundle(engine: Engine, name: str) -> AsyncIterator[bytes]:
    """The bundle as a tar stream. Raises NoSuchContainer, Conflict, InvalidParameter."""
    container = engine.containers.find(name)
    if container.state is State.REMOVING:
        raise Conflict(f"container {container.name} is being removed")
    spec = _spec(engine, container)
    files = _files(engine, container, spec)

    def work(out: Outflow[bytes]) -> None:
        root = engine.layers.open_root(container.layer_id)
        try:
            for piece in _archive(root, _configuration(spec, files, root), files):
                out.put(piece)
        finally:
            os.close(root)

    return stream(work, "bundle")


def _spec(engine: Engine, container: Container) -> Spec:
    """What a start of it would make, but for what belongs to the engine's run of it."""
    made = specs.build(
        engine, container, config_of(container), host_config_of(container), DirectoryRoot(oci.ROOT), NetworkSetup()
    )
    if made.process.user_maps is not None:
        raise Conflict(
            f"container {container.name} has a user namespace (--userns-remap), for which the engine shows its files "
            "with other owners: a bundle stands alone"
        )
    joined = [oci.NAMESPACES[kind] for kind, mode in made.namespaces.items() if mode is NamespaceMode.JOIN]
    if joined:
        raise Conflict(
            f"container {container.name} shares the {' and '.join(joined)} namespace of another container: "
            "a bundle stands alone"
        )
    return replace(made, cgroup="")  # below our own mark it would be taken for one of ours that nobody knows


def _files(engine: Engine, container: Container, spec: Spec) -> dict[str, bytes]:
    """Contents of /etc/hostname and its like, by the path that they are bound from; as the last start wrote them."""
    folder = container_folder(engine, container.id)
    found = {}
    for name in ("hostname", "hosts", "resolv.conf"):
        path = os.path.join(folder, name)
        try:
            with open(path, "rb") as file:
                found[path] = file.read()
        except FileNotFoundError:
            found[path] = _never_started(name, spec.hostname)
    return found


def _never_started(name: str, hostname: str) -> bytes:
    if name == "hostname":
        return f"{hostname}\n".encode()
    if name == "hosts":
        return _HOSTS
    try:
        with open("/etc/resolv.conf", "rb") as file:
            return file.read()
    except OSError:
        return b""  # this host has none


def _configuration(spec: Spec, files: dict[str, bytes], root: int) -> bytes:
    try:
        identity = resolve(root, spec.process.user, spec.process.groups)
        config = oci.config(replace(spec, mounts=tuple(_inside(mount, files) for mount in spec.mounts)))
    except (UserError, ValueError) as error:
        raise InvalidParameter(str(error)) from error
    _become(config, identity)
    return json.dumps(config, indent=2, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"


def _inside(mount: Mount, files: dict[str, bytes]) -> Mount:
    """A relative source is one in the bundle."""
    if mount.source not in files:
        return mount
    return replace(mount, source=f"{FILES}/{os.path.basename(mount.source)}")


def _become(config: oci.Config, identity: Identity) -> None:
    oci.become(config["process"], identity.uid, identity.gid, identity.groups)
    if not any(entry.startswith("HOME=") for entry in config["process"]["env"]):
        config["process"]["env"].append(f"HOME={identity.home}")


def _archive(root: int, config: bytes, files: dict[str, bytes]) -> Iterator[bytes]:
    yield from _file("config.json", config)
    yield _directory(FILES, 0o755, 0, 0)
    for source, content in files.items():
        yield from _file(f"{FILES}/{os.path.basename(source)}", content)
    top = os.fstat(root)
    yield _directory(oci.ROOT, top.st_mode & 0o7777, top.st_uid, top.st_gid)
    packer = Packer()
    for above, base, path, found in walk(root, oci.ROOT.encode()):
        yield from packer.node(above, base, path, found)
    yield END


def _file(name: str, content: bytes) -> Iterator[bytes]:
    yield header(Entry(name.encode(), REGULAR, 0o644, 0, 0, len(content), 0, b"", 0))
    yield content + bytes(-len(content) % BLOCK)


def _directory(name: str, mode: int, uid: int, gid: int) -> bytes:
    return header(Entry(name.encode(), DIRECTORY, mode, uid, gid, 0, 0, b"", 0))
