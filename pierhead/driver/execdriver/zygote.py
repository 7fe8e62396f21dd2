"""The zygote: a small interpreter with everything imported, from which each container's shim is forked.

Run as a program (``python -I -S zygote.py FD LIMIT``) with one end of the daemon's SEQPACKET pair as descriptor FD, an
empty environment and nothing else open; LIMIT is the soft limit of open files in containers, 0 for what is inherited.
A message brings the control connection of a shim to be; the zygote forks, keeps nothing and never waits.  It ends when
the daemon does; shims go on.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]
import _socket as socket
import gc
import os
import select
import sys

# -I and -S leave only the standard library on the path; later nothing may be imported at all.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))))

from pierhead.driver.execdriver import protocol, rehearsal, shim, starter
from pierhead.linux import calls, const
from pierhead.linux.pages import Written

_IGNORED = [
    signal.SIGCHLD,  # shims are nobody's zombies
    signal.SIGINT,  # Ctrl-C at the daemon's terminal is the daemon's to answer
    signal.SIGPIPE,  # as the interpreter has it: who writes is told
    signal.SIGXFSZ,
]

LESSONS = 4
"""Starts from which starters learn what they write to: of another kind of container it is nearly the same."""


def prepare(name: str = "pierhead-zygote") -> None:
    """Settle everything that each shim inherits; name: what ps shows of us."""
    del sys.path[:]
    del sys.meta_path[:]
    sys.path_importer_cache.clear()
    os.closerange(int(sys.argv[1]) + 1, 65536)  # whatever the daemon inherited itself
    if limit := int(sys.argv[2]):
        calls.set_rlimit(const.RLIMITS["nofile"], limit, calls.get_rlimit(const.RLIMITS["nofile"])[1])
    calls.undumpable()
    os.chdir("/")
    os.umask(0o022)
    gc.disable()
    rehearsal.rehearse()
    calls.inherit_signals(_IGNORED)
    calls.name_process(name)
    gc.collect()
    gc.freeze()


class Spare:
    """A shim that has been forked beforehand and waits for its container: a start need not wait for a fork."""

    def __init__(self, connection: socket.socket, pidfd: int) -> None:
        self.connection = connection
        self.pidfd = pidfd

    def end(self) -> None:
        """Not needed any more: whoever has waited for the zygote finds none of its processes."""
        self.connection.close()
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        poll.poll(1000)

    def give(self, control: int) -> bool:
        """Hand it a control connection; False if it has died."""
        try:
            protocol.send(self.connection, protocol.FORK, (control,))
        except OSError:
            return False
        finally:
            self.connection.close()
            os.close(self.pidfd)
        return True


def fork(daemon: socket.socket) -> Spare | socket.socket:
    """A new spare, in the zygote; in the spare itself its end of the connection. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # Not os.fork: what that does for threads, of which there are none, costs each shim 80 KB of its own.
        pid, pidfd = calls.clone3(0)
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid:
        theirs.close()
        return Spare(ours, pidfd)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    daemon.close()
    ours.close()
    return theirs


def serve(daemon: socket.socket) -> socket.socket | None:
    """Keep a spare ready and give it away for each message. In a spare: returns its connection; at the end: None."""
    spare: Spare | None = None
    while True:
        if spare is None:
            made = fork(daemon)
            if not isinstance(made, Spare):
                return made
            spare = made
        message, descriptors = protocol.receive(daemon, 4)
        if not message:
            spare.end()
            return None
        if message == protocol.FORK and len(descriptors) == 1:
            given, spare = spare.give(descriptors[0]), None
            if not given:  # somebody has killed it: the next one then
                made = fork(daemon)
                if not isinstance(made, Spare):
                    os.close(descriptors[0])
                    return made
                made.give(descriptors[0])
        else:
            print(f"zygote: message of {len(message)} bytes with {len(descriptors)} descriptors", file=sys.stderr)
        for descriptor in descriptors:
            os.close(descriptor)


def become_shim(connection: socket.socket, written: Written) -> None:
    """The spare's part: get ready, wait for a container, live as long as it does."""
    made = shim.prepare()
    handover = starter.fork(connection, written)
    connection.close()
    shim.live(made, handover)


def main() -> None:
    """Serve until the daemon ends; a forked shim comes back here too."""
    daemon = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(daemon.fileno(), False)
    prepare()
    written = Written(LESSONS)
    code = 1
    try:
        # A fork that fails (no memory, too many processes) ends the zygote: the daemon starts another, or says why.
        connection = serve(daemon)
        if connection is not None:
            become_shim(connection, written)
        code = 0
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)  # no atexit, no flush of what the zygote had


if __name__ == "__main__":
    main()
