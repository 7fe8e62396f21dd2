"""The systemd cgroup driver: a container's cgroup is a scope, which systemd makes and knows with its limits.

Pure: slices, names, and D-Bus messages as bytes for ``scope``.  Sources: systemd.slice(5), systemd.resource-control(5),
org.freedesktop.systemd1(5), the D-Bus specification.
"""

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pierhead.libcontainer import cgroupfs
from pierhead.libcontainer.cgroups import Layout, Plan, Step, levels, swap_alone, weight_of_blkio, weight_of_shares
from pierhead.libcontainer.scope import ADDRESS
from pierhead.libcontainer.spec import Resources

DEFAULT_SLICE: Final = "system.slice"
INFINITY: Final = (1 << 64) - 1

_MANAGER = (1, "o", "/org/freedesktop/systemd1"), (2, "s", "org.freedesktop.systemd1.Manager")
_DESTINATION = (6, "s", "org.freedesktop.systemd1")

Property = tuple[str, str, object]
"""Name, D-Bus type ("s", "b", "t", "au"), value."""


def unit(id: str) -> str:
    """The scope of a container."""
    return f"pierhead-{id}.scope"


def valid_slice(name: str) -> bool:
    """Whether systemd takes it: dashes part the levels, none of which is empty."""
    stem = name.removesuffix(".slice")
    return stem != name and "/" not in name and (stem == "-" or all(stem.split("-")))


def path(slice: str, id: str) -> str:
    """Where the scope's cgroup is: "a-b.slice" is below "a.slice"."""
    stem = slice.removesuffix(".slice")
    levels = [] if stem == "-" else stem.split("-")
    folders = ["-".join(levels[: end + 1]) + ".slice" for end in range(len(levels))]
    return "/" + "/".join([*folders, unit(id)])


def runtime_path(slice: str, id: str) -> str:
    """How an OCI runtime is told of the same scope: slice, and the two parts of the unit's name."""
    return f"{slice}:pierhead:{id}"


def slice_of(cgroup: str) -> str:
    """The slice of a scope's cgroup, as ``path`` makes it; empty if it is none."""
    parent, _, name = cgroup.rpartition("/")
    if not (name.startswith("pierhead-") and name.endswith(".scope")):
        return ""
    return parent.rpartition("/")[2] or "-.slice"


def planned(layout: Layout, made: Plan, slice: str, id: str, resources: Resources, address: str = ADDRESS) -> Plan:
    """The plan with the scope for its first step.

    On v1 the slice is made in the hierarchies that systemd does not use for it, each time: it clears them away.
    """
    place = path(slice, id)
    above = [level for level in levels(place)[:-1] if layout.version == 1]
    made_above: list[Step] = [("mkdir", mount + level, "") for mount in layout.mounts() for level in above]
    if (cpuset := layout.controllers.get("cpuset")) and above:
        # Which systemd leaves alone: a new one takes no process before it has CPUs and memory nodes.
        values = {file: (cgroupfs.read(f"{cpuset}/{file}") or "").strip() for file in ("cpuset.cpus", "cpuset.mems")}
        values["cgroup.clone_children"] = "1"
        made_above += [("try", f"{cpuset}{level}/{file}", value) for level in above for file, value in values.items()]
    first: Step = ("scope", address, start_message(layout, slice, id, resources))
    # Whoever asks is in the scope, and must not be when a start that fails kills what is there.
    leave = tuple(f"{mount}/cgroup.procs" for mount in layout.mounts())
    end: Step = ("unscope", address, stop_message(id))
    return replace(made, steps=(first, *made_above, *made.steps), leave=leave, end=(end,))


def start_message(layout: Layout, slice: str, id: str, resources: Resources) -> bytes:
    """StartTransientUnit, behind the place of the process id in it (``scope.start``)."""
    properties: list[Property] = [
        ("PIDs", "au", [0]),
        ("Description", "s", f"pierhead container {id}"),
        ("Slice", "s", slice),
        ("Delegate", "b", True),
        ("DefaultDependencies", "b", False),
        ("CollectMode", "s", "inactive-or-failed"),
        *limits(layout, resources),
    ]
    body = _Body()
    body.text(unit(id))
    body.text("replace")
    at = body.properties(properties)
    body.array(8, lambda: None)  # no auxiliary units
    head = _head("StartTransientUnit", "ssa(sv)a(sa(sv))", body)
    return struct.pack("=I", len(head) + at) + head + body.data


def change_message(layout: Layout, id: str, resources: Resources) -> bytes:
    """SetUnitProperties with the limits, until the machine is booted anew."""
    body = _Body()
    body.text(unit(id))
    body.flag(True)
    body.properties(limits(layout, resources))
    return _head("SetUnitProperties", "sba(sv)", body) + bytes(body.data)


def stop_message(id: str) -> bytes:
    """StopUnit, of a scope whose cgroup is gone: on v1 nobody tells systemd."""
    body = _Body()
    body.text(unit(id))
    body.text("replace")
    return _head("StopUnit", "ss", body) + bytes(body.data)


def limits(layout: Layout, wanted: Resources) -> list[Property]:
    """As systemd calls them. It writes them again when it reloads; what it has no word for, it leaves alone."""
    found: list[Property] = [("TasksMax", "t", wanted.pids if wanted.pids > 0 else INFINITY)]
    unified = layout.version == 2
    if wanted.memory > 0:
        found.append(("MemoryMax" if unified else "MemoryLimit", "t", wanted.memory))
    if unified and wanted.memory_swap:
        swap = swap_alone(wanted.memory, wanted.memory_swap)
        found.append(("MemorySwapMax", "t", INFINITY if swap == "max" else int(swap)))
    if unified and wanted.memory_reservation:
        found.append(("MemoryLow", "t", wanted.memory_reservation))
    if wanted.cpu_shares:
        shares = wanted.cpu_shares
        found.append(("CPUWeight", "t", weight_of_shares(shares)) if unified else ("CPUShares", "t", shares))
    if wanted.cpu_quota > 0:
        period = wanted.cpu_period or 100_000
        # Rounded up to the hundredth of a second that systemd counts in.
        found.append(("CPUQuotaPerSecUSec", "t", -(-wanted.cpu_quota * 1_000_000 // period // 10_000) * 10_000))
        found.append(("CPUQuotaPeriodUSec", "t", period))
    if wanted.blkio_weight:
        weight = wanted.blkio_weight
        found.append(("IOWeight", "t", weight_of_blkio(weight)) if unified else ("BlockIOWeight", "t", weight))
    return found


class _Body:
    """A D-Bus body in the making."""

    def __init__(self) -> None:
        self.data = bytearray()

    def align(self, to: int) -> None:
        self.data += bytes(-len(self.data) % to)

    def text(self, value: str) -> None:
        self.align(4)
        encoded = value.encode()
        self.data += struct.pack("<I", len(encoded)) + encoded + b"\0"

    def signature(self, value: str) -> None:
        self.data += bytes((len(value),)) + value.encode() + b"\0"

    def flag(self, value: bool) -> None:
        self.align(4)
        self.data += struct.pack("<I", value)

    def variant(self, kind: str, value: object) -> int:
        """Returns where a list's first number is."""
        self.signature(kind)
        if kind in ("s", "o"):
            self.text(str(value))
        elif kind == "g":
            self.signature(str(value))
        elif kind == "b":
            self.flag(bool(value))
        elif kind == "t":
            self.align(8)
            self.data += struct.pack("<Q", value)
        elif isinstance(value, list):
            self.align(4)
            self.data += struct.pack(f"<I{len(value)}I", 4 * len(value), *value)
            return len(self.data) - 4 * len(value)
        return 0

    def array(self, alignment: int, fill: Callable[[], None]) -> None:
        self.align(4)
        at = len(self.data)
        self.data += bytes(4)
        self.align(alignment)
        start = len(self.data)
        fill()
        struct.pack_into("<I", self.data, at, len(self.data) - start)

    def properties(self, found: list[Property]) -> int:
        """a(sv); returns where the first one's first number is."""
        places: list[int] = []

        def fill() -> None:
            for name, kind, value in found:
                self.align(8)
                self.text(name)
                places.append(self.variant(kind, value))

        self.array(8, fill)
        return places[0]


def _head(member: str, signature: str, body: _Body) -> bytes:
    """A method call's header, with the padding behind it."""
    head = _Body()
    head.data += struct.pack("<4B2I", ord("l"), 1, 0, 1, len(body.data), 1)

    def fill() -> None:
        for code, kind, value in (*_MANAGER, (3, "s", member), _DESTINATION, (8, "g", signature)):
            head.align(8)
            head.data.append(code)
            head.variant(kind, value)

    head.array(8, fill)
    head.align(8)
    return bytes(head.data)
