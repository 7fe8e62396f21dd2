"""Networks, and a container's endpoints in them."""

from msgspec import field

from pierhead.wire.codec import Message, always, always_list, always_map, always_new
from pierhead.wire.time import ZERO


class EndpointIPAMConfig(Message):
    """Addresses that the user asked for."""

    ipv4_address: str = ""
    ipv6_address: str = ""
    link_local_ips: list[str] | None = field(default=None, name="LinkLocalIPs")


class EndpointSettings(Message):
    """A container's endpoint: what was asked for (the first six) and what it got."""

    ipam_config: EndpointIPAMConfig | None = always(None)
    links: list[str] | None = always(None)
    aliases: list[str] | None = always(None)
    mac_address: str = always("")
    driver_opts: dict[str, str] | None = always(None)
    gw_priority: int = always(0)
    network_id: str = always("")
    endpoint_id: str = always("")
    gateway: str = always("")
    ip_address: str = always("")
    ip_prefix_len: int = always(0)
    ipv6_gateway: str = always("")
    global_ipv6_address: str = always("")
    global_ipv6_prefix_len: int = always(0)
    dns_names: list[str] | None = always(None, name="DNSNames")


class NetworkingConfig(Message):
    """The networks a new container joins, by name or id."""

    endpoints_config: dict[str, EndpointSettings] | None = always(None)


class IPAMConfig(Message):
    """One subnet."""

    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    auxiliary_addresses: dict[str, str] | None = None


class IPAM(Message):
    """How a network's addresses are managed."""

    driver: str = always("")
    options: dict[str, str] | None = always(None)
    config: list[IPAMConfig] | None = always(None)


class ConfigReference(Message):
    """The network whose configuration another one uses."""

    network: str = always("")


class NetworkContainer(Message):
    """An endpoint as a network shows it; addresses with their prefix length."""

    name: str = always("")
    endpoint_id: str = always("")
    mac_address: str = always("")
    ipv4_address: str = always("")
    ipv6_address: str = always("")


class NetworkInspect(Message):
    """A network as listed and inspected (``containers`` is empty in a list)."""

    name: str = always("")
    id: str = always("")
    created: str = always(ZERO)
    scope: str = always("local")
    driver: str = always("")
    enable_ipv4: bool = always(True)
    enable_ipv6: bool = always(False)
    ipam: IPAM = always_new(IPAM)
    internal: bool = always(False)
    attachable: bool = always(False)
    ingress: bool = always(False)
    config_from: ConfigReference = always_new(ConfigReference)
    config_only: bool = always(False)
    containers: dict[str, NetworkContainer] = always_map()
    options: dict[str, str] | None = always_map()
    labels: dict[str, str] | None = always_map()


Network = NetworkInspect


class NetworkCreateRequest(Message):
    """POST /networks/create. enable_ipv4 None: on."""

    name: str = always("")
    check_duplicate: bool = False
    driver: str = always("")
    scope: str = always("")
    enable_ipv4: bool | None = None
    enable_ipv6: bool | None = None
    ipam: IPAM | None = always(None)
    internal: bool = always(False)
    attachable: bool = always(False)
    ingress: bool = always(False)
    config_only: bool = always(False)
    config_from: ConfigReference | None = always(None)
    options: dict[str, str] | None = always(None)
    labels: dict[str, str] | None = always(None)


class NetworkCreateResponse(Message):
    """The new network's id."""

    id: str = always("")
    warning: str = always("")


class NetworkConnectRequest(Message):
    """POST /networks/{id}/connect."""

    container: str = always("")
    endpoint_config: EndpointSettings | None = None


class NetworkDisconnectRequest(Message):
    """POST /networks/{id}/disconnect."""

    container: str = always("")
    force: bool = always(False)


class NetworkReloadResponse(Message):
    """Our own: what of the engine's networks others had changed, in words."""

    restored: list[str] = always_list()


class NetworkPruneResponse(Message):
    """Names of what was removed; None is written as null, as Docker does for nothing."""

    networks_deleted: list[str] | None = always(None)
