"""What every shim does, done a few times in the zygote beforehand.

The interpreter adapts as it runs: code is specialised, method caches are filled, library functions are looked up.  Done
here it is done once, in pages that all shims share; in each shim it would cost the time and the pages again.
The zygote imports this.
"""

from __future__ import annotations

import _socket as socket
import os
import time

from pierhead.driver.execdriver import protocol, shim
from pierhead.driver.execdriver.job import close_all, pipes
from pierhead.driver.execdriver.jsonlog import JSONLog
from pierhead.driver.execdriver.loop import IN
from pierhead.driver.execdriver.stdio import Stdio
from pierhead.libcontainer import container

ROUNDS = 10
"""Python 3.11 specialises a function's code when it has run eight times."""


def rehearse() -> None:
    """Raises nothing that a shim would not meet as well."""
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    for _ in range(ROUNDS):
        _output()
        _messages()
        container.net_inside(namespace, ())  # a clone, and a child that reports
    os.close(namespace)


def _output() -> None:
    """A process's output on its way into the log and to a client, and its end."""
    made = shim.Shim()
    log = JSONLog(os.devnull, 1000, 1, ())
    stdio = Stdio(made.loop, log, lambda: None)
    theirs, ours = pipes(True)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    stdio.add(near, protocol.STDIN | protocol.STDOUT | protocol.STDERR | protocol.CLOSE_STDIN)
    stdio.open(*ours)
    far.send(b"in")
    os.write(theirs[1], b"out\n")
    os.write(theirs[2], b"err")
    made.loop.watch(far.fileno(), IN, lambda events: None)
    made.loop.later(0, lambda: setattr(made.loop, "ended", True))
    made.loop.run()
    close_all(theirs)
    stdio.process_ended()
    log.finish()
    far.close()
    made.loop.epoll.close()


def _messages() -> None:
    """A daemon's messages and the answers to it."""
    daemon, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made = shim.Shim()
    made.control = control
    made.watch_control()
    protocol.send(daemon, protocol.encode(protocol.HOLD, (), 0))
    protocol.send(daemon, protocol.encode(protocol.SIGNAL, (0, "none")))
    made.loop.later(0, lambda: setattr(made.loop, "ended", True))
    made.loop.run()
    copy = os.dup(0)
    made.send(protocol.STARTED, (1, time.time_ns()), (copy,))
    close_all(protocol.receive(daemon)[1])
    os.close(copy)
    daemon.close()
    control.close()
    made.loop.epoll.close()
