"""The native exec driver: containers are made by our own shims, which the zygote forks (see ``shims`` for the rest)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from pierhead.driver.execdriver import protocol
from pierhead.driver.execdriver.api import StartRequest
from pierhead.driver.execdriver.shims import Shims
from pierhead.driver.execdriver.spawn import Zygote
from pierhead.libcontainer import cgroups, plan, scope, scopes
from pierhead.libcontainer.spec import NamespaceKind, NamespaceMode, Resources

log = logging.getLogger(__name__)


class NativeDriver(Shims):
    """ExecDriver over zygote and shims (see ``api`` for the contract)."""

    name = "native"
    default = "pierhead"

    def __init__(self, instance: str, exec_root: str, descriptors: int = 0) -> None:
        """instance, exec_root: as of ``Shims``.

        descriptors: RLIMIT_NOFILE's soft limit in containers; 0: the caller's own.
        """
        super().__init__(instance, exec_root, Zygote(descriptors))

    def runtimes(self) -> Mapping[str, str]:
        return {self.default: self.name}

    def knows(self, id: str) -> bool:
        folder = self.folder(id)
        return os.path.lexists(folder) and not os.path.lexists(os.path.join(folder, protocol.RUNTIME))

    def open(self) -> None:
        super().open()
        self._zygote.open()

    def compile(self, request: StartRequest) -> bytes:
        spec = request.spec
        made = cgroups.plan(self.layout, spec.cgroup, spec.resources)
        if spec.process.user_maps is not None:
            own = spec.namespaces.get(NamespaceKind.CGROUP, NamespaceMode.NEW) is NamespaceMode.NEW
            made = cgroups.delegated(self.layout, made, spec.process.user_maps.root) if own else made
        slice = scopes.slice_of(spec.cgroup)
        if slice:
            made = scopes.planned(self.layout, made, slice, spec.id, spec.resources)
        return plan.compile_start(spec, made)

    def delete(self, id: str) -> None:
        scoped = bool(scopes.slice_of(self.cgroup(id)))
        super().delete(id)
        if scoped:
            try:
                scope.call(scope.ADDRESS, scopes.stop_message(id), awaited=True)
            except FileNotFoundError:
                pass  # systemd has seen it
            except OSError as error:
                log.warning("container %s: %s", id[:12], error)

    def update(self, id: str, resources: Resources) -> None:
        super().update(id, resources)
        if scopes.slice_of(self.cgroup(id)):
            scope.call(scope.ADDRESS, scopes.change_message(self.layout, id, resources))
