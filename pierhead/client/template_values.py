"""Values in Go's templates: how they print, compare, and what Docker's functions make of them."""

import json
from collections.abc import Callable
from typing import Any


class TemplateError(Exception):
    """``executing``: the template was well formed, but not for this value."""

    def __init__(self, message: str, executing: bool = False) -> None:
        super().__init__(message)
        self.executing = executing


# Answers that Docker's client holds in structs: these print as {a b}, a map prints as map[k:v].
_STRUCTS = (
    ("HostIp", "HostPort"),
    ("Type", "Name", "Source", "Destination", "Driver", "Mode", "RW", "Propagation"),
    ("Subnet", "IPRange", "Gateway", "AuxAddress"),
)


def go_print(value: Any) -> str:
    """Go's ``%v``."""
    if value is None:
        return "<no value>"
    return _inner(value)


def _inner(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "<nil>"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, list):
        return "[" + " ".join(map(_inner, value)) + "]"
    if isinstance(value, dict):
        for names in _STRUCTS:
            if value and value.keys() <= set(names) and names[0] in value:
                return "{" + " ".join(_inner(value.get(name, "")) for name in names) + "}"
        # Of ports, those that are not published have null: an empty slice where the others have theirs.
        slices = any(isinstance(item, list) for item in value.values())
        items = ((key, [] if item is None and slices else item) for key, item in sorted(value.items()))
        return "map[" + " ".join(f"{key}:{_inner(item)}" for key, item in items) + "]"
    if hasattr(value, "go_json"):
        return _inner(value.go_json())
    return str(value)


def _float(value: float) -> str:
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    return repr(value)


class Escaped(dict[str, Any]):
    """A row of a list: Docker's JSON of these, and only of these, escapes what means something in HTML."""


class NullList(list[Any]):
    """What JSON has as null and Docker's client as a slice: prints as ``[]``, in JSON as null again."""


class NullMap(dict[str, Any]):
    """What JSON has as null and Docker's client as a map: prints as ``map[]``, in JSON as null again."""


class Nil:
    """A pointer of Docker's client to what JSON leaves out: prints as ``<nil>``, in JSON as null, and is false."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __bool__(self) -> bool:
        return False

    def go_json(self) -> None:
        return None

    def go_field(self, name: str) -> Any:
        raise TemplateError(f'map has no entry for key "{self.name}"', executing=True)


_LEFT_OUT = {
    "HostConfig": frozenset(("SizeRootFs", "SizeRw")),
    "OOMKilled": frozenset(("Health",)),
    "AttachStdin": frozenset(("ExposedPorts", "Healthcheck", "Shell", "StopSignal", "StopTimeout")),
    "RestartPolicy": frozenset(("Annotations", "Init", "Mounts", "StorageOpt", "Sysctls", "Tmpfs")),
    "NCPU": frozenset(("DefaultAddressPools",)),
}
"""What Docker's client has a field for though JSON leaves it out where it is empty, by a field that is beside it."""

_SLICES = frozenset(
    "Aliases Args Binds BlkioDeviceReadBps BlkioDeviceReadIOps BlkioDeviceWriteBps BlkioDeviceWriteIOps "
    "BlkioWeightDevice CapAdd CapDrop Cmd Config DNSNames DefaultAddressPools DeviceCgroupRules DeviceRequests Devices "
    "Dns DnsOptions "
    "DnsSearch Entrypoint Env ExecIDs ExtraHosts GroupAdd Links MaskedPaths Mounts OnBuild ReadonlyPaths RepoDigests "
    "RepoTags SecurityOpt Shell Ulimits VolumesFrom Warnings".split()
)
_MAPS = frozenset(
    "Annotations Containers DriverOpts ExposedPorts Labels Networks Options PortBindings Ports StorageOpt Sysctls "
    "Tmpfs Volumes".split()
)


def go_json(value: Any) -> str:
    """JSON as Go's encoder writes it."""
    if isinstance(value, (NullList, NullMap)):
        return "null"
    if hasattr(value, "go_json"):
        value = value.go_json()
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if isinstance(value, Escaped):
        text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return text


def is_true(value: Any) -> bool:
    """Go's truth: everything but zero values."""
    return bool(value)


def iterate(value: Any) -> list[tuple[Any, Any]]:
    """Pairs that range goes through: a map by its sorted keys."""
    if value is None:
        return []
    if isinstance(value, dict):
        return sorted(value.items())
    if isinstance(value, list):
        return list(enumerate(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return [(number, number) for number in range(value)]
    raise TemplateError(f":1: range can't iterate over {go_print(value)}", executing=True)


def field_of(value: Any, name: str) -> Any:
    """A field by name: as it is, else as Go spells it where the JSON differs (Id and ID)."""
    if hasattr(value, "go_field"):
        return value.go_field(name)
    if isinstance(value, dict):
        if name in value:
            return _null(name) if value[name] is None else value[name]
        for key in value:
            if key.lower() == name.lower():
                return value[key]
        if any(name in names for beside, names in _LEFT_OUT.items() if beside in value):
            return "" if name == "StopSignal" else Nil(name) if (empty := _null(name)) is None else empty
        raise TemplateError(f'map has no entry for key "{name}"', executing=True)
    if value is None:
        raise TemplateError(f"nil pointer evaluating interface {{}}.{name}", executing=True)
    kind = {str: "string", bool: "bool", int: "int", float: "float64", list: "[]interface {}"}.get(type(value), "value")
    raise TemplateError(f"can't evaluate field {name} in type {kind}", executing=True)


def _null(name: str) -> Any:
    if name in _SLICES:
        return NullList()
    return NullMap() if name in _MAPS else None


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key)
        elif value is None:
            raise ValueError("index of untyped nil")
        elif isinstance(value, str):
            value = value.encode()[key]
        else:
            if not 0 <= key < len(value):
                raise ValueError(f"reflect: slice index out of range: {key}")
            value = value[key]
    return value


def _slice(value: Any, *ends: int) -> Any:
    return value[slice(ends[0] if ends else 0, ends[1] if len(ends) > 1 else None)]


def _equal(value: Any, *others: Any) -> bool:
    return any(value == other for other in others)


def _printf(format: str, *values: Any) -> str:
    out: list[str] = []
    waiting = list(values)
    at = 0
    while at < len(format):
        cut = format.find("%", at)
        if cut < 0:
            break
        out.append(format[at:cut])
        end = cut + 1
        while end < len(format) and not (format[end].isalpha() or format[end] == "%"):
            end += 1
        verb, flags = format[end : end + 1], format[cut + 1 : end]
        at = end + 1
        if verb == "%":
            out.append("%")
        elif not waiting:
            out.append(f"%!{verb}(MISSING)")
        else:
            out.append(_verb(flags, verb, waiting.pop(0)))
    return "".join(out) + format[at:]


def _verb(flags: str, verb: str, value: Any) -> str:
    if verb == "v" or (verb == "s" and not isinstance(value, str)):
        return f"%{flags}s" % _inner(value)
    if verb == "q":
        return f"%{flags}s" % go_json(value)
    if verb == "T":
        return {str: "string", bool: "bool", int: "int", float: "float64"}.get(type(value), "interface {}")
    if verb == "t":
        return _inner(value)
    if verb in "dxXofegGEcs":
        return str(f"%{flags}{verb}" % value)
    return f"%!{verb}({_inner(value)})"


def _print(*values: Any) -> str:
    out = ""
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            out += " "
        out += _inner(value)
    return out


def _println(*values: Any) -> str:
    return " ".join(map(_inner, values)) + "\n"


def _join(values: Any, separator: str) -> str:
    return separator.join(map(_inner, values or ()))


def _title(text: str) -> str:
    return "".join(
        letter.upper() if number == 0 or not (text[number - 1].isalnum() or text[number - 1] in "_'") else letter
        for number, letter in enumerate(text)
    )


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _truncate(text: str, length: int) -> str:
    return text[:length] if length >= 0 else text


def _html(text: str) -> str:
    for character, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;"), ("'", "&#39;")):
        text = text.replace(character, name)
    return text


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": go_json,
    "split": lambda text, separator: text.split(separator) if separator else list(text),
    "join": _join,
    "title": _title,
    "lower": str.lower,
    "upper": str.upper,
    "pad": _pad,
    "truncate": _truncate,
    "println": _println,
    "print": _print,
    "printf": _printf,
    "index": _index,
    "slice": _slice,
    "len": len,
    "not": lambda value: not is_true(value),
    "eq": _equal,
    "ne": lambda one, other: one != other,
    "lt": lambda one, other: one < other,
    "le": lambda one, other: one <= other,
    "gt": lambda one, other: one > other,
    "ge": lambda one, other: one >= other,
    "html": _html,
    "call": lambda function, *values: function(*values),
}
