"""``--mount``, ``-v`` and ``--tmpfs`` as the API has them."""

import os
from typing import Any

from pierhead.client import csvline
from pierhead.client.errors import ClientError

_KEYS = {
    "type": "type",
    "source": "source",
    "src": "source",
    "target": "target",
    "dst": "target",
    "destination": "target",
    "readonly": "readonly",
    "ro": "readonly",
    "consistency": "consistency",
    "bind-propagation": "bind-propagation",
    "bind-nonrecursive": "bind-nonrecursive",
    "bind-recursive": "bind-recursive",
    "volume-subpath": "volume-subpath",
    "image-subpath": "image-subpath",
    "volume-nocopy": "volume-nocopy",
    "volume-label": "volume-label",
    "volume-driver": "volume-driver",
    "volume-opt": "volume-opt",
    "tmpfs-size": "tmpfs-size",
    "tmpfs-mode": "tmpfs-mode",
}
_FLAGS = frozenset(("readonly", "ro", "volume-nocopy", "bind-nonrecursive"))


class MountProblem(Exception):
    """What is wrong with a --mount, in Docker's words."""


def problem(text: str) -> str:
    """Why this is no mount; empty where it is one."""
    try:
        parse(text)
    except (MountProblem, csvline.CsvError) as error:
        return str(error)
    return ""


def _boolean(key: str, value: str) -> bool:
    if value.lower() in ("1", "t", "true"):
        return True
    if value.lower() in ("0", "f", "false"):
        return False
    raise MountProblem(f"invalid value for {key}: {value}")


def parse(text: str) -> dict[str, Any]:
    """One ``--mount`` value. Raises MountProblem."""
    mount: dict[str, Any] = {"Type": "volume"}
    options: dict[str, dict[str, Any]] = {"bind": {}, "volume": {}, "tmpfs": {}, "image": {}}
    for field in csvline.split(text):
        key, equals, value = field.partition("=")
        key = key.lower()
        if not equals:
            if key not in _FLAGS:
                raise MountProblem(f"invalid field '{field}' must be a key=value pair")
            value = "true"
        if key not in _KEYS:
            raise MountProblem(f"unexpected key '{key}' in '{field}'")
        _set(mount, options, _KEYS[key], key, value)
    _finish(mount, options)
    return mount


def _set(mount: dict[str, Any], options: dict[str, dict[str, Any]], name: str, key: str, value: str) -> None:
    if name == "type":
        mount["Type"] = value.lower()
    elif name == "source":
        mount["Source"] = os.path.abspath(value) if value.startswith(".") else value
    elif name == "target":
        mount["Target"] = value
    elif name == "readonly":
        mount["ReadOnly"] = _boolean(key, value)
    elif name == "consistency":
        mount["Consistency"] = value.lower()
    elif name == "bind-propagation":
        options["bind"]["Propagation"] = value.lower()
    elif name == "bind-nonrecursive":
        options["bind"]["NonRecursive"] = _boolean(key, value)
    elif name == "bind-recursive":
        recursive = {
            "disabled": "NonRecursive",
            "writable": "ReadOnlyNonRecursive",
            "readonly": "ReadOnlyForceRecursive",
        }
        if value in recursive:
            options["bind"][recursive[value]] = True
        elif value != "enabled":
            raise MountProblem(
                f'invalid value for {key}: {value} (must be "enabled", "disabled", "writable", or "readonly")'
            )
    elif name == "volume-nocopy":
        options["volume"]["NoCopy"] = _boolean(key, value)
    elif name in ("volume-subpath", "image-subpath"):
        options[name.partition("-")[0]]["Subpath"] = value
    elif name == "volume-label":
        label, _, content = value.partition("=")
        options["volume"].setdefault("Labels", {})[label] = content
    elif name == "volume-driver":
        options["volume"].setdefault("DriverConfig", {})["Name"] = value
    elif name == "volume-opt":
        option, _, content = value.partition("=")
        options["volume"].setdefault("DriverConfig", {}).setdefault("Options", {})[option] = content
    elif name == "tmpfs-size":
        from pierhead.wire.sizes import size

        bytes = size(value)
        if bytes is None:
            raise MountProblem(f"invalid value for {key}: {value}")
        options["tmpfs"]["SizeBytes"] = bytes
    elif name == "tmpfs-mode":
        try:
            options["tmpfs"]["Mode"] = int(value, 8)
        except ValueError:
            raise MountProblem(f"invalid value for {key}: {value}") from None


def _finish(mount: dict[str, Any], options: dict[str, dict[str, Any]]) -> None:
    kind = mount["Type"]
    if not kind:
        raise MountProblem("type is required")
    if not mount.get("Target"):
        raise MountProblem("target is required")
    for name in ("volume", "bind", "tmpfs"):
        if options[name] and kind != name and not (kind == "image" and name == "volume"):
            raise MountProblem(f"cannot mix '{name}-*' options with mount type '{kind}'")
    if options["bind"].get("ReadOnlyForceRecursive") and not mount.get("ReadOnly"):
        raise MountProblem("option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction")
    names = {"bind": "BindOptions", "volume": "VolumeOptions", "tmpfs": "TmpfsOptions", "image": "ImageOptions"}
    for name, found in options.items():
        if found:
            mount[names[name]] = found


def volumes(specs: list[str]) -> tuple[list[str], dict[str, Any]]:
    """``-v`` values: those with a source (Binds) and those without (Volumes). Raises ClientError."""
    binds: list[str] = []
    anonymous: dict[str, Any] = {}
    for spec in specs:
        source, colon, rest = spec.partition(":")
        if spec.count(":") > 2:
            raise ClientError(f"invalid spec: {spec}: too many colons")
        if colon and source and rest.startswith(":"):
            raise ClientError(f"invalid spec: {spec}: empty section between colons")
        if not colon or not source:
            anonymous[spec] = {}
        elif source.startswith("."):
            binds.append(os.path.abspath(source) + ":" + rest)
        elif source.startswith("~/"):
            binds.append(os.path.expanduser(source) + ":" + rest)
        else:
            binds.append(spec)
    return binds, anonymous


def tmpfs(specs: list[str]) -> dict[str, str]:
    """``--tmpfs /run:size=64m``."""
    found = {}
    for spec in specs:
        path, _, options = spec.partition(":")
        found[path] = options
    return found
