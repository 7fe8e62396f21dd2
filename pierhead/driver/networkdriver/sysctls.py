"""Settings of the present network namespace, below /proc/sys/net."""


def read(path: str) -> str | None:
    """A value without its end of line; None if there is no such setting (an interface that has gone)."""
    try:
        with open(f"/proc/sys/net/{path}") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def write(path: str, value: str) -> None:
    """Set it, only if it differs. Raises OSError."""
    with open(f"/proc/sys/net/{path}", "r+") as file:
        if file.read().strip() != value:
            file.seek(0)
            file.write(value)
