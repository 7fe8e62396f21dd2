"""What run, start and attach share: a container with this terminal attached to it, until it ends or is detached."""

import json
import os
from contextlib import ExitStack

from pierhead.client.api import Api, quote
from pierhead.client.connection import Connection, Response
from pierhead.client.errors import ClientError, DaemonError
from pierhead.client.session import Session
from pierhead.client.streams import Demultiplexer, DetachKeys, Raw, RawTerminal, SignalProxy, WindowWatch, relay
from pierhead.errors import plain


class Waiter:
    """A wait request under way: asked before the start, so that no end is missed."""

    def __init__(self, api: Api, container: str, condition: str) -> None:
        query = {"condition": condition} if api.version >= (1, 30) else {}
        self.answer: Response = api.call("POST", f"/containers/{quote(container)}/wait", query, own=True)

    def status(self) -> int:
        """The exit status, once there is one. Raises ClientError where the daemon ends before."""
        try:
            found = json.loads(self.answer.read() or b"{}")
        except (ValueError, ConnectionError) as broken:
            raise ClientError(f"error waiting for container: {plain(broken)}", 125) from None
        error = (found.get("Error") or {}).get("Message")
        if error:
            raise ClientError(f"Error waiting for container: {error}", 125)
        return int(found.get("StatusCode", 125))

    def descriptor(self) -> int:
        """Readable when the container has ended."""
        return self.answer.connection.socket.fileno()


def check_terminal(tty: bool, stdin: bool) -> None:
    """Docker's refusal of ``-it`` without a terminal."""
    if tty and stdin and not os.isatty(0):
        raise ClientError(
            "the input device is not a TTY.  If you are using mintty, try prefixing the command with 'winpty'"
            if os.name == "nt"
            else "the input device is not a TTY"
        )


def detach_keys(session: Session, given: str) -> str:
    """The flag, else the configuration file."""
    return given or str(session.config.get("detachKeys") or "")


def open_stream(session: Session, container: str, stdin: bool, stdout: bool, stderr: bool, keys: str) -> Connection:
    """Attach to a container's streams."""
    query = {
        "stream": True,
        "stdin": stdin,
        "stdout": stdout,
        "stderr": stderr,
        "detachKeys": detach_keys(session, keys),
    }
    return session.api.hijack(f"/containers/{quote(container)}/attach", query)


def resizer(api: Api, path: str) -> WindowWatch:
    """Resizes a container's or an exec's terminal; a failed attempt is tried again by the caller."""

    def resize(rows: int, columns: int) -> bool:
        try:
            Api(api.host).call("POST", path, {"h": rows, "w": columns})
        except ClientError:
            return False
        return True

    return WindowWatch(resize)


def proxy(api: Api, container: str) -> SignalProxy:
    """Signals of this process go to the container."""

    def kill(name: str) -> None:
        try:
            Api(api.host).call("POST", f"/containers/{quote(container)}/kill", {"signal": name})
        except DaemonError:
            return  # it ended a moment ago

    return SignalProxy(kill)


def converse(
    connection: Connection,
    stack: ExitStack,
    tty: bool,
    stdin: bool,
    watch: WindowWatch | None,
    keys: str,
) -> bool:
    """Relay until the stream ends, the terminal raw meanwhile. True: the detach keys were typed."""
    try:
        wanted = DetachKeys(keys) if tty and stdin else None
    except ValueError as error:
        raise ClientError(f"invalid detach keys ({keys}): {error}") from None
    if tty and stdin and os.isatty(0):
        stack.enter_context(RawTerminal(0))
    if watch is not None:
        stack.enter_context(watch)
    return relay(connection, stdin, Raw() if tty else Demultiplexer(), wanted)
