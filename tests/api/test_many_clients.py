"""More clients than a daemon was given descriptors for."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.harness.api import connect
from tests.harness.engines import Pierd
from tests.harness.reality import settled

pytestmark = pytest.mark.only_pierhead("descriptors of ours")

FEW = 256


@contextmanager
def limited(pierd: Pierd, soft: int, hard: int) -> Iterator[Pierd]:
    """The daemon, started again by a shell with these limits."""
    plain = pierd.argv
    pierd.stop()
    shell = f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@"'
    pierd.argv = lambda: ["sh", "-c", shell, "sh", *plain()]  # type: ignore[method-assign]
    pierd.start()
    yield pierd


@contextmanager
def idle(pierd: Pierd, count: int) -> Iterator[list[socket.socket]]:
    """Clients that have connected and say nothing."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(pierd.socket)) for _ in range(count)]


def test_the_soft_limit_of_whoever_starts_the_daemon_limits_containers_and_not_itself(pierd: Pierd) -> None:
    with limited(pierd, FEW, 4 * FEW), idle(pierd, 2 * FEW):
        assert pierd.api.output("sh", "-c", "ulimit -Sn; ulimit -Hn") == f"{FEW}\n{4 * FEW}\n"


def test_a_daemon_that_has_run_out_of_descriptors_serves_again_when_clients_go(pierd: Pierd) -> None:
    with limited(pierd, FEW, FEW):
        id = pierd.api.run("sh", "-c", "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.05; done")
        with idle(pierd, 2 * FEW):
            early = connect(pierd.socket)
            early.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
        with early:
            assert early.recv(100).startswith(b"HTTP/1.1 200 OK")
        assert pierd.api.inspect(id)["State"]["Running"]
        assert pierd.docker("exec", id, "echo", "hi").check().stdout == "hi\n"
        assert pierd.api.output("echo", "new") == "new\n"
        assert settled(pierd) == []
