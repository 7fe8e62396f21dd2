"""Everything a container can see and do is what it was, whatever way leads in; where Docker differs, it is said why.

golden.json (golden-v2.json: the test machine's, which has cgroup v2 alone) has the lines of `run`, and for each other
way what is different from `run` (null: no such line).  After a change that is meant: PIERHEAD_GOLDEN=write pytest
tests/api/test_golden_dump.py, and read the difference.
"""

import fnmatch
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pierhead.libcontainer import cgroups
from tests.harness import probe
from tests.harness.engines import TOP, engine
from tests.harness.probe import Lines
from tests.harness.processes import IN_TEST_MACHINE

UNIFIED = cgroups.detect().version == 2
GOLDEN = Path(__file__).with_name("golden-v2.json" if UNIFIED else "golden.json")
EXPLANATIONS = TOP / "docs/security.md"

pytestmark = [
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the probe asks by the numbers of x86-64"),
    pytest.mark.only_pierhead("compares both itself"),
]


@pytest.fixture(scope="module")
def ours() -> Iterator[dict[str, Lines]]:
    with engine("pierd", images=False) as made:
        probe.provide_image(made)
        yield probe.dump(made)


def folded(rows: dict[str, Lines]) -> dict[str, dict[str, str | list[str] | None]]:
    """Each way but `run` as what is different from it; of lists "-" what it has not and "+" what it has besides."""
    base = rows["run"]
    result: dict[str, dict[str, str | list[str] | None]] = {"run": dict(base)}
    for row, lines in rows.items():
        if row == "run":
            continue
        changed = result[row] = {}
        for name in sorted(base.keys() | lines.keys()):
            was, now = base.get(name), lines.get(name)
            if isinstance(was, list) and isinstance(now, list) and was != now:
                now = [f"-{one}" for one in was if one not in now] + [f"+{one}" for one in now if one not in was]
            if was != lines.get(name):
                changed[name] = now
    return result


def only_elsewhere(name: str) -> bool:
    """Whether a line is about a path that this machine's kernel does not have: nothing to hide, nothing to see."""
    kind, _, path = name.partition(" ")
    return kind in ("hidden", "mount", "unmounts", "node") and path.startswith("/") and not os.path.lexists(path)


@pytest.mark.skipif(
    UNIFIED and not IN_TEST_MACHINE,
    reason="of cgroup v2 alone the lines are the test machine's, whose kernel and limits are its own",
)
def test_no_way_into_a_container_gives_more_or_less_than_it_did(ours: dict[str, Lines]) -> None:
    found = folded(ours)
    wanted = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("PIERHEAD_GOLDEN") == "write":
        for row, lines in found.items():
            kept = {name: value for name, value in wanted.get(row, {}).items() if only_elsewhere(name)}
            wanted[row] = kept | lines
        GOLDEN.write_text(json.dumps({row: wanted[row] for row in found}, indent=1, sort_keys=True) + "\n")
    for row in probe.ROWS:
        changed = {
            name: (wanted[row].get(name), found[row].get(name))
            for name in wanted[row].keys() | found[row].keys()
            if wanted[row].get(name) != found[row].get(name) and not (name not in found[row] and only_elsewhere(name))
        }
        assert not changed, f"{row}: {{name: (was, is)}}"


def explained() -> dict[str, str]:
    """The table of docs/security.md: pattern of a line ("way: line") to why it differs."""
    section = EXPLANATIONS.read_text().partition("## Every line that differs")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| (.+?) \|$", section, re.MULTILINE)
    return dict(rows)


def test_every_difference_to_docker_is_explained(ours: dict[str, Lines], peers: Path) -> None:
    with engine("docker", images=False) as made:
        probe.provide_image(made)
        theirs = probe.dump(made)
    reasons = explained()
    different = {
        f"{row}: {name}": values for row in theirs for name, values in probe.differences(ours[row], theirs[row]).items()
    }
    unexplained = {
        line: values for line, values in different.items() if not any(fnmatch.fnmatchcase(line, one) for one in reasons)
    }
    assert not unexplained, "{line: (ours, Docker's)}"
    stale = [one for one in reasons if not any(fnmatch.fnmatchcase(line, one) for line in different)]
    assert not stale, "no longer different"
