"""The next owner finds every job: the plan's table names each module of jobs, and no other."""

import re
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]


def test_the_plans_table_names_every_module_of_jobs() -> None:
    table = (TOP / "docs/plan.md").read_text().partition("\n## Jobs, by module")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z_, ]+) \|", table, re.MULTILINE)
    named = [name for row in rows for name in row.split(", ")]
    assert sorted(named) == sorted({*named}), "named twice"
    there = {path.stem for path in (TOP / "pierhead/daemon/jobs").glob("*.py")} - {"__init__"}
    assert {*named} - {"module"} == there
