"""``pier pull``, and the pull before a run."""

import base64
import json
import sys
from typing import TextIO

from pierhead.client.errors import ClientError
from pierhead.client.flags import Options
from pierhead.client.progress import Display
from pierhead.client.session import Session
from pierhead.errors import PierheadError
from pierhead.reference import parse

HUB = "https://index.docker.io/v1/"


def pull(session: Session, options: Options) -> int:
    """Fetch an image from its registry."""
    name = options.operands[0]
    try:
        reference = parse(name)
    except PierheadError as error:
        raise ClientError(str(error)) from None
    if options.on("all-tags") and not reference.is_name_only:
        raise ClientError("tag can't be used with --all-tags/-a")
    quiet = options.on("quiet")
    if reference.is_name_only and not options.on("all-tags"):
        reference = reference.tagged()
        if not quiet:
            print("Using default tag: latest")
    pull_image(session, name, options.text("platform"), sys.stdout, quiet, options.on("all-tags"))
    print(reference)
    return 0


def pull_image(session: Session, name: str, platform: str, out: TextIO, quiet: bool, every: bool = False) -> None:
    """Fetch it, showing progress on ``out``. Raises ClientError."""
    try:
        reference = parse(name)
    except PierheadError as error:
        raise ClientError(str(error)) from None
    if not every:
        reference = reference.tagged()
    repository, tag = reference.familiar_name, reference.digest or reference.tag or ""
    query = {"fromImage": repository, "tag": tag, "platform": platform}
    headers = {"X-Registry-Auth": credentials(session, reference.domain)}
    answer = session.api.call("POST", "/images/create", query, b"", headers, own=True)
    if quiet:
        for line in answer.lines():
            message = json.loads(line)
            if message.get("errorDetail") or message.get("error"):
                raise ClientError(str((message.get("errorDetail") or {}).get("message") or message.get("error")))
        return
    Display(out).show(answer)


def credentials(session: Session, domain: str) -> str:
    """X-Registry-Auth of the configuration file's login, or of its credential helper."""
    server = HUB if domain in ("docker.io", "index.docker.io") else domain
    found: dict[str, str] = {}
    entries = session.config.get("auths") or {}
    for key, entry in entries.items():
        if (key != server and _host(key) != server) or not isinstance(entry, dict):
            continue
        user, _, password = base64.b64decode(entry.get("auth") or "").decode("utf-8", "replace").partition(":")
        found = {"username": user, "password": password.rstrip("\0"), "serveraddress": server}
        if entry.get("identitytoken"):
            found["identitytoken"] = str(entry["identitytoken"])
    helper = (session.config.get("credHelpers") or {}).get(server) or session.config.get("credsStore")
    if helper and not found.get("username"):
        found = _from_helper(str(helper), server) or found
    return base64.urlsafe_b64encode(json.dumps(found).encode()).decode()


def _host(key: str) -> str:
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


def _from_helper(helper: str, server: str) -> dict[str, str]:
    """Ask docker-credential-<helper>; nothing where it has nothing or is not there."""
    import subprocess

    try:
        answer = subprocess.run(
            [f"docker-credential-{helper}", "get"], input=server.encode(), capture_output=True, timeout=30, check=False
        )
    except OSError:
        return {}
    if answer.returncode:
        return {}
    entry = json.loads(answer.stdout)
    if entry.get("Username") == "<token>":
        return {"identitytoken": entry["Secret"], "serveraddress": server}
    return {"username": entry["Username"], "password": entry["Secret"], "serveraddress": server}
