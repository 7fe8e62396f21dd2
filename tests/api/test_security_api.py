"""What reaches the daemon by its API and its folders: names that are paths, values that are orders, and who may look.

Classes H (what is written into a container's files) and I (API, daemon) of the known ways out; the table in
docs/security.md says which test is for which.
"""

import base64
import http.client
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.harness.api import Api, UnixConnection
from tests.harness.engines import Engine
from tests.harness.processes import wait_until

pytestmark = pytest.mark.only_pierhead("holds dockerd to nothing")


@pytest.fixture
def api(engine: Engine) -> Iterator[Api]:
    """The engine, asked at the end whether it is alive."""
    yield engine.api
    assert engine.api.ok("GET", "/_ping", timeout=10).status == 200


def refused(api: Api, host: dict[str, Any] | None = None, **config: Any) -> str:
    """The message of a create or start that must not succeed; nothing stays."""
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": host or {}, **config}
    answer = api.send("POST", "/containers/create", body)
    if answer.status == 201:
        id = answer.json["Id"]
        answer = api.send("POST", f"/containers/{id}/start")
        api.ok("DELETE", f"/containers/{id}", force=1, v=1)
    assert answer.status >= 400, (host, config)
    return answer.message


_NAMES = (
    "..%2f..%2fx ..%2F..%2Fetc%2Fpasswd ..%2f %2e%2e ..%5cx x%2f..%2fy x%00y x%0ay %ff%fe ~root $(id) -rf a%20b "
    + "x" * 3000
).split()


def test_no_name_is_ever_a_path(api: Api, engine: Engine) -> None:
    """CVE-2026-33747's class: ids and names of requests as parts of paths."""
    outside = sorted(os.listdir(engine.root))
    routes = (
        *(
            ("GET", f"/containers/{{}}/{what}")
            for what in ("json", "logs?stdout=1", "top", "changes", "archive?path=/")
        ),
        *(("POST", f"/containers/{{}}/{what}") for what in ("start", "kill", "rename?name=y", "exec")),
        *(("DELETE", f"/{kind}/{{}}") for kind in ("containers", "volumes", "networks", "images")),
        *(("GET", f"/{kind}/{{}}") for kind in ("volumes", "networks", "exec/{}/json", "images/{}/json")),
    )
    for name in _NAMES:
        for method, route in routes:
            path = route.format(*[name] * route.count("{}"))
            assert raw(engine, method, path) in (400, 404, 405, 414, 501), (method, path)
    for name in ("../x", "a/b", "..", ".", "/", "x\0y", "x\n", "-x", "\u202ex", " "):
        assert api.send("POST", "/containers/create", {"Image": "busybox"}, name=name).status == 400, name
        assert api.send("POST", "/volumes/create", {"Name": name}).status >= 400, name
    assert sorted(os.listdir(engine.root)) == outside


def raw(engine: Engine, method: str, path: str) -> int:
    """The status of a request whose path is sent as it is."""
    connection = UnixConnection(engine.socket)
    try:
        connection.putrequest(method, f"/v1.41{path}")
        connection.endheaders()
        return connection.getresponse().status
    except http.client.BadStatusLine:
        return 400  # closed without a word
    finally:
        connection.close()


def test_a_browser_cannot_post_and_no_answer_invites_one(api: Api, engine: Engine) -> None:
    """CVE-2025-64443, CVE-2025-9074: another site's page, which cannot send application/json without being asked."""
    body = b'{"Image": "busybox"}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = api.send("POST", "/containers/create", raw=body, content_type=kind)
        assert answer.status == 400 and "Content-Type" in answer.message
    for trailing in (b"x", b"{}", b"\0"):
        assert api.send("POST", "/containers/create", raw=body + trailing).status == 400
    for method in ("OPTIONS", "GET"):
        answer = api.send(method, "/containers/json")
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kernel.core_pattern", "|/x"),
        ("kernel/core_pattern", "|/x"),
        ("net/../kernel/core_pattern", "|/x"),
        ("net.ipv4.../../kernel.core_pattern", "x"),
        ("net.ipv4/../../kernel/core_pattern", "x"),
        ("kernel.shm_rmid_forced+kernel.core_pattern", "x"),
        ("kernel.shm_rmid_forced\nkernel.core_pattern", "x"),
        ("fs.mqueue/../../kernel/core_pattern", "x"),
        ("vm.panic_on_oom", "1"),
        ("kernel.modprobe", "/x"),
        ("", "x"),
        (".", "x"),
        ("/proc/sys/kernel/core_pattern", "x"),
    ],
)
def test_a_sysctl_of_the_host_cannot_be_named(api: Api, name: str, value: str) -> None:
    """CVE-2022-0811: what is not in a namespace of the container's own, in all its spellings."""
    before = Path("/proc/sys/kernel/core_pattern").read_bytes()
    assert refused(api, {"Sysctls": {name: value}})
    assert Path("/proc/sys/kernel/core_pattern").read_bytes() == before


def test_a_sysctl_needs_the_namespace_that_it_is_in(api: Api) -> None:
    """With the host's network or IPC the value would be the host's. (Written would be what is there already.)"""
    for mode, name in (
        ({"NetworkMode": "host"}, "net.ipv4.ip_forward"),
        ({"NetworkMode": "host"}, "net/ipv4/ip_forward"),
        ({"IpcMode": "host"}, "kernel.shm_rmid_forced"),
        ({"IpcMode": "host"}, "fs.mqueue.msg_max"),
    ):
        value = Path("/proc/sys", name.replace(".", "/")).read_text().strip()
        assert "namespace" in refused(api, {**mode, "Sysctls": {name: value}})
    # A value is one value, whatever is in it.
    before = Path("/proc/sys/kernel/core_pattern").read_bytes()
    refused(api, {"Sysctls": {"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/x"}})
    assert Path("/proc/sys/kernel/core_pattern").read_bytes() == before


def test_a_namespace_that_another_container_has_from_the_host_is_the_hosts(api: Api) -> None:
    """A network, message queues and a domain's name that come with a container that is joined."""
    named = api.run("sleep", "1000", Domainname="evil.test")
    before = Path("/proc/sys/kernel/domainname").read_text()
    try:
        host = {"NetworkMode": f"container:{named}", "UTSMode": "host"}
        assert api.output("cat", "/proc/sys/kernel/domainname", HostConfig=host) == before
    finally:
        Path("/proc/sys/kernel/domainname").write_text(before)
    other = api.run("sleep", "1000", HostConfig={"NetworkMode": "host", "IpcMode": "host"})
    for field, name in (("NetworkMode", "net.ipv4.conf.all.log_martians"), ("IpcMode", "kernel.msgmnb")):
        shown = ("cat", "/proc/sys/" + name.replace(".", "/"))
        value = api.output(*shown, HostConfig={field: "host"}).strip()
        id = api.create("true", HostConfig={field: f"container:{other}", "Sysctls": {name: value}})
        started = api.send("POST", f"/containers/{id}/start")
        assert started.status == 400 and "host" in started.message and name in started.message
        # What is the other's own may be set there as before.
        own = api.run("sleep", "1000", HostConfig={"IpcMode": "shareable"})
        assert api.output(*shown, HostConfig={field: f"container:{own}", "Sysctls": {name: "1"}}) == "1\n"


@pytest.mark.parametrize(
    "text",
    ["1-4294967295", "0-99999999999999999999", "0-0," * 20_000 + "0", "4294967296", "0--1", "-1", "0-", "٠", "a"],
)
def test_a_range_of_processors_costs_no_memory(api: Api, text: str) -> None:
    """CVE-2018-20699: a range that was counted out."""
    for field in ("CpusetCpus", "CpusetMems"):
        answer = api.send("POST", "/containers/create", {"Image": "busybox", "HostConfig": {field: text}})
        if answer.status == 201:  # the same processor twenty thousand times
            assert text.startswith("0-0,0-0,")
            started = api.send("POST", f"/containers/{answer.json['Id']}/start")
            assert started.status in (204, 400, 500)
            api.ok("DELETE", f"/containers/{answer.json['Id']}", force=1)


def groups() -> set[str]:
    """Control groups at the top of the hierarchies."""
    top = Path("/sys/fs/cgroup")
    return {path.name for pattern in ("*/", "memory/*/") for path in top.glob(pattern)}


@pytest.mark.parametrize("text", ["../../../x", "/../x", "a/../../../x", "..", "x/..", "a\0b", "/" + "y" * 300])
def test_a_cgroup_parent_stays_below_where_the_engines_are(api: Api, engine: Engine, text: str) -> None:
    """A parent of "../../.." was the root of the hierarchy."""
    body = {"Image": "busybox", "Cmd": ["cat", "/proc/1/cgroup"], "HostConfig": {"CgroupParent": text}}
    before = groups()
    answer = api.send("POST", "/containers/create", body)
    if answer.status == 201:
        id = answer.json["Id"]
        if api.send("POST", f"/containers/{id}/start").status == 204:
            api.wait(id)
            assert "/.." not in api.logs(id).decode(errors="replace")
        api.ok("DELETE", f"/containers/{id}", force=1)
        assert not os.path.lexists(f"{engine.exec_root}/containers/{id}"), "its run-time folder is left"
    assert not {name for name in groups() - before if name in ("x", "y" * 300)}


def test_devices_are_nodes_of_the_host_and_rules_are_rules(api: Api) -> None:
    """A rule's text is parsed, a device's place is looked up below the container's root."""
    for rule in ("a", "c 1:3", "c 1:3 rwmx", "c 1:3 rwm\nb *:* rwm", "d 1:3 r", "c -1:3 r", "c 1:3 r ; b *:* rwm"):
        assert refused(api, {"DeviceCgroupRules": [rule]}), rule
    for source, target in (
        ("/etc/passwd", "/dev/x"),
        ("/dev/nothing", "/dev/x"),
        ("/dev/zero", "/proc/x"),
        ("/dev/zero", "/sys/x"),
        ("/dev/zero", "/dev/null"),
    ):
        device = {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": "rwm"}
        assert refused(api, {"Devices": [device]}), (source, target)
    device = {"PathOnHost": "/dev/zero", "PathInContainer": "/../../../x/zero", "CgroupPermissions": "r"}
    assert api.output("ls", "/x", HostConfig={"Devices": [device]}) == "zero\n"
    assert not os.path.exists("/x/zero")


def test_nothing_but_the_one_line_is_written_into_a_containers_files(api: Api) -> None:
    """/etc/hosts and /etc/resolv.conf: names and options with line breaks in them."""
    for host in (
        {"ExtraHosts": ["a:1.2.3.4\n6.6.6.6 b"]},
        {"ExtraHosts": ["a\n6.6.6.6 b:1.2.3.4"]},
        {"ExtraHosts": ["a b:1.2.3.4"]},
        {"DnsSearch": ["a\nnameserver 6.6.6.6"]},
        {"DnsOptions": ["ndots:1\nnameserver 6.6.6.6"]},
        {"Dns": ["8.8.8.8\nnameserver 6.6.6.6"]},
    ):
        body = {"Image": "busybox", "Cmd": ["cat", "/etc/hosts", "/etc/resolv.conf"], "HostConfig": host}
        answer = api.send("POST", "/containers/create", body)
        if answer.status == 201:
            shown = api.output(*body["Cmd"], HostConfig=host)
            assert not [line for line in shown.splitlines() if line.startswith(("6.6.6.6", "nameserver 6.6"))], host
    for hostname in ("a\n6.6.6.6 b", "a b", "a\tb"):
        for field in ("Hostname", "Domainname"):
            answer = api.send("POST", "/containers/create", {"Image": "busybox", field: hostname})
            assert answer.status == 400 and f"invalid {field.lower()} format" in answer.message


def test_nobody_else_on_the_host_can_look_into_the_engines_folders(api: Api, engine: Engine) -> None:
    """CVE-2021-41091, CVE-2021-41103, CVE-2024-25621: set-uid programs of images, within reach of the host's users."""
    id = api.run("sleep", "1000", HostConfig={"Binds": ["vol:/vol"]})
    tops = [str(engine.data_root), str(engine.exec_root)]
    tops += [f"{engine.data_root}/{name}" for name in os.listdir(engine.data_root)]
    assert as_nobody(lambda: reachable(tops)) == []
    assert "PermissionError" in as_nobody(lambda: [str(os.stat(f"{engine.data_root}/graph.db"))])[0]
    assert (os.stat(engine.socket).st_mode & 0o777, os.stat(engine.socket).st_uid) == (0o660, 0)
    api.ok("DELETE", f"/containers/{id}", force=1)


def reachable(tops: list[str]) -> list[str]:
    """What can be read or entered below these by whoever asks."""
    found = [top for top in tops if os.access(top, os.R_OK, effective_ids=True)]
    for top in tops:
        for folder, folders, files in os.walk(top):
            for name in folders + files:
                path = os.path.join(folder, name)
                if not os.path.islink(path) and os.access(path, os.R_OK, effective_ids=True):
                    found.append(path)
    return found


def as_nobody(what: Callable[[], list[str]]) -> list[str]:
    """What user 65534 gets, in a child; an exception's text if it gets none."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            text = "\n".join(what())
        except BaseException as error:
            text = repr(error)
        os.write(write, text[:60_000].encode())
        os._exit(0)
    os.close(write)
    with open(read) as said:
        lines = said.read().splitlines()
    os.waitpid(pid, 0)
    return lines


def test_the_engine_listens_on_nothing_that_a_container_can_reach(api: Api, engine: Engine) -> None:
    """CVE-2014-3499, CVE-2020-15257, CVE-2025-9074, CVE-2021-4024: no port, and no socket in the abstract namespace."""
    host = {"NetworkMode": "host"}
    api.run("sleep", "1000")
    abstract = [
        line for line in api.output("cat", "/proc/net/unix", HostConfig=host).splitlines() if line.split()[-1][0] == "@"
    ]
    assert abstract == []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        lines = api.output("cat", f"/proc/net/{table}", HostConfig=host).splitlines()[1:]
        listening = [line.split()[1] for line in lines if line.split()[3] in ("0A", "07")]
        assert listening == [], table


def test_clients_that_come_go_and_never_read_cost_nothing_that_stays(api: Api, engine: Engine) -> None:
    """CVE-2022-31030, CVE-2022-23471, CVE-2025-64329: attach and drop, resize, an exec whose output nobody takes."""
    id = api.run("sh", "-c", "while sleep 0.1; do echo x; done", Tty=True)
    api.hijack(f"/containers/{id}/attach", stream=1, stdout=1).socket.close()
    memory, descriptors = resident(engine.pid), len(os.listdir(f"/proc/{engine.pid}/fd"))
    made = api.ok("POST", f"/containers/{id}/exec", {"Cmd": ["yes"], "AttachStdout": True}).json["Id"]
    never = api.hijack(f"/exec/{made}/start", {"Detach": False})
    for number in range(100):
        api.hijack(f"/containers/{id}/attach", stream=1, stdout=1).socket.close()
        assert api.send("POST", f"/containers/{id}/resize", h=10 + number % 50, w=80).status == 200
    assert resident(engine.pid) - memory < 64 << 20
    never.socket.close()
    api.ok("POST", f"/containers/{id}/kill")
    api.wait(id)
    wait_until(lambda: len(os.listdir(f"/proc/{engine.pid}/fd")) <= descriptors + 4, "the end of every connection")


def resident(pid: int) -> int:
    """Bytes of memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_no_password_is_written_down(api: Api, engine: Engine) -> None:
    """CVE-2019-13509, GHSA-gc89-7gcr-jxqc: logs, events and histories, of requests that fail."""
    marker = "S3CR3T-" + "x" * 9
    since = time.time()
    auth = base64.urlsafe_b64encode(json.dumps({"username": "u", "password": marker}).encode()).decode()
    nowhere = "127.0.0.1:9"  # discard: nobody listens
    for path in (f"/images/create?fromImage={nowhere}/a&tag=b", f"/images/{nowhere}/a/push?tag=b"):
        connection = UnixConnection(engine.socket)
        connection.request("POST", f"/v1.41{path}", headers={"X-Registry-Auth": auth})
        assert marker.encode() not in connection.getresponse().read()
        connection.close()
    said = api.send("POST", "/auth", {"username": "u", "password": marker, "serveraddress": nowhere})
    assert said.status >= 400 and marker not in said.body.decode()
    source = f"http://u:{marker}@{nowhere}/x.tar"
    said = api.send("POST", f"/images/create?fromSrc={quote(source, safe='')}&repo=made")
    assert b"error" in said.body or said.status >= 400
    events = api.ok("GET", "/events", since=int(since), until=int(time.time()) + 1).body.decode()
    places = [engine.log.read_text(), events, json.dumps(api.get("/images/json"))]
    places += [path.read_bytes().decode("latin-1") for path in engine.data_root.glob("graph.db*")]
    for text in places:
        assert marker not in text and auth not in text


def test_what_cannot_be_kept_is_not_promised(api: Api) -> None:
    """CVE-2023-28840, CVE-2023-28841, CVE-2023-28842: a network that says it is encrypted and is not."""
    before = api.get("/networks")
    for driver, options in (("overlay", {"encrypted": ""}), ("overlay", {}), ("macsec", {})):
        refused = api.send("POST", "/networks/create", {"Name": "secret", "Driver": driver, "Options": options})
        assert refused.status >= 400 and refused.message
    assert len(api.get("/networks")) == len(before)


def test_a_container_that_spoils_its_own_hosts_file_spoils_no_more(api: Api, engine: Engine) -> None:
    """Its hosts, hostname and resolv.conf lie on the host's disk, and the daemon writes to them while it runs."""
    id = api.run("sleep", "1000")
    spoil = "cd /etc; for f in hosts hostname resolv.conf; do : >$f; chmod 000 $f; chown 5:5 $f; done; ln -sf /x hosts"
    made = api.ok("POST", f"/containers/{id}/exec", {"Cmd": ["sh", "-c", spoil]}).json["Id"]
    api.ok("POST", f"/exec/{made}/start", {"Detach": False})
    network = api.ok("POST", "/networks/create", {"Name": "another"}).json["Id"]
    for job in ("connect", "disconnect"):
        api.ok("POST", f"/networks/{network}/{job}", {"Container": id})
    api.ok("POST", f"/containers/{id}/restart", t=0)
    assert "localhost" in api.output("cat", "/etc/hosts")
    if engine.kind == "pierd":
        for name in ("hosts", "hostname", "resolv.conf"):
            (file,) = engine.data_root.glob(f"containers/{id}/{name}")
            assert file.is_file() and not file.is_symlink(), name
