"""What older versions of the API say otherwise about a container's networks, put into the words of the present one."""

from pierhead.errors import InvalidParameter
from pierhead.wire import versions
from pierhead.wire.containers import ContainerCreateRequest, ContainerInspectResponse, HostConfig
from pierhead.wire.networks import EndpointSettings, NetworkingConfig
from pierhead.wire.versions import Version

DEFAULT, BRIDGE = "default", "bridge"
_NOT_USERS = ("", DEFAULT, BRIDGE, "host", "none")


def modernize(request: ContainerCreateRequest, version: Version) -> list[str]:
    """Rewrite a create request in place as one of the present version; returns warnings. Raises InvalidParameter."""
    if request.host_config is None:
        request.host_config = HostConfig()
    host = request.host_config
    if host.network_mode in ("", DEFAULT):
        host.network_mode = BRIDGE
    endpoints = (request.networking_config.endpoints_config if request.networking_config else None) or {}
    if host.network_mode == BRIDGE and DEFAULT in endpoints:
        endpoints[BRIDGE] = endpoints.pop(DEFAULT)
    if version < versions.SEVERAL_ENDPOINTS_AT_CREATE and len(endpoints) > 1:
        raise InvalidParameter(f"Container cannot be created with multiple network endpoints: {', '.join(endpoints)}")
    if version < versions.GATEWAY_PRIORITY:
        for settings in endpoints.values():
            if settings is not None:
                settings.gw_priority = 0
    warnings = _migrate_mac_address(request, host.network_mode, endpoints, version)
    if endpoints:
        request.networking_config = NetworkingConfig(endpoints_config=endpoints)
    return warnings


def _migrate_mac_address(
    request: ContainerCreateRequest, mode: str, endpoints: dict[str, EndpointSettings], version: Version
) -> list[str]:
    """The container-wide MAC address becomes that of the network mode's endpoint."""
    wanted = request.mac_address
    has_own = mode == BRIDGE or not (mode in _NOT_USERS or mode.startswith("container:"))
    if version < versions.ENDPOINT_MAC_ADDRESS:
        if not wanted:
            for settings in endpoints.values():
                if settings is not None:
                    settings.mac_address = ""
            return []
        if not has_own:
            raise InvalidParameter("conflicting options: mac-address and the network mode")
        name = next(iter(endpoints), mode)  # there is one at most
        endpoints[name] = endpoints.get(name) or EndpointSettings()
        endpoints[name].mac_address = wanted
        return []
    if not wanted:
        return []
    if has_own:
        if endpoints and mode not in endpoints:
            raise InvalidParameter(
                "unable to migrate container-wide MAC address to a specific network: HostConfig.NetworkMode must match "
                "the identity of a network in NetworkSettings.Networks"
            )
        settings = endpoints[mode] = endpoints.get(mode) or EndpointSettings()
        if settings.mac_address and settings.mac_address != wanted:
            raise InvalidParameter(
                "the container-wide MAC address must match the endpoint-specific MAC address for the main network, "
                "or be left empty"
            )
        settings.mac_address = wanted
    if not mode.startswith("container:"):
        request.mac_address = ""
    return ["The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."]


def age(answer: ContainerInspectResponse, version: Version) -> None:
    """Rewrite an inspected container in place as an older version shows it."""
    if version >= versions.LINK_ALIAS_SHORT_ID:
        return
    for name, settings in answer.network_settings.networks.items():
        if name not in _NOT_USERS:
            names = [*(settings.aliases or ()), answer.id[:12], answer.config.hostname]
            settings.aliases = list(dict.fromkeys(one for one in names if one))
