"""Which daemon to speak to: by flags, environment, Docker's contexts, else Pierhead's own socket."""

from __future__ import annotations

import os

from pierhead.client import jsontext
from pierhead.client.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Tls:
    """Files in PEM; empty: not used."""

    __slots__ = ("ca", "cert", "key", "verify")

    def __init__(self, ca: str, cert: str, key: str, verify: bool) -> None:
        self.ca = ca
        self.cert = cert
        self.key = key
        self.verify = verify


class Host:
    """A daemon's address. ``configured`` is False for the default that nobody asked for."""

    __slots__ = ("address", "configured", "context", "tls")

    def __init__(self, address: str, context: str, configured: bool, tls: Tls | None) -> None:
        self.address = address
        self.context = context
        self.configured = configured
        self.tls = tls


def config_folder(given: str = "") -> str:
    """Where Docker's client keeps its configuration."""
    return given or os.environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")


def read_config(folder: str) -> dict[str, Any]:
    """``config.json``; empty where there is none."""
    path = os.path.join(folder, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            found = jsontext.loads(file.read())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ClientError(f"loading config file: {path}: {error}") from None
    return found if isinstance(found, dict) else {}


def default_socket() -> str:
    """Where the daemon that ``pier`` starts listens: root's, or the user's own."""
    if os.geteuid() == 0:
        return "/run/pierhead/pierd.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return os.path.join(runtime, "pierhead", "pierd.sock")


def resolve(hosts: tuple[str, ...], context: str, config: str, tls: Tls | None) -> Host:
    """Docker's order: -H, --context, DOCKER_HOST, DOCKER_CONTEXT, the configured context, the default."""
    if hosts and context:
        raise ClientError("conflicting options: cannot specify both --host and --context")
    if len(hosts) > 1:
        raise ClientError("Failed to initialize: unable to resolve docker endpoint: Specify only one -H")
    folder = config_folder(config)
    if hosts:
        return Host(_normalise(hosts[0]), "default", True, tls or _environment_tls(folder))
    if not context:
        address = os.environ.get("DOCKER_HOST", "")
        if address:
            return Host(_normalise(address), "default", True, tls or _environment_tls(folder))
        context = os.environ.get("DOCKER_CONTEXT") or str(read_config(folder).get("currentContext") or "default")
    if context == "default":
        return Host("unix://" + default_socket(), "default", False, tls)
    return _from_context(folder, context, tls)


def _normalise(address: str) -> str:
    address = address.strip()
    if "://" not in address:
        return f"tcp://{address}"
    if address.startswith(("unix://", "tcp://", "http://", "https://")):
        return address.rstrip("/") if not address.startswith("unix://") else address
    problem = f"invalid bind address format: {address}"
    if address.startswith("ssh://"):
        problem = f"{address}: ssh is not supported: forward the daemon's socket with ssh -L and use unix://"
    raise ClientError(f"Failed to initialize: unable to resolve docker endpoint: {problem}")


def _environment_tls(folder: str) -> Tls | None:
    verify = bool(os.environ.get("DOCKER_TLS_VERIFY"))
    if not verify and not os.environ.get("DOCKER_TLS"):
        return None
    return tls_files(os.environ.get("DOCKER_CERT_PATH") or folder, verify)


def tls_files(folder: str, verify: bool) -> Tls:
    """The usual three files of a folder, those that exist."""
    paths = [os.path.join(folder, name) for name in ("ca.pem", "cert.pem", "key.pem")]
    ca, cert, key = (path if os.path.exists(path) else "" for path in paths)
    return Tls(ca, cert, key, verify)


def _context_folder(folder: str, kind: str, name: str) -> str:
    import hashlib

    return os.path.join(folder, "contexts", kind, hashlib.sha256(name.encode()).hexdigest())


def _from_context(folder: str, name: str, tls: Tls | None) -> Host:
    path = os.path.join(_context_folder(folder, "meta", name), "meta.json")
    try:
        with open(path, encoding="utf-8") as file:
            endpoint = jsontext.loads(file.read())["Endpoints"]["docker"]
    except FileNotFoundError:
        raise ClientError(
            f'Failed to initialize: unable to resolve docker endpoint: context "{name}": context not found: '
            f"open {path}: no such file or directory"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClientError(f'unable to resolve docker endpoint: context "{name}": {error}') from None
    address = str(endpoint.get("Host") or "")
    if not address:
        return Host("unix://" + default_socket(), name, False, tls)
    files = os.path.join(_context_folder(folder, "tls", name), "docker")
    if tls is None and os.path.isdir(files):
        tls = tls_files(files, not endpoint.get("SkipTLSVerify"))
    return Host(_normalise(address), name, True, tls)


def context_names(folder: str) -> list[dict[str, Any]]:
    """The meta.json of every context, by name."""
    root = os.path.join(folder, "contexts", "meta")
    found = []
    for entry in os.listdir(root) if os.path.isdir(root) else []:
        with open(os.path.join(root, entry, "meta.json"), encoding="utf-8") as file:
            found.append(jsontext.loads(file.read()))
    return sorted(found, key=lambda meta: str(meta.get("Name")))
