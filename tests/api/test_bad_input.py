"""What a request may not say: refused with Docker's status and words, and nothing is left of it."""

import json
import os
from typing import Any

import pytest

from tests.harness.api import Answer, Api
from tests.harness.engines import Engine
from tests.harness.images import config_of, docker_archive, tar


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


_DISK = [{"Path": "/dev/none", "Rate": 500}]
_CPUS = os.cpu_count() or 1

# In the words of Docker 28. Those of Debian's 20.10 that differ are not compared; what only a start shows there, and is
# refused here before anything is made, is in the second table.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"Memory": -5}, "Minimum memory limit allowed is 6MB"),
    ({"Memory": 6291455}, "Minimum memory limit allowed is 6MB"),
    ({"MemorySwap": 2 << 24}, "You should always set the Memory limit when using Memoryswap limit, see usage"),
    ({"Memory": 2 << 24, "MemorySwap": 1 << 24}, "Minimum memoryswap limit should be larger than memory limit"),
    ({"MemoryReservation": 1000}, "Minimum memory reservation allowed is 6MB"),
    ({"Memory": 1 << 24, "MemoryReservation": 2 << 24}, "can not be less than memory reservation limit, see usage"),
    ({"NanoCpus": 500_000_000, "CpuPeriod": 100_000}, "Nano CPUs and CPU Period cannot both be set"),
    ({"NanoCpus": 500_000_000, "CpuQuota": 100_000}, "Nano CPUs and CPU Quota cannot both be set"),
    ({"NanoCpus": -1}, f"ange of CPUs is from 0.01 to {_CPUS}.00, as there are only {_CPUS} CPUs available"),
    ({"NanoCpus": 10**14}, f"ange of CPUs is from 0.01 to {_CPUS}.00, as there are only {_CPUS} CPUs available"),
    ({"CpuPeriod": 999}, "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"),
    ({"CpuPeriod": 1000001}, "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"),
    ({"CpuQuota": 999}, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
    ({"CpusetCpus": "999"}, f"Requested CPUs are not available - requested 999, available: 0-{_CPUS - 1}"),
    ({"CpusetCpus": "x"}, "Invalid value x for cpuset cpus: invalid format: x"),
    ({"CpusetCpus": "1-0"}, "Invalid value 1-0 for cpuset cpus: invalid format: 1-0"),
    ({"CpusetMems": "a"}, "Invalid value a for cpuset mems: invalid format: a"),
    ({"CpusetMems": "77"}, "Requested memory nodes are not available - requested 77, available: 0"),
    ({"OomScoreAdj": 1001}, "Invalid value 1001, range for oom score adj is [-1000, 1000]"),
    ({"ShmSize": -1}, "SHM size can not be less than 0"),
    ({"CgroupnsMode": "wat"}, "invalid cgroup namespace mode: wat"),
    ({"CapAdd": ["WAT"]}, 'invalid CapAdd: unknown capability: "CAP_WAT"'),
    ({"CapDrop": ["net_wat"]}, 'invalid CapDrop: unknown capability: "CAP_NET_WAT"'),
    ({"IpcMode": "container:none"}, "No such container: none"),
    ({"PidMode": "container:none"}, "No such container: none"),
    ({"RestartPolicy": {"Name": "wat"}}, "invalid restart policy"),
    ({"Healthcheck": {"Interval": 5}}, "Interval in Healthcheck cannot be less than 1ms"),
    ({"Healthcheck": {"Retries": -1}}, "Retries in Healthcheck cannot be negative"),
    ({"Env": ["=x"]}, "invalid environment variable: =x"),
    ({"WorkingDir": "rel"}, "the working directory 'rel' is invalid, it needs to be an absolute path"),
]

REFUSED_SOONER: list[tuple[dict[str, Any], str]] = [
    ({"MemorySwappiness": 101}, "Invalid value: 101, valid memory swappiness range is 0-100"),
    ({"IpcMode": "wat"}, "invalid IPC mode: wat"),
    ({"PidMode": "wat"}, "invalid PID mode: wat"),
    ({"PidMode": "container:"}, "invalid PID mode: container:"),
    ({"UTSMode": "container:x"}, "invalid UTS mode: container:x"),
    ({"UTSMode": "host", "Domainname": "x"}, "conflicting options: domainname and the UTS mode"),
    ({"UsernsMode": "wat"}, "invalid user namespace mode: wat"),
    ({"Isolation": "wat"}, "linux only supports 'default'"),
    ({"Runtime": "wat"}, "unknown or invalid runtime name: wat"),
    ({"StorageOpt": {"size": "1X"}}, "invalid size: '1X'"),
    ({"StorageOpt": {"x": "1"}}, "Unknown option x"),
    ({"CpuShares": -1}, "invalid CPU shares (-1): value must be a positive integer"),
    ({"CpuRealtimePeriod": 5000, "CpuRealtimeRuntime": 9000}, "real-time"),
    ({"IOMaximumIOps": 5}, "QoS maximum IOPs configuration is not supported on linux"),
    ({"IOMaximumBandwidth": 5}, "QoS maximum bandwidth configuration is not supported on linux"),
    ({"BlkioWeight": 5}, "Range of blkio weight is from 10 to 1000"),
    ({"BlkioDeviceReadBps": _DISK}, "stat /dev/none: no such file or directory"),
    ({"BlkioDeviceWriteBps": [{"Path": "/dev/null", "Rate": 5}]}, "/dev/null is not a block device"),
    ({"BlkioDeviceWriteIOps": _DISK}, "stat /dev/none: no such file or directory"),
    ({"SecurityOpt": ["wat"]}, 'invalid --security-opt 1: "wat"'),
    ({"SecurityOpt": ["wat=1"]}, 'invalid --security-opt 2: "wat=1"'),
    ({"SecurityOpt": ["no-new-privileges=wat"]}, 'invalid --security-opt 2: "no-new-privileges=wat"'),
    ({"SecurityOpt": ["seccomp=notjson"]}, "ecoding seccomp profile failed"),
    ({"Sysctls": {"kernel.foo": "1"}}, 'sysctl "kernel.foo" is not in a separate kernel namespace'),
    (
        {"Sysctls": {"net.ipv4.ip_forward": "1"}, "NetworkMode": "host"},
        'sysctl "net.ipv4.ip_forward" not allowed in host network namespace',
    ),
    (
        {"Sysctls": {"kernel.msgmax": "9000"}, "IpcMode": "host"},
        'sysctl "kernel.msgmax" is not allowed in the hosts ipc namespace',
    ),
    ({"Devices": [{"PathOnHost": "/dev/none"}]}, 'adding custom device "/dev/none": no such file or directory'),
    ({"Devices": [{"PathOnHost": "/etc/passwd"}]}, 'adding custom device "/etc/passwd": not a device node'),
    ({"DeviceCgroupRules": ["wat"]}, "invalid device cgroup rule format: 'wat'"),
    ({"Ulimits": [{"Name": "wat", "Soft": 1, "Hard": 1}]}, "invalid ulimit type: wat"),
    ({"Ulimits": [{"Name": "nofile", "Soft": 2, "Hard": 1}]}, "soft limit must be less than or equal to hard limit"),
    ({"Annotations": {"": "x"}}, "invalid Annotations: the empty string is not permitted as an annotation key"),
    ({"CgroupParent": "/../x"}, "invalid cgroup parent"),
    (
        {"DeviceRequests": [{"Count": -1, "Capabilities": [["gpu", "utility"]]}]},
        'could not select device driver "" with capabilities: [[gpu utility]]',
    ),
    (
        {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["v.com/c=x"]}]},
        "CDI device injection failed: unresolvable CDI devices v.com/c=x",
    ),
    ({"StopSignal": "WAT"}, "invalid signal: WAT"),
    ({"StopSignal": "SIGRTMIN+31"}, "invalid signal: SIGRTMIN+31"),
    ({"StopSignal": "RTMAX-31"}, "invalid signal: RTMAX-31"),
]

OF_CONFIG = {"Domainname", "Healthcheck", "Env", "WorkingDir", "StopSignal"}


def refused(api: Api, asked: dict[str, Any]) -> Answer:
    """The answer to a create request of which nothing may be left."""
    body = {name: value for name, value in asked.items() if name in OF_CONFIG}
    host = {name: value for name, value in asked.items() if name not in OF_CONFIG}
    return api.send("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], **body, "HostConfig": host})


def test_a_container_that_cannot_be_is_not_made(api: Api) -> None:
    for asked, words in REFUSED:
        answer = refused(api, asked)
        assert answer.status == 400 and words in answer.message, (asked, answer)
    assert api.get("/containers/json", all=1) == []


@pytest.mark.only_pierhead("Debian's dockerd finds these out when it starts the container, or in other words")
def test_what_could_not_start_is_not_made(api: Api) -> None:
    for asked, words in REFUSED_SOONER:
        answer = refused(api, asked)
        expected = 500 if "seccomp" in words or "DeviceRequests" in asked else 400  # as at Docker's start
        assert answer.status == expected and words in answer.message, (asked, answer)
    assert api.get("/containers/json", all=1) == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"User": "nobodyknows"}, "nable to find user nobodyknows: no matching entries in passwd file"),
        ({"User": "0:nosuch"}, "nable to find group nosuch: no matching entries in group file"),
        ({"User": "99999999999"}, "ids and gids must be in range 0-2147483647"),
        ({"HostConfig": {"GroupAdd": ["nosuch"]}}, "nable to find group nosuch: no matching entries in group file"),
    ],
)
def test_a_user_or_group_that_the_image_has_not_is_named_at_the_start(
    api: Api, asked: dict[str, Any], words: str
) -> None:
    refused = api.send("POST", f"/containers/{api.create('true', **asked)}/start")
    assert refused.status == 500 and refused.message[1:] == words


def test_a_setting_that_the_kernel_has_not_is_named_by_its_file(api: Api) -> None:
    made = api.create("true", HostConfig={"Sysctls": {"net.ipv4.nosuch": "1"}})
    answer = api.send("POST", f"/containers/{made}/start")
    assert answer.status >= 400
    assert "open /proc/sys/net/ipv4/nosuch: no such file or directory" in answer.message
    api.ok("DELETE", f"/containers/{made}")


@pytest.mark.parametrize(
    ("platform", "status", "words"),
    [
        (
            "linux/s390x",
            404,
            "was found but does not match the specified platform: wanted linux/s390x",
        ),
        ("windows/amd64", 404, "was found but does not match the specified platform: wanted windows/amd64"),
        ("zz", 400, "unknown operating system or architecture"),
    ],
)
def test_an_image_of_another_platform_is_not_taken_for_the_one_asked_for(
    api: Api, platform: str, status: int, words: str
) -> None:
    refused = api.send("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"]}, platform=platform)
    assert refused.status == status and words in refused.message
    assert api.get("/containers/json", all=1) == []


def test_an_image_of_another_platform_that_nobody_asked_for_is_warned_of(api: Api) -> None:
    layers = [tar({"bin/prog": "not of this machine"})]
    archive = docker_archive(layers, ["foreign:one"], config_of(layers, ["/bin/prog"], "s390x"))
    api.ok("POST", "/images/load", raw=archive, content_type="application/x-tar")
    made = api.ok("POST", "/containers/create", {"Image": "foreign:one"}).json
    assert any("linux/s390x) does not match the detected host platform" in warning for warning in made["Warnings"])
    asked = api.ok("POST", "/containers/create", {"Image": "foreign:one"}, platform="linux/s390x").json
    assert not asked["Warnings"]
    for id in (made["Id"], asked["Id"]):
        started = api.send("POST", f"/containers/{id}/start")
        if started.status == 204:  # runc finds out too late for an answer
            assert api.wait(id) != 0
            said = api.logs(id).decode(errors="replace")
        else:
            said = started.message
        assert "exec format error" in said
        api.ok("DELETE", f"/containers/{id}")
    api.ok("DELETE", "/images/foreign:one")


def test_an_import_for_another_system_is_refused(api: Api) -> None:
    images = len(api.get("/images/json"))
    path = "/images/create?fromSrc=-&repo=other&platform=windows"
    refused = api.send("POST", path, raw=tar({"a": "b"}), content_type="application/x-tar")
    assert refused.status == 400 and "is not supported" in refused.message
    assert len(api.get("/images/json")) == images


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"RestartPolicy": {"Name": "wat"}}, "invalid restart policy"),
        ({"Memory": -1}, "Minimum memory limit allowed is 6MB"),
        ({"CpuPeriod": 1}, "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"),
        ({"NanoCpus": 10**14}, "ange of CPUs is from 0.01 to"),
        ({"CpusetCpus": "999"}, "Requested CPUs are not available"),
    ],
)
def test_an_update_that_cannot_be_changes_nothing(api: Api, body: dict[str, Any], words: str) -> None:
    id = api.run("sleep", "1000", HostConfig={"RestartPolicy": {"Name": "on-failure"}, "Memory": 50_000_000})
    before = api.inspect(id)["HostConfig"]
    refused = api.send("POST", f"/containers/{id}/update", body)
    assert refused.status == 400 and words in refused.message
    assert api.inspect(id)["HostConfig"] == before


def test_filters_on_what_no_container_has_find_none(api: Api) -> None:
    api.run("sleep", "1000")
    for filters, count in ({"health": ["healthy"]}, 0), ({"health": ["none"]}, 1), ({"is-task": ["true"]}, 0):
        assert len(api.get("/containers/json", filters=json.dumps(filters))) == count, filters
    refused = api.send("GET", "/containers/json", filters=json.dumps({"health": ["wat"]}))
    assert refused.status == 400 and "filter value for health: wat" in refused.message
