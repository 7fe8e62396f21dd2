"""Reading a container's log."""

import asyncio
import json
from pathlib import Path

import pytest

from pierhead.daemon.jobs.logs import Follower, Span, read
from pierhead.driver.execdriver.jsonlog import JSONLog

START = 1_700_000_000


def write(path: Path, first: int, last: int, ending: str = "\n") -> None:
    with path.open("a", encoding="utf-8") as file:
        for number in range(first, last):
            stamp = f"2023-11-14T22:13:{20 + number % 40:02d}.000000001Z"
            stream = "stderr" if number % 3 == 0 else "stdout"
            file.write(json.dumps({"log": f"line {number}{ending}", "stream": stream, "time": stamp}) + "\n")


def texts(path: Path, span: Span) -> list[str]:
    async def collect() -> list[str]:
        return [record.log async for record in read(str(path), span, None)]

    return asyncio.run(collect())


def test_all_of_a_rotated_log_comes_in_order(tmp_path: Path) -> None:
    write(tmp_path / "log.2", 0, 3)
    write(tmp_path / "log.1", 3, 6)
    write(tmp_path / "log", 6, 8)
    assert texts(tmp_path / "log", Span()) == [f"line {number}\n" for number in range(8)]


@pytest.mark.parametrize("count", [0, 1, 2, 5, 8, 100])
def test_a_tail_reaches_back_over_rotation(tmp_path: Path, count: int) -> None:
    write(tmp_path / "log.1", 0, 5)
    write(tmp_path / "log", 5, 8)
    expected = [f"line {number}\n" for number in range(8)][8 - min(count, 8) :]
    assert texts(tmp_path / "log", Span(tail=count)) == expected


def test_a_tail_counts_only_the_wanted_stream(tmp_path: Path) -> None:
    write(tmp_path / "log", 0, 10)
    assert texts(tmp_path / "log", Span(stdout=False, tail=2)) == ["line 6\n", "line 9\n"]


def test_a_partial_record_belongs_to_the_line_that_ends_it(tmp_path: Path) -> None:
    write(tmp_path / "log", 0, 1)
    write(tmp_path / "log", 1, 3, ending="")
    write(tmp_path / "log", 3, 4)
    assert texts(tmp_path / "log", Span(tail=1)) == ["line 1", "line 2", "line 3\n"]


def test_since_and_until_bound_the_log(tmp_path: Path) -> None:
    write(tmp_path / "log", 0, 10)
    second = 10**9
    base = START * second
    found = texts(tmp_path / "log", Span(since=base + 3 * second, until=base + 5 * second + 1))
    assert found == ["line 3\n", "line 4\n", "line 5\n"]


def test_a_torn_line_does_not_hide_the_rest(tmp_path: Path) -> None:
    write(tmp_path / "log", 0, 1)
    with (tmp_path / "log").open("a") as file:
        file.write('{"log":"to\n')
    write(tmp_path / "log", 2, 3)
    assert texts(tmp_path / "log", Span()) == ["line 0\n", "line 2\n"]


def test_a_container_that_never_ran_has_an_empty_log(tmp_path: Path) -> None:
    assert texts(tmp_path / "log", Span()) == []
    assert texts(tmp_path / "log", Span(tail=3)) == []


def test_a_follower_loses_nothing_when_the_log_is_rotated(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, 0, 2)
    follower = Follower(str(log))
    seen = [record.log for record in follower.read()]
    write(log, 2, 4)
    log.rename(tmp_path / "log.1")
    write(log, 4, 6)
    seen += [record.log for record in follower.read()]
    follower.close()
    assert seen == [f"line {number}\n" for number in range(6)]


def given(follower: Follower) -> list[str]:
    return [record.log for record in follower.read()]


def numbered(first: int, last: int) -> list[str]:
    return [f"line {number}\n" for number in range(first, last)]


def feed(log: JSONLog, first: int, last: int) -> None:
    for number in range(first, last):
        log.feed(1, f"line {number}\n".encode())


@pytest.mark.parametrize("files", [1, 3])
def test_a_follower_reads_on_when_the_log_is_truncated(tmp_path: Path, files: int) -> None:
    path = tmp_path / "log"
    log = JSONLog(str(path), 500, files, ())
    feed(log, 0, 4)
    behind, ahead = Follower(str(path)), Follower(str(path))
    assert given(ahead) == numbered(0, 4)
    feed(log, 4, 6)
    assert log.truncate() > 0
    assert not path.stat().st_size and sorted(tmp_path.iterdir()) == [path]
    feed(log, 6, 8)
    assert given(ahead) == numbered(4, 8)
    assert given(behind) == numbered(0, 8)
    assert texts(path, Span()) == texts(path, Span(tail=9)) == numbered(6, 8)
    feed(log, 8, 9)
    log.finish()
    assert given(ahead) == given(behind) == numbered(8, 9)
    with pytest.raises(FileNotFoundError):
        log.truncate()
    ahead.close()
    behind.close()


def test_a_follower_that_falls_behind_by_several_files_misses_none_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JSONLog(str(path), 150, 4, ())
    feed(log, 0, 1)
    follower = Follower(str(path))
    assert given(follower) == numbered(0, 1)
    feed(log, 1, 9)
    assert (tmp_path / "log.3").exists()
    assert given(follower) == numbered(1, 9)
    follower.close()
    log.finish()


def test_what_is_written_during_a_tail_comes_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, 0, 3)
    follower = Follower(str(path))
    with path.open("a") as file:
        file.write('{"log":"line 3\\n","stre')  # a reader may see half of what is just being written
        file.flush()
        assert [record.log for record in follower.last(Span(tail=2))] == numbered(1, 3)
        file.write('am":"stdout","time":"2023-11-14T22:13:23Z"}\n')
    write(path, 4, 5)
    assert given(follower) == numbered(3, 5)
    follower.close()


def test_a_log_that_was_emptied_by_hand_is_followed_and_rotated_by_its_real_size(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JSONLog(str(path), 1000, 3, ())
    feed(log, 0, 9)
    follower = Follower(str(path))
    assert given(follower) == numbered(0, 9)
    path.write_bytes(b"")
    assert given(follower) == []
    feed(log, 9, 12)
    assert given(follower) == numbered(9, 12)
    assert not (tmp_path / "log.1").exists()
    follower.close()
    log.finish()
