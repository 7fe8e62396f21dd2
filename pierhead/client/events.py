"""``pier events``."""

import json
import sys
import time
from typing import Any

from pierhead.client.api import filter_query
from pierhead.client.errors import ClientError
from pierhead.client.flags import Options
from pierhead.client.session import Session
from pierhead.client.streams_commands import moment
from pierhead.client.template import Template, TemplateError


def events(session: Session, options: Options) -> int:
    """Print what happens, as it happens, or what happened between two moments."""
    query = {
        "since": moment(options.text("since")),
        "until": moment(options.text("until")),
        "filters": filter_query(options.all("filter")),
    }
    format = options.text("format")
    try:
        template = Template("{{json .}}" if format == "json" else format, "") if format else None
    except TemplateError as error:
        raise ClientError(f"Error parsing format: template: {error}", 64) from None
    answer = session.api.call("GET", "/events", query, own=True)
    try:
        for line in answer.lines():
            event = json.loads(line)
            print(template.execute(event) if template else _line(event))
            sys.stdout.flush()
    except TemplateError as error:
        raise ClientError(f"Error parsing format: template: {error}", 64) from None
    return 0


def _line(event: Any) -> str:
    nanoseconds = int(event.get("timeNano") or event.get("time", 0) * 1_000_000_000)
    local = time.localtime(nanoseconds // 1_000_000_000)
    offset = local.tm_gmtoff
    zone = "Z" if offset == 0 else time.strftime("%z", local)[:3] + ":" + time.strftime("%z", local)[3:]
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", local) + f".{nanoseconds % 1_000_000_000:09d}{zone}"
    actor = event.get("Actor") or {}
    attributes = ", ".join(f"{key}={value}" for key, value in sorted((actor.get("Attributes") or {}).items()))
    text = f"{moment} {event['Type']} {event['Action']} {actor.get('ID', '')}"
    return f"{text} ({attributes})" if attributes else text
