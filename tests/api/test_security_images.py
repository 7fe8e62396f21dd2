"""Images, volumes and archives made by an enemy, through the whole daemon: the host stays as it is.

Classes C (root file systems, mounts) and D (pull, load, import) of the known ways out; the table in docs/security.md
says which test is for which.
"""

import gzip
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.api import Api
from tests.harness.archives import Item, archive, block, device, file, folder, symlink
from tests.harness.corpus import corpus, names
from tests.harness.engines import Engine
from tests.harness.images import busybox_rootfs, config_of, digest, docker_archive, oci_manifest, tar
from tests.harness.processes import Output
from tests.harness.registry import Answers, serving_registry
from tests.harness.sentinel import sentinel as watched_sentinel

TAR = "application/x-tar"
pytestmark = pytest.mark.only_pierhead("the host must stay as it is: dockerd's own holes are not ours to try")


@pytest.fixture
def api(engine: Engine) -> Iterator[Api]:
    """The engine, asked at the end whether it is alive, and without the test's images."""
    before = {tag for image in engine.api.get("/images/json") for tag in image["RepoTags"] or []}
    yield engine.api
    engine.forget()
    for image in engine.api.get("/images/json"):
        tags = [tag for tag in image["RepoTags"] or [] if tag != "<none>:<none>"]
        for tag in tags or [image["Id"]]:
            if tag not in before:
                engine.api.ok("DELETE", f"/images/{tag}", force=1)
    assert engine.api.ok("GET", "/_ping", timeout=10).status == 200


@pytest.fixture
def sentinel(tmp_path: Path, api: Api) -> Iterator[Path]:
    # After the containers are gone.
    with watched_sentinel(tmp_path) as folder:
        yield folder
        for container in api.get("/containers/json", all=1):
            api.ok("DELETE", f"/containers/{container['Id']}", force=1, v=1)


def load(api: Api, archive: bytes) -> str:
    """An error's text, or empty."""
    answer = api.send("POST", "/images/load", raw=archive, content_type=TAR, quiet=1, timeout=100)
    if answer.status >= 400:
        return answer.message
    return "".join(record.get("error", "") for record in answer.records)


def image(api: Api, name: str, layer: bytes, config: dict[str, Any] | None = None) -> None:
    """Busybox with one more layer, and what else its configuration says."""
    layers = [busybox_rootfs(), layer]
    text = json.loads(config_of(layers))
    text["config"] |= config or {}
    assert not load(api, docker_archive(layers, [name], json.dumps(text).encode()))


def tried(api: Api, image: str, *command: str, **config: Any) -> Output:
    """Create and run to the end; a refusal is its status and its message."""
    body = {"Image": image, **({"Cmd": list(command)} if command else {}), **config}
    made = api.send("POST", "/containers/create", body)
    if made.status != 201:
        return Output((), made.status, "", made.message)
    id = made.json["Id"]
    started = api.send("POST", f"/containers/{id}/start")
    if started.status >= 400:
        api.ok("DELETE", f"/containers/{id}", force=1, v=1)
        return Output((), started.status, "", started.message)
    status = api.wait(id)
    text = api.logs(id).decode(errors="replace")
    api.ok("DELETE", f"/containers/{id}", force=1, v=1)
    return Output((), status, text, "")


# -- C: root file systems ---------------------------------------------------------------------------------------------

TARGETS: dict[str, Callable[[Path], str]] = {
    "absolute": str,
    "dots": lambda sentinel: "../" * 24 + str(sentinel).lstrip("/"),
    "dangling": lambda sentinel: f"{sentinel}/new/name",
    "loop": lambda sentinel: "loop",
}


@pytest.mark.parametrize("kind", TARGETS)
def test_links_in_an_image_lead_no_mount_of_the_engines_outside(api: Api, sentinel: Path, kind: str) -> None:
    """CVE-2015-3629, CVE-2019-18837, CVE-2026-41579, CVE-2015-3627, CVE-2025-52565: each place of the engine's mounts.

    /proc and /sys must be folders; what else is a link leads to somewhere inside, or the start fails and says where.
    """
    target = TARGETS[kind](sentinel)
    for place in ("proc", "sys"):
        image(api, "hostile:1", without(place, symlink(place, target if kind != "loop" else place)))
        refused = tried(api, "hostile:1", "true")
        assert refused.status >= 400 and f"/{place}" in refused.stderr, place
        assert "must be mounted on ordinary directory" in refused.stderr
    groups = {
        "dev": ("dev",),
        "below dev": ("dev/pts", "dev/shm", "dev/mqueue", "dev/null", "dev/console", "dev/stdout", "dev/ptmx"),
        "etc": ("etc",),
        "files": ("etc/hosts", "etc/resolv.conf", "etc/hostname"),
        "working directory": ("work",),
    }
    for places in groups.values():
        links = [symlink(place, target if kind != "loop" else Path(place).name) for place in places]
        top = places[0].partition("/")[0]
        image(api, "hostile:1", without(top, *([] if top == places[0] else [folder(top)]), *links))
        for config in ({"Tty": True, "User": "1000"}, {"WorkingDir": "/work/made"}):
            done = tried(api, "hostile:1", "sh", "-c", "ls / > /dev/null; echo alive", **config)
            assert "alive" in done.stdout or (done.status >= 400 and "/" in done.stderr), (places, config, done)


def without(name: str, *items: Any) -> bytes:
    """A layer in which a folder of the lower one is gone and these are."""
    return archive(file(f".wh.{name}"), *items)


@pytest.mark.parametrize("name", ["hosts", "passwd", "group", "hostname"])
def test_nodes_where_a_file_should_be_neither_hang_nor_are_opened(api: Api, sentinel: Path, name: str) -> None:
    """CVE-2026-93320, CVE-2024-9676: a FIFO or a device of the image, opened as if it were a file."""
    for node in (
        Item(f"etc/{name}", tarfile.FIFOTYPE),
        device(f"etc/{name}", 1, 5),
        device(f"etc/{name}", 8, 0, tarfile.BLKTYPE),
    ):
        image(api, "hostile:1", archive(node))
        for user in ("", "www-data"):
            done = tried(api, "hostile:1", "sh", "-c", "echo alive", User=user)
            assert done.stdout.endswith("alive\n") or f"/etc/{name}" in done.stderr, done


_INSIDE = "cannot be mounted because it is"


@pytest.mark.parametrize(
    ("host", "config"),
    [
        ({"Binds": ["vol:/proc"]}, {}),
        ({"Binds": ["vol:/proc/self/attr"]}, {}),
        ({"Binds": ["vol:/a/../proc/sys"]}, {}),
        ({"Tmpfs": {"/proc": ""}}, {}),
        ({"Tmpfs": {"/./proc//": ""}}, {}),
        ({"Mounts": [{"Type": "volume", "Source": "vol", "Target": "/./proc//"}]}, {}),
        ({"Mounts": [{"Type": "tmpfs", "Target": "/a/../proc"}]}, {}),
        ({}, {"Volumes": {"/proc": {}}}),
        ({}, {"Volumes": {"/": {}}}),
        ({"Binds": ["vol:/"]}, {}),
        ({"Tmpfs": {"/": ""}}, {}),
    ],
)
def test_nothing_covers_proc_or_the_root(api: Api, host: dict[str, Any], config: dict[str, Any]) -> None:
    """CVE-2015-3631, CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2023-28642."""
    done = tried(api, "busybox", "true", HostConfig=host, **config)
    assert done.status >= 400
    assert _INSIDE in done.stderr or "destination can't be '/'" in done.stderr, done.stderr


def test_a_link_to_proc_in_a_shared_volume_lets_nothing_be_mounted_there(api: Api, sentinel: Path) -> None:
    """CVE-2019-19921, CVE-2023-27561: the volume of another container holds the link."""
    assert api.output("ln", "-s", "/proc", "/vol/proc", HostConfig={"Binds": ["shared:/vol"]}) == ""
    for target in ("/vol/proc", "/vol/proc/self/attr", "/vol/proc/sys/kernel"):
        host = {"Binds": ["shared:/vol", f"{sentinel}/d:{target}"]}
        done = tried(api, "busybox", "true", HostConfig=host)
        assert done.status >= 400 and (_INSIDE in done.stderr or "no such file" in done.stderr.lower()), done


def test_volumes_of_an_image_get_nothing_of_the_hosts(api: Api, sentinel: Path) -> None:
    """CVE-2022-23648, CVE-2026-53489: VOLUME through dots or a link, whose content is copied into the volume."""
    dots = "/" + "../" * 24 + str(sentinel).lstrip("/")
    link = archive(symlink("link", str(sentinel)), symlink("up", dots[1:]), folder("data"), file("data/own", "image's"))
    image(api, "hostile:1", link, {"Volumes": {dots: {}, "/link": {}, "/up": {}, "/link/d": {}, "/data": {}}})
    find = f"cat /data/own; find {sentinel} /link/ /up/ -type f 2>/dev/null"
    done = tried(api, "hostile:1", "sh", "-c", find)
    assert done.stdout.replace("\n", "").endswith("image's") or done.status >= 400, done
    for volume in api.get("/volumes")["Volumes"] or []:
        assert "the host's" not in "".join(
            path.read_text() for path in Path(volume["Mountpoint"]).rglob("*") if path.is_file()
        )


def test_a_volume_that_holds_something_is_not_filled_from_the_image(api: Api) -> None:
    """CVE-2020-1726, CVE-2023-0778: copying up overwrote what was there."""
    api.output("sh", "-c", "echo mine > /vol/passwd", HostConfig={"Binds": ["full:/vol"]})
    assert api.output("cat", "/etc/passwd", HostConfig={"Binds": ["full:/etc"]}) == "mine\n"


# -- D: archives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["load", "import", "pull"])
def test_no_archive_reaches_outside_whatever_way_it_comes_in(
    api: Api, engine: Engine, sentinel: Path, way: str
) -> None:
    """CVE-2014-6407, CVE-2014-9356, CVE-2021-32760, CVE-2026-17106, CVE-2025-11395: the corpus of tests/harness."""
    cases = corpus(sentinel)
    wrong = {}
    answers = Answers()
    for number, name in enumerate(names(cases)):
        answers.image(f"case{number}", cases[name].layers)
    with serving_registry(engine.host, answers) as address:
        for number, (name, case) in enumerate(cases.items()):
            if way == "load":
                error = load(api, docker_archive(case.layers, ["case:1"]))
            elif way == "pull":
                error = pull(api, f"{address}/case{number}")
            elif len(case.layers) > 1:
                continue
            else:
                error = imported(api, case.layers[0])
            if bool(error) != (case.tree is None) and not case.either:
                wrong[name] = error or "taken"
    assert not wrong


def pull(api: Api, name: str) -> str:
    answer = api.send("POST", "/images/create", fromImage=name, tag="1")
    return answer.message if answer.status >= 400 else "".join(record.get("error", "") for record in answer.records)


def imported(api: Api, data: bytes) -> str:
    answer = api.send("POST", "/images/create", raw=data, content_type=TAR, fromSrc="-", repo="case", tag="1")
    return answer.message if answer.status >= 400 else "".join(record.get("error", "") for record in answer.records)


def test_bombs_are_refused_in_little_memory(api: Api, engine: Engine) -> None:
    """CVE-2017-14992, CVE-2023-25153: what says it is huge, or unpacks to be."""
    before = resident(engine.pid)
    gigabyte = block(name=b"manifest.json", size=b"10000000000")
    for bomb in (
        gigabyte + b"[" * 10_000,
        gigabyte.replace(b"manifest.json", b"oci-layout\0\0\0"),
        tar({"manifest.json": "[" * 1_000_000}),
        tar({"manifest.json": "[" + "9" * 100_000 + "]"}),
        tar({"manifest.json": json.dumps([{"Config": "c", "Layers": ["l"] * 100_000}]), "c": "{}"}),
        gzip.compress(gzip.compress(bytes(50_000_000))),
        block(size=b"0") * 25_000,
    ):
        assert load(api, bomb)
    assert resident(engine.pid) - before < 64 << 20


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_what_failed_to_come_is_not_taken_from_a_cache_and_stops_nothing(api: Api, engine: Engine) -> None:
    """CVE-2014-8179, CVE-2014-9358, CVE-2021-21285, CVE-2021-20291: lies one after another, then the truth."""
    layers = (tar({"etc/first": "of this test\n"}), tar({"etc/second": "true\n"}), busybox_rootfs())
    answers = Answers()
    blobs = answers.image("app", layers)
    config, first, second, _ = (digest(blob) for blob in blobs)
    good = dict(answers.bodies)
    manifest = good["/v2/app/manifests/1"]
    lies: dict[str, dict[str, bytes]] = {
        "another layer": {f"/v2/app/blobs/{second}": blobs[1]},
        "a cut layer": {f"/v2/app/blobs/{second}": blobs[2][:-20]},
        "a longer layer": {f"/v2/app/blobs/{second}": blobs[2] + b"x"},
        "another configuration": {f"/v2/app/blobs/{config}": blobs[0].replace(b"linux", b"Linux")},
        "another first layer": {f"/v2/app/blobs/{first}": b"x" * len(blobs[1])},
        "null": {"/v2/app/manifests/1": b"null"},
        "deep": {"/v2/app/manifests/1": b"[" * 100_000},
        "both kinds": {"/v2/app/manifests/1": json.dumps({**json.loads(manifest), "manifests": []}).encode()},
        "a path as digest": {
            "/v2/app/manifests/1": manifest.replace(second.encode(), b"sha256:../../../../etc/passwd")
        },
        "a lying diff id": _other_diff_id(blobs),
    }
    with serving_registry(engine.host, answers) as address:
        for name, lie in lies.items():
            answers.bodies = good | lie
            assert pull(api, f"{address}/app"), name
            assert api.send("GET", f"/images/{address}/app:1/json").status == 404
        answers.bodies = good
        assert not pull(api, f"{address}/app")
        assert api.output("cat", "/etc/second", image=f"{address}/app:1") == "true\n"


def _other_diff_id(blobs: list[bytes]) -> dict[str, bytes]:
    """A manifest whose configuration has its layers' ids swapped: every digest fits but what they unpack to."""
    config = json.loads(blobs[0])
    config["rootfs"]["diff_ids"].reverse()
    text = json.dumps(config).encode()
    manifest = oci_manifest(text, [gzip.decompress(blob) for blob in blobs[1:]])
    document = json.loads(manifest)
    for entry, blob in zip(document["layers"], blobs[1:], strict=True):
        entry |= {"digest": digest(blob), "size": len(blob)}
    return {"/v2/app/manifests/1": json.dumps(document).encode(), f"/v2/app/blobs/{digest(text)}": text}


_LABELS = {
    "io.podman.annotations.privileged": "TRUE",
    "run.oci.keep_original_groups": "1",
    "org.systemd.property.MemoryMax": "1",
    "containerd.io/restart.status": "running",
    "com.docker.compose.project": "x",
    "pierhead.privileged": "true",
    "io.pierhead.seccomp": "unconfined",
}


def test_what_an_image_says_of_itself_changes_no_setting(api: Api) -> None:
    """CVE-2014-6408, CVE-2026-53488, CVE-2026-94603, CVE-2026-121885, CVE-2024-3154: labels, annotations, odd keys."""
    keys = {"HostConfig": {"Privileged": True}, "Privileged": True, "SecurityOpt": ["seccomp=unconfined"]}
    keys |= {"CapAdd": ["ALL"], "Annotations": _LABELS, "LogConfig": {"Type": "none"}, "Runtime": "evil"}
    image(api, "hostile:1", tar({"x": "y"}), {"Labels": _LABELS, **keys})
    image(api, "plain:1", tar({"x": "y"}))
    show = ("sh", "-c", "grep -E 'Cap|Seccomp|NoNewPrivs' /proc/self/status; cat /proc/self/mountinfo | wc -l; env")
    shown = []
    for name in ("plain:1", "hostile:1"):
        id = api.create(*show, image=name)
        settings = api.inspect(id)["HostConfig"]
        api.ok("POST", f"/containers/{id}/start")
        api.wait(id)
        shown.append((settings, api.logs(id).decode(errors="replace").replace(id[:12], "")))
    assert shown[0] == shown[1]


def test_a_load_that_takes_a_name_away_says_so(api: Api) -> None:
    """CVE-2026-50195: a local name came to mean another image without a word."""
    image(api, "mine:1", tar({"x": "1"}))
    old = api.get("/images/mine:1/json")["Id"]
    layers = [busybox_rootfs(), tar({"x": "2"})]
    answer = api.ok("POST", "/images/load", raw=docker_archive(layers, ["mine:1"]), content_type=TAR)
    assert f"already exists, renaming the old one with ID {old} to empty string" in answer.body.decode()
