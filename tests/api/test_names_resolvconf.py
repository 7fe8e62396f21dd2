"""A container's resolv.conf, and the host's name servers behind it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.api import Api
from tests.harness.engines import Engine, Pierd
from tests.harness.naming import OUTSIDE, asker, name_server
from tests.harness.netns import world

pytestmark = pytest.mark.only_pierhead(
    "the words are those of Docker 28, and the host's file is replaced for ours alone"
)

STUB = "127.0.0.53"


class OnAHostWith(Pierd):
    """A daemon that sees a resolv.conf of its own in place of the host's."""

    def argv(self) -> list[str]:
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(self.file), *super().argv()]

    @property
    def file(self) -> Path:
        return self.root / "host-resolv.conf"


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[OnAHostWith]:
    """On a host with systemd-resolved: its only name server is on its loopback."""
    root = tmp_path / "p"
    root.mkdir()
    name = f"resolv-{tmp_path.name[-20:]}".replace("_", "x").replace("[", "").replace("]", "")
    with world(name) as machine, OnAHostWith(root, machine) as made:
        made.file.write_text(f"nameserver {STUB}\nsearch lan.example\noptions edns0 trust-ad\n")
        made.start()
        made.provide_images()
        yield made


def network(api: Api, name: str, **config: object) -> None:
    api.ok("POST", "/networks/create", {"Name": name, **config})


def resolv_conf(api: Api, id: str) -> str:
    return Path(api.inspect(id)["ResolvConfPath"]).read_text()


def test_the_hosts_stub_is_asked_from_the_host_and_followed_when_it_changes(stub: OnAHostWith) -> None:
    api = stub.api
    network(api, "n1")
    id = api.run("sleep", "1000", HostConfig={"NetworkMode": "n1"})
    assert "nameserver 127.0.0.11\nsearch lan.example\noptions edns0 trust-ad ndots:0\n" in resolv_conf(api, id)
    assert f"# ExtServers: [host({STUB})]\n" in resolv_conf(api, id)
    here = asker(api, id)
    with name_server(stub.host.path, STUB) as served:
        assert here.addresses("example.com") == here.addresses("example.com", tcp=True) == [OUTSIDE]
        assert served.names == ["example.com."] * 2
    # A laptop comes to another network: containers that run on are not left with the old one's name servers.
    with name_server(stub.world.neighbour.path, "2001:db8::20") as served:
        stub.file.write_text("nameserver 2001:db8::20\n")
        assert here.addresses("example.com") == [OUTSIDE] and served.names == ["example.com."]


def test_the_default_bridge_gets_what_the_stub_asks_itself_and_the_hosts_network_the_stub(stub: OnAHostWith) -> None:
    """There is no systemd-resolved in this world: nobody that it asks is known."""
    api = stub.api
    bridge, host = api.run("sleep", "1000"), api.run("sleep", "1000", HostConfig={"NetworkMode": "host"})
    assert "'/run/systemd/resolve/resolv.conf' (legacy)" in resolv_conf(api, bridge)
    assert STUB not in resolv_conf(api, bridge)
    assert f"\nnameserver {STUB}\nsearch lan.example\n" in resolv_conf(api, host)


def test_a_file_that_the_user_has_changed_is_left_alone(engine: Engine) -> None:
    api = engine.api
    network(api, "n1")
    network(api, "n2")
    changed, untouched = (api.run("sleep", "1000") for _ in range(2))
    path = Path(api.inspect(changed)["ResolvConfPath"])
    path.write_text(path.read_text() + "options timeout:1\n")
    before = path.read_text()
    for name in ("n1", "n2"):
        for id in (changed, untouched):
            api.ok("POST", f"/networks/{name}/connect", {"Container": id})
    assert path.read_text() == before
    assert "nameserver 127.0.0.11\n" in resolv_conf(api, untouched)
    api.ok("POST", "/networks/n1/disconnect", {"Container": untouched})
    api.ok("POST", "/networks/n2/disconnect", {"Container": untouched})
    assert "nameserver 127.0.0.11\n" not in resolv_conf(api, untouched)


def test_the_daemons_settings_are_taken_where_a_container_has_none(own_engine: Engine) -> None:
    own_engine.stop()
    own_engine.start("--dns", "192.0.2.20", "--dns-search", "daemon.example", "--dns-opt", "rotate")
    api = own_engine.api
    network(api, "n1")
    plain = api.run("sleep", "1000", HostConfig={"NetworkMode": "n1"})
    given = api.run("sleep", "1000", HostConfig={"NetworkMode": "n1", "DnsSearch": ["own.example"]})
    assert "search daemon.example\noptions rotate ndots:0\n" in resolv_conf(api, plain)
    assert "# ExtServers: [192.0.2.20]\n# Overrides: [nameservers search options]\n" in resolv_conf(api, plain)
    assert "search own.example\n" in resolv_conf(api, given)
    assert "\nnameserver 192.0.2.20\nsearch daemon.example\n" in resolv_conf(api, api.run("sleep", "1000"))
    with name_server(own_engine.world.neighbour.path, "192.0.2.20"):
        assert asker(api, plain).addresses("example.com") == [OUTSIDE]
