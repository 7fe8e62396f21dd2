"""A plugin of pytest's that runs what a file lists: ``-p tests.harness.listed --listed vm/tests``.

A line is a file, or a test of it with * for any text (``tests/drivers/test_networkdriver.py::*[ipvlan*]``); "core"
behind it chooses it with ``--core``, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Entry:
    """One line."""

    text: str
    core: bool

    @property
    def file(self) -> str:
        return self.text.partition("::")[0]

    def names(self, test: str) -> bool:
        """Whether it means the test of this node id."""
        return test.startswith((f"{self.text}::", f"{self.text}[")) or fnmatchcase(test, self.text.replace("[", "[[]"))


def entries(path: Path, core: bool) -> list[Entry]:
    """What the file lists; only the core of it if that is wanted."""
    lines = [line.partition("# ")[0].split() for line in path.read_text().splitlines() if not line.startswith("#")]
    found = [Entry(" ".join(words).removesuffix(" core"), words[-1] == "core") for words in lines if words]
    return [entry for entry in found if entry.core or not core]


def files(listed: Sequence[Entry]) -> list[str]:
    """The files to collect, each once."""
    return list(dict.fromkeys(entry.file for entry in listed))


def pytest_addoption(parser: pytest.Parser) -> None:
    """--listed and --core."""
    parser.addoption("--listed", type=Path, help="a file that lists the tests to run")
    parser.addoption("--core", action="store_true", help="only those that it says are the core")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what is listed. Raises UsageError for a line that means nothing."""
    listed = entries(config.getoption("--listed"), config.getoption("--core"))
    for entry in listed:
        if not any(entry.names(item.nodeid) for item in items):
            raise pytest.UsageError(f"{config.getoption('--listed')}: there is no test {entry.text}")
    chosen = [item for item in items if any(entry.names(item.nodeid) for entry in listed)]
    kept = set(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = chosen
