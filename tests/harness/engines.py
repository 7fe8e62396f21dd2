"""Engines under test, each a real process in a network namespace of its own: ours, and Debian's dockerd.

Both look the same to a test: a unix socket, the machine they run on, and what is left when they are gone.
"""

import json
import os
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from tests.harness.api import Api
from tests.harness.images import WEB, busybox_rootfs, config_of, docker_archive_of
from tests.harness.netns import World, world
from tests.harness.processes import DEADLINE, Daemon, Output, end, run, wait_until

TOP = Path(__file__).resolve().parents[2]
PEERS = TOP / ".cache/peers/root"
PIERD = TOP / ".venv/bin/pierd"
PIER = TOP / ".venv/bin/pier"


def plain_environment() -> dict[str, str]:
    """The environment of a user who has set nothing: no host, no context, no settings of the interpreter's.

    PYTHONDONTWRITEBYTECODE above all: with it every start of `pier` compiles all of it again.
    """
    return {key: value for key, value in os.environ.items() if not key.startswith(("DOCKER_", "PYTHON"))}


def peers_environment() -> dict[str, str]:
    """The environment in which the unpacked peers find each other and their libraries."""
    libraries = PEERS / "usr/lib" / f"{os.uname().machine}-linux-gnu"
    return {
        **plain_environment(),
        "PATH": f"{PEERS}/usr/sbin:{PEERS}/usr/bin:{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        "LD_LIBRARY_PATH": str(libraries),
        "XTABLES_LIBDIR": str(libraries / "xtables"),
    }


def docker_client() -> str:
    """The docker client: the one in PATH, else Debian's unpacked one."""
    return shutil.which("docker") or str(PEERS / "usr/bin/docker")


class Engine:
    """One engine on one machine of its own. ``start`` it, use it, ``close`` it."""

    kind = ""
    debug = True
    """Every job in the log, so that a failing test shows them; benchmarks want none of it."""

    def __init__(self, root: Path, machine: World) -> None:
        self.root = root
        self.world = machine
        self.host = machine.host
        self.socket = str(root / "d.sock")
        self.data_root = root / "data"
        self.exec_root = root / "exec"
        self.pidfile = root / "d.pid"
        self.log = root / "daemon.log"
        self.api = Api(self.socket)
        self.daemon: Daemon | None = None
        self.extra: tuple[str, ...] = ()
        self.files: dict[str, Path] = {}
        self.inside: list[str] = []

    def argv(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return plain_environment()

    def provide_file(self, path: str, content: str) -> None:
        """What the daemon finds there instead of the machine's own; not the clients, not the tests."""
        self.files[path] = self.root / path.strip("/").replace("/", "-")
        self.files[path].write_text(content)

    def wrapped(self) -> list[str]:
        """The daemon's command line, where it finds the files that were provided."""
        if not self.files:
            return [*self.inside, *self.argv()]
        binds = "".join(f"mount --bind {ours} {theirs} && " for theirs, ours in self.files.items())
        return ["unshare", "--mount", "--propagation", "slave", "sh", "-c", binds + 'exec "$@"', "sh", *self.argv()]

    def start(self, *extra: str) -> None:
        """Start the daemon and wait until it answers; ``extra`` flags stay for later starts."""
        self.extra = extra or self.extra
        daemon = self.daemon = self.launch()

        def answers() -> bool:
            assert daemon.running(), f"{self.kind} ended at its start:\n{daemon.said()[-4000:]}"
            try:
                return self.api.send("GET", "/_ping").status == 200
            except OSError:
                return False

        wait_until(answers, f"an answer of {self.kind}; it said:\n{daemon.said()[-4000:]}")

    def launch(self) -> Daemon:
        """The daemon's process, just begun."""
        return Daemon(self.host.argv(*self.wrapped(), *self.extra), self.log, self.environment())

    @property
    def pid(self) -> int:
        """The daemon's process (nsenter has become it)."""
        assert self.daemon is not None
        return self.daemon.pid

    def stop(self) -> int:
        """SIGTERM and the exit status."""
        assert self.daemon is not None
        return self.daemon.terminate()

    def kill(self) -> None:
        """kill -9 of the daemon alone."""
        assert self.daemon is not None
        self.daemon.kill()

    # Clients

    def docker(self, *arguments: str, stdin: bytes = b"", timeout: float = DEADLINE) -> Output:
        """The real docker client, to its end."""
        return run(self.docker_argv(*arguments), stdin=stdin, env=self.client_environment(), timeout=timeout)

    def docker_argv(self, *arguments: str) -> list[str]:
        return [docker_client(), "-H", f"unix://{self.socket}", *arguments]

    def pier(self, *arguments: str, stdin: bytes = b"", timeout: float = DEADLINE) -> Output:
        return run(self.pier_argv(*arguments), stdin=stdin, env=self.client_environment(), timeout=timeout)

    def pier_argv(self, *arguments: str) -> list[str]:
        return [str(PIER), "-H", f"unix://{self.socket}", *arguments]

    def client_environment(self) -> dict[str, str]:
        environment = plain_environment()
        # Nobody's own configuration or credentials take part.
        return {**environment, "HOME": str(self.root), "DOCKER_CONFIG": str(self.root / "client")}

    # What every test starts from

    def provide_images(self) -> None:
        """The images `busybox` and `web`, as an import would make them; in one archive, so that one unpacks."""
        created = datetime.now(UTC).isoformat().replace("+00:00", "000Z")
        common = {
            **json.loads(config_of([busybox_rootfs()])),
            "created": created,
            "comment": "Imported from -",
            "history": [{"created": created, "comment": "Imported from -"}],
        }
        server: dict[str, object] = {"Cmd": ["sh", "-c", WEB], "ExposedPorts": {"8080/tcp": {}}}
        images = {
            tag: json.dumps({**common, "config": config}).encode()
            for tag, config in {"busybox:latest": {"Cmd": ["sh"]}, "web:latest": server}.items()
        }
        raw = docker_archive_of(busybox_rootfs(), images)
        answer = self.api.ok("POST", "/images/load", raw=raw, content_type="application/x-tar", quiet=1)
        assert b"error" not in answer.body, answer.body

    def forget(self) -> None:
        """Remove what a test has left: containers, networks, volumes. The images stay."""
        for container in self.api.get("/containers/json", all=1):
            self.api.send("DELETE", f"/containers/{container['Id']}", force=1, v=1)
        for network in sorted(self.api.get("/networks"), key=lambda network: bool(network["ConfigOnly"])):
            if network["Name"] not in ("bridge", "host", "none"):
                self.api.send("DELETE", f"/networks/{network['Id']}")
        for volume in self.api.get("/volumes")["Volumes"] or []:
            self.api.send("DELETE", f"/volumes/{volume['Name']}", force=1)

    def close(self) -> None:
        """Stop the daemon with everything it runs."""
        if self.daemon is not None and self.daemon.running():
            try:
                self.forget()
            finally:
                self.stop()
        self.clean()

    def clean(self) -> None:
        """Remove by force what is left below the roots."""
        for pid in processes_in(self.host.path):
            end(pid)
        mounts = mounts_below(self.root)
        for mount in reversed(mounts):
            run(["umount", "-l", mount])
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class Pierd(Engine):
    """Ours."""

    kind = "pierd"

    def argv(self) -> list[str]:
        return [
            *(str(PIERD), "-H", f"unix://{self.socket}", "--data-root", str(self.data_root)),
            *("--exec-root", str(self.exec_root), "--pidfile", str(self.pidfile)),
            *("--config-file", str(self.root / "daemon.json")),
            *(("--debug",) if self.debug else ()),
        ]

    def start(self, *extra: str) -> None:
        settings = self.root / "daemon.json"  # never the machine's own
        if not settings.exists():
            settings.write_text("{}")
        super().start(*extra)

    @property
    def instance(self) -> str:
        """The id that everything of this daemon's carries."""
        found = next(path for path in (self.data_root, *self.data_root.glob("*.*")) if (path / "graph.db").exists())
        with closing(sqlite3.connect(f"file:{found}/graph.db?mode=ro", uri=True)) as db:
            return str(db.execute("SELECT value FROM meta WHERE key = 'instance'").fetchone()[0])

    def edit(self, statement: str) -> None:
        """Change the database of a daemon that does not run, as an older one might have left it."""
        with closing(sqlite3.connect(self.data_root / "graph.db")) as db:
            db.execute(statement)
            db.commit()

    def close(self) -> None:
        """Stop everything, then look at the machine: nothing of ours may be left on it."""
        try:
            left: list[str] = []
            if self.daemon is not None and self.daemon.running():
                self.forget()
                status = self.stop()
                left = self.leftovers()
                assert status == 0, f"pierd ended with status {status}:\n{self.daemon.said()[-4000:]}"
            assert not left, "left behind by pierd: " + "; ".join(left)
        finally:
            self.clean()

    def leftovers(self) -> list[str]:
        """What is on the machine and would not be if pierd had never run (its data root apart)."""
        # A shim says that its container has ended before it ends itself.
        deadline = time.monotonic() + DEADLINE / 3
        while (processes := processes_in(self.host.path)) and time.monotonic() < deadline:
            time.sleep(0.02)
        left = [f"process {pid} {command}" for pid, command in processes.items()]
        left += [f"mount {mount}" for mount in mounts_below(self.root)]
        left += [f"interface {name}" for name in sorted(self.host.interfaces() - {"lo", "ens33", "virbr0"})]
        left += [f"nft table {name}" for name in sorted(self.host.tables())]
        left += [f"cgroup {path}" for path in cgroups_named(self.instance)]
        if self.exec_root.exists():
            left += [f"run-time file {path}" for path in sorted(self.exec_root.rglob("*")) if not path.is_dir()]
        if os.path.lexists(self.socket):
            left.append(f"socket {self.socket}")
        if self.pidfile.exists():
            left.append(f"pidfile {self.pidfile}")
        return left


class Dockerd(Engine):
    """Debian's docker.io, unpacked, with a containerd of its own."""

    kind = "docker"

    def argv(self) -> list[str]:
        # A mount namespace of its own: dockerd's mounts end with it, however it ends.
        return [
            *("unshare", "--mount", "--propagation", "private", str(PEERS / "usr/sbin/dockerd")),
            *("-H", f"unix://{self.socket}", "--data-root", str(self.data_root), "--exec-root", str(self.exec_root)),
            *("--pidfile", str(self.pidfile), "--config-file", str(self.root / "daemon.json")),
            *("--cgroup-parent", f"/{self.root.name}", "--storage-driver", "overlay2"),
        ]

    def start(self, *extra: str) -> None:
        (self.root / "daemon.json").write_text(json.dumps({"deprecated-key-path": str(self.root / "key.json")}))
        super().start(*extra)

    def environment(self) -> dict[str, str]:
        return peers_environment()

    def clean(self) -> None:
        super().clean()
        for path in cgroups_named(self.root.name):
            _remove_cgroups(Path(path))


def processes_in(netns: str) -> dict[int, str]:
    """Processes in a named network namespace: id and command line."""
    try:
        wanted = os.stat(netns)
    except FileNotFoundError:
        return {}
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                there = os.stat(f"/proc/{entry}/ns/net")
                if (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino):
                    command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[int(entry)] = command.strip()
            except OSError:
                continue
    return found


def mounts_below(folder: Path) -> list[str]:
    """Mount points under a folder, in the order they were made."""
    with open("/proc/self/mountinfo") as file:
        points = [line.split()[4].encode().decode("unicode_escape") for line in file]
    return [point for point in points if point == str(folder) or point.startswith(f"{folder}/")]


def cgroups_named(name: str) -> list[str]:
    """Control groups /pierhead/<name> and /<name>, in every hierarchy."""
    top = Path("/sys/fs/cgroup")
    found: list[str] = []
    for pattern in (f"{name}", f"*/{name}", f"pierhead/{name}", f"*/pierhead/{name}"):
        found += [str(path) for path in top.glob(pattern)]
    return found


def _remove_cgroups(top: Path) -> None:
    for folder, _, _ in os.walk(top, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            pass


ENGINES: dict[str, type[Engine]] = {"pierd": Pierd, "docker": Dockerd}


@contextmanager
def engine(
    kind: str,
    extra: Sequence[str] = (),
    images: bool = True,
    files: Mapping[str, str] | None = None,
    inside: Sequence[str] = (),
) -> Iterator[Engine]:
    """A started engine on a machine of its own, with its images; stopped and looked after at the end.

    files: see ``Engine.provide_file``; inside: a command that runs the daemon elsewhere (nsenter).
    """
    root = Path(tempfile.mkdtemp(prefix=f"pier-{kind[0]}-", dir="/tmp"))
    root.chmod(0o755)
    name = root.name.replace("_", "x")
    with world(name) as machine, ENGINES[kind](root, machine) as made:
        made.inside = list(inside)
        for path, content in (files or {}).items():
            made.provide_file(path, content)
        made.start(*extra)
        if images:
            made.provide_images()
        yield made


def terminated(signum: int, frame: object) -> None:
    """A SIGTERM to a benchmark or a demo is an orderly end too."""
    raise KeyboardInterrupt


def orderly_end() -> None:
    """Let SIGTERM and SIGHUP run the clean-up that Ctrl-C runs."""
    signal.signal(signal.SIGTERM, terminated)
    signal.signal(signal.SIGHUP, terminated)
