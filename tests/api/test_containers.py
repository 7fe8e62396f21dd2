"""Containers through the raw API: what a client relies on in each answer, and Docker's refusals."""

import json
import re
import socket
import time

import pytest

from tests.harness.api import Api, connect, demultiplex, frames, waiting
from tests.harness.engines import Engine
from tests.harness.processes import wait_until

NANOS = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$")
NEVER = "0001-01-01T00:00:00Z"


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


def test_a_containers_life_is_told_by_inspect(api: Api) -> None:
    id = api.create("sh", "-c", "sleep 0.3; exit 3", name="life", Labels={"a": "b"}, Env=["X=1"])
    assert re.fullmatch(r"[0-9a-f]{64}", id)
    made = api.inspect("life")
    assert made["Id"] == id and made["Name"] == "/life" and made["Config"]["Labels"] == {"a": "b"}
    assert made["State"]["Status"] == "created" and made["State"]["StartedAt"] == NEVER
    assert made["Path"] == "sh" and made["Args"] == ["-c", "sleep 0.3; exit 3"]
    assert "X=1" in made["Config"]["Env"]
    assert made["Image"].startswith("sha256:") and made["Config"]["Image"] == "busybox"
    assert made["HostConfig"]["NetworkMode"] in ("default", "bridge")  # 20.10 and 28

    assert api.ok("POST", f"/containers/{id[:12]}/start").status == 204
    running = api.inspect(id)["State"]
    assert running["Status"] == "running" and running["Running"] and running["Pid"] > 0
    assert NANOS.match(running["StartedAt"]) and running["FinishedAt"] == NEVER
    assert api.wait(id) == 3
    ended = api.inspect(id)["State"]
    assert (ended["Status"], ended["ExitCode"], ended["Pid"], ended["OOMKilled"]) == ("exited", 3, 0, False)
    assert NANOS.match(ended["FinishedAt"]) and ended["FinishedAt"] > ended["StartedAt"]
    assert api.ok("DELETE", f"/containers/{id}").status == 204
    assert api.send("GET", f"/containers/{id}/json").status == 404


def test_what_cannot_be_done_is_refused_in_dockers_words(api: Api) -> None:
    missing = api.send("GET", "/containers/nobody/json")
    assert (missing.status, missing.message) == (404, "No such container: nobody")
    for method, path in (
        ("POST", "start"),
        ("POST", "stop"),
        ("POST", "kill"),
        ("GET", "logs?stdout=1"),
        ("POST", "wait"),
    ):
        refused = api.send(method, f"/containers/nobody/{path}")
        assert refused.status == 404 and refused.message.endswith("No such container: nobody"), path

    image = api.send("POST", "/containers/create", {"Image": "not-there", "Cmd": ["x"]})
    assert (image.status, image.message) == (404, "No such image: not-there:latest")
    id = api.create("true", name="taken")
    twice = api.send("POST", "/containers/create", {"Image": "busybox"}, name="taken")
    assert twice.status == 409
    assert twice.message == (
        f'Conflict. The container name "/taken" is already in use by container "{id}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )
    bad = api.send("POST", "/containers/create", {"Image": "busybox"}, name="no spaces")
    assert bad.status == 400 and "Invalid container name (no spaces)" in bad.message
    # Debian's dockerd 20.10 calls malformed JSON an error of its own.
    assert api.send("POST", "/containers/create", raw=b"{this is no json").status in (400, 500)
    assert api.send("POST", "/containers/create", raw=b"").status in (400, 500)
    assert len(api.get("/containers/json", all=1)) == 1, "nothing was left by what was refused"


def test_a_running_container_is_protected(api: Api) -> None:
    id = api.run("sleep", "1000", name="up")
    assert api.send("POST", f"/containers/{id}/start").status == 304
    refused = api.send("DELETE", f"/containers/{id}")
    assert refused.status == 409 and "remove" in refused.message
    assert api.send("DELETE", f"/containers/{id}", force=1).status == 204


def test_a_stopped_container_refuses_what_needs_a_running_one(api: Api) -> None:
    id = api.create("true", name="down")
    killed = api.send("POST", f"/containers/{id}/kill")
    assert killed.status == 409 and killed.message.endswith("is not running")
    executed = api.send("POST", f"/containers/{id}/exec", {"Cmd": ["true"]})
    # 28 writes "container" small, here and in other messages.
    assert (executed.status, executed.message.lower()) == (409, f"container {id} is not running")
    assert api.send("POST", f"/containers/{id}/stop").status == 304
    assert api.send("POST", f"/containers/{id}/pause").status == 409


def test_a_missing_program_is_said_and_the_status_is_127(api: Api) -> None:
    id = api.create("/no/such/program")
    refused = api.send("POST", f"/containers/{id}/start")
    assert refused.status == 400 and "no such file or directory" in refused.message
    state = api.inspect(id)["State"]
    assert state["ExitCode"] == 127 and not state["Running"] and "no such file" in state["Error"]


def test_a_program_not_in_path_is_said(api: Api) -> None:
    id = api.create("nosuchprogram")
    refused = api.send("POST", f"/containers/{id}/start")
    assert refused.status == 400 and "executable file not found in $PATH" in refused.message
    assert api.inspect(id)["State"]["ExitCode"] == 127


def test_a_file_that_may_not_be_executed_gives_126(api: Api) -> None:
    id = api.create("/etc/passwd")
    refused = api.send("POST", f"/containers/{id}/start")
    assert refused.status in (400, 500) and "permission denied" in refused.message
    assert api.inspect(id)["State"]["ExitCode"] == 126


def test_a_limit_that_may_not_be_set_gives_128(api: Api) -> None:
    wanted = {"Name": "nofile", "Soft": 2_000_000_000, "Hard": 2_000_000_000}
    id = api.create("true", HostConfig={"Ulimits": [wanted]})
    refused = api.send("POST", f"/containers/{id}/start")
    why = "error during container init: error setting rlimits for ready process: error setting rlimit type 7: operation"
    assert refused.status == 500 and f"{why} not permitted: unknown" in refused.message
    state = api.inspect(id)["State"]
    assert state["ExitCode"] == 128 and state["Error"] == refused.message


def test_stop_sends_term_and_then_kill(api: Api) -> None:
    polite = api.run("sh", "-c", "trap 'exit 7' TERM; echo set; while :; do sleep 0.05; done")
    wait_until(lambda: api.logs(polite), "the trap")
    deaf = api.run("sleep", "1000")
    assert api.ok("POST", f"/containers/{polite}/stop").status == 204
    assert api.inspect(polite)["State"]["ExitCode"] == 7
    api.ok("POST", f"/containers/{deaf}/stop", t=0)
    assert api.inspect(deaf)["State"]["ExitCode"] == 137


def test_stop_uses_the_containers_own_signal(api: Api) -> None:
    id = api.run("sh", "-c", "trap 'exit 8' USR1; echo set; while :; do sleep 0.05; done", StopSignal="SIGUSR1")
    wait_until(lambda: api.logs(id), "the trap")
    api.ok("POST", f"/containers/{id}/stop")
    assert api.inspect(id)["State"]["ExitCode"] == 8


@pytest.mark.parametrize("signal", ["SIGUSR1", "USR1", "10"])
def test_kill_takes_a_signal_by_name_and_number(api: Api, signal: str) -> None:
    id = api.run("sh", "-c", "trap 'exit 9' USR1; echo up; while :; do sleep 0.05; done")
    wait_until(lambda: api.logs(id), "the trap")
    api.ok("POST", f"/containers/{id}/kill", signal=signal)
    assert api.wait(id) == 9
    refused = api.send("POST", f"/containers/{api.run('sleep', '1000')}/kill", signal="SIGNOTHING")
    assert refused.status == 400 and "invalid signal: SIGNOTHING" in refused.message.replace("Invalid", "invalid")


def test_killed_by_a_signal_is_128_and_its_number(api: Api) -> None:
    id = api.run("sleep", "1000")
    api.ok("POST", f"/containers/{id}/kill")
    assert api.wait(id) == 137


def test_restart_keeps_the_container_and_changes_its_process(api: Api) -> None:
    id = api.run("sh", "-c", "echo again >> /count; sleep 1000")
    wait_until(lambda: executed(api, id, "cat", "/count") == "again\n", "the first start wrote")
    first = api.inspect(id)["State"]
    api.ok("POST", f"/containers/{id}/restart", t=0)
    second = api.inspect(id)["State"]
    assert second["Running"] and second["Pid"] != first["Pid"] and second["StartedAt"] > first["StartedAt"]
    wait_until(lambda: executed(api, id, "cat", "/count") == "again\nagain\n", "both starts wrote to one layer")


def executed(api: Api, id: str, *command: str, **config: object) -> str:
    """What a command run inside prints."""
    body = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True, **config}
    exec_id = api.ok("POST", f"/containers/{id}/exec", body).json["Id"]
    return b"".join(
        payload for _, payload in frames(api.ok("POST", f"/exec/{exec_id}/start", {"Detach": False}).body)
    ).decode()


def test_rename_is_seen_everywhere_and_refuses_a_taken_name(api: Api) -> None:
    id = api.create("true", name="old")
    api.create("true", name="other")
    assert api.ok("POST", f"/containers/{id}/rename", name="new").status == 204
    assert api.inspect("new")["Id"] == id and api.send("GET", "/containers/old/json").status == 404
    refused = api.send("POST", "/containers/new/rename", name="other")
    assert refused.status == 409 and "is already in use" in refused.message


def test_wait_waits_for_the_condition_asked_for(api: Api) -> None:
    id = api.create("sh", "-c", "exit 5", HostConfig={"AutoRemove": True})
    with waiting(api, id, "removed") as removed, waiting(api, id, "next-exit") as next_exit:
        api.ok("POST", f"/containers/{id}/start")
        assert json.load(removed)["StatusCode"] == json.load(next_exit)["StatusCode"] == 5
    assert api.send("GET", f"/containers/{id}/json").status == 404


def test_lists_are_filtered_and_limited(api: Api) -> None:
    running = api.run("sleep", "1000", name="run-1", Labels={"tier": "front", "x": ""})
    stopped = api.run("sh", "-c", "exit 4", name="stop-1", Labels={"tier": "back"})
    created = api.create("true", name="made-1")
    api.wait(stopped)

    def ids(**query: object) -> set[str]:
        return {entry["Id"] for entry in api.get("/containers/json", **query)}

    assert ids() == {running}
    assert ids(all=1) == {running, stopped, created}
    assert ids(all=1, limit=1) == {created}
    for filters, expected in (
        ({"status": ["exited"]}, {stopped}),
        ({"status": ["created", "running"]}, {created, running}),
        ({"label": ["tier"]}, {running, stopped}),
        ({"label": ["tier=front"]}, {running}),
        ({"label": ["tier", "x"]}, {running}),
        ({"name": ["^/?stop"]}, {stopped}),
        ({"name": ["1"]}, {running, stopped, created}),
        ({"id": [running[:12]]}, {running}),
        ({"exited": ["4"]}, {stopped}),
        ({"ancestor": ["busybox"]}, {running, stopped, created}),
        ({"ancestor": ["web"]}, set()),
        ({"since": ["run-1"]}, {stopped, created}),
        ({"before": ["made-1"]}, {running, stopped}),
        ({"network": ["bridge"]}, {running, stopped, created}),
    ):
        assert ids(all=1, filters=filters) == expected, filters
    refused = api.send("GET", "/containers/json", filters={"nonsense": ["x"]})
    assert refused.status == 400 and "nonsense" in refused.message
    entry = api.get("/containers/json", filters={"id": [running]})[0]
    assert entry["Names"] == ["/run-1"] and entry["Image"] == "busybox" and entry["Command"] == "sleep 1000"
    assert entry["State"] == "running" and entry["Status"].startswith("Up ") and isinstance(entry["Created"], int)
    assert "bridge" in entry["NetworkSettings"]["Networks"]


def test_prune_takes_the_stopped_and_says_how_much(api: Api) -> None:
    running = api.run("sleep", "1000")
    stopped = api.run("sh", "-c", "dd if=/dev/zero of=/file bs=1024 count=100")
    api.wait(stopped)
    for what in ("containers", "networks", "images"):
        refused = api.send("POST", f"/{what}/prune", filters={"until": [""]})
        assert refused.status >= 400 and refused.message == 'failed to parse value as time or duration: ""'
    answer = api.ok("POST", "/containers/prune").json
    assert answer["ContainersDeleted"] == [stopped] and answer["SpaceReclaimed"] >= 102400
    assert [entry["Id"] for entry in api.get("/containers/json", all=1)] == [running]


def test_logs_are_framed_by_stream_and_raw_with_a_terminal(api: Api) -> None:
    plain = api.run("sh", "-c", "echo out; echo err >&2")
    terminal = api.run("sh", "-c", "echo out", Tty=True)
    api.wait(plain)
    api.wait(terminal)
    assert demultiplex(api.logs(plain)) == (b"out\n", b"err\n")
    assert demultiplex(api.logs(plain, stderr=0)) == (b"out\n", b"")
    assert api.logs(terminal) == b"out\r\n"
    refused = api.send("GET", f"/containers/{plain}/logs")
    assert refused.status == 400
    assert refused.message == "Bad parameters: you must choose at least one stream"


def test_logs_since_until_and_tail(api: Api) -> None:
    id = api.run("sh", "-c", "echo one; echo two; sleep 1.5; echo three")
    api.wait(id)
    stamps = [payload.split()[0].decode() for _, payload in frames(api.logs(id, timestamps=1))]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", stamp) for stamp in stamps)
    assert demultiplex(api.logs(id, tail=1))[0] == b"three\n"
    assert demultiplex(api.logs(id, tail="all"))[0] == b"one\ntwo\nthree\n"
    assert demultiplex(api.logs(id, tail=0))[0] == b""
    second = int(api.inspect(id)["Created"] and time.time()) - 3600
    assert demultiplex(api.logs(id, since=second))[0] == b"one\ntwo\nthree\n"
    assert demultiplex(api.logs(id, since=int(time.time()) + 3600))[0] == b""
    assert demultiplex(api.logs(id, until=second))[0] == b""


def test_a_long_line_comes_back_whole(api: Api) -> None:
    id = api.run("sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo; echo end")
    api.wait(id)
    assert demultiplex(api.logs(id))[0] == b"x" * 100000 + b"\nend\n"


def test_attach_with_logs_gives_the_past_and_then_the_stream(api: Api) -> None:
    id = api.run("sh", "-c", "echo before; read x; echo after", OpenStdin=True)
    wait_until(lambda: api.logs(id), "the first line")
    stream = api.hijack(f"/containers/{id}/attach", logs=1, stream=1, stdin=1, stdout=1, stderr=1)
    with stream.socket:
        assert stream.status == 101 and "application/vnd.docker.raw-stream" in stream.head
        early = stream.read_until(b"before\n")
        stream.socket.sendall(b"\n")
        rest = b""
        while chunk := stream.socket.recv(4096):
            rest += chunk
        assert demultiplex(early + rest)[0] == b"before\nafter\n"


def test_attach_without_upgrade_is_answered_200(api: Api) -> None:
    id = api.create("echo", "hello")
    stream = api.hijack(f"/containers/{id}/attach", upgrade=False, stream=1, stdout=1)
    with stream.socket:
        assert stream.status == 200
        api.ok("POST", f"/containers/{id}/start")
        assert demultiplex(stream.read_all())[0] == b"hello\n"


def test_half_closed_stdin_ends_the_program_and_its_answer_still_comes(api: Api) -> None:
    id = api.create("sh", "-c", "cat; echo finished", OpenStdin=True, StdinOnce=True, AttachStdin=True)
    stream = api.hijack(f"/containers/{id}/attach", stream=1, stdin=1, stdout=1)
    with stream.socket:
        api.ok("POST", f"/containers/{id}/start")
        stream.socket.sendall(b"data\n")
        stream.socket.shutdown(socket.SHUT_WR)
        assert demultiplex(stream.read_all())[0] == b"data\nfinished\n"


@pytest.mark.only_pierhead("dockerd drops what came before its 101")
def test_stdin_sent_with_the_request_is_not_lost(api: Api) -> None:
    id = api.run("head", "-n", "1", OpenStdin=True, StdinOnce=True)
    with connect(api.path) as connection:
        head = f"POST /{api.version}/containers/{id}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n"
        connection.sendall(head.encode() + b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly bird\n")
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 101 ") and answer.endswith(b"early bird\n")


def test_top_shows_the_processes_with_the_hosts_ids(api: Api) -> None:
    id = api.run("sh", "-c", "sleep 1111 & sleep 2222")
    wait_until(lambda: "sleep 1111" in str(api.get(f"/containers/{id}/top")), "the child")
    answer = api.get(f"/containers/{id}/top")
    assert answer["Titles"][-1] == "CMD" and "PID" in answer["Titles"]
    column = answer["Titles"].index("PID")
    assert str(api.inspect(id)["State"]["Pid"]) in [row[column] for row in answer["Processes"]]
    custom = api.get(f"/containers/{id}/top", ps_args="-o pid,comm")
    assert custom["Titles"] == ["PID", "COMMAND"]
    assert api.send("GET", f"/containers/{api.create('true')}/top").status == 409


def test_changes_name_what_was_added_changed_and_deleted(api: Api) -> None:
    id = api.run("sh", "-c", "echo x > /new; echo y >> /etc/passwd; rm /etc/os-release; rm /.dockerenv")
    assert api.wait(id) == 0, "how programs know that they are in a container"
    changes = {entry["Path"]: entry["Kind"] for entry in api.get(f"/containers/{id}/changes")}
    assert changes == {"/new": 1, "/etc": 0, "/etc/passwd": 0, "/etc/os-release": 2, "/.dockerenv": 2}


def test_changes_show_the_folders_that_mounts_needed(api: Api) -> None:
    host = {"Binds": ["vol:/new/place", "/etc/hostname:/f/g"], "Tmpfs": {"/t": ""}}
    id = api.run("true", HostConfig=host)
    api.wait(id)
    changes = {entry["Path"]: entry["Kind"] for entry in api.get(f"/containers/{id}/changes")}
    assert changes == dict.fromkeys(("/new", "/new/place", "/f", "/f/g", "/t"), 1)


def test_auto_removed_containers_vanish(api: Api) -> None:
    id = api.run("true", HostConfig={"AutoRemove": True})
    wait_until(lambda: api.send("GET", f"/containers/{id}/json").status == 404, "the removal")


@pytest.mark.parametrize(
    ("policy", "code", "count"),
    [
        ({"Name": "on-failure", "MaximumRetryCount": 2}, 1, 2),
        ({"Name": "on-failure", "MaximumRetryCount": 3}, 0, 0),
        ({"Name": "no"}, 1, 0),
    ],
)
def test_restart_policies_restart_what_they_should(api: Api, policy: dict[str, object], code: int, count: int) -> None:
    id = api.run("sh", "-c", f"exit {code}", HostConfig={"RestartPolicy": policy})
    wait_until(lambda: api.inspect(id)["State"]["Status"] == "exited", "the end")
    seen = api.inspect(id)
    assert seen["RestartCount"] == count and seen["State"]["ExitCode"] == code


def test_always_restarts_until_it_is_stopped(api: Api) -> None:
    id = api.run("sh", "-c", "sleep 0.1; exit 0", HostConfig={"RestartPolicy": {"Name": "always"}})
    # Each of its runs ends, and who waits for one is told.
    for condition in ("", "not-running", "next-exit"):
        assert api.ok("POST", f"/containers/{id}/wait", condition=condition).json["StatusCode"] == 0
    wait_until(lambda: api.inspect(id)["RestartCount"] >= 2, "two restarts")
    api.ok("POST", f"/containers/{id}/stop", t=0)
    state = api.inspect(id)["State"]
    assert state["Status"] == "exited" and not state["Restarting"]


def test_a_policy_that_contradicts_auto_remove_is_refused(api: Api) -> None:
    body = {"Image": "busybox", "HostConfig": {"AutoRemove": True, "RestartPolicy": {"Name": "always"}}}
    refused = api.send("POST", "/containers/create", body)
    assert refused.status == 400
    assert "can't create 'AutoRemove' container with restart policy" in refused.message
