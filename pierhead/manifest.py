"""Manifests and indexes as registries and archives have them: the OCI's and Docker's schema 2, read as hostile input.

OCI image-spec manifest.md, image-index.md, descriptor.md; distribution-spec for Docker's media types.  A document that
could be both (CVE-2021-41190), or that is not what its media type says, is refused.
"""

from dataclasses import dataclass, field

import msgspec

from pierhead.errors import InvalidParameter
from pierhead.reference import is_digest

LIMIT = 4 << 20
MAX_LAYERS = 450
MAX_MANIFESTS = 1000

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_LIST)
ACCEPTED = (*MANIFESTS, *INDEXES)

_CONFIGS = (OCI_CONFIG, DOCKER_CONFIG, "")
_LAYERS = ("application/vnd.oci.image.layer.", DOCKER_LAYER)


_SYSTEMS = frozenset(
    "aix android darwin dragonfly freebsd illumos js linux netbsd openbsd plan9 solaris windows".split()
)
_ARCHITECTURES = frozenset(
    "386 amd64 arm armbe arm64 arm64be loong64 mips mipsle mips64 mips64le ppc64 ppc64le riscv64 s390x wasm".split()
)
"""What a platform of a single word can be: the GOOS and GOARCH of images that there are."""


@dataclass(frozen=True, slots=True)
class Platform:
    """Go's names: "linux", "amd64", "v8"; an empty variant matches any."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Content by digest and size."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def attests(self) -> bool:
        """Whether it is no image but what BuildKit says of one beside it (provenance, an SBOM)."""
        kind = self.annotations.get("vnd.docker.reference.type")
        return kind == "attestation-manifest" or (
            self.platform is not None and (self.platform.os, self.platform.architecture) == ("unknown", "unknown")
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image: its configuration file and its layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """Several, one for each platform."""

    manifests: tuple[Descriptor, ...]


class _Platform(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str | None = None


class _Descriptor(msgspec.Struct, rename="camel"):
    digest: str
    size: int
    media_type: str | None = None
    platform: _Platform | None = None
    annotations: dict[str, str] | None = None


class _Document(msgspec.Struct, rename="camel"):
    schema_version: int = 0
    media_type: str | None = None
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    manifests: list[_Descriptor] | None = None


def _descriptor(given: _Descriptor) -> Descriptor:
    if not is_digest(given.digest):
        raise InvalidParameter(f"invalid digest in manifest: {given.digest[:80]!r}")
    if not 0 <= given.size < 1 << 50:
        raise InvalidParameter(f"invalid size in manifest: {given.size}")
    platform = None
    if given.platform is not None:
        platform = Platform(given.platform.os, given.platform.architecture, given.platform.variant or "")
    return Descriptor(given.media_type or "", given.digest, given.size, platform, given.annotations or {})


def parse(data: bytes, media_type: str = "", limit: int = LIMIT) -> Manifest | Index:
    """Read a manifest or an index. media_type: what it was delivered as. Raises InvalidParameter."""
    if len(data) > limit:
        raise InvalidParameter(f"manifest of more than {limit} bytes")
    try:
        document = msgspec.json.decode(data, type=_Document)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidParameter(f"invalid manifest: {error}") from error
    if document.schema_version == 1:
        raise InvalidParameter("schema 1 manifests are not supported: the image must be pushed again by a newer tool")
    if document.schema_version != 2:
        raise InvalidParameter(f"unsupported manifest schema version {document.schema_version}")
    stated = document.media_type or ""
    if stated and media_type in ACCEPTED and stated != media_type:
        raise InvalidParameter(f"manifest says it is {stated!r}, but was delivered as {media_type!r}")
    kind = stated or (media_type if media_type in ACCEPTED else "")
    if document.manifests is not None:
        if document.layers is not None or document.config is not None or (kind and kind not in INDEXES):
            raise InvalidParameter("invalid manifest: it is both an image and an index")
        if len(document.manifests) > MAX_MANIFESTS:
            raise InvalidParameter(f"index of more than {MAX_MANIFESTS} manifests")
        return Index(tuple(map(_descriptor, document.manifests)))
    if document.config is None or document.layers is None or (kind and kind not in MANIFESTS):
        raise InvalidParameter("invalid manifest: it is neither an image nor an index")
    manifest = Manifest(_descriptor(document.config), tuple(map(_descriptor, document.layers)))
    _check_image(manifest)
    return manifest


def _check_image(manifest: Manifest) -> None:
    if len(manifest.layers) > MAX_LAYERS:
        raise InvalidParameter("max depth exceeded")
    if manifest.config.media_type not in _CONFIGS:
        raise InvalidParameter(f"unsupported media type {manifest.config.media_type}: this is no container image")
    for layer in manifest.layers:
        if layer.media_type and not layer.media_type.startswith(_LAYERS):
            raise InvalidParameter(f"unsupported media type {layer.media_type}")


def parse_platform(text: str, default: Platform) -> Platform:
    """ "linux/arm64/v8", "linux/amd64", "arm64"; empty: the default. Raises InvalidParameter."""
    if not text:
        return default
    parts = text.lower().split("/")
    if len(parts) > 3:
        raise InvalidParameter(f'"{text}": cannot parse platform specifier: invalid argument')
    if not all(part.replace("_", "").replace("-", "").replace(".", "").isalnum() for part in parts):
        raise InvalidParameter(f'"{text}": unknown operating system or architecture: invalid argument')
    names = {"x86_64": "amd64", "aarch64": "arm64", "x86-64": "amd64", "armhf": "arm", "i386": "386"}
    if len(parts) == 1:
        if parts[0] in _SYSTEMS:
            return Platform(parts[0], default.architecture)
        if parts[0] not in names and parts[0] not in _ARCHITECTURES:
            raise InvalidParameter(f'"{text}": unknown operating system or architecture: invalid argument')
        return Platform(default.os, names.get(parts[0], parts[0]))
    return Platform(parts[0], names.get(parts[1], parts[1]), parts[2] if len(parts) == 3 else "")


_VARIANTS = {"amd64": "v1", "arm": "v7", "arm64": "v8"}
"""What an architecture without a variant means."""


def provides(has: Platform, wanted: Platform) -> bool:
    """Whether what was made for one platform is what is wanted, or an older variant of it, which runs there as well.

    An image that says nothing of variants is of any.
    """
    if (has.os, has.architecture) != (wanted.os, wanted.architecture):
        return False
    variant = wanted.variant or _VARIANTS.get(wanted.architecture, "")
    if has.variant in ("", variant):
        return True
    own, most = has.variant.removeprefix("v"), variant.removeprefix("v")
    return own.isdecimal() and most.isdecimal() and int(own) <= int(most)


def _variant(entry: Descriptor) -> int:
    number = entry.platform.variant.removeprefix("v") if entry.platform else ""
    return int(number) if number.isdecimal() else 0


def choose(index: Index, platform: Platform) -> Descriptor | None:
    """The manifest of an index for a platform: the first with the same variant, else the newest that runs there."""
    fitting = [
        entry
        for entry in index.manifests
        if entry.platform is not None
        and (entry.platform.os, entry.platform.architecture) == (platform.os, platform.architecture)
    ]
    default = {"arm64": "v8", "arm": "v7"}.get(platform.architecture, "")
    wanted = (platform.variant,) if platform.variant else (default, "")
    for variant in wanted:
        for entry in fitting:
            if entry.platform is not None and entry.platform.variant == variant:
                return entry
    older = [entry for entry in fitting if entry.platform is not None and provides(entry.platform, platform)]
    if older:
        return max(older, key=_variant)
    if platform.variant and platform.variant != default:
        return None
    if fitting:
        return fitting[0]
    # An index of a single image that says nothing of platforms (an OCI layout made by a tool) means that image.
    images = [entry for entry in index.manifests if not entry.attests]
    if len(images) == 1 and images[0].platform is None:
        return images[0]
    return None
