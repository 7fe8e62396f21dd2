"""`make demo` does what it says and leaves nothing, also when it is interrupted."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.netns import World, world

TOP = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.only_pierhead("the demo starts its own engine")


@pytest.fixture
def machine() -> Iterator[World]:
    """The demo plays on the machine it is started on; here that is a network namespace of the test's."""
    with world("pier-demo") as made:
        yield made


def started(machine: World, log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        return subprocess.Popen(
            machine.host.argv(sys.executable, "-m", "demo"),
            cwd=TOP, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip


@pytest.mark.timeout(400)
def test_the_demo_shows_every_scene_and_leaves_nothing(machine: World, tmp_path: Path) -> None:
    demo = started(machine, tmp_path / "log")
    status = demo.wait(350)
    said = (tmp_path / "log").read_text(errors="replace")
    assert status == 0, said
    for number in range(9):
        assert f"=== {number}. " in said
    assert "server: POST /containers/" in said.partition("$ pier jobs")[2]
    assert "Nothing is left" in said
    assert machine.host.interfaces() == {"lo", "ens33", "virbr0"} and machine.host.tables() == set()


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("how", "scene"),
    [(signal.SIGINT, "=== 3. "), (signal.SIGTERM, "=== 3. "), (signal.SIGTERM, "$ pier import")],
    ids=["Ctrl-C", "SIGTERM", "while the daemon is being started"],
)
def test_an_interrupted_demo_leaves_nothing(machine: World, tmp_path: Path, how: signal.Signals, scene: str) -> None:
    log = tmp_path / "log"
    demo = started(machine, log)
    end = time.monotonic() + 120
    while scene not in log.read_text(errors="replace"):
        assert demo.poll() is None and time.monotonic() < end, log.read_text(errors="replace")
        time.sleep(0.05)
    if how == signal.SIGINT:
        # What a terminal does: to the whole foreground group.
        os.killpg(demo.pid, signal.SIGINT)
    else:
        demo.send_signal(how)
    status = demo.wait(120)
    said = log.read_text(errors="replace")
    assert status == 130 and "Nothing is left" in said, said
    assert machine.host.interfaces() == {"lo", "ens33", "virbr0"} and machine.host.tables() == set()
