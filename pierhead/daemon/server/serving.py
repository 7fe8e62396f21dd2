"""A server of any application: listeners, connections, and a graceful end."""

import asyncio

from pierhead.daemon.server.connection import HEAD_TIMEOUT, Application, Connection
from pierhead.daemon.server.listen import Listener, listen

GRACE = 5.0
"""Seconds that running handlers have at the end before they are cancelled."""

BACKLOG = 4096
"""Connections that wait to be accepted. asyncio's own 100 are too few: where a unix socket's queue is full, a client's
connect does not wait but fails (EAGAIN), the docker client's among them."""

RECEIVED_AT_ONCE = 256 * 1024


class Server:
    """Listens until it is closed."""

    def __init__(self, application: Application, *, head_timeout: float = HEAD_TIMEOUT) -> None:
        self._application = application
        self._head_timeout = head_timeout
        self._connections: set[Connection] = set()
        self._scratch = memoryview(bytearray(RECEIVED_AT_ONCE))
        self._listeners: list[tuple[Listener, asyncio.Server]] = []

    async def listen(self, host: str) -> None:
        """Serve one more host. Raises OSError, InvalidParameter."""
        loop = asyncio.get_running_loop()
        listener = listen(host)

        def connection() -> Connection:
            return Connection(self._application, self._connections, self._scratch, head_timeout=self._head_timeout)

        if listener.path:
            server = await loop.create_unix_server(connection, sock=listener.socket, backlog=BACKLOG)
        else:
            server = await loop.create_server(connection, sock=listener.socket, backlog=BACKLOG)
        self._listeners.append((listener, server))

    @property
    def addresses(self) -> tuple[object, ...]:
        """What the sockets are bound to (a TCP port that was 0 has its number)."""
        return tuple(server.sockets[0].getsockname() for _, server in self._listeners)

    async def close(self, grace: float = GRACE) -> None:
        """Stop listening, let running handlers end, cancel what lasts longer (streams, waits, attached clients)."""
        for listener, server in self._listeners:
            server.close()
            listener.close()
        self._listeners.clear()
        endless = [
            task for connection in list(self._connections) if (task := connection.finish()) and connection.endless
        ]
        for task in endless:
            task.cancel()
        tasks = [task for connection in list(self._connections) if (task := connection.finish())]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=grace)
        for connection in list(self._connections):
            connection.abort()
