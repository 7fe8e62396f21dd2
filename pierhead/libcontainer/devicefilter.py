"""Which devices a container may use: cgroup v1's lines, and an eBPF program of the same sense for v2.

The kernel's v1 device controller (security/device_cgroup.c) is the model, for Docker's rules were written for it: "a"
sets the default and forgets all exceptions; an allowed line widens what is allowed for exactly its device numbers, a
denied one narrows it; an access is granted if one single exception covers all of it.  ``Exceptions`` computes that end
state, and ``compile`` turns it to instructions (linux/bpf.h; the context is ``struct bpf_cgroup_dev_ctx``).
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from pierhead.libcontainer.spec import DeviceRule

_MKNOD, _READ, _WRITE = 1, 2, 4
_ACCESS = {"m": _MKNOD, "r": _READ, "w": _WRITE}
_EVERYTHING = _MKNOD | _READ | _WRITE
_TYPES = {"b": 1, "c": 2}

DENY_ALL = DeviceRule(False, "a", None, None, "rwm")
ALLOW_ALL = DeviceRule(True, "a", None, None, "rwm")

DEFAULT = (
    DENY_ALL,
    DeviceRule(True, "c", None, None, "m"),  # a node may be made; opening it is another matter
    DeviceRule(True, "b", None, None, "m"),
    DeviceRule(True, "c", 1, 3, "rwm"),  # null
    DeviceRule(True, "c", 1, 5, "rwm"),  # zero
    DeviceRule(True, "c", 1, 7, "rwm"),  # full
    DeviceRule(True, "c", 1, 8, "rwm"),  # random
    DeviceRule(True, "c", 1, 9, "rwm"),  # urandom
    DeviceRule(True, "c", 5, 0, "rwm"),  # tty
    DeviceRule(True, "c", 5, 1, "rwm"),  # console
    DeviceRule(True, "c", 5, 2, "rwm"),  # ptmx
    DeviceRule(False, "c", 10, 229, "rwm"),  # fuse
    DeviceRule(True, "c", 10, 200, "rwm"),  # net/tun
    DeviceRule(True, "c", 136, None, "rwm"),  # pts
)
"""What an ordinary container may use (Docker 28 with runc's own defaults)."""

PRIVILEGED = (ALLOW_ALL,)
"""Every device there is."""


def line(rule: DeviceRule) -> str:
    """A rule as devices.allow and devices.deny of cgroup v1 take it."""
    if rule.kind == "a":
        return "a"
    return f"{rule.kind} {_number(rule.major)}:{_number(rule.minor)} {rule.access}"


def _number(number: int | None) -> str:
    return "*" if number is None else str(number)


@dataclass(frozen=True, slots=True)
class Exceptions:
    """What the v1 controller makes of a list of rules.

    allow: whether an access that no exception speaks of is allowed.
    devices: (kind, major, minor) to access bits: allowed ones where ``allow`` is False, else denied ones.
    """

    allow: bool
    devices: tuple[tuple[tuple[str, int | None, int | None], int], ...]

    @staticmethod
    def of(rules: Iterable[DeviceRule]) -> "Exceptions":
        """The end state after writing the rules in order. A fresh cgroup allows all, as on v1 below the root."""
        allow = True
        devices: dict[tuple[str, int | None, int | None], int] = {}
        for rule in rules:
            if rule.kind == "a":
                allow, devices = rule.allow, {}
                continue
            key = (rule.kind, rule.major, rule.minor)
            bits = sum({_ACCESS[letter] for letter in rule.access})
            # Widening what the exceptions say (allow in a whitelist, deny in a blacklist), or narrowing it.
            devices[key] = devices.get(key, 0) | bits if rule.allow != allow else devices.get(key, 0) & ~bits
        return Exceptions(allow, tuple((key, bits) for key, bits in devices.items() if bits))


def settled(rules: Iterable[DeviceRule]) -> tuple[DeviceRule, ...]:
    """Rules of the same end state, each of which adds to it: the default, then every exception."""
    state = Exceptions.of(rules)
    found = [ALLOW_ALL if state.allow else DENY_ALL]
    for (kind, major, minor), bits in state.devices:
        access = "".join(letter for letter, bit in (("r", _READ), ("w", _WRITE), ("m", _MKNOD)) if bits & bit)
        found.append(DeviceRule(not state.allow, kind, major, minor, access))
    return tuple(found)


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", code, target | source << 4, offset, immediate)


_LOAD_WORD = 0x61  # target = *(u32 *)(source + offset)
_MOVE32, _MOVE32_NUMBER = 0xBC, 0xB4
_AND32_NUMBER = 0x54
_SHIFT_RIGHT32_NUMBER = 0x74
_UNLESS_EQUAL_NUMBER = 0x55  # jump if target != immediate
_IF_EQUAL_NUMBER = 0x15
_EXIT = 0x95

# Registers: 1 is the context on entry and scratch later.
_RESULT, _SCRATCH, _WANTED, _TYPE, _MAJOR, _MINOR = 0, 1, 2, 3, 4, 5


def compile(rules: Iterable[DeviceRule]) -> bytes:
    """The eBPF program (BPF_PROG_TYPE_CGROUP_DEVICE) that decides as the v1 controller would after these rules."""
    state = Exceptions.of(rules)
    program = [
        _instruction(_LOAD_WORD, _WANTED, _SCRATCH, 0),
        _instruction(_MOVE32, _TYPE, _WANTED),
        _instruction(_AND32_NUMBER, _TYPE, immediate=0xFFFF),
        _instruction(_SHIFT_RIGHT32_NUMBER, _WANTED, immediate=16),
        _instruction(_LOAD_WORD, _MAJOR, _SCRATCH, 4),
        _instruction(_LOAD_WORD, _MINOR, _SCRATCH, 8),
    ]
    for (kind, major, minor), bits in state.devices:
        program += _exception(kind, major, minor, bits, state.allow)
    program += _verdict(state.allow)
    return b"".join(program)


def _exception(kind: str, major: int | None, minor: int | None, bits: int, allow: bool) -> list[bytes]:
    """Leave with the other verdict if the access is about this device; fall through to the next exception if not."""
    matched = _verdict(not allow)
    if allow:
        # Denied if any of what is wanted is among the denied bits.
        test, unmatched = bits, _IF_EQUAL_NUMBER
    else:
        # Allowed only if nothing is wanted beyond the allowed bits.
        test, unmatched = ~bits & _EVERYTHING, _UNLESS_EQUAL_NUMBER
    access = []
    if allow or test:
        access = [
            _instruction(_MOVE32, _SCRATCH, _WANTED),
            _instruction(_AND32_NUMBER, _SCRATCH, immediate=test),
            _instruction(unmatched, _SCRATCH, offset=len(matched), immediate=0),
        ]
    body = access + matched
    for register, value in ((_MINOR, minor), (_MAJOR, major), (_TYPE, _TYPES[kind])):
        if value is not None:
            body.insert(0, _instruction(_UNLESS_EQUAL_NUMBER, register, offset=len(body), immediate=value))
    return body


def _verdict(allow: bool) -> list[bytes]:
    return [_instruction(_MOVE32_NUMBER, _RESULT, immediate=int(allow)), _instruction(_EXIT)]
