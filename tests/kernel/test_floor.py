"""The floor: Debian 12's own kernel with cgroup v2 alone, which no development machine has, under qemu (vm/run)."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.kernel import FEATURES, lacking
from tests.harness.processes import IN_TEST_MACHINE, Daemon, processes_naming, run, wait_until

VM = Path(__file__).resolve().parents[2] / "vm"


@pytest.fixture
def machine() -> None:
    """What a test machine needs is here; else the test is skipped, saying why."""
    if IN_TEST_MACHINE:
        pytest.skip("this is that machine")
    looked = run([str(VM / "prepare"), "--check"])
    if looked.status == 77:
        pytest.skip(f"no test machine here: {looked.stderr.strip()}")
    looked.check()


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short name, because of the socket in it, for all that a run makes outside .cache."""
    with tempfile.TemporaryDirectory(prefix="floor-", dir="/tmp") as name:
        yield Path(name)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("machine")
def test_containers_live_and_are_limited_on_debians_kernel_with_cgroup_v2_alone() -> None:
    # Beside other tests: they have deadlines, it has not.
    core = subprocess.run(
        ["nice", "-n", "10", str(VM / "run"), "--core"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1700, check=False,
    )  # fmt: skip
    assert core.returncode == 0, core.stdout.decode(errors="replace")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("machine")
def test_a_machine_that_is_interrupted_leaves_no_process_and_no_file(place: Path) -> None:
    log = place / "log"
    (place / "runs").mkdir()
    machine = Daemon(
        [str(VM / "run"), "echo begun; exec sleep 1000"], log, {**os.environ, "TMPDIR": str(place / "runs")}
    )
    try:
        wait_until(lambda: "begun" in machine.said() or not machine.running(), "the machine", 500)
        assert machine.running(), machine.said()
        assert processes_naming(f"{place}/runs")
    finally:
        status = machine.terminate()
    assert status == 128 + signal.SIGTERM
    assert not processes_naming(f"{place}/runs")
    assert list((place / "runs").iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("machine")
def test_a_command_that_hangs_in_the_machine_is_shown_and_ended(place: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(place), "VM_TIMEOUT": "2"}
    hanging = run([str(VM / "run"), "sleep 1001"], env=environment, timeout=500)
    assert hanging.status == 124
    assert "vm: after 2 s it still runs:" in hanging.stdout and "sleep 1001" in hanging.stdout
    assert list(place.iterdir()) == []


@pytest.mark.skipif(not IN_TEST_MACHINE, reason="only the test machine's kernel promises to have all of it")
def test_the_machine_has_all_that_a_test_may_ask_a_kernel_for() -> None:
    assert {feature: why for feature in FEATURES if (why := lacking(feature))} == {}
