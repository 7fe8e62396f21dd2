"""What the client itself can say went wrong."""


class ClientError(Exception):
    """Printed as it is, with an exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class DaemonError(ClientError):
    """The daemon answered with an error. ``code`` is the HTTP status, ``reason`` the message alone."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"Error response from daemon: {reason}")
        self.code = code
        self.reason = reason


class NoDaemon(ClientError):
    """Nothing answers at the daemon's address."""


class Quit(Exception):
    """Everything is said already: only the exit status is left."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status
