"""pierd's settings: from flags, from the file, and never from both."""

import json
from ipaddress import ip_network
from pathlib import Path

import pytest

from pierhead.daemon import main
from pierhead.daemon.config import Config
from pierhead.daemon.flags import OPTIONS, configure
from pierhead.driver.networkdriver.ipam import AddressPool
from pierhead.errors import InvalidParameter


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration file at the place where a user's daemon looks for it."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "pierhead"
    folder.mkdir()
    return folder / "daemon.json"


def settings(file: Path, content: object, *flags: str) -> Config:
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return configure(flags)[0]


def test_without_anything_said_all_is_as_the_documentation_has_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert configure([])[0] == Config()


def test_every_setting_of_the_file_arrives(file: Path) -> None:
    found = settings(
        file,
        {
            "hosts": ["unix:///tmp/a.sock", "tcp://127.0.0.1:2375"],
            "data-root": "/srv/data",
            "exec-root": "/srv/run",
            "pidfile": "/srv/pid",
            "debug": True,
            "storage-driver": "vfs",
            "trim": False,
            "disk-high-mark": "85%",
            "disk-low-mark": "70.5%",
            "disk-remove": "local,containers=72h",
            "disk-keep": "1h",
            "bip": "10.5.0.1/24",
            "bip6": "fd00:5::1/64",
            "fixed-cidr": "10.5.0.128/25",
            "fixed-cidr-v6": "fd00:5::/80",
            "default-gateway": "10.5.0.2",
            "default-gateway-v6": "fd00:5::2",
            "ipv6": True,
            "mtu": 1400,
            "icc": False,
            "ip-masq": False,
            "ip": "127.0.0.1",
            "host-gateway-ips": ["10.1.1.1"],
            "default-address-pools": [{"base": "10.200.0.0/16", "size": 24}],
            "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1450"}},
            "insecure-registries": ["r:5000"],
            "registry-mirrors": ["http://m"],
            "max-concurrent-downloads": 1,
            "max-concurrent-uploads": 2,
            "max-download-attempts": 7,
            "max-concurrent-unpacks": 4,
            "compressed-blobs": "drop",
            "max-manifest-size": "1m",
            "max-layers": 10,
            "max-unpacked-size": "2g",
            "max-unpack-ratio": 0,
            "dns": ["10.0.0.53"],
            "dns-opts": ["ndots:2"],
            "dns-search": ["example.org"],
            "default-bridge-names": True,
            "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 200, "Soft": 100}},
            "exec-driver": "oci",
            "default-runtime": "mine",
            "runtimes": {"mine": {"path": "/usr/bin/crun", "runtimeArgs": ["--debug"]}, "other": {"path": "youki"}},
        },
    )
    assert found == Config(
        hosts=("unix:///tmp/a.sock", "tcp://127.0.0.1:2375"),
        data_root="/srv/data",
        exec_root="/srv/run",
        pidfile="/srv/pid",
        debug=True,
        storage_driver="vfs",
        trim=False,
        disk_high_mark=85,
        disk_low_mark=70.5,
        disk_remove={"local": 0, "containers": 72 * 3600 * 10**9},
        disk_keep=3600 * 10**9,
        bip="10.5.0.1/24",
        bip6="fd00:5::1/64",
        fixed_cidr="10.5.0.128/25",
        fixed_cidr_v6="fd00:5::/80",
        default_gateway="10.5.0.2",
        default_gateway_v6="fd00:5::2",
        ipv6=True,
        mtu=1400,
        icc=False,
        ip_masq=False,
        ip="127.0.0.1",
        host_gateway_ips=("10.1.1.1",),
        default_address_pools=(AddressPool(ip_network("10.200.0.0/16"), 24),),
        default_network_opts={"bridge": {"com.docker.network.driver.mtu": "1450"}},
        insecure_registries=("r:5000",),
        registry_mirrors=("http://m/",),
        max_concurrent_downloads=1,
        max_concurrent_uploads=2,
        max_download_attempts=7,
        max_concurrent_unpacks=4,
        compressed_blobs="drop",
        max_manifest_size=1 << 20,
        max_layers=10,
        max_unpacked_size=2 << 30,
        max_unpack_ratio=0,
        dns=("10.0.0.53",),
        dns_opts=("ndots:2",),
        dns_search=("example.org",),
        default_bridge_names=True,
        default_ulimits=("nofile=100:200",),
        exec_driver="oci",
        default_runtime="mine",
        runtimes={"mine": ("/usr/bin/crun", "--debug"), "other": ("youki",)},
    )


def test_flags_and_file_say_the_same_in_the_same_way(file: Path) -> None:
    from_file = settings(
        file,
        {
            "default-address-pools": [{"base": "10.200.0.0/16", "size": 24}, {"base": "fd00:7::/48", "size": 64}],
            "default-network-opts": {"bridge": {"a": "b", "c": "d=e"}},
            "default-ulimits": {"core": {"Soft": 0, "Hard": -1}},
            "icc": False,
            "ipv6": True,
            "mtu": 1400,
        },
    )
    file.unlink()
    flags = ["--default-address-pool", "base=10.200.0.0/16,size=24", "--default-address-pool=base=fd00:7::/48,size=64"]
    flags += ["--default-network-opt", "bridge=a=b", "--default-network-opt", "bridge=c=d=e"]
    flags += ["--default-ulimit", "core=0:-1", "--icc=false", "--ipv6", "--mtu", "1400"]
    assert configure(flags)[0] == from_file


def test_a_file_that_is_empty_says_nothing(file: Path) -> None:
    assert settings(file, " \n") == settings(file, {})
    assert settings(file, '\ufeff{"debug": true}').debug, "some editors begin a file with a mark"


CONFLICTS = [
    ({"hosts": ["unix:///b"]}, ["-H", "unix:///a"], "hosts: (from flag: [unix:///a], from file: [unix:///b])"),
    ({"debug": False}, ["-D"], "debug: (from flag: true, from file: false)"),
    ({"mtu": 1400}, ["--mtu", "1500"], "mtu: (from flag: 1500, from file: 1400)"),
    (
        {"default-address-pools": [{"base": "10.1.0.0/16", "size": 24}]},
        ["--default-address-pool", "base=10.2.0.0/16,size=24"],
        "default-address-pools: (from flag: [base=10.2.0.0/16,size=24], from file: [map[base:10.1.0.0/16 size:24]])",
    ),
]


@pytest.mark.parametrize(("content", "flags", "message"), CONFLICTS, ids=lambda value: str(value)[:20])
def test_what_is_said_in_both_places_is_refused(file: Path, content: object, flags: list[str], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        settings(file, content, *flags)
    assert str(caught.value) == (
        f"unable to configure the Pierhead daemon with file {file}: the following directives are specified both as a "
        f"flag and in the configuration file: {message}"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"nonsense": 1, "log-driver": "x"}, "the following directives don't match any configuration option: log-d"),
        ("{", "Expecting property name"),
        ("[]", "it must hold a JSON object"),
        ({"hosts": "unix:///a"}, "hosts: unix:///a is not a list"),
        ({"hosts": [1]}, "hosts: [1] is not a list of texts"),
        ({"debug": "true"}, "debug: true is not a bool"),
        ({"mtu": "1400"}, "mtu: 1400 is not a int"),
        ({"default-address-pools": [{"base": "10.0.0.0/8"}]}, "default-address-pools: [map[base:10.0.0.0/8]] is not"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_by_name(file: Path, content: object, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        settings(file, content)
    assert f"unable to configure the Pierhead daemon with file {file}: " in str(caught.value)
    assert message in str(caught.value)


def test_a_file_that_was_named_must_be_there(file: Path) -> None:
    with pytest.raises(InvalidParameter, match="no such file or directory"):
        configure(["--config-file", str(file)])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--bip", "10.0.0.1"], "--bip: invalid CIDR address: 10.0.0.1"),
        (["--bip", "x/8"], "--bip: "),
        (["-H", "fd://"], "fd://: only unix:// and tcp:// are served"),
        (
            ["-H", "unix:///s", "-H", "tcp://1.2.3.4:99999"],
            "unable to parse docker host `tcp://1.2.3.4:99999`: bad port",
        ),
        (["--fixed-cidr", "10.0.0.9/24"], "--fixed-cidr: 10.0.0.9/24 has host bits set"),
        (["--mtu", "20"], "--mtu: invalid default MTU: 20"),
        (["--dns", "ns.example.org"], "--dns: IP address is not correctly formatted: ns.example.org"),
        (["--icc=perhaps"], '--icc: "perhaps" is neither true nor false'),
        (["--default-gateway", "fd00::1"], "--default-gateway: fd00::1 is not an IPv4 address"),
        (["--default-address-pool", "base=10.0.0.0/8"], 'invalid size value: "base=10.0.0.0/8" (must be integer)'),
        (["--default-address-pool", "base=10.0.0.1/8,size=24"], 'invalid base prefix "10.0.0.1/8"'),
        (["--default-address-pool", "base=10.0.0.0/16,size=8"], "is a prefix length from 16 to 31, not 8"),
        (["--default-address-pool", "net=10.0.0.0/16"], "unexpected key 'net'"),
        (["--add-runtime", "x"], "invalid runtime argument: x"),
        (["--add-runtime", "runc=/usr/bin/crun"], "runtime name 'runc' is reserved"),
        (["--add-runtime", "x=/a", "--add-runtime", "x=/b"], "runtime 'x' was already defined"),
        (["--exec-driver", "lxc"], 'unknown exec driver: "lxc" (native or oci)'),
        (["--default-ulimit", "nofile=x"], "invalid ulimit argument: nofile=x"),
        (["--disk-low-mark", "50%"], "--disk-low-mark 50% needs a --disk-high-mark above it"),
        (
            ["--disk-high-mark", "50%", "--disk-low-mark", "60%"],
            "--disk-low-mark 60% needs a --disk-high-mark above it",
        ),
        (["--disk-high-mark", "150%"], "--disk-high-mark: invalid mark: 150%"),
        (["--disk-remove", "everything"], '"everything" is none of dangling, pulled, local and containers=<age>'),
        (["--disk-remove", "containers"], '"containers" is none of'),
        (["--host-gateway-ip", "10.0.0.1", "--host-gateway-ip", "10.0.0.2"], "only one IPv4 and one IPv6"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_flag(file: Path, flags: list[str], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        configure(flags)
    assert message in str(caught.value)


def test_what_pier_says_to_its_own_daemon_gives_way_to_the_users_file(file: Path) -> None:
    own = ["--embedded", "-H", "unix:///own", "--data-root", "/own", "--exec-root", "/run/own", "--pidfile", "/p"]
    found = settings(file, {"data-root": "/theirs", "hosts": ["tcp://1.2.3.4:1"], "debug": True}, *own)
    assert (found.data_root, found.exec_root, found.hosts) == ("/theirs", "/run/own", ("unix:///own",))
    assert found.embedded and found.debug


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        configure(["--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    for flags in (*(option.flags for option in OPTIONS), ("--config-file",), ("--validate",), ("--doctor",)):
        assert flags[-1] in said, flags
    assert "as 85% (default: never)" in " ".join(said.split())


def test_settings_can_be_tried_without_a_daemon(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text('{"mtu": 1400}')
    assert main.main(["--validate"]) == 0
    assert capsys.readouterr().out == "configuration OK\n"
    file.write_text('{"mut": 1400}')
    assert main.main(["--validate"]) == 1
    assert "don't match any configuration option: mut" in capsys.readouterr().err
