"""What a shim does with a container's cgroup: make, kill, freeze, count, remove.  It imports ``os``, ``time``,
``bpf`` and ``scope``.

The zygote holds this module in every shim's memory, and nothing may be imported on a container's start path: hence no
typing, dataclasses, enum, re or json here, not even indirectly.  What needs thinking (which hierarchy, which file,
which value) is done beforehand by ``cgroups.py``; here are its flat results:

- a *step* is a tuple of three builtins: ``("mkdir", directory, "")``, ``("write", file, value)``,
  ``("try", file, value)`` (a write that may find the file missing or unsupported),
  ``("own", file, "uid:gid")`` (give it away, if it is there),
  ``("scope", address, message)`` (have systemd make it, this very process in it), ``("unscope", address, message)``
  (have systemd forget it) or
  ``("devices", directory, program)`` (load the eBPF filter of devices and attach it);
- *directories* are all of one container's, in every hierarchy that it is in.  On a hybrid host that is one per v1
  controller and one in the unified hierarchy; with pure v2 it is a single one.

Every function takes both kinds of hierarchy and looks at which control file there is.
"""

import os
import time

from pierhead.libcontainer import scope
from pierhead.linux.bpf import attach_devices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

KILL_WAIT = 10.0
"""Seconds after which killed processes that are still there are an error (uninterruptible sleep)."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = (2, 19)  # ENOENT, ENODEV: the cgroup was removed while we looked


def execute(steps: tuple[tuple[str, str, str | bytes], ...]) -> None:
    """Do the steps in order.  Raises OSError with the file in it at the first that fails; idempotent."""
    for kind, path, value in steps:
        if kind == "mkdir":
            try:
                os.mkdir(path, 0o755)
            except FileExistsError:
                pass
        elif kind == "write":
            write(path, value)
        elif kind == "try":
            try:
                write(path, value)
            except OSError as error:
                if error.errno not in (2, 13, 22, 95):  # no such file, or this kernel does not do it
                    raise
        elif kind == "scope" and isinstance(value, bytes):
            scope.start(path, value)
        elif kind == "unscope" and isinstance(value, bytes):
            try:
                scope.call(path, value)
            except FileNotFoundError:
                pass  # systemd has seen its end
        elif kind == "own" and isinstance(value, str):
            uid, _, gid = value.partition(":")
            try:
                os.chown(path, int(uid), int(gid))
            except FileNotFoundError:
                pass  # memory.reclaim, of a group without that controller
        elif kind == "devices" and isinstance(value, bytes):
            attach_devices(path, value)
        else:
            raise ValueError(f"unknown cgroup step {kind!r}")


def write(path: str, value: str | bytes) -> None:
    """One write(2) of a control file: the kernel takes a value as a whole or not at all."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode() if isinstance(value, str) else value)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (writing {value!r})", path) from None
    finally:
        os.close(descriptor)


def read(path: str, above: int | None = None) -> str | None:
    """A control file's text, or None where it is not there. above: a descriptor of the directory that it is below."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=above)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    try:
        parts = []
        while part := os.read(descriptor, 65536):
            parts.append(part)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(descriptor)
    return b"".join(parts).decode()


def below(directory: str) -> "Iterator[tuple[int, str]]":
    """Every cgroup below a directory, the deepest first: a descriptor of the one that it is in, and its name there.

    The descriptor is valid until the next is asked for.  One at a time, and no paths: a container that may make groups
    makes them deeper than a path is long, more than there are descriptors, and further than a function calls itself.
    """
    try:
        here = os.open(directory, _DIRECTORY)
    except FileNotFoundError:
        return
    waiting = [_groups(here)]
    names: list[str] = []
    try:
        while waiting[-1] or names:
            if waiting[-1]:
                name = waiting[-1].pop()
                try:
                    there = os.open(name, _DIRECTORY, dir_fd=here)
                except FileNotFoundError:
                    continue
                os.close(here)
                here = there
                names.append(name)
                waiting.append(_groups(here))
            else:
                there = os.open("..", _DIRECTORY, dir_fd=here)
                os.close(here)
                here = there
                waiting.pop()
                yield here, names.pop()
    finally:
        os.close(here)


def _groups(directory: int) -> list[str]:
    """The names of those right below."""
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return []


def pids(directories: tuple[str, ...]) -> list[int]:
    """Process ids (as the host sees them) in these cgroups and below, sorted; zombies are not among them."""
    found: set[int] = set()
    for directory in directories:
        found.update(_processes(directory))
        for above, name in below(directory):
            found.update(_processes(name, above))
    found.discard(0)  # a process of another PID namespace than ours has no number here
    return sorted(found)


def _processes(group: str, above: int | None = None) -> list[int]:
    try:
        return list(map(int, (read(f"{group}/cgroup.procs", above) or "").split()))
    except OSError as error:
        if error.errno != 95:  # threaded: the list of the first group above that is not has its processes
            raise
        return []


def kill(directories: tuple[str, ...], wait: float = KILL_WAIT) -> None:
    """End every process of these cgroups by SIGKILL, frozen ones too, and wait until none is left.  Idempotent.

    Raises TimeoutError if some are there after ``wait`` seconds.  Reaping them is their parent's business.
    """
    deadline = time.monotonic() + wait
    pause = 0.0005
    while True:
        if not _kill_at_once(directories):
            _kill_frozen(directories)
        if not populated(directories):
            return
        if time.monotonic() > deadline:
            left = " ".join(map(str, pids(directories)))
            raise TimeoutError(110, f"processes survive SIGKILL: {left}", directories[0])
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def populated(directories: tuple[str, ...]) -> bool:
    """Whether a process is in these cgroups or below.

    The unified hierarchy says so in one file; the v1 hierarchies hold the same processes, so they are looked through
    only where there is no unified one.
    """
    for directory in reversed(directories):  # the unified one is the last
        if (events := read(f"{directory}/cgroup.events")) is not None:
            return keyed(events).get("populated") == 1
    return bool(pids(directories))


def _kill_at_once(directories: tuple[str, ...]) -> bool:
    """cgroup.kill (Linux 5.14, unified hierarchy): atomic against forks, and frozen processes die, too.

    True if that was possible.  (Where there is a unified hierarchy the v1 freezer is not used, see ``Layout.mounts``.)
    """
    for directory in reversed(directories):
        try:
            write(f"{directory}/cgroup.kill", "1")
            return True
        except OSError as error:
            if error.errno not in _GONE:
                raise
    return False


def _kill_frozen(directories: tuple[str, ...]) -> None:
    """cgroup v1: freeze, so that nothing forks away under our hands; signal each; thaw, so that they die."""
    _freezer(directories, "FROZEN")
    for pid in pids(directories):
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass
    _freezer(directories, "THAWED")


def _freezer(directories: tuple[str, ...], state: str) -> None:
    for directory in directories:
        try:
            write(f"{directory}/freezer.state", state)
        except OSError as error:
            if error.errno not in _GONE:
                raise


def freeze(directories: tuple[str, ...], wait: float = 10.0) -> None:
    """Stop every process of the cgroup where it is; returns when all stand still.

    Raises OSError (ENOTSUP) without any freezer, ProcessLookupError once the cgroup is gone, TimeoutError (and thaws)
    if not all could be stopped in ``wait`` s.
    """
    if frozen(directories) is None:
        _must_be(directories)
        raise OSError(95, "no cgroup freezer for this container", directories[0])
    deadline = time.monotonic() + wait
    pause = 0.0005
    _set_frozen(directories, True)
    while not frozen(directories):
        if time.monotonic() > deadline:
            thaw(directories)
            raise TimeoutError(110, "not all processes could be frozen", directories[0])
        _must_be(directories)
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
        _freezer(directories, "FROZEN")  # v1 wants to be asked again while tasks are FREEZING


def _must_be(directories: tuple[str, ...]) -> None:
    if not any(map(os.path.isdir, directories)):
        raise ProcessLookupError(3, "the container has ended", directories[0])


def thaw(directories: tuple[str, ...]) -> None:
    """Let the cgroup's processes go on. Idempotent."""
    _set_frozen(directories, False)


def _set_frozen(directories: tuple[str, ...], yes: bool) -> None:
    _freezer(directories, "FROZEN" if yes else "THAWED")
    for directory in directories:
        try:
            write(f"{directory}/cgroup.freeze", "1" if yes else "0")
        except OSError as error:
            if error.errno not in _GONE:
                raise


def frozen(directories: tuple[str, ...]) -> bool | None:
    """Whether all processes stand still; None where nothing here can freeze."""
    state = None
    for directory in directories:
        if (text := read(f"{directory}/freezer.state")) is not None:
            state = text.strip() == "FROZEN"
        elif read(f"{directory}/cgroup.freeze") is not None:
            state = keyed(read(f"{directory}/cgroup.events")).get("frozen") == 1
        if state is False:
            return False
    return state


def oom_kills(directories: tuple[str, ...]) -> int:
    """How many processes of this cgroup (v2: and below) the kernel has killed for want of memory so far."""
    count = 0
    for directory in directories:
        for file in ("memory.events", "memory.oom_control"):
            count += keyed(read(f"{directory}/{file}")).get("oom_kill", 0)
    return count


def oom_peak(directories: tuple[str, ...]) -> int:
    """0 if the kernel has killed nothing here for want of memory, else the most bytes that were used (1: not known)."""
    if not oom_kills(directories):
        return 0
    for directory in directories:
        for file in ("memory.max_usage_in_bytes", "memory.peak"):
            if (text := read(f"{directory}/{file}")) is not None:
                return max(int(text), 1)
    return 1


def keyed(text: str | None) -> dict[str, int]:
    """A "flat keyed" control file ("name number" lines) as a dict."""
    values = {}
    for line in (text or "").splitlines():
        key, _, value = line.partition(" ")
        if value.isdigit():
            values[key] = int(value)
    return values


def remove(directories: tuple[str, ...], wait: float = 2.0) -> None:
    """Remove these cgroups with all below them.  Idempotent.  They must hold no process (``kill`` first).

    The kernel says EBUSY for a moment after the last process has gone; after ``wait`` seconds OSError is raised, for
    the first that could not be removed, after the others were.  What a privileged container has moved so that it is in
    one v1 hierarchy alone is killed here.
    """
    failed = None
    deadline = time.monotonic() + wait
    for directory in directories:
        try:
            os.rmdir(directory)  # the usual case: nothing below
            continue
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (16, 39):  # EBUSY, ENOTEMPTY
                raise
        _kill_frozen((directory,))
        try:
            for above, name in below(directory):
                _rmdir(name, deadline, above)
            _rmdir(directory, deadline)
        except OSError as error:
            failed = failed or error
    if failed:
        raise failed


def _rmdir(group: str, deadline: float, above: int | None = None) -> None:
    pause = 0.0005
    while True:
        try:
            os.rmdir(group, dir_fd=above)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != 16 or time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
