"""What a container can see and do (probe.c, run inside) as lines: a name, and a value no machine differs in.

What is the machine's own (ids, its devices, its file systems, the daemon's limits) is compared with the machine here
and said in words, so that the lines can be held against a file, and one engine's against another's.
"""

import errno
import functools
import json
import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pierhead.libcontainer import syscalls
from tests.harness import native
from tests.harness.api import Api, demultiplex
from tests.harness.engines import Engine
from tests.harness.images import busybox_rootfs, docker_archive, tar
from tests.harness.processes import DEADLINE, wait_until

IMAGE = "probe:latest"

Lines = dict[str, str | list[str]]

ROWS = (
    "run",
    "run -t",
    "run -u 1000",
    "run --security-opt seccomp=unconfined",
    "run --privileged",
    "exec",
    "exec -u 1000",
    "exec --privileged",
    "healthcheck",
    "exec -t",  # last: its terminal may stay a moment longer than it does
)
"""Every way into a container."""


def provide_image(engine: Engine) -> None:
    """The image `probe`: busybox with /bin/probe."""
    archive = docker_archive([busybox_rootfs(), tar({"bin/probe": native.program("probe")})], [IMAGE])
    engine.api.ok("POST", "/images/load", raw=archive, content_type="application/x-tar", quiet=1)


def dump(engine: Engine) -> dict[str, Lines]:
    """The lines of every way into a container of this engine; a way that it refuses on this machine is left out."""
    machine = Machine(engine, unfiltered())
    said: dict[str, Lines] = {}
    plain = engine.api.run("sleep", "1000", image=IMAGE)
    for row in ROWS:
        try:
            if row == "healthcheck":
                found, id = _healthcheck(engine.api)
            else:
                found, id = _exec(engine.api, plain, row) if row.startswith("exec") else _run(engine.api, row)
        except AssertionError as error:
            # runc wants every capability for --privileged, which root in a virtual machine may not have.
            if "unable to apply caps" not in str(error):
                raise
            continue
        said[row] = machine.lines(found, id)
    engine.api.ok("DELETE", f"/containers/{plain}", force=1)
    return said


@functools.cache
def unfiltered() -> Any:
    """What the kernel itself answers to root, where nothing filters: the probe without a container."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "probe")
        program.write_bytes(native.program("probe"))
        program.chmod(0o755)
        command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", str(program)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=2 * DEADLINE)
        return json.loads(done.stdout)


def _run(api: Api, row: str) -> tuple[Any, str]:
    host: dict[str, Any] = {}
    config: dict[str, Any] = {}
    if "-t" in row.split():
        config["Tty"] = True
    if "-u" in row.split():
        config["User"] = "1000"
    if "--privileged" in row:
        host["Privileged"] = True
    if "unconfined" in row:
        host["SecurityOpt"] = ["seccomp=unconfined"]
    id = api.run("/bin/probe", image=IMAGE, HostConfig=host, **config)
    api.wait(id)
    logs = api.logs(id)
    text = logs if config.get("Tty") else b"".join(demultiplex(logs))
    api.ok("DELETE", f"/containers/{id}", force=1)
    return _parsed(text), id


def _exec(api: Api, container: str, row: str) -> tuple[Any, str]:
    config: dict[str, Any] = {"Cmd": ["/bin/probe"], "AttachStdout": True, "AttachStderr": True}
    config |= {"Tty": "-t" in row.split(), "User": "1000" if "-u" in row.split() else ""}
    config |= {"Privileged": "--privileged" in row}
    id = api.ok("POST", f"/containers/{container}/exec", config).json["Id"]
    body = api.ok("POST", f"/exec/{id}/start", {"Detach": False, "Tty": config["Tty"]}).body
    return _parsed(body if config["Tty"] else b"".join(demultiplex(body))), container


def _healthcheck(api: Api) -> tuple[Any, str]:
    """Through a file, for of a check's output only the beginning is kept; so descriptor 1 is that file."""
    test = ["CMD-SHELL", "/bin/probe > /tmp/part && mv /tmp/part /tmp/said; sleep 1000"]
    check = {"Test": test, "Interval": 10**9, "Timeout": 60 * 10**9, "Retries": 1}
    id = api.run("sleep", "1000", image=IMAGE, Healthcheck=check)

    def said() -> bytes:
        config = {"Cmd": ["cat", "/tmp/said"], "AttachStdout": True}
        made = api.ok("POST", f"/containers/{id}/exec", config).json["Id"]
        return demultiplex(api.ok("POST", f"/exec/{made}/start", {"Detach": False}).body)[0]

    wait_until(said, "what the health check's probe says")
    text = said()
    api.ok("DELETE", f"/containers/{id}", force=1)
    return _parsed(text), id


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise AssertionError(f"the probe said {text[:2000]!r}") from None


_STATUS = "Umask Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp SigBlk SigIgn TracerPid".split()
# What mounts say of themselves besides the usual options; sizes of what the host mounted are its own.
_SUPER_OPTIONS = ("size", "mode", "gid", "ptmxmode", "nr_blocks", "nr_inodes")
_VIRTUAL = ("proc", "tmpfs", "devpts", "sysfs", "cgroup", "cgroup2", "mqueue", "overlay")
_SWEEPS = {"64-bit": "x86_64", "32-bit": "x86", "x32": "x32"}
_EPERM, _ENOSYS, _ENDED = 1, 38, 2000
_OLDEST = 450  # the last number that Linux 6.1 has: of later ones ENOSYS says nothing


@dataclass
class Machine:
    """The machine that an engine runs on, as its containers may not see it."""

    engine: Engine
    baseline: Any
    """What the kernel refuses by itself."""

    def lines(self, found: Any, id: str) -> Lines:
        """One dump as lines."""
        lines: Lines = {}
        files = found["files"]
        status = dict(re.findall(r"^(\w+):[\t ]*(.*?)[\t ]*$", files["/proc/self/status"], re.MULTILINE))
        lines |= {f"status {name}": " ".join(status[name].split()) for name in _STATUS}
        # 32 and 33 are the C library's own: what starts the daemon may leave them ignored, and dockerd hands that on.
        lines["status SigIgn"] = f"{int(status['SigIgn'], 16) & ~(3 << 31):016x}"
        every = re.findall(r"^CapPrm:\t(.*)$", Path(f"/proc/{self.engine.pid}/status").read_text(), re.MULTILINE)[0]
        lines |= {name: "all of the daemon's" for name, value in lines.items() if value == every}
        lines |= self._mounts(files["/proc/self/mountinfo"])
        lines |= self._limits(files["/proc/self/limits"])
        lines |= self._namespaces(found)
        lines |= self._devices(found)
        lines["cgroup"] = self._cgroups(files["/proc/self/cgroup"], id)
        for path, text in files.items():
            if path.startswith("/proc/sys/") and not path.endswith("core_pattern"):
                lines[f"file {path}"] = self._plain(text, id)
        for path in ("/proc/self/oom_score_adj", "/proc/self/uid_map"):
            lines[f"file {path}"] = self._plain(files[path], id)
        listed = files["/sys/fs/cgroup/devices/devices.list"]
        lines["devices.list"] = sorted(listed.split("\n")[:-1]) if isinstance(listed, str) else "none"
        for name, target in found["descriptors"].items():
            lines[f"descriptor {name}"] = re.sub(r"\[\d+\]", "", target)
        for kind in ("hidden", "opens", "unmounts", "calls"):
            # A path that this kernel does not have cannot be hidden; that it is not there is no difference.
            lines |= {f"{kind} {name}": value for name, value in found[kind].items() if value != "absent"}
        lines |= {f"environment {name}": self._plain(value, id) for name, value in found["environment"].items()}
        lines |= {f"process {name}": str(value) for name, value in found["process"].items() if name != "pid"}
        if lines["process priority"] == str(os.getpriority(os.PRIO_PROCESS, self.engine.pid)):
            lines["process priority"] = "the daemon's"
        lines["keyring"] = re.sub(r"^keyring;\d+;\d+;", "keyring;", self._plain(found["keyring"], id))
        for sweep, table in _SWEEPS.items():
            lines |= _sweep(sweep, table, found[sweep], self.baseline[sweep])
        return lines

    def _plain(self, text: object, id: str) -> str:
        return " ".join(str(text).split()).replace(id, "<id>").replace(id[:12], "<id>")

    def _mounts(self, text: str) -> Lines:
        lines: Lines = {}
        for line in text.splitlines():
            before, _, behind = line.partition(" - ")
            _, _, _, source_root, target, options, *shared = before.split()
            kind, _, more = behind.split()
            special = [one for one in more.split(",") if one.partition("=")[0] in (*_SUPER_OPTIONS, "ro")]
            if kind not in _VIRTUAL:
                # Of the host's own file systems: which, and what they are made with, differs from machine to machine.
                kind, special = "bind", []
            if kind == "tmpfs" and target not in ("/dev", "/dev/shm") and source_root != "/":
                special = []
            said = " ".join([kind, *sorted(options.split(",")), *special, *(one.split(":")[0] for one in shared)])
            target = target.encode().decode("unicode_escape")
            lines[f"mount {target}"] = said
        return lines

    def _limits(self, text: str) -> Lines:
        of_daemon = dict(_limits(Path(f"/proc/{self.engine.pid}/limits").read_text()))
        return {f"limit {name}": "the daemon's" if value == of_daemon[name] else value for name, value in _limits(text)}

    def _namespaces(self, found: Any) -> Lines:
        lines: Lines = {}
        for name, link in found["namespaces"].items():
            hosts = link == f"-> {os.readlink(f'/proc/{self.engine.pid}/ns/{name}')}"
            of_one = found["namespaces of 1"].get(name)
            # Who may not look into PID 1 is told nothing.
            same = "" if not isinstance(of_one, str) or of_one == link else ", not the one of PID 1"
            lines[f"namespace {name}"] = ("the host's" if hosts else "the container's") + same
        return lines

    def _devices(self, found: Any) -> Lines:
        lines: Lines = {}
        for folder in ("dev", "dev/pts", "dev/shm", "dev/mqueue"):
            for name, node in found[folder].items():
                theirs = _node(f"/{folder}/{name}")
                if folder == "dev" and name not in _STANDARD and theirs is not None:
                    lines["nodes besides"] = "the host's" if node == theirs else f"{name}: {node}, the host's {theirs}"
                    continue
                lines[f"node /{folder}/{name}"] = node
        return lines

    def _cgroups(self, text: str, id: str) -> list[str]:
        return sorted(
            {re.sub(r"/[^:]*(?=/<id>)", "…", line.split(":", 2)[2].replace(id, "<id>")) for line in text.splitlines()}
        )


_STANDARD = "null zero full random urandom tty console ptmx fd stdin stdout stderr core pts shm mqueue".split()


def _node(path: str) -> str | None:
    """A device of the host's as the probe says one."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    kind = "c" if stat.S_ISCHR(found.st_mode) else "b" if stat.S_ISBLK(found.st_mode) else ""
    if not kind:
        return None
    mode = f"{stat.S_IMODE(found.st_mode):04o} {found.st_uid}:{found.st_gid}"
    return f"{kind} {os.major(found.st_rdev)}:{os.minor(found.st_rdev)} {mode}"


def _limits(text: str) -> list[tuple[str, str]]:
    rows = [re.split(r"  +", line.strip()) for line in text.splitlines()[1:]]
    return [(name.removeprefix("Max "), f"{soft} {hard}") for name, soft, hard, *_ in rows]


def _sweep(name: str, table: str, found: Mapping[str, int], baseline: Mapping[str, int]) -> Lines:
    names = {number: call for call, number in syscalls.tables()[table].items()}
    numbers = sorted(map(int, found))

    def those(error: int) -> list[str]:
        """Calls with this answer that the kernel itself would not give."""
        return sorted(
            names[number]
            for number in numbers
            if number in names and found[str(number)] == error != baseline[str(number)]
        )

    absent = {names[number] for number in numbers if number > _OLDEST and number in names}
    ended = [number for number in numbers if found[str(number)] >= _ENDED > baseline[str(number)]]
    nameless = {errno.errorcode.get(found[str(number)], "0") for number in numbers if number not in names}
    return {
        f"{name} refused": those(_EPERM),
        f"{name} said not to exist": [call for call in those(_ENOSYS) if call not in absent],
        f"{name} ended": [names.get(number, f"{number}") for number in ended],
        f"{name} without a name": sorted(nameless),
    }


def differences(one: Lines, other: Lines) -> dict[str, tuple[str | list[str], str | list[str]]]:
    """Lines that are not the same, by name: what each says, "" where it has none; of lists only what differs."""
    result: dict[str, tuple[str | list[str], str | list[str]]] = {}
    for name in sorted(one.keys() | other.keys()):
        a, b = one.get(name, ""), other.get(name, "")
        if a == b:
            continue
        if isinstance(a, list) and isinstance(b, list):
            a, b = [x for x in a if x not in b], [x for x in b if x not in a]
        result[name] = (a, b)
    return result
