"""``pier`` asks the daemon for what the docker client asks for: both speak to a daemon that only writes down."""

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import client_present, client_version
from tests.harness.engines import PIER, docker_client


class Recorder:
    """A daemon of version 1.50 that answers every request with 400 and keeps what it was asked."""

    def __init__(self, path: Path) -> None:
        self.requests: list[tuple[str, Any]] = []
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.converse, args=(connection,), daemon=True).start()

    def converse(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rwb") as file:
            while self.answer(file):
                pass

    def answer(self, file: Any) -> bool:
        first = file.readline().decode()
        if not first:
            return False
        headers = {}
        while line := file.readline().strip():
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        body = file.read(int(headers.get(b"content-length", 0)))
        method, target, _ = first.split()
        if target.endswith("/_ping"):
            file.write(b"HTTP/1.1 200 OK\r\nApi-Version: 1.50\r\nOstype: linux\r\nContent-Length: 0\r\n\r\n")
        elif target.endswith(("/info", "/images/json")):
            file.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        else:
            self.requests.append((f"{method} {target}", json.loads(body) if body else None))
            said = b'{"message":"written down"}'
            file.write(b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n")
            file.write(b"Content-Length: %d\r\n\r\n%b" % (len(said), said))
        file.flush()
        return True

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    if not client_present() or client_version() < (28,):
        pytest.skip("needs the docker client 28 to compare with")
    made = Recorder(tmp_path / "s")
    yield made
    made.close()


def asked(recorder: Recorder, program: str, words: list[str]) -> tuple[str, Any]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}
    environment |= {"DOCKER_HOST": f"unix://{recorder.path}", "DOCKER_CONFIG": str(recorder.path.parent), "HERE": "h"}
    recorder.requests.clear()
    done = subprocess.run(
        [program, *words], env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
    )
    assert recorder.requests, f"{program} {words} asked nothing: {done.stderr}"
    target, body = recorder.requests[0]
    path, _, query = target.partition("?")
    return path + "?" + "&".join(sorted(query.split("&"))), meaning(body)


PATHS = ("MaskedPaths", "ReadonlyPaths")
"""An empty list is not the default."""


def meaning(value: Any) -> Any:
    """A request without what says nothing: Go's zero values, and the defaults that Docker spells out."""
    if isinstance(value, dict):
        found = {key: meaning(item) for key, item in value.items()}
        if found.get("Name") == "no" and "MaximumRetryCount" in value:
            del found["Name"]
        if found.get("MemorySwappiness") == -1:
            del found["MemorySwappiness"]
        for key in ("Binds", "Env", "Ulimits"):  # in the order of a Go map, which is none
            if isinstance(found.get(key), list):
                found[key].sort(key=str)
        keep = ("PortBindings", "ExposedPorts", "Volumes", "EndpointsConfig")
        return {
            key: item
            for key, item in found.items()
            if item not in (None, "", 0, False, [], {}, [0, 0]) or (key in keep and item)
        } | {key: item for key, item in found.items() if "/" in key or (key in PATHS and item == [])}
    if isinstance(value, list):
        return [meaning(item) for item in value]
    return value


CREATES = [
    [],
    ["-d", "-p", "8081:8080", "--name", "web"],
    ["-it", "--rm", "-e", "A=1", "-e", "HERE", "-e", "NOWHERE", "-w", "/x", "-u", "1:2", "-h", "name"],
    ["-p", "127.0.0.1:80:80", "-p", "[::1]:81:81/udp", "-p", "90-92:90-92", "-p", "100-110:99", "-p", "70"],
    [
        "-p",
        ":80",
        "-p",
        "::81",
        "-p",
        "127.0.0.1::82",
        "-p",
        "[::1]::83",
        "-p",
        "0:84",
        "-p",
        "8080:85/TCP",
        "-p",
        "86/",
    ],
    [
        "-p",
        "2001:db8::1:8080:80",
        "-p",
        "127.0.0.1:8000-8001:80",
        "-p",
        "80-82:90-92/sctp",
        "-p",
        "80:80",
        "-p",
        "80:80",
    ],
    ["-p", "target=80", "-p", "published=8080-8081,target=80-81,mode=host", "-p", "target=90-91,protocol=sctp"],
    ["--expose", "80/TCP", "--expose", "70/", "--expose", "70", "--expose", "90-91/udp"],
    ["-p", "published=8080,target=80,protocol=udp", "-P", "--expose", "70-71", "--expose", "72/udp"],
    ["-v", "/a:/b:ro", "-v", "vol:/c", "-v", "/anonymous", "-v", "./x:/d", "--tmpfs", "/t:size=1m", "--tmpfs", "/u"],
    [
        "--mount",
        "type=bind,src=/a,dst=/b,readonly,bind-propagation=rshared",
        "--mount",
        "type=tmpfs,dst=/t,tmpfs-size=1m",
    ],
    ["--mount", "src=v,dst=/v,volume-nocopy,volume-label=a=b,volume-driver=d,volume-opt=x=y", "--mount", "dst=/w"],
    ["--network", "host"],
    ["--network", "none"],
    ["--network", "container:other"],
    ["--network", "mine", "--network-alias", "a", "--ip", "10.0.0.9", "--link", "x:y"],
    ["--network", "name=mine,alias=a,alias=b,ip=10.0.0.9,driver-opt=k=v", "--network", "second"],
    [
        "--network",
        "name=mine,ip=10.0.0.1,ip6=fd00::1,mac-address=02:42:ac:11:00:09,link-local-ip=169.254.1.1,gw-priority=-7,"
        "driver-opt=a=b,driver-opt=c=d=e",
    ],
    ["--network", "mine", "--network", "second", "--ip", "10.0.0.1", "--network-alias", "z", "--link", "x"],
    ["--network", "default", "--link", "x:y", "--dns-search", "a.b.", "--dns-search", " . "],
    ["--network", "host", "--ip", "10.0.0.1"],
    ["--network", "name=", "--add-host", "a=host-gateway", "--add-host", "c=[::1]"],
    ["--dns-opt", "a", "--dns-option", "b", "--dns-opt", "c", "--net", "mine", "--network", "second"],
    ["--network", "mine", "--network-alias", "a", "--net-alias", "b", "--network-alias", "c"],
    ["--ip", "10.0.0.9"],
    ["--mac-address", "02:42:ac:11:00:09"],
    ["--memory", "64m", "--memory-swap", "-1", "--memory-reservation", "32m", "--cpus", "1.5", "--pids-limit", "20"],
    [
        "--cpu-shares",
        "3",
        "--cpu-period",
        "50000",
        "--cpu-quota",
        "20000",
        "--cpuset-cpus",
        "0-1",
        "--memory-swappiness",
        "5",
    ],
    ["--cap-add", "NET_ADMIN", "--cap-drop", "ALL", "--privileged", "--read-only", "--init", "--shm-size", "1g"],
    [
        "--dns",
        "1.1.1.1",
        "--dns-search",
        "x.y",
        "--dns-option",
        "ndots:1",
        "--add-host",
        "a:1.2.3.4",
        "--add-host",
        "b=::1",
    ],
    ["--entrypoint", "", "--stop-signal", "INT", "--stop-timeout", "3", "-l", "a=b", "-l", "c"],
    ["--restart", "on-failure:3", "--log-driver", "json-file", "--log-opt", "max-size=1m", "--oom-score-adj", "5"],
    [
        "--ulimit",
        "nofile=10:20",
        "--ulimit",
        "core=-1",
        "--sysctl",
        "net.core.somaxconn=5",
        "--security-opt",
        "no-new-privileges",
    ],
    ["--device", "/dev/null", "--device", "/dev/null:/dev/x:r", "--device-cgroup-rule", "c 1:3 r", "--group-add", "9"],
    [
        "--security-opt",
        "systempaths=unconfined",
        "--security-opt",
        "no-new-privileges",
        "--security-opt",
        "label=disable",
    ],
    ["--mount", "type=volume,src=v,dst=/v,volume-subpath=a/b", "--mount", "type=image,src=i,dst=/i,image-subpath=c"],
    ["--mount", "type=bind,src=/etc,dst=/e,ro,bind-recursive=readonly,bind-propagation=rprivate"],
    ["--mount", "type=bind,src=/etc,dst=/e,ro,bind-recursive=writable"],
    ["--mount", "type=bind,src=/etc,dst=/e,bind-recursive=disabled", "--mount", "type=tmpfs,dst=/t,tmpfs-mode=1700"],
    ["--mount", "type=bind,src=/etc,dst=/e,bind-recursive=enabled,bind-nonrecursive=false"],
    ["--cpu-rt-period", "1000", "--cpu-rt-runtime", "500", "--oom-kill-disable", "--memory-swappiness", "10"],
    ["--device-write-bps", "/dev/x:1mb", "--device-read-iops", "/dev/x:5", "--device-write-iops", "/dev/x:6"],
    ["--device", "vendor.com/class=one", "--gpus", "device=0"],
    ["--health-cmd", "true", "--health-interval", "1m30s", "--health-retries", "2", "--health-timeout", "1.5s"],
    [
        "--no-healthcheck",
        "--pid",
        "host",
        "--ipc",
        "private",
        "--uts",
        "host",
        "--userns",
        "host",
        "--cgroupns",
        "host",
    ],
    [
        "--volumes-from",
        "a:ro",
        "--volume-driver",
        "d",
        "--storage-opt",
        "size=1g",
        "--runtime",
        "r",
        "--annotation",
        "a=b",
    ],
    ["-a", "stdout", "-i"],
    ["-a", "stdin", "-a", "stderr"],
    [
        "--gpus",
        "all",
        "--device-read-bps",
        "/dev/sda:1m",
        "--blkio-weight",
        "20",
        "--blkio-weight-device",
        "/dev/sda:30",
    ],
    ["--platform", "linux/amd64", "--cgroup-parent", "/x", "--domainname", "d", "--link-local-ip", "169.254.1.1"],
]


@pytest.mark.parametrize("flags", CREATES, ids=" ".join)
def test_create_means_the_same_container(recorder: Recorder, flags: list[str]) -> None:
    words = ["create", *(flag for flag in flags if flag != "-d"), "image:tag", "sh", "-c", "--rm", "x"]
    assert asked(recorder, str(PIER), words) == asked(recorder, docker_client(), words)


OTHERS = [
    "ps -a -n 3 --filter label=a=b --filter status=running --filter status=exited",
    "ps -s --no-trunc",
    "images -a --filter dangling=true repo",
    "rm -f -v x",
    "stop -t 3 -s INT x",
    "kill -s 9 x",
    "restart x",
    "rename a b",
    "logs -f --tail 5 -t x",
    "top x -o pid",
    "port x",
    "diff x",
    "update --memory 64m --restart always x",
    "rmi -f a/b:c",
    "rmi --no-prune reg.io:5000/a/b@sha256:" + "0" * 64,
    "tag a b:c",
    "history x/y:z",
    "inspect x",
    "inspect --type image x:y",
    "network ls --filter driver=bridge",
    "network create x",
    "network create --subnet 10.1.0.0/16 --gateway 10.1.0.1 --ip-range 10.1.2.0/24 --aux-address a=10.1.0.9 --ipv6 "
    "--internal --attachable -d bridge -o k=v --label l=m --ipam-opt i=j x",
    "network connect --ip 10.1.0.5 --alias a --alias b --link c:d net x",
    "network connect --ip6 fd00::1 --link-local-ip 169.254.1.1,fe80::1 --driver-opt a=b,c=d=e --gw-priority -5 net x",
    "network create --ipv4=false --ipv6 --config-only x",
    "network create --config-from c -o a -o b=c=d --ipam-driver null --scope local x",
    "network create --subnet 10.1.0.0/24 --ip-range 10.1.0.0/16 x",
    "network disconnect -f net x",
    "network inspect -v x",
    "network prune -f --filter until=1h",
    "volume ls --filter dangling=true",
    "volume create -d local -o type=tmpfs --label a=b x",
    "volume create",
    "volume rm -f x",
    "volume prune -f -a",
    "volume inspect x",
    "container prune -f --filter label=x",
    "image prune -f -a",
    "image prune -f",
    "system df",
    "events --filter type=network --filter event=start",
    "events --since 0 --until 1",
    "logs --since 0 x",
    "exec x true",
    "wait x",
    "pull localhost:5000/a:b",
    "save a b:c",
]


@pytest.mark.parametrize("line", OTHERS)
def test_every_command_asks_for_the_same(recorder: Recorder, line: str) -> None:
    words = line.split()
    assert asked(recorder, str(PIER), words) == asked(recorder, docker_client(), words)


def refused(recorder: Recorder, program: str, words: list[str]) -> tuple[int, str, int]:
    """Status, what is said with the program's name taken out, and how many requests were made before."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}
    environment |= {"DOCKER_HOST": f"unix://{recorder.path}", "DOCKER_CONFIG": str(recorder.path.parent)}
    recorder.requests.clear()
    done = subprocess.run(
        [program, *words], env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
    )
    return done.returncode, done.stderr.replace("docker", "pier"), len(recorder.requests)


REFUSED = [
    "create --network a=b i",
    "create --network alias=x i",
    "create --network name=a,alias i",
    "create --network name=a,gw-priority=x i",
    "create --network name=a,gw-priority=99999999999999999999 i",
    "create --network name=a,driver-opt=x i",
    "create --network name=a,mac-address=x i",
    'create --network na"me=a i',
    'create --network name=a,"b"c i',
    'create --network "name=a i',
    'create --mount type=bind,"é,src i',
    "create --mount= i",
    'create --gpus "a""b"" i',
    "create --network a --network a i",
    "create --network a --network host i",
    "create --network name=a,ip=10.0.0.1 --ip 10.0.0.2 i",
    "create --network name=a,alias=x --network-alias y i",
    "create --network name=a,mac-address=02:42:ac:11:00:09 --mac-address 02:42:ac:11:00:09 i",
    "create --network name=a,link-local-ip=169.254.1.1 --link-local-ip 169.254.1.2 i",
    "create --network-alias x i",
    "create --link a:b:c i",
    "create --link= i",
    "create --mac-address x i",
    "create --dns x i",
    "create --dns-search x_y i",
    "create --dns-search 1.2 i",
    "create --add-host a i",
    "create --add-host a:b i",
    'create --add-host "a i',
    "create --add-host a=[::1 i",
    "create --add-host a=[] i",
    "create --add-host a:b=::1 i",
    "create -l =x i",
    "create --device-read-bps /dev/null i",
    "create --device-read-bps x:1 i",
    "create --device-read-bps /dev/x:abc i",
    "create --device-read-iops /dev/x:1k i",
    "create --blkio-weight-device /dev/x:5 i",
    "create --blkio-weight-device /dev/x:y i",
    "create --device-cgroup-rule c i",
    "create --device /dev/null:/dev/x:zz i",
    "create --device :x i",
    "create --device /a:b i",
    "create --device /a:b:c:d i",
    "create --gpus count=x i",
    "create --gpus x=1 i",
    "create --gpus driver=x,driver=y i",
    "create --health-interval 1 i",
    "create --health-interval 1x i",
    "create --health-interval - i",
    "create --cpus 1.0000000001 i",
    "create --ulimit nofile=1:2:3 i",
    "create --storage-opt x i",
    "create --pid container: i",
    "create --uts private i",
    "create --userns keep-id i",
    "create --cgroupns x i",
    "create -v /a:/b:ro:z i",
    "create -v /a::b i",
    "create --platform a/b/c/d i",
    "create --cidfile /nowhere/file i",
    "run --cidfile /nowhere/file i",
    "create i",
    "run i",
    "network connect --link= a b",
    "network connect --driver-opt f a b",
    "network connect --gw-priority x a b",
    "network create --gateway 10.1.0.1 x",
    "network create --subnet 10.1.0.0/16 --gateway 10.2.0.1 x",
    "network create --subnet 10.1.0.0/16 --gateway 10.1.0.1 --gateway 10.1.0.2 x",
    "network create --subnet 10.1.0.0/16 --subnet 10.1.1.0/24 x",
    "network create --subnet 10.1.0.0/16 --ip-range nonsense x",
    "network create --subnet 10.1.0.0/16 --aux-address a=nonsense x",
    "network create --label =b x",
    'network create --subnet 10.1.0.0/16,"x x',
    "network create a b",
]


@pytest.mark.parametrize("line", REFUSED)
def test_what_docker_refuses_is_refused_in_the_same_words(recorder: Recorder, line: str) -> None:
    words = line.split()
    assert refused(recorder, str(PIER), words) == refused(recorder, docker_client(), words)


def test_an_output_that_is_full_is_said() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([PIER, "run", "--help"], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"no space left on device\n")
