"""Images and volumes made by an enemy: whatever they contain, the host stays as it is and nothing hangs.

Each case is one of the known ways out of a container (docs: reference/security.md, sections A, C and E).
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pierhead.libcontainer import plan
from pierhead.libcontainer.init import SetupError
from pierhead.libcontainer.spec import Mount
from tests.harness.sentinel import sentinel as watched_sentinel
from tests.kernel.box import MOUNTS, Box, Result, enter, run, running, script


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Path]:
    with watched_sentinel(tmp_path) as folder:
        yield folder


@pytest.mark.parametrize("name", ["proc", "sys"])
@pytest.mark.parametrize("target", ["sentinel", "../../../../../..", "loop", "/nowhere", "/etc"])
def test_a_link_at_proc_or_sys_is_refused(box: Box, sentinel: Path, name: str, target: str) -> None:
    target = str(sentinel) if target == "sentinel" else name if target == "loop" else target
    (box.image / name).symlink_to(target)
    with pytest.raises(SetupError, match="must be mounted on ordinary directory") as caught:
        script(box, "true")
    assert caught.value.filename == f"/{name}"


@pytest.mark.parametrize("target", ["sentinel", "../../../../../../tmp", "/nowhere/at/all"])
@pytest.mark.parametrize("name", ["dev", "etc"])
def test_a_link_at_dev_or_etc_leads_inside_the_root(box: Box, sentinel: Path, name: str, target: str) -> None:
    if name == "etc":
        for file in (box.image / "etc").iterdir():
            file.unlink()
        (box.image / "etc").rmdir()
    (box.image / name).symlink_to(str(sentinel) if target == "sentinel" else target)
    hosts = box.folder / "hosts"
    hosts.write_text("127.0.0.1 x\n")
    mounts = (*MOUNTS, Mount("/etc/hosts", "bind", str(hosts), ("rbind", "rprivate")))
    result = script(box, "cat /etc/hosts; ls /dev/null", mounts=mounts)
    assert result.out == "127.0.0.1 x\n/dev/null\n"


@pytest.mark.parametrize("name", ["hosts", "resolv.conf", "hostname"])
@pytest.mark.parametrize("target", ["sentinel/f", "sentinel/new", "../../../../../etc/passwd", "/proc/self/environ"])
def test_a_link_at_a_file_that_is_mounted_leads_inside_the_root(
    box: Box, sentinel: Path, name: str, target: str
) -> None:
    target = target.replace("sentinel", str(sentinel))
    (box.image / "etc" / name).symlink_to(target)
    source = box.folder / "source"
    source.write_text("ours")
    mounts = (*MOUNTS, Mount(f"/etc/{name}", "bind", str(source), ("rbind",)))
    try:
        result = script(box, f"cat /etc/{name}", mounts=mounts)
    except SetupError as error:
        assert error.stage == "mount"
        assert "inside /proc" in str(error)
    else:
        assert result.out == "ours"


def test_loops_are_an_error_that_names_the_path(box: Box, sentinel: Path) -> None:
    (box.image / "a").symlink_to("b")
    (box.image / "b").symlink_to("a")
    with pytest.raises(SetupError, match="/a/x"):
        script(box, "true", mounts=(*MOUNTS, Mount("/a/x", "bind", str(sentinel), ("rbind", "ro"))))


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("/proc", "tmpfs"),
        ("/./proc//", "tmpfs"),
        ("/a/../proc", "tmpfs"),
        ("//proc", "tmpfs"),
        ("/proc/self/attr", "bind"),
        ("proc/sys/kernel", "tmpfs"),
        ("/", "tmpfs"),
    ],
)
def test_nothing_is_mounted_over_or_inside_proc(box: Box, target: str, kind: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be mounted because|root itself"):
        plan.compile_start(box.spec("true", mounts=(*MOUNTS, Mount(target, kind, "/tmp"))))


@pytest.mark.parametrize("target", ["/p", "/p/sys/kernel", "/p/self/attr", "/q/x"])
def test_links_do_not_help_to_mount_inside_proc(box: Box, sentinel: Path, target: str) -> None:
    (box.image / "p").symlink_to("/proc")
    (box.image / "q").symlink_to("proc/sys")
    mounts = (*MOUNTS, Mount(target, "bind", str(sentinel / "d"), ("rbind",)))
    with pytest.raises(SetupError, match=r"cannot be mounted because|No such file"):
        script(box, "true", mounts=mounts)


def test_a_bind_over_proc_must_be_a_procfs(box: Box, sentinel: Path) -> None:
    with pytest.raises(SetupError, match="not of type proc"):
        script(box, "true", mounts=(Mount("/proc", "bind", str(sentinel), ("rbind",)),))
    assert script(box, "echo $$", mounts=(Mount("/proc", "bind", "/proc", ("rbind", "ro")),)).code == 0


def test_what_proc_may_have_over_it_it_may(box: Box, sentinel: Path) -> None:
    mounts = (*MOUNTS, Mount("/proc/uptime", "bind", str(sentinel / "f"), ("rbind", "ro")))
    assert script(box, "cat /proc/uptime", mounts=mounts).out == "the host's"


@pytest.mark.parametrize("kind", ["link", "file", "fifo", "missing"])
def test_a_null_device_that_is_none_is_neither_used_nor_trusted(box: Box, sentinel: Path, kind: str) -> None:
    """CVE-2026-88265, CVE-2025-31133: the null device of the image given to a process, or laid over what is masked."""
    dev = box.folder / "dev"
    dev.mkdir()
    match kind:
        case "link":
            (dev / "null").symlink_to(sentinel / "f")
        case "file":
            (dev / "null").write_text("x")
        case "fifo":
            os.mkfifo(dev / "null")
    mounts = (MOUNTS[0], Mount("/dev", "bind", str(dev), ("rbind",)))
    # stdin given, so that /dev/null is not needed: the masks must be null devices all the same
    result = script(box, "stat -c %t:%T /proc/keys; wc -c < /proc/keys", mounts=mounts, user="1000")
    assert result.out.split() == ["1:3", "0"]
    with pytest.raises(SetupError, match="/dev/null"), running(box.spec("sleep", "100", mounts=mounts)):
        pass


@pytest.mark.parametrize("kind", ["link", "file", "wrong device"])
def test_nodes_of_an_images_own_dev_are_verified(box: Box, sentinel: Path, kind: str) -> None:
    (box.image / "dev").mkdir()
    null = box.image / "dev/null"
    if kind == "link":
        null.symlink_to(sentinel / "f")
    elif kind == "file":
        null.write_text("x")
    else:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    (box.image / "dev/ptmx").symlink_to(sentinel / "ptmx")
    with pytest.raises(SetupError, match="/dev/null"):
        script(box, "true", mounts=(MOUNTS[0],))


@pytest.mark.parametrize("target", ["sentinel/f", "sentinel/new"])
def test_a_console_that_is_a_link_makes_nothing_on_the_host(box: Box, sentinel: Path, target: str) -> None:
    """CVE-2026-88264, CVE-2025-52565: /dev/console is a link when the terminal is mounted there."""
    (box.image / "dev").mkdir()
    (box.image / "dev/console").symlink_to(target.replace("sentinel", str(sentinel)))
    pts = (MOUNTS[0], MOUNTS[2])
    spec = box.spec("true", mounts=pts, terminal=True)
    from pierhead.libcontainer import container

    child = container.spawn(plan.compile_start(spec), {}, (-1, -1, -1))
    os.waitpid(child.pid, 0)
    os.close(child.master)
    os.close(child.pidfd)


def test_no_working_directory_leads_out(box: Box) -> None:
    """CVE-2024-21626: a descriptor of the host's that is still open when the directory is entered."""
    spec = box.spec("sh", "-c", "readlink /proc/self/cwd; ls ../../../..")
    inside = set(script(box, "ls /").out.split())
    (box.image / "links").mkdir()
    # What is open where a container is started from, some of it far up; and behind each what is opened for it.
    numbers = {int(one) + beyond for one in os.listdir("/proc/self/fd") for beyond in range(8)} - {0, 1, 2}
    with running(box.spec("sleep", "100")) as child:
        for number in sorted(numbers):
            for form in (f"/proc/self/fd/{number}", f"/proc/thread-self/fd/{number}", f"/proc/1/fd/{number}"):
                (box.image / "links/x").unlink(missing_ok=True)
                (box.image / "links/x").symlink_to(form)
                for cwd in (form, "/links/x"):
                    for attempt in (_start, _enter):
                        try:
                            result = attempt(box, child, spec, cwd)
                        except SetupError as error:
                            assert error.call == "chdir"
                        else:
                            assert result.out.startswith("/\n")
                            assert set(result.out.split()[1:]) <= inside | {"links"}


def _start(box: Box, child: object, spec: object, cwd: str) -> Result:
    return run(box.spec("sh", "-c", "readlink /proc/self/cwd; ls ../../../..", cwd=cwd))


def _enter(box: Box, child: object, spec: object, cwd: str) -> Result:
    return enter(child, spec, "sh", "-c", "readlink /proc/self/cwd; ls ../../../..", cwd=cwd)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "huge", "long line", "link out"])
@pytest.mark.parametrize("file", ["passwd", "group"])
def test_user_files_that_are_none_neither_hang_nor_fill_memory(box: Box, sentinel: Path, kind: str, file: str) -> None:
    """CVE-2026-47262, CVE-2026-93320: files without end, and nodes that hang who opens them."""
    path = box.image / "etc" / file
    path.unlink()
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "device":
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
        case "directory":
            path.mkdir()
        case "huge":
            with open(path, "wb") as sparse:
                sparse.truncate(500 << 20)
        case "long line":
            path.write_bytes(b"x" * (10 << 20))
        case "link out":
            path.symlink_to(sentinel / "f")
    try:
        result = run(box.spec("id", "-u", user="joe:wheel"))
    except SetupError as error:
        expected = "unable to find" if kind == "link out" else f"/etc/{file}|a regular file|larger than"
        assert any(part in str(error) for part in expected.split("|"))
    else:
        raise AssertionError(result)


def test_a_group_file_with_too_many_groups_is_refused(box: Box) -> None:
    """CVE-2026-47262: more groups than the kernel takes."""
    lines = (f"g{number}:x:{number}:joe\n" for number in range(1, 70000))
    (box.image / "etc/group").write_text("".join(lines))
    with pytest.raises(SetupError, match="too many groups"):
        run(box.spec("id", user="joe"))


def test_a_script_that_names_our_own_program_as_interpreter_fails_cleanly(box: Box) -> None:
    """CVE-2019-5736: the interpreter line /proc/self/exe once executed the runtime itself."""
    script_file = box.image / "bin/evil"
    script_file.write_text("#!/proc/self/exe\n")
    script_file.chmod(0o755)
    with pytest.raises(SetupError) as caught:
        run(box.spec("/bin/evil"))
    assert caught.value.stage == "exec"


def test_nobody_in_a_container_can_look_into_an_exec_before_its_program_runs(box: Box) -> None:
    """CVE-2016-9962: PID 1 watches every other process; ours must be closed to it until the execve."""
    watch = (
        "while true; do for p in /proc/[0-9]*; do case $p in /proc/1) ;; *)"
        " e=$(readlink $p/exe) && case $e in */busybox) ;; *) echo SEEN $p $e ;; esac;"
        " ls $p/fd >/dev/null 2>&1 && readlink $p/root | grep -v '^/$';"
        " tr '\\0' '\\n' < $p/environ 2>/dev/null | grep H1_SECRET;; esac; done; done"
    )
    log = box.folder / "log"
    log.touch()
    spec = box.spec("sh", "-c", f"exec > /log; {watch}", mounts=(*MOUNTS, Mount("/log", "bind", str(log), ("bind",))))
    os.environ["H1_SECRET"] = "token"
    try:
        with running(spec) as child:
            for _ in range(60):
                assert enter(child, spec, "true").code == 0
    finally:
        del os.environ["H1_SECRET"]
    assert log.read_text() == ""
