"""``pier images --tree``: each image below all of its names, as docker's own draws them."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pierhead.client.api import filter_query
from pierhead.client.errors import ClientError
from pierhead.client.flags import Options
from pierhead.client.session import Session
from pierhead.client.units import human_size, truncated

SPACING = 3
NARROWEST = 12
"""The names have at least so much of the terminal: else the last columns are left out."""
WARNING = "WARNING: This is an experimental feature. The output may change and shouldn't be depended on."
UNTAGGED = "<untagged>"
_NOT_YET = {"no-trunc": "no-trunc", "quiet": "quiet", "digests": "show-digest", "format": "format"}
_BOLD, _BLUE, _FAINT, _PLAIN = "\x1b[39m\x1b[1m", "\x1b[34m\x1b[1m", "\x1b[39m\x1b[2m", "\x1b[39m"
_YELLOW, _END = "\x1b[93m", "\x1b[0m"
_CHIP = "\x1b[38;5;0m\x1b[48;5;14m U \x1b[0m"


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    width: int
    left: bool = False

    def cell(self, text: str) -> str:
        return text.ljust(self.width) if self.left else text.rjust(self.width)


_COLUMNS = (_Column("ID", 12, left=True), _Column("DISK USAGE", 10), _Column("CONTENT SIZE", 12), _Column("EXTRA", 5))


def tree(session: Session, options: Options) -> int:
    """List images with all of their names, the newest first; "U": a container has it."""
    for flag, name in _NOT_YET.items():
        if options.text(flag) if flag == "format" else options.on(flag):
            raise ClientError(f"--{name} is not yet supported with --tree")
    filters = options.all("filter")
    if options.operands:
        filters = [*filters, f"reference={options.operands[0]}"]
    query = {"all": options.on("all"), "filters": filter_query(filters), "manifests": True}
    found = [image for image in session.api.get("/images/json", query) if image.get("RepoTags") or options.on("all")]
    found.sort(key=lambda image: -image["Created"])
    terminal = sys.stdout.isatty()
    sys.stdout.write(drawn(found, os.get_terminal_size(1).columns if terminal else 80, colours=terminal))
    return 0


def drawn(images: Sequence[Any], width: int, *, colours: bool) -> str:
    """The whole text, for a terminal of that width."""

    def painted(text: str, colour: str) -> str:
        return f"{colour}{text}{_END}" if colours else text

    columns, left = list(_COLUMNS), max(width, 20)
    for number, column in enumerate(_COLUMNS):
        if left - SPACING - column.width < NARROWEST:
            columns = columns[:number]
            break
        left -= SPACING + column.width
    names = [_names(image) for image in images]
    first = min(left, max([len("IMAGE"), *(len(name) for found in names for name in found if name != UNTAGGED)]))
    gap = " " * SPACING
    titles = [("IMAGE", first), *((column.title, column.width) for column in columns)]
    legend = (
        f"\x1b[1m\x1b[106m\x1b[30mi{_END}{_END} \x1b[96mInfo → {_END}{_END} {_CHIP} In Use "
        if colours
        else "Info ->  U In Use "
    )
    lines = [
        painted(WARNING, _YELLOW),
        " " * (width - (21 if colours else 18)) + legend,
        "",
        # Docker's own titles have their colours in a pipe, too.
        gap.join(f"{_BOLD}{title}{_END}" + " " * (width - len(title)) for title, width in titles),
    ]
    for image, shown in zip(images, names, strict=True):
        colour = _BLUE if image.get("RepoTags") else _FAINT
        lines += [painted(_cut(name, width), colour) for name in shown[:-1]]
        last = _cut(shown[-1], first)
        values = (truncated(image["Id"]), human_size(image["Size"], 3), "0B")
        cells = [
            column.cell(value).replace(value, painted(value, _PLAIN))
            for column, value in zip(columns, values, strict=False)
        ]
        if len(columns) > len(values):
            used = image.get("Containers", 0) > 0
            cells.append((_CHIP if colours else " U ") + "  " if used else " " * 5)
        lines.append(gap.join([painted(last, colour) + " " * (first - len(last)), *cells]))
    return "\n".join(lines) + "\n"


def _names(image: Any) -> list[str]:
    """The shortest last: beside it is the rest."""
    return sorted(image.get("RepoTags") or [UNTAGGED], key=lambda name: -len(name))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
