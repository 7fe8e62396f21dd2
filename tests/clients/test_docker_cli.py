"""The real docker client (and pier, which has its grammar): what it prints, its exit codes, its formats and filters."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.engines import Engine
from tests.harness.images import busybox_rootfs
from tests.harness.processes import Output, wait_until

Client = Callable[..., Output]


@pytest.fixture(params=["docker", "pier"])
def client(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Client]:
    if request.param == "pier" and engine.kind != "pierd":
        pytest.skip("pier is tested with pierd")
    yield engine.docker if request.param == "docker" else engine.pier


def test_run_prints_the_id_and_ps_shows_it(client: Client) -> None:
    id = client("run", "-d", "--name", "web", "-p", "8081:8080", "web").check().stdout.strip()
    assert re.fullmatch(r"[0-9a-f]{64}", id)
    header, line = client("ps").check().lines
    assert re.split(r"\s{2,}", header) == ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert line.startswith(id[:12]) and "Up " in line and "8081->8080/tcp" in line and line.endswith("web")
    assert client("ps", "-q").lines == [id[:12]] and client("ps", "-q", "--no-trunc").lines == [id]
    assert client("port", "web").lines[0] == "8080/tcp -> 0.0.0.0:8081"


def test_exit_codes_are_the_containers_or_dockers(client: Client) -> None:
    assert client("run", "--rm", "busybox", "sh", "-c", "exit 42").status == 42
    missing = client("run", "--rm", "busybox", "nosuchprogram")
    assert missing.status == 127 and "executable file not found in $PATH" in missing.stderr
    assert client("run", "--rm", "busybox", "/etc/passwd").status == 126
    flag = client("run", "--no-such-flag", "busybox")
    assert flag.status == 125 and "unknown flag: --no-such-flag" in flag.stderr
    assert client("exec", "nobody", "true").status == 1
    assert "No such container: nobody" in client("exec", "nobody", "true").stderr


def test_rm_leaves_nothing_of_a_container_that_could_not_start(client: Client) -> None:
    assert client("run", "--rm", "--name", "gone", "busybox", "nosuchprogram").status == 127
    wait_until(lambda: client("ps", "-aq").stdout == "", "the removal")


def test_formats_and_filters(client: Client) -> None:
    client("run", "-d", "--name", "one", "--label", "tier=front", "busybox", "sleep", "1000").check()
    client("run", "--name", "two", "--label", "tier=back", "busybox", "false")
    assert client("ps", "-a", "--format", "{{.Names}}:{{.Image}}:{{.State}}").lines == [
        "two:busybox:exited",
        "one:busybox:running",
    ]
    assert client("ps", "-a", "--filter", "label=tier=back", "--format", "{{.Names}}").lines == ["two"]
    assert client("ps", "-a", "--filter", "status=exited", "--format", "{{.Names}}").lines == ["two"]
    assert client("ps", "--format", "table {{.Names}}\t{{.Image}}").lines[0].split() == ["NAMES", "IMAGE"]
    assert json.loads(client("ps", "--format", "{{json .}}").stdout)["Names"] == "one"
    assert client("inspect", "--format", "{{.State.Running}} {{.Config.Labels.tier}}", "one").lines == ["true front"]
    assert client("inspect", "-f", "{{json .HostConfig.NetworkMode}}", "one").stdout.strip() in (
        '"default"',
        '"bridge"',
    )
    assert (
        client("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "one").lines[0].count(".")
        == 3
    )
    assert client("ps", "-a", "-l", "-q").lines == client("ps", "-a", "-n", "1", "-q").lines


def test_inspect_of_what_is_not_there(client: Client) -> None:
    missing = client("inspect", "nobody")
    assert missing.status == 1 and missing.stdout.strip() == "[]" and "No such object: nobody" in missing.stderr


def test_images_list_history_tag_rmi(client: Client) -> None:
    header = client("images").check().lines[0]
    assert header.split()[:3] == ["REPOSITORY", "TAG", "IMAGE"]
    client("tag", "busybox", "other:tag").check()
    assert client("images", "--format", "{{.Repository}}:{{.Tag}}", "other").lines == ["other:tag"]
    assert client("images", "-q", "busybox").lines == client("images", "-q", "other").lines
    assert len(client("history", "busybox").check().lines) >= 2
    assert client("rmi", "other:tag").check().lines == ["Untagged: other:tag"]
    missing = client("rmi", "other:tag")
    assert missing.status == 1 and "No such image: other:tag" in missing.stderr


def test_import_save_load(client: Client, tmp_path: Path) -> None:
    (tmp_path / "rootfs.tar").write_bytes(busybox_rootfs())
    id = (
        client("import", "-c", 'CMD ["echo", "imported"]', str(tmp_path / "rootfs.tar"), "fresh:1")
        .check()
        .stdout.strip()
    )
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", id)
    assert client("run", "--rm", "fresh:1").check().stdout == "imported\n"
    client("save", "-o", str(tmp_path / "saved.tar"), "fresh:1").check()
    client("rmi", "fresh:1").check()
    assert client("load", "-i", str(tmp_path / "saved.tar")).check().lines[-1] == "Loaded image: fresh:1"
    assert client("images", "-q", "--no-trunc", "fresh").lines == [id]
    client("rmi", "fresh:1").check()
    piped = client("import", "-", "piped:1", stdin=busybox_rootfs()).check()
    assert piped.stdout.startswith("sha256:")
    client("rmi", "piped:1").check()


def test_a_missing_image_that_cannot_be_pulled_is_said(client: Client) -> None:
    said = client("run", "--rm", "127.0.0.1:5999/no/such:1", "true")
    assert said.status == 125 and "Unable to find image '127.0.0.1:5999/no/such:1' locally" in said.stderr
    assert "refused" in said.stderr
    assert client("run", "--pull", "never", "no-such-image", "true").status == 125


def test_life_by_the_client(client: Client) -> None:
    client("create", "--name", "life", "busybox", "sleep", "1000").check()
    assert client("start", "life").check().stdout == "life\n"
    assert client("pause", "life").check().stdout == "life\n"
    assert "(Paused)" in client("ps").stdout
    assert client("unpause", "life").check().stdout == "life\n"
    assert client("restart", "-t", "0", "life").check().stdout == "life\n"
    assert "sleep 1000" in client("top", "life").check().stdout
    assert client("rename", "life", "after").status == 0
    assert client("kill", "after").check().stdout == "after\n"
    assert client("wait", "after").check().stdout == "137\n"
    assert client("rm", "after").check().stdout == "after\n"
    refused = client("start", "after")
    assert refused.status == 1 and "No such container: after" in refused.stderr


def test_a_name_conflict_is_said(client: Client) -> None:
    client("create", "--name", "taken", "busybox").check()
    refused = client("run", "--name", "taken", "busybox", "true")
    assert refused.status == 125
    assert 'Conflict. The container name "/taken" is already in use by container' in refused.stderr


def test_options_of_run_reach_the_process(client: Client) -> None:
    script = "id -u; id -g; pwd; hostname; echo $A $B; cat /proc/self/limits | grep 'open files'; ls -d /mnt"
    words = ["-u", "33:10", "-w", "/tmp", "-h", "named", "-e", "A=1", "-e", "B=2", "--ulimit", "nofile=100:200"]
    lines = client("run", "--rm", *words, "busybox", "sh", "-c", script).lines
    assert lines[:5] == ["33", "10", "/tmp", "named", "1 2"]
    assert lines[5].split()[3:5] == ["100", "200"]


def test_entrypoint_user_by_name_and_groups(client: Client) -> None:
    assert client("run", "--rm", "--entrypoint", "echo", "busybox", "entry", "point").check().stdout == "entry point\n"
    assert client("run", "--rm", "-u", "www-data", "busybox", "id", "-u").check().stdout == "33\n"
    assert client(
        "run", "--rm", "-u", "www-data", "--group-add", "77", "busybox", "id", "-G"
    ).check().stdout.split() == ["33", "10", "29", "77"]
    unknown = client("run", "--rm", "-u", "nobodyknows", "busybox", "true")
    assert unknown.status in (125, 126) and "unable to find user nobodyknows" in unknown.stderr


def test_init_reaps_and_forwards_signals(client: Client) -> None:
    client(
        "run", "-d", "--init", "--name", "with-init", "busybox", "sh", "-c", "(sleep 0.01 &) ; exec sleep 1000"
    ).check()
    assert client("exec", "with-init", "sh", "-c", "cat /proc/1/comm").stdout.strip() != "sleep"
    client("stop", "with-init").check()
    assert client("inspect", "-f", "{{.State.ExitCode}}", "with-init").stdout.strip() == "143"


def test_privileges_are_dockers_defaults(client: Client) -> None:
    script = "grep -E 'CapEff|Seccomp:' /proc/1/status; mount -t tmpfs x /tmp || echo refused"
    said = client("run", "--rm", "busybox", "sh", "-c", script).stdout
    assert "CapEff:\t00000000a80425fb" in said and "Seccomp:\t2" in said and "refused" in said
    assert client("run", "--rm", "--cap-add", "SYS_ADMIN", "busybox", "mount", "-t", "tmpfs", "x", "/tmp").status == 0
    dropped = client("run", "--rm", "--cap-drop", "ALL", "busybox", "grep", "CapEff", "/proc/1/status").stdout
    assert dropped.split()[-1] == "0" * 16
    added = client(
        "run", "--rm", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "busybox", "grep", "CapEff", "/proc/1/status"
    )
    assert added.stdout.split()[-1] == "0000000000001000"


@pytest.mark.only_pierhead("runc refuses it where root itself lacks a capability")
def test_privileged_has_all_that_root_has(client: Client) -> None:
    assert client("run", "--rm", "--privileged", "busybox", "mount", "-t", "tmpfs", "x", "/tmp").status == 0


def test_limits_are_seen_inside_and_in_stats(client: Client) -> None:
    client(
        "run", "-d", "--name", "small", "-m", "32m", "--pids-limit", "30", "--cpus", "0.5", "busybox", "sleep", "1000"
    ).check()
    line = (
        client("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}", "small").check().stdout.split()
    )
    assert line[0] == "small" and line[3] == "32MiB" and line[-1] == "1"


def test_networks_by_the_client(client: Client) -> None:
    header = client("network", "ls").check().lines[0]
    assert header.split() == ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]
    id = client("network", "create", "--subnet", "10.211.0.0/24", "--label", "x=y", "own").check().stdout.strip()
    assert re.fullmatch(r"[0-9a-f]{64}", id)
    assert client("network", "ls", "-q", "--no-trunc", "--filter", "name=own").lines == [id]
    assert client("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "own").lines == ["10.211.0.0/24"]
    missing = client("network", "inspect", "nothing")
    assert missing.status == 1 and "network nothing not found" in missing.stderr
    assert client("network", "rm", "own").check().stdout == "own\n"


def test_volumes_by_the_client(client: Client) -> None:
    assert client("volume", "create", "data").check().stdout == "data\n"
    client("run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "echo kept > /d/f").check()
    assert client("run", "--rm", "--mount", "type=volume,src=data,dst=/d", "busybox", "cat", "/d/f").stdout == "kept\n"
    assert client("volume", "ls", "-q").lines == ["data"]
    assert client("volume", "inspect", "-f", "{{.Driver}}", "data").lines == ["local"]
    assert client("volume", "rm", "data").check().stdout == "data\n"


def test_events_by_the_client(client: Client, engine: Engine) -> None:
    start = time.time()
    client("run", "--rm", "--name", "told", "busybox", "true").check()
    wait_until(lambda: not client("ps", "-aq").stdout, "the removal")
    end = time.time() + 0.1
    words = ["events", "--since", f"{start:.9f}", "--until", f"{end:.9f}", "--format", "{{.Type}} {{.Action}}"]
    lines = client(*words).check().lines
    assert [
        line
        for line in lines
        if line.split()[1] in ("create", "start", "die", "destroy") and line.startswith("container")
    ] == ["container create", "container start", "container die", "container destroy"]


def test_version_and_info_are_printed(client: Client) -> None:
    assert "Server" in client("version").check().stdout
    assert client("info", "--format", "{{.Driver}}").check().stdout.strip() in ("overlay2", "vfs")


def test_system_df_and_prune(client: Client) -> None:
    client("run", "--name", "old", "busybox", "true").check()
    lines = client("system", "df").check().lines[:5]  # pier has more to say below
    assert [line.split()[0] for line in lines] == ["TYPE", "Images", "Containers", "Local", "Build"]
    assert "Total reclaimed space" in client("container", "prune", "-f").check().stdout
    assert client("ps", "-aq").stdout == ""
    client("create", "--name", "older", "busybox", "true").check()
    said = client("system", "prune", "-f").check().stdout
    assert said.startswith("Deleted Containers:\n") and "\n\nTotal reclaimed space: " in said


def test_links_between_containers_on_the_default_bridge(client: Client) -> None:
    client("run", "-d", "--name", "server", "busybox", "sleep", "1000").check()
    said = client("run", "--rm", "--add-host", "extra:10.0.0.9", "busybox", "cat", "/etc/hosts").check().stdout
    assert "10.0.0.9\textra" in said
