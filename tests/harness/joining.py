"""Containers as bare network namespaces: a driver's NetworkSetup done to them, as the shim and init would."""

import errno
import os
import socket
from contextlib import closing
from pathlib import Path

from pierhead.libcontainer import network
from pierhead.libcontainer.spec import NETNS_FD, NetworkSetup
from pierhead.linux.nft import NETLINK_NETFILTER
from tests.harness.netns import Namespace


def join(host: Namespace, container: Namespace, setup: NetworkSetup) -> None:
    """What happens at a start, or at a connect. Raises OSError as the kernel refuses."""

    def outside() -> None:
        opened = os.open(container.path, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(opened, NETNS_FD, inheritable=False)
        os.close(opened)
        try:
            _send(setup.host, setup.busy)
        finally:
            os.close(NETNS_FD)

    def inside() -> None:
        for name, value in setup.sysctls:
            Path("/proc/sys", *name.split(".")).write_text(value)
        _send(setup.inside, setup.busy)
        if setup.nft:
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netfilter:
                netfilter.send(setup.nft)
                answer = netfilter.recv(65536)
                assert int.from_bytes(answer[16:20], "little") == 0

    host.call(outside)
    container.call(inside)


def leave(container: Namespace, messages: tuple[bytes, ...]) -> None:
    """What happens inside a namespace that goes on (``NetworkDriver.withdraw``)."""
    try:
        container.call(lambda: _send(messages, ()))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def _send(messages: tuple[bytes, ...], busy: tuple[int, ...]) -> None:
    with closing(network.route_socket()) as netlink:
        network.send_route(netlink, messages, busy)
