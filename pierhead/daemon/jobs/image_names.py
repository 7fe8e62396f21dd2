"""From a name to an image, and what other jobs want to know of images."""

import os
import re
from dataclasses import dataclass

from pierhead.daemon.engine.engine import Engine
from pierhead.errors import InvalidParameter, NoSuchImage, NotFound
from pierhead.graph.graph import Image
from pierhead.linux.mount import OverlayRoot
from pierhead.manifest import Platform, provides
from pierhead.reference import Reference, is_digest, parse
from pierhead.wire import codec
from pierhead.wire.containers import ContainerConfig
from pierhead.wire.images import DriverData

_HEX64 = re.compile(r"[0-9a-f]{64}")
_ID_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What a container is made of. layer: cache id of the topmost layer, None for an image without layers."""

    id: str
    config: ContainerConfig
    layer: str | None
    reference: str
    architecture: str
    os: str
    variant: str = ""


def find(engine: Engine, name: str, platform: Platform | None = None) -> Image:
    """By name, id or the beginning of an id, in Docker's order. Raises NoSuchImage, InvalidParameter.

    platform: what it must be of. Raises NotFound in Docker's words where it is of another one.
    """
    image = _find(engine, name)
    if platform is not None and not provides(own := platform_of(image), platform):
        shown = name if names_id(image.id, name) else parse(name).tagged().familiar
        raise NotFound(
            f"image with reference {shown} was found but its platform ({own}) does not match the specified platform "
            f"({platform})"
        )
    return image


def platform_of(image: Image) -> Platform:
    """What it was made for."""
    config = image.config
    return Platform(config.os or "", config.architecture or "", config.variant or "")


def _find(engine: Engine, name: str) -> Image:
    if _HEX64.fullmatch(name):
        return engine.graph.image("sha256:" + name)
    if is_digest(name):
        return engine.graph.image(name)
    reference = parse(name)
    id = engine.graph.tags.get(reference)
    if id is None and (prefix := _ID_PREFIX.fullmatch(name)):
        id = engine.graph.by_prefix("sha256:" + prefix[1])
    if id is None:
        raise NoSuchImage(reference.tagged().familiar)
    return engine.graph.image(id)


def names_id(image_id: str, text: str) -> bool:
    """Whether the text is the image's id or its beginning, and not one of its names."""
    return image_id.startswith(text) or image_id.partition(":")[2].startswith(text)


def container_config(image: Image) -> ContainerConfig:
    """The image's defaults, as a new object."""
    raw = bytes(image.config.config)
    return ContainerConfig() if raw == b"null" else codec.decode(raw, ContainerConfig)


def maker(image: Image) -> tuple[str, ContainerConfig]:
    """The container that the image was committed from, and what it was to run; empty where the image does not say."""
    file = image.config
    try:
        raw = bytes(file.container_config)
        config = ContainerConfig() if raw == b"null" else codec.decode(raw, ContainerConfig)
        return codec.decode(bytes(file.container), str), config
    except InvalidParameter:  # nothing depends on it, so nobody has looked at it before
        return "", ContainerConfig()


async def resolve(engine: Engine, name: str) -> ImageRecord:
    """The image that a container shall be made of. Raises NoSuchImage, InvalidParameter."""
    image = find(engine, name)
    try:
        layer = engine.graph.layer(image.top).cache_id if image.top else None
    except LookupError:  # it is just being removed
        raise NoSuchImage(name) from None
    return ImageRecord(
        id=image.id,
        config=container_config(image),
        layer=layer,
        reference=name,
        architecture=image.config.architecture or "",
        os=image.config.os or "",
        variant=image.config.variant or "",
    )


def display_name(engine: Engine, image_id: str, image_name: str) -> str:
    """What ``ps`` shows: the name that was given, the id once that name means another image or none."""
    known = engine.derived(_meanings)
    if image_name not in known:
        try:
            known[image_name] = find(engine, image_name).id
        except (NoSuchImage, InvalidParameter):
            known[image_name] = None
    return image_name if image_id in (image_name, known[image_name]) else image_id


def _meanings(engine: Engine) -> dict[str, str | None]:
    """The ids of the images that names mean; ``display_name`` fills it with what is asked for."""
    return {}


def descendants(engine: Engine, name: str) -> set[str]:
    """The ids that the filter "ancestor" means: the image itself; empty for an unknown one.

    Docker adds what was built on it here, by the parent that its builder records; a common layer alone makes nobody an
    ancestor.
    """
    try:
        return {find(engine, name).id}
    except (NoSuchImage, InvalidParameter):
        return set()


def size_of(engine: Engine, image_id: str) -> int:
    """Bytes of content of an image; 0 once it is gone."""
    return engine.derived(_sizes).get(image_id, 0)


def _sizes(engine: Engine) -> dict[str, int]:
    return {row["id"]: row["size"] for row in engine.db.all("SELECT id, size FROM image")}


def count(engine: Engine) -> int:
    """How many images there are."""
    return int(engine.db.one("SELECT count(*) AS count FROM image")["count"])


def driver_data(engine: Engine, layer_id: str | None) -> DriverData:
    """``GraphDriver`` of an inspect: where the layer's directories are."""
    name = engine.layers.name
    if layer_id is None or not engine.layers.exists(layer_id):
        return DriverData(name=name)
    try:
        root = engine.layers.root(layer_id)
    except FileNotFoundError:  # half of it is removed
        return DriverData(name=name)
    if not isinstance(root, OverlayRoot):
        return DriverData(name=name)
    own = root.upper or os.path.realpath(root.lower[0])
    below = [os.path.realpath(path) for path in (root.lower if root.upper else root.lower[1:])]
    below = [path for path in below if os.path.basename(path) in ("diff", "base")]
    folder = os.path.dirname(own)
    data = {"MergedDir": f"{folder}/merged", "UpperDir": own, "WorkDir": f"{folder}/work"}
    if below:
        data["LowerDir"] = ":".join(below)
    return DriverData(name=name, data=data)


def event(engine: Engine, action: str, image: Image, name: str = "", actor: str = "") -> None:
    """Publish an image event: the image's labels, and the name it is about."""
    labels = container_config(image).labels or {}
    engine.events.publish("image", action, actor or image.id, {**labels, "name": name or image.id})


def parse_target(repository: str, tag: str) -> Reference | None:
    """The ``repo`` and ``tag`` of a tag or import call: None without a repository. Raises InvalidParameter."""
    if not repository:
        return None
    reference = parse(repository)
    if reference.digest is not None:
        raise InvalidParameter("cannot import digest reference")
    if reference.familiar_name == "sha256":
        raise InvalidParameter("refusing to create an ambiguous tag using digest algorithm as name")
    return reference.with_tag(tag) if tag else reference.tagged()
