"""The daemon's settings: what the command line and the environment say, resolved to absolute paths."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Config:
    """One daemon. Defaults are those of root; see ``main`` for the flags.

    hosts: "unix:///path" or "tcp://address:port".  bip: the default bridge's address, empty: chosen.
    default_bridge_names: containers find each other by name on the default bridge too.
    """

    hosts: tuple[str, ...] = ("unix:///run/pierhead/pierd.sock",)
    data_root: str = "/var/lib/pierhead"
    exec_root: str = "/run/pierhead"
    pidfile: str = "/run/pierhead/pierd.pid"
    debug: bool = False
    storage_driver: str = ""
    bip: str = ""
    insecure_registries: tuple[str, ...] = ()
    registry_mirrors: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    default_bridge_names: bool = False
    embedded: bool = False
    default_ulimits: tuple[str, ...] = field(default=())
