"""Networks made, joined, left and removed by the thousand: an engine that runs for months does the same."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness.engines import Pierd
from tests.harness.processes import wait_until
from tests.harness.reality import differences

CYCLES, LANES = int(os.environ.get("PIERHEAD_CYCLES", "200")), 8
"""PIERHEAD_CYCLES=2000 is the long version: some minutes."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hundreds_of_cycles_leave_no_address_port_link_rule_or_row(pierd: Pierd) -> None:
    """Each connects a running container (with a published port, the first time that it has a way out) and a stopped
    one to a new network, disconnects them and removes the network."""
    api = pierd.api
    rules = pierd.host.run("nft", "list", "table", "inet", f"pierhead-{pierd.instance}").check().stdout
    for lane in range(LANES):
        ports = {"8080/tcp": [{"HostPort": str(9000 + lane)}]}
        api.run("sleep", "10000", name=f"runs{lane}", HostConfig={"NetworkMode": "none"})
        api.create("sleep", "10000", name=f"waits{lane}", HostConfig={"PortBindings": ports})
        api.ok("POST", "/networks/none/disconnect", {"Container": f"runs{lane}"})

    def cycles(lane: int) -> None:
        for number in range(CYCLES // LANES):
            name = f"n{lane}-{number}"
            api.ok("POST", "/networks/create", {"Name": name})
            for container in (f"runs{lane}", f"waits{lane}"):
                api.ok("POST", f"/networks/{name}/connect", {"Container": container})
            for container in (f"runs{lane}", f"waits{lane}"):
                api.ok("POST", f"/networks/{name}/disconnect", {"Container": container})
            api.ok("DELETE", f"/networks/{name}")

    with ThreadPoolExecutor(LANES) as pool:
        list(pool.map(cycles, range(LANES)))
    assert sorted(network["Name"] for network in api.get("/networks")) == ["bridge", "host", "none"]
    wait_until(lambda: not differences(pierd), "a machine as GraphDB knows it", 30)
    for lane in range(LANES):
        assert api.inspect(f"runs{lane}")["NetworkSettings"]["Networks"] == {}
        api.ok("DELETE", f"/containers/runs{lane}", force=1)
        api.ok("DELETE", f"/containers/waits{lane}")
    assert pierd.host.interfaces() == {"lo", "ens33", "virbr0", "docker0"}
    assert pierd.host.run("nft", "list", "table", "inet", f"pierhead-{pierd.instance}").check().stdout == rules
