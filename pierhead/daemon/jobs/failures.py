"""Why a container's or exec's process could not be started, in Docker's words and with Docker's exit code."""

import errno
import os

from pierhead.errors import StartFailed
from pierhead.libcontainer.spec import SetupFailed


def explain(error: SetupFailed) -> StartFailed:
    """A set-up failure in Docker's words, with the exit code that Docker stores for it."""
    if error.call.startswith("RTM_"):
        return StartFailed(f"failed to set up container networking: {_what(error)}", _code(error))
    if error.call == "user":  # Docker's daemon looks these up itself
        return StartFailed(_what(error))
    what = f"runc create failed: unable to start container process: error during container init: {_what(error)}"
    if error.stage == "runtime":  # an OCI runtime's own words
        what = error.strerror or ""
    return StartFailed(
        f"failed to create task for container: failed to create shim task: OCI runtime create failed: {what}: unknown",
        _code(error),
    )


def explain_exec(error: SetupFailed) -> StartFailed:
    """The same for an exec."""
    if error.call == "user":
        return StartFailed(_what(error), _code(error))
    what = f"exec failed: unable to start container process: {_what(error)}"
    if error.stage == "runtime":
        what = error.strerror or ""
    return StartFailed(f"OCI runtime exec failed: {what}: unknown", _code(error))


def _code(error: SetupFailed) -> int:
    if error.stage not in ("exec", "process") or error.call == "setrlimit":
        return 128
    if error.errno in (errno.EACCES, errno.ENOEXEC, errno.EISDIR, errno.EPERM):
        return 126
    return 127 if error.stage == "exec" or error.errno == errno.ENOENT else 126


def _what(error: SetupFailed) -> str:
    """Our own sentence where init has made one (it names the program), else call, path and reason."""
    text = error.strerror or os.strerror(error.errno or 0)
    if error.stage == "exec" or error.call == "user" or text.startswith((f"{error.call} ", "error setting ")):
        return text
    text = text[0].lower() + text[1:]  # as Go has them: clients look for "no such file or directory"
    call, _, kind = error.call.partition(" ")
    if call == "RTM_NEWLINK" and kind:
        return f"failed to create the {kind} port: {text.lower()}"
    return f"{error.call} {error.filename}: {text}" if error.filename else f"{error.call}: {text}"
