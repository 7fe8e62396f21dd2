"""Daemons that start at once: each is forked off a process that has imported pierd, and is `main()` from there on.

Run as ``python -m tests.harness.forkserver FD``: the descriptor is a SEQPACKET socket on which each packet (JSON) asks
for one thing: {"argv": […], "log": path, "network": path of a namespace} → the new daemon's id, and with it the
descriptor of its steps (see ``steps``); {"wait": id} → its exit status.
"""

import array
import gc
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.harness.processes import DEADLINE

_TOP = Path(__file__).resolve().parents[2]


def serve(connection: socket.socket) -> None:
    """Until the other side closes."""
    import pierhead.registry.client  # noqa: F401 - what a daemon imports later, at its first pull
    from pierhead.daemon import main
    from pierhead.daemon.flags import configure
    from pierhead.linux import calls, const
    from tests.harness.steps import install, program

    filter = program()
    warm = False
    gc.collect()
    gc.freeze()  # a daemon goes through its memory at its start, and would copy all of this
    while packet := connection.recv(1 << 16):
        asked = json.loads(packet)
        if "wait" in asked:
            status = os.waitpid(asked["wait"], 0)[1]
            connection.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
            continue
        if not warm:
            configure(asked["argv"])  # compiles hundreds of expressions, once for all
            warm = True
        if os.fork():
            continue
        code = 1
        try:
            os.setsid()
            log = os.open(asked["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            network = os.open(asked["network"], os.O_RDONLY)
            calls.setns(network, const.CLONE_NEWNET)
            os.close(network)
            listener = install(filter)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))
            connection.sendmsg([str(os.getpid()).encode()], [rights])
            os.close(listener)
            connection.close()
            sys.argv = ["pierd", *asked["argv"]]
            code = main.main(asked["argv"])
        finally:
            sys.stderr.flush()
            os._exit(code)


class Forkserver:
    """Such a process, as its user sees it."""

    def __init__(self, network: str, environment: dict[str, str]) -> None:
        """network: the namespace that the daemons are to be in, by its path."""
        self._network = network
        self._connection, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.harness.forkserver", str(other.fileno())],
                pass_fds=[other.fileno()],
                cwd=_TOP,
                env=environment,
                start_new_session=True,
            )
        self._connection.settimeout(DEADLINE)

    def fork(self, argv: list[str], log: Path) -> tuple[int, int]:
        """A new daemon: its id, and the descriptor that its steps are told on."""
        self._connection.send(json.dumps({"argv": argv, "log": str(log), "network": self._network}).encode())
        packet, (listener,), _, _ = socket.recv_fds(self._connection, 64, 1)
        return int(packet), listener

    def wait(self, pid: int) -> int:
        """The exit status of one that has ended or will."""
        self._connection.send(json.dumps({"wait": pid}).encode())
        return int(json.loads(self._connection.recv(64)))

    def close(self) -> None:
        """End it; its daemons have to have ended."""
        self._connection.close()
        self._process.wait(DEADLINE)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
