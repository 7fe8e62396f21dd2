"""pierd's settings, each a flag and a key of the configuration file: dockerd's names, as far as this daemon has them.

What is said in both places is refused, as dockerd does: nobody would know which of them holds.
"""

import argparse
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_address, ip_network
from typing import Any

from pierhead import __version__
from pierhead.daemon.config import Config
from pierhead.daemon.server.listen import parsed
from pierhead.driver.networkdriver.api import PublishPolicy
from pierhead.driver.networkdriver.ipam import AddressPool
from pierhead.errors import InvalidParameter
from pierhead.libcontainer import cgroups, scopes
from pierhead.registry.hosts import parse_mirror
from pierhead.wire.time import parse_duration

BOOTED_BY_SYSTEMD = "/run/systemd/system"
"""A directory that is there if it has, sd_booted(3)."""


@dataclass(frozen=True, slots=True)
class Option:
    """One setting. read: makes Config's value of a flag's text; of a list, of each entry. key: in the file.

    from_json: makes the flags' texts of the file's value, where that is neither a text, a number nor a truth value.
    """

    flags: tuple[str, ...]
    key: str
    read: Callable[[str], Any]
    help: str
    many: bool = False
    from_json: Callable[[Any], list[str]] | None = None

    @property
    def field(self) -> str:
        """Of ``Config``; also argparse's destination."""
        return self.key.replace("-", "_")


# Values --------------------------------------------------------------------------------------------------------------


def _mirror(text: str) -> str:
    try:
        mirror = parse_mirror(text)
    except InvalidParameter as error:
        raise ValueError(str(error)) from None
    return f"{mirror.scheme}://{mirror.domain}/"


def _truth(text: str) -> bool:
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise ValueError(f'"{text}" is neither true nor false')


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 1000:
        raise ValueError(f"invalid number: {text} (1 to 1000)")
    return int(text)


def _bound(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 1_000_000:
        raise ValueError(f"invalid number: {text} (0: no bound)")
    return int(text)


def _mtu(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not (text == "0" or 68 <= int(text) <= 65535):
        raise ValueError(f"invalid default MTU: {text} (68 to 65535, or 0: chosen)")
    return int(text)


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError(f"IP address is not correctly formatted: {text}") from None


def _checked(make: Callable[[str], object]) -> Callable[[str], str]:
    """A reader that wants an address with a prefix length of a certain kind, and leaves the text as it is."""

    def read(text: str) -> str:
        if text and "/" not in text:
            raise ValueError(f"invalid CIDR address: {text}")
        if text:
            make(text)
        return text

    return read


def _pool(text: str) -> AddressPool:
    """ "base=10.200.0.0/16,size=24"."""
    found: dict[str, str] = {}
    for field in text.split(","):
        key, equals, value = field.strip().lower().partition("=")
        if not equals:
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        if key not in ("base", "size"):
            raise ValueError(f"unexpected key '{key}' in '{field}'")
        found[key] = value
    if not found.get("size", "").isdecimal():
        raise ValueError(f'invalid size value: "{text}" (must be integer)')
    try:
        base = ip_network(found.get("base", ""))
    except ValueError as error:
        raise ValueError(f'invalid base prefix "{found.get("base", "")}": {error}') from None
    size = int(found["size"])
    if not base.prefixlen <= size <= base.max_prefixlen - 1:
        raise ValueError(
            f"invalid default address pool {base}: its networks' size is a prefix length from {base.prefixlen} to "
            f"{base.max_prefixlen - 1}, not {size}"
        )
    return AddressPool(base, size)


def _ulimit(text: str) -> str:
    name, _, values = text.partition("=")
    soft, _, hard = values.partition(":")
    if not name or not all(part.removeprefix("-").isdecimal() for part in (soft, hard or soft)):
        raise ValueError(f"invalid ulimit argument: {text}")
    return text


def _bytes(text: str) -> int:
    """ "64M" and the like."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]?)i?b?", text.strip().lower())
    if found is None:
        raise ValueError(f"invalid size: '{text}'")
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2] or " "))


def _host(text: str) -> str:
    parsed(text)
    return text


def _mark(text: str) -> float:
    """ "85%"."""
    found = re.fullmatch(r"(\d{1,2}(?:\.\d+)?) ?%?", text.strip())
    if found is None or not float(found[1]):
        raise ValueError(f"invalid mark: {text} (a share of the disk, as 85%)")
    return float(found[1])


def _removed(text: str) -> dict[str, int]:
    """ "dangling,pulled,containers=72h": what a clean-up may take, and with what age in ns."""
    found = {}
    for word in filter(None, (word.strip() for word in text.split(","))):
        kind, equals, age = word.partition("=")
        if kind not in ("dangling", "pulled", "local", "containers") or bool(equals) != (kind == "containers"):
            raise ValueError(f'"{word}" is none of dangling, pulled, local and containers=<age>')
        found[kind] = parse_duration(age) if equals else 0
    return found


def _one_of(what: str, *values: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in values:
            raise ValueError(f"{what} mode ({text}) is invalid; use one of {', '.join(values)}")
        return text

    return read


def _exec_option(text: str) -> str:
    """ "native.cgroupdriver=systemd", the one there is."""
    name, _, value = text.partition("=")
    if name.lower() != "native.cgroupdriver":
        raise ValueError(f"unknown option {name}: there is native.cgroupdriver")
    if value == "none":
        raise ValueError(f"native.cgroupdriver option {value} is internally used and cannot be specified manually")
    if value not in ("cgroupfs", "systemd"):
        raise ValueError(f"native.cgroupdriver option {value} not supported")
    return f"native.cgroupdriver={value}"


def _profile(text: str) -> str:
    """A seccomp profile's content. Raises ValueError where it cannot be read."""
    if text in ("", "builtin", "unconfined"):
        return text.replace("builtin", "")
    try:
        with open(text, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"opening seccomp profile ({text}) failed: {error}") from None


def _network_option(text: str) -> tuple[str, str, str]:
    """ "bridge=com.docker.network.driver.mtu=1400" as (driver, option, value)."""
    driver, first, option = text.partition("=")
    name, second, value = option.partition("=")
    if not (driver and first and name and second):
        raise ValueError("invalid key value pair format in default-network-opt options: driver=option=value")
    return driver, name, value


def _policy(text: str) -> PublishPolicy:
    try:
        return PublishPolicy(text)
    except ValueError:
        raise ValueError(f'invalid publish policy: "{text}" (any, firewall or local)') from None


def _exec_driver(text: str) -> str:
    if text not in ("native", "oci"):
        raise ValueError(f'unknown exec driver: "{text}" (native or oci)')
    return text


def _runtime(text: str) -> tuple[str, tuple[str, ...]]:
    """ "crun=/usr/bin/crun", as dockerd has it; what follows the path are options of the runtime's."""
    name, _, command = text.partition("=")
    name, words = name.strip().lower(), tuple(command.split())
    if not name or not words:
        raise ValueError(f"invalid runtime argument: {text}")
    if name in RESERVED:
        raise ValueError(f"runtime name '{name}' is reserved")
    return name, words


RESERVED = ("pierhead", "runc", "io.containerd.runc.v2")
"""Names that stand for what is installed."""


def _runtimes_from(value: Any) -> list[str]:
    return [" ".join([f"{name}={one['path']}", *one.get("runtimeArgs", ())]) for name, one in value.items()]


def _pools_from(value: Any) -> list[str]:
    return [f"base={entry['base']},size={entry['size']}" for entry in value]


def _ulimits_from(value: Any) -> list[str]:
    return [f"{name}={limit['Soft']}:{limit['Hard']}" for name, limit in value.items()]


def _network_options_from(value: Any) -> list[str]:
    return [f"{driver}={name}={text}" for driver, options in value.items() for name, text in options.items()]


# The table -----------------------------------------------------------------------------------------------------------

OPTIONS = (
    Option(("-H", "--host"), "hosts", _host, "unix:///path or tcp://address:port", many=True),
    Option(("--data-root",), "data-root", os.path.abspath, "persistent state (default /var/lib/pierhead)"),
    Option(("--exec-root",), "exec-root", os.path.abspath, "run-time state (default /run/pierhead)"),
    Option(("-p", "--pidfile"), "pidfile", os.path.abspath, "where the daemon's process id is written"),
    Option(("-D", "--debug"), "debug", _truth, "log every job"),
    Option(
        ("-s", "--storage-driver"),
        "storage-driver",
        str,
        "overlay2, fuse-overlayfs, btrfs or vfs (default: the first)",
    ),
    Option(("--trim",), "trim", _truth, "the disk is told what is free after removals (default true)"),
    Option(
        ("--disk-high-mark",), "disk-high-mark", _mark, "clean up when the disk is so full, as 85% (default: never)"
    ),
    Option(("--disk-low-mark",), "disk-low-mark", _mark, "until it is only so full (default: 10% below)"),
    Option(
        ("--disk-remove",),
        "disk-remove",
        _removed,
        "what a clean-up may take: dangling,pulled (default), local (images), containers=<age>",
    ),
    Option(("--disk-keep",), "disk-keep", parse_duration, "what was used within this time stays (default 2m)"),
    Option(("--bip",), "bip", _checked(IPv4Interface), "address of the default bridge, as 172.17.0.1/16"),
    Option(("--bip6",), "bip6", _checked(IPv6Interface), "IPv6 address of the default bridge, as fd00:1::1/64"),
    Option(("--fixed-cidr",), "fixed-cidr", _checked(IPv4Network), "where containers of the default bridge get theirs"),
    Option(("--fixed-cidr-v6",), "fixed-cidr-v6", _checked(IPv6Network), "the same for IPv6"),
    Option(("--default-gateway",), "default-gateway", _address, "their way out, if it is not the bridge"),
    Option(("--default-gateway-v6",), "default-gateway-v6", _address, "the same for IPv6"),
    Option(("--ipv6",), "ipv6", _truth, "IPv6 on the default bridge"),
    Option(("--mtu",), "mtu", _mtu, "MTU of the default bridge"),
    Option(("--icc",), "icc", _truth, "containers on the default bridge reach each other (default true)"),
    Option(("--ip-masq",), "ip-masq", _truth, "masquerade what leaves the default bridge (default true)"),
    Option(("--ip",), "ip", _address, "where ports are published by default (default 0.0.0.0)"),
    Option(("--publish-policy",), "publish-policy", _policy, "who reaches published ports: any, firewall or local"),
    Option(
        ("--host-gateway-ip",),
        "host-gateway-ips",
        _address,
        "what host-gateway stands for (default: the default bridge's address)",
        many=True,
    ),
    Option(
        ("--default-address-pool",),
        "default-address-pools",
        _pool,
        "subnets for new networks, as base=10.200.0.0/16,size=24",
        many=True,
        from_json=_pools_from,
    ),
    Option(
        ("--default-network-opt",),
        "default-network-opts",
        _network_option,
        "options of new networks, as bridge=com.docker.network.driver.mtu=1400",
        many=True,
        from_json=_network_options_from,
    ),
    Option(("--insecure-registry",), "insecure-registries", str, "host[:port] without TLS", many=True),
    Option(("--registry-mirror",), "registry-mirrors", _mirror, "URL of a mirror of docker.io", many=True),
    Option(("--registry-certs",), "registry-certs", str, "folder with registries' certificates (/etc/docker/certs.d)"),
    Option(
        ("--max-concurrent-downloads",),
        "max-concurrent-downloads",
        _count,
        "layers of a pull that are fetched at a time (default 3)",
    ),
    Option(
        ("--max-concurrent-uploads",),
        "max-concurrent-uploads",
        _count,
        "layers of a push that are sent at a time (default 5)",
    ),
    Option(
        ("--max-download-attempts",),
        "max-download-attempts",
        _count,
        "how often a layer's download is begun (default 5)",
    ),
    Option(
        ("--max-concurrent-unpacks",),
        "max-concurrent-unpacks",
        _count,
        "layers of an archive that are unpacked at a time (default 3)",
    ),
    Option(
        ("--compressed-blobs",),
        "compressed-blobs",
        _one_of("compressed blobs", "keep", "drop"),
        "of layers, as they came: keep (default), or drop when they are unpacked",
    ),
    Option(("--max-manifest-size",), "max-manifest-size", _bytes, "of an image's manifest or index (default 4M)"),
    Option(("--max-layers",), "max-layers", _bound, "of an image (default 0: as many as the storage driver can)"),
    Option(("--max-unpacked-size",), "max-unpacked-size", _bytes, "of a layer (default 0: what the disk has room for)"),
    Option(
        ("--max-unpack-ratio",),
        "max-unpack-ratio",
        _bound,
        "how many times its size a layer may unpack to, beyond its first GiB (default 1000; 0: any)",
    ),
    Option(("--dns",), "dns", _address, "name server for containers", many=True),
    Option(("--dns-opt",), "dns-opts", str, "option for containers' resolv.conf", many=True),
    Option(("--dns-search",), "dns-search", str, "search domain for containers", many=True),
    Option(("--default-bridge-names",), "default-bridge-names", _truth, "names are resolved on the default bridge too"),
    Option(("--mend-networks",), "mend-networks", _truth, "what others change in our networks is put right (default)"),
    Option(("--exec-opt",), "exec-opts", _exec_option, "native.cgroupdriver=cgroupfs or systemd", many=True),
    Option(("--cgroup-parent",), "cgroup-parent", str, "where containers' cgroups are made (default /pierhead/<id>)"),
    Option(("--default-shm-size",), "default-shm-size", _bytes, "of containers' /dev/shm (default 64M)"),
    Option(
        ("--default-cgroupns-mode",),
        "default-cgroupns-mode",
        _one_of("default cgroup namespace", "private", "host"),
        "private or host (default: private with cgroup v2)",
    ),
    Option(
        ("--default-ipc-mode",),
        "default-ipc-mode",
        _one_of("IPC", "private", "shareable"),
        "private or shareable (default private)",
    ),
    Option(("--init",), "init", _truth, "run an init in containers to forward signals and reap processes"),
    Option(("--init-path",), "init-path", str, "its binary (default: docker-init or tini)"),
    Option(("--no-new-privileges",), "no-new-privileges", _truth, "of containers that do not say otherwise"),
    Option(("--seccomp-profile",), "seccomp-profile", _profile, "a file, builtin (default) or unconfined"),
    Option(
        ("--userns-remap",), "userns-remap", str, "users of containers are others on the host: default, name or uid"
    ),
    Option(("--exec-driver",), "exec-driver", _exec_driver, "native, or oci: an OCI runtime makes the containers"),
    Option(("--default-runtime",), "default-runtime", str, "runtime of containers that name none (default pierhead)"),
    Option(
        ("--add-runtime",), "runtimes", _runtime, "an OCI runtime, as name=path", many=True, from_json=_runtimes_from
    ),
    Option(("--default-ulimit",), "default-ulimits", _ulimit, "name=soft[:hard]", many=True, from_json=_ulimits_from),
)

EMBEDDED = ("data-root", "exec-root", "pidfile")
"""What ``pier`` itself says to the daemon it starts: the user's file has the last word."""


def arguments() -> argparse.ArgumentParser:
    """The command line; settings that are not on it are None."""
    parser = argparse.ArgumentParser(
        prog="pierd", description="The Pierhead daemon. It stays in the foreground.", allow_abbrev=False
    )
    for option in OPTIONS:
        help = option.help.replace("%", "%%")  # argparse would fill it in
        more: dict[str, Any] = {"dest": option.field, "help": help, "metavar": "VALUE"}
        if option.many:
            more["action"], more["help"] = "append", f"{help}; may be repeated"
        elif option.read is _truth:
            more |= {"nargs": "?", "const": "true", "metavar": "false"}
        parser.add_argument(*option.flags, **more)
    parser.add_argument("--config-file", help="settings as JSON (default /etc/pierhead/daemon.json, if it is there)")
    parser.add_argument("--validate", action="store_true", help="check the settings, and end")
    parser.add_argument("--embedded", action="store_true", help="end after 60 s without containers and requests")
    parser.add_argument("--doctor", action="store_true", help="say what this machine lacks, and end")
    parser.add_argument("-v", "--version", action="version", version=f"Pierhead version {__version__}")
    return parser


def configure(argv: Sequence[str] | None = None) -> tuple[Config, argparse.Namespace]:
    """Command line and file as a Config; a user who is not root gets the XDG equivalents.

    Raises InvalidParameter, OSError (a file that was named and cannot be read).
    """
    given = arguments().parse_args(argv)
    said = {option.key: value for option in OPTIONS if (value := getattr(given, option.field)) is not None}
    path = given.config_file or _home("XDG_CONFIG_HOME", "/etc/pierhead", "~/.config") + "/daemon.json"
    if given.config_file or os.path.exists(path):
        said = _merge(path, said, given.embedded)
    values: dict[str, Any] = {"embedded": given.embedded}
    for option in OPTIONS:
        if option.key in said:
            values[option.field] = _read(option, said[option.key])
    options = values.pop("default_network_opts", ())
    merged: dict[str, dict[str, str]] = {}
    for driver, name, value in options:
        merged.setdefault(driver, {})[name] = value
    runtimes = values.pop("runtimes", ())
    for name, count in Counter(name for name, _ in runtimes).items():
        if count > 1:
            raise InvalidParameter(f"runtime '{name}' was already defined")
    return _complete(Config(**values, default_network_opts=merged, runtimes=dict(runtimes)), values), given


def _read(option: Option, value: str | list[str]) -> Any:
    try:
        return tuple(map(option.read, value)) if isinstance(value, list) else option.read(value)
    except ValueError as error:
        raise InvalidParameter(f"{option.flags[-1]}: {error}") from None


def _home(variable: str, of_root: str, of_user: str) -> str:
    if os.geteuid() == 0:
        return of_root
    return os.path.join(os.environ.get(variable) or os.path.expanduser(of_user), "pierhead")


def _complete(config: Config, given: Mapping[str, Any]) -> Config:
    """Paths that were not given, and what does not fit together. Raises InvalidParameter."""
    run = _home("XDG_RUNTIME_DIR", "/run/pierhead", f"/tmp/pierhead-{os.geteuid()}")
    exec_root = given.get("exec_root", run)
    defaults = {
        "hosts": (f"unix://{run}/pierd.sock",),
        "data_root": _home("XDG_DATA_HOME", "/var/lib/pierhead", "~/.local/share"),
        "exec_root": exec_root,
        "pidfile": os.path.join(exec_root, "pierd.pid"),
    }
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    _check_gateways(config)
    if not config.exec_opts and _systemd_is_usual():
        values["exec_opts"] = (_exec_option("native.cgroupdriver=systemd"),)
    values["disk_low_mark"] = _low_mark(config)
    made = Config(**{**values, **{key: value for key, value in defaults.items() if not given.get(key)}})
    _check_cgroups(made)
    return made


def _systemd_is_usual() -> bool:
    """Whether Docker would have systemd make containers' cgroups, unasked: it makes all others of a machine that has
    cgroup v2 alone, and v2 is for one to write."""
    return os.geteuid() == 0 and os.path.isdir(BOOTED_BY_SYSTEMD) and cgroups.detect().version == 2


def _low_mark(config: Config) -> float:
    high, low = config.disk_high_mark, config.disk_low_mark
    if low and low >= high:
        raise InvalidParameter(f"--disk-low-mark {low:g}% needs a --disk-high-mark above it")
    return low or max(0.0, high - 10)


def _check_cgroups(config: Config) -> None:
    if config.cgroup_driver != "systemd":
        return
    if config.cgroup_parent and not scopes.valid_slice(config.cgroup_parent):
        raise InvalidParameter('cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"')
    if not os.path.isdir(BOOTED_BY_SYSTEMD):
        raise InvalidParameter("systemd not running on this host, cannot use systemd cgroups manager")


def _check_gateways(config: Config) -> None:
    for name, text, version in (
        ("--default-gateway", config.default_gateway, 4),
        ("--default-gateway-v6", config.default_gateway_v6, 6),
    ):
        if text and ip_address(text).version != version:
            raise InvalidParameter(f"{name}: {text} is not an IPv{version} address")
    versions = [ip_address(text).version for text in config.host_gateway_ips]
    if len(versions) != len(set(versions)):
        raise InvalidParameter("only one IPv4 and one IPv6 host-gateway-ip may be given")


# The file ------------------------------------------------------------------------------------------------------------


def _merge(path: str, said: Mapping[str, Any], embedded: bool) -> dict[str, Any]:
    """The flags' settings and the file's. Raises InvalidParameter, OSError."""
    where = f"unable to configure the Pierhead daemon with file {path}"
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = file.read()
        found = json.loads(content) if content.strip() else {}
    except OSError as error:
        raise InvalidParameter(f"{where}: open {path}: {(error.strerror or '').lower()}") from error
    except ValueError as error:
        raise InvalidParameter(f"{where}: {error}") from None
    if not isinstance(found, dict):
        raise InvalidParameter(f"{where}: it must hold a JSON object")
    options = {option.key: option for option in OPTIONS}
    unknown = sorted(found.keys() - options.keys())
    if unknown:
        raise InvalidParameter(
            f"{where}: the following directives don't match any configuration option: {', '.join(unknown)}"
        )
    flags = dict(said)
    if embedded:
        found.pop("hosts", None)
        flags = {key: value for key, value in said.items() if key not in EMBEDDED or key not in found}
    both = [
        f"{key}: (from flag: {_shown(flags[key])}, from file: {_shown(found[key])})" for key in flags if key in found
    ]
    if both:
        raise InvalidParameter(
            f"{where}: the following directives are specified both as a flag and in the configuration file: "
            + ", ".join(both)
        )
    try:
        return flags | {key: _from_file(options[key], value) for key, value in found.items()}
    except ValueError as error:
        raise InvalidParameter(f"{where}: {error}") from None


def _shown(value: Any) -> str:
    """A value as Go prints it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{' '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{_shown(one)}' for key, one in sorted(value.items()))}]"
    return str(value)


def _from_file(option: Option, value: Any) -> str | list[str]:
    """The texts that flags would have. Raises ValueError."""
    if option.from_json is not None:
        try:
            return option.from_json(value)
        except (AttributeError, KeyError, TypeError):
            raise ValueError(f"{option.key}: {_shown(value)} is not of the form that is expected") from None
    wanted: tuple[type, ...] = (str,)
    if option.many:
        wanted = (list,)
    elif option.read is _truth:
        wanted = (bool,)
    elif option.read in (_mtu, _count, _bound):
        wanted = (int,)
    entries = value if option.many and isinstance(value, list) else [value]
    if not isinstance(value, wanted) or (wanted == (int,) and isinstance(value, bool)):
        raise ValueError(f"{option.key}: {_shown(value)} is not a {wanted[0].__name__}")
    if option.many and not all(isinstance(entry, str) for entry in entries):
        raise ValueError(f"{option.key}: {_shown(value)} is not a list of texts")
    return [*entries] if option.many else _shown(value)
