"""Where layers begin on the disk: the order of turns, and what is left of a daemon that was killed."""

import errno
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pierhead.driver.graphdriver import places
from pierhead.driver.graphdriver.places import COUNT, PLACES, Places


def _prepared(home: Path) -> Places:
    made = Places(str(home))
    made.take(str(home / "first"))
    (home / "first").rmdir()
    return made


def _names(home: Path) -> set[str]:
    return set(os.listdir(home / PLACES))


WANTED = {str(number) for number in range(COUNT)}


def test_they_are_made_with_the_first_layer_and_kept(tmp_path: Path) -> None:
    Places(str(tmp_path)).tidy()
    assert not list(tmp_path.iterdir())
    _prepared(tmp_path)
    assert _names(tmp_path) == WANTED
    before = {name: (tmp_path / PLACES / name).stat().st_ino for name in WANTED}
    _prepared(tmp_path)
    assert {name: (tmp_path / PLACES / name).stat().st_ino for name in _names(tmp_path)} == before


def test_they_are_made_where_no_parts_of_the_disk_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_apart", lambda folder: 1 << 62)
    _prepared(tmp_path)
    assert _names(tmp_path) == WANTED


def test_what_a_killed_daemon_has_left_there_is_removed(tmp_path: Path) -> None:
    _prepared(tmp_path)
    (tmp_path / PLACES / "7" / "layer-begun").mkdir()
    (tmp_path / PLACES / "trial-12").mkdir()
    Places(str(tmp_path)).tidy()
    assert _names(tmp_path) == WANTED
    assert not list((tmp_path / PLACES).glob("*/*"))


def test_those_that_are_missing_are_made_again(tmp_path: Path) -> None:
    _prepared(tmp_path)
    (tmp_path / PLACES / "9").rmdir()
    _prepared(tmp_path)
    assert _names(tmp_path) == WANTED


def test_a_full_disk_has_fewer_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir, room = os.mkdir, [5]

    def made(path: str, mode: int = 0o777) -> None:
        if "trial-" in path:
            room[0] -= 1
            if room[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device", path)
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", made)
    _prepared(tmp_path)
    assert _names(tmp_path) == {str(number) for number in range(5)}


def test_a_folder_is_made_empty_and_nothing_stays_in_its_place(tmp_path: Path) -> None:
    _prepared(tmp_path).take(str(tmp_path / "layer"))
    assert (tmp_path / "layer").stat().st_mode & 0o7777 == 0o710
    assert not list((tmp_path / "layer").iterdir()) and not list((tmp_path / PLACES).glob("*/*"))


def test_without_a_place_it_is_made_all_the_same(tmp_path: Path) -> None:
    made = _prepared(tmp_path)
    for name in WANTED:
        (tmp_path / PLACES / name).rmdir()
    made.take(str(tmp_path / "layer"))
    assert (tmp_path / "layer").is_dir()


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    made = _prepared(tmp_path)
    (tmp_path / "layer").mkdir()
    (tmp_path / "layer" / "diff").mkdir()
    with pytest.raises(OSError) as raised:
        made.take(str(tmp_path / "layer"))
    assert raised.value.errno in (errno.ENOTEMPTY, errno.EEXIST)
    assert not list((tmp_path / PLACES).glob("*/*"))


def _used(made: Places, home: Path, monkeypatch: pytest.MonkeyPatch, costs: dict[str, float]) -> Iterator[str]:
    """The names of the places of one folder after another, with so many seconds for a file in those named."""
    used: list[str] = []
    rename = os.rename

    def renamed(source: str, target: str) -> None:
        used.append(Path(source).parent.name)
        rename(source, target)

    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(places, "_cost", lambda place, most: costs.get(Path(place).name, 10e-6))
    while True:
        made.take(str(home / f"layer-{len(used)}"))
        yield used[-1]


def test_each_is_used_once_before_one_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = _used(_prepared(tmp_path), tmp_path, monkeypatch, {})
    first = [next(used) for _ in range(COUNT)]
    assert set(first) == WANTED
    assert [next(used) for _ in range(COUNT)] == first


def test_the_slow_are_passed_over_and_have_another_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = {"0": 1e-3, "1": 500e-6, "3": 400e-6}
    used = _used(_prepared(tmp_path), tmp_path, monkeypatch, slow)
    first = [next(used) for _ in range(COUNT - len(slow))]
    assert set(first) == WANTED - set(slow)
    slow.clear()
    assert next(used) == "0" and next(used) == "1"


def test_of_slow_ones_alone_the_least_slow_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = dict.fromkeys(WANTED, 1e-3) | {"40": 200e-6}
    used = _used(_prepared(tmp_path), tmp_path, monkeypatch, costs)
    assert next(used) == "40"


def test_a_file_system_without_nameless_files_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = _used(_prepared(tmp_path), tmp_path, monkeypatch, dict.fromkeys(WANTED, math.inf))
    assert len({next(used) for _ in range(COUNT)}) == COUNT
