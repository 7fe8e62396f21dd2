"""Images, and the progress messages of what brings them."""

import msgspec
from msgspec import field

from pierhead.wire.codec import Message, always, always_list, always_new
from pierhead.wire.time import ZERO


class OCIPlatform(Message, rename=None):
    """A platform, with the OCI's names."""

    architecture: str = always("")
    os: str = always("")
    os_version: str = field(default="", name="os.version")
    os_features: list[str] | None = field(default=None, name="os.features")
    variant: str = ""


class OCIDescriptor(Message, rename=None):
    """What an OCI registry or layout calls a descriptor."""

    media_type: str = always("", name="mediaType")
    digest: str = always("")
    size: int = always(0)
    urls: list[str] | None = None
    annotations: dict[str, str] | None = None
    data: str | None = None
    platform: OCIPlatform | None = None
    artifact_type: str = field(default="", name="artifactType")


class DriverData(Message):
    """The graph driver of a layer and its directories."""

    data: dict[str, str] | None = always(None)
    name: str = always("")


class ImageHealthConfig(Message):
    """An image's health check; durations in ns."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ImageConfig(Message):
    """The defaults an image gives to its containers: the OCI's fields and Docker's."""

    user: str = ""
    exposed_ports: dict[str, dict[str, str]] | None = None
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    volumes: dict[str, dict[str, str]] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    args_escaped: bool = False
    healthcheck: ImageHealthConfig | None = None
    on_build: list[str] | None = None
    shell: list[str] | None = None


class RootFS(Message):
    """The layers, by diff id."""

    type: str = always("layers")
    layers: list[str] | None = None


class ImageMetadata(Message):
    """What is known here about an image and not part of it."""

    last_tag_time: str = always(ZERO)


class ImageInspect(Message):
    """Everything about an image."""

    id: str = always("")
    repo_tags: list[str] = always_list()
    repo_digests: list[str] = always_list()
    parent: str = always("")
    comment: str = always("")
    created: str = ""
    container: str = ""
    container_config: dict[str, object] | None = None
    docker_version: str = always("")
    author: str = always("")
    config: ImageConfig | None = always_new(ImageConfig)
    architecture: str = always("")
    variant: str = ""
    os: str = always("")
    os_version: str = ""
    size: int = always(0)
    virtual_size: int = 0
    graph_driver: DriverData = always_new(DriverData)
    root_fs: RootFS = field(default_factory=lambda: RootFS(), name="RootFS")
    metadata: ImageMetadata = always_new(ImageMetadata)
    descriptor: OCIDescriptor | None = None


class ManifestSize(Message):
    """Bytes of a manifest: with everything, and of its content alone."""

    total: int = always(0)
    content: int = always(0)


class ImageManifestSummary(Message):
    """One manifest of an image index."""

    id: str = always("", name="ID")
    descriptor: OCIDescriptor = always_new(OCIDescriptor)
    available: bool = always(False)
    kind: str = always("")
    size: ManifestSize = always_new(ManifestSize)


class ImageSummary(Message):
    """An image in a list; created in seconds; -1: not computed.

    disk: bytes on the disk of its layers, disk_shared: of those that other images have too; in ``system df``, and not
    Docker's.
    """

    containers: int = always(-1)
    created: int = always(0)
    id: str = always("")
    labels: dict[str, str] | None = always(None)
    parent_id: str = always("", name="ParentId")
    descriptor: OCIDescriptor | None = None
    manifests: list[ImageManifestSummary] | None = None
    repo_digests: list[str] = always_list()
    repo_tags: list[str] = always_list()
    shared_size: int = always(-1)
    size: int = always(0)
    virtual_size: int = 0
    disk: int | None = None
    disk_shared: int | None = None


class HistoryItem(Message):
    """One step of an image's making; created in seconds; id "<missing>" for steps made elsewhere."""

    comment: str = always("")
    created: int = always(0)
    created_by: str = always("")
    id: str = always("<missing>")
    size: int = always(0)
    tags: list[str] | None = always(None)


HistoryResponseItem = HistoryItem


class ImageDeleteResponseItem(Message):
    """Either a reference that was taken away or an image that was deleted."""

    deleted: str = ""
    untagged: str = ""


class ImagePruneResponse(Message):
    """What was removed; None is written as null, as Docker does for nothing.

    free_space_change: as in ``space.Released``; not Docker's.
    """

    images_deleted: list[ImageDeleteResponseItem] | None = always(None)
    space_reclaimed: int = always(0)
    free_space_change: int | None = None


class ErrorDetail(Message, rename=None):
    """Why a pull, load or import ended."""

    code: int = 0
    message: str = always("")


class ProgressDetail(Message, rename=None):
    """How far a layer is, in bytes; both 0: {}."""

    current: int = 0
    total: int = 0


class JSONMessage(Message, rename=None):
    """One line of the progress of a pull, load or import."""

    stream: str = ""
    status: str = ""
    progress_detail: ProgressDetail | None = field(default=None, name="progressDetail")
    progress: str = ""
    id: str = ""
    error_detail: ErrorDetail | None = field(default=None, name="errorDetail")
    error: str = ""
    aux: msgspec.Raw | None = None


class AuthConfig(Message, rename=None):
    """The content of the X-Registry-Auth header."""

    username: str = ""
    password: str = ""
    auth: str = ""
    email: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class AuthResponse(Message):
    """The answer to a login. identity_token: to be kept in place of the password."""

    status: str = always("")
    identity_token: str = always("")


class DistributionInspect(Message):
    """What a name in a registry stands for."""

    descriptor: OCIDescriptor = always_new(OCIDescriptor)
    platforms: list[OCIPlatform] = always_list()


class ImageSearchResult(Message, rename=None):
    """One result of a search."""

    star_count: int = always(0)
    is_official: bool = always(False)
    name: str = always("")
    is_automated: bool = always(False)
    description: str = always("")
