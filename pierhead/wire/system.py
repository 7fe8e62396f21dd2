"""The daemon itself: version, info, disk usage, events, statistics; and our own list of jobs."""

import msgspec
from msgspec import field

from pierhead.wire.codec import Message, always, always_list, always_map, always_new
from pierhead.wire.containers import ContainerSummary
from pierhead.wire.images import ImageSummary
from pierhead.wire.space import DiskUsage
from pierhead.wire.time import ZERO
from pierhead.wire.volumes import Volume


class ErrorResponse(Message, rename=None):
    """The body of every error."""

    message: str = always("")


class VersionPlatform(Message):
    """The product's name."""

    name: str = always("")


class ComponentVersion(Message):
    """One part of the engine."""

    name: str = always("")
    version: str = always("")
    details: dict[str, str] | None = None


class SystemVersion(Message):
    """GET /version."""

    platform: VersionPlatform = always_new(VersionPlatform)
    components: list[ComponentVersion] = always_list()
    version: str = always("")
    api_version: str = always("")
    min_api_version: str = always("", name="MinAPIVersion")
    git_commit: str = always("")
    go_version: str = always("")
    os: str = always("linux")
    arch: str = always("")
    kernel_version: str = ""
    experimental: bool = False
    build_time: str = ""


class PluginsInfo(Message):
    """The drivers that are there, by kind."""

    volume: list[str] | None = always(None)
    network: list[str] | None = always(None)
    authorization: list[str] | None = always(None)
    log: list[str] | None = always(None)


class IndexInfo(Message):
    """A registry."""

    name: str = always("")
    mirrors: list[str] = always_list()
    secure: bool = always(False)
    official: bool = always(False)


class RegistryServiceConfig(Message):
    """How registries are reached."""

    insecure_registry_cidrs: list[str] = always_list(name="InsecureRegistryCIDRs")
    index_configs: dict[str, IndexInfo] = always_map()
    mirrors: list[str] | None = always(None)


class Runtime(Message, rename=None):
    """An OCI runtime that containers may name."""

    path: str = ""
    runtime_args: list[str] | None = field(default=None, name="runtimeArgs")
    status: dict[str, str] | None = None


class SwarmInfo(Message):
    """Never part of a swarm."""

    node_id: str = always("")
    node_addr: str = always("")
    local_node_state: str = always("inactive")
    control_available: bool = always(False)
    error: str = always("")
    remote_managers: list[str] | None = always(None)


class Commit(Message):
    """The version of an outside program."""

    id: str = always("", name="ID")


class FirewallInfo(Message):
    """How packets are filtered and translated."""

    driver: str = always("")
    info: list[list[str]] | None = None


class AddressPool(Message):
    """Where subnets of new networks come from."""

    base: str = always("")
    size: int = always(0)


class SystemInfo(Message):
    """GET /info."""

    id: str = always("", name="ID")
    containers: int = always(0)
    containers_running: int = always(0)
    containers_paused: int = always(0)
    containers_stopped: int = always(0)
    images: int = always(0)
    driver: str = always("")
    driver_status: list[list[str]] = always_list()
    system_status: list[list[str]] | None = None
    plugins: PluginsInfo = always_new(PluginsInfo)
    memory_limit: bool = always(False)
    swap_limit: bool = always(False)
    kernel_memory: bool = False
    kernel_memory_tcp: bool = field(default=False, name="KernelMemoryTCP")
    cpu_cfs_period: bool = always(False)
    cpu_cfs_quota: bool = always(False)
    cpu_shares: bool = always(False, name="CPUShares")
    cpu_set: bool = always(False, name="CPUSet")
    pids_limit: bool = always(False)
    ipv4_forwarding: bool = always(False)
    bridge_nf_iptables: bool = always(False)
    bridge_nf_ip6tables: bool = always(False)
    debug: bool = always(False)
    n_fd: int = always(0)
    oom_kill_disable: bool = always(False)
    n_goroutines: int = always(0)
    system_time: str = always(ZERO)
    logging_driver: str = always("json-file")
    cgroup_driver: str = always("")
    cgroup_version: str = ""
    n_events_listener: int = always(0)
    kernel_version: str = always("")
    operating_system: str = always("")
    os_version: str = always("", name="OSVersion")
    os_type: str = always("linux", name="OSType")
    architecture: str = always("")
    index_server_address: str = always("https://index.docker.io/v1/")
    registry_config: RegistryServiceConfig | None = always_new(RegistryServiceConfig)
    ncpu: int = always(0, name="NCPU")
    mem_total: int = always(0)
    generic_resources: list[dict[str, str]] | None = always(None)
    docker_root_dir: str = always("")
    http_proxy: str = always("")
    https_proxy: str = always("")
    no_proxy: str = always("")
    name: str = always("")
    labels: list[str] = always_list()
    experimental_build: bool = always(False)
    server_version: str = always("")
    runtimes: dict[str, Runtime] = always_map()
    default_runtime: str = always("")
    swarm: SwarmInfo = always_new(SwarmInfo)
    live_restore_enabled: bool = always(False)
    isolation: str = always("")
    init_binary: str = always("")
    containerd_commit: Commit = always_new(Commit)
    runc_commit: Commit = always_new(Commit)
    init_commit: Commit = always_new(Commit)
    security_options: list[str] = always_list()
    product_license: str = ""
    default_address_pools: list[AddressPool] | None = None
    firewall_backend: FirewallInfo | None = None
    cdi_spec_dirs: list[str] = always_list(name="CDISpecDirs")
    warnings: list[str] | None = always(None)


class SystemDataUsageResponse(Message):
    """GET /system/df. pierhead: where every byte is, which Docker does not say; only where no type was asked for."""

    layers_size: int = always(0)
    images: list[ImageSummary] = always_list()
    containers: list[ContainerSummary] = always_list()
    volumes: list[Volume] = always_list()
    build_cache: list[dict[str, str]] | None = always_list()
    pierhead: DiskUsage | None = None


class EventActor(Message):
    """Who an event is about."""

    id: str = always("", name="ID")
    attributes: dict[str, str] = always_map()


class EventMessage(Message):
    """One event; the first three repeat the rest for clients before API 1.22 (containers and images only)."""

    status: str = field(default="", name="status")
    id: str = field(default="", name="id")
    from_: str = field(default="", name="from")
    type: str = always("")
    action: str = always("")
    actor: EventActor = always_new(EventActor)
    scope: str = field(default="", name="scope")
    time: int = field(default=0, name="time")
    time_nano: int = field(default=0, name="timeNano")


class ContainerPidsStats(Message, rename=None):
    """Processes and threads."""

    current: int = 0
    limit: int = 0


class ContainerBlkioStatEntry(Message, rename=None):
    """A counter of one device."""

    major: int = always(0)
    minor: int = always(0)
    op: str = always("")
    value: int = always(0)


class ContainerBlkioStats(Message, rename=None):
    """Block I/O."""

    io_service_bytes_recursive: list[ContainerBlkioStatEntry] | None = always(None)
    io_serviced_recursive: list[ContainerBlkioStatEntry] | None = always(None)
    io_queue_recursive: list[ContainerBlkioStatEntry] | None = always(None)
    io_service_time_recursive: list[ContainerBlkioStatEntry] | None = always(None)
    io_wait_time_recursive: list[ContainerBlkioStatEntry] | None = always(None)
    io_merged_recursive: list[ContainerBlkioStatEntry] | None = always(None)
    io_time_recursive: list[ContainerBlkioStatEntry] | None = always(None)
    sectors_recursive: list[ContainerBlkioStatEntry] | None = always(None)


class ContainerCPUUsage(Message, rename=None):
    """CPU time in ns."""

    total_usage: int = always(0)
    percpu_usage: list[int] | None = None
    usage_in_kernelmode: int = always(0)
    usage_in_usermode: int = always(0)


class ContainerThrottlingData(Message, rename=None):
    """How often and how long (ns) the quota held the container back."""

    periods: int = always(0)
    throttled_periods: int = always(0)
    throttled_time: int = always(0)


class ContainerCPUStats(Message, rename=None):
    """CPU time of the container and, in ns, of the whole machine."""

    cpu_usage: ContainerCPUUsage = always_new(ContainerCPUUsage)
    system_cpu_usage: int = 0
    online_cpus: int = 0
    throttling_data: ContainerThrottlingData = always_new(ContainerThrottlingData)


class ContainerMemoryStats(Message, rename=None):
    """Memory in bytes; stats: the lines of the kernel's memory.stat."""

    usage: int = 0
    max_usage: int = 0
    stats: dict[str, int] | None = None
    failcnt: int = 0
    limit: int = 0


class ContainerNetworkStats(Message, rename=None):
    """Counters of one interface."""

    rx_bytes: int = always(0)
    rx_packets: int = always(0)
    rx_errors: int = always(0)
    rx_dropped: int = always(0)
    tx_bytes: int = always(0)
    tx_packets: int = always(0)
    tx_errors: int = always(0)
    tx_dropped: int = always(0)


class ContainerStorageStats(Message, rename=None):
    """Windows only: always {}."""


class ContainerStatsResponse(Message, rename=None):
    """One sample, with the one before it."""

    name: str = ""
    id: str = ""
    read: str = always(ZERO)
    preread: str = always(ZERO)
    pids_stats: ContainerPidsStats = always_new(ContainerPidsStats)
    blkio_stats: ContainerBlkioStats = always_new(ContainerBlkioStats)
    num_procs: int = always(0)
    storage_stats: ContainerStorageStats = always_new(ContainerStorageStats)
    cpu_stats: ContainerCPUStats = always_new(ContainerCPUStats)
    precpu_stats: ContainerCPUStats = always_new(ContainerCPUStats)
    memory_stats: ContainerMemoryStats = always_new(ContainerMemoryStats)
    networks: dict[str, ContainerNetworkStats] | None = None


class JobReport(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One job or phase, for ``pier jobs`` and ``pier run --trace`` (GET /pierhead/jobs; not part of Docker's API).

    start: ns since the outermost job began; duration: ns, None while it runs; at: ns since the epoch (outermost only).
    """

    id: int
    name: str
    subject: str = ""
    at: int = 0
    start: int = always(0)
    duration: int | None = always(None)
    outcome: str = always("")
    children: list["JobReport"] = always_list()
