"""A Spec as a list of operations: what would be done, seen without doing it."""

import json
import marshal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pierhead.libcontainer import container, plan, spec
from pierhead.libcontainer.cgroups import Plan
from pierhead.libcontainer.spec import (
    Device,
    Mount,
    NamespaceKind,
    NamespaceMode,
    NetworkSetup,
    Process,
    Resources,
    Rlimit,
    Spec,
)
from pierhead.linux import const
from pierhead.linux.mount import DirectoryRoot, OverlayRoot

BASE = Spec(
    id="abc",
    root=OverlayRoot(("/l2", "/l1"), "/u", "/w"),
    process=Process(("sh",), ("PATH=/bin",), capabilities=("CAP_CHOWN", "CAP_KILL")),
    mounts=(
        Mount("/proc", "proc", "proc", ("nosuid",)),
        Mount("/data", "bind", "/srv/data", ("rbind", "ro"), propagation="rslave"),
        Mount("/one", "bind", "/srv/one", ("bind",)),
    ),
    devices=(Device("/dev/null", "c", 1, 3),),
    masked_paths=("/proc/keys",),
    readonly_paths=("/proc/sys",),
    hostname="h",
)


def operations(made: Spec, cgroup: Plan | None = None) -> list[tuple[object, ...]]:
    return list(marshal.loads(plan.compile_start(made, cgroup))["operations"])


def names(made: Spec) -> list[object]:
    return [operation[0] for operation in operations(made)]


def test_a_plan_is_described_line_by_line() -> None:
    lines = plan.describe(plan.compile_start(BASE))
    assert "clone mnt+net+uts+ipc+pid" in lines
    assert "overlay_root (/l2, /l1) /u /w" in lines
    assert "mask /proc/keys" in lines


def test_what_must_come_before_what_does() -> None:
    order = names(replace(BASE, root_readonly=True, network=NetworkSetup(host=(b"m" * 16,), inside=(b"i" * 16,))))

    def before(*wanted: str) -> None:
        places = [order.index(name) for name in wanted]
        assert places == sorted(places), wanted

    before("keyring", "source", "slave", "overlay_root", "mount", "device", "pivot", "readonly_root")
    before("overlay_root", "await_network", "route", "pivot")
    before("readonly", "pivot", "user", "close", "cwd", "identity", "exec")
    assert order[-1] == "exec"


def test_sources_of_binds_are_taken_before_propagation_is_cut() -> None:
    made = operations(BASE)
    assert [one[1:] for one in made if one[0] == "source"] == [(1, "/srv/data", True, ""), (2, "/srv/one", False, "")]
    data = next(one for one in made if one[0] == "mount" and one[1] == "/data")
    assert data[6] == const.MOUNT_ATTR_RDONLY
    assert data[9:11] == (const.MS_SLAVE, True)


def test_a_propagation_among_the_options_wins() -> None:
    made = operations(replace(BASE, mounts=(Mount("/d", "bind", "/s", ("rbind", "rshared")),)))
    assert next(one for one in made if one[0] == "mount")[9:11] == (const.MS_SHARED, True)


def test_options_of_time_replace_each_other() -> None:
    made = operations(replace(BASE, mounts=(Mount("/d", "bind", "/s", ("noatime", "strictatime")),)))
    mount = next(one for one in made if one[0] == "mount")
    assert mount[6:8] == (const.MOUNT_ATTR_STRICTATIME, const.MOUNT_ATTR_ATIME)


def test_unknown_options_are_the_file_systems_or_refused() -> None:
    made = operations(replace(BASE, mounts=(Mount("/t", "tmpfs", "tmpfs", ("nosuid", "size=1m"), "mode=700"),)))
    assert next(one for one in made if one[0] == "mount")[5] == "mode=700,size=1m"
    with pytest.raises(ValueError, match="does not apply to a bind"):
        plan.compile_start(replace(BASE, mounts=(Mount("/t", "bind", "/s", ("size=1m",)),)))
    with pytest.raises(ValueError, match="propagation"):
        plan.compile_start(replace(BASE, mounts=(Mount("/t", "bind", "/s", propagation="upwards"),)))


def test_shared_and_joined_namespaces_are_not_made() -> None:
    modes = {NamespaceKind.NETWORK: NamespaceMode.HOST, NamespaceKind.PID: NamespaceMode.JOIN}
    loaded = marshal.loads(plan.compile_start(replace(BASE, namespaces=modes)))
    assert loaded["flags"] == const.CLONE_NEWNS | const.CLONE_NEWUTS | const.CLONE_NEWIPC
    assert loaded["joins"] == (("pid", const.CLONE_NEWPID),)
    assert loaded["unshare"] == const.CLONE_NEWCGROUP
    with pytest.raises(ValueError, match="mount namespace"):
        plan.compile_start(replace(BASE, namespaces={NamespaceKind.MOUNT: NamespaceMode.HOST}))


def test_a_bind_over_dev_brings_its_own_nodes() -> None:
    made = names(replace(BASE, mounts=(*BASE.mounts, Mount("/dev/", "bind", "/dev", ("rbind",)))))
    assert "device" not in made
    assert "ptmx" not in made


def test_a_single_layer_without_upper_is_a_read_only_directory() -> None:
    made = operations(replace(BASE, root=OverlayRoot(("/l",))))
    assert ("directory_root", "/l", True) in made
    assert ("directory_root", "/r", False) in operations(replace(BASE, root=DirectoryRoot("/r")))


def test_cgroup_v1_is_a_tmpfs_of_read_only_binds_and_links() -> None:
    cgroup = Plan((), "", ("/cg/cpu,cpuacct/p/c/tasks", "/cg/memory/p/c/tasks"), ())
    mounts = (Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("ro", "nosuid")),)
    made = operations(replace(BASE, cgroup="/p/c", mounts=mounts), cgroup)
    assert [(one[1], one[2]) for one in made if one[0] == "mount"] == [
        ("/sys/fs/cgroup", "tmpfs"),
        ("/sys/fs/cgroup/cpu,cpuacct", "bind"),
        ("/sys/fs/cgroup/memory", "bind"),
    ]
    assert ("link", "cpu,cpuacct", "/sys/fs/cgroup/cpuacct") in made
    assert ("readonly_mount", "/sys/fs/cgroup") in made
    assert [one[2] for one in made if one[0] == "source"] == ["/cg/cpu,cpuacct/p/c", "/cg/memory/p/c"]


def test_cgroup_v2_is_one_file_system() -> None:
    mounts = (Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("ro", "nosuid")),)
    made = operations(replace(BASE, mounts=mounts), Plan((), "/sys/fs/cgroup/p/c", (), ("/sys/fs/cgroup/p/c",)))
    assert [one[2] for one in made if one[0] == "mount"] == ["cgroup2"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.5/rp_filter", "net/ipv4/conf/eth0.5/rp_filter"),
        ("net.ipv4.conf.eth0/5.rp_filter", "net/ipv4/conf/eth0.5/rp_filter"),
    ],
)
def test_sysctl_names_as_in_sysctl_8(name: str, path: str) -> None:
    assert plan.sysctl_path(name) == path


@pytest.mark.parametrize("name", ["", "..", "net/../kernel/core_pattern", "net..x", "/etc/passwd", "a/./b", "a.b\0"])
def test_sysctl_names_that_would_leave_their_folder_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="invalid sysctl name"):
        plan.sysctl_path(name)


@pytest.mark.parametrize(
    "process",
    [
        replace(BASE.process, args=()),
        replace(BASE.process, args=("a\0b",)),
        replace(BASE.process, env=("A=\0",)),
        replace(BASE.process, cwd="/\0"),
        replace(BASE.process, rlimits=(Rlimit("speed", 1, 1),)),
    ],
)
def test_what_no_kernel_takes_is_refused_before_anything_is_made(process: Process) -> None:
    with pytest.raises(ValueError, match=r"NUL|no command|invalid ulimit"):
        plan.compile_start(replace(BASE, process=process))
    with pytest.raises(ValueError, match=r"NUL|no command|invalid ulimit"):
        plan.compile_exec(process)


def test_the_last_of_a_variable_counts_and_what_is_none_is_left_out() -> None:
    made = operations(replace(BASE, process=replace(BASE.process, env=("A=1", "B=", "=x", "C", "A=2=3"))))
    assert made[-1][2] == (("A", "2=3"), ("B", ""))


def test_every_operation_has_somebody_who_does_it() -> None:
    from pierhead.libcontainer.init import OPERATIONS

    full = replace(
        BASE,
        root_readonly=True,
        domainname="d",
        rootfs_propagation="rshared",
        sysctls=(("net.x", "1"),),
        resources=Resources(),
        process=replace(BASE.process, terminal=True, rlimits=(Rlimit("core", 0, 0),)),
        network=NetworkSetup((b"h" * 16,), (b"i" * 16,), b"n", (("net.y", "1"),), 53),
    )
    assert {str(name) for name in names(full)} <= set(OPERATIONS)


def test_constants_written_twice_are_the_same() -> None:
    assert container.NETNS_FD == spec.NETNS_FD
    assert container.PLAN_VERSION == plan.VERSION


def test_the_start_path_imports_exactly_this() -> None:
    """What the zygote holds is in every container's shim; and an import after the start would load foreign code."""
    program = """
import sys
sys.path.insert(0, ROOT)
import json
before = set(sys.modules)
import pierhead.libcontainer.container
print(json.dumps(sorted(set(sys.modules) - before)))
""".replace("ROOT", repr(str(Path(plan.__file__).parents[2])))
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    loaded = json.loads(result.stdout)
    ours = {name for name in loaded if name.startswith("pierhead")}
    assert ours == {
        "pierhead",
        "pierhead.libcontainer",
        "pierhead.libcontainer.cgroupfs",
        "pierhead.libcontainer.container",
        "pierhead.libcontainer.init",
        "pierhead.libcontainer.network",
        "pierhead.libcontainer.rootfs",
        "pierhead.libcontainer.scope",
        "pierhead.libcontainer.user",
        "pierhead.libcontainer.userentry",
        "pierhead.libcontainer.usernamespace",
        "pierhead.linux",
        "pierhead.linux.bpf",
        "pierhead.linux.calls",
        "pierhead.linux.const",
        "pierhead.linux.mountapi",
        "pierhead.linux.openat",
        "pierhead.linux.tty",
    }
    heavy = {"typing", "dataclasses", "pathlib", "subprocess", "asyncio", "logging", "threading", "inspect", "ast"}
    assert not heavy & set(loaded)
