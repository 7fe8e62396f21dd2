"""``--network`` in its short and long form, with what other flags add to the first network."""

import re
from typing import Any

from pierhead.client import csvline
from pierhead.client.errors import ClientError
from pierhead.client.flags import Options
from pierhead.client.values import is_mac

PREDEFINED = ("bridge", "host", "none", "default")
_LONG = re.compile(r"\w+=\w+", re.ASCII)


def networks(options: Options) -> tuple[str, dict[str, Any]]:
    """NetworkMode and EndpointsConfig of a create request. Raises ClientError in Docker's words."""
    endpoints: dict[str, Any] = {}
    mode = "default"
    values = options.all("network")
    has_own, has_predefined = False, False
    for number, value in enumerate(values or ["default"]):
        try:
            name, endpoint = _endpoint(value)
        except NetworkProblem as problem:
            raise ClientError(str(problem)) from None
        if number == 0:
            mode = name
            _apply(endpoint, name, options)
        own = name not in PREDEFINED and not name.startswith("container:")
        has_own, has_predefined = has_own or own, has_predefined or not own
        if endpoint.get("Aliases") and not own:
            raise ClientError("network-scoped aliases are only supported for user-defined networks")
        mac = endpoint.get("MacAddress", "")
        if mac and not is_mac(mac):
            raise ClientError(f"{mac} is not a valid mac address")
        if name in endpoints:
            raise ClientError(f'network "{name}" is specified multiple times')
        endpoints[name] = endpoint
    if has_own and has_predefined:
        raise ClientError("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
    return mode, endpoints


class NetworkProblem(Exception):
    """What is wrong with one value of ``--network``."""


def network_problem(value: str) -> str:
    """Why this cannot be a value of ``--network``; empty where it can."""
    try:
        if value:
            _endpoint(value)
    except (NetworkProblem, csvline.CsvError) as problem:
        return str(problem)
    return ""


def _endpoint(value: str) -> tuple[str, dict[str, Any]]:
    """Name and settings of one value. The long form is what holds a ``key=value``."""
    if not value:
        raise NetworkProblem("no name set for network")
    if not _LONG.search(value):
        return value, {}
    name = ""
    endpoint: dict[str, Any] = {}
    for field in csvline.split(value):
        key, equals, text = field.partition("=")
        key, text = key.strip().lower(), text.strip()
        if not equals:
            raise NetworkProblem(f"invalid field {field}")
        if key == "name":
            name = text
        elif key == "alias":
            endpoint.setdefault("Aliases", []).append(text)
        elif key in ("ip", "ip6"):
            endpoint.setdefault("IPAMConfig", {})["IPv4Address" if key == "ip" else "IPv6Address"] = text
        elif key == "link-local-ip":
            endpoint.setdefault("IPAMConfig", {}).setdefault("LinkLocalIPs", []).append(text)
        elif key == "mac-address":
            endpoint["MacAddress"] = text
        elif key == "driver-opt":
            option, separator, content = text.partition("=")
            if not (option and separator):
                raise NetworkProblem("invalid key value pair format in driver options")
            endpoint.setdefault("DriverOpts", {})[option] = content
        elif key == "gw-priority":
            endpoint["GwPriority"] = _priority(text)
        else:
            raise NetworkProblem(f"invalid field key {key}")
    if not name:
        raise NetworkProblem("network name/id is not specified")
    return name, endpoint


def _priority(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise NetworkProblem(f"invalid gw-priority ({text}): invalid syntax") from None
    if not -(1 << 63) <= number < 1 << 63:
        raise NetworkProblem(f"invalid gw-priority ({text}): value out of range")
    return number


def _apply(endpoint: dict[str, Any], name: str, options: Options) -> None:
    """Docker's rule: --network-alias, --link, --ip … speak of the first network."""
    aliases = options.all("network-alias")
    if endpoint.get("Aliases") and aliases:
        raise ClientError("conflicting options: cannot specify both --network-alias and per-network alias")
    if aliases:
        endpoint["Aliases"] = aliases
    own = name not in PREDEFINED and not name.startswith("container:")
    if own and options.all("link"):
        endpoint["Links"] = options.all("link")
    ipam = endpoint.setdefault("IPAMConfig", {})
    for flag, key in (("ip", "IPv4Address"), ("ip6", "IPv6Address")):
        if options.text(flag):
            if ipam.get(key):
                version = "IPv4" if flag == "ip" else "IPv6"
                raise ClientError(
                    f"conflicting options: cannot specify both --{flag} and per-network {version} address"
                )
            ipam[key] = options.text(flag)
    if options.all("link-local-ip"):
        if ipam.get("LinkLocalIPs"):
            raise ClientError(
                "conflicting options: cannot specify both --link-local-ip and per-network link-local IP addresses"
            )
        ipam["LinkLocalIPs"] = options.all("link-local-ip")
    if not ipam:
        del endpoint["IPAMConfig"]
    mac = options.text("mac-address")
    if mac:
        if endpoint.get("MacAddress"):
            raise ClientError("conflicting options: cannot specify both --mac-address and per-network MAC address")
        endpoint["MacAddress"] = mac
