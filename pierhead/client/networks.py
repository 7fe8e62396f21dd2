"""``pier network``: ls, create, rm, connect, disconnect, reload."""

from typing import Any

from pierhead.client.api import filter_query, quote
from pierhead.client.errors import ClientError, DaemonError
from pierhead.client.flags import Options
from pierhead.client.lifecycle import each
from pierhead.client.session import Session
from pierhead.client.table import Columns, show
from pierhead.client.units import parse_time, truncated


def ls(session: Session, options: Options) -> int:
    """List networks, by name."""
    format = options.text("format")
    if not format or format == "table":
        format = "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}"
        if options.on("quiet"):
            format = "{{.ID}}"
    elif format == "raw":
        format = "network_id: {{.ID}}\n"
        if not options.on("quiet"):
            format += "name: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}\n"
    found = session.api.get("/networks", {"filters": filter_query(options.all("filter"))})
    show(format, _columns(not options.on("no-trunc")), sorted(found, key=lambda row: _natural(row["Name"])))
    return 0


def _natural(name: str) -> list[Any]:
    """Names as people order them: net2 before net10."""
    import re

    return [
        (1, part) if number % 2 == 0 else (0, int(part)) for number, part in enumerate(re.split(r"(\d+)", name)) if part
    ]


def _columns(short: bool) -> Columns:
    def flag(key: str) -> Any:
        return lambda row: "true" if row.get(key) else "false"

    return {
        "CreatedAt": ("CREATED AT", lambda row: _created(row.get("Created") or "")),
        "Driver": ("DRIVER", lambda row: str(row.get("Driver") or "")),
        "ID": ("NETWORK ID", lambda row: truncated(row["Id"]) if short else str(row["Id"])),
        "IPv4": ("IPV4", flag("EnableIPv4")),
        "IPv6": ("IPV6", flag("EnableIPv6")),
        "Internal": ("INTERNAL", flag("Internal")),
        "Labels": ("LABELS", lambda row: ",".join(f"{k}={v}" for k, v in sorted((row.get("Labels") or {}).items()))),
        "Name": ("NAME", lambda row: str(row["Name"])),
        "Scope": ("SCOPE", lambda row: str(row.get("Scope") or "")),
    }


def _created(text: str) -> str:
    """Go's ``String`` of a time: nanoseconds without the trailing zeros."""
    import time

    seconds = parse_time(text)
    digits = "".join(letter for letter in text[20:].partition("Z")[0].partition("+")[0].partition("-")[0])
    fraction = "." + digits.rstrip("0") if "." in text and digits.rstrip("0") else ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) + fraction + " +0000 UTC"


def create(session: Session, options: Options) -> int:
    """Create a network and print its id."""
    driver = options.text("driver")
    body: dict[str, Any] = {
        "Name": options.operands[0],
        "Driver": driver,
        "Options": _pairs(options.all("opt")),
        "Internal": options.on("internal"),
        "Attachable": options.on("attachable"),
        "Ingress": options.on("ingress"),
        "Scope": options.text("scope"),
        "ConfigOnly": options.on("config-only"),
        "Labels": _pairs(options.all("label")),
        "IPAM": {
            "Driver": options.text("ipam-driver"),
            "Options": _pairs(options.all("ipam-opt")),
            "Config": _pools(options),
        },
    }
    if session.api.version < (1, 44):
        body["CheckDuplicate"] = True  # later daemons always do
    for flag, key in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")):
        if options.given(flag):
            body[key] = options.on(flag)
    if options.text("config-from"):
        body["ConfigFrom"] = {"Network": options.text("config-from")}
    answer = session.api.post("/networks/create", {}, body)
    if answer.get("Warning"):
        session.warn(f"WARNING: {answer['Warning']}")
    print(answer["Id"])
    return 0


def _pairs(entries: list[str]) -> dict[str, str]:
    return {key: value for key, _, value in (entry.partition("=") for entry in entries)}


def _pools(options: Options) -> list[dict[str, Any]]:
    """Each range, gateway and address goes to the subnet that holds it. Raises ClientError as Docker does."""
    import ipaddress

    subnets, ranges, gateways = options.all("subnet"), options.all("ip-range"), options.all("gateway")
    auxiliary = _pairs(options.all("aux-address"))
    if len(subnets) < len(ranges) or len(subnets) < len(gateways):
        raise ClientError("every ip-range or gateway must have a corresponding subnet")
    pools: list[dict[str, Any]] = []
    networks: list[Any] = []
    for text in filter(None, subnets):
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            if len(subnets) == 1 and not ranges and not gateways and not auxiliary:
                return [{"Subnet": text}]  # the daemon refuses it in its own words
            raise ClientError(f"invalid CIDR address: {text}") from None
        if any(network.version == other.version and network.overlaps(other) for other in networks):
            raise ClientError("multiple overlapping subnet configuration is not supported")
        networks.append(network)
        pools.append({"Subnet": text})

    def home(address: str, what: str) -> dict[str, Any]:
        if what == "range" and "/" not in address:
            raise ClientError(f"invalid CIDR address: {address}")
        try:
            wanted = ipaddress.ip_network(address, strict=False).network_address
        except ValueError:
            if what == "range":
                raise ClientError(f"invalid CIDR address: {address}") from None
            raise ClientError(f"no matching subnet for {what} {address}") from None
        for pool, network in zip(pools, networks, strict=True):
            if wanted in network:
                return pool
        raise ClientError(f"no matching subnet for {what} {address}")

    for key, what, values in (("IPRange", "range", ranges), ("Gateway", "gateway", gateways)):
        for value in values:
            pool = home(value, what)
            if key in pool:
                raise ClientError(
                    f"cannot configure multiple {what}s ({value}, {pool[key]}) on the same subnet ({pool['Subnet']})"
                )
            pool[key] = value
    for name, value in auxiliary.items():
        home(value, "aux-address").setdefault("AuxiliaryAddresses", {})[name] = value
    return pools


def rm(session: Session, options: Options) -> int:
    """Remove networks."""

    def remove(name: str) -> None:
        try:
            session.api.json("DELETE", f"/networks/{quote(name)}")
        except DaemonError as error:
            if not (options.on("force") and error.code == 404):
                raise
        else:
            print(name)

    if each(session, options.operands, remove, echo=False):
        raise ClientError("exit status 1")  # what Docker's client says here
    return 0


def connect(session: Session, options: Options) -> int:
    """Put a container on a network."""
    network, container = options.operands
    endpoint: dict[str, Any] = {}
    ipam = {"IPv4Address": options.text("ip"), "IPv6Address": options.text("ip6")}
    ipam = {key: value for key, value in ipam.items() if value}
    if ipam or options.all("link-local-ip"):
        endpoint["IPAMConfig"] = ipam | (
            {"LinkLocalIPs": options.all("link-local-ip")} if options.all("link-local-ip") else {}
        )
    if options.all("link"):
        endpoint["Links"] = options.all("link")
    if options.all("alias"):
        endpoint["Aliases"] = options.all("alias")
    if options.all("driver-opt"):
        if not all("=" in entry and not entry.startswith("=") for entry in options.all("driver-opt")):
            raise ClientError("invalid key/value pair format in driver options")
        endpoint["DriverOpts"] = _pairs(options.all("driver-opt"))
    if options.given("gw-priority"):
        endpoint["GwPriority"] = options.number("gw-priority")
    session.api.post(f"/networks/{quote(network)}/connect", {}, {"Container": container, "EndpointConfig": endpoint})
    return 0


def disconnect(session: Session, options: Options) -> int:
    """Take a container off a network."""
    network, container = options.operands
    body = {"Container": container, "Force": options.on("force")}
    session.api.post(f"/networks/{quote(network)}/disconnect", {}, body)
    return 0


def reload(session: Session, options: Options) -> int:
    """Have every network applied again; prints what others had changed."""
    for line in session.api.post("/pierhead/networks/reload", {})["Restored"]:
        print(line)
    return 0
