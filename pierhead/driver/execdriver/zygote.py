"""The zygote: a small interpreter with everything imported, from which each container's shim is forked.

Run as a program (``python -I -S zygote.py FD``) with one end of the daemon's SEQPACKET pair as descriptor FD, an empty
environment and nothing else open.  A message brings the control connection of a shim to be; the zygote forks, keeps
nothing and never waits.  It ends when the daemon does; shims go on.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys

# -I and -S leave only the standard library on the path; later nothing may be imported at all.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))))

from pierhead.driver.execdriver import protocol, shim
from pierhead.linux import calls


def prepare() -> None:
    """Settle everything that each shim inherits."""
    del sys.path[:]
    del sys.meta_path[:]
    sys.path_importer_cache.clear()
    os.closerange(int(sys.argv[1]) + 1, 65536)  # whatever the daemon inherited itself
    calls.undumpable()
    os.chdir("/")
    os.umask(0o022)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # shims are nobody's zombies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at the daemon's terminal is the daemon's to answer
    gc.disable()
    gc.collect()
    gc.freeze()


def serve(daemon: socket.socket) -> socket.socket | None:
    """Fork a shim for each message. Returns its control connection in the shim, None in the zygote at its end."""
    while True:
        message, descriptors = protocol.receive(daemon, 4)
        if not message:
            return None
        if message != protocol.FORK or len(descriptors) != 1:
            print(f"zygote: message of {len(message)} bytes with {len(descriptors)} descriptors", file=sys.stderr)
            for descriptor in descriptors:
                os.close(descriptor)
            continue
        try:
            pid = os.fork()
        except OSError as error:
            # The daemon sees the connection end.
            print(f"zygote: fork: {error}", file=sys.stderr)
            pid = -1
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            daemon.close()
            return socket.socket(fileno=descriptors[0])
        os.close(descriptors[0])


def main() -> None:
    """Serve until the daemon ends; a forked shim comes back here too."""
    daemon = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(daemon.fileno(), False)
    prepare()
    control = serve(daemon)
    code = 0
    if control is not None:
        code = 1
        try:
            shim.main(control)
            code = 0
        finally:
            os._exit(code)  # no atexit, no flush of what the zygote had
    os._exit(code)


if __name__ == "__main__":
    main()
