"""Scopes of systemd: where they are, what they are called, what systemd is told of their limits."""

import struct

import pytest

from pierhead.libcontainer import cgroups, scopes
from pierhead.libcontainer.spec import Resources

ID = "0123456789abcdef" * 4
UNIFIED = cgroups.Layout({}, "/sys/fs/cgroup", ("cpu", "memory", "pids", "io"))
HYBRID = cgroups.Layout(
    {name: f"/cg/{name}" for name in ("cpu", "memory", "blkio", "pids", "name=systemd")}, "/cg/unified"
)


@pytest.mark.parametrize(
    ("slice", "parent"),
    [
        ("system.slice", "/system.slice"),
        ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
        ("-.slice", ""),
    ],
)
def test_dashes_of_a_slice_are_its_levels(slice: str, parent: str) -> None:
    place = scopes.path(slice, ID)
    assert place == f"{parent}/pierhead-{ID}.scope"
    assert scopes.slice_of(place) == slice


def test_other_cgroups_are_no_scopes_and_odd_names_no_slices() -> None:
    assert scopes.slice_of(f"/pierhead/abc/{ID}") == ""
    assert [name for name in ("", ".slice", "a", "a.scope", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice")
            if scopes.valid_slice(name)] == []  # fmt: skip
    assert scopes.valid_slice("a-b.slice") and scopes.valid_slice("-.slice")


def test_limits_have_the_names_of_the_cgroup_version() -> None:
    wanted = Resources(memory=64 << 20, memory_swap=96 << 20, cpu_period=100_000, cpu_quota=12_345, pids=9,
                       cpu_shares=1024, blkio_weight=500)  # fmt: skip
    two = {name: value for name, _, value in scopes.limits(UNIFIED, wanted)}
    assert two == {
        "TasksMax": 9, "MemoryMax": 64 << 20, "MemorySwapMax": 32 << 20, "CPUWeight": 39, "IOWeight": 4950,
        "CPUQuotaPerSecUSec": 130_000, "CPUQuotaPeriodUSec": 100_000,
    }  # fmt: skip
    one = {name: value for name, _, value in scopes.limits(HYBRID, wanted)}
    assert (one["MemoryLimit"], one["CPUShares"], one["BlockIOWeight"]) == (64 << 20, 1024, 500)
    assert scopes.limits(UNIFIED, Resources()) == [("TasksMax", "t", scopes.INFINITY)], "else systemd has a default"


def test_the_process_that_asks_is_put_into_the_message() -> None:
    prepared = scopes.start_message(UNIFIED, "system.slice", ID, Resources(memory=1 << 20))
    at = struct.unpack_from("=I", prepared)[0]
    message = prepared[4:]
    assert message[:4] == b"l\x01\x00\x01" and len(message) % 4 == 0
    assert struct.unpack_from("<II", message, at - 4) == (4, 0), "one number of four bytes, yet to be filled in"
    assert b"StartTransientUnit" in message and f"pierhead-{ID}.scope".encode() in message


def test_on_v1_the_slice_is_made_where_systemd_does_not_make_it() -> None:
    made = scopes.planned(HYBRID, cgroups.plan(HYBRID, scopes.path("a-b.slice", ID), Resources()), "a-b.slice", ID,
                          Resources(), "/socket")  # fmt: skip
    assert made.steps[0][:2] == ("scope", "/socket")
    assert ("mkdir", "/cg/blkio/a.slice/a-b.slice", "") in made.steps
    assert made.leave and all(file.endswith("/cgroup.procs") for file in made.leave)
