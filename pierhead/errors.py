"""The one error tree of Pierhead.

Every class carries the HTTP status that the Engine API answers with; the text of an instance is Docker's wording where
Docker has one, for clients match on it ("No such container: x" is part of the protocol).  Layers that talk to the
kernel raise ``OSError`` with the call and the path in it; only the server maps an error to HTTP, only the client
prints one.

    PierheadError 500
    ├── InvalidParameter 400
    ├── Unauthorized 401
    ├── Forbidden 403
    ├── NotFound 404
    │   ├── NoSuchContainer · NoSuchImage · NoSuchNetwork · NoSuchVolume · NoSuchExec
    ├── Conflict 409
    ├── NotModified 304
    ├── StartFailed 400 / 500 (carries the exit code 126, 127 or 128 that Docker stores)
    ├── NotImplementedHere 501
    └── Unavailable 503
"""

import os
from collections.abc import Sequence
from typing import ClassVar


def listed(reasons: Sequence[str]) -> str:
    """Several reasons in one message, as Docker writes them: one stands alone, more get a bullet each."""
    if len(reasons) == 1:
        return reasons[0]
    return "\n".join("* " + reason.replace("\n", "\n\t") for reason in reasons)


def plain(error: BaseException) -> str:
    """What an error says, a failed system call as Docker writes it: ``/x: no such file or directory``."""
    own_words = type(error).__str__ is not OSError.__str__
    if not isinstance(error, OSError) or own_words or not error.errno or not error.strerror:
        return str(error) or type(error).__name__
    text = error.strerror[0].lower() + error.strerror[1:]
    return f"{os.fsdecode(error.filename)}: {text}" if error.filename else text


class PierheadError(Exception):
    """Something failed that has no better class. ``str(error)`` is what the API's ``message`` holds."""

    status: ClassVar[int] = 500


class InvalidParameter(PierheadError):
    """The request itself is wrong."""

    status = 400


class Unauthorized(PierheadError):
    """Credentials are missing or refused."""

    status = 401


class Forbidden(PierheadError):
    """Well understood, and not allowed (for instance: removing a predefined network)."""

    status = 403


class NotFound(PierheadError):
    """The named object does not exist."""

    status = 404


class NoSuchContainer(NotFound):
    """Raised for an unknown container name, id or id prefix."""

    def __init__(self, name: str) -> None:
        super().__init__(f"No such container: {name}")


class NoSuchImage(NotFound):
    """Raised for an unknown image reference, id or id prefix."""

    def __init__(self, name: str) -> None:
        super().__init__(f"No such image: {name}")


class NoSuchNetwork(NotFound):
    """Raised for an unknown network name, id or id prefix."""

    def __init__(self, name: str) -> None:
        super().__init__(f"network {name} not found")


class NoSuchVolume(NotFound):
    """Raised for an unknown volume name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"get {name}: no such volume")


class NoSuchExec(NotFound):
    """Raised for an unknown exec instance."""

    def __init__(self, name: str) -> None:
        super().__init__(f"No such exec instance: {name}")


class Conflict(PierheadError):
    """The object's present state does not allow it."""

    status = 409


class NotModified(PierheadError):
    """Nothing to do: the object already is as asked. The API sends no body with it."""

    status = 304


class StartFailed(PierheadError):
    """The container's command could not be started.

    ``exit_code`` is what Docker stores as the container's: 127 (no such file), 126 (may not be executed), else 128.
    Docker answers 400 for the first two and 500 for the rest, hence ``http_status``.
    """

    def __init__(self, message: str, exit_code: int = 128) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    @property
    def http_status(self) -> int:
        """400 where the user's command is at fault, else 500."""
        return 400 if self.exit_code in (126, 127) else 500


class NotImplementedHere(PierheadError):
    """Known to the API, not done by this engine."""

    status = 501


class Unavailable(PierheadError):
    """The daemon cannot serve this now (shutting down, a peer is away)."""

    status = 503
