"""What whoever started the daemon had ignored (nohup, a supervisor) is not ignored in containers."""

import os
import signal

from pierhead.linux import calls

OURS = [signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE]
THEIRS = [signal.SIGHUP, signal.SIGUSR1, signal.SIGRTMIN + 3]


def _ignored() -> list[int]:
    with open("/proc/self/status", encoding="ascii") as status:
        mask = next(int(line.split()[1], 16) for line in status if line.startswith("SigIgn:"))
    return [number for number in range(1, 65) if mask >> (number - 1) & 1]


def test_a_child_has_no_signal_ignored_whatever_its_parents_had() -> None:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for number in THEIRS:
                signal.signal(number, signal.SIG_IGN)
            calls.inherit_signals(OURS)
            here = _ignored()
            calls.default_signals()
            os.write(theirs, repr((here, _ignored())).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as answer:
        said = answer.read().decode()
    os.waitpid(pid, 0)
    assert said == repr((sorted(int(number) for number in OURS), [])), "those that are ours, then none"
