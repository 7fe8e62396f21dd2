"""What a network map says, in the words that its drawings share: ports, listeners, other names, ways out."""

from typing import Any

WILDCARDS = ("0.0.0.0", "::")


def published(port: Any) -> str:
    """``8081→8080/tcp``, ``127.0.0.1:8081→8080/tcp``, ``8000-8010→9000-9010/udp``."""
    outside, inside = str(port["port"]), str(port["container_port"])
    if port["last"] > port["port"]:
        outside += f"-{port['last']}"
        inside += f"-{port['container_port'] + port['last'] - port['port']}"
    address = ""
    if port["ip"] and port["ip"] not in WILDCARDS:
        address = f"[{port['ip']}]:" if ":" in port["ip"] else f"{port['ip']}:"
    return f"{address}{outside}→{inside}/{port['protocol']}"


def silent(port: Any, container: Any) -> bool:
    """Whether nothing in the container listens on what it publishes."""
    last = port["container_port"] + port["last"] - port["port"]
    return port["protocol"] in ("tcp", "udp") and not any(
        one["protocol"] == port["protocol"] and port["container_port"] <= one["port"] <= last and not _loopback(one)
        for one in container["listeners"]
    )


def _loopback(listener: Any) -> bool:
    return bool(listener["address"].startswith("127.") or listener["address"] == "::1")


def listeners(container: Any) -> list[str]:
    """``8080/tcp httpd``, ``127.0.0.1:3306/tcp mysqld``; a port of every address once."""
    everywhere = {(one["protocol"], one["port"]) for one in container["listeners"] if one["address"] in WILDCARDS}
    found: dict[str, None] = {}
    for one in container["listeners"]:
        address = ""
        if (one["protocol"], one["port"]) not in everywhere:
            address = f"[{one['address']}]:" if ":" in one["address"] else f"{one['address']}:"
        found[f"{address}{one['port']}/{one['protocol']} {one['process']}"] = None
    return list(found)


def other_names(attachment: Any, container: Any) -> list[str]:
    """What it is found by besides its name and id."""
    return [name for name in attachment["names"] if name != container["name"] and not container["id"].startswith(name)]


def short(address: str) -> str:
    """An address without the length of its prefix."""
    return address.partition("/")[0]


def state(interface: Any) -> str:
    """``up``, ``down``, or ``no carrier``: it is up, and nothing is at the other end."""
    if not interface["up"]:
        return "down"
    # A bridge without ports has no carrier, and that is no fault.
    return "up" if interface["carrier"] or interface["kind"] == "bridge" else "no carrier"


def sharing(map: Any, container: Any) -> list[str]:
    """The names of the containers that are in this one's network namespace."""
    return [other["name"] for other in map["containers"] if other["shares"] == container["id"]]


def way_out(map: Any, network: Any) -> str:
    """How a network's containers get outside, in a few words."""
    if network["internal"]:
        return "internal: no way out"
    through = next((one["name"] for one in map["interfaces"] if one["gateways"]), "")
    if not network["interface"]:
        return ""
    return f"out through {through}" if through else "no default route"


def detached(map: Any) -> list[Any]:
    """Containers that are in no network and in nobody's namespace: only lo is left to them."""
    placed = {one["container"] for network in map["networks"] for one in network["attachments"]}
    return [one for one in map["containers"] if one["id"] not in placed and not one["shares"]]
