"""Requests that meet: whoever wins, every client gets a plain answer, and the engine is as if they had queued."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest

from tests.harness.api import Answer, Api, connect, demultiplex, waiting
from tests.harness.engines import Engine, Pierd
from tests.harness.images import busybox_rootfs, docker_archive, tar
from tests.harness.processes import wait_until
from tests.harness.reality import settled

ROUNDS = 8
PORT = {"PortBindings": {"80/tcp": [{"HostPort": "8081"}]}}


@pytest.fixture
def api(engine: Engine) -> Iterator[Api]:
    """After the race GraphDB and the machine agree."""
    yield engine.api
    if isinstance(engine, Pierd):
        assert settled(engine) == []


def together(*calls: Callable[[], Answer]) -> list[Answer]:
    """Every call from a thread of its own, at the same moment: the answers in the order of the calls."""
    barrier = threading.Barrier(len(calls))
    answers: list[Answer | BaseException] = [AssertionError("no answer")] * len(calls)

    def work(number: int) -> None:
        barrier.wait()
        try:
            answers[number] = calls[number]()
        except BaseException as error:
            answers[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = []
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
        found.append(answer)
    return found


def post(api: Api, path: str, body: object = None, **query: object) -> Callable[[], Answer]:
    return lambda: api.send("POST", path, body, **query)


def delete(api: Api, name: str) -> Callable[[], Answer]:
    return lambda: api.send("DELETE", f"/containers/{name}", force=1, v=1)


def statuses(answers: list[Answer], *allowed: int) -> list[int]:
    """The statuses; every one must be among the allowed."""
    for answer in answers:
        assert answer.status in allowed, f"{answer.status} {answer.body.decode(errors='replace')}"
    return [answer.status for answer in answers]


def test_start_against_forced_removal(api: Api) -> None:
    for _ in range(ROUNDS):
        id = api.create("sleep", "1000", HostConfig=PORT, Volumes={"/v": {}})
        started, removed = together(post(api, f"/containers/{id}/start"), delete(api, id))
        statuses([started], 204, 404, 409)
        statuses([removed], 204)
        assert api.send("GET", f"/containers/{id}/json").status == 404
        assert not api.get("/volumes")["Volumes"]


def test_creation_against_forced_removal_by_name(api: Api) -> None:
    for number in range(ROUNDS):
        name = f"young{number}"
        body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "Volumes": {"/v": {}}}
        created, *removed = together(
            post(api, "/containers/create", body, name=name), *[delete(api, name) for _ in range(4)]
        )
        statuses([created], 201)
        statuses(removed, 204, 404, 409)
        listed = [one["Id"] for one in api.get("/containers/json", all=1)]
        if listed:
            api.ok("POST", f"/containers/{name}/start")
            api.ok("DELETE", f"/containers/{name}", force=1, v=1)


def test_stop_against_stop(api: Api) -> None:
    id = api.run("sleep", "1000")
    got = statuses(together(*[post(api, f"/containers/{id}/stop", t=0) for _ in range(4)]), 204, 304)
    assert 204 in got
    state = api.inspect(id)["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 137)


def test_kill_against_removal(api: Api) -> None:
    for _ in range(ROUNDS):
        id = api.run("sleep", "1000")
        killed, removed = together(post(api, f"/containers/{id}/kill"), delete(api, id))
        statuses([killed], 204, 404, 409)
        statuses([removed], 204)


def test_removals_of_one_container_by_many(api: Api) -> None:
    id = api.run("sleep", "1000", HostConfig=PORT)
    got = statuses(together(*[delete(api, id) for _ in range(6)]), 204, 404, 409)
    assert 204 in got


@pytest.mark.parametrize("rest", ["0", "0.01", "0.03"])
def test_restart_of_a_container_that_is_just_ending(api: Api, rest: str) -> None:
    for _ in range(3):
        id = api.create("sh", "-c", f"sleep {rest}; exit 3", HostConfig=PORT)
        api.ok("POST", f"/containers/{id}/start")
        statuses(together(*[post(api, f"/containers/{id}/restart", t=1) for _ in range(3)]), 204)
        assert api.wait(id) == 3
        api.ok("DELETE", f"/containers/{id}")


@pytest.mark.only_pierhead("Debian's dockerd answers 500 where a container is being removed")
def test_restart_against_removal_and_auto_remove(api: Api) -> None:
    for _ in range(ROUNDS):
        id = api.run("sleep", "1000", HostConfig={**PORT, "AutoRemove": True})
        restarted, removed = together(post(api, f"/containers/{id}/restart", t=0), delete(api, id))
        statuses([restarted], 204, 404, 409)
        statuses([removed], 204, 404)
        wait_until(lambda: api.send("GET", f"/containers/{id}/json").status == 404, "its removal")  # noqa: B023


def test_stop_of_a_container_that_is_restarted_by_its_policy_all_the_time(api: Api) -> None:
    for _ in range(4):
        id = api.run("true", HostConfig={"RestartPolicy": {"Name": "always"}})
        wait_until(lambda: api.inspect(id)["RestartCount"] >= 1, "a restart")  # noqa: B023
        statuses(together(post(api, f"/containers/{id}/stop", t=1)), 204, 304)
        before = api.inspect(id)
        assert before["State"]["Status"] == "exited"
        time.sleep(0.5)
        assert api.inspect(id)["RestartCount"] == before["RestartCount"], "stopped is stopped"
        api.ok("DELETE", f"/containers/{id}")


@pytest.mark.only_pierhead("Debian's dockerd answers 500 where a container has just ended")
def test_pause_and_unpause_against_kill(api: Api) -> None:
    for _ in range(ROUNDS):
        id = api.run("sleep", "1000")
        answers = together(
            post(api, f"/containers/{id}/pause"),
            post(api, f"/containers/{id}/kill"),
            post(api, f"/containers/{id}/unpause"),
        )
        statuses(answers, 204, 409)
        statuses(answers[1:2], 204)
        assert api.inspect(id)["State"]["Status"] == "exited"
        api.ok("DELETE", f"/containers/{id}")


def test_two_creations_with_one_name(api: Api) -> None:
    for number in range(ROUNDS):
        body = {"Image": "busybox", "Cmd": ["true"], "Volumes": {"/v": {}}}
        answers = together(*[post(api, "/containers/create", body, name=f"one{number}") for _ in range(4)])
        assert sorted(statuses(answers, 201, 409)) == [201, 409, 409, 409]
        winner = next(answer.json["Id"] for answer in answers if answer.status == 201)
        for answer in answers:
            assert answer.status == 201 or winner in answer.message, "the loser hears who has the name"
    assert len(api.get("/containers/json", all=1)) == len(api.get("/volumes")["Volumes"]) == ROUNDS


@pytest.mark.only_pierhead("Debian's dockerd gives one port to two in some rounds")
def test_one_port_for_two_that_start_together(api: Api) -> None:
    for _ in range(ROUNDS):
        ids = [api.create("sleep", "1000", HostConfig=PORT) for _ in range(3)]
        answers = together(*[post(api, f"/containers/{id}/start") for id in ids])
        assert sorted(statuses(answers, 204, 500)) == [204, 500, 500]
        for answer in answers:
            assert answer.status == 204 or "port is already allocated" in answer.message
        for id in ids:
            api.ok("DELETE", f"/containers/{id}", force=1)


@pytest.mark.only_pierhead("a connect that meets the removal leaves dockerd's container with half an endpoint")
def test_network_removal_against_starts_and_connects(api: Api) -> None:
    def network(name: str) -> bool:
        return name in [one["Name"] for one in api.get("/networks")]

    for number in range(ROUNDS):
        name = f"n{number}"
        api.ok("POST", "/networks/create", {"Name": name})
        starting = api.create("sleep", "1000", HostConfig={"NetworkMode": name})
        running = api.run("sleep", "1000")
        started, connected, *removed = together(
            post(api, f"/containers/{starting}/start"),
            post(api, f"/networks/{name}/connect", {"Container": running}),
            *[partial(api.send, "DELETE", f"/networks/{name}")] * 2,
        )
        statuses([started], 204, 404)
        statuses([connected], 200, 404)
        gone = statuses(removed, 204, 403, 404)
        assert (204 in gone) is not network(name), "it is there or it is not"
        used = {started.status, connected.status} & {200, 204}
        assert not (used and 204 in gone), "what is in use is not removed"
        assert used or 204 in gone
        for id, joined in ((starting, started.status == 204), (running, connected.status == 200)):
            shown = api.inspect(id)
            assert (shown["State"]["Running"] and name in shown["NetworkSettings"]["Networks"]) is joined
            api.ok("DELETE", f"/containers/{id}", force=1)
        if 204 not in gone:
            api.ok("DELETE", f"/networks/{name}")


@pytest.mark.only_pierhead("Debian's dockerd removes the image of a container that is being made")
def test_image_removal_against_creation(api: Api) -> None:
    for number in range(ROUNDS):
        archive = docker_archive([tar({f"file{number}": "x" * 1000}), tar({f"other{number}": "y"})], ["short:lived"])
        api.ok("POST", "/images/load", raw=archive, content_type="application/x-tar")
        body = {"Image": "short:lived", "Cmd": ["x"]}
        created, removed = together(
            post(api, "/containers/create", body, name="user"), lambda: api.send("DELETE", "/images/short:lived")
        )
        statuses([created], 201, 404)
        statuses([removed], 200, 409)
        assert created.status != removed.status or (created.status, removed.status) == (201, 200)
        if created.status == 201:
            assert removed.status == 409, "an image that a container has is kept"
            assert api.ok("GET", "/containers/user/changes").body
            api.ok("DELETE", "/containers/user")
            api.ok("DELETE", "/images/short:lived")


def test_forty_runs_at_once(api: Api) -> None:
    def one(number: int) -> Callable[[], Answer]:
        def work() -> Answer:
            network = ("none", "bridge", "host")[number % 3]
            id = api.create("sh", "-c", f"echo number {number}", HostConfig={"NetworkMode": network})
            api.ok("POST", f"/containers/{id}/start")
            assert api.wait(id) == 0
            assert demultiplex(api.logs(id))[0] == f"number {number}\n".encode()
            return api.ok("DELETE", f"/containers/{id}")

        return work

    statuses(together(*[one(number) for number in range(40)]), 204)
    assert api.get("/containers/json", all=1) == []


def test_exec_while_its_container_dies(engine: Engine, api: Api) -> None:
    for number in range(ROUNDS):
        id = api.run("sleep", "1000")
        execs = [
            api.ok("POST", f"/containers/{id}/exec", {"Cmd": ["sh", "-c", "sleep 1000"], "AttachStdout": True}).json[
                "Id"
            ]
            for _ in range(3)
        ]

        def execute(exec_id: str) -> Callable[[], Answer]:
            def work() -> Answer:
                connection = api.hijack(f"/exec/{exec_id}/start", {"Detach": False})
                with connection.socket:
                    # A refusal leaves the connection open for another request.
                    output = connection.read_all() if connection.status == 101 else b""
                    return Answer(connection.status, {}, output)

            return work

        def kill() -> Answer:
            time.sleep(0.003 * number)  # noqa: B023
            return api.send("POST", f"/containers/{id}/kill")  # noqa: B023

        *executed, killed = together(*[execute(exec_id) for exec_id in execs], kill)
        statuses(executed, 101, 409)
        statuses([killed], 204)
        for exec_id in execs:
            told = api.send("GET", f"/exec/{exec_id}/json")
            if told.status == 404 and engine.kind == "docker":
                continue  # it forgets them
            assert not told.json["Running"], "it ended with its container"
        api.ok("DELETE", f"/containers/{id}")


@pytest.mark.parametrize("condition", ["not-running", "next-exit", "removed"])
def test_wait_on_a_container_that_is_removed(api: Api, condition: str) -> None:
    id = api.run("sleep", "1000")
    with waiting(api, id, condition) as answer:
        api.ok("DELETE", f"/containers/{id}", force=1)
        assert json.load(answer)["StatusCode"] == 137


@pytest.mark.only_pierhead("Debian's dockerd lets the client wait for ever")
def test_attach_to_one_that_never_starts_ends_when_it_is_removed(api: Api) -> None:
    id = api.create("cat", OpenStdin=True)
    attached = api.hijack(f"/containers/{id}/attach", stream=1, stdin=1, stdout=1, stderr=1)
    attached.socket.sendall(b"nobody reads this\n")
    api.ok("DELETE", f"/containers/{id}")
    with attached.socket:
        assert attached.read_all() == b""


def test_attach_to_one_whose_start_fails_ends(api: Api) -> None:
    id = api.create("/no/such/program")
    attached = api.hijack(f"/containers/{id}/attach", stream=1, stdout=1, stderr=1)
    assert api.send("POST", f"/containers/{id}/start").status == 400
    with attached.socket:
        assert attached.read_all() == b""


# Clients that leave ----------------------------------------------------------------------------------------------


def descriptors(pierd: Pierd) -> set[str]:
    """What the daemon has open: socket:[inode] and paths."""
    found = set()
    for number in os.listdir(f"/proc/{pierd.pid}/fd"):
        with suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/{pierd.pid}/fd/{number}"))
    return found


def unfinished(api: Api) -> list[str]:
    """The jobs that run, but for the one that says so."""
    jobs = api.get("/pierhead/jobs")
    return [job["name"] for job in jobs if job["duration"] is None and "/pierhead/jobs" not in job["name"]]


def leave(api: Api, method: str, path: str, body: bytes = b"", length: int | None = None, after: float = 0.05) -> None:
    """Send a request (perhaps only a part of its body), read a little, and close."""
    head = f"{method} /v1.41{path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    with connect(api.path) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(after)
        connection.setblocking(False)
        try:
            connection.recv(100)
        except BlockingIOError:
            pass


@pytest.fixture
def quiet(pierd: Pierd) -> Iterator[Pierd]:
    """A daemon that has done everything once; afterwards it has as many descriptors as before, and no job."""
    id = pierd.api.run("sh", "-c", "while :; do echo x; sleep 0.01; done", name="talks")
    made = pierd.api.ok("POST", f"/containers/{id}/exec", {"Cmd": ["true"]}).json["Id"]
    pierd.api.ok("POST", f"/exec/{made}/start", {"Detach": True})
    pierd.api.run("true", name="once", HostConfig=PORT)
    pierd.api.ok("DELETE", "/containers/once", force=1)
    base = descriptors(pierd)
    yield pierd
    end = time.monotonic() + 30
    while (more := descriptors(pierd) - base) and time.monotonic() < end:
        time.sleep(0.1)
    assert not more, f"still open: {more}\n{pierd.host.run('ss', '-xap').stdout}"
    wait_until(lambda: not unfinished(pierd.api), f"the end of {unfinished(pierd.api)}", timeout=20)
    assert settled(pierd) == []


@pytest.mark.only_pierhead("descriptors of ours")
def test_clients_that_leave_in_the_middle_of_a_stream_hold_nothing(quiet: Pierd) -> None:
    api = quiet.api
    for _ in range(20):
        for path in (
            "/containers/talks/logs?stdout=1&follow=1",
            "/events",
            "/containers/talks/stats",
        ):
            leave(api, "GET", path, after=0.01)
        leave(api, "POST", "/containers/talks/attach?stream=1&stdout=1&stderr=1", after=0.01)
        leave(api, "POST", "/containers/talks/wait", after=0.01)


@pytest.mark.only_pierhead("descriptors of ours")
def test_clients_that_leave_in_the_middle_of_an_exec_hold_nothing(quiet: Pierd) -> None:
    api = quiet.api
    for number in range(20):
        body = {"Cmd": ["sh", "-c", "cat; echo over"], "AttachStdin": True, "AttachStdout": True}
        made = api.ok("POST", "/containers/talks/exec", body).json["Id"]
        leave(api, "POST", f"/exec/{made}/start", b"{}", after=0.004 * (number % 5))
    wait_until(lambda: not api.inspect("talks")["ExecIDs"], "the end of every exec", timeout=20)


@pytest.mark.only_pierhead("descriptors of ours")
def test_clients_that_leave_in_the_middle_of_a_body_leave_no_image_and_no_file(quiet: Pierd) -> None:
    api = quiet.api
    images = len(api.get("/images/json"))
    rootfs = busybox_rootfs()
    archive = docker_archive([tar({"file": "x" * 3_000_000})], ["never:complete"])
    for share in (0.0, 0.3, 0.9):
        leave(api, "POST", "/images/create?fromSrc=-&repo=never", rootfs[: int(len(rootfs) * share)], len(rootfs))
        leave(api, "POST", "/images/load", archive[: int(len(archive) * share)], len(archive))
    wait_until(lambda: not list((quiet.data_root / "tmp").iterdir()), "an empty scratch folder")
    assert len(api.get("/images/json")) == images


@pytest.mark.only_pierhead("descriptors of ours")
def test_clients_that_leave_in_the_middle_of_a_run_leave_whole_containers_only(quiet: Pierd) -> None:
    """Create and start are finished once begun; a client of `run -it` that vanishes leaves its container running."""
    api = quiet.api
    body = b'{"Image":"busybox","Cmd":["sleep","1000"],"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"%d"}]}}}'
    for number in range(10):
        leave(api, "POST", f"/containers/create?name=left{number}", body % (9000 + number), after=0.002 * (number % 3))
    wait_until(lambda: len(api.get("/containers/json", all=1)) == 11, "ten containers")
    for number in range(10):
        leave(api, "POST", f"/containers/left{number}/start", after=0.003 * (number % 4))
    wait_until(lambda: len(api.get("/containers/json")) == 11, "ten running containers")
    assert settled(quiet) == []
    for number in range(10):
        leave(api, "POST", f"/containers/left{number}/stop?t=0", after=0.003 * (number % 4))
    wait_until(lambda: len(api.get("/containers/json")) == 1, "ten stopped containers")
    for number in range(10):
        leave(api, "DELETE", f"/containers/left{number}", after=0.003 * (number % 4))
    wait_until(lambda: len(api.get("/containers/json", all=1)) == 1, "ten removed containers")


@pytest.mark.only_pierhead("descriptors of ours")
def test_three_hundred_clients_that_attach_before_a_start_and_leave(quiet: Pierd) -> None:
    api = quiet.api
    id = api.create("echo", "hi", name="later")
    for _ in range(300):
        api.hijack(f"/containers/{id}/attach", stream=1, stdout=1, stderr=1).socket.close()
    stays = api.hijack(f"/containers/{id}/attach", stream=1, stdout=1, stderr=1)
    api.ok("POST", f"/containers/{id}/start")
    with stays.socket:
        assert demultiplex(stays.read_all())[0] == b"hi\n"
    api.ok("DELETE", f"/containers/{id}", force=1)
