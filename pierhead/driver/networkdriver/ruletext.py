"""Rules of iptables as iptables-save writes them, from what is in the kernel; of both variants.

Enough of the language to recognize a rule: what is not known is "…".
"""

from collections.abc import Mapping
from ipaddress import ip_address
from struct import unpack, unpack_from

from pierhead.driver.networkdriver.xtmatches import (
    INVERTED_IN,
    INVERTED_OUT,
    INVERTED_PROTO,
    INVERTED_SOURCE,
    INVERTED_TARGET,
    PROTOCOLS,
)
from pierhead.linux.netlink import attributes
from pierhead.linux.nftdump import Chain, Rule

_STATES = {0x01: "INVALID", 0x08: "NEW", 0x04: "RELATED", 0x02: "ESTABLISHED", 0x100: "UNTRACKED"}
_NUMBERS = {number: name for name, number in PROTOCOLS.items()}
_VERDICTS = {0: "DROP", 1: "ACCEPT", -5: "RETURN"}


def text(chain: Chain, rule: Rule) -> str:
    """One rule, for instance ``-A FORWARD -i eth0 -j DROP``."""
    parts = [f"-A {chain.name}"]
    loaded: tuple[str, Mapping[int, bytes]] = ("", {})
    mask = b""
    for expression in rule.expressions:
        values = expression.attributes
        if expression.name in ("xt4", "xt6"):
            parts.append(header(values[1]))
        elif expression.name == "match":
            parts.append(match(_text(values[1]), int.from_bytes(values.get(2, b""), "big"), values[3]))
        elif expression.name == "target":
            parts.append(f"-j {_text(values[1])}")
        elif expression.name == "immediate":
            parts.append(_jump(values))
        elif expression.name == "reject":
            parts.append("-j REJECT")
        elif expression.name in ("meta", "payload"):
            loaded, mask = (expression.name, values), b""
        elif expression.name == "bitwise":
            mask = dict(attributes(values.get(4, b""))).get(1, b"")
        elif expression.name == "cmp":
            parts.append(_compared(*loaded, mask, values, chain))
        elif expression.name not in ("counter", "log", "limit"):
            parts.append("…")
    return " ".join(part for part in parts if part)


def _text(value: bytes) -> str:
    return value.split(b"\0")[0].decode(errors="replace")


def _jump(values: Mapping[int, bytes]) -> str:
    verdict = dict(attributes(dict(attributes(values.get(2, b""))).get(2, b"")))
    if 1 not in verdict:
        return ""
    (code,) = unpack(">i", verdict[1])
    if code in (-3, -4):
        return f"{'-j' if code == -3 else '-g'} {_text(verdict.get(2, b''))}"
    return f"-j {_VERDICTS.get(code, '…')}"


def _compared(name: str, load: Mapping[int, bytes], mask: bytes, values: Mapping[int, bytes], chain: Chain) -> str:
    """What iptables-nft says by nftables' own expressions: interfaces, protocol, addresses, ports."""
    data = dict(attributes(values[3])).get(1, b"")
    negated = "! " if int.from_bytes(values[2], "big") == 1 else ""
    if name == "meta":
        option = {6: "-i", 7: "-o"}.get(int.from_bytes(load.get(2, b""), "big"))
        if option:
            return f"{negated}{option} {_text(data)}{'' if data.endswith(bytes(1)) else '+'}"
        return f"{negated}-p {_NUMBERS.get(data[0], data[0])}"
    base, offset, length = (int.from_bytes(load.get(kind, b""), "big") for kind in (2, 3, 4))
    if base == 2 and length == 2:
        return f"{negated}{'--sport' if offset == 0 else '--dport'} {int.from_bytes(data, 'big')}"
    sides = {12: "-s", 16: "-d"} if chain.family == 2 else {8: "-s", 24: "-d"}
    if base == 1 and offset in sides:
        full = 4 if chain.family == 2 else 16
        bits = bin(int.from_bytes(mask, "big")).count("1") if mask else 8 * length
        return f"{negated}{sides[offset]} {ip_address(data[:length].ljust(full, bytes(1)))}/{bits}"
    return "…"


def header(data: bytes) -> str:
    """The addresses, interfaces and protocol of a rule, as iptables-save writes them."""
    size = 4 if len(data) < 100 else 16
    protocol, inverted = (
        (unpack_from("=H", data, 80)[0], data[83]) if size == 4 else (unpack_from("=H", data, 128)[0], data[132])
    )
    parts = []
    for option, at, flag in (("-s", 0, INVERTED_SOURCE), ("-d", size, INVERTED_TARGET)):
        address, mask = data[at : at + size], data[at + 2 * size : at + 3 * size]
        if any(mask):
            length = bin(int.from_bytes(mask, "big")).count("1")
            parts.append(f"{'! ' * bool(inverted & flag)}{option} {ip_address(address)}/{length}")
    for option, place, flag in (("-i", 0, INVERTED_IN), ("-o", 1, INVERTED_OUT)):
        at = 4 * size + 16 * place
        name = data[at : at + 16].rstrip(b"\0").decode(errors="replace")
        if name:
            wild = "" if data[at + 32 + len(name)] else "+"
            parts.append(f"{'! ' * bool(inverted & flag)}{option} {name}{wild}")
    if protocol:
        parts.append(f"{'! ' * bool(inverted & INVERTED_PROTO)}-p {_NUMBERS.get(protocol, protocol)}")
    return " ".join(parts)


def match(name: str, revision: int, data: bytes) -> str:
    """A match as iptables-save writes it, as far as rules that stop packets need it; else only its name."""
    if name in ("tcp", "udp"):
        low, high, first, last = unpack_from("=4H", data)
        text = f"-m {name}"
        for option, begin, end in (("--sport", low, high), ("--dport", first, last)):
            if (begin, end) != (0, 65535):
                text += f" {option} {begin}" + (f":{end}" if end != begin else "")
        return text
    if name == "conntrack" and revision > 1 and unpack_from("=H", data, 146)[0] == 1:
        inverted, state = unpack_from("=H", data, 148)[0], unpack_from("=H", data, 150)[0]
        states = [text for bit, text in _STATES.items() if bit & state]
        return f"-m conntrack {'! ' * bool(inverted & 1)}--ctstate {','.join(states)}"
    if name == "comment":
        comment = data.split(b"\0")[0].decode(errors="replace")
        return f'-m comment --comment "{comment}"'
    return f"-m {name} …"
