"""pierd: puts the parts together, serves until it is told to stop. The only place that names concrete drivers."""

import asyncio
import fcntl
import gc
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

from pierhead.daemon import subids
from pierhead.daemon.config import Config
from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.flags import configure
from pierhead.daemon.jobs import confinement, doctor, fsck, marks, networks, supervise, system, trim, volumes
from pierhead.daemon.server.app import serve
from pierhead.daemon.server.serving import Server
from pierhead.driver.execdriver.native import NativeDriver
from pierhead.driver.execdriver.oci import OciDriver
from pierhead.driver.execdriver.runtimes import Runtimes
from pierhead.driver.graphdriver import selection
from pierhead.driver.graphdriver.api import GraphDriver
from pierhead.driver.graphdriver.btrfs import BtrfsDriver
from pierhead.driver.graphdriver.fuseoverlay import FuseOverlayDriver
from pierhead.driver.graphdriver.overlay import OverlayDriver
from pierhead.driver.graphdriver.vfs import VfsDriver
from pierhead.driver.networkdriver.api import NetworkDriver
from pierhead.driver.networkdriver.bridge import BridgeDriver
from pierhead.driver.networkdriver.host import HostDriver
from pierhead.driver.networkdriver.hostfirewall import HostFirewall
from pierhead.driver.networkdriver.ipvlan import IpvlanDriver
from pierhead.driver.networkdriver.macvlan import MacvlanDriver
from pierhead.driver.networkdriver.none import NoneDriver
from pierhead.errors import PierheadError, plain
from pierhead.graph.containers import Containers
from pierhead.graph.graph import Graph
from pierhead.graph.graphdb import GraphDB
from pierhead.graph.stream import Limits

log = logging.getLogger("pierd")

RELOADED = frozenset(
    "debug default_address_pools default_network_opts default_ulimits dns dns_opts dns_search host_gateway_ips "
    "insecure_registries registry_mirrors registry_certs "
    "max_concurrent_downloads max_concurrent_uploads max_download_attempts max_concurrent_unpacks "
    "max_manifest_size max_layers".split()
)
"""Settings that a running daemon takes up on SIGHUP."""

EMBEDDED_PATIENCE = 60.0
"""Seconds that a daemon started by ``pier`` itself stays without a container and without a request."""


SETTLE_PATIENCE = 10.0
"""Seconds that what is under way has to come to its end when the daemon stops."""


class LogFormat(logging.Formatter):
    """dockerd's logfmt: time="…" level=info msg="…"."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in the message."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        level = record.levelname.lower()
        escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'time="{seconds}.{int(record.msecs):03d}Z" level={level} msg="{escaped}"'


def _folders(config: Config) -> tuple[int, ...]:
    """Make the roots; returns the descriptors that hold their locks for as long as the daemon lives."""
    if config.id_maps is not None:  # theirs are in folders of their own
        os.makedirs(os.path.dirname(config.data_root), mode=0o710, exist_ok=True)
    os.makedirs(config.data_root, mode=0o710, exist_ok=True)
    os.makedirs(config.exec_root, mode=0o711, exist_ok=True)
    os.makedirs(os.path.join(config.data_root, "containers"), mode=0o710, exist_ok=True)
    os.makedirs(os.path.dirname(config.pidfile), mode=0o755, exist_ok=True)
    data = os.open(os.path.join(config.data_root, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _lock(data, f"the data root {config.data_root}")
    # What a daemon finds in its exec root and does not know, it ends: another's containers would be such.
    run = os.open(config.exec_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    _lock(run, f"the exec root {config.exec_root}")
    return data, run


def _lock(descriptor: int, what: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(f"{what} is in use by another pierd: stop that, or give this one its own") from None


def _pidfile(path: str) -> int:
    """Write our id there; returns the descriptor that holds its lock. Raises OSError where it is another pierd's."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    _lock(file, f"the pidfile {path}")
    os.ftruncate(file, 0)
    os.write(file, f"{os.getpid()}\n".encode())
    return file


def _graph_driver(config: Config, db: GraphDB) -> GraphDriver:
    """In Docker's order of preference."""
    made: list[GraphDriver] = [
        OverlayDriver(config.data_root),
        FuseOverlayDriver(config.data_root, remapped=config.id_maps is not None),
        BtrfsDriver(config.data_root),
        VfsDriver(config.data_root),
    ]
    used = db.all("SELECT driver FROM layer UNION SELECT driver FROM container")
    drivers = {driver.name: driver for driver in made}
    return selection.choose(drivers, config.storage_driver, [row["driver"] for row in used], config.data_root)


def _exec_driver(config: Config, instance: str, descriptors: int) -> Runtimes:
    native = NativeDriver(instance, config.exec_root, descriptors)
    oci = OciDriver(instance, config.exec_root, descriptors, config.runtimes)
    default = config.default_runtime
    if not default and config.exec_driver == "oci":
        default = oci.default
        if not default:
            raise OSError("--exec-driver oci needs an OCI runtime: apt-get install runc, or --add-runtime name=path")
    made = Runtimes([native, oci], default)
    if made.default not in made.runtimes():
        raise OSError(f"specified default runtime '{default}' does not exist")
    return made


def _raise_descriptors() -> int:
    """Allow as many descriptors as may be: every client and every container takes some. Returns the limit before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


def assemble(config: Config, descriptors: int) -> Engine:
    """The engine with its drivers; descriptors: how many a container's process may have open, unless told otherwise.

    Raises OSError that says what is missing.
    """
    db = GraphDB(os.path.join(config.data_root, "graph.db"))
    layers = _graph_driver(config, db)
    network_drivers: list[NetworkDriver] = [
        BridgeDriver(db.instance, db, config.publish_policy),
        HostDriver(),
        IpvlanDriver(db.instance),
        MacvlanDriver(db.instance),
        NoneDriver(),
    ]
    return Engine(
        config=config,
        db=db,
        containers=Containers(db),
        graph=Graph(
            db,
            layers,
            config.data_root,
            keep_blobs=config.compressed_blobs == "keep",
            limits=Limits(config.max_unpacked_size, config.max_unpack_ratio),
        ),
        layers=layers,
        networks={driver.name: driver for driver in network_drivers},
        exec=_exec_driver(config, db.instance, descriptors),
        host_firewall=HostFirewall(db.instance),
    )


def reload(engine: Engine, read: Callable[[], Config]) -> None:
    """SIGHUP: read the settings again. Those that only a start can bring about are named and wait for it."""
    try:
        config = read()
    except (OSError, PierheadError) as error:
        log.error("the settings stay as they are: %s", error)
        return
    changed = [one.name for one in fields(Config) if getattr(config, one.name) != getattr(engine.config, one.name)]
    engine.config = replace(engine.config, **{name: getattr(config, name) for name in RELOADED})
    logging.getLogger().setLevel(logging.DEBUG if config.debug else logging.INFO)
    later = [name.replace("_", "-") for name in changed if name not in RELOADED]
    if later:
        log.warning("these settings are taken up at the next start: %s", ", ".join(later))
    log.info("settings reloaded: %s", ", ".join(name.replace("_", "-") for name in changed) or "none has changed")
    engine.events.publish("daemon", "reload", engine.db.instance, {"name": os.uname().nodename})


async def _run(config: Config, read: Callable[[], Config], descriptors: int) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    engine = assemble(config, descriptors)
    engine.on_ended = lambda running, exit: supervise.ended(engine, running, exit)
    loop.add_signal_handler(signal.SIGHUP, reload, engine, read)
    server: Server | None = None
    upkeep: list[asyncio.Task[None]] = []
    try:
        await asyncio.to_thread(engine.exec.open)
        await asyncio.to_thread(confinement.enforced)
        volumes.meet(engine, [container for container in engine.containers.all() if container.live])
        await fsck.reconcile_stored(engine)
        await networks.reconcile(engine)
        await fsck.reconcile_running(engine)
        await supervise.resume(engine)
        server = await serve(engine, config.hosts)
        await supervise.restart_policies(engine)
        gc.collect()
        gc.freeze()
        log.info("API listen on %s", ", ".join(config.hosts))
        for warning in system.unprotected(config.hosts):
            log.warning("%s", " ".join(warning.removeprefix("WARNING: ").split()))
        if config.trim:
            upkeep.append(asyncio.create_task(trim.after_removals(engine), name="trim"))
        if config.disk_high_mark:
            upkeep.append(asyncio.create_task(marks.watch(engine), name="marks"))
        if config.embedded:
            engine.background(_leave_when_idle(engine, stop), "embedded")
        await stop.wait()
        log.info("stopping; running containers go on")
    finally:
        # The same after a start that failed half way (a socket in use): it leaves nothing behind either.
        engine.closing = True
        for task in upkeep:
            task.cancel()
        await asyncio.gather(*upkeep, return_exceptions=True)
        try:
            if server is not None:
                await server.close()
            await _settle_down(engine)
        finally:
            engine.exec.close()
            engine.db.close()


async def _settle_down(engine: Engine) -> None:
    """End what is under way; where nothing runs, leave no bridge, rule or process either."""
    for task in [backoff.task for backoff in engine.backoff.values() if backoff.task is not None]:
        task.cancel()
    for check in engine.health_checks.values():
        check.cancel()  # the next daemon goes on with it
    deadline = asyncio.get_running_loop().time() + SETTLE_PATIENCE
    while engine.chores and (left := deadline - asyncio.get_running_loop().time()) > 0:
        await asyncio.wait(set(engine.chores), timeout=left)  # a container's end makes a new one
    for running in engine.running.values():
        running.let_go()  # it goes on: what comes of it from now on is for the next daemon to hear
    await networks.shutdown(engine, idle=not engine.running)


async def _leave_when_idle(engine: Engine, stop: asyncio.Event) -> None:
    idle = 0.0
    seen = -1
    while idle < EMBEDDED_PATIENCE:
        try:
            await asyncio.wait_for(stop.wait(), 1.0)
            return
        except TimeoutError:
            pass
        count = engine.started_jobs
        idle = 0.0 if engine.running or engine.jobs or count != seen else idle + 1.0
        seen = count
    log.info("embedded: nothing to do for %.0f s", EMBEDDED_PATIENCE)
    stop.set()


def _remove_if_ours(path: str) -> None:
    try:
        with open(path, encoding="ascii") as file:
            if file.read().strip() != str(os.getpid()):
                return
        os.unlink(path)
    except OSError:
        pass  # somebody else's by now, or gone


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``pierd``; the exit status is 0 after SIGTERM, 1 where it could not start."""
    try:
        config, options = configure(argv)
    except (OSError, PierheadError) as error:
        print(f"pierd: {plain(error)}", file=sys.stderr)
        return 1
    if options.validate:
        print("configuration OK")
        return 0
    if options.doctor:
        return doctor.report(config, sys.stdout)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormat())
    logging.basicConfig(handlers=[handler], level=logging.DEBUG if config.debug else logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    missing = doctor.missing(config)
    if missing:
        for lack in missing:
            print(f"pierd: {lack}", file=sys.stderr)
        return 1
    os.umask(0o022)
    try:
        config = subids.remapped(config)
        locks = _folders(config)
        if config.id_maps is not None:
            subids.probe(config.id_maps, config.data_root)
        locks += (_pidfile(config.pidfile),)
        try:
            asyncio.run(_run(config, lambda: subids.remapped(configure(argv)[0]), _raise_descriptors()))
        finally:
            _remove_if_ours(config.pidfile)
            for lock in locks:
                os.close(lock)
    except (OSError, PierheadError) as error:
        log.debug("not started", exc_info=True)
        print(f"pierd: {plain(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
