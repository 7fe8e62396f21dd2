"""nftables as raw nfnetlink messages: single elements, one rule made by hand, the socket.

Elements of sets and maps go as raw messages because that takes microseconds where the ``nft`` program takes tens of
milliseconds.  Whole rulesets are in ``libnftables``, reading them in ``nftdump``.  Sources:
linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h.
"""

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from pierhead.linux.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    attribute,
    attributes,
    error_of,
    nested,
    split,
    text,
)

NETLINK_NETFILTER = 12
NFNL_SUBSYS_NFTABLES = 10
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
NFNLGRP_NFTABLES = 7
NFPROTO_UNSPEC, NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6 = 0, 1, 2, 10

NFT_MSG_NEWTABLE, NFT_MSG_GETTABLE, NFT_MSG_DELTABLE = 0, 1, 2
NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE = 3, 6
NFT_MSG_NEWSETELEM, NFT_MSG_GETSETELEM, NFT_MSG_DELSETELEM = 12, 13, 14
NFT_MSG_GETGEN = 16

NFTA_TABLE_NAME = 1
NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3
NFTA_LIST_ELEM = 1
NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_KEY_END = 1, 2, 10
NFTA_DATA_VALUE = 1
NFTA_GEN_ID = 1


BATCH_BYTES = 100_000
"""Of one transaction: well below the default socket buffer (212 KB, which also counts the kernel's overhead)."""

_HEADER = struct.Struct("=IHHII")
_NFGEN = struct.Struct(">BBH")


def nfnetlink(kind: int, flags: int, family: int, resource: int, body: bytes) -> bytes:
    """A message of any subsystem of netfilter."""
    length = _HEADER.size + _NFGEN.size + len(body)
    return _HEADER.pack(length, kind, flags | NLM_F_REQUEST, 0, 0) + _NFGEN.pack(family, 0, resource) + body


# Elements ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a set or map, as the kernel compares it: concatenated fields, each padded to four bytes.

    key_end: for an interval the key's upper end, field by field.  data: a map's value.
    """

    container: str
    key: bytes
    data: bytes = b""
    key_end: bytes = b""


def field(value: IPv4Address | IPv6Address | int | str) -> bytes:
    """One field of a concatenated key or value: an address, an inet_proto or inet_service number (as two bytes, see
    ``proto``), or an interface name."""
    if isinstance(value, str):
        return value.encode().ljust(16, b"\0")
    if isinstance(value, int):
        return struct.pack(">HH", value, 0)
    return value.packed


def proto(number: int) -> bytes:
    """An inet_proto field."""
    return bytes((number, 0, 0, 0))


def data_value(kind: int, data: bytes) -> bytes:
    """An attribute that holds bytes as a register does."""
    return nested(kind, attribute(NFTA_DATA_VALUE, data))


def _element(element: Element) -> bytes:
    parts = [data_value(NFTA_SET_ELEM_KEY, element.key)]
    if element.key_end:
        parts.append(data_value(NFTA_SET_ELEM_KEY_END, element.key_end))
    if element.data:
        parts.append(data_value(NFTA_SET_ELEM_DATA, element.data))
    return nested(NFTA_LIST_ELEM, *parts)


def _elements(kind: int, flags: int, family: int, table: str, elements: Sequence[Element]) -> list[bytes]:
    """A message for each set or map, up to 1000 elements in one (an attribute's length has 16 bits)."""
    by_container: dict[str, list[bytes]] = {}
    for element in elements:
        by_container.setdefault(element.container, []).append(_element(element))
    return [
        nfnetlink(
            NFNL_SUBSYS_NFTABLES << 8 | kind,
            flags,
            family,
            0,
            text(NFTA_SET_ELEM_LIST_TABLE, table)
            + text(NFTA_SET_ELEM_LIST_SET, container)
            + nested(NFTA_SET_ELEM_LIST_ELEMENTS, *encoded[at : at + 500]),
        )
        for container, encoded in by_container.items()
        for at in range(0, len(encoded), 500)
    ]


def add_elements(family: int, table: str, elements: Sequence[Element]) -> list[bytes]:
    """Messages that add elements. An equal one that is there is no error, one with another value is EEXIST or EBUSY."""
    return _elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE, family, table, elements)


def delete_elements(family: int, table: str, elements: Sequence[Element]) -> list[bytes]:
    """Messages that delete elements by their key. ENOENT for one that is missing."""
    bare = [Element(element.container, element.key, b"", element.key_end) for element in elements]
    return _elements(NFT_MSG_DELSETELEM, 0, family, table, bare)


def batch(messages: Iterable[bytes]) -> bytes:
    """One transaction of them. Only the last message asks for an acknowledgement: one for each of some thousand would
    overflow the socket's buffer. An error is reported whichever message it comes from."""
    prepared = list(messages)
    last = bytearray(prepared[-1])
    struct.pack_into("=H", last, 6, struct.unpack_from("=H", last, 6)[0] | NLM_F_ACK)
    begin = nfnetlink(NFNL_MSG_BATCH_BEGIN, 0, 0, NFNL_SUBSYS_NFTABLES, b"")
    end = nfnetlink(NFNL_MSG_BATCH_END, 0, 0, NFNL_SUBSYS_NFTABLES, b"")
    return begin + b"".join(prepared[:-1]) + bytes(last) + end


# The socket ----------------------------------------------------------------------------------------------------------


class Netfilter:
    """A NETLINK_NETFILTER socket of the network namespace that it is first used in. One operation at a time.

    Keep it open: closing one makes the kernel wait for all that transactions have deleted (RCU, 5 to 15 ms).
    """

    def __init__(self, opened: socket.socket | None = None) -> None:
        """The socket is opened at the first use; or it is given, opened in another namespace, and taken over."""
        self._opened = opened
        self._lock = threading.RLock()

    @property
    def _socket(self) -> socket.socket:
        if self._opened is None:
            self._opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
            self._opened.bind((0, 0))
        return self._opened

    def close(self) -> None:
        """Close the socket; the next use opens one again."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _answer(self, call: str) -> None:
        while True:
            for kind, body in split(self._socket.recv(65536)):
                if kind == NLMSG_ERROR:
                    number = error_of(body)
                    if number:
                        raise OSError(number, os.strerror(number), call)
                    return

    def commit(self, messages: Sequence[bytes]) -> None:
        """Execute them as transactions of a socket buffer's size each. Raises OSError; the failing transaction has
        changed nothing."""
        with self._lock:
            part: list[bytes] = []
            size = 0
            for message in messages:
                if part and size + len(message) > BATCH_BYTES:
                    self._commit(part)
                    part, size = [], 0
                part.append(message)
                size += len(message)
            if part:
                self._commit(part)

    def _commit(self, part: Sequence[bytes]) -> None:
        self._socket.send(batch(part))
        try:
            self._answer("nf_tables batch")
        except OSError:
            self._drain()
            raise

    def _drain(self) -> None:
        """An aborted batch may be answered more than once; all answers are in the queue when send returns."""
        try:
            while True:
                self._socket.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return

    def has_table(self, family: int, table: str) -> bool:
        """Whether a table exists."""
        kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE
        with self._lock:
            self._socket.send(nfnetlink(kind, NLM_F_ACK, family, 0, text(NFTA_TABLE_NAME, table)))
            try:
                self._answer("nf_tables table")
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return False
                raise
            return True

    def generation(self) -> int:
        """The ruleset's generation: changes with every transaction of anybody."""
        with self._lock:
            self._socket.send(nfnetlink(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, 0, NFPROTO_UNSPEC, 0, b""))
            for kind, body in split(self._socket.recv(65536)):
                if kind == NLMSG_ERROR:
                    number = error_of(body)
                    raise OSError(number, os.strerror(number), "nf_tables generation")
                for attribute_kind, value in attributes(body[_NFGEN.size :]):
                    if attribute_kind == NFTA_GEN_ID:
                        return int(struct.unpack(">I", value)[0])
            raise OSError(errno.EPROTO, "no generation in the kernel's answer", "nf_tables generation")

    def request(self, message: bytes, call: str) -> None:
        """Execute one message that asks for an acknowledgement. Raises OSError with the call's name."""
        with self._lock:
            self._socket.send(message)
            self._answer(call)

    def dump(self, message: bytes, call: str) -> list[bytes]:
        """The attributes of everything that a dump request of any subsystem of netfilter gives. Raises OSError."""
        return [record for _, record in self.records(message, call)]

    def records(self, message: bytes, call: str) -> list[tuple[int, bytes]]:
        """The same with the family of each."""
        found: list[tuple[int, bytes]] = []
        with self._lock:
            self._socket.send(message)
            while True:
                for kind, body in split(self._socket.recv(65536)):
                    if kind in (NLMSG_ERROR, NLMSG_DONE):
                        number = error_of(body)
                        if number:
                            raise OSError(number, os.strerror(number), call)
                        return found
                    found.append((body[0], bytes(body[_NFGEN.size :])))
