"""``pier inspect`` and the inspect command of each kind of object."""

import json
import sys
from collections.abc import Callable
from typing import Any

from pierhead.client.api import Query, quote
from pierhead.client.errors import ClientError, DaemonError
from pierhead.client.flags import Options
from pierhead.client.platforms import as_json
from pierhead.client.session import Session
from pierhead.client.template import Template, TemplateError, go_json

Getter = Callable[[str], Any]
UNKNOWN = "config", "container", "image", "network", "node", "plugin", "secret", "service", "task", "volume"


def _getter(session: Session, path: str, query: Query = {}, safe: str = "") -> Getter:  # noqa: B006
    return lambda name: session.api.get(path.format(quote(name, safe)), query)


def container(session: Session, options: Options) -> int:
    """Containers."""
    return _show(options, _getter(session, "/containers/{}/json", {"size": options.on("size")}))


def image(session: Session, options: Options) -> int:
    """Images."""
    query = {"platform": as_json(options.text("platform"))}
    return _show(options, _getter(session, "/images/{}/json", query, safe="/:@"))


def network(session: Session, options: Options) -> int:
    """Networks."""
    return _show(options, _getter(session, "/networks/{}", {"verbose": "true" if options.on("verbose") else ""}))


def volume(session: Session, options: Options) -> int:
    """Volumes."""
    return _show(options, _getter(session, "/volumes/{}"))


def inspect(session: Session, options: Options) -> int:
    """Whatever has that name: a container, an image, a network or a volume, tried in this order."""
    wanted = options.text("type")
    if options.given("type") and wanted not in UNKNOWN:
        names = ", ".join(f'"{name}"' for name in UNKNOWN)
        raise ClientError(
            f'unknown type: "{wanted}": must be one of {names}' if wanted else f"type is empty: must be one of {names}"
        )
    getters = {
        "container": _getter(session, "/containers/{}/json", {"size": options.on("size")}),
        "image": _getter(session, "/images/{}/json", safe="/:@"),
        "network": _getter(session, "/networks/{}"),
        "volume": _getter(session, "/volumes/{}"),
    }

    def any_of(name: str) -> Any:
        for kind, getter in getters.items():
            if wanted in ("", kind):
                try:
                    return getter(name)
                except DaemonError as error:
                    if error.code != 404 or wanted:
                        raise
        raise ClientError(f"Error: No such object: {name}")

    return _show(options, any_of)


def _show(options: Options, get: Getter) -> int:
    format = options.text("format")
    try:
        template = Template(format, "") if format not in ("", "json") else None
    except TemplateError as error:
        raise ClientError(f"template parsing error: template: {error}", 64) from None
    found: list[Any] = []
    problems: list[str] = []
    for name in options.operands:
        try:
            found.append(get(name))
        except ClientError as error:
            problems.append(str(error))
    out, problem = _rendered(found, format, template)
    sys.stdout.write(out)
    problems += [problem] if problem else []
    if problems:
        raise ClientError("\n".join(problems))
    return 0


def _rendered(found: list[Any], format: str, template: Template | None) -> tuple[str, str]:
    """What to print, and what went wrong while printing it."""
    if not format:
        return json.dumps(found, indent=4, ensure_ascii=False) + "\n", ""
    if template is None:
        return "[" + ",".join(go_json(value) for value in found) + "]\n", ""
    out = ""
    try:
        for value in found:
            out += template.execute(value) + "\n"
    except TemplateError as error:
        return out or "\n", f"template parsing error: template: {error}"
    return out or "\n", ""
