"""Settings of the present network namespace, below /proc/sys/net.

Read with the system's calls: hundreds of networks have thousands of them, which are looked at again and again, and a
file object is five more calls each.
"""

import os


def read(path: str) -> str | None:
    """A value without its end of line; None if there is no such setting (an interface that has gone)."""
    try:
        descriptor = os.open(f"/proc/sys/net/{path}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return os.read(descriptor, 4096).decode().strip()
    finally:
        os.close(descriptor)


def write(path: str, value: str) -> None:
    """Set it, only if it differs. Raises OSError."""
    with open(f"/proc/sys/net/{path}", "r+") as file:
        if file.read().strip() != value:
            file.seek(0)
            file.write(value)
