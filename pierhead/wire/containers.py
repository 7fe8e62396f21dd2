"""Containers: configuration, lists, inspection, and the small requests and answers around them."""

from msgspec import field

from pierhead.wire.codec import Message, always, always_list, always_map, always_new
from pierhead.wire.images import DriverData, OCIDescriptor
from pierhead.wire.networks import EndpointSettings, NetworkingConfig
from pierhead.wire.time import ZERO

Empty = dict[str, str]
"""A JSON object that is always {}: Go's struct{} as the value of a set."""


class HealthConfig(Message):
    """How a container's health is checked; durations in ns."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(Message):
    """What of a container does not depend on the host."""

    hostname: str = always("")
    domainname: str = always("")
    user: str = always("")
    attach_stdin: bool = always(False)
    attach_stdout: bool = always(False)
    attach_stderr: bool = always(False)
    exposed_ports: dict[str, Empty] | None = None
    tty: bool = always(False)
    open_stdin: bool = always(False)
    stdin_once: bool = always(False)
    env: list[str] | None = always(None)
    cmd: list[str] | None = always(None)
    healthcheck: HealthConfig | None = None
    args_escaped: bool = False
    image: str = always("")
    volumes: dict[str, Empty] | None = always(None)
    working_dir: str = always("")
    entrypoint: list[str] | None = always(None)
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = always(None)
    labels: dict[str, str] | None = always(None)
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: list[str] | None = None


class PortBinding(Message):
    """A host address and port ("" or "0": any; "8000-8010": one of)."""

    host_ip: str = always("", name="HostIp")
    host_port: str = always("")


PortMap = dict[str, list[PortBinding] | None]
"""By "80/tcp"; null where a port is exposed and not published."""


class RestartPolicy(Message):
    """name: "", "no", "always", "unless-stopped", "on-failure"."""

    name: str = always("")
    maximum_retry_count: int = always(0)


class LogConfig(Message):
    """The log driver and its options."""

    type: str = always("")
    config: dict[str, str] | None = always_map()


class DeviceMapping(Message):
    """A host device in the container."""

    path_on_host: str = always("")
    path_in_container: str = always("")
    cgroup_permissions: str = always("")


class DeviceRequest(Message):
    """Devices by what they can do (GPUs, CDI)."""

    driver: str = always("")
    count: int = always(0)
    device_ids: list[str] | None = always(None, name="DeviceIDs")
    capabilities: list[list[str]] | None = always(None)
    options: dict[str, str] | None = always(None)


class Ulimit(Message):
    """A resource limit; -1: unlimited."""

    name: str = always("")
    hard: int = always(0)
    soft: int = always(0)


class WeightDevice(Message):
    """Block I/O weight of a device."""

    path: str = always("")
    weight: int = always(0)


class ThrottleDevice(Message):
    """Block I/O rate of a device."""

    path: str = always("")
    rate: int = always(0)


class BindOptions(Message):
    """Options of a bind mount."""

    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class MountDriver(Message):
    """The volume driver of a mount."""

    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(Message):
    """Options of a volume mount."""

    no_copy: bool = False
    labels: dict[str, str] | None = None
    subpath: str = ""
    driver_config: MountDriver | None = None


class ImageOptions(Message):
    """Options of an image mount."""

    subpath: str = ""


class TmpfsOptions(Message):
    """Options of a tmpfs; mode as a number."""

    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] | None = None


class Mount(Message):
    """One mount as asked for by ``--mount``; type "bind", "volume", "tmpfs", …"""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    cluster_options: dict[str, str] | None = None


class Resources(Message):
    """Limits. Memory in bytes, periods and quotas in µs; -1 or None: no limit; 0: not said."""

    cpu_shares: int = always(0)
    memory: int = always(0)
    nano_cpus: int = always(0)
    cgroup_parent: str = always("")
    blkio_weight: int = always(0)
    blkio_weight_device: list[WeightDevice] | None = always(None)
    blkio_device_read_bps: list[ThrottleDevice] | None = always(None)
    blkio_device_write_bps: list[ThrottleDevice] | None = always(None)
    blkio_device_read_iops: list[ThrottleDevice] | None = always(None, name="BlkioDeviceReadIOps")
    blkio_device_write_iops: list[ThrottleDevice] | None = always(None, name="BlkioDeviceWriteIOps")
    cpu_period: int = always(0)
    cpu_quota: int = always(0)
    cpu_realtime_period: int = always(0)
    cpu_realtime_runtime: int = always(0)
    cpuset_cpus: str = always("")
    cpuset_mems: str = always("")
    devices: list[DeviceMapping] | None = always(None)
    device_cgroup_rules: list[str] | None = always(None)
    device_requests: list[DeviceRequest] | None = always(None)
    kernel_memory: int = 0
    kernel_memory_tcp: int = field(default=0, name="KernelMemoryTCP")
    memory_reservation: int = always(0)
    memory_swap: int = always(0)
    memory_swappiness: int | None = always(None)
    oom_kill_disable: bool | None = always(None)
    pids_limit: int | None = always(None)
    ulimits: list[Ulimit] | None = always(None)
    cpu_count: int = always(0)
    cpu_percent: int = always(0)
    io_maximum_iops: int = always(0, name="IOMaximumIOps")
    io_maximum_bandwidth: int = always(0, name="IOMaximumBandwidth")


class HostConfig(Resources):
    """What of a container depends on the host."""

    binds: list[str] | None = always(None)
    container_id_file: str = always("", name="ContainerIDFile")
    log_config: LogConfig = always_new(LogConfig)
    network_mode: str = always("")
    port_bindings: PortMap | None = always(None)
    restart_policy: RestartPolicy = always_new(RestartPolicy)
    auto_remove: bool = always(False)
    volume_driver: str = always("")
    volumes_from: list[str] | None = always(None)
    console_size: list[int] = field(default_factory=lambda: [0, 0])
    annotations: dict[str, str] | None = None
    cap_add: list[str] | None = always(None)
    cap_drop: list[str] | None = always(None)
    cgroupns_mode: str = always("")
    dns: list[str] | None = always(None)
    dns_options: list[str] | None = always(None)
    dns_search: list[str] | None = always(None)
    extra_hosts: list[str] | None = always(None)
    group_add: list[str] | None = always(None)
    ipc_mode: str = always("")
    cgroup: str = always("")
    links: list[str] | None = always(None)
    oom_score_adj: int = always(0)
    pid_mode: str = always("")
    privileged: bool = always(False)
    publish_all_ports: bool = always(False)
    readonly_rootfs: bool = always(False)
    security_opt: list[str] | None = always(None)
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = always("")
    userns_mode: str = always("")
    shm_size: int = always(0)
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = always("")
    mounts: list[Mount] | None = None
    masked_paths: list[str] | None = always(None)
    readonly_paths: list[str] | None = always(None)
    init: bool | None = None


class ContainerCreateRequest(ContainerConfig):
    """POST /containers/create."""

    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None


class ContainerCreateResponse(Message):
    """The new container's id."""

    id: str = always("")
    warnings: list[str] = always_list()


class ContainerUpdateRequest(Resources):
    """POST /containers/{id}/update."""

    restart_policy: RestartPolicy = always_new(RestartPolicy)
    publish_add: PortMap | None = None
    """Ours: ports to be published as well, in the form of HostConfig.PortBindings."""
    publish_remove: list[str] | None = None
    """Ours: ports to be published no longer, "[ip:]host port[:container port][/protocol]" each."""


class ContainerUpdateResponse(Message):
    """Nothing but warnings."""

    warnings: list[str] | None = always(None)


class HealthcheckResult(Message):
    """One run of the health check."""

    start: str = always(ZERO)
    end: str = always(ZERO)
    exit_code: int = always(0)
    output: str = always("")


class Health(Message):
    """status: "starting", "healthy", "unhealthy"."""

    status: str = always("")
    failing_streak: int = always(0)
    log: list[HealthcheckResult] = always_list()


class ContainerState(Message):
    """What a container is doing."""

    status: str = always("")
    running: bool = always(False)
    paused: bool = always(False)
    restarting: bool = always(False)
    oom_killed: bool = always(False, name="OOMKilled")
    dead: bool = always(False)
    pid: int = always(0)
    exit_code: int = always(0)
    error: str = always("")
    started_at: str = always(ZERO)
    finished_at: str = always(ZERO)
    health: Health | None = None
    exit_reason: str = ""
    """Ours: which signal ended it and who sent it, or that its memory was not enough."""


class MountPoint(Message):
    """A mount as it is."""

    type: str = ""
    name: str = ""
    source: str = always("")
    destination: str = always("")
    driver: str = ""
    mode: str = always("")
    rw: bool = always(False)
    propagation: str = always("")


class PathStat(Message, rename=None):
    """What is at a path of a container's: the content of X-Docker-Container-Path-Stat. mode: Go's os.FileMode."""

    name: str = always("")
    size: int = always(0)
    mode: int = always(0)
    mtime: str = always(ZERO)
    link_target: str = always("", name="linkTarget")


class Address(Message):
    """A further address of an endpoint."""

    addr: str = always("")
    prefix_len: int = always(0)


class NetworkSettings(Message):
    """A container's networks; the flat fields repeat those of the default bridge."""

    bridge: str = always("")
    sandbox_id: str = always("")
    sandbox_key: str = always("")
    ports: PortMap = always_map()
    hairpin_mode: bool = always(False)
    link_local_ipv6_address: str = always("", name="LinkLocalIPv6Address")
    link_local_ipv6_prefix_len: int = always(0, name="LinkLocalIPv6PrefixLen")
    secondary_ip_addresses: list[Address] | None = always(None)
    secondary_ipv6_addresses: list[Address] | None = always(None)
    endpoint_id: str = always("")
    gateway: str = always("")
    global_ipv6_address: str = always("")
    global_ipv6_prefix_len: int = always(0)
    ip_address: str = always("")
    ip_prefix_len: int = always(0)
    ipv6_gateway: str = always("")
    mac_address: str = always("")
    networks: dict[str, EndpointSettings] = always_map()


class ContainerInspectResponse(Message):
    """Everything about a container. disk_…: as in ContainerSummary."""

    id: str = always("")
    created: str = always(ZERO)
    path: str = always("")
    args: list[str] = always_list()
    state: ContainerState = always_new(ContainerState)
    image: str = always("")
    resolv_conf_path: str = always("")
    hostname_path: str = always("")
    hosts_path: str = always("")
    log_path: str = always("")
    name: str = always("")
    restart_count: int = always(0)
    driver: str = always("")
    platform: str = always("linux")
    mount_label: str = always("")
    process_label: str = always("")
    app_armor_profile: str = always("")
    exec_ids: list[str] | None = always(None, name="ExecIDs")
    host_config: HostConfig = always_new(HostConfig)
    graph_driver: DriverData = always_new(DriverData)
    size_rw: int | None = field(default=None, name="SizeRw")
    size_root_fs: int | None = None
    disk_rw: int | None = field(default=None, name="DiskRw")
    disk_logs: int | None = None
    disk_files: int | None = None
    mounts: list[MountPoint] = always_list()
    config: ContainerConfig = always_new(ContainerConfig)
    network_settings: NetworkSettings = always_new(NetworkSettings)
    image_manifest_descriptor: OCIDescriptor | None = None


class Port(Message):
    """One port of a listed container; an exposed one has no public port and no address."""

    ip: str = ""
    private_port: int = always(0)
    public_port: int = 0
    type: str = always("tcp")


class SummaryHostConfig(Message):
    """What a list shows of a HostConfig."""

    network_mode: str = ""
    annotations: dict[str, str] | None = None


class SummaryNetworkSettings(Message):
    """What a list shows of NetworkSettings."""

    networks: dict[str, EndpointSettings] = always_map()


class ContainerSummary(Message):
    """A container in a list; created in seconds.

    disk_rw, disk_logs, disk_files: bytes on the disk of what it has written, its logs and its own few files, where
    sizes were asked for; not Docker's.
    """

    id: str = always("")
    names: list[str] = always_list()
    image: str = always("")
    image_id: str = always("")
    command: str = always("")
    created: int = always(0)
    ports: list[Port] = always_list()
    size_rw: int = field(default=0, name="SizeRw")
    size_root_fs: int = 0
    disk_rw: int | None = field(default=None, name="DiskRw")
    disk_logs: int | None = None
    disk_files: int | None = None
    labels: dict[str, str] = always_map()
    state: str = always("")
    status: str = always("")
    host_config: SummaryHostConfig = always_new(SummaryHostConfig)
    network_settings: SummaryNetworkSettings = always_new(SummaryNetworkSettings)
    mounts: list[MountPoint] = always_list()
    image_manifest_descriptor: OCIDescriptor | None = None


class ContainerWaitExitError(Message):
    """Why waiting failed."""

    message: str = ""


class ContainerWaitResponse(Message):
    """The answer of ``wait``."""

    status_code: int = always(0)
    error: ContainerWaitExitError | None = None


class ContainerPruneResponse(Message):
    """What was removed; None is written as null, as Docker does for nothing.

    free_space_change: as in ``space.Released``; not Docker's.
    """

    containers_deleted: list[str] | None = always(None)
    space_reclaimed: int = always(0)
    free_space_change: int | None = None


class ContainerTopResponse(Message):
    """A table of processes."""

    processes: list[list[str]] = always_list()
    titles: list[str] = always_list()


class FilesystemChange(Message):
    """kind: 0 modified, 1 added, 2 deleted."""

    path: str = always("")
    kind: int = always(0)
