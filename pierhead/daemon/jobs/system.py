"""Jobs about the daemon itself: version, info, disk usage, events, and the list of jobs."""

import os
import platform
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable

from pierhead import __version__
from pierhead.daemon.engine.engine import Engine, Span, blocking
from pierhead.daemon.engine.events import Event
from pierhead.daemon.jobs import confinement, containers, images, space, specs, volumes
from pierhead.daemon.jobs.log_drivers import DRIVERS
from pierhead.errors import InvalidParameter
from pierhead.graph.holdings import holdings
from pierhead.graph.state import State
from pierhead.reference import parse
from pierhead.wire import versions
from pierhead.wire.filters import Filters
from pierhead.wire.system import (
    AddressPool,
    ComponentVersion,
    EventActor,
    EventMessage,
    IndexInfo,
    JobReport,
    PluginsInfo,
    RegistryServiceConfig,
    Runtime,
    SystemDataUsageResponse,
    SystemInfo,
    SystemVersion,
    VersionPlatform,
)
from pierhead.wire.time import rfc3339_fixed

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
DOCKER_VERSION = "28.2.2"
"""The Docker whose behaviour is ours: clients and libraries compare versions, so this is what they are told."""

DATA_TYPES = frozenset({"container", "image", "volume", "build-cache"})
"""What ``system df`` may be asked for."""


def _architecture() -> str:
    machine = platform.machine()
    return ARCHITECTURES.get(machine, machine)


async def version(engine: Engine) -> SystemVersion:
    """What runs here."""
    kernel = os.uname().release
    details = {
        "ApiVersion": versions.CURRENT,
        "MinAPIVersion": versions.OLDEST,
        "Arch": _architecture(),
        "Os": "linux",
        "KernelVersion": kernel,
        "Experimental": "false",
        "GoVersion": f"python{platform.python_version()}",
        "GitCommit": "",
        "BuildTime": "",
    }
    return SystemVersion(
        platform=VersionPlatform(name=f"Pierhead {__version__}"),
        components=[
            ComponentVersion(name="Engine", version=DOCKER_VERSION, details=details),
            ComponentVersion(name="pierhead", version=__version__, details={"GitCommit": ""}),
        ],
        version=DOCKER_VERSION,
        api_version=versions.CURRENT,
        min_api_version=versions.OLDEST,
        go_version=f"python{platform.python_version()}",
        os="linux",
        arch=_architecture(),
        kernel_version=kernel,
    )


def _os_release() -> dict[str, str]:
    result: dict[str, str] = {}
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            for line in file:
                key, separator, value = line.strip().partition("=")
                if separator:
                    result[key] = value.strip('"')
    except OSError:
        pass  # a machine without one is called Linux
    return result


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _flag(path: str) -> bool:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip() == "1"
    except OSError:
        return False


def unprotected(hosts: Iterable[str]) -> list[str]:
    """Docker's warning for each address that lets in whoever reaches it."""
    return [
        f"WARNING: API is accessible on http://{host.removeprefix('tcp://')} without encryption.\n"
        "         Access to the remote API is equivalent to root access on the host. Refer\n"
        "         to the 'Docker daemon attack surface' section in the documentation for\n"
        "         more information: https://docs.docker.com/go/attack-surface/"
        for host in hosts
        if not host.startswith("unix://")
    ]


async def info(engine: Engine) -> SystemInfo:
    """What ``docker info`` shows."""
    rows = engine.db.all("SELECT state, count(*) AS count FROM container GROUP BY state")
    states = Counter({State(row["state"]): row["count"] for row in rows})
    running, paused = states[State.RUNNING] + states[State.RESTARTING], states[State.PAUSED]
    release = _os_release()
    unified = specs.cgroup_layout().version == 2
    insecure = [entry for entry in engine.config.insecure_registries if "/" in entry]
    return SystemInfo(
        id=engine.db.instance,
        containers=states.total(),
        containers_running=running,
        containers_paused=paused,
        containers_stopped=states.total() - running - paused,
        images=images.count(engine),
        driver=engine.layers.name,
        driver_status=[list(pair) for pair in engine.layers.status()],
        plugins=PluginsInfo(volume=["local"], network=sorted(engine.networks), log=[*DRIVERS]),
        memory_limit=True,
        swap_limit=True,
        cpu_cfs_period=True,
        cpu_cfs_quota=True,
        cpu_shares=True,
        cpu_set=True,
        pids_limit=True,
        ipv4_forwarding=_flag("/proc/sys/net/ipv4/ip_forward"),
        bridge_nf_iptables=_flag("/proc/sys/net/bridge/bridge-nf-call-iptables"),
        bridge_nf_ip6tables=_flag("/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
        debug=engine.config.debug,
        n_fd=len(os.listdir("/proc/self/fd")),
        oom_kill_disable=not unified,
        n_goroutines=len(engine.jobs),
        system_time=rfc3339_fixed(time.time_ns()),
        cgroup_driver=engine.config.cgroup_driver,
        cgroup_version="2" if unified else "1",
        n_events_listener=engine.events.listeners,
        kernel_version=os.uname().release,
        operating_system=release.get("PRETTY_NAME", "Linux"),
        os_version=release.get("VERSION_ID", ""),
        architecture=platform.machine(),
        registry_config=RegistryServiceConfig(
            insecure_registry_cidrs=["::1/128", "127.0.0.0/8", *insecure],
            index_configs={
                "docker.io": IndexInfo(
                    name="docker.io", mirrors=list(engine.config.registry_mirrors), secure=True, official=True
                )
            },
            mirrors=list(engine.config.registry_mirrors) or None,
        ),
        ncpu=os.cpu_count() or 1,
        mem_total=_memory(),
        docker_root_dir=engine.config.data_root,
        default_address_pools=[
            AddressPool(base=str(pool.base), size=pool.size) for pool in engine.config.default_address_pools
        ]
        or None,
        name=os.uname().nodename,
        server_version=DOCKER_VERSION,
        runtimes={name: Runtime(path=path) for name, path in engine.exec.runtimes().items()},
        default_runtime=engine.exec.default,
        live_restore_enabled=True,
        warnings=unprotected(engine.config.hosts) or None,
        init_binary="docker-init",
        security_options=[
            *(["name=apparmor"] if confinement.enforced() else []),
            "name=seccomp,profile=builtin",
            *(["name=userns"] if engine.config.id_maps is not None else []),
            *(["name=cgroupns"] if unified else []),
        ],
    )


async def data_usage(
    engine: Engine, types: Collection[str] = DATA_TYPES, fresh: bool = False
) -> SystemDataUsageResponse:
    """What images, containers and volumes use; and, where all of them are asked for, the whole disk by its owners.

    fresh: image layers are measured again.
    """
    found = SystemDataUsageResponse()
    whole = DATA_TYPES.issubset(types)
    if fresh:
        await blocking(holdings, engine.graph, fresh)  # which writes it down
    if "image" in types:
        found.layers_size = (await blocking(engine.derived, space.layers_and_images)).size
        found.images = await blocking(engine.derived, images.usage)
    if "container" in types:
        found.containers = await containers.list(engine, all=True, size=True)
    if "volume" in types:
        found.volumes = await blocking(volumes.usage, engine)
    if whole:
        used = [
            space.ContainerUse(one.size_rw, one.disk_rw or 0, one.disk_logs or 0, one.disk_files or 0)
            for one in found.containers
        ]
        disk = sum(volume.usage_data.disk or 0 for volume in found.volumes if volume.usage_data is not None)
        found.pierhead = await blocking(space.account, engine, used, disk)
    return found


def _message(event: Event) -> EventMessage:
    legacy = event.kind in ("container", "image")
    return EventMessage(
        status=event.action if legacy else "",
        id=event.actor if legacy else "",
        from_=event.attributes.get("image", "") if event.kind == "container" else "",
        type=event.kind,
        action=event.action,
        actor=EventActor(id=event.actor, attributes=dict(event.attributes)),
        scope="local",
        time=event.time // 10**9,
        time_nano=event.time,
    )


def _image_names(image: str) -> set[str]:
    """An image as an event tells it, and without its tag, as which it can be asked for, too."""
    try:
        return {image, parse(image).familiar_name}
    except InvalidParameter:
        return {image}


def _wanted(event: Event, filters: Filters) -> bool:
    if not filters.matches_exact("type", event.kind):
        return False
    actions = filters.values_of("event")
    if actions and event.action not in actions and event.action.partition(":")[0] not in actions:
        return False
    if not filters.matches_labels("label", event.attributes):
        return False
    name = event.attributes.get("name", "")
    for kind in ("container", "image", "network", "volume", "daemon"):
        values = filters.values_of(kind)
        if not values:
            continue
        if kind == "image" and event.kind in ("image", "container"):
            names = _image_names(event.attributes.get("image", "") if event.kind == "container" else name)
            if names.isdisjoint(values) and not (event.kind == kind and event.actor.startswith(tuple(values))):
                return False
        elif event.kind == kind:
            if event.actor not in values and name not in values and not any(event.actor.startswith(v) for v in values):
                return False
        elif kind == "container" and event.kind in ("network", "volume"):
            if event.attributes.get("container", "") not in values:
                return False
        else:
            return False
    return filters.matches_exact("id", event.actor) and filters.matches_exact("scope", "local")


async def events(
    engine: Engine, since: int = 0, until: int = 0, filters: Filters | None = None
) -> AsyncIterator[EventMessage]:
    """The recent past from ``since`` (ns; 0: none of it), then what happens until ``until`` (ns; 0: forever).

    A filter that is not known filters nothing, as in Docker.
    """
    if until and since and until < since:
        raise InvalidParameter("`since` time must be before `until` time")
    return _events(engine, since, until, filters or Filters())


async def _events(engine: Engine, since: int, until: int, filters: Filters) -> AsyncIterator[EventMessage]:
    with engine.events.subscribe() as queue:
        for event in engine.events.past(since, until or None) if since or until else []:
            if _wanted(event, filters):
                yield _message(event)
        if until and until <= time.time_ns():
            return
        while True:
            event_ = await queue.get((until - time.time_ns()) / 1e9 if until else None)
            if event_ is None:
                return
            if _wanted(event_, filters):
                yield _message(event_)


def _report(span: Span, origin: int) -> JobReport:
    return JobReport(
        id=span.id,
        name=span.name,
        subject=span.subject,
        start=span.started - origin,
        duration=(span.ended - span.started) if span.ended else None,
        outcome=span.outcome,
        children=[_report(child, origin) for child in span.children],
    )


def _root(span: Span) -> Span:
    return span if span.parent is None else _root(span.parent)


async def jobs(engine: Engine) -> list[JobReport]:
    """What is under way, and the last that has ended, oldest first; each with its phases."""
    offset = time.time_ns() - time.monotonic_ns()
    under_way = {_root(span).id: _root(span) for span in engine.jobs.values()}
    spans = [*(span for span in engine.past if span.id not in under_way), *under_way.values()]
    result = []
    for span in spans:
        report = _report(span, span.started)
        report.at = span.started + offset
        result.append(report)
    return result
