"""The daemon's settings: what the command line, the configuration file and the environment say (see ``flags``)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pierhead.driver.networkdriver.api import PublishPolicy
from pierhead.driver.networkdriver.ipam import AddressPool
from pierhead.linux.idmap import IdMaps


@dataclass(frozen=True, slots=True)
class Config:
    """One daemon. Defaults are those of root; paths are absolute, addresses and subnets have been checked.

    hosts: "unix:///path" or "tcp://address:port".
    bip, bip6, fixed_cidr, fixed_cidr_v6, default_gateway, default_gateway_v6, ipv6, mtu (bytes), icc, ip_masq, ip: of
    the default bridge; empty or 0: chosen.
    host_gateway_ips: what "host-gateway" stands for; empty: the default bridge's own addresses.
    default_network_opts: driver options of new networks, by driver.
    publish_policy: who reaches published ports.
    default_bridge_names: containers find each other by name on the default bridge too.
    exec_opts: of the exec driver ("native.cgroupdriver=systemd").
    cgroup_parent: of containers that are not given another; empty: this daemon's own.
    default_shm_size: bytes.  default_cgroupns_mode: empty: as the cgroup version has it.
    max_concurrent_unpacks: layers of an archive at a time.
    compressed_blobs: of layers that are pulled or loaded: "keep", or "drop" once they are unpacked.
    max_manifest_size, max_unpacked_size (of a layer): bytes.  max_layers: of an image.  max_unpack_ratio: of a layer or
    an archive, beyond its first GiB.  0: no bound but the disk's and the storage driver's.
    registry_certs: a folder of folders, each of the certificates for one registry.
    init, no_new_privileges, seccomp_profile (a file's content, "unconfined" or empty): of containers that do not say.
    userns_remap: whose subordinate ids containers get, as given; id_maps: what came of it (``subids``).
    exec_driver: "native" or "oci": who makes the containers that name no runtime, where there is no default_runtime.
    runtimes: OCI runtimes beside the installed ones, by name: program and options.
    trim: the disk is told which of its blocks are free after something was removed.
    disk_high_mark, disk_low_mark: per cent of the data root's disk, at which a clean-up begins and ends; 0: never.
    disk_remove: what it may take, "dangling", "pulled" and "local" images, "containers" that have not run for so many
    ns.  disk_keep: what was used within so many ns stays.
    mend_networks: what others change in the engine's networks is put right at once.
    """

    hosts: tuple[str, ...] = ("unix:///run/pierhead/pierd.sock",)
    data_root: str = "/var/lib/pierhead"
    exec_root: str = "/run/pierhead"
    pidfile: str = "/run/pierhead/pierd.pid"
    debug: bool = False
    storage_driver: str = ""
    bip: str = ""
    bip6: str = ""
    fixed_cidr: str = ""
    fixed_cidr_v6: str = ""
    default_gateway: str = ""
    default_gateway_v6: str = ""
    ipv6: bool = False
    mtu: int = 0
    icc: bool = True
    ip_masq: bool = True
    ip: str = ""
    publish_policy: PublishPolicy = PublishPolicy.ANY
    host_gateway_ips: tuple[str, ...] = ()
    default_address_pools: tuple[AddressPool, ...] = ()
    default_network_opts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    insecure_registries: tuple[str, ...] = ()
    registry_mirrors: tuple[str, ...] = ()
    registry_certs: str = "/etc/docker/certs.d"
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5
    max_concurrent_unpacks: int = 3
    compressed_blobs: str = "keep"
    max_manifest_size: int = 4 << 20
    max_layers: int = 0
    max_unpacked_size: int = 0
    max_unpack_ratio: int = 1000
    dns: tuple[str, ...] = ()
    dns_opts: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    default_bridge_names: bool = False
    mend_networks: bool = True
    trim: bool = True
    disk_high_mark: float = 0
    disk_low_mark: float = 0
    disk_remove: Mapping[str, int] = field(default_factory=lambda: {"dangling": 0, "pulled": 0})
    disk_keep: int = 120 * 10**9
    embedded: bool = False
    default_ulimits: tuple[str, ...] = ()
    exec_opts: tuple[str, ...] = ()
    cgroup_parent: str = ""
    default_shm_size: int = 64 * 1024 * 1024
    default_cgroupns_mode: str = ""
    default_ipc_mode: str = "private"
    init: bool = False
    init_path: str = ""
    no_new_privileges: bool = False
    seccomp_profile: str = ""
    userns_remap: str = ""
    id_maps: IdMaps | None = None
    exec_driver: str = "native"
    default_runtime: str = ""
    runtimes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def cgroup_driver(self) -> str:
        """Who makes containers' cgroups: "cgroupfs" (we), or "systemd"."""
        chosen = [option.partition("=")[2] for option in self.exec_opts]
        return chosen[-1] if chosen else "cgroupfs"
