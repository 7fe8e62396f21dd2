"""What a prune would remove and give back: the very choice that it makes, and nothing is touched."""

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.jobs import containers as container_jobs
from pierhead.daemon.jobs import images as image_jobs
from pierhead.daemon.jobs import marks
from pierhead.daemon.jobs import networks as network_jobs
from pierhead.daemon.jobs import volumes as volume_jobs
from pierhead.daemon.jobs.files import own_folder
from pierhead.driver.graphdriver.usage import measure
from pierhead.graph.containers import Container
from pierhead.graph.needs import Needs
from pierhead.wire.containers import ContainerPruneResponse
from pierhead.wire.filters import Filters
from pierhead.wire.images import ImageDeleteResponseItem, ImagePruneResponse
from pierhead.wire.networks import NetworkPruneResponse
from pierhead.wire.upkeep import CleanUpPreview, CleanUpStep, PrunePreview
from pierhead.wire.volumes import VolumePruneResponse


async def containers(engine: Engine, filters: Filters) -> ContainerPruneResponse:
    """What ``containers.prune`` would answer."""
    return await blocking(lambda: _containers(engine, filters, Needs(engine.graph)))


def _containers(engine: Engine, filters: Filters, needs: Needs) -> ContainerPruneResponse:
    found = container_jobs.prunable(engine, filters)
    size = sum(_container(engine, container, needs) for container in found)
    return ContainerPruneResponse(
        containers_deleted=[container.id for container in found] or None, space_reclaimed=size
    )


def _container(engine: Engine, container: Container, needs: Needs) -> int:
    """Take a container away in thought: the bytes that gives back."""
    folder = own_folder(engine, container.id)
    own = engine.layers.measure(container.layer_id).disk + measure(folder).disk
    return own + needs.without_container(container.id)


async def images(engine: Engine, filters: Filters) -> ImagePruneResponse:
    """What ``images.prune`` would answer."""
    return await blocking(lambda: _images(engine, filters, Needs(engine.graph), frozenset()))


def _images(engine: Engine, filters: Filters, needs: Needs, without: frozenset[str]) -> ImagePruneResponse:
    records: list[ImageDeleteResponseItem] = []
    size = 0
    for found in image_jobs.prunable(engine, filters, without):
        records += [ImageDeleteResponseItem(untagged=name.familiar) for name in found.names]
        if found.inner:
            continue
        layers, freed = needs.without_image(found.image.id)
        records += [ImageDeleteResponseItem(deleted=id) for id in (found.image.id, *layers)]
        size += freed
    return ImagePruneResponse(images_deleted=records or None, space_reclaimed=size)


async def volumes(engine: Engine, filters: Filters) -> VolumePruneResponse:
    """What ``volumes.prune`` would answer."""
    return await blocking(_volumes, engine, filters, frozenset())


def _volumes(engine: Engine, filters: Filters, without: frozenset[str]) -> VolumePruneResponse:
    names = volume_jobs.prunable(engine, filters, without)
    size = sum(measure(volume_jobs.folder(engine, name)).disk for name in names)
    return VolumePruneResponse(volumes_deleted=names or None, space_reclaimed=size)


async def networks(engine: Engine, filters: Filters) -> NetworkPruneResponse:
    """What ``networks.prune`` would answer."""
    names = [str(row["name"]) for row in network_jobs.prunable(engine, filters)]
    return NetworkPruneResponse(networks_deleted=names or None)


async def system(engine: Engine, filters: Filters, every: bool, with_volumes: bool, named: bool) -> PrunePreview:
    """What ``system prune`` would remove: of each kind also what only things have that go before it.

    every: images with a name, too; named: volumes with one, too (as of clients that know no other volumes prune).
    """
    return await blocking(_system, engine, filters, every, with_volumes, named)


def _system(engine: Engine, filters: Filters, every: bool, with_volumes: bool, named: bool) -> PrunePreview:
    needs = Needs(engine.graph)
    gone = _containers(engine, filters, needs)
    without = frozenset(gone.containers_deleted or ())
    names = [str(row["name"]) for row in network_jobs.prunable(engine, filters)]
    of_volumes = filters.also("all", "true") if named else filters
    of_images = filters.also("dangling", "false" if every else "true")
    return PrunePreview(
        containers=gone,
        networks=NetworkPruneResponse(networks_deleted=names or None),
        volumes=_volumes(engine, of_volumes, without) if with_volumes else VolumePruneResponse(),
        images=_images(engine, of_images, needs, without),
        clean_up=_clean_up(engine),
    )


def _clean_up(engine: Engine) -> CleanUpPreview | None:
    config = engine.config
    if not config.disk_high_mark:
        return None
    found = CleanUpPreview(full=round(marks.full(engine), 1), high=config.disk_high_mark, low=config.disk_low_mark)
    needs = Needs(engine.graph)
    for one in marks.order(engine):
        if one.kind == "image":
            size = needs.without_image(one.id)[1]
        else:
            size = _container(engine, engine.containers.get(one.id), needs)
        found.order.append(CleanUpStep(kind=one.kind, name=one.name, used=one.used, size=size))
    return found
