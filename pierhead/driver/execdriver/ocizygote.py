"""The zygote of containers that an OCI runtime makes: as ``zygote``, but without spares and starters.

It is started with the first such container; who has none pays nothing for it.  Run as a program, as the other is.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]
import _socket as socket
import os
import sys

# -I and -S leave only the standard library on the path; later nothing may be imported at all.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))))

from pierhead.driver.execdriver import ocishim, protocol, shim, zygote
from pierhead.linux import calls


def serve(daemon: socket.socket) -> socket.socket | None:
    """Fork a shim for each message. In a shim: returns its connection to the daemon; at the end: None."""
    while True:
        message, descriptors = protocol.receive(daemon, 4)
        if not message:
            return None
        if message == protocol.FORK and len(descriptors) == 1:
            pid, pidfd = calls.clone3(0)
            if not pid:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                daemon.close()
                return socket.socket(fileno=descriptors[0])
            os.close(pidfd)
        for descriptor in descriptors:
            os.close(descriptor)


def main() -> None:
    """Serve until the daemon ends; a forked shim comes back here too."""
    daemon = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(daemon.fileno(), False)
    zygote.prepare("pierhead-oci")
    code = 1
    try:
        connection = serve(daemon)
        if connection is not None:
            shim.live(shim.prepare(ocishim.OciShim), connection)
        code = 0
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
