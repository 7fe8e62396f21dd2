"""What a container gets where it says nothing."""

from pathlib import Path

from pierhead.daemon.jobs import specs


def test_what_each_processor_tells_of_its_heat_is_hidden(tmp_path: Path) -> None:
    for name in ("cpu0", "cpu2", "cpu10"):
        (tmp_path / name / "thermal_throttle").mkdir(parents=True)
    for name in ("cpu1", "cpufreq/thermal_throttle", "cpuidle"):
        (tmp_path / name).mkdir(parents=True)
    throttled = tuple(f"{tmp_path}/cpu{number}/thermal_throttle" for number in (0, 2, 10))
    assert specs.masked_paths.__wrapped__(str(tmp_path)) == specs.MASKED + throttled
