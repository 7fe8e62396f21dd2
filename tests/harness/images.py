"""Images that need no network: Debian's static busybox as a tar, and archives as other tools write them."""

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from functools import cache

from tests.harness.processes import run

WEB = 'echo "this is $(hostname)" > /www/index.html; exec httpd -f -p 8080 -h /www'
"""The command of the image `web`, which stands for Tomcat: a server on port 8080 that tells who it is."""
BUSYBOX = shutil.which("busybox") or "/bin/busybox"
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
    "www-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
    "etc/group": "root:x:0:\ndaemon:x:1:\nwheel:x:10:root,www-data\nwww-data:x:33:\naudio:x:29:www-data\n"
    "nogroup:x:65534:\n",
    "etc/os-release": 'NAME="Pierhead test image"\nID=pierhead\n',
}
FOLDERS = ("bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr", "usr/bin", "var", "var/tmp", "www")


def _info(name: str, kind: bytes, mode: int, size: int = 0, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname = kind, mode, size, link
    info.mtime = 1_700_000_000
    info.uname = info.gname = "root"
    return info


def tar(files: Mapping[str, bytes | str], folders: Sequence[str] = (), links: Mapping[str, str] | None = None) -> bytes:
    """A tar of plain files (0644, under bin/ 0755), folders and symbolic links."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for folder in folders:
            archive.addfile(_info(folder, tarfile.DIRTYPE, 0o1777 if folder.endswith("tmp") else 0o755))
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            mode = 0o755 if name.startswith(("bin/", "usr/bin/")) else 0o644
            archive.addfile(_info(name, tarfile.REGTYPE, mode, len(data)), io.BytesIO(data))
        for name, target in (links or {}).items():
            archive.addfile(_info(name, tarfile.SYMTYPE, 0o777, link=target))
    return buffer.getvalue()


@cache
def busybox_rootfs() -> bytes:
    """A root file system: the static busybox, a link for each of its applets, users and groups."""
    applets = run([BUSYBOX, "--list"]).check().stdout.split()
    with open(BUSYBOX, "rb") as file:
        binary = file.read()
    links = {f"bin/{applet}": "/bin/busybox" for applet in applets if applet != "busybox"}
    # Debian's busybox has no `id` of its own in every build; what is missing is missed by the test that needs it.
    return tar({"bin/busybox": binary, **FILES}, FOLDERS, links)


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def config_of(layers: Sequence[bytes], command: Sequence[str] = ("sh",), architecture: str = "") -> bytes:
    """An image configuration for uncompressed layers."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    return json.dumps(
        {
            "architecture": architecture or machine,
            "os": "linux",
            "created": "2024-01-02T03:04:05.678901234Z",
            "config": {"Cmd": list(command), "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "FROM=archive"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
            "history": [
                {"created": "2024-01-02T03:04:05Z", "created_by": f"layer {number}"} for number in range(len(layers))
            ],
        }
    ).encode()


def docker_archive(layers: Sequence[bytes], tags: Sequence[str], config: bytes | None = None) -> bytes:
    """An archive as `docker save` has written it for years: manifest.json, <id>.json, <n>/layer.tar."""
    config = config or config_of(layers)
    name = digest(config).removeprefix("sha256:") + ".json"
    paths = [f"{digest(layer)[7:]}/layer.tar" for layer in layers]
    manifest = [{"Config": name, "RepoTags": list(tags), "Layers": paths}]
    return tar(
        {name: config, **dict(zip(paths, layers, strict=True)), "manifest.json": json.dumps(manifest)},
    )


def docker_archive_of(layer: bytes, images: Mapping[str, bytes]) -> bytes:
    """One for several images, tag and configuration, that are all of the same single layer."""
    path = f"{digest(layer)[7:]}/layer.tar"
    configs = {digest(config)[7:] + ".json": config for config in images.values()}
    manifest = [
        {"Config": name, "RepoTags": [tag], "Layers": [path]} for name, tag in zip(configs, images, strict=True)
    ]
    return tar({**configs, path: layer, "manifest.json": json.dumps(manifest)})


MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def oci_manifest(config: bytes, blobs: Sequence[bytes], docker: bool = False) -> bytes:
    """A manifest over a configuration and gzip-compressed layers, in OCI's or Docker's media types."""
    if docker:
        media, config_type = DOCKER_MANIFEST, "application/vnd.docker.container.image.v1+json"
        layer_type = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    else:
        media, config_type = MANIFEST, "application/vnd.oci.image.config.v1+json"
        layer_type = "application/vnd.oci.image.layer.v1.tar+gzip"
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": media,
            "config": {"mediaType": config_type, "digest": digest(config), "size": len(config)},
            "layers": [{"mediaType": layer_type, "digest": digest(blob), "size": len(blob)} for blob in blobs],
        }
    ).encode()


def compressed(layer: bytes) -> bytes:
    return gzip.compress(layer, 1, mtime=0)


def oci_archive(layers: Sequence[bytes], tag: str, config: bytes | None = None) -> bytes:
    """An OCI layout in a tar: oci-layout, index.json, blobs/sha256/…"""
    config = config or config_of(layers)
    blobs = [compressed(layer) for layer in layers]
    manifest = oci_manifest(config, blobs)
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {
                "mediaType": MANIFEST,
                "digest": digest(manifest),
                "size": len(manifest),
                "annotations": {
                    "io.containerd.image.name": tag,
                    "org.opencontainers.image.ref.name": tag.split(":")[-1],
                },
            }
        ],
    }
    files: dict[str, bytes | str] = {"oci-layout": '{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index)}
    for blob in (config, manifest, *blobs):
        files["blobs/sha256/" + digest(blob)[7:]] = blob
    return tar(files)
