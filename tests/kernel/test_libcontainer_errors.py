"""Starts that fail: said in Docker's words, with the cause, and with nothing left behind."""

import marshal
import os
import socket
import struct
from pathlib import Path

import pytest

from pierhead.libcontainer import cgroups, container
from pierhead.libcontainer.init import SetupError
from pierhead.libcontainer.spec import Mount, Rlimit
from tests.kernel.box import MOUNTS, Box, enter, run, running


@pytest.fixture
def box(tmp_path: Path) -> Box:
    box = Box(tmp_path)
    (box.image / "plain").write_text("not for execution")
    (box.image / "bin/text").write_text("no interpreter line\n")
    (box.image / "bin/orphan").write_text("#!/no/such/shell -e\n")
    elf = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHI", 2, 183, 1) + bytes(40)
    (box.image / "bin/foreign").write_bytes(elf)
    for name in ("text", "orphan", "foreign"):
        (box.image / "bin" / name).chmod(0o755)
    return box


CASES = [
    ("nosuch", 2, 'exec: "nosuch": executable file not found in $PATH'),
    ("", 2, 'exec: "": executable file not found in $PATH'),
    ("/nosuch", 2, 'exec: "/nosuch": stat /nosuch: no such file or directory'),
    ("/plain/x", 20, 'exec: "/plain/x": stat /plain/x: not a directory'),
    ("/plain", 13, 'exec: "/plain": permission denied'),
    ("/bin", 21, 'exec: "/bin": is a directory'),
    ("text", 8, "exec /bin/text: exec format error (neither a binary nor a script with an interpreter line)"),
    ("orphan", 2, 'exec /bin/orphan: no such file or directory (its interpreter "/no/such/shell" cannot be executed)'),
    ("foreign", 8, f"exec /bin/foreign: exec format error (built for aarch64, this is {os.uname().machine})"),
]


@pytest.mark.parametrize(("program", "code", "text"), CASES)
def test_a_program_that_cannot_be_executed_says_why(box: Box, program: str, code: int, text: str) -> None:
    with pytest.raises(SetupError) as caught:
        run(box.spec(program, env=("PATH=/bin",)))
    error = caught.value
    assert (error.errno, error.strerror, error.stage, error.call) == (code, text, "exec", "execve")


def test_exec_says_the_same(box: Box) -> None:
    spec = box.spec("sleep", "100", env=("PATH=/bin",))
    with running(spec) as child:
        for program, code, text in CASES:
            with pytest.raises(SetupError) as caught:
                enter(child, spec, program)
            assert (caught.value.errno, caught.value.strerror) == (code, text)
        with pytest.raises(SetupError, match="unable to find user nobody: no matching entries in passwd file"):
            enter(child, spec, "true", user="nobody")


def test_a_program_the_user_may_not_execute_is_refused_as_him(box: Box) -> None:
    (box.image / "bin/text").chmod(0o700)
    with pytest.raises(SetupError, match=r"not found in \$PATH"):
        run(box.spec("text", user="1000"))
    with pytest.raises(SetupError, match="permission denied"):
        run(box.spec("/bin/text", user="1000"))


@pytest.mark.parametrize(
    ("user", "groups", "text"),
    [
        ("nobody", (), "unable to find user nobody: no matching entries in passwd file"),
        ("-1", (), "unable to find user -1: no matching entries in passwd file"),
        ("+0", (), "unable to find user +0: no matching entries in passwd file"),
        ("١", (), "unable to find user ١: no matching entries in passwd file"),
        ("4294967296", (), "uids and gids must be in range 0-2147483647"),
        ("2147483648", (), "uids and gids must be in range 0-2147483647"),
        ("9" * 5000, (), "uids and gids must be in range 0-2147483647"),
        ("joe:nogroup", (), "unable to find group nogroup: no matching entries in group file"),
        ("joe:4294967295", (), "uids and gids must be in range 0-2147483647"),
        ("joe", ("nogroup",), "unable to find group nogroup: no matching entries in group file"),
    ],
)
def test_users_and_groups_that_are_not_there(box: Box, user: str, groups: tuple[str, ...], text: str) -> None:
    with pytest.raises(SetupError) as caught:
        run(box.spec("id", user=user, groups=groups))
    assert (caught.value.strerror, caught.value.stage, caught.value.call) == (text, "process", "user")


def test_a_working_directory_that_is_none(box: Box) -> None:
    with pytest.raises(SetupError) as caught:
        run(box.spec("true", cwd="/plain"))
    assert caught.value.strerror == 'chdir to cwd ("/plain") failed: not a directory'


def test_a_missing_working_directory_is_made(box: Box) -> None:
    assert run(box.spec("pwd", cwd="/no/such")).out == "/no/such\n"


def test_a_bind_source_that_is_missing_is_named(box: Box) -> None:
    with pytest.raises(SetupError) as caught:
        run(box.spec("true", mounts=(*MOUNTS, Mount("/x", "bind", "/no/such/source", ("rbind",)))))
    assert (caught.value.filename, caught.value.call, caught.value.stage) == ("/no/such/source", "open_tree", "mount")


def test_a_directory_is_not_bound_on_a_file(box: Box, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="mount a directory onto a file"):
        run(box.spec("true", mounts=(*MOUNTS, Mount("/plain", "bind", str(tmp_path), ("rbind",)))))
    with pytest.raises(SetupError, match="mount a directory onto a file"):
        run(box.spec("true", mounts=(*MOUNTS, Mount("/bin", "bind", "/etc/hostname", ("rbind",)))))


def test_the_kernels_own_words_about_a_mount_option_arrive(box: Box) -> None:
    with pytest.raises(SetupError, match="nonsense"):
        run(box.spec("true", mounts=(*MOUNTS, Mount("/t", "tmpfs", "tmpfs", (), "nonsense=1"))))


def test_a_limit_that_may_not_be_set_is_named(box: Box) -> None:
    with pytest.raises(SetupError, match="error setting rlimit type 7: operation not permitted"):
        run(box.spec("true", rlimits=(Rlimit("nofile", 1 << 40, 1 << 40),)))


def test_a_missing_layer_is_named(box: Box) -> None:
    root = box.root.__class__(("/no/such/layer",), box.root.upper, box.root.work)
    with pytest.raises(SetupError, match="/no/such/layer"):
        run(box.spec("true", root=root))


def test_a_failed_start_leaves_no_cgroup_no_process_and_no_descriptor(box: Box) -> None:
    layout = cgroups.detect()
    base = f"/h1e-{os.getpid()}"
    cgroups.prepare(layout, base)
    try:
        spec = box.spec("nosuch", cgroup=f"{base}/c", terminal=True)
        made = cgroups.plan(layout, spec.cgroup, spec.resources)
        before = sorted(os.listdir("/proc/self/fd"))
        with pytest.raises(SetupError):
            run(spec, made)
        after = sorted(os.listdir("/proc/self/fd"))
        left = cgroups.existing(layout, base)
        broken = cgroups.Plan((("write", "/sys/fs/cgroup/no/such", "1"),), "", (), made.directories)
        with pytest.raises(SetupError) as caught:
            run(spec, broken)
    finally:
        cgroups.dismantle(layout, base)
    assert before == after
    assert left == ()
    assert caught.value.stage == "cgroup"
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_start_in_an_ended_container_says_so(box: Box) -> None:
    spec = box.spec("sleep", "100")
    with running(spec) as child:
        pidfd = os.dup(child.pidfd)
    ended = child.__class__(child.pid, pidfd)
    with pytest.raises(SetupError) as caught:
        enter(ended, spec, "true")
    os.close(pidfd)
    assert caught.value.errno == 3


def test_what_failed_is_told_though_the_child_never_read_that_it_may_go_on() -> None:
    """The kernel says ECONNRESET once for what its peer has left unread, and before what the peer had sent."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        theirs.send(marshal.dumps(("error", 2, "no such file or directory", "/x", "open", "mount"), 2))
        ours.send(b"go")
        theirs.close()
        with pytest.raises(SetupError, match="no such file or directory"):
            container._listen(ours, container.Child(0, -1))
