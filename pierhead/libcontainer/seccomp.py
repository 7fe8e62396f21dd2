"""Seccomp profiles in Docker's JSON format, compiled to the program that a container's processes run under.

``compile`` reads a profile (ours is seccomp-default.json: Docker 28.2.2's, with address families 38 and 40 refused),
selects the rules that hold for this architecture, these capabilities and this kernel as Docker does, and hands them to
``seccomp_bpf``.  Programs are cached, for the same few are wanted again and again.

As runc does, a system call newer than any the profile speaks of gives ENOSYS instead of the profile's EPERM: a C
library that probes for it then falls back.
"""

import errno
import functools
import json
import os
from collections.abc import Iterable, Mapping
from importlib import resources
from itertools import product
from typing import Any, Final

from pierhead.errors import PierheadError
from pierhead.libcontainer import syscalls
from pierhead.libcontainer.seccomp_bpf import Condition, Operator, Rule, Section, assemble

_GO_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "i686": "x86", "riscv64": "riscv64"}
_NATIVE: Final = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}

_OPERATORS: Final = {
    "SCMP_CMP_NE": Operator.NE,
    "SCMP_CMP_LT": Operator.LT,
    "SCMP_CMP_LE": Operator.LE,
    "SCMP_CMP_EQ": Operator.EQ,
    "SCMP_CMP_GE": Operator.GE,
    "SCMP_CMP_GT": Operator.GT,
    "SCMP_CMP_MASKED_EQ": Operator.MASKED_EQ,
}

_ALLOW: Final = 0x7FFF0000
_LOG: Final = 0x7FFC0000
_ERRNO: Final = 0x00050000
_TRACE: Final = 0x7FF00000
_ACTIONS: Final = {
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": _ERRNO,
    "SCMP_ACT_TRACE": _TRACE,
    "SCMP_ACT_LOG": _LOG,
    "SCMP_ACT_ALLOW": _ALLOW,
}


class ProfileInvalid(PierheadError):
    """A seccomp profile cannot be used. Docker finds out when the container is started and answers 500."""


@functools.cache
def default_profile() -> str:
    """The profile of a container for which nothing else was asked ("seccomp=builtin")."""
    return resources.files(__package__).joinpath("seccomp-default.json").read_text(encoding="utf-8")


def compiled(profile: str | None, capabilities: Iterable[str]) -> bytes | None:
    """The program for this host; profile None: the default one. Raises ProfileInvalid."""
    return compile(default_profile() if profile is None else profile, capabilities)


def compile(
    profile: str,
    capabilities: Iterable[str],
    machine: str | None = None,
    kernel: tuple[int, int] | None = None,
) -> bytes | None:
    """The BPF program (struct sock_filter each eight bytes) for a process with these (bounding) capabilities.

    machine and kernel are the host's unless given ("x86_64", (6, 1)).  None for a profile that says nothing at all,
    which is unconfined in Docker.

    Raises ProfileInvalid.
    """
    host = os.uname()
    return _compile(profile, frozenset(capabilities), machine or host.machine, kernel or _kernel(host.release))


def _kernel(release: str) -> tuple[int, int]:
    major, minor = release.split(".")[:2]
    return int(major), int("".join(filter(str.isdigit, minor.partition("-")[0])) or 0)


@functools.lru_cache(maxsize=64)
def _compile(profile: str, capabilities: frozenset[str], machine: str, kernel: tuple[int, int]) -> bytes | None:
    parsed = _parse(profile)
    calls = parsed.get("syscalls") or []
    if not parsed.get("defaultAction") and not calls:
        return None
    if machine not in _NATIVE:
        raise ProfileInvalid(f"seccomp: no system call table for {machine}; use --security-opt seccomp=unconfined")
    default = _action(parsed.get("defaultAction") or "", parsed.get("defaultErrnoRet"))
    architectures = _architectures(parsed, machine)
    selected = [call for call in calls if _applies(call, capabilities, _GO_ARCHITECTURES[machine], kernel)]
    sections = tuple(
        _section(name, selected, default) for scmp in architectures if (name := syscalls.NAMES.get(scmp)) is not None
    )
    return assemble(sections)


def selected(profile: str, capabilities: Iterable[str]) -> dict[str, Any] | None:
    """The rules that hold here, as an OCI runtime takes them, which compiles them itself; None: unconfined.

    What libseccomp cannot be told, to compare an int argument by its low 32 bits, is said by masked comparisons of the
    same sense.  Raises ProfileInvalid.
    """
    host = os.uname()
    parsed = _parse(profile)
    calls = parsed.get("syscalls") or []
    if not parsed.get("defaultAction") and not calls:
        return None
    default = _action(parsed.get("defaultAction") or "", parsed.get("defaultErrnoRet"))
    kernel, arch, names = _kernel(host.release), _GO_ARCHITECTURES[host.machine], frozenset(capabilities)
    chosen: list[dict[str, Any]] = []
    for call in calls:
        if not _applies(call, names, arch, kernel):
            continue
        action = _action(call.get("action") or "", call.get("errnoRet"))
        if action == default:
            continue  # runc refuses to load a rule that says nothing
        entry = {"names": call.get("names") or [call["name"]], "action": call["action"]}
        if call.get("errnoRet") is not None:
            entry["errnoRet"] = call["errnoRet"]
        if not call.get("args"):
            chosen.append(entry)
            continue
        for name in entry["names"]:
            for rule in _rules(name, call["args"], action):
                for arguments in product(*map(_arguments, rule.conditions)):
                    chosen.append({**entry, "names": [name], "args": list(arguments)})
    found = {
        "defaultAction": parsed["defaultAction"],
        "architectures": list(_architectures(parsed, host.machine)),
        "syscalls": chosen,
    }
    if parsed.get("defaultErrnoRet") is not None:
        found["defaultErrnoRet"] = parsed["defaultErrnoRet"]
    return found


def _arguments(condition: Condition) -> Iterable[dict[str, Any]]:
    """A condition as one argument, or as several of which one must hold."""
    if not condition.low_half:
        name = next(name for name, operator in _OPERATORS.items() if operator is condition.operator)
        yield {"index": condition.index, "value": condition.value, "valueTwo": condition.second, "op": name}
        return
    value = condition.value & _LOW
    match condition.operator:
        case Operator.MASKED_EQ:
            masks = [(value, condition.second & _LOW)]
        case Operator.EQ:
            masks = [(_LOW, value)]
        case Operator.NE:
            masks = [*_below(value), *_above(value)]
        case Operator.LT:
            masks = _below(value)
        case Operator.LE:
            masks = [*_below(value), (_LOW, value)]
        case Operator.GT:
            masks = _above(value)
        case Operator.GE:
            masks = [*_above(value), (_LOW, value)]
    for mask, masked in masks:
        yield {"index": condition.index, "value": mask, "valueTwo": masked, "op": "SCMP_CMP_MASKED_EQ"}


_LOW: Final = 0xFFFFFFFF


def _below(value: int) -> list[tuple[int, int]]:
    """(mask, masked value) of the 32-bit numbers below: equal down to one of its ones, which they have not."""
    return [(_LOW << bit & _LOW, value >> bit + 1 << bit + 1) for bit in range(32) if value >> bit & 1]


def _above(value: int) -> list[tuple[int, int]]:
    """The same of those above: they have one of its noughts."""
    return [(_LOW << bit & _LOW, (value >> bit | 1) << bit) for bit in range(32) if not value >> bit & 1]


def _parse(profile: str) -> dict[str, Any]:
    try:
        parsed = json.loads(profile)
    except json.JSONDecodeError as error:
        rest = profile[error.pos : error.pos + 1]
        said = f"invalid character {rest!r} looking for beginning of value" if rest else "unexpected end of JSON input"
        raise ProfileInvalid(f"Decoding seccomp profile failed: {said}") from None
    if not isinstance(parsed, dict):
        raise ProfileInvalid("Decoding seccomp profile failed: json: cannot unmarshal into Go value of type Seccomp")
    if parsed.get("architectures") and parsed.get("archMap"):
        raise ProfileInvalid(
            "both 'architectures' and 'archMap' were specified in the seccomp profile, "
            "use either 'architectures' or 'archMap'"
        )
    for call in parsed.get("syscalls") or []:
        if not isinstance(call, dict):
            raise ProfileInvalid("Decoding seccomp profile failed: a system call's rule is not an object")
        if call.get("name") and call.get("names"):
            raise ProfileInvalid(
                "both 'name' and 'names' were specified in the seccomp profile, use either 'name' or 'names'"
            )
    return parsed


def _architectures(profile: Mapping[str, Any], machine: str) -> tuple[str, ...]:
    """The profile's architectures for this machine, the native one first and always there."""
    native = _NATIVE[machine]
    wanted = list(profile.get("architectures") or [])
    for entry in profile.get("archMap") or []:
        if entry.get("architecture") == native:
            wanted += entry.get("subArchitectures") or []
    for name in wanted:
        if not isinstance(name, str) or not name.startswith("SCMP_ARCH_"):
            raise ProfileInvalid(f"string {name} is not a valid arch for seccomp")
    return tuple(dict.fromkeys([native, *wanted]))


def _applies(call: Mapping[str, Any], capabilities: frozenset[str], arch: str, kernel: tuple[int, int]) -> bool:
    """Docker's includes (all must hold) and excludes (none may)."""
    excludes, includes = call.get("excludes") or {}, call.get("includes") or {}
    if arch in (excludes.get("arches") or ()) or capabilities.intersection(excludes.get("caps") or ()):
        return False
    if (least := excludes.get("minKernel")) and kernel >= _version(least):
        return False
    if (arches := includes.get("arches")) and arch not in arches:
        return False
    if not capabilities.issuperset(includes.get("caps") or ()):
        return False
    return not ((least := includes.get("minKernel")) and kernel < _version(least))


def _version(text: str) -> tuple[int, int]:
    major, _, minor = str(text).partition(".")
    if not (major.isdigit() and minor.isdigit()):
        raise ProfileInvalid(f"Decoding seccomp profile failed: invalid kernel version: {text!r}")
    return int(major), int(minor)


def _action(name: str, errno_return: int | None) -> int:
    """The value that the program returns for an action; EPERM is what ERRNO and TRACE carry unless told otherwise."""
    if name not in _ACTIONS:
        raise ProfileInvalid(f"string {name} is not a valid action for seccomp")
    value = _ACTIONS[name]
    if value in (_ERRNO, _TRACE):
        value |= (errno.EPERM if errno_return is None else errno_return) & 0xFFFF
    return value


def _section(arch: str, calls: list[dict[str, Any]], default: int) -> Section:
    """All rules of the profile by the numbers of one architecture."""
    table = syscalls.tables()[arch]
    rules: dict[int, list[Rule]] = {}
    for call in calls:
        action = _action(call.get("action") or "", call.get("errnoRet"))
        names = call.get("names") or [call.get("name")]
        for name in names:
            for rule in _rules(name, call.get("args") or [], action):
                if (number := table.get(name)) is not None:
                    rules.setdefault(number, []).append(rule)
                if arch == "x86" and name in syscalls.MULTIPLEXED and not rule.conditions:
                    via, which = syscalls.MULTIPLEXED[name]
                    condition = Condition(0, Operator.EQ, which, 0, low_half=True)
                    rules.setdefault(table[via], []).append(Rule((condition,), action))
    unknown = _ERRNO | errno.ENOSYS if default not in (_ALLOW, _LOG) else default
    effective = {number: kept for number, found in rules.items() if (kept := _effective(found, default))}
    return Section(arch, effective, default, max(rules, default=-1), unknown)


def _effective(rules: list[Rule], default: int) -> tuple[Rule, ...]:
    """As in runc what equals the default is no rule, and as in libseccomp one without conditions beats all others."""
    kept = [rule for rule in rules if rule.action != default]
    always = next((rule for rule in kept if not rule.conditions), None)
    return (always,) if always else tuple(kept)


def _rules(name: str, arguments: list[dict[str, Any]], action: int) -> tuple[Rule, ...]:
    """One Rule with all conditions; where two are about the same argument one Rule each, as runc does."""
    conditions = tuple(_condition(name, argument) for argument in arguments)
    if len({condition.index for condition in conditions}) < len(conditions):
        return tuple(Rule((condition,), action) for condition in conditions)
    return (Rule(conditions, action),)


def _condition(name: str, argument: dict[str, Any]) -> Condition:
    operator = argument.get("op")
    if operator not in _OPERATORS:
        raise ProfileInvalid(f"string {operator} is not a valid operator for seccomp")
    index, value, second = argument.get("index", 0), argument.get("value", 0), argument.get("valueTwo", 0)
    if not all(isinstance(number, int) for number in (index, value, second)) or not 0 <= index <= 5:
        raise ProfileInvalid(f"Decoding seccomp profile failed: bad argument of {name}: {argument}")
    return Condition(index, _OPERATORS[operator], value, second, index in syscalls.INTS.get(name, ()))
