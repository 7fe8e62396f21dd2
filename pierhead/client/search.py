"""``pier search``."""

import json
from typing import Any

from pierhead.client import credentials
from pierhead.client.api import filter_query
from pierhead.client.flags import Options
from pierhead.client.session import Session
from pierhead.client.table import Columns, show
from pierhead.client.units import shortened

WIDTH = 45
"""Of a description, unless it is not to be truncated."""


def search(session: Session, options: Options) -> int:
    """Show what a registry knows."""
    term = options.operands[0]
    first, slash, _ = term.partition("/")
    domain = first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"
    query = {
        "term": term,
        "limit": str(options.number("limit") or ""),
        "filters": filter_query(options.all("filter")),
    }
    headers = {"X-Registry-Auth": credentials.header(session, domain)}
    answer = session.api.call("GET", "/images/search", query, headers=headers, own=True)
    found = json.loads(answer.read()) or ()
    format = options.text("format")
    if format in ("", "table"):
        format = "table {{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}"
    show(format, _columns(not options.on("no-trunc"), as_json=format == "json" or "json ." in format), found)
    return 0


def _columns(short: bool, *, as_json: bool) -> Columns:
    def description(row: Any) -> str:
        text = str(row.get("description") or "").replace("\n", " ").replace("\r", " ")
        return shortened(text, WIDTH) if short else text

    def official(row: Any) -> str:
        if as_json:
            return "true" if row.get("is_official") else "false"
        return "[OK]" if row.get("is_official") else ""

    return {
        "Description": ("DESCRIPTION", description),
        "IsOfficial": ("OFFICIAL", official),
        "Name": ("NAME", lambda row: str(row.get("name") or "")),
        "StarCount": ("STARS", lambda row: str(row.get("star_count") or 0)),
    }
