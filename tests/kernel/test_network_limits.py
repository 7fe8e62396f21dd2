"""What the kernel itself limits: known here as it really is."""

import errno
import os

import pytest

from pierhead.driver.networkdriver.bridge import PORTS
from pierhead.linux import netlink
from pierhead.linux.netlink import Netlink
from tests.harness.netns import namespace


@pytest.mark.timeout(300)
def test_a_bridge_takes_as_many_containers_as_the_engine_says_and_not_one_more() -> None:
    """Ports are the cheap ends of veth pairs: one container more than this would fail half way through its start."""
    with namespace(f"pier-limits-{os.getpid()}") as host:

        def fill() -> tuple[int, int]:
            """Ports that the bridge has taken, and why it took no other."""
            with Netlink() as link, open("/proc/thread-self/ns/net") as here:
                link.send(netlink.bridge_add("full", group=1, mac="02:42:00:00:00:01", mtu=1500))
                bridge = link.link("full")
                assert bridge is not None
                for number in range(PORTS + 1):
                    mac = "02:42:0a:00:" + number.to_bytes(2).hex(":")
                    pair = {"inside": f"in{number}", "outside": f"out{number}"}
                    link.send(netlink.veth_into(here.fileno(), index=5000 + number, mac=mac, mtu=1500, group=1, **pair))
                    try:
                        link.send(netlink.link_set(f"out{number}", master=bridge.index))
                    except OSError as error:
                        return number, error.errno or 0
                return PORTS + 1, 0

        assert host.call(fill) == (PORTS, errno.EXFULL)
