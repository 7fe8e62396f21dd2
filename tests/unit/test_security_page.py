"""The page on security names tests that there are, and what they know of; and what it names, they know of."""

import ast
import re
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PAGE = (TOP / "docs/security.md").read_text()
FILES = {path.name for path in (TOP / "tests").rglob("test_*.py")}
CVE = r"CVE-\d{4}-\d{4,}"
NAMED = r"`(?:tests/\w+/)?(test_\w+\.py)`"


def docstrings(path: Path) -> str:
    """Those of a module and of its tests."""
    tree = ast.parse(path.read_text())
    tests = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return "\n".join(ast.get_docstring(node) or "" for node in (tree, *tests))


def test_every_test_that_the_page_names_is_there() -> None:
    named = set(re.findall(NAMED, PAGE))
    assert len(named) > 15
    assert not named - FILES


def test_every_cve_of_a_test_is_on_the_page() -> None:
    tested = {cve for path in (TOP / "tests").rglob("*.py") for cve in re.findall(CVE, path.read_text())}
    assert not tested - set(re.findall(CVE, PAGE))


def test_every_cve_of_a_class_is_in_the_docstring_of_a_test_that_the_class_names() -> None:
    section = PAGE.partition("## Class by class")[2].partition("\nNot built")[0]
    classes = re.findall(r"^\| ([A-J][^|]*) \| ([^|]*) \| [^|]* \| ([^|]*) \|$", section, re.MULTILINE)
    assert len(classes) > 30
    untold = {}
    for name, known, tests in classes:
        told = "\n".join(docstrings(path) for file in re.findall(NAMED, tests) for path in paths(file))
        if missing := [cve for cve in re.findall(CVE, known) if cve not in told]:
            untold[name] = missing
    assert not untold


def paths(file: str) -> list[Path]:
    """Test modules of that name: some are there for the kernel and without it."""
    return list((TOP / "tests").rglob(file))
