"""Jobs that have to wait, and what somebody else has done meanwhile: the spot is held, so that it always happens."""

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pierhead.daemon.config import Config
from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.engine.hostwatch import Seen
from pierhead.daemon.engine.running import ExecInstance, Running, watch
from pierhead.daemon.jobs import (
    attachments,
    containers,
    creation,
    endings,
    execs,
    host_changes,
    images,
    lifecycle,
    links,
    log_truncation,
    memberships,
    netfiles,
    networks,
    removal,
    restarts,
    specs,
    streams,
    supervise,
)
from pierhead.daemon.jobs.mounts import Wanted
from pierhead.daemon.jobs.network_rows import insert
from pierhead.driver.execdriver.api import Event, ExecError, ExecStarted, Exited, Monitor
from pierhead.driver.graphdriver.vfs import VfsDriver
from pierhead.driver.networkdriver.api import Network
from pierhead.errors import Conflict, InvalidParameter, NoSuchImage, NoSuchNetwork
from pierhead.graph.containers import Container, Containers
from pierhead.graph.graph import Graph
from pierhead.graph.graphdb import GraphDB
from pierhead.graph.state import State
from pierhead.libcontainer.spec import SetupFailed
from pierhead.reference import Reference, parse
from pierhead.wire.containers import ContainerUpdateRequest, PortBinding
from pierhead.wire.execs import ExecStartConfig
from pierhead.wire.networks import NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest

WEB, DB = "a" * 64, "b" * 64
NET = "c" * 64


class Talker:
    """A container's Monitor that tells what it is given, all at once, and keeps what it is asked."""

    id = WEB

    def __init__(self) -> None:
        self._ends = os.pipe()
        self._told: tuple[Event, ...] = ()
        self.asked: list[object] = []

    def fileno(self) -> int:
        return self._ends[0]

    def tell(self, *events: Event) -> None:
        self._told = events
        os.write(self._ends[1], b"x")

    def events(self) -> tuple[Event, ...]:
        os.read(self._ends[0], 1)
        return self._told

    def attach(self, stream: Any) -> None:
        self.asked.append("attach")
        stream.connection.close()

    def keep_ports(self, ports: object) -> None:
        raise OSError(9, "Bad file descriptor")  # as of one whose end has been told

    def exec(self, exec_id: str, *rest: object) -> None:
        self.asked.append(exec_id)

    def signal(self, number: int, exec_id: str | None = None) -> None:
        self.asked.append(number)

    def close(self) -> None:
        for end in self._ends:
            os.close(end)
        self._ends = (-1, -1)


class Scene:
    """An engine with a database, and one container, ``web``."""

    def __init__(self, folder: Path, **parts: Any) -> None:
        known = {name for name, field in Engine.__dataclass_fields__.items() if field.default is field.default_factory}
        self.db = GraphDB(str(folder / "db"))
        config = Config(data_root=str(folder))
        given = {"config": config, "db": self.db, "containers": Containers(self.db), "networks": {}, **parts}
        self.engine = Engine(**{name: given.get(name) for name in known})
        self.add(WEB, "web")

    def add(self, id: str, name: str, host: bytes = b'{"NetworkMode": "none"}') -> None:
        made = Container(
            id, name, State.CREATED, "sha256:0", "x", id, "vfs", b"{}", host, b"[]", "true", b"[]", 1, 0, 0, 0, 0, "",
            False, 0, False, "",
        )  # fmt: skip
        self.engine.containers.add(made)

    def add_network(self) -> None:
        with self.db.transaction():
            network = Network(id=NET, name="shop", driver="bridge", pools=(), internal=False, ipv6=False, options={})
            insert(self.engine, network, NetworkCreateRequest(name="shop"), ipv4=True, state="ready")

    def run(self) -> tuple[Running, Talker]:
        """The container runs."""
        self.engine.containers.update(WEB, state=State.RUNNING)
        monitor = Talker()
        running = watch(
            WEB,
            cast(Monitor, monitor),
            lambda running, exit: supervise.ended(self.engine, running, exit),
            lambda id: Exited(255, 0, 0),
        )
        running.recorded.set()
        self.engine.running[WEB] = running
        return running, monitor

    def events(self) -> list[str]:
        return [event.action for event in self.engine.events.past(0)]

    def state(self) -> State:
        return self.engine.containers.get(WEB).state

    async def behind(self, id: str, job: Coroutine[Any, Any, Any], meanwhile: Callable[[], object]) -> Any:
        """What comes of a job that waits for the lock of an object, while whoever holds it does something."""
        async with self.engine.locks.hold(id):
            waiting = asyncio.create_task(job)
            while self.engine.locks._locks[id][1] < 2:
                await asyncio.sleep(0)
            meanwhile()
        return await asyncio.wait_for(waiting, 60)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.db.close()


@pytest.mark.parametrize("verb", ["connect", "disconnect"])
def test_a_connect_or_disconnect_whose_network_is_removed_while_it_waits_is_told_so(scene: Scene, verb: str) -> None:
    scene.add_network()
    job: Coroutine[Any, Any, None]
    if verb == "connect":
        job = attachments.connect(scene.engine, "shop", NetworkConnectRequest(container="web"))
    else:
        with scene.db.transaction():
            memberships.assign(scene.engine, WEB, NET, None)
        job = attachments.disconnect(scene.engine, "shop", NetworkDisconnectRequest(container="web"))

    def remove() -> None:
        scene.db.execute("DELETE FROM endpoint")
        scene.db.execute("DELETE FROM network")

    with pytest.raises(NoSuchNetwork, match="shop"):
        asyncio.run(scene.behind(WEB, job, remove))
    assert memberships.awaited(scene.engine, WEB) == [], "it waits for no network of that id"


def test_of_two_that_remove_a_network_at_once_one_does_it_and_the_other_finds_none(tmp_path: Path) -> None:
    begun, goes_on = threading.Event(), threading.Event()
    deleted: list[str] = []

    class Bridges:
        def delete(self, network: Network, others: Iterable[Network]) -> None:
            deleted.append(network.name)
            begun.set()
            assert goes_on.wait(60)

    scene = Scene(tmp_path, networks={"bridge": Bridges()})
    scene.add_network()

    async def both() -> list[object]:
        first = asyncio.create_task(networks.remove(scene.engine, "shop"))
        await asyncio.to_thread(begun.wait, 60)
        second = asyncio.create_task(networks.remove(scene.engine, "shop"))
        for _ in range(20):
            await asyncio.sleep(0.001)
        goes_on.set()
        return [*await asyncio.gather(first, second, return_exceptions=True)]

    first, second = asyncio.run(both())
    assert first is None and isinstance(second, NoSuchNetwork)
    assert deleted == ["shop"] and scene.events() == ["destroy"]
    scene.db.close()


def test_a_removal_that_is_not_forced_and_waits_for_a_start_does_not_kill_what_was_started(scene: Scene) -> None:
    async def both() -> Talker:
        monitor: list[Talker] = []
        with pytest.raises(Conflict, match="container is running: stop the container"):
            await scene.behind(WEB, removal.remove(scene.engine, "web"), lambda: monitor.append(scene.run()[1]))
        return monitor[0]

    assert asyncio.run(both()).asked == []
    assert scene.state() is State.RUNNING
    assert not scene.engine.held


def test_a_container_that_is_started_again_before_its_automatic_removal_lives(scene: Scene) -> None:
    async def both() -> None:
        await scene.behind(WEB, removal.discard(scene.engine, WEB, with_volumes=True), scene.run)

    asyncio.run(both())
    assert scene.state() is State.RUNNING


def test_a_stop_while_an_end_is_worked_off_is_not_followed_by_a_restart(tmp_path: Path) -> None:
    class Processes:
        def delete(self, id: str) -> None:
            pass

    scene = Scene(tmp_path, exec=Processes())
    host = b'{"NetworkMode": "none", "RestartPolicy": {"Name": "always"}}'
    scene.engine.containers.update(WEB, host_config=host)
    scene.add_network()
    scene.db.execute("UPDATE network SET driver = 'null'")
    with scene.db.transaction():
        memberships.assign(scene.engine, WEB, NET, None)
    scene.db.execute("UPDATE endpoint SET active = 1")
    cast(dict[str, Any], scene.engine.networks)["null"] = SimpleNamespace(
        addressed=False, outward=lambda network: False
    )

    async def both() -> None:
        _, monitor = scene.run()
        async with scene.engine.network_gate.alone(60):
            monitor.tell(Exited(1, 0, 0))
            while not scene.engine.network_gate._waiters:  # it leaves its network
                await asyncio.sleep(0.001)
            stopping = asyncio.create_task(lifecycle.stop(scene.engine, "web"))
            while not scene.engine.containers.get(WEB).stopped:
                await asyncio.sleep(0)
        await asyncio.wait_for(stopping, 60)
        restarts.forget_restart(scene.engine, WEB)

    asyncio.run(both())
    assert scene.state() is State.EXITED
    scene.db.close()


def test_limits_of_a_container_that_ends_while_it_gets_them_are_kept_for_its_next_start(tmp_path: Path) -> None:
    class Cgroups:
        def update(self, id: str, resources: object) -> None:
            monitor.tell(Exited(0, 0, 0))  # the shim tells it, and removes the cgroup
            raise FileNotFoundError(2, "No such file or directory", "memory.limit_in_bytes")

        def delete(self, id: str) -> None:
            pass

    scene = Scene(tmp_path, exec=Cgroups())
    monitor = Talker()

    async def both() -> None:
        nonlocal monitor
        running, monitor = scene.run()
        await containers.update(scene.engine, "web", ContainerUpdateRequest(memory=64 << 20))
        await asyncio.wait_for(running.settled.wait(), 60)

    asyncio.run(both())
    assert containers.host_config_of(scene.engine.containers.get(WEB)).memory == 64 << 20
    scene.db.close()


def test_memory_that_is_watched_after_a_containers_end_is_let_go_of(tmp_path: Path) -> None:
    closed: list[bool] = []

    class Watching:
        def __init__(self) -> None:
            self._descriptor = os.eventfd(0)

        def fileno(self) -> int:
            return self._descriptor

        def happened(self) -> bool:
            return True

        def close(self) -> None:
            os.close(self._descriptor)
            closed.append(True)

    class Processes:
        def watch_oom(self, id: str, known: int | None) -> Watching:
            return Watching()

        def delete(self, id: str) -> None:
            pass

    scene = Scene(tmp_path, exec=Processes())
    scene.engine.containers.update(WEB, host_config=b'{"NetworkMode": "none", "Memory": 1048576}')

    async def both() -> None:
        running, monitor = scene.run()
        monitor.tell(Exited(137, 9, 0))
        await running.exited
        endings.watch_memory(scene.engine, scene.engine.containers.get(WEB), running, known=0)
        await asyncio.wait_for(running.settled.wait(), 60)

    asyncio.run(both())
    assert closed == [True]
    assert scene.events().count("oom") == 1
    scene.db.close()


def test_a_link_to_a_container_that_is_removed_while_the_other_is_made_is_refused_in_words(scene: Scene) -> None:
    scene.add(DB, "db", b'{"NetworkMode": "bridge", "Links": ["web:x"]}')
    found = {"x": scene.engine.containers.get(WEB)}
    scene.db.execute("DELETE FROM container WHERE id = ?", (WEB,))
    with pytest.raises(InvalidParameter, match="could not get container"), scene.db.transaction():
        links.register(scene.engine, DB, found)


def test_who_attaches_while_a_container_is_being_started_is_attached_to_that_start(scene: Scene) -> None:
    async def both() -> None:
        _, monitor = scene.run()
        scene.db.execute("DROP TRIGGER container_state")
        scene.engine.containers.update(WEB, state=State.CREATED)  # not recorded yet
        attached = await streams.attach(scene.engine, "web", streams.AttachOptions(stream=True, stdout=True))
        assert attached.connection is not None
        attached.connection.close()
        assert monitor.asked == ["attach"] and not scene.engine.waiting
        monitor.close()

    asyncio.run(both())


def test_an_exec_that_ends_at_once_is_told_to_have_started_first(scene: Scene) -> None:
    async def both() -> None:
        _, monitor = scene.run()
        process = SimpleNamespace(args=("true",), terminal=False)
        made = ExecInstance("e", WEB, cast(Any, process), False, False, False, False, "", 0.0)
        scene.engine.execs["e"] = made
        starting = asyncio.create_task(execs.start(scene.engine, "e", ExecStartConfig(detach=True)))
        while not monitor.asked:
            await asyncio.sleep(0)
        monitor.tell(ExecStarted("e", 1), Exited(0, 0, 0, exec_id="e"))
        await asyncio.wait_for(starting, 60)

    asyncio.run(both())
    assert scene.events() == ["exec_start: true", "exec_die"]


def test_an_exec_that_finds_no_process_to_join_is_told_that_the_container_does_not_run(tmp_path: Path) -> None:
    scene = Scene(tmp_path, exec=SimpleNamespace(delete=lambda id: None))

    async def both() -> None:
        running, monitor = scene.run()
        process = SimpleNamespace(args=("true",), terminal=False)
        scene.engine.execs["e"] = ExecInstance("e", WEB, cast(Any, process), False, False, False, False, "", 0.0)
        starting = asyncio.create_task(execs.start(scene.engine, "e", ExecStartConfig(detach=True)))
        while not monitor.asked:
            await asyncio.sleep(0)
        monitor.tell(ExecError("e", SetupFailed(3, "No such process", "", "setns", "process")), Exited(0, 0, 0))
        with pytest.raises(Conflict, match="is not running"):
            await asyncio.wait_for(starting, 60)
        await asyncio.wait_for(running.settled.wait(), 60)

    asyncio.run(both())
    scene.db.close()


def test_who_looks_at_a_container_that_is_being_removed_does_not_bring_its_folder_back(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.engine.containers.update(WEB, state=State.REMOVING)
    web = scene.engine.containers.get(WEB)
    assert netfiles.written(scene.engine, WEB, "hosts") == b""
    specs.file_mounts(scene.engine, web)
    assert not (tmp_path / "containers" / WEB).exists()


def test_a_request_for_an_exec_that_could_not_be_sent_leaves_no_error_in_the_log(tmp_path: Path) -> None:
    scene = Scene(tmp_path, exec=SimpleNamespace(delete=lambda id: None))
    said: list[dict[str, object]] = []

    async def both() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: said.append(context))
        running, monitor = scene.run()

        def broken(*request: object) -> None:
            raise BrokenPipeError(32, "Broken pipe")

        monitor.exec = broken  # type: ignore[method-assign]
        process = SimpleNamespace(args=("true",), terminal=False)
        scene.engine.execs["e"] = ExecInstance("e", WEB, cast(Any, process), False, False, False, False, "", 0.0)
        with pytest.raises(Conflict, match="is not running"):
            await execs.start(scene.engine, "e", ExecStartConfig(detach=True))
        assert not running.execs, "a pause would wait for its answer"
        monitor.tell(Exited(0, 0, 0))
        await asyncio.wait_for(running.settled.wait(), 60)

    asyncio.run(both())
    scene.engine.execs.clear()
    gc.collect()
    assert said == []
    scene.db.close()


def test_what_is_just_leaving_is_not_put_back_as_if_others_had_taken_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_changes, "PATIENCE", 0.02)
    monkeypatch.setattr(host_changes, "TRIES", 1000)
    inside = [True]
    looked: list[bool] = []

    class Driver:
        def damage(self, networks: object, *, rules: bool) -> tuple[str, ...]:
            looked.append(inside[0])
            return ()

    scene = Scene(tmp_path, networks={"bridge": Driver()})

    async def both() -> None:
        async with scene.engine.network_gate.shared():
            mending = asyncio.create_task(host_changes.mend(scene.engine, Seen(links=True)))
            await asyncio.sleep(0.1)
            inside[0] = False
        await asyncio.wait_for(mending, 60)

    asyncio.run(both())
    assert looked == [False]
    scene.db.close()


def test_a_container_starts_while_the_network_is_mended_beside_one_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_changes, "PATIENCE", 0.02)
    told: list[str] = []
    driver = SimpleNamespace(damage=lambda *given, **more: told.append("looked") or ())
    scene = Scene(tmp_path, networks={"bridge": driver})
    gate = scene.engine.network_gate

    async def start() -> None:
        async with gate.shared():
            told.append("started")

    async def both() -> None:
        async with gate.shared():  # it hangs
            mending = asyncio.create_task(host_changes.mend(scene.engine, Seen(links=True)))
            while not gate._wanted:
                await asyncio.sleep(0)
            await asyncio.wait_for(asyncio.gather(start(), mending), 60)

    asyncio.run(both())
    assert told == ["started", "looked"]
    scene.db.close()


def test_rules_that_others_have_taken_away_come_back_beside_one_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_changes, "PATIENCE", 0.02)
    monkeypatch.setattr(host_changes, "TRIES", 1_000_000)
    looked: list[bool] = []

    def damage(networks: object, *, rules: bool) -> tuple[str, ...]:
        looked.append(rules)
        return ()

    scene = Scene(tmp_path, networks={"bridge": SimpleNamespace(damage=damage, admit=lambda neighbours: None)})
    scene.engine.host_firewall = cast(Any, SimpleNamespace(neighbours=lambda: None, quiet=lambda *hooks: True))

    async def both() -> None:
        async with scene.engine.network_gate.shared():  # it hangs
            for seen in (Seen(links=True), Seen(rules=True)):  # the second while the first is waited with
                host_changes._look(scene.engine, seen)
            async with asyncio.timeout(60):
                while not looked:
                    await asyncio.sleep(0.01)
        await asyncio.gather(*scene.engine.chores)

    asyncio.run(both())
    assert looked == [True]
    scene.db.close()


def test_ports_of_a_container_that_ends_before_they_are_changed_are_nobodys(tmp_path: Path) -> None:
    """Rows that nobody gives back would keep the port from everybody, and the container from starting."""
    published: list[object] = []
    driver = SimpleNamespace(
        name="bridge",
        addressed=False,
        publishes=True,
        outward=lambda network: True,
        binding=lambda network: "127.0.0.1",
        hosts=lambda network: (4,),
        apart=lambda network: False,
        publish=lambda *given: published.append(given),
    )
    scene = Scene(tmp_path, exec=SimpleNamespace(delete=lambda id: None), networks={"bridge": driver})
    scene.engine.host_firewall = cast(Any, SimpleNamespace(quiet=lambda *hooks: True))
    scene.engine.containers.update(WEB, host_config=b'{"NetworkMode": "shop"}')
    scene.add_network()
    with scene.db.transaction():
        memberships.assign(scene.engine, WEB, NET, None)
    scene.db.execute("UPDATE endpoint SET active = 1, gateway = 1, interface = 'eth0', number = 0, mac = ''")
    wanted = ContainerUpdateRequest(publish_add={"80/tcp": [PortBinding(host_ip="127.0.0.1", host_port="8099")]})

    async def both() -> None:
        running, monitor = scene.run()
        async with scene.engine.network_gate.alone(60):
            updating = asyncio.create_task(containers.update(scene.engine, "web", wanted))
            while not scene.engine.network_gate._waiters:
                await asyncio.sleep(0)
            monitor.tell(Exited(0, 0, 0))
            await running.exited
        await asyncio.wait_for(asyncio.gather(updating, running.settled.wait()), 60)
        assert monitor.asked == []

    asyncio.run(both())
    assert scene.db.all("SELECT * FROM port") == [] and published == []
    assert containers.host_config_of(scene.engine.containers.get(WEB)).port_bindings == wanted.publish_add
    scene.db.close()


def test_a_log_whose_container_ends_before_its_shim_is_asked_is_truncated_all_the_same(tmp_path: Path) -> None:
    scene = Scene(tmp_path, exec=SimpleNamespace(delete=lambda id: None))

    async def both() -> None:
        running, monitor = scene.run()

        def closed(serial: int) -> None:
            raise OSError(9, "Bad file descriptor")

        running.monitor.truncate_log = closed  # type: ignore[method-assign]
        running.recorded.clear()  # its end cannot be worked off yet
        monitor.tell(Exited(0, 0, 0))
        await running.exited
        assert await log_truncation._truncate(scene.engine, WEB) == 0
        running.recorded.set()
        await asyncio.wait_for(running.settled.wait(), 60)

    asyncio.run(both())
    scene.db.close()


def test_an_image_is_not_removed_under_a_container_that_is_made_to_mount_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path, layers=SimpleNamespace(create=lambda *given, **more: None))
    graph = scene.engine.graph = Graph(scene.db, VfsDriver(str(tmp_path)), str(tmp_path))
    image = graph.put_image(b'{"rootfs": {"type": "layers", "diff_ids": []}}', parse("files:1"))
    (tmp_path / "containers").mkdir()
    wanted = Wanted("image", "/m", name=image.id, source="files:1")
    making = [scene.engine, scene.engine.containers.get(WEB), None, [wanted], {}, {}, 0]
    asyncio.run(creation._make(*making))  # type: ignore[arg-type]
    with pytest.raises(Conflict):  # whoever looked before that has seen no user
        graph.delete_image(image.id)
    scene.engine.containers.update(WEB, mounts=b"[]")
    graph.delete_image(image.id)
    with pytest.raises(NoSuchImage, match="files:1"):
        asyncio.run(creation._make(*making))  # type: ignore[arg-type]
    scene.db.close()


def test_a_daemon_starts_beside_a_container_whose_end_leaves_something_behind(tmp_path: Path) -> None:
    class Processes:
        def reattach(self, id: str) -> None:
            pass

        def collect(self, id: str) -> Exited:
            return Exited(3, 0, 0)

        def delete(self, id: str) -> None:
            raise OSError(16, "Device or resource busy")

    scene = Scene(tmp_path, exec=Processes())
    scene.engine.containers.update(WEB, state=State.RUNNING)
    asyncio.run(supervise.resume(scene.engine))
    assert (scene.state(), scene.engine.containers.get(WEB).exit_code) == (State.EXITED, 3)
    scene.db.close()


def test_a_container_is_paused_only_when_no_exec_is_just_being_started_in_it(tmp_path: Path) -> None:
    """Its shim waits for such a one, which in a frozen container never begins: nothing else would be answered."""
    frozen: list[str] = []

    class Freezer:
        def freeze(self, id: str) -> None:
            frozen.append(id)

    scene = Scene(tmp_path, exec=Freezer())

    def execute(id: str) -> "asyncio.Task[object]":
        process = SimpleNamespace(args=("true",), terminal=False)
        scene.engine.execs[id] = ExecInstance(id, WEB, cast(Any, process), False, False, False, False, "", 0.0)
        return asyncio.create_task(execs.start(scene.engine, id, ExecStartConfig(detach=True)))

    async def both() -> None:
        _, monitor = scene.run()
        first = execute("e")
        while not monitor.asked:
            await asyncio.sleep(0)
        pausing = asyncio.create_task(lifecycle.pause(scene.engine, "web"))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert frozen == []
        with pytest.raises(Conflict, match="is paused"):
            await execute("late")
        monitor.tell(ExecStarted("e", 1))
        await asyncio.wait_for(asyncio.gather(first, pausing), 60)
        monitor.close()

    asyncio.run(both())
    assert frozen == [WEB] and scene.state() is State.PAUSED
    scene.db.close()


def test_an_image_that_gets_a_name_while_another_is_taken_from_it_stays(tmp_path: Path) -> None:
    class Late(Graph):
        """An image's second name comes in the last moment."""

        late: Reference | None = parse("other:1")

        def delete_image(self, id: str, *rest: Any, **more: Any) -> tuple[list[str], int]:
            if self.late is not None:
                self.tags.set(self.late, id)
                self.late = None
            return super().delete_image(id, *rest, **more)

    scene = Scene(tmp_path)
    graph = scene.engine.graph = Late(scene.db, VfsDriver(str(tmp_path)), str(tmp_path))
    image = graph.put_image(b'{"rootfs": {"type": "layers", "diff_ids": []}}', parse("short:lived"))
    records, _ = asyncio.run(images.remove(scene.engine, "short:lived"))
    assert [(one.untagged, one.deleted) for one in records] == [("short:lived", "")]
    assert graph.tags.of(image.id) == [parse("other:1")]
    scene.db.close()
