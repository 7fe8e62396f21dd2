"""A container as its process sees it: what is there, what is not, who it is."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pierhead.libcontainer import cgroupfs, cgroups, container, plan, rootfs, seccomp
from pierhead.libcontainer.spec import Mount, NamespaceKind, NamespaceMode, Rlimit
from pierhead.linux import calls, const, mountapi, tty
from tests.harness.kernel import need
from tests.kernel.box import CAPABILITIES, MOUNTS, Box, enter, run, running, script


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def links(kinds: str) -> str:
    """Shell: the namespaces that it is in."""
    return f"for kind in {kinds}; do readlink /proc/self/ns/$kind; done"


def test_a_command_runs_and_its_exit_code_arrives(box: Box) -> None:
    result = script(box, "echo out; echo err >&2; exit 3")
    assert (result.code, result.out, result.err) == (3, "out\n", "err\n")


def test_stdin_reaches_the_command(box: Box) -> None:
    assert run(box.spec("cat"), stdin=b"hello").out == "hello"


def test_what_is_written_lands_in_the_upper_layer_alone(box: Box) -> None:
    assert script(box, "echo x > /new").code == 0
    assert (box.upper / "new").read_text() == "x\n"
    assert not (box.image / "new").exists()


def test_the_root_works_on_kernels_before_6_8(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootfs, "_LAYER_BY_LAYER", False)
    result = script(box, "echo x > /new; grep ' / ' /proc/mounts; ls /")
    assert result.code == 0
    assert result.out.startswith("overlay / overlay rw")
    assert (box.upper / "new").read_text() == "x\n"


MODERN = pytest.param(True, marks=pytest.mark.skipif(not rootfs._LAYER_BY_LAYER, reason="needs Linux 6.8"))


@pytest.mark.parametrize("modern", [MODERN, False])
def test_three_hundred_layers_and_odd_names_are_one_root(
    box: Box, monkeypatch: pytest.MonkeyPatch, modern: bool
) -> None:
    monkeypatch.setattr(rootfs, "_LAYER_BY_LAYER", modern)
    layers = []
    for number in range(300):
        layer = box.folder / f"layer, with: odd\\name {number}"
        layer.mkdir()
        (layer / f"file{number}").touch()
        layers.append(str(layer))
    root = box.root.__class__((*layers, str(box.image)), box.root.upper, box.root.work)
    assert script(box, "ls / | grep -c file", root=root).out == "300\n"


def test_a_plain_directory_can_be_the_root(box: Box) -> None:
    assert script(box, "echo x > /new", root=box.directory()).code == 0
    assert (box.image / "new").exists()


def test_a_view_without_upper_layer_cannot_be_written(box: Box) -> None:
    for name in ("proc", "dev", "sys"):
        (box.image / name).mkdir()
    root = box.root.__class__((str(box.image),))
    assert "Read-only" in script(box, "touch /new", root=root).err


def test_a_read_only_root_keeps_its_mounts_writable(box: Box) -> None:
    result = script(box, "touch /new; touch /dev/shm/x && echo ok", root_readonly=True)
    assert "Read-only" in result.err
    assert result.out == "ok\n"


def test_no_descriptor_leaks_into_a_container(box: Box) -> None:
    spec = box.spec("sh", "-c", "ls /proc/$$/fd; true")
    leaked = os.open("/etc", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        assert run(spec).out.split() == ["0", "1", "2"]
        with running(box.spec("sleep", "100")) as child:
            assert enter(child, spec, "sh", "-c", "ls /proc/$$/fd; true").out.split() == ["0", "1", "2"]
            assert sorted(os.listdir(f"/proc/{child.pid}/fd")) == ["0", "1", "2"]
    finally:
        os.close(leaked)


def test_capabilities_are_dockers(box: Box) -> None:
    """CVE-2016-8867, CVE-2022-24769, CVE-2022-29162, CVE-2022-27649: inheritable and ambient ones go to any user."""

    def sets(**changes: object) -> list[str]:
        return [line.split()[1] for line in script(box, "grep ^Cap /proc/self/status", **changes).out.splitlines()]

    inheritable, permitted, effective, bounding, ambient = sets()
    assert {permitted, effective, bounding} == {"00000000a80425fb"}
    assert {inheritable, ambient} == {"0" * 16}
    inheritable, permitted, effective, bounding, ambient = sets(user="1000")
    assert {inheritable, permitted, effective, ambient} == {"0" * 16}
    assert bounding == "00000000a80425fb"


def test_no_new_privileges_only_where_asked(box: Box) -> None:
    assert script(box, "grep NoNewPrivs /proc/self/status").out.split()[1] == "0"
    assert script(box, "grep NoNewPrivs /proc/self/status", no_new_privileges=True).out.split()[1] == "1"


@pytest.mark.parametrize("user", ["", "1000"])
@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_the_seccomp_filter_is_on_whoever_the_process_is(box: Box, user: str, no_new_privileges: bool) -> None:
    # load [0] = nr; mkdir (83 on x86_64) -> EPERM, else allow
    import struct

    program = b"".join(
        struct.pack("=HBBI", *one)
        for one in ((0x20, 0, 0, 0), (0x15, 0, 1, 83), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000))
    )
    result = script(
        box,
        "grep '^Seccomp:' /proc/self/status; mkdir /dev/shm/x",
        seccomp=program,
        user=user,
        no_new_privileges=no_new_privileges,
    )
    assert result.out.split()[1] == "2"
    assert "Operation not permitted" in result.err


def test_signals_are_as_a_program_expects_them(box: Box) -> None:
    status = dict(
        line.split(":\t")
        for line in run(box.spec("cat", "/proc/self/status")).out.splitlines()
        if line.startswith("Sig")
    )
    assert int(status["SigIgn"], 16) == 0
    assert int(status["SigBlk"], 16) == 0


def test_devices_and_links_of_dev_are_dockers(box: Box) -> None:
    result = script(
        box,
        "cd /dev; stat -c '%n %t:%T %a %F' null zero full random urandom tty;"
        "for n in ptmx fd stdin; do readlink $n; done; ls",
    )
    lines = result.out.splitlines()
    assert lines[0] == "null 1:3 666 character special file"
    assert lines[5] == "tty 5:0 666 character special file"
    assert lines[6:9] == ["pts/ptmx", "/proc/self/fd", "/proc/self/fd/0"]
    assert set(lines[9:]) <= set(
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero".split()
    )


def test_masked_paths_cannot_be_read_nor_their_masks_changed(box: Box) -> None:
    """CVE-2015-3630, CVE-2017-16539, CVE-2018-10892: what /proc and /sys tell of the host, or let be changed."""
    result = script(
        box,
        "cat /proc/interrupts /proc/keys /proc/timer_list | wc -c; stat -c %t:%T /proc/keys; ls -A /sys/firmware;"
        "chmod 0 /proc/keys; touch /sys/firmware/x; umount /proc/keys; stat -c %a /dev/null",
    )
    assert result.out.splitlines() == ["0", "1:3", "666"]
    assert result.err.count("Read-only file system") == 2
    assert "umount" in result.err
    assert os.stat("/dev/null").st_mode & 0o777 == 0o666


def test_read_only_paths_of_proc_are(box: Box) -> None:
    result = script(box, "echo x > /proc/sys/kernel/core_pattern; grep ' /proc' /proc/mounts")
    assert "Read-only file system" in result.err
    assert all("nosuid,nodev,noexec" in line for line in result.out.splitlines() if "/proc proc" in line)


def test_the_host_name_is_the_containers(box: Box) -> None:
    assert script(box, "hostname; cat /proc/sys/kernel/domainname", domainname="example").out == "box\nexample\n"


def test_namespaces_are_new_unless_shared(box: Box) -> None:
    kinds = [str(kind) for kind in NamespaceKind if kind is not NamespaceKind.CGROUP]
    inside = script(box, links(" ".join(kinds))).out.split()
    assert all(os.readlink(f"/proc/self/ns/{kind}") not in inside for kind in kinds)
    host = {kind: NamespaceMode.HOST for kind in NamespaceKind if kind is not NamespaceKind.MOUNT}
    shared = script(box, links("net uts ipc pid cgroup"), namespaces=host, hostname="", mounts=MOUNTS).out.split()
    assert shared == [os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "uts", "ipc", "pid", "cgroup")]


def test_a_container_can_join_anothers_network_and_processes(box: Box, tmp_path: Path) -> None:
    other = Box(tmp_path / "other")
    with running(box.spec("sleep", "100")) as child:
        fds = {f"ns:{kind}": os.open(f"/proc/{child.pid}/ns/{kind}", os.O_RDONLY) for kind in ("net", "pid", "ipc")}
        modes = {
            NamespaceKind.NETWORK: NamespaceMode.JOIN,
            NamespaceKind.PID: NamespaceMode.JOIN,
            NamespaceKind.IPC: NamespaceMode.JOIN,
            NamespaceKind.CGROUP: NamespaceMode.HOST,
        }
        spec = other.spec("sh", "-c", links("net pid ipc") + "; ps -o args", namespaces=modes)
        result = run(spec, fds=fds)
        for descriptor in fds.values():
            os.close(descriptor)
        lines = result.out.splitlines()
        assert lines[:3] == [os.readlink(f"/proc/{child.pid}/ns/{kind}") for kind in ("net", "pid", "ipc")]
        assert "sleep 100" in lines
    assert os.readlink("/proc/self/ns/pid_for_children") == os.readlink("/proc/self/ns/pid")


@pytest.mark.parametrize(
    ("user", "groups", "expected"),
    [
        ("", (), "uid=0(root) gid=0(root) groups=0(root)"),
        ("joe", (), "uid=1000(joe) gid=1000(joe) groups=10(wheel),1000(joe)"),
        ("1000", (), "uid=1000(joe) gid=1000(joe) groups=10(wheel),1000(joe)"),
        ("1000:44", (), "uid=1000(joe) gid=44(video) groups=44(video)"),
        ("joe:video", (), "uid=1000(joe) gid=44(video) groups=44(video)"),
        ("4711", (), "uid=4711 gid=0(root) groups=0(root)"),
        ("4711:4712", ("video", "99"), "uid=4711 gid=4712 groups=44(video),99,4712"),
    ],
)
def test_users_and_groups_are_resolved_in_the_image(
    box: Box, user: str, groups: tuple[str, ...], expected: str
) -> None:
    found = run(box.spec("id", user=user, groups=groups)).out.strip()
    head, _, listed = found.partition("groups=")
    wanted_head, _, wanted = expected.partition("groups=")
    assert (head, sorted(listed.split(","))) == (wanted_head, sorted(wanted.split(",")))


def test_a_user_can_open_his_own_stdout_again(box: Box) -> None:
    result = script(box, "echo out > /dev/stdout; echo err > /dev/stderr; stat -Lc %u /dev/stdin", user="joe")
    assert (result.out, result.err) == ("out\n1000\n", "err\n")


def test_stdin_that_nobody_gave_is_the_containers_null_device(box: Box) -> None:
    """The host's would let a container's root change the mode of the host's /dev/null."""
    before = os.stat("/dev/null")
    with running(box.spec("sh", "-c", "chmod 600 /proc/self/fd/0; sleep 100")) as child:
        while os.stat(f"/proc/{child.pid}/root/dev/null").st_mode & 0o777 != 0o600:
            os.sched_yield()
        assert os.readlink(f"/proc/{child.pid}/fd/0") == "/dev/null"
    assert os.stat("/dev/null").st_mode == before.st_mode


def test_mount_points_have_usual_modes_whatever_the_daemons_umask(box: Box) -> None:
    before = os.umask(0o077)
    try:
        script(box, "true", mounts=(*MOUNTS, Mount("/made/here", "tmpfs", "tmpfs")))
    finally:
        os.umask(before)
    assert (box.upper / "made").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("propagation", "from_host", "from_container"),
    [("rprivate", False, False), ("rslave", True, False), ("rshared", True, True)],
)
def test_mounts_spread_between_host_and_container_as_asked(
    box: Box, tmp_path: Path, propagation: str, from_host: bool, from_container: bool
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    mountapi.mount("tmpfs", str(shared), "tmpfs", 0)
    try:
        mountapi.mount("", str(shared), "", const.MS_SHARED)
        for name in ("host", "container"):
            (shared / name).mkdir()
        capabilities = ("CAP_SYS_ADMIN",)
        spec = box.spec(
            "sh",
            "-c",
            "mount -t tmpfs x /s/container; echo ready > /s/ready; exec sleep 100",
            capabilities=capabilities,
            mounts=(*MOUNTS, Mount("/s", "bind", str(shared), ("rbind",), propagation=propagation)),
            rootfs_propagation="rshared",
        )
        with running(spec) as child:
            while not (shared / "ready").exists():
                os.sched_yield()
            mountapi.mount("tmpfs", str(shared / "host"), "tmpfs", 0)
            inside = Path(f"/proc/{child.pid}/mountinfo").read_text()
            outside = Path("/proc/self/mountinfo").read_text()
        assert ("/s/host " in inside) is from_host
        assert (f"{shared}/container " in outside) is from_container
    finally:
        mountapi.umount(str(shared), const.MNT_DETACH)


def test_the_environment_is_exactly_what_was_asked_and_home(box: Box) -> None:
    os.environ["H1_SECRET"] = "token"
    try:
        out = run(box.spec("env", env=("A=1", "B=x=y", "A=2", "novalue", "PATH=/bin"), user="joe")).out
    finally:
        del os.environ["H1_SECRET"]
    assert sorted(out.splitlines()) == ["A=2", "B=x=y", "HOME=/home/joe", "PATH=/bin"]
    assert "HOME=/x" in run(box.spec("env", env=("HOME=/x", "PATH=/bin"))).out


def test_umask_working_directory_and_limits(box: Box) -> None:
    (box.image / "work dir").mkdir()
    result = script(
        box, "umask; pwd; ulimit -n; ulimit -Hn", cwd="/work dir", rlimits=(Rlimit("nofile", 100, 200),), umask=0o027
    )
    assert result.out.splitlines() == ["0027", "/work dir", "100", "200"]


def test_the_oom_score_is_written_and_not_inherited(box: Box) -> None:
    assert script(box, "cat /proc/self/oom_score_adj", oom_score_adj=500).out == "500\n"


def test_sysctls_apply_inside_alone(box: Box) -> None:
    before = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    spec = box.spec(
        "cat",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/net/ipv4/conf/lo/rp_filter",
        sysctls=(("net.ipv4.ip_forward", "1"), ("net/ipv4/conf/lo/rp_filter", "2")),
    )
    assert run(spec).out.split() == ["1", "2"]
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == before


def test_a_session_keyring_of_its_own_shared_with_exec(box: Box) -> None:
    spec = box.spec("sleep", "100", masked_paths=())
    show = f"grep _ses.{spec.id}: /proc/keys"
    with running(spec) as child:
        lines = enter(child, spec, "sh", "-c", show).out.splitlines()
        again = enter(child, spec, "sh", "-c", show).out.splitlines()
    assert len(lines) == 1
    assert f"_ses.{spec.id}" in lines[0]
    assert lines[0].split()[0] == again[0].split()[0]


def test_binds_read_only_with_what_is_mounted_below(box: Box, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "file").write_text("content")
    mounts = (
        *MOUNTS,
        Mount("/data", "bind", str(source), ("rbind", "ro")),
        Mount("/data rw", "bind", str(source), ("rbind",)),
        Mount("/etc/one", "bind", str(source / "file"), ("rbind",)),
    )
    result = script(
        box, "cat /data/file /etc/one; touch /data/x /data/sub/x; touch '/data rw/y'; echo z > /etc/one", mounts=mounts
    )
    assert result.out == "contentcontent"
    assert result.err.count("Read-only file system") == 2
    assert (source / "y").exists()
    assert (source / "file").read_text() == "z\n"


def test_tmpfs_options_reach_the_kernel(box: Box) -> None:
    mounts = (*MOUNTS, Mount("/t", "tmpfs", "tmpfs", ("rw", "noexec", "nosuid", "nodev"), "size=64k,mode=1770"))
    result = script(box, "grep ' /t ' /proc/mounts; stat -c %a /t", mounts=mounts)
    assert "size=64k,mode=1770" in result.out
    assert "nosuid,nodev,noexec" in result.out


def test_mounts_of_a_container_do_not_reach_the_host(box: Box) -> None:
    assert script(box, "true").code == 0
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    assert not [line for line in mounts if str(box.folder) in line]
    assert len([line for line in mounts if line.split()[4] == "/"]) == 1


def test_the_containers_cgroup_is_seen_read_only(box: Box) -> None:
    """CVE-2023-25809, CVE-2022-0492: a writable hierarchy has a release_agent, which the host runs."""
    layout = cgroups.detect()
    base = f"/h1-{os.getpid()}"
    cgroups.prepare(layout, base)
    mounts = (*MOUNTS, Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("ro", "nosuid", "noexec", "nodev")))
    spec = box.spec(
        "sh",
        "-c",
        "cat /proc/self/cgroup; ls /sys/fs/cgroup; touch /sys/fs/cgroup/x; find /sys/fs/cgroup -name pids.max",
        cgroup=f"{base}/c",
        mounts=mounts,
    )
    made = cgroups.plan(layout, spec.cgroup, spec.resources)
    try:
        result = run(spec, made)
        with running(
            box.spec("sleep", "100", cgroup=f"{base}/d"), cgroups.plan(layout, f"{base}/d", spec.resources)
        ) as child:
            pids = cgroupfs.pids(layout.directories(f"{base}/d"))
            cgroup = container.cgroup_of(plan.compile_start(spec, cgroups.plan(layout, f"{base}/d", spec.resources)))
            theirs = container.enter(
                plan.compile_exec(box.spec("sleep", "100").process), child.pidfd, spec.id, cgroup, (-1, -1, -1)
            )
            both = cgroupfs.pids(layout.directories(f"{base}/d"))
            os.close(theirs.pidfd)
            os.kill(theirs.pid, 9)
            os.waitpid(theirs.pid, 0)
    finally:
        for name in ("c", "d"):
            cgroupfs.kill(layout.directories(f"{base}/{name}"))
            cgroupfs.remove(layout.directories(f"{base}/{name}"))
        cgroups.dismantle(layout, base)
    assert pids == [child.pid]
    assert both == sorted([child.pid, theirs.pid])
    assert "Read-only file system" in result.err
    if layout.version == 1:
        assert f"{base}/c" in result.out
        assert "/sys/fs/cgroup/pids/pids.max" in result.out


@pytest.fixture
def base() -> Iterator[str]:
    """A cgroup for containers, removed with them."""
    layout = cgroups.detect()
    base = f"/h1-{os.getpid()}"
    cgroups.prepare(layout, base)
    yield base
    for name in cgroups.existing(layout, base):
        cgroupfs.kill(layout.directories(f"{base}/{name}"))
        cgroupfs.remove(layout.directories(f"{base}/{name}"))
    cgroups.dismantle(layout, base)


def test_a_cgroup_namespace_of_its_own_begins_at_the_containers_cgroup(box: Box, base: str) -> None:
    spec = box.spec("cat", "/proc/self/cgroup", cgroup=f"{base}/c", namespaces={})
    out = run(spec, cgroups.plan(cgroups.detect(), spec.cgroup, spec.resources)).out
    assert "0::/\n" in out or not cgroups.detect().unified
    assert base not in out


def test_exec_works_in_a_container_that_manages_its_own_cgroups(box: Box, base: str) -> None:
    need("cgroup v2 alone")
    mounts = (*MOUNTS, Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("nosuid", "noexec", "nodev")))
    text = (
        "cd /sys/fs/cgroup; mkdir init; echo 1 > init/cgroup.procs; echo +pids > cgroup.subtree_control; exec sleep 100"
    )
    spec = box.spec("sh", "-c", text, cgroup=f"{base}/c", namespaces={}, mounts=mounts)
    made = cgroups.plan(cgroups.detect(), spec.cgroup, spec.resources)
    with running(spec, made) as child:
        while not Path(f"/proc/{child.pid}/cmdline").read_bytes().startswith(b"sleep"):
            os.sched_yield()
        assert enter(child, spec, "cat", "/proc/self/cgroup", cgroup=made).out == "0::/init\n"


def test_a_terminal_is_the_containers_own(box: Box) -> None:
    spec = box.spec(
        "sh", "-c", "tty; stty size; stat -c '%t:%T' /dev/console; echo done", terminal=True, console_size=(33, 99)
    )
    child = container.spawn(plan.compile_start(spec), {}, (-1, -1, -1))
    text = _drain(child)
    assert text.replace("\r\n", "\n") == "/dev/pts/0\n33 99\n88:0\ndone\n"


def test_exec_with_a_terminal_gets_the_next_of_the_container(box: Box) -> None:
    spec = box.spec("sleep", "100", terminal=True)
    child = container.spawn(plan.compile_start(spec), {}, (-1, -1, -1))
    try:
        process = box.spec("sh", "-c", "tty; exec sleep 0.2", terminal=True).process
        cgroup = container.cgroup_of(plan.compile_start(spec))
        made = container.enter(plan.compile_exec(process), child.pidfd, spec.id, cgroup, (-1, -1, -1))
        tty.set_size(made.master, 10, 20)
        assert tty.size(made.master) == (10, 20)
        assert _drain(made).strip() == "/dev/pts/1"
    finally:
        os.kill(child.pid, 9)
        os.waitpid(child.pid, 0)
        os.close(child.pidfd)
        os.close(child.master)


def _drain(child: container.Child) -> str:
    text = b""
    try:
        while part := os.read(child.master, 4096):
            text += part
    except OSError:
        pass  # EIO: nobody has the other end any more
    os.waitpid(child.pid, 0)
    os.close(child.pidfd)
    os.close(child.master)
    return text.decode()


def test_exec_joins_every_namespace_and_keeps_the_containers_limits(box: Box) -> None:
    spec = box.spec("sleep", "100")
    with running(spec) as child:
        result = enter(
            child, spec, "sh", "-c", links("mnt net uts ipc pid") + "; grep CapEff /proc/self/status; id -u", user="joe"
        )
        lines = result.out.splitlines()
        assert lines[:5] == [
            os.readlink(f"/proc/{child.pid}/ns/{kind}") for kind in ("mnt", "net", "uts", "ipc", "pid")
        ]
        assert lines[5].split()[1] == "0" * 16
        assert lines[6] == "1000"
        mask = enter(child, spec, "sh", "-c", "grep CapBnd /proc/self/status", privileged=True).out.split()[1]
        assert int(mask, 16) == calls.capget()[1]


@pytest.mark.parametrize("user", ["", "1000"])
@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_dockers_own_profile_lets_a_start_through(box: Box, user: str, no_new_privileges: bool) -> None:
    program = seccomp.compiled(None, CAPABILITIES)
    spec = box.spec(
        "sh",
        "-c",
        "grep '^Seccomp:' /proc/self/status; mount -t tmpfs x /mnt",
        seccomp=program,
        user=user,
        no_new_privileges=no_new_privileges,
        capabilities=(*CAPABILITIES, "CAP_SYS_ADMIN"),
    )
    result = run(spec)
    assert result.out.split()[1] == "2"
    assert "permitted" in result.err or "denied" in result.err
    with running(box.spec("sleep", "100", seccomp=program, user=user)) as child:
        assert enter(child, spec, "grep", "^Seccomp:", "/proc/self/status").out.split()[1] == "2"
