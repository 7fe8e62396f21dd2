"""What `pier system fsck --deep` holds against a layer, and what it does not: no alarm may be a false one."""

import os
from dataclasses import replace
from pathlib import Path

from pierhead.driver.graphdriver.pack import read_entry
from pierhead.driver.graphdriver.tar import Entry
from pierhead.graph.layer_contents import compare


def attributes(folder: Path, name: str, xattrs: dict[bytes, bytes], *, alone: bool) -> list[str]:
    """What is said of a node whose header is right but for its extended attributes."""
    layer = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        entry = read_entry(layer, name.encode(), name.encode(), os.stat(folder / name))
        assert isinstance(entry, Entry)
        wanted = replace(entry, xattrs=xattrs, mtime=-1)
        return [flaw.text for flaw in compare({wanted.name: wanted}, layer, alone=alone)]
    finally:
        os.close(layer)


def test_attributes_that_a_file_system_cannot_keep_are_not_missed() -> None:
    assert attributes(Path("/proc"), "version", {b"user.a": b"1", b"security.capability": b"1"}, alone=False) == []


def test_a_folder_may_have_its_parents_attributes_but_must_have_its_own(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for name in ("folder", "file"):
        os.setxattr(tmp_path / name, "user.parents", b"1")
    assert attributes(tmp_path, "folder", {}, alone=False) == []
    assert attributes(tmp_path, "folder", {b"user.own": b"1"}, alone=False) == ["folder has another attribute user.own"]
    assert attributes(tmp_path, "file", {}, alone=False) == []


def test_marks_of_those_who_stack_layers_are_not_compared(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.setxattr(tmp_path / "file", "user.overlay.opaque", b"y")
    marks = {b"user.fuseoverlayfs.origin": b"1", b"user.overlay.redirect": b"1"}
    assert attributes(tmp_path, "file", marks, alone=True) == []
    os.setxattr(tmp_path / "file", "user.added", b"1")
    assert attributes(tmp_path, "file", marks, alone=True) == ["file has another attribute user.added"]
