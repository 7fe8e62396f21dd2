"""Tables: Go's text/tabwriter (minimum 10, padding 3) and Docker's ``--format`` for lists."""

from __future__ import annotations

import sys

from pierhead.client.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, TypeAlias

    from pierhead.client.template import Escaped

Columns: TypeAlias = "Mapping[str, tuple[str, Callable[[Any], str | None]]]"
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
            from pierhead.client.template import TemplateError

            raise TemplateError(f"can't evaluate field {name} in type {self.kind}", executing=True) from None

    def go_json(self) -> Escaped:
        """What ``{{json .}}`` prints."""
        from pierhead.client.template import Escaped

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
        from pierhead.client.template import go_json

        return "".join(go_json(Fields(columns, row, kind)) + "\n" for row in rows)
    names = fields(format)
    if names and columns.keys() >= set(names):
        lines = ["\t".join(columns[name][0] for name in names)] if is_table else []
        lines += ["\t".join(_cell(columns[name][1](row)) for name in names) for row in rows]
    else:
        lines = _executed(_text(format), is_table, columns, rows, kind)
    text = "".join(line + "\n" for line in lines)
    return align(text) if is_table else text


def fields(format: str) -> list[str]:
    """The names in a format that is nothing but fields with tabs between them, as Docker's own tables are; else none.

    Such a one needs neither the template language nor the regular expressions that read it.
    """
    cells = _text(format).split("\t")
    names = [cell[3:-2] for cell in cells if cell.startswith("{{.") and cell.endswith("}}") and cell[3:-2].isalpha()]
    return names if len(names) == len(cells) else []


def _text(format: str) -> str:
    """The template in it."""
    return format.removeprefix("table").strip(" ").replace("\\t", "\t").replace("\\n", "\n")


def _cell(value: str | None) -> str:
    return "<no value>" if value is None else value


def _executed(template: str, head: bool, columns: Columns, rows: Iterable[Any], kind: str) -> list[str]:
    """What a template makes of each row, the head first if there is to be one."""
    from pierhead.client.template import Template, TemplateError

    try:
        parsed = Template(template, "")
        lines = [parsed.execute(Fields(columns, row, kind)) for row in rows]
        return [parsed.execute(Header(columns), header=True), *lines] if head else lines
    except TemplateError as error:
        kind = "failed to execute template" if error.executing else "template parsing error"
        raise ClientError(f"{kind}: template: {error}") from None
