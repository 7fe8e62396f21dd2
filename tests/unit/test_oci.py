"""A Spec as an OCI runtime's configuration: what a container would be, in the specification's words."""

import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pierhead.libcontainer import capabilities, devicefilter, oci, seccomp
from pierhead.libcontainer.seccomp_bpf import Condition, Operator
from pierhead.libcontainer.spec import (
    Device,
    DeviceRule,
    Mount,
    NamespaceKind,
    NamespaceMode,
    Process,
    Resources,
    Rlimit,
    Spec,
)
from pierhead.linux.mount import DirectoryRoot

SHELL = Process(
    ("sh", "-c", "true"),
    ("PATH=/bin", "A=1", "A=2", "none"),
    cwd="/srv",
    capabilities=("CAP_CHOWN", "CAP_KILL"),
    rlimits=(Rlimit("nofile", 1024, -1),),
    no_new_privileges=True,
    oom_score_adj=100,
    terminal=True,
    console_size=(24, 80),
)
FULL = Spec(
    id="abc",
    root=DirectoryRoot("/r"),
    process=SHELL,
    hostname="h",
    domainname="example.org",
    root_readonly=True,
    mounts=(
        Mount("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
        Mount("/dev/shm", "tmpfs", "shm", ("nosuid",), "mode=1777,size=65536k"),
        Mount("/sys/fs/cgroup", "cgroup2", "cgroup", ("ro",)),
        Mount("/data", "bind", "/srv/data", ("ro",), propagation="rslave"),
        Mount("/one", "bind", "/srv/one", ("bind", "ro"), recursive_readonly=False),
    ),
    devices=(Device("/dev/null", "c", 1, 3), Device("/dev/sda", "b", 8, 0, 0o660, 0, 6)),
    masked_paths=("/proc/keys",),
    readonly_paths=("/proc/sys",),
    sysctls=(("net.ipv4.ip_forward", "1"), ("kernel/shm_rmid_forced", "1")),
    cgroup="/pierhead/i/abc",
    resources=Resources(
        memory=1 << 26,
        memory_reservation=1 << 25,
        memory_swap=-1,
        memory_swappiness=0,
        oom_kill_disable=True,
        cpu_shares=512,
        cpu_period=100000,
        cpu_quota=50000,
        cpuset_cpus="0-1",
        cpuset_mems="0",
        pids=100,
        blkio_weight=300,
        devices=(devicefilter.DENY_ALL, DeviceRule(True, "c", 1, None, "rm")),
    ),
    namespaces={NamespaceKind.IPC: NamespaceMode.HOST, NamespaceKind.NETWORK: NamespaceMode.JOIN},
    rootfs_propagation="rslave",
)
JOINED = {NamespaceKind.NETWORK: "/proc/1/ns/net"}


def confined(made: Spec) -> Spec:
    names = capabilities.DEFAULT
    program = seccomp.compile(seccomp.default_profile(), names)
    process = replace(made.process, capabilities=names, seccomp=program, seccomp_profile=seccomp.default_profile())
    return replace(made, process=process)


def test_a_configuration_says_everything_that_a_spec_does() -> None:
    assert oci.config(FULL, JOINED) == {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": True,
            "consoleSize": {"height": 24, "width": 80},
            "user": {"uid": 0, "gid": 0, "umask": 0o022},
            "args": ["sh", "-c", "true"],
            "env": ["PATH=/bin", "A=2"],
            "cwd": "/srv",
            "capabilities": {key: ["CAP_CHOWN", "CAP_KILL"] for key in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": (1 << 64) - 1}],
            "noNewPrivileges": True,
            "oomScoreAdj": 100,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "h",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": ["nosuid", "mode=1777", "size=65536k"],
            },
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
            {"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["rbind", "rro", "rslave"]},
            {"destination": "/one", "type": "bind", "source": "/srv/one", "options": ["bind", "ro", "rprivate"]},
        ],
        "linux": {
            "resources": {
                "devices": [
                    {"allow": False, "type": "a", "access": "rwm"},
                    {"allow": True, "type": "c", "major": 1, "access": "rm"},
                ],
                "memory": {
                    "limit": 1 << 26,
                    "reservation": 1 << 25,
                    "swap": -1,
                    "swappiness": 0,
                    "disableOOMKiller": True,
                },
                "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0-1", "mems": "0"},
                "pids": {"limit": 100},
                "blockIO": {"weight": 300},
            },
            "namespaces": [
                {"type": "mount"},
                {"type": "network", "path": "/proc/1/ns/net"},
                {"type": "uts"},
                {"type": "pid"},
                {"type": "cgroup"},
            ],
            "maskedPaths": ["/proc/keys"],
            "readonlyPaths": ["/proc/sys"],
            "devices": [
                {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 0, "gid": 0},
                {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0, "fileMode": 0o660, "uid": 0, "gid": 6},
            ],
            "cgroupsPath": "/pierhead/i/abc",
            "rootfsPropagation": "slave",
            "sysctl": {
                "net.ipv4.ip_forward": "1",
                "kernel.shm_rmid_forced": "1",
                "kernel.domainname": "example.org",
            },
        },
    }


def test_what_is_not_limited_is_not_spoken_of() -> None:
    assert oci.resources(Resources()) == {"devices": [{"allow": True, "type": "a", "access": "rwm"}]}


def test_the_users_numbers_are_filled_in() -> None:
    made = oci.process(SHELL)
    oci.become(made, 1000, 50, [50, 5])
    assert made["user"] == {"uid": 1000, "gid": 50, "additionalGids": [50, 5], "umask": 0o022}


def test_a_process_without_a_command_is_refused() -> None:
    with pytest.raises(ValueError, match="no command specified"):
        oci.process(Process((), ()))


def test_an_interface_with_a_dot_is_not_taken_for_another() -> None:
    with pytest.raises(ValueError, match=r"eth0\.5"):
        oci.config(replace(FULL, sysctls=(("net/ipv4/conf/eth0.5/rp_filter", "1"),)), JOINED)


def test_a_confined_process_has_dockers_profile_with_the_rules_that_hold_here() -> None:
    rules = oci.config(confined(FULL), JOINED)["linux"]["seccomp"]
    assert rules["defaultAction"] == "SCMP_ACT_ERRNO" and rules["architectures"][0].startswith("SCMP_ARCH_")
    allowed = {name for call in rules["syscalls"] for name in call["names"] if "args" not in call}
    assert {"read", "execve", "ptrace"} <= allowed, "plain calls, and what this kernel makes harmless"
    assert not {"mount", "bpf", "socket"} & allowed
    assert all(set(call) <= {"names", "action", "errnoRet", "args"} for call in rules["syscalls"])
    unconfined = replace(FULL, process=replace(SHELL, seccomp=None))
    assert "seccomp" not in oci.config(unconfined, JOINED)["linux"]
    granted = replace(
        FULL.process, capabilities=("CAP_SYS_ADMIN",), seccomp=b"x", seccomp_profile=seccomp.default_profile()
    )
    rules = oci.config(replace(FULL, process=granted), JOINED)["linux"]["seccomp"]
    assert "mount" in {name for call in rules["syscalls"] for name in call["names"]}


def holds(argument: dict[str, Any], value: int) -> bool:
    """Whether libseccomp's masked comparison is true of an argument's value."""
    assert argument["op"] == "SCMP_CMP_MASKED_EQ"
    return value & int(argument["value"]) == argument["valueTwo"]


@pytest.mark.parametrize("operator", list(Operator))
def test_an_int_is_compared_by_its_low_half_whatever_is_above(operator: Operator) -> None:
    """socket(1 << 32 | AF_ALG) is AF_ALG for the kernel, and more than 40 for a comparison of 64 bits."""
    meant = {
        Operator.NE: lambda value, limit: value != limit,
        Operator.LT: lambda value, limit: value < limit,
        Operator.LE: lambda value, limit: value <= limit,
        Operator.EQ: lambda value, limit: value == limit,
        Operator.GE: lambda value, limit: value >= limit,
        Operator.GT: lambda value, limit: value > limit,
        Operator.MASKED_EQ: lambda value, limit: value & limit == 8,
    }[operator]
    edges = (0, 1, 8, 37, 38, 39, 40, 41, 63, 64, 1 << 31, (1 << 32) - 1)
    for limit in edges:
        alternatives = list(seccomp._arguments(Condition(0, operator, limit, 8, low_half=True)))
        for value in edges:
            said = any(holds(argument, 1 << 32 | value) for argument in alternatives)
            assert said == meant(value, limit), (operator, limit, value)


def test_the_specifications_own_schema_accepts_it(peers: Path, tmp_path: Path) -> None:
    schema = peers / "usr/share/gocode/src/github.com/opencontainers/runtime-spec/schema"
    if not schema.exists():
        pytest.skip("no runtime-spec among the peers: `make peers` unpacks it")
    files = []
    for number, made in enumerate((oci.config(FULL, JOINED), oci.config(confined(FULL), JOINED))):
        for rlimit in made["process"]["rlimits"]:
            rlimit["hard"] = min(rlimit["hard"], 1 << 53)  # the validator's numbers are JavaScript's
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(made))
    validator = ["/usr/bin/python3", "-m", "jsonschema", "--base-uri", f"{schema.as_uri()}/"]
    instances = [word for file in files for word in ("-i", str(file))]
    environment = {"PYTHONPATH": str(peers / "usr/lib/python3/dist-packages"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [*validator, *instances, str(schema / "config-schema.json")], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


@dataclass(frozen=True, slots=True)
class LaterMount(Mount):
    """A mount with something that only later libcontainers know."""

    colour: str = ""


def test_what_an_oci_runtime_has_not_been_taught_is_refused_and_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci, "_SAID", {**oci._SAID, LaterMount: oci._SAID[Mount]})
    later = replace(FULL, mounts=(LaterMount("/x", "bind", "/y", colour="red"),))
    with pytest.raises(ValueError, match="an OCI runtime cannot be told of colour"):
        oci.config(later, JOINED)
    oci.config(replace(FULL, mounts=(LaterMount("/x", "bind", "/y"),)), JOINED)


def test_a_mount_that_is_made_beforehand_is_bound_from_there_and_has_no_place_in_a_bundle() -> None:
    made = replace(FULL, mounts=(Mount("/i", "image", layers=("/l2", "/l1")), Mount("/p", "bind", "/v", subpath="s")))
    config = oci.config(made, JOINED, {"/i": "/b/0", "/p": "/b/1"})
    assert [(mount["source"], mount["options"]) for mount in config["mounts"]] == [
        ("/b/0", ["rbind", "rro", "rprivate"]),
        ("/b/1", ["rbind", "rprivate"]),
    ]
    with pytest.raises(ValueError, match="an OCI bundle has no image, subpath"):
        oci.config(made, JOINED)
