"""Small views of a container row that several jobs need: its Config, its HostConfig, its event attributes."""

from functools import lru_cache

from pierhead.graph.containers import Container
from pierhead.wire import codec
from pierhead.wire.containers import ContainerConfig, HostConfig, MountPoint
from pierhead.wire.networks import EndpointSettings


@lru_cache(maxsize=512)
def _config(data: bytes) -> ContainerConfig:
    return codec.decode(data, ContainerConfig)


@lru_cache(maxsize=512)
def _host_config(data: bytes) -> HostConfig:
    return codec.decode(data, HostConfig)


def variables(config: ContainerConfig) -> dict[str, str]:
    """The environment by name; entries without a value are left out."""
    return dict(entry.split("=", 1) for entry in config.env or () if "=" in entry)


def config_of(container: Container) -> ContainerConfig:
    """The container's Config. Shared: copy it before changing it."""
    return _config(container.config)


def host_config_of(container: Container) -> HostConfig:
    """The container's HostConfig. Shared: copy it before changing it."""
    return _host_config(container.host_config)


def mounts_of(container: Container) -> list[MountPoint]:
    """The container's mounts, as inspect shows them."""
    return codec.decode(container.mounts, list[MountPoint])


def args_of(container: Container) -> list[str]:
    """The arguments of the container's command, without its path."""
    return codec.decode(container.args, list[str])


def attributes(container: Container) -> dict[str, str]:
    """What each of its events carries: its labels, image and name."""
    return {**(config_of(container).labels or {}), "image": container.image_name, "name": container.name}


def network_kind(mode: str) -> str:
    """ "default", "host", "none", "container" or "user" of a HostConfig.NetworkMode."""
    if mode in ("", "default", "bridge"):
        return "default"
    if mode in ("host", "none"):
        return mode
    return "container" if mode.startswith("container:") else "user"


def dns_names(container: Container, settings: EndpointSettings) -> list[str]:
    """What a container is called on a user-defined network: name, aliases, short id, hostname; in Docker's order."""
    names = [container.name, *(settings.aliases or ()), container.id[:12]]
    hostname = config_of(container).hostname
    if hostname:
        names.append(hostname)
    return list(dict.fromkeys(names))
