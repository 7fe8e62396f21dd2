"""One line of comma-separated values, as Go's encoding/csv reads it: what it refuses, it refuses in the same words."""


class CsvError(ValueError):
    """The line is none."""


def split(text: str) -> list[str]:
    """The fields: one in double quotes may hold commas, and quotes twice. Raises CsvError."""
    if not text:
        raise CsvError("EOF")
    fields: list[str] = []
    position = 0
    while True:
        field, position = _quoted(text, position) if text[position : position + 1] == '"' else _plain(text, position)
        fields.append(field)
        if position == len(text):
            return fields
        position += 1


def _plain(text: str, start: int) -> tuple[str, int]:
    """The field that begins here, and where it ends."""
    end = text.find(",", start)
    field = text[start:] if end < 0 else text[start:end]
    bare = field.find('"')
    if bare >= 0:
        raise _error(text[: start + bare], 'bare " in non-quoted-field')
    return field, start + len(field)


def _quoted(text: str, start: int) -> tuple[str, int]:
    field, position = "", start + 1
    while True:
        end = text.find('"', position)
        if end < 0:
            raise _error(text, 'extraneous or missing " in quoted-field')
        field += text[position:end]
        if text[end + 1 : end + 2] != '"':
            break
        field, position = field + '"', end + 2
    if text[end + 1 : end + 2] not in ("", ","):
        raise _error(text[:end], 'extraneous or missing " in quoted-field')
    return field, end + 1


def _error(before: str, what: str) -> CsvError:
    return CsvError(f"parse error on line 1, column {len(before.encode(errors='surrogateescape')) + 1}: {what}")
