"""The floor: Debian 12's own kernel with cgroup v2 alone, which no development machine has, under qemu (vm/run)."""

import subprocess
from pathlib import Path

import pytest

from tests.harness.processes import IN_TEST_MACHINE, run

VM = Path(__file__).resolve().parents[2] / "vm"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_containers_live_and_are_limited_on_debians_kernel_with_cgroup_v2_alone() -> None:
    if IN_TEST_MACHINE:
        pytest.skip("this is that machine")
    looked = run([str(VM / "prepare"), "--check"])
    if looked.status == 77:
        pytest.skip(f"no test machine here: {looked.stderr.strip()}")
    looked.check()
    # Beside other tests: they have deadlines, it has not.
    core = subprocess.run(
        ["nice", "-n", "10", str(VM / "run"), "--core"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1700, check=False,
    )  # fmt: skip
    assert core.returncode == 0, core.stdout.decode(errors="replace")
