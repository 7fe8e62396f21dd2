"""The engine's own processes as a container meets them: nothing of them can be touched, and none runs its code.

Classes A (descriptors, the host's program, memory), B (code of the container) and E (users) of the known ways out; the
table in docs/security.md says which test is for which.
"""

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.harness import native
from tests.harness.api import Api, demultiplex, frames
from tests.harness.engines import PIERD, Engine, Pierd, cgroups_named
from tests.harness.engines import engine as started_engine
from tests.harness.images import busybox_rootfs, config_of, docker_archive, tar
from tests.harness.processes import wait_until

TAR = "application/x-tar"
MOUNT_NAMESPACE = os.readlink("/proc/self/ns/mnt")
ROUNDS = 300 if os.environ.get("PIERHEAD_LONG") else 40


@pytest.fixture(scope="module")
def secretive() -> Iterator[Engine]:
    """A daemon that has a secret in its environment."""
    before = os.environ.get("SECRET_X")
    os.environ["SECRET_X"] = "token"
    try:
        with started_engine("pierd") as made:
            assert b"SECRET_X=token" in Path(f"/proc/{made.pid}/environ").read_bytes()
            layers = [busybox_rootfs(), tar({"bin/watch": native.program("watch")})]
            load(made.api, docker_archive(layers, ["watch:1"]))
            yield made
    finally:
        os.environ.pop("SECRET_X") if before is None else os.environ.update(SECRET_X=before)


@pytest.fixture
def api(secretive: Engine) -> Iterator[Api]:
    yield secretive.api
    secretive.forget()


def load(api: Api, archive: bytes) -> None:
    answer = api.ok("POST", "/images/load", raw=archive, content_type=TAR, quiet=1)
    assert b'"error"' not in answer.body, answer.body


def execute(api: Api, id: str, *command: str, **config: Any) -> str:
    body = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True, **config}
    made = api.ok("POST", f"/containers/{id}/exec", body).json["Id"]
    answer = api.send("POST", f"/exec/{made}/start", {"Detach": False})
    return b"".join(demultiplex(answer.body)).decode() if answer.status == 200 else f"refused: {answer.message}"


def watched(api: Api, id: str) -> list[str]:
    """What the watching PID 1 saw; it is told to end."""
    api.ok("POST", f"/containers/{id}/kill", signal="SIGTERM")
    api.wait(id)
    lines = b"".join(payload for _, payload in frames(api.logs(id))).decode().splitlines()
    assert lines[0] == "WATCHING as of 1" and lines[-1].startswith("met ")
    assert int(lines[-1].split()[1]) > 0, "it met nobody: this test says nothing"
    return lines[1:-1]


def test_a_container_can_touch_no_process_of_the_engine_that_comes_by(api: Api) -> None:
    """CVE-2016-9962, CVE-2019-5736: memory, descriptors, root and program of whoever joins, before it executes.

    And what /proc shows of it to everybody: its mounts and its network are never the host's.
    """
    id = api.run("watch", "alone", image="watch:1")
    for _ in range(ROUNDS):
        assert execute(api, id, "true") == ""
    assert watched(api, id) == []


def test_with_the_right_to_trace_the_engines_program_still_cannot_be_written(api: Api) -> None:
    """CVE-2019-5736 with CAP_SYS_PTRACE: then it may look, as with Docker, but the host's interpreter stays whole."""
    before = [hash(Path(path).read_bytes()) for path in programs()]
    id = api.run("watch", image="watch:1", HostConfig={"CapAdd": ["SYS_PTRACE"]})
    for _ in range(ROUNDS):
        execute(api, id, "true")
    seen = watched(api, id)
    assert any(line.startswith("EXE of") for line in seen), "nothing was looked at: this test says nothing"
    assert [line for line in seen if "WRITABLE" in line or "SECRET" in line] == []
    assert [hash(Path(path).read_bytes()) for path in programs()] == before


def test_a_container_in_the_same_pid_namespace_sees_nothing_of_another_ones_start(api: Api) -> None:
    """The fork server forks without executing: what its memory and environment hold would be the child's, too."""
    id = api.run("watch", image="watch:1")
    for _ in range(ROUNDS // 3):
        other = api.run("true", image="watch:1", HostConfig={"PidMode": f"container:{id}"})
        assert api.wait(other) == 0
    assert watched(api, id) == []


_STOPPER = "while :; do p=2; while [ $p -lt 64 ]; do kill -STOP $p; p=$((p + 1)); done; done 2>/dev/null"


def test_a_container_that_stops_whoever_joins_it_can_still_be_ended(api: Api) -> None:
    """Class A: its root may send signals to an exec on the way, and what waits for that would wait for ever."""
    id = api.run("sh", "-c", _STOPPER)
    for _ in range(60):
        made = api.ok("POST", f"/containers/{id}/exec", {"Cmd": ["true"]}).json["Id"]
        answer = api.send("POST", f"/exec/{made}/start", {"Detach": True})
        if answer.status != 200:
            break
    assert "stopped by a signal before it could execute" in answer.message, "nobody was stopped: this test says nothing"
    api.ok("POST", f"/containers/{id}/kill")
    assert api.get(f"/containers/{id}/json")["State"]["ExitCode"] == 137


def test_a_kill_does_not_wait_for_an_exec_that_does_not_get_on(api: Api, secretive: Engine) -> None:
    """Its shim waits for that (here it is frozen; it could be in want of memory, or on a file system that hangs)."""
    id = api.run("sleep", "1000")
    made = api.ok("POST", f"/containers/{id}/exec", {"Cmd": ["true"]}).json["Id"]
    assert isinstance(secretive, Pierd)
    groups = [Path(group) / id for group in cgroups_named(secretive.instance)]
    if switches := [group / "cgroup.freeze" for group in groups if (group / "cgroup.freeze").exists()]:
        switches[0].write_text("1")
    else:
        next(group / "freezer.state" for group in groups if (group / "freezer.state").exists()).write_text("FROZEN")
    starting = threading.Thread(target=api.send, args=("POST", f"/exec/{made}/start", {"Detach": True}))
    starting.start()
    wait_until(lambda: len(api.get(f"/containers/{id}/top")["Processes"]) == 2, "the exec's process")
    api.ok("POST", f"/containers/{id}/kill")
    assert api.get(f"/containers/{id}/json")["State"]["ExitCode"] == 137
    starting.join()


def programs() -> list[str]:
    return [os.path.realpath(sys.executable), "/bin/busybox"]


def test_no_environment_reaches_another_container(api: Api) -> None:
    """CVE-2020-14370, CVE-2021-21334, CVE-2021-3602: of the daemon, of another container, of another exec."""
    one = api.run("sleep", "1000", Env=["TOKEN=1"], Labels={"TOKEN": "1"})
    assert "TOKEN=1" in execute(api, one, "env")
    assert "T2=2" in execute(api, one, "env", Env=["T2=2"])
    assert "T2" not in execute(api, one, "env")
    two = api.run("sleep", "1000")
    for text in (execute(api, two, "env"), api.output("env"), execute(api, two, "cat", "/proc/1/environ")):
        names = {entry.partition("=")[0] for entry in text.replace("\0", "\n").split() if "=" in entry}
        assert names == {"PATH", "HOSTNAME", "HOME"}


def test_what_is_too_long_for_the_kernel_is_refused_and_nothing_is_cut(api: Api) -> None:
    """CVE-2021-43784: a length that overflowed in the message to the init process."""
    assert api.output("sh", "-c", "echo ${#BIG}", Env=["BIG=" + "x" * 70_000]).strip() == "70000"
    assert api.output("sh", "-c", "echo ${#1}", "sh", "y" * 70_000).strip() == "70000"
    many = [f"V{number}={'z' * 1000}" for number in range(1000)]
    assert api.output("sh", "-c", "env | grep -c ^V", Env=many).strip() == "1000"
    for config in ({"Env": ["BIG=" + "x" * 200_000]}, {"Cmd": ["true", "y" * 200_000]}):
        id = api.create("true", **config) if "Cmd" not in config else api.create(*config["Cmd"])
        refused = api.send("POST", f"/containers/{id}/start")
        assert refused.status in (400, 500) and "argument list too long" in refused.message
    for hostname in ("h" * 65, "h" * 70_000):
        made = api.send("POST", "/containers/create", {"Image": "busybox", "Cmd": ["hostname"], "Hostname": hostname})
        if made.status == 201:
            started = api.send("POST", f"/containers/{made.json['Id']}/start")
            assert started.status >= 400, "a host name that no kernel takes"


# -- code of the image ------------------------------------------------------------------------------------------------

_PYTHON = "open('/MARK', 'w').write('imported')\n"
_SCRIPT = "#!/bin/sh\necho ran > /MARK\n"
_PROGRAMS = (
    "xz unpigz pigz gzip gunzip zstd bzip2 tar git ps top iptables nft ip python3 runc mount umount modprobe lsb"
)


def hostile_rootfs() -> bytes:
    """Busybox, and under every name that the daemon or its C library could look up, something that leaves /MARK."""
    path = subprocess.run(
        [str(PIERD.with_name("python")), "-c", "import sys, json; print(json.dumps(sys.path))"],
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout
    folders = [*filter(None, json.loads(path)), sysconfig.get_path("stdlib"), "/usr/lib/python3.11", str(Path.cwd())]
    modules = "encodings/__init__ encodings/idna encodings/ascii json/__init__ tarfile sitecustomize usercustomize pwd"
    modules += " socket subprocess ctypes/__init__ locale pierhead/__init__ pierhead/linux/user"
    files: dict[str, bytes | str] = {}
    for folder in folders:
        files |= {f"{folder.lstrip('/')}/{module}.py": _PYTHON for module in modules.split()}
    library = native.program("mark", native.LIBRARY)
    for folder in ("lib", "usr/lib", "lib64", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"):
        for name in ("nss_files.so.2", "nss_dns.so.2", "nss_compat.so.2", "gcc_s.so.1", "nftables.so.1"):
            files[f"{folder}/lib{name}"] = library
    files["etc/nsswitch.conf"] = "passwd: files dns\ngroup: files dns\nhosts: files dns\n"
    files["etc/ld.so.preload"] = "/lib/libnss_files.so.2\n"
    for folder in ("usr/bin", "usr/local/bin", "sbin", "usr/sbin"):
        files |= {f"{folder}/{name}": _SCRIPT for name in _PROGRAMS.split()}
    return tar(files)


def engine_pids(engine: Engine) -> list[int]:
    """The daemon, its zygote, shims and whatever else of it runs outside of containers."""
    found = [engine.pid]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError):  # a thread that has just ended
                children = [int(child) for child in (task / "children").read_text().split()]
                found += [child for child in children if os.readlink(f"/proc/{child}/ns/mnt") == MOUNT_NAMESPACE]
    return found


def maps(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/maps").read_text().splitlines()


def test_no_code_of_the_image_is_ever_run_by_the_engine(api: Api, secretive: Engine) -> None:
    """CVE-2014-9357, CVE-2026-41567 (unpackers), CVE-2019-14271 (name services), CVE-2022-1227 (top)."""
    load(api, docker_archive([busybox_rootfs(), hostile_rootfs()], ["hostile:1"]))
    id = api.run("sh", "-c", "while sleep 1; do echo x; done", image="hostile:1", User="www-data", Tty=True)
    assert execute(api, id, "id", "-un", User="www-data").strip() == "www-data"
    execute(api, id, "true", User="nobody:audio")
    assert "sleep" in json.dumps(api.get(f"/containers/{id}/top"))
    assert "sleep" in json.dumps(api.get(f"/containers/{id}/top", ps_args="aux"))
    api.get(f"/containers/{id}/stats", stream=0)
    api.logs(id)
    network = api.ok("POST", "/networks/create", {"Name": "another"}).json["Id"]
    api.ok("POST", f"/networks/{network}/connect", {"Container": id})
    api.ok("POST", f"/networks/{network}/disconnect", {"Container": id})
    # What begins like a compressed file is unpacked by us, in front of any root.
    for pack in (gzip.compress, lzma.compress):
        load(api, docker_archive([pack(tar({"x": "y"}))], ["packed:1"], config_of([tar({"x": "y"})])))
    # Answered or not (501): none of them may run anything.
    for method, path in (
        ("GET", f"/containers/{id}/archive?path=/etc/passwd"),
        ("HEAD", f"/containers/{id}/archive?path=/etc/passwd"),
        ("GET", f"/containers/{id}/export"),
        ("POST", f"/commit?container={id}&repo=committed"),
    ):
        api.send(method, path)

    def copy_both_ways() -> None:
        where = f"/containers/{id}/archive?path="
        for magic in (b"\xfd7zXZ\0", b"\x1f\x8b\x08", b"(\xb5/\xfd", b"BZh9"):
            api.send("PUT", f"{where}/", raw=magic + b"x" * 100, content_type=TAR)
        # Names that a codec would be looked up for, and a user by name: nothing is to be imported or loaded for them.
        names = tar({"f\u00fcr/\u00e9": "x", "xn--bcher-kva": "y"})
        for pack in (bytes, gzip.compress, lzma.compress, bz2.compress):
            api.ok("PUT", f"{where}/tmp", raw=pack(names), content_type=TAR, copyUIDGID=1)
        assert api.ok("GET", where + quote("/tmp/f\u00fcr")).body
        api.ok("GET", f"{where}/usr/lib")

    copy_both_ways()
    mapped = {line.split(maxsplit=5)[5] for pid in engine_pids(secretive) for line in maps(pid) if "/" in line}
    strange = {path for path in mapped if str(secretive.data_root) in path and not path.endswith((".db", ".db-shm"))}
    assert mapped and not strange, "nothing of a layer is ever loaded into a process of the engine's"
    api.ok("POST", f"/containers/{id}/stop", t=0)
    copy_both_ways()
    api.ok("POST", f"/containers/{id}/restart", t=0)
    changed = {change["Path"] for change in api.get(f"/containers/{id}/changes") or []}
    assert "/MARK" not in changed and not os.path.exists("/MARK")
    assert execute(api, id, "sh", "-c", "ls /MARK 2>&1").startswith("ls:")
    execute(api, id, "/usr/bin/git", User="root")
    assert "/MARK" in {change["Path"] for change in api.get(f"/containers/{id}/changes")}, "the trap works"


# -- users ------------------------------------------------------------------------------------------------------------

_PASSWD = "root:x:0:0::/root:/bin/sh\njoe:x:1000:1000::/:/bin/sh\n1000:x:0:0::/:/bin/sh\n4294967296:x:0:0::/:/bin/sh\n"
_PASSWD += "-1:x:0:0::/:/bin/sh\nbig:x:4294967296:0::/:/bin/sh\nwrap:x:2147483648:0::/:/bin/sh\n"
_GROUP = "root:x:0:\njoe:x:1000:\nwheel:x:10:joe\n50:x:0:\nvideo:x:44:\n"


def test_a_number_is_never_a_name_and_no_id_wraps_round_to_root(api: Api) -> None:
    """CVE-2016-3697, CVE-2026-46680, CVE-2024-40635: -u, exec -u, --group-add and USER, by the image's own files."""
    load(api, docker_archive([busybox_rootfs(), tar({"etc/passwd": _PASSWD, "etc/group": _GROUP})], ["users:1"]))
    id = api.run("sleep", "1000", image="users:1")
    show = ("sh", "-c", "echo $(id -u):$(id -g) $(id -G)")
    good = {
        "": "0:0 0",
        "joe": "1000:1000 1000 10",
        "1000": "1000:1000 1000 10",
        "1000:50": "1000:50 50",
        "1000:wheel": "1000:10 10",
        "2147483647": "2147483647:0 0",
        "0:44": "0:44 44",
    }
    for user, wanted in good.items():
        assert execute(api, id, *show, User=user).strip() == wanted, user
        assert api.output(*show, image="users:1", User=user).strip() == wanted, user
    bad = "4294967296 99999999999 4294967295 2147483648 -1 +0 0x0 1e3 ١ big wrap 0:4294967295 0:2147483648 0:-1 joe:١"
    for user in [*bad.split(), "9" * 5000]:
        assert not execute(api, id, *show, User=user)[:1].isdigit(), user
        refused = api.send("POST", f"/containers/{api.create(*show, image='users:1', User=user)}/start")
        assert refused.status >= 400, user
    for group in ("4294967295", "4294967296", "-1", "+0", "nogroup1"):
        made = api.create(*show, image="users:1", HostConfig={"GroupAdd": [group]})
        assert api.send("POST", f"/containers/{made}/start").status >= 400, group
    assert api.output(*show, image="users:1", User="joe", HostConfig={"GroupAdd": ["video", "50"]}).split()[1:] == [
        *("1000", "10", "44", "50")
    ]


def test_who_is_in_a_group_is_also_kept_out_by_it(api: Api) -> None:
    """CVE-2022-36109, CVE-2023-25173, CVE-2022-2989, CVE-2022-2990: the primary group is one of them."""
    prepare = (
        "echo x > /tmp/f; chown 0:10 /tmp/f; chmod 0704 /tmp/f; mkdir /tmp/d; chown 0:1000 /tmp/d; chmod 0705 /tmp/d"
    )
    layer = tar({"etc/passwd": _PASSWD, "etc/group": _GROUP})
    load(api, docker_archive([busybox_rootfs(), layer], ["users:1"]))
    id = api.run("sleep", "1000", image="users:1")
    execute(api, id, "sh", "-c", prepare)
    assert "Permission denied" in execute(api, id, "cat", "/tmp/f", User="joe")
    assert "Permission denied" in execute(api, id, "cat", "/tmp/f", User="33:10")
    assert "Permission denied" in execute(api, id, "ls", "/tmp/d", User="1000")
    assert execute(api, id, "cat", "/tmp/f", User="33:33") == "x\n"


def test_no_new_privileges_holds_in_every_process(api: Api) -> None:
    """CVE-2018-10856's class: what holds for the first process holds for an exec, and for a set-uid program."""
    script = "cp /bin/watch /bin/suid && chmod 4755 /bin/suid && exec sleep 1000"
    for options, wanted in ((["no-new-privileges"], ("1", "1000")), ([], ("0", "0"))):
        id = api.run("sh", "-c", script, image="watch:1", HostConfig={"SecurityOpt": options})
        for user in ("", "1000"):
            status = execute(api, id, "grep", "NoNewPrivs", "/proc/self/status", User=user)
            assert status.split()[1:] == [wanted[0]]
        first = execute(api, id, "grep", "NoNewPrivs", "/proc/1/status")
        assert first.split()[1:] == [wanted[0]]
        assert execute(api, id, "/bin/suid", "euid", User="1000").strip() == wanted[1]


def test_a_bomb_of_processes_and_a_line_without_end_leave_the_daemon_alive(api: Api, secretive: Engine) -> None:
    """Class I: one container starves neither the daemon nor another."""
    before = resident(secretive.pid)
    bomb = api.run("sh", "-c", "f() { f | f & }; f; sleep 1000", HostConfig={"PidsLimit": 50})
    flood = api.run("sh", "-c", "head -c 64000000 /dev/zero | tr '\\0' x")
    assert api.wait(flood) == 0
    assert api.output("echo", "alive") == "alive\n"
    assert api.ok("GET", "/_ping").status == 200
    assert resident(secretive.pid) - before < 64 << 20
    api.ok("DELETE", f"/containers/{bomb}", force=1)


def resident(pid: int) -> int:
    """Bytes of memory."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
