"""A container with a user namespace, without a daemon: who it is, what it sees and leaves on disk, who joins it."""

import os
import struct
from pathlib import Path

import pytest

from pierhead.libcontainer import container, plan
from pierhead.libcontainer.init import SetupError
from pierhead.libcontainer.spec import Mount, NamespaceKind, NamespaceMode, Rlimit
from pierhead.linux.idmap import IdMaps, Range
from tests.kernel.box import MOUNTS, SAFE, Box, enter, run, running, script

MAPS = IdMaps((Range(0, 100000, 60000),), (Range(0, 200000, 50000), Range(50000, 300000, 1000)))
HOST = NamespaceMode.HOST


@pytest.fixture
def box(tmp_path: Path) -> Box:
    made = Box(tmp_path)
    (made.image / "etc/of-joe").write_text("")
    os.chown(made.image / "etc/of-joe", 1000, 50010)
    return made


def test_root_in_a_container_is_an_ordinary_user_outside(box: Box) -> None:
    with running(box.spec("sleep", "100", user_maps=MAPS)) as child:
        found = os.stat(f"/proc/{child.pid}")
        assert (found.st_uid, found.st_gid) == (100000, 200000)
        ours = os.readlink("/proc/self/ns/user")
        assert os.readlink(f"/proc/{child.pid}/ns/user") != ours
    asked = script(box, "id -u; id -G; cat /proc/self/uid_map /proc/self/gid_map; grep CapEff /proc/self/status",
                   user_maps=MAPS)  # fmt: skip
    assert asked.out.split() == (
        "0 0 0 100000 60000 0 200000 50000 50000 300000 1000 CapEff: 00000000a80425fb".split()
    ), asked.err


def test_layers_are_seen_with_the_owners_of_the_image_and_keep_them_on_disk(box: Box) -> None:
    """Nothing is copied beforehand; what a container writes, deletes and gives away is stored with its own ids."""
    before = {path: path.lstat() for path in box.image.rglob("*")}
    done = script(
        box,
        "set -e; stat -c '%u %g' /etc/passwd /etc/of-joe; echo more >> /etc/of-joe; chown 7:8 /etc/passwd;"
        "rm /etc/group; mkdir /made; touch /made/file; ln -s x /made/link; mv /made/file /moved;"
        "chown 59999:50999 /moved",
        user_maps=MAPS,
    )
    assert (done.code, done.out) == (0, "0 0\n1000 50010\n"), done.err
    assert {path: path.lstat() for path in box.image.rglob("*")} == before
    owners = {
        str(path.relative_to(box.upper)): (path.lstat().st_uid, path.lstat().st_gid) for path in box.upper.rglob("*")
    }
    assert owners["etc/of-joe"] == (1000, 50010) and owners["etc/passwd"] == (7, 8)
    assert owners["made"] == owners["made/link"] == (0, 0) and owners["moved"] == (59999, 50999)
    gone = (box.upper / "etc/group").lstat()
    assert gone.st_rdev == 0 and not gone.st_size, "a whiteout"
    assert script(box, "test ! -e /etc/group && stat -c '%u' /etc/passwd").out == "7\n", "the same without remapping"


def test_nobody_can_be_who_the_map_has_not(box: Box) -> None:
    assert script(box, "touch /x; chown 60000 /x", user_maps=MAPS).code == 1
    with pytest.raises(SetupError) as caught:
        script(box, "true", user_maps=MAPS, user="60000:60000")
    assert caught.value.errno == 22


def test_a_plain_directory_as_root_is_shown_with_other_owners_too(box: Box) -> None:
    done = script(box, "stat -c %u /etc/of-joe; touch /here; stat -c %u /here", root=box.directory(), user_maps=MAPS)
    assert done.out == "1000\n0\n", done.err
    assert (box.image / "here").stat().st_uid == 0


def test_devices_terminals_and_file_systems_work_in_a_user_namespace(box: Box) -> None:
    done = script(
        box,
        "echo x > /dev/null; head -c 3 /dev/zero | od -An -tx1; echo out > /dev/stdout;"
        "stat -c '%g %a' /dev/pts/ptmx; stat -f -c %T /proc /sys /dev/shm;"
        "mknod /dev/mine c 1 3 2>&1; cat /proc/keys; true 2>/dev/null > /proc/sys/kernel/domainname || echo closed",
        user_maps=MAPS,
    )
    lines = [line.strip() for line in done.out.splitlines()]
    assert lines[:3] == ["00 00 00", "out", "0 666"], done
    assert lines[3:6] == ["proc", "sysfs", "tmpfs"]
    assert lines[6:] == ["mknod: /dev/mine: Operation not permitted", "closed"]


def test_a_program_with_file_capabilities_has_them(box: Box) -> None:
    """In an image they are the root's of the namespace that sees the file."""
    program = box.image / "opt/busybox"
    program.parent.mkdir()
    program.write_bytes((box.image / "bin/busybox").read_bytes())
    program.chmod(0o755)
    net_raw = 1 << 13
    os.setxattr(program, "security.capability", struct.pack("<5I", 0x02000001, net_raw, 0, 0, 0))
    done = run(box.spec("/opt/busybox", "grep", "CapEff", "/proc/self/status", user="1000", user_maps=MAPS))
    assert done.out.split() == ["CapEff:", f"{net_raw:016x}"], done.err


def test_limits_that_only_the_host_may_raise_are_set_from_outside(box: Box) -> None:
    limits = (Rlimit("nofile", 100, 200), Rlimit("core", 0, 0))
    done = script(
        box, "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj", rlimits=limits, oom_score_adj=7, user_maps=MAPS
    )
    assert done.out.split() == ["100", "200", "7"], done.err


def test_an_exec_joins_the_user_namespace_and_shows_nothing_of_the_host(box: Box) -> None:
    """CVE-2016-9962: what joins is not dumpable before it executes: nobody in there can look into it."""
    spec = box.spec(
        "sh", "-c", "while true; do for p in /proc/[0-9]*; do readlink $p/exe; readlink $p/root; done; done "
        "| grep -v -e busybox -e '^/$' > /found", user_maps=MAPS,
    )  # fmt: skip
    with running(spec) as child:
        for _ in range(5):
            done = enter(child, spec, "sh", "-c", "id -u; id -G; grep CapEff /proc/self/status; touch /from-exec")
            assert done.out.split() == ["0", "0", "CapEff:", "00000000a80425fb"], done.err
        limited = enter(child, spec, "sh", "-c", "ulimit -n; echo out > /dev/stdout",
                        rlimits=(Rlimit("nofile", 64, 64),), user="1000:1000")  # fmt: skip
        assert limited.out.split() == ["64", "out"], limited.err
    assert (box.upper / "from-exec").stat().st_uid == 0
    assert not (box.upper / "found").read_text()


def test_namespaces_are_shared_together_with_the_user_namespace_they_belong_to(box: Box) -> None:
    """``--network container:`` and ``--pid container:``: the rest of the new container belongs to the same one."""
    with running(box.spec("sleep", "100", user_maps=MAPS)) as child:
        fds = {f"ns:{kind}": os.open(f"/proc/{child.pid}/ns/{kind}", os.O_RDONLY) for kind in ("user", "net", "pid")}
        theirs = {kind: os.readlink(f"/proc/{child.pid}/ns/{kind}") for kind in ("user", "net", "pid", "uts")}
        ask = "for kind in user net pid uts; do readlink /proc/self/ns/$kind; done; hostname; ls /proc | grep -c '^1$'"
        try:
            for joined in (("net",), ("net", "pid")):
                modes = {NamespaceKind.CGROUP: HOST, **{NamespaceKind(kind): NamespaceMode.JOIN for kind in joined}}
                other = run(box.spec("sh", "-c", ask, user_maps=MAPS, join_users=True, namespaces=modes), fds=fds)
                *found, hostname, processes = other.out.split()
                named = dict(zip(("user", "net", "pid", "uts"), found, strict=True))
                assert [kind for kind in named if named[kind] == theirs[kind]] == ["user", *joined], other.err
                assert (hostname, processes) == ("box", "1")
        finally:
            for descriptor in fds.values():
                os.close(descriptor)


def test_a_bind_keeps_its_owners_and_never_reaches_the_host_by_propagation(box: Box, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "of-root").write_text("")
    (shared / "of-theirs").write_text("")
    os.chown(shared / "of-theirs", 101000, 200005)
    bind = Mount("/shared", "bind", str(shared), ("rw",), propagation="rshared")
    done = script(
        box, "stat -c '%u %g' /shared/*; echo x > /shared/of-root; touch /shared/new",
        mounts=(*MOUNTS, bind, Mount("/private", "tmpfs", "tmpfs", SAFE)), user_maps=MAPS,
    )  # fmt: skip
    assert done.out == "65534 65534\n1000 5\n"
    assert done.err.count("Permission denied") == 2, "the host's root is not theirs"


def test_an_id_map_is_taken_whole_or_not_at_all(box: Box) -> None:
    """CVE-2021-43784: no length of a map is packed by hand, and what does not fit is said before anything is made."""
    ranges = tuple(Range(number * 10, 100000 + number * 10, 10) for number in range(200))
    many = IdMaps(ranges, ranges)
    assert len(script(box, "cat /proc/self/uid_map", user_maps=many).out.splitlines()) == 200
    odd = tuple(Range(number * 2, 100000 + number * 3, 2) for number in range(341))
    with pytest.raises(ValueError, match="340"):
        IdMaps(odd, odd)
    with pytest.raises(ValueError, match="overlap"):
        IdMaps((Range(0, 100000, 10), Range(10, 100005, 10)), ranges)
    for wrong in (Range(0, 4294967290, 10), Range(0, -1, 10), Range(0, 1, 0)):
        with pytest.raises(ValueError, match="id map"):
            IdMaps((wrong,), ranges)


def test_what_fails_on_the_way_is_said_and_nothing_is_left(box: Box) -> None:
    missing = Mount("/x", "bind", str(box.folder / "missing"), ("rw",))
    with pytest.raises(SetupError) as caught:
        script(box, "true", mounts=(*MOUNTS, missing), user_maps=MAPS)
    assert (caught.value.errno, caught.value.call) == (2, "open_tree")
    assert not Path(f"/proc/self/task/{os.getpid()}/children").read_text().strip()


def test_a_container_without_remapping_is_planned_as_if_there_were_none(box: Box) -> None:
    """What it does not ask for costs it nothing: no step, no system call, no process."""
    spec = box.spec("true")
    lines = plan.describe(plan.compile_start(spec)) + plan.describe(plan.compile_exec(spec.process))
    assert not [line for line in lines if "user_namespace" in line or line.startswith("user ids") or "given" in line]
    assert "user" not in container._load(plan.compile_start(spec))
