"""What a user waits for before pier says anything: its modules."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pierhead.client import jsontext, ps
from pierhead.client.table import fields, formatted
from pierhead.client.template import Template

TOP = str(Path(ps.__file__).parents[2])
SLOW = {"asyncio", "collections", "contextlib", "enum", "importlib", "json", "re", "socket", "subprocess", "typing"}


def test_pier_ps_loads_nothing_that_takes_longer_than_itself() -> None:
    program = """
import sys
sys.path.insert(0, sys.argv.pop())
from pierhead.client.main import _run
sys.argv[1:] = ["-H", "unix:///nonexistent", "ps"]
assert _run(sys.argv[1:]) == 1
print(*sys.modules)
"""
    command = [sys.executable, "-I", "-S", "-c", program, TOP]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    loaded = set(result.stdout.split())
    assert "pierhead.client.ps" in loaded and not loaded & SLOW


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full", ">&- 2>&-"])
def test_an_error_output_that_takes_nothing_does_not_change_the_exit_status(closed: str) -> None:
    program = f"import sys; sys.path.insert(0, {TOP!r}); from pierhead.client.main import main; main()"
    command = [sys.executable, "-I", "-S", "-c", program, "context", "ls"]
    shell = ["sh", "-c", f'"$@" {closed}', "sh", *command]
    assert subprocess.run(shell, capture_output=True, timeout=30, check=False).returncode == 0


SCALARS = some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text()
VALUES = some.recursive(SCALARS, lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner), max_leaves=8)


@given(VALUES, some.booleans())
def test_json_of_the_daemon_is_read_as_the_standard_package_reads_it(value: object, indented: bool) -> None:
    text = json.dumps(value, indent=2 if indented else None, ensure_ascii=indented)
    assert jsontext.loads(text) == jsontext.loads(f" {text}\n".encode()) == value


@given(some.text(some.characters(codec=None, exclude_categories=()) | some.sampled_from('\\ud"8')))
def test_what_is_typed_that_is_no_utf8_is_sent_as_docker_sends_it(text: str) -> None:
    sent = json.loads(jsontext.dumps([text]))[0]
    assert sent == "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)


@pytest.mark.parametrize("text", ["", " ", "{", "[1,", '{"a"}', "tru", "1 2", '"a', "\ufeff1", "{'a': 1}"])
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        jsontext.loads(text)


def test_a_table_of_plain_fields_is_printed_as_its_template_says() -> None:
    row = {"Id": "0123456789abcdef", "Image": "busybox", "Command": 'sh -c "x"', "Created": 0, "Names": ["/a", "/b/c"]}
    columns = ps.columns(True)
    assert len(fields(ps.TABLE)) == 7
    cells = formatted(ps.TABLE, columns, [row]).splitlines()[1].split("   ")
    by_template = Template(ps.TABLE[6:], "").execute({name: column[1](row) for name, column in columns.items()})
    assert [cell.strip() for cell in cells if cell.strip()] == list(filter(None, by_template.split("\t")))


@pytest.mark.parametrize(
    "format", ["", "table", "json", "{{.ID}} {{.Names}}", "{{.ID}}\tx", "{{ .ID }}", "{{.A.B}}", "{{.}}"]
)
def test_what_is_more_than_fields_is_left_to_the_template_language(format: str) -> None:
    assert fields(format) == []
