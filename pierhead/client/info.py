"""``pier version`` and ``pier info``."""

import platform
import sys
from typing import Any

from pierhead import __version__
from pierhead.client.api import HIGHEST
from pierhead.client.errors import ClientError
from pierhead.client.flags import Options
from pierhead.client.session import Session
from pierhead.client.table import align
from pierhead.client.template import Template, TemplateError, go_json
from pierhead.client.units import bytes_size, parse_time

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}


def _client(session: Session) -> dict[str, Any]:
    return {
        "Version": __version__,
        "ApiVersion": "{}.{}".format(*HIGHEST),
        "DefaultAPIVersion": "{}.{}".format(*HIGHEST),
        "PythonVersion": platform.python_version(),
        "Os": "linux",
        "Arch": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "Context": session.host().context,
    }


def version(session: Session, options: Options) -> int:
    """Versions of client and daemon."""
    found: dict[str, Any] = {"Client": _client(session), "Server": None}
    problem = ""
    try:
        found["Server"] = session.api.get("/version")
        found["Client"]["ApiVersion"] = "{}.{}".format(*session.api.version)
    except ClientError as error:
        problem = str(error)
    format = options.text("format")
    if format:
        sys.stdout.write(_templated(format, found))
    else:
        sys.stdout.write(_version_text(found))
    if problem:
        raise ClientError(problem)
    return 0


def _templated(format: str, value: Any) -> str:
    if format == "json":
        return go_json(value) + "\n"
    try:
        return Template(format, "").execute(value) + "\n"
    except TemplateError as error:
        raise ClientError(f"template parsing error: template: {error}", 64) from None


def _version_text(found: Any) -> str:
    client, server = found["Client"], found["Server"]
    highest = client["DefaultAPIVersion"]
    spoken = client["ApiVersion"]
    lowered = "" if spoken == highest else f" (downgraded from {highest})"
    text = (
        f"Client:\n Version:\t{client['Version']}\n API version:\t{spoken}{lowered}\n"
        f" Python version:\t{client['PythonVersion']}\n OS/Arch:\t{client['Os']}/{client['Arch']}\n"
        f" Context:\t{client['Context']}\n"
    )
    if server:
        name = (server.get("Platform") or {}).get("Name")
        text += f"\nServer:{' ' + name if name else ''}\n"
        for component in server.get("Components") or [_as_component(server)]:
            text += _component_text(component)
    return align(text, padding=1, minimum=20)


def _as_component(server: Any) -> dict[str, Any]:
    return {"Name": "Engine", "Version": server["Version"], "Details": {**server, "ApiVersion": server["ApiVersion"]}}


def _component_text(component: Any) -> str:
    details = component.get("Details") or {}
    text = f" {component['Name']}:\n  Version:\t{component['Version']}\n"
    if component["Name"] != "Engine":
        return text + "".join(f"  {key}:\t{value}\n" for key, value in sorted(details.items()))
    text += f"  API version:\t{details.get('ApiVersion')} (minimum version {details.get('MinAPIVersion')})\n"
    for key, title in (("GoVersion", "Go version"), ("PythonVersion", "Python version"), ("GitCommit", "Git commit")):
        if details.get(key):
            text += f"  {title}:\t{details[key]}\n"
    if details.get("BuildTime"):
        text += f"  Built:\t{_built(details['BuildTime'])}\n"
    text += f"  OS/Arch:\t{details.get('Os')}/{details.get('Arch')}\n"
    return text + f"  Experimental:\t{details.get('Experimental', 'false')}\n"


def _built(text: str) -> str:
    import time

    try:
        return time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime(parse_time(text)))
    except ValueError:
        return text


def info(session: Session, options: Options) -> int:
    """What the daemon says of itself and the machine."""
    client = {"Debug": False, "Version": __version__, "Context": session.host().context}
    format = options.text("format")
    problem = ""
    try:
        server = session.api.get("/info")
    except ClientError as error:
        server, problem = None, str(error)
    if format:
        sys.stdout.write(_templated(format, {**(server or {}), "ClientInfo": client}))
        if problem:
            raise ClientError(problem)
        return 0
    print(f"Client:\n Version:    {client['Version']}\n Context:    {client['Context']}\n Debug Mode: false\n\nServer:")
    if server is None:
        raise ClientError(problem)
    sys.stdout.write("".join(line + "\n" for line in _info_lines(server)) + "\n")
    for warning in server.get("Warnings") or ():
        session.warn(warning)
    return 0


def _info_lines(server: Any) -> list[str]:
    lines = [f" Containers: {server.get('Containers', 0)}"]
    for key, title in (("Running", "Running"), ("Paused", "Paused"), ("Stopped", "Stopped")):
        lines.append(f"  {title}: {server.get('Containers' + key, 0)}")
    lines.append(f" Images: {server.get('Images', 0)}")
    lines += _given(server, [("ServerVersion", "Server Version"), ("Driver", "Storage Driver")])
    lines += [f"  {name}: {value}" for name, value in server.get("DriverStatus") or ()]
    lines += _given(
        server,
        [("LoggingDriver", "Logging Driver"), ("CgroupDriver", "Cgroup Driver"), ("CgroupVersion", "Cgroup Version")],
    )
    plugins = server.get("Plugins") or {}
    lines.append(" Plugins:")
    for kind in ("Volume", "Network", "Authorization", "Log"):
        if plugins.get(kind) or kind in ("Volume", "Network", "Log"):
            lines.append(f"  {kind}: {' '.join(plugins.get(kind) or ())}")
    if server.get("CDISpecDirs"):
        lines += [" CDI spec directories:", *(f"  {folder}" for folder in server["CDISpecDirs"])]
    lines.append(f" Swarm: {(server.get('Swarm') or {}).get('LocalNodeState') or 'inactive'}")
    if server.get("Runtimes"):
        lines += [
            f" Runtimes: {' '.join(sorted(server['Runtimes']))}",
            f" Default Runtime: {server.get('DefaultRuntime', '')}",
        ]
    if server.get("OSType") == "linux":
        lines.append(f" Init Binary: {server.get('InitBinary', '')}")
        for key, name in (("ContainerdCommit", "containerd"), ("RuncCommit", "runc"), ("InitCommit", "init")):
            lines.append(f" {name} version: {(server.get(key) or {}).get('ID', '')}")
        lines += _security(server.get("SecurityOptions") or [])
    return lines + _machine(server) + _settings(server)


def _given(server: Any, names: list[tuple[str, str]]) -> list[str]:
    return [f" {title}: {server[key]}" for key, title in names if server.get(key)]


def _security(entries: list[str]) -> list[str]:
    if not entries:
        return []
    lines = [" Security Options:"]
    for entry in entries:
        pairs = [part.partition("=")[::2] for part in entry.split(",")]
        lines.append(f"  {pairs[0][1]}")
        lines += [f"   {'Profile' if key == 'profile' else key}: {value}" for key, value in pairs[1:]]
    return lines


def _machine(server: Any) -> list[str]:
    names = [("KernelVersion", "Kernel Version"), ("OperatingSystem", "Operating System"), ("OSType", "OSType")]
    lines = _given(server, [*names, ("Architecture", "Architecture")])
    lines.append(f" CPUs: {server.get('NCPU', 0)}")
    if server.get("MemTotal"):
        lines.append(f" Total Memory: {bytes_size(server['MemTotal'])}")
    return lines + _given(server, [("Name", "Name"), ("ID", "ID"), ("DockerRootDir", "Docker Root Dir")])


def _settings(server: Any) -> list[str]:
    lines = [f" Debug Mode: {_boolean(server.get('Debug'))}"]
    if server.get("Debug"):
        lines += [
            f"  File Descriptors: {server.get('NFd', 0)}",
            f"  Goroutines: {server.get('NGoroutines', 0)}",
            f"  System Time: {server.get('SystemTime', '')}",
            f"  EventsListeners: {server.get('NEventsListener', 0)}",
        ]
    lines += _given(server, [("HttpProxy", "HTTP Proxy"), ("HttpsProxy", "HTTPS Proxy"), ("NoProxy", "No Proxy")])
    if server.get("Labels"):
        lines += [" Labels:", *(f"  {label}" for label in server["Labels"])]
    lines.append(f" Experimental: {_boolean(server.get('ExperimentalBuild'))}")
    registries = server.get("RegistryConfig") or {}
    insecure = [
        name for name, entry in sorted((registries.get("IndexConfigs") or {}).items()) if not entry.get("Secure", True)
    ] + list(registries.get("InsecureRegistryCIDRs") or ())
    if insecure:
        lines += [" Insecure Registries:", *(f"  {name}" for name in insecure)]
    if registries.get("Mirrors"):
        lines += [" Registry Mirrors:", *(f"  {name}" for name in registries["Mirrors"])]
    lines.append(f" Live Restore Enabled: {_boolean(server.get('LiveRestoreEnabled'))}")
    if server.get("ProductLicense"):
        lines.append(f" Product License: {server['ProductLicense']}")
    if server.get("DefaultAddressPools"):
        lines.append(" Default Address Pools:")
        lines += [f"   Base: {pool['Base']}, Size: {pool['Size']}" for pool in server["DefaultAddressPools"]]
    if (server.get("FirewallBackend") or {}).get("Driver"):
        lines.append(f" Firewall Backend: {server['FirewallBackend']['Driver']}")
    return lines


def _boolean(value: object) -> str:
    return "true" if value else "false"
