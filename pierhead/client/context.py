"""``pier context``: which daemons the configuration knows (Docker's own contexts, read only)."""

import os

from pierhead.client.flags import Options
from pierhead.client.host import config_folder, context_names, default_socket
from pierhead.client.session import Session
from pierhead.client.table import Columns, show


def show_(session: Session, options: Options) -> int:
    """Print the name of the context in use."""
    print(session.host().context)
    return 0


COLUMNS: Columns = {
    "Current": ("CURRENT", lambda row: "true" if row["current"] else "false"),
    "Description": ("DESCRIPTION", lambda row: str(row["description"])),
    "DockerEndpoint": ("DOCKER ENDPOINT", lambda row: str(row["endpoint"])),
    "Error": ("ERROR", lambda row: ""),
    "Name": ("NAME", lambda row: str(row["name"]) + (" *" if row["current"] else "")),
}


def ls(session: Session, options: Options) -> int:
    """List contexts."""
    current = session.host().context
    default = os.environ.get("DOCKER_HOST") or f"unix://{default_socket()}"
    rows = [{"name": "default", "description": "Current DOCKER_HOST based configuration", "endpoint": default}]
    for meta in context_names(config_folder(session.settings.config)):
        description = str((meta.get("Metadata") or {}).get("Description") or "")
        endpoint = str(meta["Endpoints"]["docker"].get("Host") or "")
        rows.append({"name": str(meta["Name"]), "description": description, "endpoint": endpoint})
    found = [row | {"current": row["name"] == current} for row in sorted(rows, key=lambda row: row["name"])]
    if options.on("quiet"):
        for row in found:
            print(row["name"])
        return 0
    format = options.text("format")
    if not format or format == "table":
        format = "table {{.Name}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}"
    show(format, COLUMNS, found)
    if os.environ.get("DOCKER_HOST"):
        session.warn(
            "Warning: DOCKER_HOST environment variable overrides the active context. To use a context, either set the "
            "global --context flag, or unset DOCKER_HOST environment variable."
        )
    return 0
