"""From the flags of run and create to the API's create request."""

import os
from typing import Any

from pierhead.client import csvline
from pierhead.client.errors import ClientError
from pierhead.client.flags import Options
from pierhead.client.mounts import parse as parse_mount
from pierhead.client.mounts import tmpfs, volumes
from pierhead.client.networks_option import networks
from pierhead.client.ports import expose, publish
from pierhead.client.values import domain, duration, extra_host
from pierhead.wire.sizes import size

_UNCONFINED = "systempaths=unconfined"


class Empty(list[str]):
    """A list that is sent though nothing is in it: not the default."""


def request(options: Options) -> dict[str, Any]:
    """The body of POST /containers/create. Raises ClientError in Docker's words."""
    image, *command = options.operands
    mode, endpoints = networks(options)
    host = _host(options)
    host["NetworkMode"] = mode
    body = _config(options, image, command, host)
    host["Binds"], anonymous = volumes(options.all("volume"))
    if anonymous:
        body["Volumes"] = anonymous
    exposed, host["PortBindings"] = publish(options.all("publish"))
    exposed |= expose(options.all("expose"))
    if exposed:
        body["ExposedPorts"] = exposed
    if options.on("rm") and host["RestartPolicy"]["Name"] not in ("", "no"):
        raise ClientError("conflicting options: cannot specify both --restart and --rm")
    _check_modes(options)
    body["HostConfig"] = {
        key: value
        for key, value in host.items()
        if isinstance(value, Empty) or value not in ("", [], {}, None, 0, False)
    }
    if endpoints:
        body["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    return body


def _check_modes(options: Options) -> None:
    """What Docker's client refuses before the daemon could. Raises ClientError."""
    pid = options.text("pid")
    if pid not in ("", "host") and not (pid.startswith("container:") and len(pid) > len("container:")):
        raise ClientError("--pid: invalid PID mode")
    for flag, what, modes in (
        ("uts", "UTS", ("", "host")),
        ("userns", "USER", ("", "host")),
        ("cgroupns", "CGROUP", ("", "host", "private")),
    ):
        if options.text(flag) not in modes:
            raise ClientError(f"--{flag}: invalid {what} mode")


def _config(options: Options, image: str, command: list[str], host: dict[str, Any]) -> dict[str, Any]:
    attach = {name.lower() for name in options.all("attach")}
    if not attach and not options.on("detach"):
        attach = {"stdout", "stderr"}
    if options.on("interactive") and not options.on("detach"):
        attach.add("stdin")
    body: dict[str, Any] = {
        "Hostname": options.text("hostname"),
        "Domainname": options.text("domainname"),
        "User": options.text("user"),
        "AttachStdin": "stdin" in attach,
        "AttachStdout": "stdout" in attach,
        "AttachStderr": "stderr" in attach,
        "Tty": options.on("tty"),
        "OpenStdin": options.on("interactive"),
        "StdinOnce": options.on("interactive") and "stdin" in attach,
        "Env": environment(options),
        "Cmd": command or None,
        "Image": image,
        "WorkingDir": options.text("workdir"),
        "Labels": labels(options),
        "StopSignal": options.text("stop-signal"),
    }
    if options.given("entrypoint"):
        body["Entrypoint"] = [options.text("entrypoint")]
    if options.given("stop-timeout"):
        body["StopTimeout"] = options.number("stop-timeout")
    health = _health(options)
    if health:
        body["Healthcheck"] = health
    return {key: value for key, value in body.items() if value not in ("", [], {}, None)}


def _host(options: Options) -> dict[str, Any]:
    added, dropped = _capabilities(options.all("cap-add")), _capabilities(options.all("cap-drop"))
    if "ALL" in dropped:
        dropped = ["ALL"]
    if "ALL" in added:
        added = ["ALL"]
    dropped = [name for name in dropped if name == "ALL" or name not in added]
    host: dict[str, Any] = {
        "ContainerIDFile": options.text("cidfile"),
        "RestartPolicy": restart_policy(options.text("restart")),
        "AutoRemove": options.on("rm"),
        "PublishAllPorts": options.on("publish-all"),
        "VolumesFrom": options.all("volumes-from"),
        "VolumeDriver": options.text("volume-driver"),
        "Mounts": [parse_mount(text) for text in options.all("mount")],
        "Tmpfs": tmpfs(options.all("tmpfs")),
        "CapAdd": added,
        "CapDrop": dropped,
        "CgroupnsMode": options.text("cgroupns"),
        "Dns": options.all("dns"),
        "DnsOptions": options.all("dns-option"),
        "DnsSearch": [domain(text) for text in options.all("dns-search")],
        "ExtraHosts": [_extra_host(text) for text in options.all("add-host")],
        "GroupAdd": options.all("group-add"),
        "IpcMode": options.text("ipc"),
        "PidMode": options.text("pid"),
        "UTSMode": options.text("uts"),
        "UsernsMode": options.text("userns"),
        "Links": options.all("link"),
        "Privileged": options.on("privileged"),
        "ReadonlyRootfs": options.on("read-only"),
        "SecurityOpt": security_options([text for text in options.all("security-opt") if text != _UNCONFINED]),
        "StorageOpt": _storage(options.all("storage-opt")),
        "Sysctls": _pairs(options.all("sysctl")),
        "Runtime": options.text("runtime"),
        "Isolation": options.text("isolation"),
        "ShmSize": size(options.text("shm-size") or "0"),
        "OomScoreAdj": options.number("oom-score-adj"),
        "Annotations": _pairs(options.all("annotation")),
        "LogConfig": {"Type": options.text("log-driver"), "Config": _pairs(options.all("log-opt"))},
        "Ulimits": [_ulimit(text) for text in options.all("ulimit")],
        "Devices": [_device(text) for text in options.all("device") if not _is_cdi(text)],
        "DeviceCgroupRules": options.all("device-cgroup-rule"),
        "OomKillDisable": options.on("oom-kill-disable"),
    }
    if _UNCONFINED in options.all("security-opt"):
        host |= {"MaskedPaths": Empty(), "ReadonlyPaths": Empty()}
    cdi = [text for text in options.all("device") if _is_cdi(text)]
    host["DeviceRequests"] = [_gpus(text) for text in options.all("gpus")]
    host["DeviceRequests"] += [{"Driver": "cdi", "DeviceIDs": cdi}] if cdi else []
    if options.on("init"):
        host["Init"] = True
    return host | resources(options)


def _capabilities(names: list[str]) -> list[str]:
    """As the kernel spells them, each once."""
    upper = {name.strip().upper() for name in names}
    return sorted(name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}" for name in upper)


def resources(options: Options) -> dict[str, Any]:
    """The limits that run, create and update share."""
    found: dict[str, Any] = {
        "Memory": size(options.text("memory") or "0"),
        "MemoryReservation": size(options.text("memory-reservation") or "0"),
        "MemorySwap": -1 if options.text("memory-swap") == "-1" else size(options.text("memory-swap") or "0"),
        "NanoCpus": _nano_cpus(options.text("cpus")),
        "CpuShares": options.number("cpu-shares"),
        "CpuPeriod": options.number("cpu-period"),
        "CpuQuota": options.number("cpu-quota"),
        "CpuRealtimePeriod": options.number("cpu-rt-period"),
        "CpuRealtimeRuntime": options.number("cpu-rt-runtime"),
        "CpusetCpus": options.text("cpuset-cpus"),
        "CpusetMems": options.text("cpuset-mems"),
        "BlkioWeight": options.number("blkio-weight"),
        "CgroupParent": options.text("cgroup-parent"),
        "PidsLimit": options.number("pids-limit"),
        "KernelMemory": size(options.text("kernel-memory") or "0"),
    }
    if options.given("memory-swappiness"):
        swappiness = options.number("memory-swappiness")
        if swappiness != -1 and not 0 <= swappiness <= 100:
            raise ClientError(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
        found["MemorySwappiness"] = swappiness
    for flag, key in (
        ("device-read-bps", "BlkioDeviceReadBps"),
        ("device-write-bps", "BlkioDeviceWriteBps"),
        ("device-read-iops", "BlkioDeviceReadIOps"),
        ("device-write-iops", "BlkioDeviceWriteIOps"),
        ("blkio-weight-device", "BlkioWeightDevice"),
    ):
        found[key] = [_throttle(text, key) for text in options.all(flag)]
    return {key: value for key, value in found.items() if value not in ("", [], None, 0)}


def _throttle(text: str, key: str) -> dict[str, Any]:
    path, _, rate = text.partition(":")
    return {"Path": path, "Weight" if key == "BlkioWeightDevice" else "Rate": size(rate)}


def _nano_cpus(text: str) -> int:
    if not text:
        return 0
    from fractions import Fraction

    return int(Fraction(text) * 1_000_000_000)


def environment(options: Options) -> list[str]:
    """``--env-file`` and then ``-e``: a bare name takes its value from here."""
    found: list[str] = []
    for path in options.all("env-file"):
        found += _known(_file_lines(path, path))
    # A name that is not set here is sent as it is: the daemon takes it out of what the image sets.
    return found + [f"{entry}={os.environ[entry]}" if entry in os.environ else entry for entry in options.all("env")]


def _known(entries: list[str]) -> list[str]:
    return [
        entry if "=" in entry else f"{entry}={os.environ[entry]}"
        for entry in entries
        if "=" in entry or entry in os.environ
    ]


def _file_lines(path: str, name: str) -> list[str]:
    """An env file's entries: comments and empty lines dropped, no blanks in names."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.rstrip("\r\n").lstrip() for line in file]
    except OSError as error:
        raise ClientError(f"open {path}: {(error.strerror or '').lower()}") from None
    except UnicodeDecodeError:
        raise ClientError(f"invalid env file ({name}): invalid utf8 bytes") from None
    found = []
    for line in lines:
        if not line or line.startswith("#"):
            continue
        key = line.partition("=")[0]
        if not key:
            raise ClientError(f"invalid env file ({name}): no variable name on line '{line}'")
        if any(character in key for character in " \t"):
            raise ClientError(f"invalid env file ({name}): variable '{key}' contains whitespaces")
        found.append(line)
    return found


def labels(options: Options) -> dict[str, str]:
    """``--label-file`` and then ``-l``."""
    entries = [line for path in options.all("label-file") for line in _file_lines(path, path)]
    return _pairs(entries + options.all("label"))


def _pairs(entries: list[str]) -> dict[str, str]:
    found = {}
    for entry in entries:
        key, _, value = entry.partition("=")
        found[key] = value
    return found


def restart_policy(text: str) -> dict[str, Any]:
    """``on-failure:3``. Raises ClientError where it is none."""
    name, colon, count = text.partition(":")
    if colon and not name:
        raise ClientError("invalid restart policy format: no policy provided before colon")
    if not colon:
        return {"Name": name, "MaximumRetryCount": 0}
    try:
        return {"Name": name, "MaximumRetryCount": int(count)}
    except ValueError:
        raise ClientError("invalid restart policy format: maximum retry count must be an integer") from None


def _storage(entries: list[str]) -> dict[str, str]:
    if not all("=" in entry for entry in entries):
        raise ClientError("invalid storage option")
    return _pairs(entries)


def _extra_host(text: str) -> str:
    name, _, address = extra_host(text)
    return f"{name}:{address}"


def security_options(entries: list[str]) -> list[str]:
    """A seccomp profile is a file here, and its content for the daemon."""
    found = []
    for entry in entries:
        name, separator, value = entry.partition("=")
        if not separator and entry != "no-new-privileges":
            name, separator, value = entry.partition(":")
            if not separator:
                raise ClientError(f'Invalid --security-opt: "{entry}"')
            entry = f"{name}={value}"
        if name == "seccomp" and value not in ("unconfined", "builtin"):
            import json

            try:
                with open(value, encoding="utf-8") as file:
                    entry = "seccomp=" + json.dumps(json.load(file), separators=(",", ":"))
            except OSError as error:
                reason = (error.strerror or "").lower()
                raise ClientError(f"opening seccomp profile ({value}) failed: open {value}: {reason}") from None
            except ValueError as error:
                raise ClientError(f"compacting json for seccomp profile ({value}) failed: {error}") from None
        found.append(entry)
    return found


def _ulimit(text: str) -> dict[str, Any]:
    name, _, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}


def _is_cdi(text: str) -> bool:
    vendor, equals, _ = text.partition("=")
    return bool(equals) and "/" in vendor and not text.startswith("/")


def _is_device_mode(text: str) -> bool:
    return 0 < len(text) == len(set(text)) and set(text) <= set("rwm")


def _device(text: str) -> dict[str, str]:
    source, *rest = text.split(":")
    target, permissions = source, "rwm"
    if len(rest) > 2 or not source:
        raise ClientError(f"bad format for path: {text}")
    if len(rest) == 2:
        target, permissions = rest
        if not _is_device_mode(permissions):
            raise ClientError(f"bad mode specified: {permissions}")
    elif rest and _is_device_mode(rest[0]):
        permissions = rest[0]
    elif rest:
        target = rest[0]
    if not target.startswith("/"):
        raise ClientError(f"{target} is not an absolute path")
    return {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": permissions}


def gpu_problem(text: str) -> str:
    """Why ``--gpus`` cannot have this value; empty where it can."""
    try:
        _gpus(text)
    except (ClientError, csvline.CsvError) as error:
        return str(error)
    return ""


def _gpus(text: str) -> dict[str, Any]:
    """``all``, a number, or ``device=0,driver=…``. Raises ClientError."""
    found: dict[str, Any] = {"Capabilities": [["gpu"]]}
    seen = set()
    for field in csvline.split(text):
        key, equals, value = field.partition("=")
        if key in seen:
            raise ClientError(f"gpu request key '{key}' can be specified only once")
        seen.add(key)
        if not equals:
            key, value = "count", key
        if key == "count":
            found["Count"] = _gpu_count(value)
        elif key == "device":
            found["DeviceIDs"] = value.split(",")
        elif key == "driver":
            found["Driver"] = value
        elif key == "capabilities":
            found["Capabilities"] = [[*value.split(","), "gpu"]]
        elif key == "options":
            found["Options"] = _pairs(value.split(","))
        else:
            raise ClientError(f"unexpected key '{key}' in '{field}'")
    found.setdefault("Count", 0 if "DeviceIDs" in found else 1)
    return found


def _gpu_count(text: str) -> int:
    if text == "all":
        return -1
    try:
        return int(text)
    except ValueError:
        reason = 'value must be either "all" or an integer'
        raise ClientError(f"invalid count ({text}): {reason}: invalid syntax") from None


def _health(options: Options) -> dict[str, Any]:
    names = ("cmd", "interval", "timeout", "retries", "start-period", "start-interval")
    given = any(options.given(f"health-{name}") for name in names)
    if options.on("no-healthcheck"):
        if given:
            raise ClientError("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    if not given:
        return {}
    found: dict[str, Any] = {
        "Interval": duration(options.text("health-interval") or "0"),
        "Timeout": duration(options.text("health-timeout") or "0"),
        "StartPeriod": duration(options.text("health-start-period") or "0"),
        "StartInterval": duration(options.text("health-start-interval") or "0"),
        "Retries": options.number("health-retries"),
    }
    for key, value in found.items():
        if value is not None and value < 0:
            raise ClientError(f"--health-{key.lower()} cannot be negative")
    if options.text("health-cmd"):
        found["Test"] = ["CMD-SHELL", options.text("health-cmd")]
    return {key: value for key, value in found.items() if value}
