"""What every test may ask for: an engine, its clients, a network of its own; and why a test was skipped.

``--engine docker`` aims tests/api and tests/clients at Debian's dockerd: what passes there tests Docker's behaviour.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.harness.engines import PEERS, Engine, Pierd, docker_client
from tests.harness.engines import engine as started_engine
from tests.harness.processes import run

PROGRAMS = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux", "busybox": "busybox-static"}
FOLDERS_OF_ROOT = ("kernel", "drivers", "api", "clients")
"""Tests in these make namespaces, mounts and cgroups."""
LONGEST = ("test_floor", "test_steps_images", "test_steps_containers", "test_crash", "test_restart", "test_golden_dump")
"""Files that are run first: one that takes minutes, begun as the last, has one worker at work and the others wait."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """--engine."""
    parser.addoption(
        "--engine", choices=("pierd", "docker"), default="pierd", help="what tests/api, tests/clients test"
    )


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what is tested, by which client, and what the machine lacks."""
    version = run([docker_client(), "--version"]).stdout.strip() if client_present() else "none"
    return [
        f"engine: {config.getoption('--engine')}; docker client: {version} ({docker_client()})",
        f"machine: Linux {os.uname().release}; {lacking() or 'everything that the tests need is here'}",
    ]


def client_present() -> bool:
    return os.access(docker_client(), os.X_OK)


@cache
def lacking() -> str:
    """Why this machine cannot run the tests that need root, or ''."""
    if os.geteuid() != 0:
        return "needs root: run `make test` as root"
    probe = run(["unshare", "--net", "--mount", "--pid", "--fork", "true"])
    if probe.status != 0:
        return f"no namespaces (an unprivileged container?): {probe.stderr.strip()}"
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            return f"no {program}: apt-get install {package}"
    nft = run(["unshare", "--net", "nft", "list", "ruleset"])
    if nft.status != 0:
        return f"no nftables in this kernel: {nft.stderr.strip()}"
    if not Path("/sys/fs/cgroup").exists() or not os.access("/sys/fs/cgroup", os.W_OK):
        return "no writable control groups below /sys/fs/cgroup"
    return ""


@cache
def client_version() -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)", run([docker_client(), "--version"]).stdout)
    return tuple(int(part) for part in found.groups()) if found else (0,)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest first; skip what this machine, this client or this engine cannot, each with its reason."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    engine = config.getoption("--engine")
    for item in items:
        parts = item.path.relative_to(config.rootpath).parts
        reason = ""
        if (parts[1] in FOLDERS_OF_ROOT or item.get_closest_marker("needs_root")) and lacking():
            reason = lacking()
        elif engine == "docker":
            reason = _not_for_docker(item)
        if not reason and item.get_closest_marker("needs_client28") and client_version() < (28,):
            reason = f"needs docker client 28, this is {client_version()}"
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def _not_for_docker(item: pytest.Item) -> str:
    for name, why in {"only_pierhead": "not Docker's", "needs_docker28": "Debian's dockerd is 20.10"}.items():
        if marker := item.get_closest_marker(name):
            return f"{why}: {marker.args[0] if marker.args else item.name}"
    return ""


@pytest.fixture
def needs_root() -> None:
    """For tests outside the folders of root: skip, saying why, where root or namespaces are missing."""
    if lacking():
        pytest.skip(lacking())


@pytest.fixture(scope="session")
def peers() -> Path:
    """The folder with the unpacked peers; a test that needs one of them skips where they are missing."""
    if not (PEERS / "usr/sbin/dockerd").exists():
        pytest.skip("no peers: `make peers` unpacks them")
    return PEERS


@pytest.fixture(scope="module")
def shared_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """One daemon a file, on a machine of its own; at its end nothing may be left of it."""
    kind = request.config.getoption("--engine")
    if kind == "docker":
        request.getfixturevalue("peers")
    with started_engine(kind) as made:
        yield made


@pytest.fixture
def engine(shared_engine: Engine) -> Iterator[Engine]:
    """The file's daemon; the containers, networks and volumes of a test are gone after it."""
    yield shared_engine
    shared_engine.forget()


@pytest.fixture
def own_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A daemon that this test alone uses, for what would disturb others (restarts, firewall, images)."""
    with started_engine(request.config.getoption("--engine")) as made:
        yield made


@pytest.fixture
def pierd() -> Iterator[Pierd]:
    """Ours alone, whatever --engine says: for restarts and what is left behind."""
    with started_engine("pierd") as made:
        assert isinstance(made, Pierd)
        yield made


@pytest.fixture
def docker(engine: Engine) -> Callable[..., object]:
    """The real docker client, aimed at the engine."""
    if not client_present():
        pytest.skip("no docker client: `make peers` unpacks Debian's")
    return engine.docker
