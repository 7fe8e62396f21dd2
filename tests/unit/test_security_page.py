"""The page on security names tests that there are, and every known way out that a test names."""

import re
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PAGE = (TOP / "docs/security.md").read_text()


def test_every_test_that_the_page_names_is_there() -> None:
    files = {path.name for path in (TOP / "tests").rglob("test_*.py")}
    named = set(re.findall(r"`(?:tests/\w+/)?(test_\w+\.py)`", PAGE))
    assert len(named) > 15
    assert not named - files


def test_every_cve_of_a_test_is_on_the_page() -> None:
    pattern = r"CVE-\d{4}-\d{4,}"
    tested = {cve for path in (TOP / "tests").rglob("*.py") for cve in re.findall(pattern, path.read_text())}
    assert not tested - set(re.findall(pattern, PAGE))
