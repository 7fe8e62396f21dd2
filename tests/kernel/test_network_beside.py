"""A running engine beside other people's firewalls and engines: each goes on working, and who is stopped is told."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness.engines import Dockerd, Pierd, cgroups_named, engine, mounts_below
from tests.harness.firewalls import Firewalls, firewalls, unpacked
from tests.harness.netns import World, world
from tests.harness.processes import run, wait_until

UFW = "forwarding from docker0 is dropped by the policy of iptables chain FORWARD (ufw); to open it: "


def fetch(at: World, port: int) -> str:
    try:
        return at.neighbour.http_get(at.host_address, port, timeout=2)
    except OSError:
        return ""


def remove_theirs(at: World) -> None:
    """Every nft table that is not ours."""
    for table in at.host.tables():
        if "pierhead" not in table:
            at.host.run("nft", "delete", "table", *table.split()).check()


@pytest.fixture(scope="module")
def pierd() -> Iterator[Pierd]:
    with engine("pierd") as made:
        assert isinstance(made, Pierd)
        yield made


@pytest.fixture
def theirs(pierd: Pierd) -> Iterator[Firewalls]:
    if not unpacked():
        pytest.skip("ufw, firewalld and iptables are not unpacked (make peers)")
    with firewalls(pierd.host) as made:
        yield made
    pierd.forget()
    remove_theirs(pierd.world)


def said(pierd: Pierd) -> str:
    assert pierd.daemon is not None
    return pierd.daemon.said()


def test_who_makes_a_container_is_told_what_ufw_drops_and_how_to_open_it(pierd: Pierd, theirs: Firewalls) -> None:
    theirs.run("ufw", "--force", "enable").check()
    try:
        wait_until(lambda: UFW in said(pierd), "the daemon's own word")
        made = pierd.docker("run", "-d", "-p", "8081:8080", "web").check()
        assert f"WARNING: {UFW}ufw route allow in on docker0" in made.stderr
        assert "ufw route allow out on docker0" in made.stderr
        assert UFW in pierd.pier("create", "busybox").check().stderr
        assert UFW not in pierd.docker("create", "--network", "host", "busybox").check().stderr
        other = pierd.docker("network", "create", "other").check().stdout.strip()
        mine = pierd.docker("create", "--network", "other", "busybox").check().stderr
        assert f"ufw route allow in on br-{other[:12]}" in mine
        assert fetch(pierd.world, 8081) == ""
        theirs.run("ufw", "route", "allow", "in", "on", "docker0").check()
        theirs.run("ufw", "route", "allow", "out", "on", "docker0").check()
        wait_until(lambda: "this is" in fetch(pierd.world, 8081), "an answer")
        wait_until(lambda: pierd.docker("create", "busybox").check().stderr == "", "no word more")
        # A reload of theirs takes nothing of ours.
        length = len(said(pierd))
        theirs.run("ufw", "reload").check()
        assert "this is" in fetch(pierd.world, 8081)
        assert "restoring" not in said(pierd)[length:]
    finally:
        theirs.run("ufw", "--force", "reset").check()
        theirs.run("ufw", "--force", "disable").check()


def test_firewalld_is_told_of_and_its_reload_takes_nothing(pierd: Pierd, theirs: Firewalls) -> None:
    with theirs.firewalld():
        made = pierd.docker("run", "-d", "-p", "8082:8080", "web").check()
        command = "firewall-cmd --permanent --zone=trusted --add-interface=docker0 && firewall-cmd --reload"
        assert command in made.stderr and "(firewalld)" in made.stderr
        theirs.run("sh", "-c", command).check()
        wait_until(lambda: pierd.docker("create", "busybox").check().stderr == "", "no word more")
        wait_until(lambda: "this is" in fetch(pierd.world, 8082), "an answer")
        theirs.run("firewall-cmd", "--reload").check()
        assert "this is" in fetch(pierd.world, 8082)


@pytest.mark.parametrize("program", ["iptables", "iptables-legacy"])
def test_doctor_names_the_rule_and_the_command(pierd: Pierd, theirs: Firewalls, program: str) -> None:
    def doctor() -> str:
        python = str(Path(pierd.argv()[0]).parent / "python")
        return run(pierd.host.argv(python, "-m", "pierhead.daemon.main", "--doctor")).stdout

    assert "ok       firewalls" in doctor()
    theirs.run(program, "-A", "FORWARD", "-o", "docker0", "-j", "DROP").check()
    try:
        text = doctor()
        assert "warning  firewalls" in text
        assert (
            f"forwarding to docker0 is dropped by the rule `-A FORWARD -o docker0 -j DROP` in {program} chain" in text
        )
        assert f"to open it: {program} -I FORWARD -o docker0 -j ACCEPT" in text
        wait_until(lambda: "forwarding to docker0" in pierd.docker("create", "busybox").check().stderr, "a warning")
    finally:
        theirs.run(program, "-F", "FORWARD").check()


# Beside Docker -------------------------------------------------------------------------------------------------------


def apart(one: Pierd | Dockerd) -> None:
    """End one of two engines on a machine: its own clean-up would end everything there."""
    if one.daemon is not None and one.daemon.running():
        one.stop()
    for mount in reversed(mounts_below(one.root)):
        run(["umount", "-l", mount])
    shutil.rmtree(one.root, ignore_errors=True)
    for top in cgroups_named(one.root.name):
        run(["find", top, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"])


@contextmanager
def dockerd(at: World, *extra: str) -> Iterator[Dockerd]:
    """Debian's dockerd on the same machine, with a bridge of its own."""
    root = Path(tempfile.mkdtemp(prefix="pier-d-", dir="/tmp"))
    root.chmod(0o755)
    made = Dockerd(root, at)
    try:
        made.start(*extra)
        made.provide_images()
        yield made
        made.forget()
    finally:
        apart(made)


def serve(one: Pierd | Dockerd, port: int) -> None:
    one.docker("run", "-d", "-p", f"{port}:8080", "web").check()


@pytest.mark.usefixtures("peers")
def test_docker_that_comes_after_us_forwards_too(pierd: Pierd) -> None:
    """Where the host did not forward before, we keep strangers from being forwarded; Docker's bridges are none."""
    at = pierd.world
    assert "strangers4" in at.host.run("nft", "list", "ruleset").stdout
    at.host.ip("link", "add", "dockbr", "type", "bridge")
    at.host.ip("addr", "add", "10.99.0.1/24", "dev", "dockbr")
    at.host.ip("link", "set", "dockbr", "up")
    try:
        with dockerd(at, "-b", "dockbr", "--userland-proxy=false") as theirs:
            serve(theirs, 8091)
            serve(pierd, 8092)
            wait_until(lambda: "this is" in fetch(at, 8091), "an answer of Docker's container")
            wait_until(lambda: "this is" in fetch(at, 8092), "an answer of ours")
            pierd.forget()
    finally:
        remove_theirs(at)
        at.host.ip("link", "delete", "dockbr")
    listed = f"nft list set inet pierhead-{pierd.instance} guests"
    wait_until(lambda: "dockbr" not in at.host.run("sh", "-c", listed).stdout, "no guest any more")


@pytest.mark.usefixtures("peers")
def test_we_come_after_docker_whose_policy_is_to_drop() -> None:
    with world("h4q") as at, dockerd(at) as theirs:
        serve(theirs, 8091)
        root = Path(tempfile.mkdtemp(prefix="pier-p-", dir="/tmp"))
        root.chmod(0o755)
        ours = Pierd(root, at)
        try:
            ours.start()
            ours.provide_images()
            made = ours.docker("run", "-d", "-p", "8092:8080", "web").check()
            assert "there is a docker0 that is not ours: the default bridge is pier0" in said(ours)
            assert "(docker); to open it: iptables -I DOCKER-USER -i pier0 -j ACCEPT" in made.stderr
            assert "to open it: iptables -I DOCKER-USER -o pier0 -j ACCEPT" in made.stderr
            assert fetch(at, 8092) == ""
            with firewalls(at.host) as tools:
                for flag in ("-i", "-o"):
                    tools.run("iptables", "-I", "DOCKER-USER", flag, "pier0", "-j", "ACCEPT").check()
            wait_until(lambda: "this is" in fetch(at, 8092), "an answer of ours")
            wait_until(lambda: "this is" in fetch(at, 8091), "an answer of Docker's container")
            assert "restoring" not in said(ours)
            ours.forget()
            ours.stop()
            wait_until(lambda: "this is" in fetch(at, 8091), "Docker's container, without us")
        finally:
            apart(ours)
