"""Every field of a create request and of an exec's does what it says, is refused, or is said to be without effect.

The tables below name each field of the API's specification once (``test_wire_schema`` holds the types against it): a
field that is added there and nowhere here fails the first test.
"""

import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pierhead.wire.containers import (
    BindOptions,
    ContainerConfig,
    HostConfig,
    ImageOptions,
    Mount,
    MountDriver,
    Resources,
    TmpfsOptions,
    VolumeOptions,
)
from pierhead.wire.execs import ExecConfig, ExecStartConfig
from tests.api.test_limits import disk
from tests.harness.api import Api, demultiplex
from tests.harness.engines import Engine
from tests.harness.processes import wait_until

UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()
HERE = Path(__file__).resolve().parent


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


# One container that was asked for all of this prints what it has of it.

SAID = r"""
say() { printf '%s=%s\n' "$1" "$2"; }
limit() { awk -v name="$1" 'index($0, name) == 1 {print $(NF - 2), $(NF - 1)}' /proc/self/limits; }
mounted() { awk -v at="$1" '$2 == at {print $3 " " $4}' /proc/mounts | tail -n 1; }
group() { cat "/sys/fs/cgroup/$1" 2>/dev/null || cat "/sys/fs/cgroup/$2" 2>/dev/null; }
say Hostname "$(hostname)"
say Domainname "$(cat /proc/sys/kernel/domainname)"
say User "$(id -u):$(id -g)"
say GroupAdd "$(id -G)"
say Env "$GIVEN"
say Entrypoint "$0"
say Cmd "$*"
say WorkingDir "$(pwd)"
say Tty "$(test -t 2 && echo terminal)"
say OpenStdin "$(readlink /proc/self/fd/0)"
say Volumes "$(mounted /volume | cut -d' ' -f1)"
say Binds "$(mounted /bind)"
say Mounts "$(mounted /mount)"
say Tmpfs "$(mounted /tmpfs)"
say ShmSize "$(mounted /dev/shm)"
say ReadonlyRootfs "$(mounted /) and $(mounted /etc/hosts)"
say CapAdd "$(awk '/CapBnd/ {print $2}' /proc/self/status)"
say CapDrop "$(awk '/CapBnd/ {print $2}' /proc/self/status)"
say SecurityOpt "$(awk '/NoNewPrivs/ {print $2}' /proc/self/status) $(chroot / true 2>&1)"
say OomScoreAdj "$(cat /proc/self/oom_score_adj)"
say Sysctls "$(cat /proc/sys/kernel/msgmax)"
say Ulimits "$(limit 'Max open files')"
say Init "$(tr '\0' ' ' </proc/1/cmdline)"
say Devices "$(test -c /dev/other && echo there)"
say MaskedPaths "$(cat /proc/uptime)"
say ReadonlyPaths "$(mounted /proc/tty)"
say ExtraHosts "$(grep -c '192.0.2.7.more' /etc/hosts)"
say Dns "$(cat /etc/resolv.conf)"
say DnsOptions "$(cat /etc/resolv.conf)"
say DnsSearch "$(cat /etc/resolv.conf)"
say MacAddress "$(cat /sys/class/net/eth0/address)"
say ConsoleSize "$(stty size 2>/dev/null)"
say PidsLimit "$(group pids/pids.max pids.max)"
say CpusetMems "$(group cpuset/cpuset.mems cpuset.mems)"
say BlkioWeight "$(group blkio/blkio.bfq.weight io.bfq.weight || group blkio/blkio.weight io.weight)"
say MemorySwappiness "$(group memory/memory.swappiness -)"
say OomKillDisable "$(group memory/memory.oom_control - | head -n 1)"
say KernelMemoryTCP "$(group memory/memory.kmem.tcp.limit_in_bytes -)"
say end
"""

CONFIG: dict[str, tuple[Any, str]] = {
    "Hostname": ("given-name", "given-name"),
    "Domainname": ("example.test", "example.test"),
    "User": ("1000:50", "1000:50"),
    "Env": (["GIVEN=value"], "value"),
    "Entrypoint": (["sh", "-c", SAID, "from-entrypoint"], "from-entrypoint"),
    "Cmd": (["one", "two"], "one two"),
    "WorkingDir": ("/tmp", "/tmp"),
    "Tty": (True, "terminal"),
    "OpenStdin": (True, r"/dev/pts/0|/dev/console"),
    "Volumes": ({"/volume": {}}, r"\S+"),
    "MacAddress": ("02:42:ac:11:00:77", "02:42:ac:11:00:77"),
}
"""Field of Config: what is asked for, and a pattern of what is seen inside."""

KEPT = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE")

PROFILE = """{"defaultAction": "SCMP_ACT_ALLOW",
 "syscalls": [{"names": ["chroot"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}]}"""
"""What `--security-opt seccomp=FILE` sends."""

HOST: dict[str, tuple[Any, str]] = {
    "GroupAdd": (["7", "8"], "50 7 8"),
    "Binds": (["/etc:/bind:ro"], r"\S+ ro,.*"),
    "Mounts": (
        [{"Type": "tmpfs", "Target": "/mount", "TmpfsOptions": {"SizeBytes": 1 << 20}}],
        r"tmpfs .*size=1024k.*",
    ),
    "Tmpfs": ({"/tmpfs": "size=2m"}, r"tmpfs .*size=2048k.*"),
    "ShmSize": (3 << 20, r"tmpfs .*size=3072k.*"),
    "ReadonlyRootfs": (True, r"overlay ro,.* and \S+ ro,.*"),
    "CapAdd": (["sys_time", *KEPT], "000000000200042b"),
    "CapDrop": (["ALL"], "000000000200042b"),
    "SecurityOpt": (["no-new-privileges", f"seccomp={PROFILE}"], "1 .*Cannot assign requested address"),
    "OomScoreAdj": (321, "321"),
    "Sysctls": ({"kernel.msgmax": "9999"}, "9999"),
    "Ulimits": ([{"Name": "nofile", "Soft": 111, "Hard": 222}], "111 222"),
    "Devices": ([{"PathOnHost": "/dev/zero", "PathInContainer": "/dev/other", "CgroupPermissions": "r"}], "there"),
    "MaskedPaths": (["/proc/uptime"], ""),
    "ReadonlyPaths": (["/proc/tty"], r"proc ro,.*"),
    "ExtraHosts": (["more:192.0.2.7"], "1"),
    "Dns": (["192.0.2.8"], r"(?s).*nameserver 192.0.2.8.*"),
    "DnsOptions": (["ndots:3"], r"(?s).*options ndots:3.*"),
    "DnsSearch": (["found.test"], r"(?s).*search found.test.*"),
    "ConsoleSize": ([33, 77], "33 77"),
    "PidsLimit": (55, "55"),
    "CpusetMems": ("0", "0"),
    "BlkioWeight": (300, r"300|default 300|"),  # the kernel may have none: then create has said so
    "MemorySwappiness": (20, "" if UNIFIED else "20"),
    "OomKillDisable": (True, "" if UNIFIED else "oom_kill_disable 1"),
    "KernelMemoryTCP": (50 << 20, "" if UNIFIED else str(50 << 20)),
}
"""Field of HostConfig: the same."""

NOT_IN_20 = {"ConsoleSize", "BlkioWeight", "KernelMemoryTCP"}
"""What Debian's 20.10 takes and does not do (a size: of the API's 1.42; weights of bfq)."""

BY_OTHERS = {
    "CgroupParent": "test_a_container_can_be_put_into_a_cgroup_of_the_users",
    "CgroupnsMode": "test_a_container_sees_its_own_control_group_and_cannot_change_it",
    "CpuPeriod": "test_swap_can_be_unlimited_and_a_period_given",
    "CpuQuota": "test_swap_can_be_unlimited_and_a_period_given",
    "CpuShares": "test_every_limit_reaches_the_kernel_and_what_an_update_does_not_name_stays",
    "CpusetCpus": "test_every_limit_reaches_the_kernel_and_what_an_update_does_not_name_stays",
    "DeviceCgroupRules": "test_only_the_devices_it_was_given_can_be_opened",
    "Memory": "test_every_limit_reaches_the_kernel_and_what_an_update_does_not_name_stays",
    "MemoryReservation": "test_every_limit_reaches_the_kernel_and_what_an_update_does_not_name_stays",
    "MemorySwap": "test_swap_can_be_unlimited_and_a_period_given",
    "NanoCpus": "test_every_limit_reaches_the_kernel_and_what_an_update_does_not_name_stays",
    "BlkioDeviceReadBps": "test_block_devices_are_limited_each_by_its_own_rate",
    "BlkioDeviceReadIOps": "test_block_devices_are_limited_each_by_its_own_rate",
    "BlkioDeviceWriteBps": "test_block_devices_are_limited_each_by_its_own_rate",
    "BlkioDeviceWriteIOps": "test_block_devices_are_limited_each_by_its_own_rate",
    "StorageOpt": "test_a_containers_own_layer_takes_no_more_than_its_limit_or_the_limit_is_refused",
    "Healthcheck": "test_a_check_is_run_as_asked_and_its_result_told",
    "Labels": "test_lists_are_filtered_and_limited",
    "StdinOnce": "test_half_closed_stdin_ends_the_program_and_its_answer_still_comes",
    "StopSignal": "test_stop_uses_the_containers_own_signal",
    "RestartPolicy": "test_restart_policies_restart_what_they_should",
    "AutoRemove": "test_auto_removed_containers_vanish",
    "ExposedPorts": "test_what_is_only_exposed_is_shown_as_such",
    "PortBindings": "test_a_port_is_published_where_it_was_asked_for",
    "PublishAllPorts": "test_publish_all_takes_what_is_exposed_and_has_no_port_yet",
    "NetworkMode": "test_the_hosts_network_is_the_hosts_in_every_respect",
    "Links": "test_a_linked_container_is_known_by_alias_hostname_and_name",
    "VolumesFrom": "test_volumes_from_another_container",
    "VolumeDriver": "test_a_volume_of_a_driver_that_is_not_there_is_refused_however_it_is_asked_for",
    "IpcMode": "test_containers_that_share_their_ipc_namespace_share_the_memory_too",
    "PidMode": "test_a_container_in_the_same_pid_namespace_sees_nothing_of_another_ones_start",
    "UsernsMode": "test_a_container_in_the_hosts_user_namespace_is_as_without_remapping",
    "Privileged": "test_no_way_into_a_container_gives_more_or_less_than_it_did",
    "Runtime": "test_a_container_of_the_runtime_lives_like_any_other",
    "Annotations": "test_runc_runs_what_a_container_was_with_what_it_had_changed",
    "Image": "test_a_containers_life_is_told_by_inspect",
}
"""Field: the test of another file in which a container has it."""

REFUSED: dict[str, tuple[Any, str]] = {
    "Cgroup": ("container:x", "invalid cgroup: container:x: a container has its own, below CgroupParent"),
    "DeviceRequests": ([{"Capabilities": [["gpu"]]}], 'could not select device driver "" with capabilities: [[gpu]]'),
    "IOMaximumBandwidth": (5, "QoS maximum bandwidth configuration is not supported on linux"),
    "IOMaximumIOps": (5, "QoS maximum IOPs configuration is not supported on linux"),
    "Isolation": ("hyperv", "linux only supports 'default'"),
}
"""Field of HostConfig that nothing here can honour, or not with such a value."""

DISCARDED: dict[str, tuple[Any, str]] = {
    "CpuCount": (2, "linux does not support CPU count. Count discarded."),
    "CpuPercent": (20, "linux does not support CPU percent. Percent discarded."),
    "KernelMemory": (50 << 20, "kernel memory"),
}
"""The same, taken out with a warning."""

SHOWN: dict[str, Any] = {
    "AttachStdin": True,
    "AttachStdout": True,
    "AttachStderr": True,
    "ArgsEscaped": True,
    "OnBuild": ["RUN true"],
    "ContainerIDFile": "/tmp/cid",
}
"""What is a client's, a builder's or Windows': kept and shown, as Docker does."""

OWN = {
    "BlkioWeightDevice", "CpuRealtimePeriod", "CpuRealtimeRuntime", "Init", "LogConfig", "NetworkDisabled", "Shell",
    "StopTimeout", "UTSMode",
}  # fmt: skip
"""Tested below."""


def fields(*types: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for kind in types for field in msgspec.structs.fields(kind)}


def test_no_field_of_a_create_request_has_been_forgotten() -> None:
    tables: list[set[str]] = [set(table) for table in (CONFIG, HOST, BY_OTHERS, REFUSED, DISCARDED, SHOWN)] + [OWN]
    assert set().union(*tables) == fields(ContainerConfig, HostConfig, Resources)
    assert sum(map(len, tables)) == len(set().union(*tables)), "a field is in two tables"
    texts = "".join(path.read_text() for path in HERE.glob("test_*.py"))
    for field, test in BY_OTHERS.items():
        assert f"\ndef {test}(" in texts, f"{field}: no {test}"


OF_MOUNTS: dict[type[msgspec.Struct], str] = {
    Mount: "Type Source Target ReadOnly Consistency BindOptions VolumeOptions ImageOptions TmpfsOptions ClusterOptions",
    BindOptions: "Propagation NonRecursive CreateMountpoint ReadOnlyNonRecursive ReadOnlyForceRecursive",
    VolumeOptions: "NoCopy Labels Subpath DriverConfig",
    MountDriver: "Name Options",
    ImageOptions: "Subpath",
    TmpfsOptions: "SizeBytes Mode Options",
}
"""Tested in test_mounts, but for Consistency: that is for clients whose host is another one."""


def test_no_field_of_a_mount_has_been_forgotten() -> None:
    for kind, names in OF_MOUNTS.items():
        assert fields(kind) == set(names.split())


def test_what_a_create_request_says_is_what_the_container_has(engine: Engine, api: Api) -> None:
    config = {name: value for name, (value, _) in CONFIG.items()}
    host = {name: value for name, (value, _) in HOST.items()} | {"Init": True, "Memory": 64 << 20}
    made = api.ok("POST", "/containers/create", {"Image": "busybox", **config, "HostConfig": host}).json
    id = made["Id"]
    api.ok("POST", f"/containers/{id}/start")
    assert api.wait(id) == 0
    text = api.logs(id).decode().replace("\r\n", "\n")
    parts = re.split(r"(?m)^([A-Za-z]+)=", text)[1:]
    found = {name: value.strip() for name, value in zip(parts[::2], parts[1::2], strict=True)}
    assert "end" in found, text
    wrong = {
        name: (found.get(name), pattern)
        for name, (_, pattern) in (CONFIG | HOST).items()
        if engine.kind == "pierd" or name not in NOT_IN_20
        if not re.fullmatch(pattern, found.get(name, "not said"))
    }
    assert not wrong
    assert found["Init"].startswith("/sbin/docker-init -- sh -c")
    without = any("Block I/O weight or" in warning for warning in made["Warnings"])
    assert without == ("300" not in found["BlkioWeight"]), "a weight is set, or its want is said"


@pytest.mark.needs_docker28("takes a group to be in, and CPUs to count, without a word")
def test_what_nothing_here_can_do_is_refused_or_said_to_be_discarded(api: Api) -> None:
    for name, (value, words) in REFUSED.items():
        body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {name: value}}
        answer = api.send("POST", "/containers/create", body)
        assert answer.status in (400, 500) and words in answer.message, name
    asked = {name: value for name, (value, _) in DISCARDED.items()}
    made = api.ok("POST", "/containers/create", {"Image": "busybox", **SHOWN, "HostConfig": asked | SHOWN}).json
    for name, (_, words) in DISCARDED.items():
        assert any(words in warning for warning in made["Warnings"]), name
    shown = api.inspect(made["Id"])
    for name, value in SHOWN.items():
        assert shown["HostConfig" if name in fields(HostConfig) else "Config"][name] == value


def test_a_limit_that_the_kernel_takes_is_set_and_one_that_it_refuses_ends_the_start(api: Api) -> None:
    path, major, minor = disk()
    cases: tuple[tuple[dict[str, Any], str, str], ...] = (
        ({"BlkioWeightDevice": [{"Path": path, "Weight": 300}]}, "weight", f"{major}:{minor} 300"),
        ({"CpuRealtimePeriod": 900_000}, "cpu.rt_period_us", "900000"),
        ({"CpuRealtimePeriod": 900_000, "CpuRealtimeRuntime": 400_000}, "cpu.rt_runtime_us", "400000"),
    )
    for asked, file, value in cases:
        show = f"cat /sys/fs/cgroup/*/*{file}* /sys/fs/cgroup/*{file}*"
        request = {"Image": "busybox", "Cmd": ["sh", "-c", show], "HostConfig": asked}
        made = api.send("POST", "/containers/create", request)
        if made.status == 201 and not re.search("eight-device discarded|no effect", str(made.json["Warnings"])):
            id = made.json["Id"]
            started = api.send("POST", f"/containers/{id}/start")
            if started.status == 204:
                api.wait(id)
                assert value in api.logs(id).decode(), asked
            else:
                assert file in started.message, "the file that it could not be written to"
        elif made.status != 201:
            assert "kernel does not support CPU real-time scheduler" in made.message


@pytest.mark.only_pierhead("Docker's patterns are safe with any text")
def test_what_a_log_option_cannot_have_is_refused_before_it_costs_anything(api: Api) -> None:
    for option, value, words in (
        ("env-regex", "(a+)+$", "log opt 'env-regex' is not supported: name them with 'env'"),
        ("max-size", "9" * 5000, "invalid value for max-size"),
        ("max-file", "9" * 5000, "invalid value for max-file"),
    ):
        config = {"LogConfig": {"Type": "json-file", "Config": {option: value}}}
        refused = api.send("POST", "/containers/create", {"Image": "busybox", "HostConfig": config})
        assert refused.status == 400 and words in refused.message


TOLD = {"labels": "tier,missing", "env": "A", "tag": "{{.Name}}/{{.ImageName}}/{{.ID}}"}


def test_the_fields_that_no_other_test_asks_for(api: Api) -> None:
    asked = {
        "mute": {"HostConfig": {"LogConfig": {"Type": "none"}, "UTSMode": "host"}, "Cmd": ["hostname"]},
        "short": {"HostConfig": {"LogConfig": {"Type": "json-file", "Config": {"max-size": "1k"}}}},
        "told": {
            "HostConfig": {"LogConfig": {"Config": TOLD}},
            "Labels": {"tier": "a b", "x": ""},
            "Env": ["A=1", "BA=2"],
        },
        "local": {"HostConfig": {"LogConfig": {"Type": "local", "Config": {"max-size": "1k", "compress": "true"}}}},
        "alone": {"NetworkDisabled": True, "Cmd": ["ls", "/sys/class/net"]},
        "host": {"HostConfig": {"UTSMode": "host", "PidMode": "host", "IpcMode": "host"}},
    }
    asked["short"]["Cmd"] = ["sh", "-c", "for i in $(seq 200); do echo line $i; done"]
    shown = "hostname; for kind in pid ipc; do readlink /proc/self/ns/$kind; done; ls -d /dev/mqueue"
    asked["told"]["Cmd"] = asked["local"]["Cmd"] = ["echo", "hi"]
    asked["host"]["Cmd"] = ["sh", "-c", shown]
    ids = {name: api.run(image="busybox", **request) for name, request in asked.items()}
    for id in ids.values():
        assert api.wait(id) == 0
    refused = api.send("GET", f"/containers/{ids['mute']}/logs", stdout=1)
    # Compose goes by the status: with another one its logs and its up end here.
    assert refused.status == 501 and "configured logging driver does not support reading" in refused.message
    details = api.ok("GET", f"/containers/{ids['told']}/logs", stdout=1, details=1).body
    name = api.inspect(ids["told"])["Name"].strip("/")
    assert demultiplex(details)[0].decode() == f"A=1,tag={name}%2Fbusybox%2F{ids['told'][:12]},tier=a+b hi\n"
    assert demultiplex(api.logs(ids["local"]))[0] == b"hi\n" and api.inspect(ids["local"])["LogPath"] == ""
    labels = {"Image": "busybox", "HostConfig": {"LogConfig": {"Type": "local", "Config": {"labels": "x"}}}}
    assert "unknown log opt 'labels' for log driver local" in api.send("POST", "/containers/create", labels).message
    assert len(api.logs(ids["short"])) < 200 * len("line 100\n"), "no more than the last kilobyte"
    assert demultiplex(api.logs(ids["alone"]))[0] == b"lo\n"
    theirs = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "ipc")]
    assert demultiplex(api.logs(ids["host"]))[0].decode().split() == [api.get("/info")["Name"], *theirs, "/dev/mqueue"]

    check = {"Test": ["CMD-SHELL", "any thing"], "Interval": 200_000_000, "Retries": 1}
    deaf = "trap 'sleep 8; exit 7' TERM; echo ready; while true; do sleep 0.1; done"
    id = api.run(
        "sh", "-c", deaf, StopTimeout=1, Shell=["sh", "-c", "echo said by $0; exit 1"], Healthcheck=check
    )  # fmt: skip
    wait_until(lambda: api.inspect(id)["State"]["Health"]["Log"], "its health check")
    assert api.inspect(id)["State"]["Health"]["Log"][0]["Output"] == "said by any thing\n"
    api.ok("POST", f"/containers/{id}/stop")
    assert api.inspect(id)["State"]["ExitCode"] == 137, "a second for its end, not ten"


def test_a_folder_of_devices_gives_all_that_are_below_it(api: Api, tmp_path: Path) -> None:
    for name in ("one", "sub/folder/two"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(tmp_path / name, 0o020666, os.makedev(1, 5))
    (tmp_path / "link").symlink_to("one")
    device = {"PathOnHost": str(tmp_path), "PathInContainer": "/dev/many", "CgroupPermissions": "r"}
    found = api.output("find", "/dev/many", "!", "-type", "d", HostConfig={"Devices": [device]})
    assert sorted(found.split()) == ["/dev/many/one", "/dev/many/sub/folder/two"]


# An exec

EXEC = {
    "AttachStderr", "AttachStdin", "AttachStdout", "Cmd", "ConsoleSize", "DetachKeys", "Env", "Privileged", "Tty",
    "User", "WorkingDir",
}  # fmt: skip
"""Privileged: see test_golden_dump."""
EXEC_START = {"Detach", "Tty", "ConsoleSize"}


def test_no_field_of_an_exec_has_been_forgotten() -> None:
    assert fields(ExecConfig) == EXEC | {"Detach"}, "Detach there is a client's: the start has its own"
    assert fields(ExecStartConfig) == EXEC_START


def prepared(api: Api, id: str, *command: str, **config: Any) -> str:
    return str(api.ok("POST", f"/containers/{id}/exec", {"Cmd": list(command), **config}).json["Id"])


def test_an_exec_is_what_it_was_asked_to_be(api: Api) -> None:
    id = api.run("sleep", "1000", User="1000:50", WorkingDir="/tmp", Env=["KEPT=1", "GIVEN=no"])
    script = "id -u; id -g; pwd; echo $KEPT $GIVEN $TERM; grep CapEff /proc/self/status; echo err >&2"

    def said(start: dict[str, Any] | None = None, **config: Any) -> bytes:
        exec_ = prepared(api, id, "sh", "-c", script, **config)
        return api.ok("POST", f"/exec/{exec_}/start", {"Detach": False} | (start or {})).body

    both = {"AttachStdout": True, "AttachStderr": True}
    plain = demultiplex(said(**both))
    assert plain == (b"1000\n50\n/tmp\n1 no\nCapEff:\t0000000000000000\n", b"err\n")
    own = demultiplex(said(User="0:0", WorkingDir="/var", Env=["GIVEN=yes"], **both))[0]
    assert own == b"0\n0\n/var\n1 yes\nCapEff:\t00000000a80425fb\n"
    # Each stream alone, and none.
    assert demultiplex(said(AttachStdout=True)) == (plain[0], b"")
    assert demultiplex(said(AttachStderr=True)) == (b"", b"err\n")
    assert said() == b""
    # A terminal is the process's own affair; whether its output is framed is said by whoever listens.
    terminal = plain[0].replace(b"1 no\n", b"1 no xterm\n").replace(b"\n", b"\r\n") + b"err\r\n"
    assert said({"Tty": True}, Tty=True, **both) == terminal
    assert demultiplex(said({"Tty": False}, Tty=True, **both)) == (terminal, b"")
    assert said({"Tty": True}, **both) == plain[0]
    assert said({"Detach": True}, **both) == b""


@pytest.mark.needs_docker28("knows no size at the start")
def test_an_execs_terminal_has_the_size_that_either_request_says(api: Api) -> None:
    current = Api(api.path, "v1.50")
    id = api.run("sleep", "1000")
    for asked, at_start in (([11, 22], None), (None, [12, 23]), ([11, 22], [12, 23])):
        exec_ = prepared(current, id, "stty", "size", AttachStdout=True, Tty=True, ConsoleSize=asked)
        body = {"Detach": False, "Tty": True, "ConsoleSize": at_start}
        rows, columns = at_start or asked or (0, 0)
        assert current.ok("POST", f"/exec/{exec_}/start", body).body == f"{rows} {columns}\r\n".encode()


@pytest.mark.needs_docker28("ends an exec that is left")
def test_an_exec_is_left_by_its_own_keys_and_goes_on(api: Api) -> None:
    id = api.run("sleep", "1000")
    script = "echo ready; read line; echo got $line >/tmp/got; sleep 1000"
    exec_ = prepared(api, id, "sh", "-c", script, AttachStdin=True, AttachStdout=True, Tty=True, DetachKeys="ctrl-x,y")
    stream = api.hijack(f"/exec/{exec_}/start", {"Detach": False, "Tty": True})
    with stream.socket:
        stream.read_until(b"ready")
        stream.socket.sendall(b"word\n")
        wait_until(lambda: "/tmp/got" in str(api.get(f"/containers/{id}/changes")), "the line")
        stream.socket.sendall(b"\x18")
        stream.socket.sendall(b"y")
        while stream.socket.recv(4096):
            pass
    assert api.get(f"/exec/{exec_}/json")["Running"]
    assert demultiplex(
        api.ok(
            "POST", f"/exec/{prepared(api, id, 'cat', '/tmp/got', AttachStdout=True)}/start", {"Detach": False}
        ).body
    )[0] == b"got word\n"  # fmt: skip
    refused = api.send("POST", f"/containers/{id}/exec", {"Cmd": ["true"], "DetachKeys": "wat"})
    assert refused.status in (400, 500) and "keys (wat) provided" in refused.message


@pytest.mark.only_pierhead("Docker says these where the output would be, when the exec is started")
def test_an_exec_that_cannot_be_is_not_made(api: Api) -> None:
    id = api.run("sleep", "1000")
    for config, words in (
        ({"WorkingDir": "tmp"}, "Cwd must be an absolute path"),
        ({"Env": ["=x"]}, "invalid environment variable: =x"),
        ({"Env": ["a=b\0c"]}, "invalid environment variable: it holds a NUL byte"),
    ):
        answer = api.send("POST", f"/containers/{id}/exec", {"Cmd": ["true"], **config})
        assert (answer.status, answer.message) == (400, words)
    assert api.inspect(id)["ExecIDs"] is None
