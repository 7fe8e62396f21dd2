"""``docker import``: a root file system archive becomes an image of one layer."""

import platform
from datetime import UTC, datetime
from typing import BinaryIO

import msgspec

from pierhead.graph.graph import Graph, Image
from pierhead.reference import Reference

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "ppc64le": "ppc64le"}


def host_architecture() -> str:
    """This machine's, by Go's names."""
    machine = platform.machine()
    return ARCHITECTURES.get(machine, machine)


def now() -> str:
    """The present time as configuration files have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def import_rootfs(
    graph: Graph,
    source: BinaryIO,
    config: bytes,
    message: str,
    architecture: str = "",
    variant: str = "",
    name: Reference | None = None,
) -> Image:
    """Unpack the archive (plain or compressed) and make the image, with its name at once.

    config: the JSON of the image's defaults, made of the ``--change`` instructions.  Raises InvalidParameter.
    """
    with graph.lease() as lease:
        layer = lease.register(source, None)
        created = now()
        file: dict[str, object] = {
            "architecture": architecture or host_architecture(),
            "comment": message,
            "config": msgspec.Raw(config),
            "created": created,
            "docker_version": "28.2.2",
            "history": [{"created": created, "comment": message}],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        }
        if variant:
            file["variant"] = variant
        return graph.put_image(msgspec.json.encode(file), name)
