"""The OCI exec driver: containers are made by an installed OCI runtime (runc, crun) and looked after by our shims.

A container's run-time folder holds, beside what ``shim`` says,

    runtime  the runtime's program and options, by which a container is known for this driver's
    bundle   config.json and the mount point of its root file system, which the shim alone sees mounted
    state    what the runtime knows of it
"""

from __future__ import annotations

import json
import logging
import marshal
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from pierhead.driver.execdriver import ocibundle, protocol
from pierhead.driver.execdriver.api import StartRequest
from pierhead.driver.execdriver.monitor import ShimMonitor
from pierhead.driver.execdriver.runtime import VERSION, Runtime
from pierhead.driver.execdriver.shims import Shims
from pierhead.driver.execdriver.spawn import Zygote
from pierhead.errors import InvalidParameter
from pierhead.libcontainer import cgroupfs, cgroups, oci, plan, scopes, userplan
from pierhead.libcontainer.spec import NamespaceKind, NamespaceMode, Process, Spec
from pierhead.linux import idmap
from pierhead.linux.mount import DirectoryRoot

log = logging.getLogger(__name__)

_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ocizygote.py")

_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH")
"""Of the daemon's environment, what a runtime needs to be executed and to find its helpers."""

STANDARD = {"runc": "runc", "io.containerd.runc.v2": "runc", "crun": "crun"}
"""Runtimes that are there if they are installed, and their programs; the first two are Docker's names of the same."""


PLACES = ("/mnt", "/media", "/srv", "/opt", "/tmp", "/var/tmp")
"""Folders that everybody may enter, of which one is covered, for the shim and its runtime alone."""


class OciMonitor(ShimMonitor):
    """As ShimMonitor; an exec is said in the runtime's words."""

    def program(self, process: Process, privileged: bool) -> bytes:
        plan.compile_exec(process, privileged)  # refuses what cannot be
        return marshal.dumps(
            {
                "version": VERSION,
                "process": oci.process(process, privileged),
                "user": (process.user, tuple(process.groups)),
            },
            2,
        )


class OciDriver(Shims):
    """ExecDriver over an OCI runtime (see ``api`` for the contract)."""

    name = "oci"
    monitor = OciMonitor

    def __init__(
        self,
        instance: str,
        exec_root: str,
        descriptors: int = 0,
        added: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """instance, exec_root, descriptors: as of NativeDriver.

        added: runtimes beside the standard ones: name to program (path or name) and options.
        """
        super().__init__(instance, exec_root, Zygote(descriptors, _PROGRAM))
        self._added = dict(added or {})

    # Runtimes

    @property
    def default(self) -> str:
        """crun where there is cgroup v2 alone, if it is installed, else runc; empty if neither is."""
        found = self.runtimes()
        first = "crun" if self.layout.version == 2 else "runc"
        return next((name for name in (first, "runc", *self._added) if name in found), "")

    def runtimes(self) -> Mapping[str, str]:
        commands = {name: (program,) for name, program in STANDARD.items()} | self._added
        found = {name: shutil.which(command[0]) for name, command in commands.items()}
        return {name: path for name, path in found.items() if path is not None}

    def knows(self, id: str) -> bool:
        return os.path.lexists(os.path.join(self.folder(id), protocol.RUNTIME))

    def _command(self, name: str) -> tuple[str, ...]:
        """Program and options of a runtime. Raises InvalidParameter."""
        name = name or self.default
        path = self.runtimes().get(name)
        if path is None:
            raise InvalidParameter(f"unknown or invalid runtime name: {name or 'runc'}")
        return (path, *self._added.get(name, ())[1:])

    def besides(self) -> tuple[str, ...]:
        return tuple(mount for mount in cgroups.mounts() if mount not in self.layout.mounts())

    # Start

    def compile(self, request: StartRequest) -> bytes:
        spec, setup = request.spec, request.spec.network
        plan.compile_start(spec)  # refuses what cannot be, in the same words
        path, *options = self._command(request.runtime)
        slice = scopes.slice_of(spec.cgroup)
        if slice:
            options.append("--systemd-cgroup")
            spec = replace(spec, cgroup=scopes.runtime_path(slice, spec.id))
        kinds = {kind: spec.namespaces.get(kind, NamespaceMode.NEW) for kind in NamespaceKind}
        joined = {kind: "" for kind, mode in kinds.items() if mode is NamespaceMode.JOIN}
        of_network = [(name, value) for name, value in map(_sysctl, spec.sysctls) if name.startswith("net/")]
        others = [(name, value) for name, value in spec.sysctls if not plan.sysctl_path(name).startswith("net/")]
        prepared = [(f"{number}", mount) for number, mount in enumerate(spec.mounts) if oci.prepared(mount)]
        places = {mount.target: f"{self.folder(spec.id)}/bundle/{ocibundle.MOUNTS}/{name}" for name, mount in prepared}
        config = oci.config(replace(spec, sysctls=tuple(others)), joined, places)
        network = NamespaceKind.NETWORK
        new = kinds[network] is NamespaceMode.NEW
        root = spec.root
        program = {
            "version": VERSION,
            "runtime": path,
            "options": tuple(options),
            "environment": _environment(),
            "folder": self.folder(spec.id),
            "config": config,
            "root": ("directory", root.path)
            if isinstance(root, DirectoryRoot)
            else ("overlay", tuple(root.lower), root.upper or "", root.work or ""),
            "mounts": tuple(
                (name, mount.kind, mount.source, tuple(mount.layers), mount.subpath, "bind" not in mount.options)
                for name, mount in prepared
            ),
            "user": (spec.process.user, tuple(spec.process.groups)),
            "users": self._users(spec, path, request.spec.cgroup),
            "network_namespace": new,
            "network": (
                tuple(setup.host),
                tuple(setup.inside),
                setup.nft,
                tuple(map(_sysctl, setup.sysctls)),
                setup.resolver,
                tuple(setup.busy),
            ),
            "sysctls": tuple(of_network),
            "joined": {oci.NAMESPACES[kind]: f"ns:{kind}" for kind in (*joined, *((network,) if new else ()))}
            | ({oci.USER: "ns:user"} if spec.process.user_maps is not None else {}),
        }
        return marshal.dumps(program, 2)

    def _users(self, spec: Spec, runtime: str, cgroup: str) -> dict[str, object] | None:
        """What the shim needs to know of a user namespace: its root on the host, maps, the folder of all layers, and
        where the root is mounted, and what of its cgroup is given to it. Raises ValueError where there is no such
        place."""
        maps = spec.process.user_maps
        if maps is None:
            return None
        own = spec.namespaces.get(NamespaceKind.CGROUP, NamespaceMode.NEW) is NamespaceMode.NEW
        root = [spec.root.path] if isinstance(spec.root, DirectoryRoot) else [*spec.root.lower]
        needed = [*root, self.folder(spec.id), runtime, *os.environ.get("LD_LIBRARY_PATH", "").split(":")]
        for mount in spec.mounts:
            needed += [mount.source, *mount.layers]
        return {
            "ids": maps.root,
            "uids": idmap.text(maps.uids),
            "gids": idmap.text(maps.gids),
            "base": userplan.base(spec.root),
            "place": unused(needed),
            "gifts": cgroups.gifts(self.layout, self.layout.unified + cgroup, maps.root) if own else (),
        }

    # Afterwards

    def close(self) -> None:
        super().close()
        if not self.existing():  # a runtime uses hierarchies that native containers have no need of
            for mount in cgroups.mounts():
                for path in (self._base, os.path.dirname(self._base)):
                    with suppress(OSError):
                        os.rmdir(mount + path)

    def clear_folder(self, id: str) -> None:
        """As in Shims; what the shim could not have the runtime do is done first."""
        folder = self.folder(id)
        try:
            with open(os.path.join(folder, protocol.RUNTIME), encoding="utf-8") as file:
                path, *options = json.load(file)
            Runtime(path, options, _environment(), folder, id).delete()
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            log.warning("container %s: %s", id[:12], error)
        directories = [mount + self.cgroup(id) for mount in cgroups.mounts()]
        with suppress(OSError):
            cgroupfs.remove(tuple(filter(os.path.isdir, directories)))
        super().clear_folder(id)


def _folder(path: str) -> str:
    return os.path.realpath(path).rstrip("/") + "/"


def unused(needed: Iterable[str], places: Sequence[str] = PLACES) -> str:
    """The first place that is there and neither has any of these in it nor is in one, wherever links lead.

    Raises ValueError.
    """
    real = [_folder(path) for path in needed if path.startswith("/")]
    for place in places:
        ours = _folder(place)
        if os.path.isdir(place) and not any(path.startswith(ours) or ours.startswith(path) for path in real):
            return place
    raise ValueError(f"a user namespace needs one of {', '.join(places)}, in which nothing is that it mounts")


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}


def _sysctl(pair: tuple[str, str]) -> tuple[str, str]:
    return plan.sysctl_path(pair[0]), pair[1]
