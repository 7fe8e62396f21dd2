"""The tar reader and writer, against Python's own tarfile and against damage."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.driver.graphdriver.pack import END, header
from pierhead.driver.graphdriver.tar import REGULAR, BadArchive, Budget, Entry, TarReader, clean, parse_pax
from tests.harness.archives import NS, archive, block, device, file, folder, hardlink, symlink

BUDGET = Budget(entries=1000, header=1 << 16)


def entries(data: bytes, budget: Budget = BUDGET) -> list[tuple[Entry, bytes]]:
    reader = TarReader(io.BytesIO(data), budget)
    return [(entry, b"".join(map(bytes, reader.content()))) for entry in reader]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_every_format_is_read(form: int) -> None:
    items = [folder("d"), file("d/f", "content"), symlink("d/l", "target"), hardlink("d/h", "d/f"), device("n", 1, 3)]
    if form != tarfile.USTAR_FORMAT:
        items += [file("x" * 300, "long name"), symlink("y", "z" * 300), file("ü", uid=3_000_000_000)]
    found = entries(archive(*items, form=form))
    assert [entry.name.decode() for entry, _ in found] == [item.name for item in items]
    assert [content for _, content in found] == [item.data for item in items]
    assert [entry.link.decode() for entry, _ in found] == [item.link for item in items]
    assert [entry.uid for entry, _ in found] == [item.uid for item in items]
    precise = form == tarfile.PAX_FORMAT
    assert all(entry.mtime == (NS if precise else NS // 10**9 * 10**9) for entry, _ in found)


def test_content_that_nobody_reads_is_passed_over() -> None:
    reader = TarReader(io.BytesIO(archive(file("a", b"x" * 3_000_000), file("b", "y"))), BUDGET)
    assert [entry.name for entry in reader] == [b"a", b"b"]


def test_the_raw_bytes_and_the_contents_are_the_archive() -> None:
    data = archive(folder("d"), file("d/f", b"x" * 1_500_000), file("e" * 200, "y")) + bytes(10240)
    whole = bytearray()
    reader = TarReader(io.BytesIO(data), BUDGET, lambda raw: whole.extend(raw))
    for _ in reader:
        for piece in reader.content():
            whole += piece
    assert bytes(whole) == data


NAMES = st.binary(min_size=1, max_size=300).filter(
    lambda name: b"\0" not in name and all(part not in (b"", b".", b"..") for part in name.split(b"/"))
)


@settings(max_examples=200, deadline=None)
@given(
    name=NAMES,
    link=st.binary(max_size=300).filter(lambda link: b"\0" not in link),
    size=st.integers(0, 3000),
    uid=st.integers(0, 2**32 - 2),
    mtime=st.integers(-(10**18), 2 * 10**19 // 10),
    xattrs=st.dictionaries(st.sampled_from([b"user.a", b"security.capability"]), st.binary(max_size=64)),
)
def test_what_is_written_is_read_again(
    name: bytes, link: bytes, size: int, uid: int, mtime: int, xattrs: dict[bytes, bytes]
) -> None:
    kind = REGULAR if size else b"2"
    entry = Entry(name, kind, 0o4755, uid, uid, size, mtime, b"" if size else link or b"x", 0, xattrs)
    data = header(entry, exact=True) + bytes(size) + bytes(-size % 512) + END
    (found, content), *rest = entries(data)
    assert found == entry and len(content) == size and not rest
    members = tarfile.open(fileobj=io.BytesIO(data)).getmembers()
    assert len(members) == 1 and members[0].uid == uid


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 4000), st.binary(min_size=1, max_size=8), st.integers(0, 4000))
def test_damage_is_refused_or_harmless(at: int, noise: bytes, cut: int) -> None:
    data = bytearray(
        archive(folder("d"), file("d/f", b"x" * 700), symlink("l", "y" * 150), file("z", xattrs={"a": "b"}))
    )
    data[at : at + len(noise)] = noise
    for damaged in (bytes(data), bytes(data[:cut])):
        try:
            for entry, _ in entries(damaged):
                assert b".." not in entry.name.split(b"/") and not entry.name.startswith(b"/")
        except BadArchive:
            pass


def test_an_archive_that_was_never_closed_is_read_and_one_that_is_cut_is_not() -> None:
    whole = archive(file("a", b"x" * 700), file("b", b"y" * 700))
    content = whole.index(b"y" * 700) + 700
    for length in (content, content + 1, content + 324):
        assert [entry.name for entry, _ in entries(whole[:length])] == [b"a", b"b"]
    with pytest.raises(BadArchive, match="unexpected EOF"):
        list(entries(whole[: content - 1]))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(block(size=b"\x80" + b"\xff" * 11), id="a size beyond any disk"),
        pytest.param(block(size=b"\xff" + b"\xff" * 11), id="a negative size"),
        pytest.param(block(size=b"-0000000001\0"), id="a size with a sign"),
        pytest.param(block(size=b"1_0"), id="a size as Python writes it"),
        pytest.param(block(size=b"9"), id="a size that is not octal"),
        pytest.param(block(kind=b"L", size=b"77777777777"), id="a long name of 8 GiB"),
        pytest.param(block(kind=b"x", size=b"00001000000"), id="a pax header above the budget"),
        pytest.param(block(kind=b"x", size=b"00000000005") + b"5 a=\n".ljust(512, b"\0"), id="headers without entry"),
        pytest.param(block(kind=b"S"), id="a sparse file"),
        pytest.param(block(kind=b"V"), id="a volume label"),
        pytest.param(block(name=b""), id="no name"),
        pytest.param(block(size=b"1000"), id="content that is missing"),
        pytest.param(b"x" * 512, id="no tar"),
        pytest.param(block()[:300], id="half a header"),
        pytest.param(block(mtime=b"zzz"), id="no time"),
    ],
)
def test_headers_that_lie_are_refused(data: bytes) -> None:
    with pytest.raises(BadArchive):
        entries(data)


@pytest.mark.parametrize(
    "records",
    [
        b"99999999 a=b\n",
        b"-3 a=b\n",
        b"6 a=b",
        b"5 ab\n",
        b"4 =\n",
        b"x a=b\n",
        b"0 a=b\n",
        b"7 a=\0b\n",
        b"8 a\0=bc\n",
    ],
)
def test_pax_records_that_lie_are_refused(records: bytes) -> None:
    with pytest.raises(BadArchive):
        parse_pax(records)


def test_a_pax_size_decides_and_a_wrong_one_is_refused() -> None:
    good = b"9 size=5\n"
    data = (
        block(kind=b"x", size=b"%o" % len(good))
        + good.ljust(512, b"\0")
        + block(size=b"0")
        + b"hello".ljust(512, b"\0")
    )
    assert entries(data + END)[0][1] == b"hello"
    bad = b"11 size=-5\n"
    with pytest.raises(BadArchive):
        entries(block(kind=b"x", size=b"%o" % len(bad)) + bad.ljust(512, b"\0") + block())


def test_too_many_entries_end_it() -> None:
    with pytest.raises(BadArchive, match="more than 1000 entries"):
        entries(block() * 1001)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (b"/etc/x", b"etc/x"),
        (b"./a//b/./c/", b"a/b/c"),
        (b"a/../b", b"b"),
        (b".", b""),
        (b"..x/y..", b"..x/y.."),
    ],
)
def test_names_are_taken_below_the_root(name: bytes, wanted: bytes) -> None:
    assert clean(name) == wanted


@pytest.mark.parametrize("name", [b"..", b"../x", b"a/../../x", b"/../x", b"a/b/../../../c"])
def test_names_that_climb_out_are_refused(name: bytes) -> None:
    with pytest.raises(BadArchive, match="points outside"):
        clean(name)
