"""--userns-remap: containers whose root is nobody on the host. Docker's behaviour, on both engines."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.api import Api
from tests.harness.archives import archive, file, folder, listing, symlink
from tests.harness.engines import PIERD, Engine, Pierd
from tests.harness.engines import engine as started_engine
from tests.harness.ociruntimes import oci_runtime
from tests.harness.processes import run, wait_until

UID, GID = 100000, 200000
UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()
FILES = {
    "/etc/subuid": f"dockremap:{UID}:65536\n",
    "/etc/subgid": f"dockremap:{GID}:65536\n",
    "/etc/passwd": Path("/etc/passwd").read_text() + "dockremap:x:990:990::/:/bin/false\n",
    "/etc/group": Path("/etc/group").read_text() + "dockremap:x:990:\n",
}


@pytest.fixture(scope="module", params=["native", "oci"])
def shared_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A remapped daemon for the file, that finds a user dockremap; containers are made by us, or by a runtime."""
    kind = request.config.getoption("--engine")
    options = ["--userns-remap", "default"]
    if kind == "docker":
        request.getfixturevalue("peers")
        if request.param == "oci":
            pytest.skip("dockerd has no other way")
    elif request.param == "oci":
        options += ["--add-runtime", f"peer={oci_runtime()}", "--default-runtime", "peer"]
    with started_engine(kind, options, files=FILES) as made:
        yield made


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


def store(engine: Engine) -> Path:
    """Where a remapped daemon keeps what it has."""
    return engine.data_root / f"{UID}.{GID}"


def owner(path: Path | str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_uid, found.st_gid


def test_root_in_a_container_is_the_first_subordinate_user_outside(engine: Engine, api: Api) -> None:
    info = api.get("/info")
    assert "name=userns" in info["SecurityOptions"]
    assert info["DockerRootDir"] == str(store(engine))
    id = api.run("sleep", "1000")
    pid = api.inspect(id)["State"]["Pid"]
    assert owner(f"/proc/{pid}") == (UID, GID)
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", str(UID), "65536"]
    asked = engine.docker(
        "exec", id, "sh", "-c", "id -u; cat /proc/self/uid_map; stat -c '%u %g' /etc/hosts /bin/sh /dev/shm"
    )
    assert asked.stdout.split() == ["0", "0", str(UID), "65536", *["0", "0"] * 3], asked.stderr
    assert api.inspect(id)["HostConfig"]["UsernsMode"] == ""
    # What it may write, it owns; the rest of the folder is the host's.
    folder = store(engine) / "containers" / id
    assert {name: owner(folder / name) for name in ("hosts", "hostname", "resolv.conf", f"{id}-json.log")} == {
        "hosts": (UID, GID), "hostname": (UID, GID), "resolv.conf": (UID, GID), f"{id}-json.log": (0, 0),
    }  # fmt: skip


def test_output_terminals_and_networks_are_as_without(engine: Engine, api: Api) -> None:
    id = api.run("sh", "-c", "echo out > /dev/stdout; echo err > /dev/stderr; sleep 1000")
    wait_until(lambda: b"err" in api.logs(id, stdout=1, stderr=1), "the container's output")
    asked = engine.docker(
        "exec", "-t", "-u", "1000:1000", id, "sh", "-c", "stat -c '%u %g' $(tty); id -u; echo x > /dev/tty"
    )
    assert asked.stdout.split() == ["1000", "5", "1000", "x"], asked.stderr
    asked = engine.docker("run", "--rm", "-t", "busybox", "stat", "-c", "%u %g", "/dev/console")
    assert asked.stdout.split() == ["0", "5"], asked.stderr
    ask = "cd /proc/sys/net/ipv4; cat ip_unprivileged_port_start ping_group_range; ip route"
    lines = engine.docker("exec", id, "sh", "-c", ask).stdout
    assert lines.split()[:3] == ["0", "65534", "65534"], "the kernel takes no group that is nobody"
    assert "default via" in lines
    api.ok("POST", "/networks/create", {"Name": "other"})
    api.ok("POST", "/networks/other/connect", {"Container": id})
    assert "eth1" in engine.docker("exec", id, "ip", "addr").stdout
    seen = api.get(f"/containers/{id}/top")["Processes"]
    assert {process[0] for process in seen} == {str(UID)}


def test_volumes_and_folders_that_are_made_belong_to_the_containers_root(engine: Engine, api: Api) -> None:
    bound = engine.root / "made" / "here"
    id = api.run(
        "sh", "-c", "touch /bound/file /vol/file; chown 5:6 /vol/file; sleep 1000",
        HostConfig={"Binds": [f"{bound}:/bound", "vol:/vol", "filled:/etc"]},
    )  # fmt: skip
    data = store(engine) / "volumes/vol/_data"
    wait_until(lambda: (data / "file").exists() and owner(data / "file")[0] != UID, "the container's files")
    assert owner(data) == owner(bound) == owner(bound.parent) == owner(bound / "file") == (UID, GID)
    assert owner(data / "file") == (UID + 5, GID + 6)
    filled = store(engine) / "volumes/filled/_data"
    assert owner(filled) == owner(filled / "passwd") == (UID, GID), (
        "what the image has there, with the container's owners"
    )
    assert "file" in engine.docker("exec", id, "ls", "-l", "/vol").stdout


@pytest.mark.needs_docker28("image mounts and subpaths")
def test_images_and_parts_of_volumes_are_mounted_with_the_owners_they_have(engine: Engine, api: Api) -> None:
    api.wait(api.run("sh", "-c", "mkdir /vol/part; touch /vol/part/file", HostConfig={"Binds": ["parts:/vol"]}))
    mounts = [
        {"Type": "image", "Source": "busybox", "Target": "/image"},
        {"Type": "volume", "Source": "parts", "Target": "/part", "VolumeOptions": {"Subpath": "part"}},
    ]
    id = api.run("sleep", "1000", HostConfig={"Mounts": mounts})
    asked = engine.docker("exec", id, "sh", "-c", "stat -c '%u %g' /image/bin/sh /part/file; touch /part/new")
    assert (asked.status, asked.stdout) == (0, "0 0\n0 0\n"), asked.stderr


@pytest.mark.only_pierhead("20.10 tells the host's owners")
def test_copies_have_the_containers_owners_both_ways(engine: Engine, api: Api) -> None:
    host = {"Binds": ["copied:/vol"], "Tmpfs": {"/tm": ""}}
    id = api.run("sh", "-c", "touch /own /vol/own /tm/own; chown 7:8 /own /vol/own; sleep 1000", HostConfig=host)
    wait_until(lambda: "/own" in str(api.get(f"/containers/{id}/changes")), "the container's files")
    data = store(engine) / "volumes/copied/_data"
    new = archive(file("new/f", uid=5, gid=6), folder("d", uid=3), symlink("s", "f"))
    show = "stat -c '%n %u %g' /new /new/f /d /s /vol/new /vol/new/f /own"
    expected = "/new 0 0\n/new/f 5 6\n/d 3 0\n/s 0 0\n/vol/new 0 0\n/vol/new/f 5 6\n/own 7 8\n"

    def copied(where: str) -> tuple[int, int]:
        api.ok("PUT", f"/containers/{id}/archive?path={where}", raw=new, content_type="application/x-tar")
        got = listing(api.ok("GET", f"/containers/{id}/archive?path={where}/new/f").body)["f"]
        return got.uid, got.gid

    assert [copied(where) for where in ("/", "/vol", "/tm")] == [(5, 6)] * 3
    assert engine.docker("exec", id, "sh", "-c", show).stdout == expected
    assert (owner(data / "new/f"), owner(data / "new")) == ((UID + 5, GID + 6), (UID, GID))
    api.ok("POST", f"/containers/{id}/stop", t=0)
    engine.docker("cp", f"{id}:/own", str(engine.root / "own")).check()
    new = archive(folder("new", uid=1, gid=1), file("new/f", uid=15, gid=16))
    assert [copied(where) for where in ("/", "/vol")] == [(15, 16)] * 2
    assert (owner(data / "new/f"), owner(data / "own")) == ((UID + 15, GID + 16), (UID + 7, GID + 8))
    api.ok("POST", f"/containers/{id}/start")
    asked = engine.docker("exec", id, "stat", "-c", "%u %g", "/new", "/new/f", "/vol/new/f").stdout
    assert asked == "1 1\n15 16\n15 16\n"


def test_changes_are_those_of_the_container_alone(engine: Engine, api: Api) -> None:
    id = api.run("sh", "-c", "touch /new; rm /bin/ash; sleep 1000")
    wait_until(lambda: len(api.get(f"/containers/{id}/changes") or []) >= 3, "changes")
    found = {(change["Path"], change["Kind"]) for change in api.get(f"/containers/{id}/changes")}
    assert found == {("/new", 1), ("/bin", 0), ("/bin/ash", 2)}


@pytest.mark.skipif(not UNIFIED, reason="of cgroup v1 nothing can be given away")
def test_the_containers_root_makes_groups_below_its_own_and_changes_no_limit_of_the_hosts(
    engine: Engine, api: Api
) -> None:
    id = api.run("sleep", "1000")
    nested = "cd /sys/fs/cgroup; mkdir -p new/er; sleep 1000 & echo $! >new/er/cgroup.procs; wc -l <new/er/cgroup.procs"
    assert engine.docker("exec", id, "sh", "-c", f"{nested}; grep ^0: /proc/$!/cgroup").stdout == "1\n0::/new/er\n"
    refused = engine.docker("exec", id, "sh", "-c", "echo 5 >/sys/fs/cgroup/cgroup.max.descendants")
    assert refused.status != 0 and "Permission denied" in refused.stderr
    assert "sleep 1000" in str(api.get(f"/containers/{id}/top")["Processes"][1:]), "a process of the group below it"
    api.ok("POST", f"/containers/{id}/pause")
    api.ok("POST", f"/containers/{id}/unpause")
    api.ok("DELETE", f"/containers/{id}", force=1)  # and the groups below go with it: looked at when the daemon ends


def test_what_does_not_go_with_user_namespaces_is_refused_in_dockers_words(api: Api) -> None:
    refused = {
        "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when "
        "running privileged mode": {"Privileged": True},
        "cannot share the host's network namespace when user namespaces are enabled": {"NetworkMode": "host"},
        "cannot share the host PID namespace when user namespaces are enabled": {"PidMode": "host"},
    }
    for words, host in refused.items():
        answer = api.send("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": host})
        assert (answer.status, answer.message.lower()) == (400, words.lower())


def test_a_container_in_the_hosts_user_namespace_is_as_without_remapping(engine: Engine, api: Api) -> None:
    id = api.run("sh", "-c", "cat /proc/self/uid_map; sleep 1000", HostConfig={"UsernsMode": "host", "PidMode": "host"})
    wait_until(lambda: b"4294967295" in api.logs(id, stdout=1), "the map")
    pid = api.inspect(id)["State"]["Pid"]
    assert owner(f"/proc/{pid}") == (0, 0)
    assert os.readlink(f"/proc/{pid}/ns/user") == os.readlink("/proc/self/ns/user")
    assert api.inspect(id)["HostConfig"]["UsernsMode"] == "host"
    assert engine.docker("exec", id, "cat", "/proc/self/uid_map").stdout.split()[2] == "4294967295"


@pytest.mark.only_pierhead(
    "Docker shows it a file system of other owners, and Debian's runc lacks CAP_SYS_RESOURCE here"
)
def test_in_the_hosts_user_namespace_the_image_has_its_own_owners_and_all_is_allowed(engine: Engine) -> None:
    asked = engine.docker(
        "run", "--rm", "--userns", "host", "--privileged", "busybox", "stat", "-c", "%u", "/bin/busybox"
    )
    assert asked.stdout == "0\n", asked.stderr


def test_whoever_shares_a_namespace_shares_the_user_namespace_too(engine: Engine, api: Api) -> None:
    first = api.run("sleep", "1000", HostConfig={"IpcMode": "shareable"})
    where = f"/proc/{api.inspect(first)['State']['Pid']}/ns/"
    for field, kind in (("NetworkMode", "net"), ("PidMode", "pid"), ("IpcMode", "ipc")):
        other = api.run("sleep", "1000", HostConfig={field: f"container:{first}"})
        there = f"/proc/{api.inspect(other)['State']['Pid']}/ns/"
        shared = [
            name
            for name in ("user", "net", "pid", "ipc", "uts", "mnt")
            if os.readlink(where + name) == os.readlink(there + name)
        ]
        assert shared == ["user", kind]
        assert engine.docker("exec", other, "id", "-u").stdout == "0\n"
        if kind == "ipc":
            engine.docker("exec", first, "touch", "/dev/shm/shared")
            assert engine.docker("exec", other, "ls", "/dev/shm").stdout == "shared\n"


def test_the_remapped_root_can_write_nothing_of_the_daemons(engine: Engine, api: Api) -> None:
    """CVE-2021-21284: as the host sees container root, and as it sees itself with the data root bound into it."""
    id = api.run("sleep", "1000", HostConfig={"Binds": [f"{engine.data_root}:/data", f"{engine.exec_root}:/exec"]})
    tops = [engine.data_root, engine.exec_root, store(engine), store(engine) / "containers" / id]
    as_they = ["setpriv", f"--reuid={UID}", f"--regid={GID}", "--clear-groups", "find", *map(str, tops)]
    outside = run([*as_they, "!", "-type", "l", "-writable"])
    allowed = re.compile(
        rf"{store(engine)}/(volumes/[^/]+/_data|overlay2/[^/]+/(diff|merged)|containers/{id}/(hosts|hostname|resolv.conf)$)"
    )
    assert [line for line in outside.stdout.splitlines() if not allowed.match(line)] == []
    inside = engine.docker(
        "exec", id, "sh", "-c", "find /data /exec ! -type l -writable 2>/dev/null; touch /data/x /exec/x /data/*/x"
    )
    assert [
        line
        for line in inside.stdout.splitlines()
        if not allowed.match(line.replace("/data", str(engine.data_root), 1))
    ] == []
    assert inside.status != 0


@pytest.mark.only_pierhead("a restart of Debian's dockerd ends its containers")
def test_a_restarted_daemon_finds_its_remapped_containers(shared_engine: Engine, engine: Engine, api: Api) -> None:
    id = api.run("sleep", "1000")
    engine.stop()
    engine.start()
    assert api.inspect(id)["State"]["Running"]
    asked = engine.docker("exec", id, "sh", "-c", "id -u; cat /proc/self/uid_map")
    assert asked.stdout.split() == ["0", "0", str(UID), "65536"], asked.stderr
    api.ok("POST", f"/containers/{id}/restart", t=0)
    assert owner(f"/proc/{api.inspect(id)['State']['Pid']}") == (UID, GID)


@pytest.mark.only_pierhead("our words")
def test_a_daemon_that_cannot_remap_does_not_start_and_says_why(engine: Engine, tmp_path: Path) -> None:
    assert isinstance(engine, Pierd)
    for value, said in {
        "no-such-user": 'pierd: Error during uid lookup for "no-such-user": no matching entries in passwd file',
        "daemon": 'pierd: Can\'t create ID mappings: no subuid ranges found for user "daemon": usermod --add-subuids',
    }.items():
        roots = [
            "--data-root",
            str(tmp_path / "data"),
            "--exec-root",
            str(tmp_path / "run"),
            "-H",
            f"unix://{tmp_path}/s",
        ]
        done = run([str(PIERD), *roots, "--config-file", str(engine.root / "daemon.json"), f"--userns-remap={value}"])
        assert (done.status, said in done.stderr) == (1, True), done.stderr
    assert not (tmp_path / "data").exists()
