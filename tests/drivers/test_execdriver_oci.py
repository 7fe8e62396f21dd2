"""The OCI driver's own promises: what the host sees of its containers, and what is left when its shim is killed."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pierhead.driver.execdriver.api import ExecDriver, ExecError, Exited, Lost, Started, StartError
from pierhead.driver.execdriver.native import NativeDriver
from pierhead.driver.execdriver.oci import unused
from pierhead.errors import InvalidParameter
from pierhead.libcontainer import capabilities, oci, seccomp
from pierhead.libcontainer.spec import Device, DeviceRule, NetworkSetup, Resources, Rlimit
from tests.drivers.containers import Box, boxed, busybox_root, process
from tests.drivers.test_execdriver import oci_driver
from tests.harness.processes import wait_until


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = busybox_root(tmp_path_factory.mktemp("busybox") / "root")
    (made / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\nada:x:1234:50:Ada:/home:/bin/sh\n")
    (made / "etc/group").write_text("root:x:0:\nstaff:x:50:\naudio:x:29:ada\n")
    return made


@pytest.fixture
def box(root: Path, tmp_path: Path) -> Iterator[Box]:
    with boxed(oci_driver, root, tmp_path) as found:
        yield found
    assert not groups(found.instance)


def groups(name: str) -> list[Path]:
    """Every cgroup of this name, in whatever hierarchy."""
    return [path for pattern in ("*/pierhead", "pierhead") for path in Path("/sys/fs/cgroup").glob(f"{pattern}/{name}")]


def said(box: Box, *args: str, **changes: object) -> str:
    """What a container's command prints; changes: of its process."""
    stream, client = box.client()
    request = box.request(*args, streams=(stream,))
    spec = request.spec
    made = box.start(replace(request, spec=replace(spec, process=replace(spec.process, **changes))))  # type: ignore[arg-type]
    out, err = client.frames()
    made.expect(Exited)
    return (out + err).decode()


def test_who_a_process_is_comes_from_the_images_files(box: Box) -> None:
    script = "grep -E '^(Uid|Gid|Groups|NoNewPrivs|CapBnd|Seccomp):' /proc/self/status; umask; ulimit -n; pwd"
    profile = seccomp.default_profile()
    lines = said(
        box, "sh", "-c", script, user="ada", groups=("root",), cwd="/srv/new", umask=0o027, no_new_privileges=True,
        capabilities=("CAP_CHOWN",), rlimits=(Rlimit("nofile", 100, 200),),
        seccomp=seccomp.compile(profile, ("CAP_CHOWN",)), seccomp_profile=profile,
    ).splitlines()  # fmt: skip
    assert [line.split() for line in lines] == [
        ["Uid:", *["1234"] * 4],
        ["Gid:", *["50"] * 4],
        ["Groups:", "0", "29", "50"],
        ["CapBnd:", f"{capabilities.mask(['CAP_CHOWN']):016x}"],
        ["NoNewPrivs:", "1"],
        ["Seccomp:", "2"],
        ["0027"],
        ["100"],
        ["/srv/new"],
    ]


def test_an_unknown_user_is_said_in_dockers_words(box: Box) -> None:
    request = box.request("true")
    spec = request.spec
    running = box.start(replace(request, spec=replace(spec, process=replace(spec.process, user="nobody"))))
    error = running.expect(StartError).error
    assert error.strerror == "unable to find user nobody: no matching entries in passwd file"
    assert error.call == "user" and box.driver.existing() == ()


def test_an_exec_is_somebody_else_and_hears_why_it_cannot_be(box: Box) -> None:
    running = box.start(box.request("sleep", "1000"))
    running.expect(Started)
    stream, client = box.client()
    running.monitor.exec(
        "e1", replace(process("sh", "-c", "ls -ldn /proc/self/"), user="1234:29"), stream, False, False
    )
    assert client.frames()[0].split()[2:4] == [b"1234", b"29"]
    running.expect(Exited)
    running.monitor.exec("e2", replace(process("true"), user="nobody"), None, False, False)
    assert "unable to find user nobody" in str(running.expect(ExecError).error)
    assert not [name for name in os.listdir(box.folder / "exec/containers" / running.monitor.id) if "exec" in name]


def test_a_runtimes_refusal_is_passed_on(box: Box) -> None:
    request = box.request("true", resources=Resources(cpuset_cpus="4000"))
    error = box.start(request).expect(StartError).error
    assert error.stage == "runtime" and "cpuset" in str(error)
    assert box.driver.existing() == ()


def test_an_unknown_runtime_is_refused(box: Box) -> None:
    with pytest.raises(InvalidParameter, match="unknown or invalid runtime name: none"):
        box.driver.start(replace(box.request("true"), runtime="none"))
    assert box.driver.existing() == ()


def test_limits_reach_the_cgroup_and_its_devices(box: Box) -> None:
    rules = ((False, "a", None, None, "rwm"), (True, "c", None, None, "m"), (True, "c", 1, 3, "rwm"))
    resources = Resources(pids=77, devices=tuple(DeviceRule(*rule) for rule in rules))
    request = box.request("sleep", "1000", resources=resources)
    messages = Device("/dev/kmsg", "c", 1, 11)  # null and its like a runtime may grant by itself
    running = box.start(replace(request, spec=replace(request.spec, devices=(*request.spec.devices, messages))))
    running.expect(Started)
    assert box.driver.figures(running.monitor.id).pids_limit == 77
    stream, client = box.client()
    running.monitor.exec("e1", process("sh", "-c", "ls /dev/kmsg && head -c 1 /dev/kmsg"), stream, False, False)
    out, err = client.frames()
    assert out == b"/dev/kmsg\n" and b"not permitted" in err


def test_the_hosts_mounts_do_not_show_a_containers_root(box: Box) -> None:
    running = box.start(box.request("sleep", "1000"))
    running.expect(Started)
    assert str(box.folder) not in Path("/proc/self/mountinfo").read_text()
    config = box.folder / "exec/containers" / running.monitor.id / "bundle/config.json"
    assert oci.VERSION in config.read_text()


def test_sysctls_of_the_network_are_set_where_the_container_is(box: Box) -> None:
    request = box.request("cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/conf/lo/forwarding")
    setup = NetworkSetup(sysctls=(("net.ipv4.ip_forward", "1"),))
    stream, client = box.client()
    spec = replace(request.spec, network=setup, sysctls=(("net.ipv4.conf.lo.forwarding", "0"),))
    box.start(replace(request, spec=spec, streams=(stream,))).expect(Exited)
    assert client.frames()[0].split() == [b"1", b"0"]


def test_nothing_is_left_of_a_container_whose_shim_was_killed(box: Box) -> None:
    running = box.start(box.request("sleep", "1000"))
    pid = running.expect(Started).pid
    id = running.monitor.id
    state = box.folder / "exec/containers" / id / "state"
    assert state.exists() and groups(f"{box.instance}/{id}")
    os.kill(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    running.expect(Lost)
    box.driver.delete(id)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the container's end")
    assert not state.exists() and not groups(f"{box.instance}/{id}") and box.driver.existing() == ()


def test_a_container_is_known_for_the_drivers_that_made_it(box: Box, tmp_path: Path) -> None:
    native: ExecDriver = NativeDriver(box.instance, str(tmp_path / "exec"))
    native.open()
    try:
        ours, theirs = box.request("sleep", "1000"), box.request("sleep", "1000")
        box.start(ours).expect(Started)
        box.watch(native.start(theirs)).expect(Started)
        for one, mine in ((ours, box.driver), (theirs, native)):
            assert [driver for driver in (box.driver, native) if driver.knows(one.spec.id)] == [mine]
    finally:
        box.clean()
        native.close()


def test_no_folder_is_covered_that_a_container_needs(tmp_path: Path) -> None:
    for name in ("one", "two", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "one/source").mkdir()
    (tmp_path / "data/link").symlink_to(tmp_path / "one/source")
    places = [str(tmp_path / name) for name in ("nothing", "one", "two")]
    assert unused([], places) == places[1]
    assert unused([str(tmp_path / "data"), "tmpfs", ""], places) == places[1]
    assert unused([str(tmp_path / "data/link")], places) == places[2]
    for needed in (places, ["/"], [str(tmp_path)]):
        with pytest.raises(ValueError, match="a user namespace needs one of"):
            unused(needed, places)
