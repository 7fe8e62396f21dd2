"""The whole corpus of hostile layers, through every graph driver: what is refused, and what the rest become."""

import io
import os
import shutil
from pathlib import Path

from pierhead.driver.graphdriver.api import GraphDriver
from pierhead.driver.graphdriver.tar import BadArchive
from pierhead.driver.graphdriver.tree import copy_tree
from tests.harness.corpus import Case, corpus, names
from tests.harness.sentinel import sentinel


def names_in(top: str) -> frozenset[str]:
    """All that is below a directory, by its path there."""
    return frozenset(
        os.path.relpath(os.path.join(at, one), top) for at, folders, files in os.walk(top) for one in folders + files
    )


def unpacked(driver: GraphDriver, name: str, case: Case, copy: Path) -> frozenset[str] | None:
    """The tree that the layers become, None if they are refused; nothing stays. copy: where a volume gets the same."""
    made: list[str] = []
    try:
        for number, layer in enumerate(case.layers):
            driver.create(f"{name}{number}", made[-1] if made else None)
            made.append(f"{name}{number}")
            driver.apply(made[-1], io.BytesIO(layer))
        root = driver.open_root(made[-1], readonly=True)
        try:
            tree = names_in(f"/proc/self/fd/{root}")
            if len(tree) > 1000:
                return tree  # many of the same, which a copy says nothing new about
            copy.mkdir()
            into = os.open(copy, os.O_RDONLY)
            try:
                copy_tree(root, into)
            finally:
                os.close(into)
            assert names_in(str(copy)) == tree or (case.either and names_in(str(copy)) < tree)
            shutil.rmtree(copy)
            return tree
        finally:
            os.close(root)
    except BadArchive:
        return None
    finally:
        for one in reversed(made):
            driver.remove(one)


def test_no_layer_nor_its_copy_in_a_volume_reaches_outside_and_each_becomes_what_it_must(
    driver: GraphDriver, tmp_path: Path
) -> None:
    """CVE-2014-6407, CVE-2014-9356, CVE-2021-32760, CVE-2026-17106, CVE-2025-11395, CVE-2025-47290, CVE-2026-93320,
    CVE-2024-9676, CVE-2026-95838; the tar readers' CVE-2025-4517, CVE-2025-8194, CVE-2025-13462, CVE-2026-82049."""
    open_before = set(os.listdir("/proc/self/fd"))
    with sentinel(tmp_path) as outside:
        cases = corpus(outside)
        wrong = {}
        for number, name in enumerate(names(cases)):
            found = unpacked(driver, f"c{number}x", cases[name], tmp_path / "copy")
            if found != cases[name].tree and not cases[name].either:
                wrong[name] = (found, cases[name].tree)
        assert not wrong, "{case: (is, must be)}"
    assert set(os.listdir("/proc/self/fd")) == open_before
    assert list(driver.list()) == []
