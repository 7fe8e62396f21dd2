"""``pier ps``."""

from __future__ import annotations

from pierhead.client.api import filter_query
from pierhead.client.errors import ClientError, DaemonError
from pierhead.client.flags import Options
from pierhead.client.ports import display_ports, listening
from pierhead.client.session import Session
from pierhead.client.table import fields, show
from pierhead.client.units import ago, human_size, local_time, shortened, truncated
from pierhead.client.values import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pierhead.client.table import Columns

TABLE = "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
KIND = "*formatter.ContainerContext"
RAW = (
    "container_id: {{.ID}}\nimage: {{.Image}}\ncommand: {{.Command}}\ncreated_at: {{.CreatedAt}}\nstate: {{.State}}\n"
    "status: {{.Status}}\nnames: {{.Names}}\nlabels: {{.Labels}}\nports: {{.Ports}}\n"
)


def ls(session: Session, options: Options) -> int:
    """List containers."""
    format = options.text("format")
    quiet = options.on("quiet")
    if not format and not quiet:
        format = str(session.config.get("psFormat") or "")
    if not format or format == "table":
        format = "table {{.ID}}" if quiet and format else TABLE + ("\t{{.Size}}" if options.on("size") else "")
    if quiet and not options.given("format"):
        format = "{{.ID}}"
    if format == "raw":
        format = "container_id: {{.ID}}" if quiet else RAW + ("size: {{.Size}}\n" if options.on("size") else "")
    size = options.on("size") or (not options.given("size") and (".Size" in format or "json .}" in format))
    limit = 1 if options.on("latest") and options.number("last") == -1 else options.number("last")
    query = {
        "all": options.on("all"),
        "limit": limit if limit > 0 else None,
        "size": size,
        "filters": filter_query(options.all("filter")),
    }
    _check(format)
    rows = session.api.get("/containers/json", query)
    past = _look_further(session, rows) if ".Ports" in format or "json" in format else []
    show(format, columns(not options.on("no-trunc")), rows, KIND)
    if past and format.startswith("table"):
        named = ", ".join(f"{one['ports']} of {one['name']}" for one in past)
        session.warn(f"WARNING: published past the host's firewall: {named} ('pier doctor' says more)")
    return 0


def _look_further(session: Session, rows: list[Any]) -> list[Any]:
    """Ask what Docker's list does not say: on which ports containers of the host's network listen, and which published
    ones outsiders reach past the host's firewall (returned)."""
    running = [row for row in rows if row.get("State") == "running"]
    modes = [(row.get("HostConfig") or {}).get("NetworkMode") or "" for row in running]
    public = [port.get("IP") or "" for row in running for port in row.get("Ports") or () if port.get("PublicPort")]
    outside = any(not ip.startswith("127.") and ip != "::1" for ip in public)
    if not outside and not any(mode == "host" or mode.startswith("container:") for mode in modes):
        return []
    try:
        seen = session.api.get("/pierhead/ports")
    except DaemonError:
        return []  # it is dockerd
    listening = {one["id"]: one["listeners"] for one in seen["listening"]}
    for row in rows:
        row["Listening"] = listening.get(row["Id"], [])
    shown = {row["Id"] for row in rows}
    return [one for one in seen["past_firewall"] if one["id"] in shown]


def _check(format: str) -> None:
    """Docker's ``ps`` reads the template before it asks for anything, and words its errors differently."""
    if fields(format):
        return
    from pierhead.client.template import Template, TemplateError

    try:
        Template(format, "")
    except TemplateError as error:
        raise ClientError(f"failed to parse template: template: {error}") from None


def columns(short: bool) -> Columns:
    """What a container's row can show. ``short``: as a table has room for."""

    def identity(row: Any) -> str:
        return truncated(row["Id"]) if short else str(row["Id"])

    def names(row: Any) -> str:
        found = [name.removeprefix("/") for name in row.get("Names") or ()]
        return ",".join([name for name in found if "/" not in name] if short else found)

    def image(row: Any) -> str:
        name = str(row.get("Image") or "")
        if not name:
            return "<no image>"
        if not short:
            return name
        if truncated(name) == truncated(row.get("ImageID") or ""):
            return truncated(name)
        return name.partition("@")[0].removeprefix("docker.io/").removeprefix("library/")

    def command(row: Any) -> str:
        text = row.get("Command") or ""
        return quoted(shortened(text, 20) if short else text)

    def mounts(row: Any) -> str:
        found = [mount.get("Name") or mount.get("Source") or "" for mount in row.get("Mounts") or ()]
        return ",".join(shortened(name, 15) if short else name for name in found)

    return {
        "Command": ("COMMAND", command),
        "CreatedAt": ("CREATED AT", lambda row: local_time(row["Created"])),
        "ID": ("CONTAINER ID", identity),
        "Image": ("IMAGE", image),
        "Labels": ("LABELS", _labels),
        "LocalVolumes": ("LOCAL VOLUMES", _local_volumes),
        "Mounts": ("MOUNTS", mounts),
        "Names": ("NAMES", names),
        "Platform": ("PLATFORM", lambda row: None),
        "Networks": (
            "NETWORKS",
            lambda row: ",".join(sorted((row.get("NetworkSettings") or {}).get("Networks") or ())),
        ),
        "Ports": ("PORTS", lambda row: display_ports(row.get("Ports") or []) or listening(row.get("Listening") or [])),
        "RunningFor": ("CREATED", lambda row: ago(row["Created"])),
        "Size": ("SIZE", _size),
        "State": ("STATE", lambda row: str(row.get("State") or "")),
        "Status": ("STATUS", lambda row: str(row.get("Status") or "")),
    }


def _labels(row: Any) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((row.get("Labels") or {}).items()))


def _local_volumes(row: Any) -> str:
    return str(sum(mount.get("Driver") == "local" for mount in row.get("Mounts") or ()))


def _size(row: Any) -> str:
    own, virtual = row.get("SizeRw") or 0, row.get("SizeRootFs") or 0
    text = human_size(own, 3)
    return f"{text} (virtual {human_size(virtual, 3)})" if virtual > 0 else text
