"""The json-file log: what `docker logs`, and whoever reads the file itself, would find wrong or missing."""

import json
import os
from pathlib import Path

import pytest

from pierhead.driver.execdriver.jsonlog import JSONLog


def opened(path: Path, **settings: object) -> JSONLog:
    values = {"max_size": 0, "max_files": 5, "attrs": (), **settings}
    return JSONLog(str(path), **values)  # type: ignore[arg-type]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_a_line_is_one_entry_with_stream_and_time(path: Path) -> None:
    log = opened(path)
    log.feed(1, b"out\n")
    log.feed(2, b"err\n")
    log.finish()
    found = lines(path)
    assert [(entry["log"], entry["stream"]) for entry in found] == [("out\n", "stdout"), ("err\n", "stderr")]
    assert list(found[0]) == ["log", "stream", "time"]


def test_a_line_that_comes_in_pieces_is_one_entry(path: Path) -> None:
    log = opened(path)
    log.feed(1, b"one ")
    log.feed(2, b"between\n")
    log.feed(1, b"line\nand ")
    log.feed(1, b"another\n")
    log.finish()
    assert [entry["log"] for entry in lines(path)] == ["between\n", "one line\n", "and another\n"]


def test_output_without_a_last_newline_is_not_lost_and_gets_none(path: Path) -> None:
    log = opened(path)
    log.feed(1, b"a\nrest")
    log.finish()
    log.finish()
    assert [entry["log"] for entry in lines(path)] == ["a\n", "rest"]


@pytest.mark.parametrize("size", [1, 16383, 16384, 16385, 32768, 50000])
def test_a_long_line_is_cut_at_16_kib_and_adds_up(path: Path, size: int) -> None:
    log = opened(path)
    data = b"x" * size + b"\nnext\n"
    for start in range(0, len(data), 7000):
        log.feed(1, data[start : start + 7000])
    log.finish()
    found = [str(entry["log"]) for entry in lines(path)]
    assert "".join(found).encode() == data
    assert [len(text) for text in found[: size // 16384]] == [16384] * (size // 16384)
    assert found[-1] == "next\n"


def test_a_character_is_not_cut_in_two_at_16_kib(path: Path) -> None:
    for shift in range(4):
        log = opened(path)
        text = "x" * shift + "\N{GRINNING FACE}" * 5000 + "é€" * 5000
        log.feed(1, text.encode() + b"\n")
        log.finish()
        assert "".join(str(entry["log"]) for entry in lines(path)) == text + "\n"
        path.unlink()


def test_bytes_that_are_no_utf8_become_one_replacement_each_as_in_docker(path: Path) -> None:
    log = opened(path)
    log.feed(1, b"a\xffb\xe2\x82c\xed\xa0\x80\n")
    log.finish()
    assert lines(path)[0]["log"] == "a\ufffdb\ufffd\ufffdc\ufffd\ufffd\ufffd\n"


def test_control_characters_and_html_are_escaped(path: Path) -> None:
    log = opened(path)
    log.feed(1, b'\x00\x1b[1m<a href="x">&\\u003c\t\r\n')
    log.finish()
    raw = path.read_bytes()
    assert not set(raw) & {0, 0x1B, ord("<"), ord(">"), ord("&"), 9, 13}
    assert lines(path)[0]["log"] == '\x00\x1b[1m<a href="x">&\\u003c\t\r\n'


def test_attributes_of_the_container_are_in_every_entry(path: Path) -> None:
    log = opened(path, attrs=(("tag", 'a"b'), ("env", "x")))
    log.feed(1, b"1\n2\n")
    log.finish()
    assert [entry["attrs"] for entry in lines(path)] == [{"env": "x", "tag": 'a"b'}] * 2


def test_times_are_rfc3339_in_utc_and_never_the_same_twice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(path)
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_500_000_000)
    log.feed(1, b"1\n2\n3\n")
    log.finish()
    assert [entry["time"] for entry in lines(path)] == [
        "2023-11-14T22:13:20.5Z",
        "2023-11-14T22:13:20.500000001Z",
        "2023-11-14T22:13:20.500000002Z",
    ]


def test_rotation_keeps_the_number_of_files_and_every_line_in_them(path: Path) -> None:
    log = opened(path, max_size=500, max_files=3)
    for number in range(40):
        log.feed(1, f"{number}\n".encode())
    log.finish()
    names = sorted(one.name for one in path.parent.iterdir())
    assert names == ["log", "log.1", "log.2"]
    kept = [str(entry["log"]) for name in ("log.2", "log.1", "log") for entry in lines(path.parent / name)]
    assert kept == [f"{number}\n" for number in range(40 - len(kept), 40)]
    assert all(one.stat().st_size < 600 for one in path.parent.iterdir())


def test_one_file_begins_anew_when_it_is_full(path: Path) -> None:
    log = opened(path, max_size=500, max_files=1)
    for number in range(40):
        log.feed(1, f"{number}\n".encode())
    log.finish()
    assert [one.name for one in path.parent.iterdir()] == ["log"]
    assert lines(path)[-1]["log"] == "39\n" and path.stat().st_size < 600


def test_a_log_is_continued_by_the_next_start(path: Path) -> None:
    for text in (b"first\n", b"second\n"):
        log = opened(path)
        log.feed(1, text)
        log.finish()
    assert [entry["log"] for entry in lines(path)] == ["first\n", "second\n"]
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_log_is_not_written_through_a_link(path: Path) -> None:
    (path.parent / "elsewhere").write_text("")
    path.symlink_to("elsewhere")
    with pytest.raises(OSError):
        opened(path)


def test_a_full_disk_loses_entries_whole_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(path)
    log.feed(1, b"before\n")
    real = os.write
    count = 0

    def write(descriptor: int, data: bytes) -> int:
        nonlocal count
        count += 1
        if count == 1:
            return real(descriptor, bytes(data)[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", write)
    log.feed(1, b"lost\n")
    monkeypatch.undo()
    log.feed(1, b"after\n")
    log.finish()
    assert [entry["log"] for entry in lines(path)] == ["before\n", "after\n"]
    assert log.failed == 1
