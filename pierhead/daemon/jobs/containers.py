"""Jobs on containers as objects: create, list, inspect, rename, update, remove, prune, top, changes."""

import builtins
import copy
import errno
import os
import time
from collections.abc import Sequence

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.jobs import (
    checks,
    confinement,
    creation,
    health,
    images,
    launch,
    limits,
    links,
    names,
    networks,
    port_updates,
    processes,
    removal,
    rewiring,
    space,
    specs,
)
from pierhead.daemon.jobs.describe import args_of, attributes, config_of, host_config_of, mounts_of
from pierhead.daemon.jobs.files import own_folder
from pierhead.daemon.jobs.log_drivers import shown_path
from pierhead.errors import Conflict, InvalidParameter, NoSuchContainer
from pierhead.graph.containers import Container
from pierhead.graph.state import State
from pierhead.libcontainer.spec import Resources
from pierhead.wire import codec
from pierhead.wire.containers import (
    ContainerCreateRequest,
    ContainerCreateResponse,
    ContainerInspectResponse,
    ContainerPruneResponse,
    ContainerState,
    ContainerSummary,
    ContainerTopResponse,
    ContainerUpdateRequest,
    ContainerUpdateResponse,
    FilesystemChange,
    HostConfig,
    SummaryHostConfig,
    SummaryNetworkSettings,
)
from pierhead.wire.durations import human_duration
from pierhead.wire.filters import Filters
from pierhead.wire.space import Released
from pierhead.wire.time import rfc3339

LIST_FILTERS = frozenset(
    "ancestor before exited expose health id is-task isolation label name network publish since status volume".split()
)
PRUNE_FILTERS = frozenset({"until", "label", "label!"})


async def create(
    engine: Engine, name: str, request: ContainerCreateRequest, platform: str = ""
) -> ContainerCreateResponse:
    """See ``creation.create``."""
    return await creation.create(engine, name, request, platform)


def status(container: Container, health: str = "") -> str:
    """What ``docker ps`` prints under STATUS. health: what checks say of it, if they do."""
    now = time.time_ns()
    up = human_duration((now - container.started) / 1e9)
    ended = human_duration((now - container.finished) / 1e9) if container.finished else ""
    match container.state:
        case State.RUNNING:
            said = "health: starting" if health == "starting" else health
            return f"Up {up} ({said})" if said else f"Up {up}"
        case State.PAUSED:
            return f"Up {up} (Paused)"
        case State.RESTARTING:
            return f"Restarting ({container.exit_code}) {ended} ago"
        case State.REMOVING:
            return "Removal In Progress"
        case State.DEAD:
            return "Dead"
        case State.CREATED:
            return "Created"
        case _:
            return f"Exited ({container.exit_code}) {ended} ago" if ended else f"Exited ({container.exit_code})"


def _command(container: Container) -> str:
    words = [container.path, *args_of(container)]
    return " ".join(f"'{word}'" if " " in word else word for word in words)


def _rows(engine: Engine) -> Sequence[Container]:
    return engine.containers.all()


async def _selected(engine: Engine, everything: bool, limit: int, filters: Filters) -> builtins.list[Container]:
    filters.validate(LIST_FILTERS)
    for text in filters.values_of("status"):
        if text not in {str(state) for state in State}:
            raise InvalidParameter(f"invalid filter 'status={text}'")
    for text in filters.values_of("health"):
        if text not in ("none", "starting", "healthy", "unhealthy"):
            raise InvalidParameter(f"unrecognized filter value for health: {text}")
    if filters.flag("is-task"):
        return []
    codes = set()
    for text in filters.values_of("exited"):
        if not text.lstrip("-").isdigit():
            raise InvalidParameter(f"invalid filter 'exited={text}'")
        codes.add(int(text))
    found: Sequence[Container] = engine.derived(_rows)
    if "status" in filters or "exited" in filters or limit > 0:
        everything = True
    for key in ("before", "since"):
        for name in filters.values_of(key):
            limit_time = engine.containers.find(name).created
            everything = True
            found = [
                one for one in found if (one.created < limit_time if key == "before" else one.created > limit_time)
            ]
    ancestors = None
    if "ancestor" in filters:
        ancestors = set()
        for name in filters.values_of("ancestor"):
            ancestors |= images.descendants(engine, name)
    wanted_networks = filters.values_of("network")
    checked = health.statuses(engine) if "health" in filters else {}
    result = []
    for container in found:
        if not everything and not container.live and container.state is not State.RESTARTING:
            continue
        if not filters.matches_prefix("id", container.id):
            continue
        if not (filters.matches("name", container.name) or filters.matches("name", f"/{container.name}")):
            continue
        if not filters.matches_exact("health", checked.get(container.id, health.NONE)):
            continue
        if not filters.matches_exact("status", container.state):
            continue
        if codes and (container.exit_code not in codes or container.state is not State.EXITED):
            continue
        if not filters.matches_labels("label", config_of(container).labels):
            continue
        if ancestors is not None and container.image_id not in ancestors:
            continue
        if "volume" in filters and not any(
            wanted in (point.name, point.source, point.destination)
            for wanted in filters.values_of("volume")
            for point in mounts_of(container)
        ):
            continue
        if wanted_networks and not networks.is_member(engine, container, wanted_networks):
            continue
        if not networks.matches_ports(engine, container, filters):
            continue
        result.append(container)
        if 0 < limit <= len(result):
            break
    return result


async def list(
    engine: Engine, all: bool = False, limit: int = 0, size: bool = False, filters: Filters | None = None
) -> builtins.list[ContainerSummary]:
    """Containers, newest first. Raises InvalidParameter for an unknown filter."""
    result = []
    known = engine.derived(_no_summaries)
    checked = health.statuses(engine)
    selected = await _selected(engine, all, limit, filters or Filters())
    used = await _used(engine, selected) if size else {}
    for container in selected:
        summary = known.get(container.id)
        if summary is None:
            summary = known[container.id] = _summary(engine, container)
        summary.status = status(container, checked.get(container.id, ""))
        if size:
            summary = copy.copy(summary)
            _add_sizes(engine, summary, container, used[container.id])
        result.append(summary)
    return result


def _no_summaries(engine: Engine) -> dict[str, ContainerSummary]:
    """By container; lists fill it with what they need."""
    return {}


def _summary(engine: Engine, container: Container) -> ContainerSummary:
    """All of a list's entry that changes only with GraphDB's content."""
    return ContainerSummary(
        id=container.id,
        names=[f"/{container.name}", *links.names(engine, container.id)],
        image=images.display_name(engine, container.image_id, container.image_name),
        image_id=container.image_id,
        command=_command(container),
        created=container.created // 10**9,
        ports=networks.ports(engine, container),
        labels=config_of(container).labels or {},
        state=container.state,
        host_config=SummaryHostConfig(network_mode=host_config_of(container).network_mode),
        network_settings=SummaryNetworkSettings(networks=networks.endpoint_settings(engine, container)),
        mounts=mounts_of(container),
    )


async def _used(engine: Engine, chosen: builtins.list[Container]) -> dict[str, space.ContainerUse]:
    """What each takes, measured one after the other in one thread."""
    return await blocking(lambda: {one.id: space.container_use(engine, one) for one in chosen})


def _add_sizes(
    engine: Engine, shown: ContainerSummary | ContainerInspectResponse, container: Container, use: space.ContainerUse
) -> None:
    shown.size_rw, shown.size_root_fs = use.content, use.content + images.size_of(engine, container.image_id)
    shown.disk_rw, shown.disk_logs, shown.disk_files = use.writable, use.logs, use.files


async def inspect(engine: Engine, name: str, size: bool = False) -> ContainerInspectResponse:
    """Everything about a container."""
    container = engine.containers.find(name)
    folder = own_folder(engine, container.id)
    live = container.live
    shown = ContainerState(
        status=container.state,
        running=live or container.state is State.RESTARTING,
        paused=container.state is State.PAUSED,
        restarting=container.state is State.RESTARTING,
        oom_killed=container.oom,
        dead=container.state is State.DEAD,
        pid=container.pid if live else 0,
        exit_code=container.exit_code,
        error=container.error,
        started_at=rfc3339(container.started),
        finished_at=rfc3339(container.finished if not live else 0),
        health=health.of(engine, container.id),
        exit_reason=container.reason,
    )
    execs = [
        key for key, instance in engine.execs.items() if instance.container_id == container.id and instance.running
    ]
    answer = ContainerInspectResponse(
        id=container.id,
        created=rfc3339(container.created),
        path=container.path,
        args=args_of(container),
        state=shown,
        image=container.image_id,
        resolv_conf_path=os.path.join(folder, "resolv.conf"),
        hostname_path=os.path.join(folder, "hostname"),
        hosts_path=os.path.join(folder, "hosts"),
        log_path=shown_path(engine, container, host_config_of(container)),
        name=f"/{container.name}",
        restart_count=container.restarts,
        driver=container.driver,
        app_armor_profile=confinement.of(host_config_of(container), engine.config).apparmor,
        exec_ids=execs or None,
        host_config=_shown_host_config(engine, container),
        graph_driver=images.driver_data(engine, container.layer_id),
        mounts=mounts_of(container),
        config=config_of(container),
        network_settings=networks.settings(engine, container),
    )
    if size:
        _add_sizes(engine, answer, container, (await _used(engine, [container]))[container.id])
    return answer


def _shown_host_config(engine: Engine, container: Container) -> HostConfig:
    """With the links as they are: both containers may have got other names."""
    found = host_config_of(container)
    shown = links.shown(engine, container)
    if shown == found.links:
        return found
    found = copy.copy(found)
    found.links = shown
    return found


async def rename(engine: Engine, name: str, new: str) -> None:
    """Give a container another name; its names on networks follow."""
    container = engine.containers.find(name)
    if not new:
        raise InvalidParameter("Neither old nor new names may be empty")
    bare = names.validate(new)
    if bare == container.name:
        raise InvalidParameter("Renaming a container with the same name as its current name")
    with engine.db.transaction(durable=True):
        engine.containers.rename(container.id, bare)
    networks.renamed(engine, container.id)
    renamed = engine.containers.get(container.id)
    engine.events.publish("container", "rename", container.id, {**attributes(renamed), "oldName": f"/{container.name}"})


async def update(engine: Engine, name: str, request: ContainerUpdateRequest) -> ContainerUpdateResponse:
    """Change limits, restart policy and published ports; what was not said stays."""
    id = engine.containers.find(name).id
    return await engine.finish(_update(engine, id, request))


async def _update(engine: Engine, id: str, request: ContainerUpdateRequest) -> ContainerUpdateResponse:
    warnings: builtins.list[str] = []
    limits.check(request, warnings, update=True)
    async with engine.locks.hold(id):
        container = engine.containers.get(id)
        if container.state in (State.REMOVING, State.DEAD):
            raise Conflict(f'Cannot update container {id}: Container is marked for removal and cannot be "update".')
        host = codec.copy(host_config_of(container))
        try:
            limited = limits.apply(host, request)
        except Conflict as error:
            raise Conflict(f"Cannot update container {id}: {error}") from None
        if request.restart_policy is not None and request.restart_policy.name:
            if host.auto_remove and request.restart_policy.name != "no":
                raise Conflict(
                    f"Cannot update container {id}: "
                    "Restart policy cannot be updated because AutoRemove is enabled for the container"
                )
            host.restart_policy = request.restart_policy
            checks.check_restart(host)
        limits.check(host, [], update=True)
        if container.live and limited:
            _, rules = specs.devices(host)
            await _limit(engine, id, specs.resources(host, rules))
        with engine.db.transaction(durable=True):
            engine.containers.update(id, host_config=codec.encode(host))
        if request.publish_add or request.publish_remove:
            warnings += await port_updates.update(engine, engine.containers.get(id), request)
    engine.events.publish("container", "update", id, attributes(container))
    return ContainerUpdateResponse(warnings=warnings or None)


async def _limit(engine: Engine, id: str, resources: Resources) -> None:
    """Give a running container other limits; one that ends meanwhile gets them when it starts again. Raises OSError."""
    running = engine.running.get(id)
    try:
        await blocking(engine.exec.update, id, resources)
    except OSError as error:
        if not await rewiring.gone(running, error, (errno.ENOENT, errno.ENODEV)):  # its cgroup is not there any more
            raise


async def remove(
    engine: Engine, name: str, force: bool = False, volumes: bool = False, link: bool = False
) -> Released | None:
    """See ``removal.remove``."""
    return await removal.remove(engine, name, force, volumes, link)


_ENDED = (State.CREATED, State.EXITED, State.DEAD)


def prunable(engine: Engine, filters: Filters) -> builtins.list[Container]:
    """The containers that do not run and that the filters mean. Raises InvalidParameter."""
    filters.validate(PRUNE_FILTERS)
    until = filters.until()
    found = []
    for container in engine.containers.all():
        labels = config_of(container).labels
        if container.state not in _ENDED:
            continue
        if (until is not None and container.created > until) or not filters.matches_labels("label", labels):
            continue
        if "label!" in filters and filters.matches_labels("label!", labels):
            continue
        found.append(container)
    return found


async def remove_ended(engine: Engine, id: str) -> int | None:
    """Remove a container that does not run: the bytes given back; None: it runs, or is gone already."""
    async with engine.locks.hold(id):
        await launch.settled(engine, id)
        try:
            if engine.containers.get(id).state not in _ENDED:
                return None
        except NoSuchContainer:
            return None
        return await removal.erase(engine, id, False)


async def prune(engine: Engine, filters: Filters) -> ContainerPruneResponse:
    """Remove every container that does not run."""
    deleted: builtins.list[str] = []
    freed, before = 0, space.free(engine)
    for container in prunable(engine, filters):
        given_back = await remove_ended(engine, container.id)
        if given_back is not None:
            freed += given_back
            deleted.append(container.id)
    engine.events.publish("container", "prune", "", {"reclaimed": str(freed)})
    change = space.free(engine) - before
    return ContainerPruneResponse(containers_deleted=deleted or None, space_reclaimed=freed, free_space_change=change)


async def top(engine: Engine, name: str, ps_args: str = "") -> ContainerTopResponse:
    """The container's processes, by the host's ps."""
    container = engine.containers.find(name)
    if not container.live:
        raise Conflict(f"container {container.id} is not running")
    if container.state is State.RESTARTING:
        raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
    pids = await blocking(engine.exec.processes, container.id)
    table = await processes.table(pids, ps_args or "-ef")
    engine.events.publish("container", "top", container.id, attributes(container))
    return table


async def changes(engine: Engine, name: str) -> builtins.list[FilesystemChange]:
    """What differs from the image, without the places that every container has something mounted on."""
    container = engine.containers.find(name)
    try:
        found = await blocking(lambda: [*engine.layers.changes(container.layer_id)])
    except FileNotFoundError:
        if engine.containers.get(container.id).state is State.REMOVING:
            raise NoSuchContainer(name) from None
        raise
    kept = [change for change in found if not (change.path in specs.MOUNTED_ON and change.kind != 2)]
    paths = {change.path for change in kept}
    removed = {change.path for change in found} - paths
    # A folder that is listed only for such a place in it is not the user's change either.
    emptied = {
        change.path
        for change in kept
        if change.kind != 2
        and any(path.startswith(f"{change.path}/") for path in removed)
        and not any(path.startswith(f"{change.path}/") for path in paths)
    }
    return [FilesystemChange(path=change.path, kind=change.kind) for change in kept if change.path not in emptied]


__all__ = [
    "changes",
    "create",
    "inspect",
    "list",
    "prunable",
    "prune",
    "remove",
    "remove_ended",
    "rename",
    "top",
    "update",
]
