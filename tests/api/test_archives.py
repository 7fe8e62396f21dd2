"""``cp``: files out of containers and into them, running and stopped, through mounts; and nothing of the host's."""

import base64
import gzip
import io
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest

from tests.harness.api import Answer, Api, connect
from tests.harness.archives import Item, archive, device, file, folder, hardlink, symlink
from tests.harness.corpus import corpus
from tests.harness.engines import Engine
from tests.harness.images import busybox_rootfs, docker_archive, tar
from tests.harness.processes import wait_until
from tests.harness.sentinel import sentinel as made_sentinel
from tests.harness.swapping import swapping

TAR = "application/x-tar"
STATUS = pytest.mark.needs_docker28("the status of this")
OURS = pytest.mark.only_pierhead("Docker's is less or other")
PREPARE = (
    "mkdir -p /d/e; echo a >/d/f; ln /d/f /d/g; ln -s /etc /l; ln -s /nope/x /dang; ln -s l2 /l1; ln -s l1 /l2; "
    "echo t >/tm/t; echo v >/vol/v; chmod 1777 /d; chown 33:10 /d/f; touch /ready; "
)


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


@pytest.fixture(scope="module")
def box(shared_engine: Engine) -> Iterator[Api]:
    """A running container ``box`` to look into, and a read-only one, ``ro``."""
    api = shared_engine.api
    host = {"Tmpfs": {"/tm": ""}, "Binds": ["vol:/vol", "vol:/rovol:ro"]}
    id = api.run("sh", "-c", PREPARE + "exec sleep 1000", name="box", HostConfig=host)
    api.run("sleep", "1000", name="ro", HostConfig={"ReadonlyRootfs": True, "Binds": ["vol:/vol"]})
    wait_until(lambda: "/ready" in str(api.send("GET", f"/containers/{id}/changes").body), "the container's files")
    yield api
    shared_engine.forget()


def ask(api: Api, method: str, name: str, path: str, *items: Item, **query: Any) -> Answer:
    raw = archive(*items) if method == "PUT" else None
    return answered(api, method, f"/containers/{name}/archive?path={path}", raw, **query)


def answered(api: Api, method: str, path: str, raw: bytes | None, **query: Any) -> Answer:
    try:
        return api.send(method, path, raw=raw, content_type=TAR, **query)
    except IncompleteRead as broken:  # what is read has changed meanwhile
        return Answer(0, {}, broken.partial)
    except (BrokenPipeError, ConnectionResetError):  # refused before all of it was sent
        return Answer(400, {}, b"")


def stat_of(answer: Answer) -> Any:
    return json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))


def names(answer: Answer) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as found:
        return found.getnames()


DIRECTORY, LINK, STICKY = 1 << 31, 1 << 27, 1 << 20


@pytest.mark.parametrize(
    ("path", "name", "mode", "target", "first"),
    [
        ("/d", "d", DIRECTORY | STICKY | 0o777, "", ["d", "d/e", "d/f", "d/g"]),
        ("d/", "d", DIRECTORY | STICKY | 0o777, "", ["d", "d/e", "d/f", "d/g"]),
        ("/d/.", ".", DIRECTORY | STICKY | 0o777, "", [".", "./e", "./f", "./g"]),
        ("/", "/", DIRECTORY | 0o755, "", [""]),
        ("/d/../d/f", "f", 0o644, "", ["f"]),
        ("/../../d/f", "f", 0o644, "", ["f"]),
        ("/l", "l", LINK | 0o777, "/etc", ["l"]),
        ("/l/", "l", DIRECTORY | 0o755, "", ["l", "l/group"]),
        ("/l/passwd", "passwd", 0o644, "", ["passwd"]),
        ("/dang", "dang", LINK | 0o777, "/nope/x", ["dang"]),
        ("/vol/v", "v", 0o644, "", ["v"]),
        pytest.param("/tm/t", "t", 0o644, "", ["t"], marks=OURS),
        pytest.param("/proc", "proc", DIRECTORY | 0o555, "", ["proc"], marks=OURS),
    ],
)
def test_a_path_is_told_and_read_as_docker_does(
    box: Api, path: str, name: str, mode: int, target: str, first: list[str]
) -> None:
    told = stat_of(ask(box, "HEAD", "box", path))
    assert (told["name"], told["mode"], told["linkTarget"]) == (name, mode, target)
    answer = ask(box, "GET", "box", path)
    assert stat_of(answer) == told and answer.headers["Content-Type"] == TAR
    assert names(answer)[: len(first)] == first
    if path == "/proc":
        assert names(answer) == first, "nothing of the kernel's is read"


@pytest.mark.parametrize(
    ("method", "name", "path", "status", "words"),
    [
        ("GET", "box", "/nope", 404, "Could not find the file /nope in container box"),
        ("PUT", "box", "/nope", 404, "Could not find the file /nope in container box"),
        ("GET", "nobody", "/", 404, "No such container: nobody"),
        ("PUT", "nobody", "/", 404, "No such container: nobody"),
        ("GET", "box", "", 400, "bad parameter: pathcannot be empty"),
        ("GET", "box", "/d/f/", 500, "not a directory"),
        ("GET", "box", "/l1", 500, "too many"),
        pytest.param("GET", "box", "/proc/uptime", 400, "nothing to be copied", marks=OURS),
        pytest.param("PUT", "box", "/proc/sys/kernel", 400, "", marks=OURS),
        pytest.param("PUT", "box", "/d/f", 400, "extraction point is not a directory", marks=STATUS),
        pytest.param("PUT", "box", "/rovol", 400, "mounted volume is marked read-only", marks=STATUS),
        pytest.param("PUT", "ro", "/", 400, "container rootfs is marked read-only", marks=STATUS),
        pytest.param("PUT", "ro", "/etc", 400, "container rootfs is marked read-only", marks=STATUS),
    ],
)
def test_what_cannot_be_copied_is_refused_in_docker_s_words(
    box: Api, method: str, name: str, path: str, status: int, words: str
) -> None:
    refused = ask(box, method, name, path, file("x"))
    assert (refused.status, words in refused.message) == (status, True), refused.message


def listing(api: Api, *paths: str, name: str = "box") -> list[str]:
    exec_ = api.ok(
        "POST",
        f"/containers/{name}/exec",
        {"Cmd": ["stat", "-c", "%n %F %a %u:%g", *paths], "AttachStdout": True, "AttachStderr": True, "Tty": True},
    ).json["Id"]
    return api.hijack(f"/exec/{exec_}/start", {"Tty": True}).read_all().decode().splitlines()


def test_files_take_their_places_with_owners_and_modes(box: Api) -> None:
    new = (folder(".", 0o700), file("x", "1", uid=5, gid=6), folder("n", 0o750, uid=7), file("n/s", mode=0o4755))
    link = Item("n/h", tarfile.LNKTYPE, link="x", uid=5, gid=6)
    box.ok(
        "PUT",
        "/containers/box/archive?path=/d",
        raw=archive(*new, link),
        content_type=TAR,
    )
    assert listing(box, "/d", "/d/x", "/d/n", "/d/n/s") == [
        *("/d directory 1777 0:0", "/d/x regular file 644 5:6", "/d/n directory 750 7:0"),
        "/d/n/s regular empty file 4755 0:0",
    ]
    # A link that is there already is followed, inside the container.
    box.ok(
        "PUT", "/containers/box/archive?path=/", raw=gzip.compress(archive(file("l/made/y", uid=9))), content_type=TAR
    )
    assert listing(box, "/etc/made", "/etc/made/y") == [
        "/etc/made directory 755 0:0", "/etc/made/y regular empty file 644 9:0",
    ]  # fmt: skip
    for items, words in (
        ((file("e"),), 'cannot overwrite directory "/d/e" with non-directory "/d"'),
        ((folder("f"),), 'cannot overwrite non-directory "/d/f" with directory "/d"'),
    ):
        refused = ask(box, "PUT", "box", "/d", *items, noOverwriteDirNonDir="true")
        assert refused.status == 500 and words in refused.message
    assert ask(box, "PUT", "box", "/d", file("e"), folder("f")).status == 200
    assert listing(box, "/d/e", "/d/f") == ["/d/e regular empty file 644 0:0", "/d/f directory 755 0:0"]


@pytest.mark.only_pierhead("pier beside docker")
@pytest.mark.needs_client28
def test_names_that_are_no_utf8_are_copied_and_told(box: Api, shared_engine: Engine, tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xffb")
    box.ok("PUT", "/containers/box/archive?path=/tmp", raw=archive(folder("odd"), file(f"odd/{name}", "x"),
           symlink("odd/link", name)), content_type=TAR)  # fmt: skip
    told = {change["Path"] for change in box.get("/containers/box/changes")}
    assert {"/tmp/odd/a\ufffdb", "/tmp/odd/link"} <= told
    assert stat_of(ask(box, "HEAD", "box", "/tmp/odd/link"))["linkTarget"].endswith("a\ufffdb")
    for client in (shared_engine.docker, shared_engine.pier):
        top = tmp_path / client.__name__
        client("cp", "box:/tmp/odd", str(top)).check()
        client("cp", f"box:/tmp/odd/{name}", str(top / "again")).check()
        assert ((top / name).read_text(), os.readlink(top / "link"), (top / "again").read_text()) == ("x", name, "x")
        client("cp", str(top / name), f"box:/tmp/{name}{client.__name__}").check()
        assert client("diff", "box").check().stdout.count(f"A /tmp/a\ufffdb{client.__name__}\n") == 1


@pytest.mark.only_pierhead("pier beside docker")
@pytest.mark.needs_client28
def test_pier_puts_copies_where_docker_puts_them(box: Api, shared_engine: Engine, tmp_path: Path) -> None:
    """Every form of source and destination, both ways: the same tree, or the same words."""
    trees = {}
    for client in (shared_engine.docker, shared_engine.pier):
        top = tmp_path / f"by-{client.__name__}"
        (top / "src/in").mkdir(parents=True)
        (top / "src/in/f").write_text("f")
        (top / "src/to-in").symlink_to("in")
        (top / "src/to-f").symlink_to("in/f")
        (top / "out/dir").mkdir(parents=True)
        (top / "out/file").write_text("old")
        said = []
        box.ok("PUT", "/containers/box/archive?path=/tmp", raw=archive(folder(top.name), folder(f"{top.name}/dir"),
               file(f"{top.name}/file", "old"), symlink(f"{top.name}/link", "dir")), content_type=TAR)  # fmt: skip
        there = f"box:/tmp/{top.name}"
        lines = [
            *((f"{there}/dir", f"{top}/out/{end}") for end in ("dir", "dir/", "new", "new2/", "file", "no/no")),
            *((f"{there}/file", f"{top}/out/{end}") for end in ("dir", "dir/", "n1", "n2/", "file", "no/no", ".")),
            *((f"{there}/link", f"{top}/out/{end}") for end in ("l1", "dir")),
            *((f"{there}/{end}", f"{top}/out/c{number}") for number, end in enumerate(("dir/.", "link/", "link/."))),
            *((f"{top}/src/in", f"{there}/{end}") for end in ("dir", "new", "new2/", "file", "no/no", "link")),
            *((f"{top}/src/in/f", f"{there}/{end}") for end in ("dir", "n1", "n2/", "file", "link/n3", "dir/in")),
            *((f"{top}/src/{end}", f"{there}/dir") for end in ("in/.", "to-in", "to-f", "to-in/", "missing")),
            ("-L", f"{top}/src/to-in", f"{there}/L1"), ("-L", f"{top}/src/to-f", f"{there}/L2"),
            ("-L", f"{top}/src/to-f", f"{there}/dir"), ("-L", f"{there}/link", f"{top}/out/L3"),
            ("-L", f"{there}/link", f"{top}/out/dir"), ("box:/a", "box:/b"), ("a", "b"), ("", "box:/"), ("box:/", ""),
            ("-", f"{there}/file"), (f"{there}/nope", "-"), ("nobody:/x", "."),
        ]  # fmt: skip
        for words in lines:
            done = client("cp", *words)
            told = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("time="))
            told = told.replace("Error response from daemon: ", "")
            said.append([text.replace(top.name, "C") for text in (*words[-2:], str(done.status), told)])
        listed = shared_engine.docker("exec", "box", "sh", "-c", f"cd /tmp/{top.name}; find . | sort; cat file")
        local = sorted(f"{path.relative_to(top)} {path.is_symlink()}" for path in top.rglob("*"))
        trees[client.__name__] = (said, listed.stdout.splitlines(), local)
    for docker, pier in zip(trees["docker"], trees["pier"], strict=True):
        assert [pair for pair in zip(docker, pier, strict=True) if pair[0] != pair[1]] == []


def test_with_copy_uid_gid_everything_is_the_container_s_user_s(api: Api) -> None:
    api.run("sleep", "1000", name="www", User="www-data")
    assert ask(api, "PUT", "www", "/tmp", file("x", uid=5), folder("z/zz", uid=9), copyUIDGID=1).status == 200
    assert listing(api, "/tmp/x", "/tmp/z", "/tmp/z/zz", name="www") == [
        "/tmp/x regular empty file 644 33:33", "/tmp/z directory 755 0:0", "/tmp/z/zz directory 755 33:33",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("client", "state"),
    [("docker", "running"), ("docker", "stopped"), ("docker", "created"), pytest.param("pier", "running", marks=OURS)],
)
def test_cp_works_both_ways_and_through_mounts(
    engine: Engine, api: Api, tmp_path: Path, client: str, state: str
) -> None:
    """The image's /var/run is an absolute link, and something is mounted behind it (moby#52653)."""
    layers = [busybox_rootfs(), tar({"data/of-image": "i"}, ["run"], {"var/run": "/run"})]
    engine.docker("load", stdin=docker_archive(layers, ["linked:1"])).check()
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "there").write_text("there")
    (tmp_path / "sock").write_text("socket")
    options = [
        "-v",
        f"{shared}:/var/run/dir",
        "-v",
        f"{tmp_path}/sock:/var/run/x.sock",
        "-v",
        "vv:/data",
        "--name",
        "c1",
    ]
    engine.docker("create" if state == "created" else "run", *(["-d"] if state != "created" else []), *options,
                  "linked:1", "sleep", "1000").check()  # fmt: skip
    if state == "stopped":
        engine.docker("stop", "-t", "0", "c1").check()
    mine = tmp_path / "mine"
    (mine / "sub").mkdir(parents=True)
    (mine / "sub/f").write_text("f")
    (mine / "link").symlink_to("sub/f")

    by = engine.pier if client == "pier" else engine.docker

    def cp(*words: str, stdin: bytes = b"") -> str:
        return by("cp", *words, stdin=stdin).check().stdout

    cp(str(mine), "c1:/data")
    cp(str(mine / "sub/f"), "c1:/var/run/dir/renamed")
    cp("-L", str(mine / "link"), "c1:/root/plain")
    cp("-a", f"{mine}/.", "c1:/home")
    cp("-", "c1:/data", stdin=archive(file("from-stdin", "s")))
    assert (shared / "renamed").read_text() == "f"
    assert b"f" in cp("c1:/data/mine/sub", "-").encode()
    out = tmp_path / "out"
    cp("c1:/data", str(out))
    assert sorted(p.name for p in out.iterdir()) == ["from-stdin", "mine", "of-image"]
    assert os.readlink(out / "mine/link") == "sub/f" and (out / "mine/sub/f").read_text() == "f"
    for source in ("/var/run/dir/there", "/var/run/x.sock", "/home/link", "/root/plain", "/etc/hosts"):
        cp(f"c1:{source}", str(out))
    assert (out / "there").read_text() == "there" and (out / "x.sock").read_text() == "socket"
    assert (
        os.readlink(out / "link") == "sub/f" and (out / "plain").read_text() == "f" and not (out / "plain").is_symlink()
    )
    if state != "created":
        assert "localhost" in (out / "hosts").read_text()
    assert api.inspect("c1")["State"]["Status"] == {"stopped": "exited"}.get(state, state)
    if state == "running":
        assert engine.docker("exec", "c1", "cat", "/data/mine/link", "/data/from-stdin").check().stdout == "fs"
    engine.docker("rm", "-fv", "c1").check()


@OURS
@pytest.mark.parametrize("state", ["running", "created"])
def test_a_reader_that_goes_away_holds_nothing(engine: Engine, api: Api, state: str) -> None:
    (api.run if state == "running" else api.create)("sleep", "1000", name="c1")

    def open_files() -> list[str]:
        found = []
        for entry in Path(f"/proc/{engine.pid}/fd").iterdir():
            with suppress(OSError):  # closed a moment ago
                found.append(os.readlink(entry))
        return [where for where in found if where.startswith("/") and "graph.db" not in where]

    ask(api, "HEAD", "c1", "/")
    before = sorted(open_files())
    for path in ("/", "/bin"):
        with connect(engine.socket) as connection:
            connection.sendall(f"GET /v1.41/containers/c1/archive?path={path} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
            assert connection.recv(12) == b"HTTP/1.1 200"
    wait_until(lambda: sorted(open_files()) == before, f"what was open for the readers to be closed: {before}")
    assert api.send("POST", "/containers/c1/start").status == (304 if state == "running" else 204)
    assert names(ask(api, "GET", "c1", "/etc/passwd")) == ["passwd"]


# -- what nobody may reach --------------------------------------------------------------------------------------------


HOSTS = b"the host's"


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Path]:
    with made_sentinel(tmp_path) as folder:
        yield folder


@pytest.mark.parametrize("state", ["running", "created"])
def test_no_archive_writes_outside_of_the_container(api: Api, sentinel: Path, state: str) -> None:
    """CVE-2014-9356, CVE-2021-41089 and what tars have tried since."""
    (api.run if state == "running" else api.create)("sleep", "1000", name="c1", User="www-data")
    out = str(sentinel)
    up = "../" * 12 + out
    attempts: list[tuple[Item, ...]] = [
        (file(f"{up}/f", "x"),),
        (file(f"{out}/f", "x"),),
        (symlink("a", out), file("a/f", "x")),
        (symlink("a", up), file("a/f", "x"), folder("a/d", 0o777), file("a/new")),
        (symlink("a", out), folder("a", 0o777)),
        (symlink("a", f"{out}/f"), file("a", "x", mode=0o777)),
        (hardlink("a", f"{out}/f"), file("a", "x")),
        (hardlink("a", f"{up}/f"),),
        (symlink("l", out), hardlink("a", "l/f"), file("a", "x")),
        (symlink("a", f"{out}/fifo"), device("a", 1, 3)),
        (symlink("p", "/proc/1/root"), file(f"p{out}/f", "x")),
        (symlink("p", "/proc/self/root"), file(f"p{out}/new", "x")),
        (symlink("p", "/proc/self/cwd"), file("p/new", "x")),
        (Item("a", tarfile.DIRTYPE, mode=0o777), symlink("a", out), file("a/d/f", "x")),
        (file("big", xattrs={"trusted.overlay.redirect": out}), folder("od", xattrs={"trusted.overlay.opaque": "y"})),
    ]
    bodies = [archive(*items) for items in attempts]
    bodies += [layer for case in corpus(sentinel).values() for layer in case.layers]
    for body in bodies:
        for where in ("/", "/tmp") if state == "running" else ("/tmp",):
            query = {"noOverwriteDirNonDir": int(where == "/"), "copyUIDGID": int(where == "/tmp")}
            answer = answered(api, "PUT", f"/containers/c1/archive?path={where}", body, **query)
            assert answer.status in (200, 400, 404, 500)
    for path in (f"/a{out}/f", f"{up}/f", "/a/f", "/tmp/a/f", "/p/new", f"/p{out}/f", "/proc/1/root" + out):
        for method in ("HEAD", "GET"):
            assert HOSTS not in ask(api, method, "c1", path).body
    assert api.send("GET", "/_ping").status == 200


RACE = 300 if os.environ.get("PIERHEAD_LONG") else 15
"""tests/kernel/test_libcontainer_races.py has the rounds, without a request for each."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("state", ["running", "created"])
def test_a_directory_that_is_swapped_for_a_link_leads_nobody_out(
    api: Api, sentinel: Path, tmp_path: Path, state: str
) -> None:
    """CVE-2018-15664, CVE-2026-41568, CVE-2026-42306: somebody exchanges what copies and mount points lie in."""
    shared = tmp_path / "shared"
    (shared / "d/d").mkdir(parents=True)
    (shared / "d/f").write_text("own")
    (shared / "link").symlink_to(sentinel)
    host = {"Binds": [f"{shared}:/m", "below:/m/d/d"]}
    (api.run if state == "running" else api.create)("sleep", "1000", name="c1", HostConfig=host)
    new = (folder("d", 0o777, uid=1), file("d/new", "x"), file("f", "x", mode=0o777), symlink("s", "/"))
    statuses = set()
    with swapping(shared / "d", shared / "link"):
        for _ in range(RACE):
            for method, path in (
                ("HEAD", "/m/d/f"),
                ("GET", "/m/d"),
                ("GET", "/m/d/d/"),
                ("GET", "/m"),
                ("PUT", "/m/d"),
            ):
                answer = ask(api, method, "c1", path, *new)
                assert HOSTS not in answer.body
                statuses.add(answer.status)
            if state == "running":
                assert HOSTS not in answered(api, "GET", "/containers/c1/export", None).body
    assert 200 in statuses
