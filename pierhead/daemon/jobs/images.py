"""Jobs on images that are here: list, inspect, history, tag, remove, prune. What moves bytes is in ``transfers``."""

import builtins
import copy
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.jobs import space
from pierhead.daemon.jobs.image_names import (
    ImageRecord,
    container_config,
    count,
    descendants,
    display_name,
    driver_data,
    event,
    find,
    maker,
    names_id,
    parse_target,
    resolve,
    size_of,
)
from pierhead.daemon.jobs.pulls import pull
from pierhead.daemon.jobs.pushes import push
from pierhead.daemon.jobs.transfers import import_, load, save
from pierhead.errors import Conflict, InvalidParameter, NoSuchImage
from pierhead.graph.graph import CHILDREN, STOPPED, Image, Renamed, undeletable
from pierhead.graph.image import parse_time
from pierhead.manifest import Platform
from pierhead.reference import Reference, parse
from pierhead.wire import codec
from pierhead.wire.filters import Filters
from pierhead.wire.images import (
    HistoryItem,
    ImageConfig,
    ImageDeleteResponseItem,
    ImageInspect,
    ImageMetadata,
    ImagePruneResponse,
    ImageSummary,
    RootFS,
)
from pierhead.wire.space import Released
from pierhead.wire.time import rfc3339

__all__ = [
    "ImageRecord",
    "Unused",
    "count",
    "descendants",
    "display_name",
    "driver_data",
    "history",
    "import_",
    "inspect",
    "list",
    "load",
    "prunable",
    "prune",
    "pull",
    "push",
    "remove",
    "remove_unused",
    "resolve",
    "save",
    "size_of",
    "tag",
    "usage",
    "users",
]

LIST_FILTERS = frozenset({"dangling", "label", "before", "since", "reference", "until"})
_PATTERN = re.compile(r"(?:\[[^]]+\]|[^[])*")
PRUNE_FILTERS = frozenset({"dangling", "label", "label!", "until"})


def _pattern(text: str) -> str:
    """Go's path.Match as fnmatch has it. Raises InvalidParameter."""
    if not _PATTERN.fullmatch(text):
        raise InvalidParameter("syntax error in pattern")
    return text.replace("[^", "[!")


def _matches(pattern: str, reference: Reference) -> bool:
    """Docker's FamiliarMatch: a shell pattern against the name with and without its tag; "*" stops at "/"."""

    def match(text: str) -> bool:
        wanted, given = pattern.split("/"), text.split("/")
        return len(wanted) == len(given) and all(map(fnmatchcase, given, wanted))

    return match(reference.familiar) or match(reference.familiar_name)


async def list(
    engine: Engine,
    all: bool = False,
    filters: Filters | None = None,
    digests: bool = False,
    shared_size: bool = False,
    manifests: bool = False,
) -> builtins.list[ImageSummary]:
    """The images, youngest first.

    all: with parents of others that have no name.  manifests: whoever asks for them (``images --tree``) shows what is
    in use, too.
    """
    found = await blocking(_list, engine, all, filters or Filters(), shared_size)
    if manifests:
        users = _users(engine)
        for image in found:
            image.containers = users.get(image.id, 0)
    return found


def _users(engine: Engine) -> dict[str, int]:
    """How many containers each image has that has some."""
    rows = engine.db.all("SELECT image_id, count(*) AS users FROM container GROUP BY image_id")
    return {row["image_id"]: row["users"] for row in rows}


@dataclass(frozen=True, slots=True)
class _Listed:
    """An image as lists look at it. created: ns; inner: others were committed from containers of it."""

    created: int
    names: builtins.list[Reference]
    inner: bool
    summary: ImageSummary


def _all(engine: Engine) -> builtins.list[_Listed]:
    """Every image, youngest first."""
    names = engine.graph.tags.all()
    images = engine.graph.images()
    parents = {image.parent for image in images}
    return [_listed(image, names.get(image.id, []), image.id in parents) for image in images]


def _listed(image: Image, names: builtins.list[Reference], inner: bool) -> _Listed:
    summary = ImageSummary(
        id=image.id,
        created=image.created // 10**9,
        labels=container_config(image).labels,
        parent_id=image.parent or "",
        repo_tags=[name.familiar for name in names if name.digest is None],
        repo_digests=[name.familiar for name in names if name.digest is not None],
        size=image.size,
    )
    return _Listed(image.created, names, inner, summary)


def _list(engine: Engine, all: bool, filters: Filters, shared_size: bool) -> builtins.list[ImageSummary]:
    filters.validate(LIST_FILTERS)
    dangling = filters.flag("dangling")
    before = min((find(engine, name).created for name in filters.values_of("before")), default=None)
    since = max((find(engine, name).created for name in filters.values_of("since")), default=None)
    until = filters.moments("until")
    patterns = [_pattern(text) for text in filters.values_of("reference")]
    held = engine.derived(space.layers_and_images).images if shared_size else {}
    result = []
    for image in engine.derived(_all):
        if (before is not None and image.created >= before) or (since is not None and image.created <= since):
            continue
        if any(image.created > moment for moment in until):
            continue
        if "label" in filters and not filters.matches_labels("label", image.summary.labels):
            continue
        summary = copy.copy(image.summary)
        if patterns:
            shown = [name for name in image.names if any(_matches(pattern, name) for pattern in patterns)]
            if not shown:
                continue
            summary.repo_tags = [name.familiar for name in shown if name.digest is None]
            summary.repo_digests = [name.familiar for name in shown if name.digest is not None]
        if dangling and (summary.repo_tags or image.inner):
            continue
        if not image.names and ((image.inner and not all) or ("dangling" in filters and not dangling)):
            continue
        if (use := held.get(summary.id)) is not None:
            summary.shared_size = use.shared
        result.append(summary)
    return result


def usage(engine: Engine) -> builtins.list[ImageSummary]:
    """The images for ``system df``: with what they share and how many containers each has."""
    found = [copy.copy(image.summary) for image in engine.derived(_all)]
    held = engine.derived(space.layers_and_images).images
    users = _users(engine)
    for image in found:
        image.containers = users.get(image.id, 0)
        if (use := held.get(image.id)) is not None:
            image.shared_size, image.disk, image.disk_shared = use.shared, use.disk, use.disk_shared
    return found


async def inspect(engine: Engine, name: str, platform: Platform | None = None) -> ImageInspect:
    """Everything about an image. Raises NoSuchImage, NotFound where it is of another platform."""
    image = find(engine, name, platform)
    config = image.config
    names = engine.graph.tags.of(image.id)
    comment = config.comment or ""
    if not comment and config.history:
        comment = config.history[-1].comment or ""
    raw = bytes(config.config)
    container, made_by = maker(image)
    return ImageInspect(
        id=image.id,
        repo_tags=[name.familiar for name in names if name.digest is None],
        repo_digests=[name.familiar for name in names if name.digest is not None],
        parent=image.parent or "",
        comment=comment,
        created=rfc3339(image.created) if config.created else "",
        container=container,
        container_config=codec.to_builtins(made_by),
        docker_version=config.docker_version or "",
        author=config.author or "",
        config=ImageConfig() if raw == b"null" else codec.decode(raw, ImageConfig),
        architecture=config.architecture or "",
        variant=config.variant or "",
        os=config.os or "",
        os_version=config.os_version or "",
        size=image.size,
        graph_driver=driver_data(engine, engine.graph.layer(image.top).cache_id if image.top else None),
        root_fs=RootFS(type="layers", layers=config.diff_ids or None),
        metadata=ImageMetadata(last_tag_time=rfc3339(engine.graph.tags.tagged(image.id))),
    )


async def history(engine: Engine, name: str, platform: Platform | None = None) -> builtins.list[HistoryItem]:
    """How an image was made, the last step first. Raises NoSuchImage, NotFound where it is of another platform."""
    image = find(engine, name, platform)
    layers = iter(engine.graph.chain(image))
    items = []
    for step in image.config.history or []:
        size = 0
        if not step.empty_layer:
            layer = next(layers, None)
            if layer is None:
                raise InvalidParameter("too many non-empty layers in History section")
            size = layer.size
        items.append(
            HistoryItem(
                comment=step.comment or "",
                created=parse_time(step.created or "") // 10**9,
                created_by=step.created_by or "",
                size=size,
            )
        )
    items.reverse()
    described: Image | None = image
    for item in items:
        if described is None:
            break
        item.id = described.id
        tags = [reference.familiar for reference in engine.graph.tags.of(described.id) if reference.digest is None]
        item.tags = tags or None
        described = engine.graph.image(described.parent) if described.parent is not None else None
    return items


async def tag(engine: Engine, name: str, repo: str, tag: str) -> None:
    """Give an image one more name. Raises NoSuchImage, InvalidParameter."""
    image = find(engine, name)
    reference = parse_target(repo, tag)
    if reference is None:
        raise InvalidParameter("invalid reference format")
    with engine.db.transaction(durable=True):
        image = find(engine, name)  # asked anew: another thread may have just deleted it
        engine.graph.tags.set(reference, image.id)
    event(engine, "tag", image, reference.familiar)


# -- removal ----------------------------------------------------------------------------------------------------------


def _single(references: builtins.list[Reference]) -> bool:
    """Whether taking one name away leaves nothing but digests of the same repository."""
    if len(references) <= 1:
        return True
    tags = [reference for reference in references if reference.digest is None]
    repositories = {reference.name for reference in references if reference.digest is not None}
    if len(tags) > 1:
        return False
    return repositories == {(tags or references)[0].name}


def users(engine: Engine, image: Image) -> builtins.list[tuple[str, bool]]:
    """Containers that are of an image or mount it: (id, whether it runs)."""
    rows = engine.db.all(
        "SELECT id, state FROM container WHERE image_id = :id OR instr(mounts, :id) ORDER BY created", {"id": image.id}
    )
    return [(row["id"], row["state"] in ("running", "paused", "restarting")) for row in rows]


def _short(id: str) -> str:
    return id.removeprefix("sha256:")[:12]


def _check(image: Image, found: builtins.list[tuple[str, bool]], *, inner: bool, force: bool, named: bool) -> None:
    """Raise Conflict where an image may not be deleted; force gives way to all but running containers and children.

    found: its users.  inner: whether it has children.  named: whether it has names that nobody has asked to take away.
    """
    if inner:
        raise undeletable(image.id, CHILDREN)
    for id, running in found:
        if running:
            raise undeletable(image.id, f"image is being used by running container {_short(id)}")
    if force:
        return
    if named:
        raise undeletable(image.id, "image is referenced in multiple repositories", forced=True)
    for id, _ in found:
        raise undeletable(image.id, STOPPED.format(_short(id)), forced=True)


async def remove(
    engine: Engine, name: str, force: bool = False, noprune: bool = False, platforms: Sequence[Platform] = ()
) -> tuple[builtins.list[ImageDeleteResponseItem], Released]:
    """Take a name from an image, and delete the image when that was its last; by id: delete it with all its names.

    With it go its parents that have no name and no use any more, unless noprune.
    Raises NoSuchImage, Conflict with Docker's wording, NotFound where it is not of one of the platforms.
    """
    for platform in platforms:
        find(engine, name, platform)
    before = space.free(engine)
    records, freed = await engine.finish(_remove_named(engine, name, force, noprune))
    return records, space.released(engine, freed, before)


async def _remove_named(
    engine: Engine, name: str, force: bool, noprune: bool = False
) -> tuple[builtins.list[ImageDeleteResponseItem], int]:
    """See ``_remove``; decided anew where the image gets or loses a name meanwhile."""
    while True:
        try:
            return await _remove(engine, name, force, noprune)
        except Renamed:
            continue


async def _remove(
    engine: Engine, name: str, force: bool, noprune: bool
) -> tuple[builtins.list[ImageDeleteResponseItem], int]:
    """What was done, and the bytes that it gave back."""
    image = find(engine, name)
    names = engine.graph.tags.of(image.id)
    found = users(engine, image)
    inner = engine.graph.has_children(image.id)
    by_id = names_id(image.id, name)
    if by_id:
        condemned = names if _single(names) else []
    else:
        if not force and _single(names):
            for id, _ in found:
                raise Conflict(
                    f'conflict: unable to remove repository reference "{name}" (must force) - '
                    f"container {_short(id)} is using its referenced image {_short(image.id)}"
                )
        condemned = _with_digests(parse(name), names)
    left = [other for other in names if other not in condemned]
    if left and not by_id:
        return _untag(engine, image, condemned), 0
    try:
        _check(image, found, inner=inner, force=force, named=bool(left))
    except Conflict:
        if not by_id and (found or inner):
            return _untag(engine, image, condemned), 0  # what a container or a child needs stays
        raise
    lineage = [] if noprune else _lineage(engine, image)
    # With its names and its parents at once: whatever ends this daemon, an image that nobody has a name for is not what
    # is left.
    despite = {id for id, _ in found}
    gone, freed = await blocking(lambda: engine.graph.delete_image(image.id, despite, parents=not noprune, names=names))
    records = _untagged(engine, image, [*condemned, *left], told=len(names) if by_id else 1)
    for one in (image, *(parent for parent in lineage if parent.id in gone)):
        event(engine, "delete", one)
    return [*records, *(ImageDeleteResponseItem(deleted=id) for id in (image.id, *gone))], freed


def _lineage(engine: Engine, image: Image) -> builtins.list[Image]:
    """Its parent, the parent's, and so on."""
    found: builtins.list[Image] = []
    while image.parent is not None and engine.graph.has(image.parent):
        image = engine.graph.image(image.parent)
        found.append(image)
    return found


def _with_digests(asked: Reference, names: builtins.list[Reference]) -> builtins.list[Reference]:
    """A name, and with a repository's last tag its digests: nobody can have asked for those of a name that is gone.

    names: all that the image has.
    """
    if asked.digest is not None:
        return [asked.with_digest(asked.digest)]
    wanted = asked.tagged()
    others = [other for other in names if other.name == wanted.name and other != wanted]
    return [wanted] if any(other.digest is None for other in others) else [wanted, *others]


def _untag(engine: Engine, image: Image, names: builtins.list[Reference]) -> builtins.list[ImageDeleteResponseItem]:
    with engine.db.transaction(durable=True):
        for reference in names:
            engine.graph.tags.remove(reference)
    return _untagged(engine, image, names, told=1)


def _untagged(
    engine: Engine, image: Image, names: builtins.list[Reference], *, told: int
) -> builtins.list[ImageDeleteResponseItem]:
    """Tell that names are gone. told: events of it; Docker has none for digests that go with a tag."""
    for _ in range(told):
        event(engine, "untag", image)
    return [ImageDeleteResponseItem(untagged=reference.familiar) for reference in names]


@dataclass(frozen=True, slots=True)
class Unused:
    """An image that no container has, and the names that it had when it was found to be so.

    inner: it is below another one that stays, and can lose its names alone.
    """

    image: Image
    names: builtins.list[Reference]
    inner: bool = False


def prunable(engine: Engine, filters: Filters, without: Set[str] = frozenset()) -> builtins.list[Unused]:
    """The images that no container uses and that have no name (with dangling=false: whatever their names), but for
    pinned ones. without: containers that do not count. Raises InvalidParameter."""
    filters.validate(PRUNE_FILTERS)
    dangling = filters.flag("dangling", default=True)
    until = filters.until()
    pinned = engine.graph.pins.images()

    def wanted(image: Image, names: builtins.list[Reference]) -> bool:
        labels = container_config(image).labels
        if (until is not None and image.created > until) or not filters.matches_labels("label", labels):
            return False
        if "label!" in filters and filters.matches_labels("label!", labels):
            return False
        if image.id in pinned or any(id not in without for id, _ in users(engine, image)):
            return False
        return not dangling or all(name.digest is not None for name in names)

    images = engine.graph.images()
    names = engine.graph.tags.all()
    found = {image.id: Unused(image, names.get(image.id, [])) for image in images}
    found = {id: one for id, one in found.items() if wanted(one.image, one.names)}
    stay = [image for image in images if image.id not in found]
    while stay:  # the parent of what stays does, too, and loses its names at most
        parent = stay.pop().parent
        unused = found.get(parent) if parent is not None else None
        if unused is None or unused.inner:
            continue
        if dangling or not unused.names:
            del found[unused.image.id]
        else:
            found[unused.image.id] = replace(unused, inner=True)
        stay.append(unused.image)
    return [*found.values()]


async def remove_unused(engine: Engine, found: Unused) -> tuple[builtins.list[ImageDeleteResponseItem], int]:
    """Take an image's names away and delete it: what was done, the bytes given back. Nothing, if it is used by now."""
    done: builtins.list[ImageDeleteResponseItem] = []
    reclaimed = 0
    if engine.graph.tags.of(found.image.id) != found.names:
        return done, reclaimed  # it has got another name since
    for name in [str(reference) for reference in found.names] or [found.image.id]:
        try:
            # Without its parents: those that may go have been found themselves.
            records, freed = await engine.finish(_remove_named(engine, name, False, noprune=True))
        except (Conflict, NoSuchImage):
            continue  # used or gone since it was listed
        done += records
        reclaimed += freed
    return done, reclaimed


async def prune(engine: Engine, filters: Filters) -> ImagePruneResponse:
    """Delete the images that no container uses and that have no name (with dangling=false: whatever their names)."""
    deleted: builtins.list[ImageDeleteResponseItem] = []
    reclaimed, before = 0, space.free(engine)
    for found in await blocking(prunable, engine, filters):
        done, freed = await remove_unused(engine, found)
        deleted += done
        reclaimed += freed
    engine.events.publish("image", "prune", "", {"reclaimed": str(reclaimed)})
    change = space.free(engine) - before
    return ImagePruneResponse(images_deleted=deleted or None, space_reclaimed=reclaimed, free_space_change=change)
