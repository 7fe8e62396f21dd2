"""The device filter of cgroup v2: the same devices are allowed and refused as by v1's controller."""

import struct

import pytest

from pierhead.errors import InvalidParameter
from pierhead.libcontainer import cgroups, devicefilter
from pierhead.libcontainer.devicefilter import ALLOW_ALL, DEFAULT, DENY_ALL, Exceptions, line
from pierhead.libcontainer.spec import DeviceRule


def allowed(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """An interpreter of the few eBPF instructions that the filter is made of."""
    wanted = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
    context = struct.pack("=III", {"b": 1, "c": 2}[kind] | wanted << 16, major, minor)
    code = list(struct.iter_unpack("=BBhi", program))
    registers = [0] * 11
    at = 0
    while True:
        what, pair, offset, immediate = code[at]
        target, source = pair & 15, pair >> 4
        at += 1
        match what:
            case 0x61:
                registers[target] = struct.unpack_from("=I", context, offset)[0]
            case 0xBC:
                registers[target] = registers[source]
            case 0xB4:
                registers[target] = immediate
            case 0x54:
                registers[target] &= immediate
            case 0x74:
                registers[target] >>= immediate
            case 0x55:
                at += offset if registers[target] != immediate else 0
            case 0x15:
                at += offset if registers[target] == immediate else 0
            case 0x95:
                return bool(registers[0])
            case _:
                raise AssertionError(hex(what))


@pytest.mark.parametrize(
    ("kind", "major", "minor", "access", "expected"),
    [
        ("c", 1, 3, "rw", True),
        ("c", 1, 3, "r", True),
        ("c", 1, 1, "r", False),
        ("c", 1, 11, "r", False),
        ("b", 8, 0, "r", False),
        ("b", 8, 0, "m", True),
        ("b", 8, 0, "mr", False),
        ("c", 136, 77, "rw", True),
        ("c", 5, 2, "rw", True),
        ("c", 10, 200, "rw", True),
        ("c", 10, 229, "r", False),
        ("b", 1, 3, "r", False),
    ],
)
def test_an_ordinary_container_gets_dockers_devices(
    kind: str, major: int, minor: int, access: str, expected: bool
) -> None:
    assert allowed(devicefilter.compile(DEFAULT), kind, major, minor, access) is expected


def test_a_device_that_is_handed_in_can_be_used() -> None:
    program = devicefilter.compile((*DEFAULT, DeviceRule(True, "b", 254, 0, "r")))
    assert allowed(program, "b", 254, 0, "r")
    assert not allowed(program, "b", 254, 0, "w")
    assert not allowed(program, "b", 254, 1, "r")


def test_two_lines_for_a_device_add_up() -> None:
    program = devicefilter.compile((DENY_ALL, DeviceRule(True, "c", 7, 7, "r"), DeviceRule(True, "c", 7, 7, "w")))
    assert allowed(program, "c", 7, 7, "rw")
    program = devicefilter.compile((DENY_ALL, DeviceRule(True, "c", 7, 7, "rw"), DeviceRule(False, "c", 7, 7, "w")))
    assert allowed(program, "c", 7, 7, "r")
    assert not allowed(program, "c", 7, 7, "rw")


def test_privileged_means_every_device_except_what_is_denied_afterwards() -> None:
    program = devicefilter.compile(devicefilter.PRIVILEGED)
    assert allowed(program, "b", 8, 0, "rwm")
    program = devicefilter.compile((ALLOW_ALL, DeviceRule(False, "b", 8, None, "w")))
    assert allowed(program, "b", 8, 0, "r")
    assert not allowed(program, "b", 8, 5, "rw")
    assert allowed(program, "b", 9, 0, "rw")


def test_without_rules_nothing_is_refused_as_in_a_fresh_v1_cgroup() -> None:
    assert allowed(devicefilter.compile(()), "b", 8, 0, "rwm")
    assert Exceptions.of(()) == Exceptions(True, ())


def test_a_line_is_written_as_the_kernel_reads_it() -> None:
    assert line(DENY_ALL) == "a"
    assert line(DeviceRule(True, "c", 136, None, "rwm")) == "c 136:* rwm"


def test_a_rule_of_the_command_line_is_understood_and_a_wrong_one_refused_in_dockers_words() -> None:
    assert cgroups.parse_device_rule("c 42:* rmw") == DeviceRule(True, "c", 42, None, "rmw")
    for text in ("c 42:* x", "d 1:1 r", "c 42 r", "c 1:1 rwmr", " c 1:1 r", "c 1:1 r\n", ""):
        with pytest.raises(InvalidParameter, match="invalid device cgroup rule format: '"):
            cgroups.parse_device_rule(text)
