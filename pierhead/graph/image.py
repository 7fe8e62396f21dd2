"""An image's configuration file: what its id is the digest of (OCI image-spec, config.md, with Docker's additions)."""

import hashlib
import re
import time
from calendar import timegm

import msgspec

from pierhead.errors import InvalidParameter
from pierhead.reference import is_digest

CONFIG_LIMIT = 4 << 20
MAX_LAYERS = 450

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)


class Health(msgspec.Struct, rename="pascal"):
    """HEALTHCHECK; durations in ns."""

    test: list[str] | None = None
    interval: int | None = None
    timeout: int | None = None
    start_period: int | None = None
    start_interval: int | None = None
    retries: int | None = None


class Defaults(msgspec.Struct, rename="pascal"):
    """What an image's containers run with. Only checked here; the jobs read it as the API's type (a null as "")."""

    user: str | None = None
    exposed_ports: dict[str, object] | None = None
    env: list[str | None] | None = None
    cmd: list[str | None] | str | None = None
    entrypoint: list[str | None] | str | None = None
    volumes: dict[str, object] | None = None
    working_dir: str | None = None
    labels: dict[str, str | None] | None = None
    stop_signal: str | None = None
    on_build: list[str] | None = None
    shell: list[str] | str | None = None
    healthcheck: Health | None = None


class History(msgspec.Struct, omit_defaults=True):
    """One step of the image's making."""

    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool | None = None


class RootFS(msgspec.Struct):
    """The layers, lowest first, by the digest of their uncompressed archive."""

    type: str | None = None
    diff_ids: list[str] | None = None


class ConfigFile(msgspec.Struct):
    """The whole file."""

    architecture: str | None = None
    os: str | None = None
    os_version: str | None = msgspec.field(default=None, name="os.version")
    variant: str | None = None
    created: str | None = None
    author: str | None = None
    comment: str | None = None
    docker_version: str | None = None
    config: msgspec.Raw = msgspec.Raw(b"null")
    container: msgspec.Raw = msgspec.Raw(b'""')
    container_config: msgspec.Raw = msgspec.Raw(b"null")
    rootfs: RootFS | None = None
    history: list[History] | None = None

    @property
    def diff_ids(self) -> list[str]:
        """The layers, lowest first."""
        return (self.rootfs.diff_ids if self.rootfs else None) or []

    @property
    def created_ns(self) -> int:
        """When it was made, in ns since the epoch; 0 where it does not say."""
        return parse_time(self.created or "")


def parse_time(text: str) -> int:
    """RFC 3339 in ns since the epoch; 0 for anything else and what lies before it; what lies after 2262 is there."""
    match = _TIME.fullmatch(text)
    if match is None:
        return 0
    try:
        seconds = timegm(time.strptime(f"{match[1]} {match[2]}", "%Y-%m-%d %H:%M:%S"))
    except ValueError:
        return 0
    if match[4]:
        offset = int(match[5]) * 3600 + int(match[6]) * 60
        seconds -= offset if match[4] == "+" else -offset
    return min(max(0, seconds * 1_000_000_000 + int((match[3] or "").ljust(9, "0"))), 2**63 - 1)


def digest_of(data: bytes) -> str:
    """ "sha256:" and the digest in hex."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def chain_id(parent: str | None, diff_id: str) -> str:
    """The name of a layer together with all below it (OCI image-spec, "Layer ChainID")."""
    return diff_id if parent is None else digest_of(f"{parent} {diff_id}".encode())


def chain_ids(diff_ids: list[str]) -> list[str]:
    """The chain id of each layer, lowest first."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(chain_id(chain[-1] if chain else None, diff_id))
    return chain


def follows(image: ConfigFile, parent: ConfigFile) -> bool:
    """Whether an image can have been committed from a container of another: its history is the other's and a step more.

    Docker asks for that, where there is any history, before it believes an archive.  Here the layers must begin with
    the other's, too.  So an image has more than its parent of one or the other, and there are no circles.
    """
    steps, before = ([_told(step) for step in config.history or []] for config in (image, parent))
    if image.diff_ids[: len(parent.diff_ids)] != parent.diff_ids:
        return False
    if not steps and not before:
        return len(image.diff_ids) > len(parent.diff_ids)
    return len(steps) == len(before) + 1 and steps[:-1] == before


def _told(step: History) -> tuple[str | int | bool | None, ...]:
    """What a step says; the same moment may be written in several ways."""
    created = None if step.created is None else parse_time(step.created)
    return created, step.created_by or "", step.author or "", step.comment or "", bool(step.empty_layer)


def parse_config(data: bytes) -> ConfigFile:
    """Read and check a configuration file. Raises InvalidParameter, whatever the bytes are."""
    if len(data) > CONFIG_LIMIT:
        raise InvalidParameter(f"invalid image configuration: more than {CONFIG_LIMIT} bytes")
    try:
        config = msgspec.json.decode(data, type=ConfigFile)
        if bytes(config.config) != b"null":
            msgspec.json.decode(config.config, type=Defaults)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidParameter(f"invalid image configuration: {error}") from error
    config.os = config.os or "linux"
    if config.rootfs is None:
        raise InvalidParameter("invalid image configuration: no RootFS key")
    if config.rootfs.type not in (None, "", "layers"):
        raise InvalidParameter(f"invalid image configuration: rootfs type {config.rootfs.type!r}")
    if not all(is_digest(diff_id) for diff_id in config.diff_ids):
        raise InvalidParameter("invalid image configuration: a diff_id is no sha256 digest")
    if len(config.diff_ids) > MAX_LAYERS:
        raise InvalidParameter("max depth exceeded")
    return config
