"""Who the user is to registries: Docker's config file and its credential helpers.

The file is Docker's own, shared with its client: what else is in it stays as it is.
"""

import base64
import json
import os
import secrets
from typing import Any

from pierhead.client.errors import ClientError
from pierhead.client.host import config_folder
from pierhead.client.session import Session

HUB = "https://index.docker.io/v1/"
HELPER_SECONDS = 60
NOT_FOUND = "credentials not found in native keychain"
Login = dict[str, str]


def server_of(domain: str) -> str:
    """The key of a registry's login; Docker Hub has one of its own."""
    return HUB if domain in ("docker.io", "index.docker.io") else domain


def hostname(address: str) -> str:
    """The host and port of what a user calls a registry."""
    return address.removeprefix("https://").removeprefix("http://").partition("/")[0]


def header(session: Session, domain: str) -> str:
    """X-Registry-Auth: the login at a registry, or none."""
    return base64.urlsafe_b64encode(json.dumps(stored(session, server_of(domain))).encode()).decode()


def _helper(session: Session, server: str) -> str:
    return str((session.config.get("credHelpers") or {}).get(server) or session.config.get("credsStore") or "")


def stored(session: Session, server: str) -> Login:
    """The login that is kept for a server; empty: none."""
    helper = _helper(session, server)
    if helper:
        return _asked(helper, server)
    for key, entry in (session.config.get("auths") or {}).items():
        if (key != server and hostname(key) != server) or not isinstance(entry, dict):
            continue
        try:
            pair = base64.b64decode(entry.get("auth") or "").decode("utf-8", "replace")
        except ValueError:
            raise ClientError(f"invalid auth configuration file: {key}") from None
        user, _, password = pair.partition(":")
        found = {"username": user, "password": password.rstrip("\0"), "serveraddress": server}
        for name in ("identitytoken", "registrytoken"):
            if entry.get(name):
                found[name] = str(entry[name])
        return found
    return {}


def keep(session: Session, login: Login) -> str:
    """Store a login. Returns the path of the file that has the password in the clear now, if one has."""
    server = login["serveraddress"]
    token = login.get("identitytoken", "")
    helper = _helper(session, server)
    entry: dict[str, str] = {}
    if helper:
        entry_for_helper = {
            "ServerURL": server,
            "Username": "<token>" if token else login["username"],
            "Secret": token or login["password"],
        }
        _run(helper, "store", json.dumps(entry_for_helper))
    else:
        pair = f"{login['username']}:{'' if token else login['password']}"
        entry["auth"] = base64.b64encode(pair.encode()).decode()
        if token:
            entry["identitytoken"] = token
    auths = dict(session.config.get("auths") or {})
    known = server in auths
    auths[server] = entry
    path = _write(session, auths)
    return "" if helper or known else path


def forget(session: Session, server: str) -> None:
    """Erase what is kept for a server, under each of its spellings."""
    names = [server] if server == HUB else [server, f"http://{server}", f"https://{server}"]
    helper = _helper(session, server)
    if helper:
        for name in names:
            try:
                _run(helper, "erase", name)
            except ClientError as error:
                if NOT_FOUND not in str(error):
                    raise
    auths = dict(session.config.get("auths") or {})
    for name in names:
        auths.pop(name, None)
    if auths != (session.config.get("auths") or {}):
        _write(session, auths)


def _write(session: Session, auths: dict[str, Any]) -> str:
    """Put the logins into config.json, whole or not at all, readable by its owner alone."""
    folder = config_folder(session.settings.config)
    session.config["auths"] = auths
    # A link to a file elsewhere stays one.
    path = os.path.realpath(os.path.join(folder, "config.json"))
    new = f"{path}.{secrets.token_hex(4)}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(session.config, file, indent="\t", ensure_ascii=False)
        os.replace(new, path)
    except OSError as error:
        raise ClientError(f"Error saving credentials: {error}") from None
    return os.path.join(folder, "config.json")


def _run(helper: str, action: str, text: str) -> str:
    """One call of docker-credential-<helper>. Raises ClientError with what it says."""
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        answer = subprocess.run(
            [program, action], input=text.encode(), capture_output=True, timeout=HELPER_SECONDS, check=False
        )
    except FileNotFoundError:
        raise ClientError(
            f'error getting credentials - err: exec: "{program}": executable file not found in $PATH, out: ``'
        ) from None
    except (OSError, subprocess.SubprocessError) as error:
        raise ClientError(f"error getting credentials - err: {error}") from None
    said = answer.stdout.decode("utf-8", "replace").strip()
    if answer.returncode:
        raise ClientError(f"error getting credentials - err: exit status {answer.returncode}, out: `{said}`")
    return said


def _asked(helper: str, server: str) -> Login:
    try:
        entry = json.loads(_run(helper, "get", server))
        user, secret = str(entry["Username"]), str(entry["Secret"])
    except ClientError as error:
        # A helper that has nothing, or that is not there, is no login: what needs none goes on.
        if NOT_FOUND in str(error) or "executable file not found" in str(error):
            return {}
        raise
    except (ValueError, KeyError, TypeError):
        raise ClientError(f"docker-credential-{helper} gave no credentials that can be read") from None
    if user == "<token>":
        return {"identitytoken": secret, "serveraddress": server}
    return {"username": user, "password": secret, "serveraddress": server}
