"""``pier pull``, and the pull before a run."""

import json
import sys
from typing import TextIO

from pierhead.client import credentials
from pierhead.client.errors import ClientError
from pierhead.client.flags import Options
from pierhead.client.progress import Display
from pierhead.client.session import Session
from pierhead.errors import PierheadError
from pierhead.reference import parse


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
    headers = {"X-Registry-Auth": credentials.header(session, reference.domain)}
    answer = session.api.call("POST", "/images/create", query, b"", headers, own=True)
    if quiet:
        for line in answer.lines():
            message = json.loads(line)
            if message.get("errorDetail") or message.get("error"):
                raise ClientError(str((message.get("errorDetail") or {}).get("message") or message.get("error")))
        return
    Display(out).show(answer)
