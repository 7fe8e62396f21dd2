"""Rules about system calls as a classic BPF program (linux/seccomp.h, linux/filter.h).

The program asks for the architecture, then finds the system call by a binary search over ranges of numbers with the
same answer (some ten comparisons instead of several hundred), then looks at the arguments where a rule wants that.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from pierhead.libcontainer.syscalls import X32_BIT

_AUDIT_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "x32": 0xC000003E, "x86": 0x40000003, "aarch64": 0xC00000B7}

_KILL_THREAD: Final = 0

# Offsets in struct seccomp_data, little-endian.
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_ARGUMENTS: Final = 16

_LOAD: Final = 0x20  # A = 32-bit word at k
_AND: Final = 0x54
_JUMP: Final = 0x05
_IF_EQUAL: Final = 0x15
_IF_GREATER: Final = 0x25
_IF_GREATER_EQUAL: Final = 0x35
_RETURN: Final = 0x06


class Operator(Enum):
    """How an argument is compared (unsigned); MASKED_EQ: (argument & value) == second."""

    NE = auto()
    LT = auto()
    LE = auto()
    EQ = auto()
    GE = auto()
    GT = auto()
    MASKED_EQ = auto()


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of argument ``index`` (0 to 5); low_half: of its low 32 bits alone, as the kernel uses it."""

    index: int
    operator: Operator
    value: int
    second: int = 0
    low_half: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """If all conditions hold, the answer is ``action`` (a SECCOMP_RET_ value). The first rule that holds decides."""

    conditions: tuple[Condition, ...]
    action: int


@dataclass(frozen=True, slots=True)
class Section:
    """Everything about one architecture.

    rules: by system call number.  default: the answer where none holds.  Numbers above ``newest`` get ``unknown``.
    """

    arch: str
    rules: Mapping[int, tuple[Rule, ...]]
    default: int
    newest: int
    unknown: int


@dataclass(frozen=True, slots=True)
class _Instruction:
    """struct sock_filter: jumps are relative to the next instruction."""

    code: int
    k: int
    true: int = 0
    false: int = 0

    def packed(self) -> bytes:
        return struct.pack("=HBBI", self.code, self.true, self.false, self.k & 0xFFFFFFFF)


_Code = list[_Instruction]


def assemble(sections: tuple[Section, ...]) -> bytes:
    """The program for all sections. A call of another architecture kills the thread (libseccomp's default)."""
    by_audit: dict[int, dict[str, Section]] = {}
    for section in sections:
        by_audit.setdefault(_AUDIT_ARCHITECTURES[section.arch], {})[section.arch] = section
    code: _Code = []
    for audit, same in reversed(by_audit.items()):
        body = [_Instruction(_LOAD, _NUMBER)] + (
            _x86_64(same) if "x86_64" in same else _search(next(iter(same.values())))
        )
        code = _branch(_IF_EQUAL, audit, body, code or [_Instruction(_RETURN, _KILL_THREAD)])
    return b"".join(one.packed() for one in [_Instruction(_LOAD, _ARCHITECTURE), *code])


def _x86_64(same: Mapping[str, Section]) -> _Code:
    """x32 shares the architecture of x86-64 and differs by a bit of the number; -1 (a tracer's skip) is no x32."""
    native = _search(same["x86_64"])
    x32 = _search(same["x32"], X32_BIT) if "x32" in same else [_Instruction(_RETURN, _KILL_THREAD)]
    skipped = [_Instruction(_RETURN, same["x86_64"].unknown)]
    return _branch(_IF_GREATER_EQUAL, X32_BIT, _branch(_IF_EQUAL, 0xFFFFFFFF, skipped, x32), native)


def _search(section: Section, bit: int = 0) -> _Code:
    """With the number in A: find its answer."""
    leaves: list[tuple[int, _Code]] = [(0, [_Instruction(_RETURN, section.default)])]

    def put(number: int, leaf: _Code) -> None:
        if leaf != leaves[-1][1]:
            leaves.append((number, leaf))

    at = bit
    for number in sorted(section.rules):
        if bit + number > at:
            put(at, [_Instruction(_RETURN, section.default)])
        put(bit + number, _answer(section.rules[number], section.default))
        at = bit + number + 1
    if section.newest >= 0:
        if bit + section.newest + 1 > at:
            put(at, [_Instruction(_RETURN, section.default)])
        put(bit + section.newest + 1, [_Instruction(_RETURN, section.unknown)])
    return _tree(leaves)


def _tree(leaves: list[tuple[int, _Code]]) -> _Code:
    """leaves: (first number, code), ascending; each is good up to the next one's first number."""
    if len(leaves) == 1:
        return leaves[0][1]
    middle = len(leaves) // 2
    return _branch(_IF_GREATER_EQUAL, leaves[middle][0], _tree(leaves[middle:]), _tree(leaves[:middle]))


def _branch(code: int, k: int, then: _Code, otherwise: _Code) -> _Code:
    """Both ways end in a return. A conditional jump spans 255 instructions, an unconditional one any number."""
    if len(then) <= 255:
        return [_Instruction(code, k, 0, len(then)), *then, *otherwise]
    if len(otherwise) <= 255:
        return [_Instruction(code, k, len(otherwise), 0), *otherwise, *then]
    return [_Instruction(code, k, 0, 1), _Instruction(_JUMP, len(otherwise)), *otherwise, *then]


def _answer(rules: tuple[Rule, ...], default: int) -> _Code:
    """Rule after rule, each falling through to the next if one of its conditions does not hold."""
    code: _Code = []
    for rule in rules:
        body: _Code = [_Instruction(_RETURN, rule.action)]
        for condition in reversed(rule.conditions):
            body = _condition(condition, len(body)) + body
        code += body
        if not rule.conditions:
            return code
    return [*code, _Instruction(_RETURN, default)]


def _condition(wanted: Condition, size: int) -> _Code:
    """Fall through if it holds; else jump over the ``size`` instructions that follow."""
    low = _ARGUMENTS + 8 * wanted.index
    value, second = wanted.value & 0xFFFFFFFFFFFFFFFF, wanted.second & 0xFFFFFFFFFFFFFFFF
    if wanted.low_half:
        value, second = value & 0xFFFFFFFF, second & 0xFFFFFFFF
    if wanted.operator is Operator.MASKED_EQ:
        return _masked(low, value, second, size, wanted.low_half)
    return _compared(low, wanted.operator, value, size, wanted.low_half)


def _masked(low: int, mask: int, value: int, size: int, low_half: bool) -> _Code:
    code = [
        _Instruction(_LOAD, low),
        _Instruction(_AND, mask & 0xFFFFFFFF),
        _Instruction(_IF_EQUAL, value & 0xFFFFFFFF, 0, size),
    ]
    if low_half:
        return code
    high = [
        _Instruction(_LOAD, low + 4),
        _Instruction(_AND, mask >> 32),
        _Instruction(_IF_EQUAL, value >> 32, 0, size + len(code)),
    ]
    return high + code


def _compared(low: int, operator: Operator, value: int, size: int, low_half: bool) -> _Code:
    code, negated = {
        Operator.EQ: (_IF_EQUAL, False),
        Operator.NE: (_IF_EQUAL, True),
        Operator.GT: (_IF_GREATER, False),
        Operator.LE: (_IF_GREATER, True),
        Operator.GE: (_IF_GREATER_EQUAL, False),
        Operator.LT: (_IF_GREATER_EQUAL, True),
    }[operator]
    true, false = (size, 0) if negated else (0, size)
    last = [_Instruction(_LOAD, low), _Instruction(code, value & 0xFFFFFFFF, true, false)]
    if low_half:
        return last
    # The high halves decide unless they are equal.
    high = [_Instruction(_LOAD, low + 4)]
    over, into = size + len(last), len(last)  # from behind the high half's test: past the body, and into the body
    if operator in (Operator.EQ, Operator.NE):
        differs = into if operator is Operator.NE else over
        return [*high, _Instruction(_IF_EQUAL, value >> 32, 0, differs), *last]
    above, below = (into, over) if operator in (Operator.GT, Operator.GE) else (over, into)
    return [
        *high,
        _Instruction(_IF_GREATER, value >> 32, above + 1, 0),
        _Instruction(_IF_EQUAL, value >> 32, 0, below),
        *last,
    ]
