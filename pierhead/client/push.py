"""``pier push``."""

import json
import sys

from pierhead.client import credentials
from pierhead.client.api import quote
from pierhead.client.errors import ClientError
from pierhead.client.flags import Options
from pierhead.client.platforms import as_json
from pierhead.client.progress import Display
from pierhead.client.session import Session
from pierhead.errors import PierheadError
from pierhead.reference import parse


def push(session: Session, options: Options) -> int:
    """Upload an image, or all tags of its repository."""
    try:
        reference = parse(options.operands[0])
    except PierheadError as error:
        raise ClientError(str(error)) from None
    every, quiet = options.on("all-tags"), options.on("quiet")
    if every and not reference.is_name_only:
        raise ClientError("tag can't be used with --all-tags/-a")
    if not every and reference.is_name_only:
        reference = reference.tagged()
        if not quiet:
            print(f"Using default tag: {reference.tag}")
    query = {"tag": "" if every else reference.tag or ""}
    if options.text("platform"):
        query["platform"] = as_json(options.text("platform"))
    headers = {"X-Registry-Auth": credentials.header(session, reference.domain)}
    name = reference.familiar_name + (f"@{reference.digest}" if reference.digest else "")
    answer = session.api.call("POST", f"/images/{quote(name, '/:@')}/push", query, b"", headers, own=True)
    if quiet:
        for line in answer.lines():
            message = json.loads(line)
            if message.get("errorDetail") or message.get("error"):
                raise ClientError(str((message.get("errorDetail") or {}).get("message") or message.get("error")))
        print(reference)
        return 0
    Display(sys.stdout).show(answer)
    return 0
