"""Tables: Go's text/tabwriter (minimum 10, padding 3) and Docker's ``--format`` for lists."""

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pierhead.client.errors import ClientError
from pierhead.client.template import Escaped, Template, TemplateError, go_json

Row = Mapping[str, Any]
Columns = Mapping[str, "tuple[str, Callable[[Any], str | None]]"]
MINIMUM, PADDING = 10, 3


def align(text: str, minimum: int = MINIMUM, padding: int = PADDING) -> str:
    """Replace tabs by blanks, column by column.

    A column is a run of lines that all have a cell there that ends in a tab; what follows a line's last tab belongs to
    no column (which is why Docker's last column never has blanks behind it).
    """
    lines = [line.split("\t") for line in text.split("\n")]
    _column(lines, 0, 0, len(lines), minimum, padding)
    return "\n".join("".join(cells) for cells in lines)


def _column(lines: list[list[str]], column: int, first: int, end: int, minimum: int, padding: int) -> None:
    at = first
    while at < end:
        if len(lines[at]) - 1 <= column:
            at += 1
            continue
        start = at
        while at < end and len(lines[at]) - 1 > column:
            at += 1
        width = max([minimum, *(len(line[column]) + padding for line in lines[start:at])])
        for line in lines[start:at]:
            line[column] = line[column].ljust(width)
        _column(lines, column + 1, start, at, minimum, padding)


class Fields:
    """A row as templates see it: the columns' values by Go's names, and ``.Label "key"``."""

    __slots__ = ("columns", "kind", "row")

    def __init__(self, columns: Columns, row: Any, kind: str) -> None:
        self.columns = columns
        self.kind = kind
        self.row = row

    def go_field(self, name: str) -> Any:
        """A field or method by its name."""
        if name == "Label" and "Labels" in self.columns:
            labels = self.row.get("Labels") or {}
            return lambda key: labels.get(key, "")
        try:
            return self.columns[name][1](self.row)
        except KeyError:
            raise TemplateError(f"can't evaluate field {name} in type {self.kind}", executing=True) from None

    def go_json(self) -> Escaped:
        """What ``{{json .}}`` prints."""
        return Escaped((name, self.columns[name][1](self.row)) for name in sorted(self.columns))


class Header:
    """A table's head as templates see it: every field is its column's title."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def go_field(self, name: str) -> Any:
        """The title."""
        if name == "Label":
            return _label_title
        found = self.columns.get(name)
        return found[0] if found else "<no value>"

    def go_json(self) -> dict[str, str]:
        """The titles."""
        return {name: title for name, (title, _) in self.columns.items()}


def _label_title(key: str) -> str:
    words = key.split(".")[-1]
    return words.replace("-", " ").replace("_", " ")


def show(format: str, columns: Columns, rows: Iterable[Any], kind: str = "*formatter.SubContext") -> None:
    """Print rows in Docker's ``--format`` language: ``table …``, ``json`` or a template.

    ``kind`` is how Docker's errors call a row.
    """
    sys.stdout.write(formatted(format, columns, rows, kind))


def formatted(format: str, columns: Columns, rows: Iterable[Any], kind: str = "*formatter.SubContext") -> str:
    """As ``show`` prints it."""
    is_table = format.startswith("table")
    if format == "json":
        return "".join(go_json(Fields(columns, row, kind)) + "\n" for row in rows)
    text = (format[5:] if is_table else format).strip(" ").replace("\\t", "\t").replace("\\n", "\n")
    try:
        template = Template(text, "")
        lines = [template.execute(Fields(columns, row, kind)) for row in rows]
        if is_table:
            lines.insert(0, template.execute(Header(columns), header=True))
    except TemplateError as error:
        kind = "failed to execute template" if error.executing else "template parsing error"
        raise ClientError(f"{kind}: template: {error}") from None
    return align("".join(line + "\n" for line in lines)) if is_table else "".join(line + "\n" for line in lines)
