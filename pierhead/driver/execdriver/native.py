"""The native exec driver: containers are made by our own shims, which the zygote forks (see ``shims`` for the rest)."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pierhead.driver.execdriver import protocol
from pierhead.driver.execdriver.api import StartRequest
from pierhead.driver.execdriver.shims import Shims
from pierhead.driver.execdriver.spawn import Zygote
from pierhead.libcontainer import cgroups, plan, scopes
from pierhead.libcontainer.spec import NamespaceKind, NamespaceMode


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
