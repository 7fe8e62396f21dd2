"""A container is written out as an OCI bundle, and the real runc runs it."""

import json
import stat
from pathlib import Path

import pytest

from tests.harness.engines import Engine
from tests.harness.ociruntimes import oci_runtime
from tests.harness.processes import Output, run

pytestmark = pytest.mark.only_pierhead("dockerd writes no bundles")


@pytest.fixture
def runtime() -> str:
    return oci_runtime()


def run_bundle(runtime: str, folder: Path) -> Output:
    """``runc run`` of a bundle, to its end."""
    return run([runtime, "--root", str(folder.parent / "state"), "run", "--bundle", str(folder), folder.name])


def test_runc_runs_what_a_container_was_with_what_it_had_changed(engine: Engine, runtime: str, tmp_path: Path) -> None:
    script = (
        "[ -e /var/tmp/been ] && echo again || echo first; touch /var/tmp/been; cat /data/kept; "
        "id -u; id -G; pwd; hostname; "
        "cat /etc/hostname; grep -c localhost /etc/hosts; echo $A $HOME; grep CapBnd /proc/self/status | cut -f2; "
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ls /sys/class/net; mount | grep -c scratch; "
        "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; exit 5"
    )
    engine.docker("run", "--rm", "-v", "kept:/data", "busybox", "sh", "-c", "echo kept >/data/kept").check()
    options = "--name box -u www-data -w /var/www -e A=b --hostname h --cap-drop ALL --cap-add chown --tmpfs /scratch"
    words = [
        *options.split(),
        "--annotation",
        "a.b=c",
        "--pids-limit",
        "44",
        "--network",
        "none",
        "-v",
        "kept:/data",
        "busybox",
        "sh",
        "-c",
    ]
    prepare = "cp /bin/busybox /home/su && chmod 4755 /home/su"
    engine.docker("run", "--name", "prepared", "busybox", "sh", "-c", prepare).check()
    engine.docker("create", *words, script).check()
    first = engine.docker("start", "-a", "box")
    folder = tmp_path / "bundle"
    engine.pier("container", "bundle", "box", str(folder)).check()

    config = json.loads((folder / "config.json").read_text())
    assert config["process"]["args"][0] == "sh" and "cgroupsPath" not in config["linux"]
    assert "hooks" not in config and config["annotations"] == {"a.b": "c"}, "what it was asked to have, no more"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    again = run_bundle(runtime, folder)
    assert (first.status, again.status) == (5, 5), again.stderr
    assert (first.lines[0], again.lines[0]) == ("first", "again")
    assert again.lines[1:] == first.lines[1:]
    assert first.lines[1:4] == ["kept", "33", "33 10 29"]

    engine.pier("container", "bundle", "prepared", str(tmp_path / "prepared")).check()
    assert stat.S_IMODE((tmp_path / "prepared/rootfs/home/su").stat().st_mode) == 0o4755
    assert (tmp_path / "prepared/rootfs/bin").is_dir()


def test_a_container_that_runs_or_was_never_started_has_a_bundle_too(
    engine: Engine, runtime: str, tmp_path: Path
) -> None:
    engine.docker("run", "-d", "--name", "runs", "busybox", "sh", "-c", "hostname; sleep 0; exec sleep 1000").check()
    engine.docker("create", "--name", "never", "-h", "never", "busybox", "cat", "/etc/hostname", "/etc/hosts").check()
    engine.pier("container", "bundle", "runs", str(tmp_path / "runs")).check()
    assert (tmp_path / "runs/rootfs/bin/busybox").exists()
    (tmp_path / "never").mkdir()
    engine.pier("container", "bundle", "never", str(tmp_path / "never")).check()
    said = run_bundle(runtime, tmp_path / "never").check().lines
    assert said[0] == "never" and "localhost" in said[1]


def test_what_cannot_be_a_bundle_is_refused(engine: Engine, tmp_path: Path) -> None:
    assert "No such container: nobody" in engine.pier("container", "bundle", "nobody", str(tmp_path / "x")).stderr
    assert not (tmp_path / "x").exists()
    engine.docker("run", "-d", "--name", "one", "busybox", "sleep", "1000").check()
    engine.docker("create", "--name", "two", "--network", "container:one", "busybox", "true").check()
    refused = engine.pier("container", "bundle", "two", str(tmp_path / "x"))
    assert refused.status == 1 and "shares the network namespace of another container" in refused.stderr
    assert engine.api.send("GET", "/pierhead/containers/two/bundle").status == 409
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert "is not empty" in engine.pier("container", "bundle", "one", str(tmp_path / "full")).stderr
    assert "not a directory" in engine.pier("container", "bundle", "one", str(tmp_path / "full/file")).stderr
