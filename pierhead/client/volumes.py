"""``pier volume``: ls, create, rm."""

from typing import Any

from pierhead.client.api import filter_query, quote
from pierhead.client.errors import ClientError, DaemonError
from pierhead.client.flags import Options
from pierhead.client.session import Session
from pierhead.client.table import Columns, show
from pierhead.client.units import human_size


def ls(session: Session, options: Options) -> int:
    """List volumes, by name."""
    format = options.text("format")
    if not format or format == "table":
        format = "{{.Name}}" if options.on("quiet") else "table {{.Driver}}\t{{.Name}}"
    elif format == "raw":
        format = "name: {{.Name}}" + ("" if options.on("quiet") else "\ndriver: {{.Driver}}\n")
    found = session.api.get("/volumes", {"filters": filter_query(options.all("filter"))})
    show(format, COLUMNS, sorted(found.get("Volumes") or (), key=lambda row: str(row["Name"])))
    return 0


def _usage(key: str) -> Any:
    def value(row: Any) -> str:
        usage = row.get("UsageData")
        if not usage:
            return "N/A"
        return human_size(usage[key], 3) if key == "Size" else str(usage[key])

    return value


COLUMNS: Columns = {
    "Availability": ("AVAILABILITY", lambda row: "N/A"),
    "Driver": ("DRIVER", lambda row: str(row.get("Driver") or "")),
    "Group": ("GROUP", lambda row: "N/A"),
    "Labels": ("LABELS", lambda row: ",".join(f"{k}={v}" for k, v in sorted((row.get("Labels") or {}).items()))),
    "Links": ("LINKS", _usage("RefCount")),
    "Mountpoint": ("MOUNTPOINT", lambda row: str(row.get("Mountpoint") or "")),
    "Name": ("VOLUME NAME", lambda row: str(row["Name"])),
    "Scope": ("SCOPE", lambda row: str(row.get("Scope") or "")),
    "Size": ("SIZE", _usage("Size")),
    "Status": ("STATUS", lambda row: "N/A"),
}


def create(session: Session, options: Options) -> int:
    """Create a volume and print its name."""
    body = {
        "Name": options.operands[0] if options.operands else "",
        "Driver": options.text("driver"),
        "DriverOpts": {k: v for k, _, v in (entry.partition("=") for entry in options.all("opt"))},
        "Labels": {k: v for k, _, v in (entry.partition("=") for entry in options.all("label"))},
    }
    print(session.api.post("/volumes/create", {}, body)["Name"])
    return 0


def rm(session: Session, options: Options) -> int:
    """Remove volumes."""
    from pierhead.client.reclaimed import Reclaimed

    total = Reclaimed()
    problems = []
    for name in options.operands:
        try:
            total.read(session.api.remove(f"/volumes/{quote(name)}", {"force": options.on("force")})[1])
        except DaemonError as error:
            problems.append(str(error))
            continue
        print(name)
    if options.on("space"):
        total.show()
    if problems:
        raise ClientError("\n".join(problems))
    return 0
