"""Another firewall's reload takes our rules with it: they come back while containers run."""

from tests.harness.engines import Pierd
from tests.harness.images import WEB
from tests.harness.processes import wait_until


def test_published_ports_come_back_after_a_foreign_flush(pierd: Pierd) -> None:
    bindings = {"8080/tcp": [{"HostPort": "8081"}]}
    pierd.api.run("sh", "-c", WEB, HostConfig={"PortBindings": bindings})

    def answers() -> bool:
        try:
            return "this is" in pierd.world.neighbour.http_get(pierd.world.host_address, 8081)
        except OSError:
            return False

    def rules() -> str:
        return pierd.host.run("nft", "-s", "list", "ruleset").stdout

    wait_until(answers, "the first answer")
    before = rules()
    pierd.host.run("nft", "flush", "ruleset").check()
    wait_until(lambda: rules() == before, "the rules")
    assert answers()
