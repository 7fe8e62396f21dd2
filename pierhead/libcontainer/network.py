"""A network namespace from inside: rtnetlink messages, an nfnetlink batch, sysctls, the resolver's sockets.

Messages come prepared as bytes from the network drivers; here they are sent and their answers read.  The kernel
handles a netlink message within the sender's ``sendmsg``, so every answer is in the queue when that returns.

The zygote imports this.
"""

from __future__ import annotations

import _socket as socket
import os
import struct
import time

from pierhead.linux import const
from pierhead.linux.calls import failure
from pierhead.linux.mountapi import fsmount, fsopen
from pierhead.linux.openat import open_beneath

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_ROUTE_NAMES = {16: "RTM_NEWLINK", 17: "RTM_DELLINK", 19: "RTM_SETLINK", 20: "RTM_NEWADDR", 21: "RTM_DELADDR"}
_ROUTE_NAMES |= {24: "RTM_NEWROUTE", 25: "RTM_DELROUTE", 28: "RTM_NEWNEIGH", 32: "RTM_NEWRULE"}
_CAPPED = 0x100  # NLM_F_CAPPED: the answer holds our header alone
_TLVS = 0x200  # NLM_F_ACK_TLVS: attributes follow, one of them may be the kernel's reason
_ATTR_MSG = 1

_NEWLINK, _DELLINK, _SETLINK = 16, 17, 19
_IFNAME, _NET_NS_FD, _NEW_IFINDEX = 3, 28, 49  # IFLA_…

ATTEMPTS, PAUSE = 100, 0.02
"""The kernel takes a network namespace apart in some ten ms after its last process, longer on a busy machine."""


def route_socket(protocol: int = const.NETLINK_ROUTE) -> socket.socket:
    """A netlink socket of the current network namespace whose answers are short and give reasons."""
    netlink = socket.socket(16, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)  # AF_NETLINK
    try:
        netlink.setsockopt(const.SOL_NETLINK, const.NETLINK_CAP_ACK, 1)
        netlink.setsockopt(const.SOL_NETLINK, const.NETLINK_EXT_ACK, 1)
    except OSError:
        netlink.close()
        raise
    return netlink


def send_route(netlink: socket.socket, messages: tuple[bytes, ...], busy: tuple[int, ...] = ()) -> None:
    """Send rtnetlink messages one after the other; raises OSError at the first that the kernel refuses.

    busy: errors after which a message is sent again, up to ATTEMPTS times (``NetworkSetup.busy``).
    The error's path is the interface's name where the message has one, its call the message's name and, for a new
    link, its kind ("RTM_NEWLINK macvlan").
    """
    for message in messages:
        for attempt in range(ATTEMPTS):
            try:
                _send(netlink, message)
                break
            except OSError as error:
                if error.errno == 17 and _wants_number_elsewhere(message):
                    make_and_move(netlink, message)
                    break
                if error.errno not in busy or attempt + 1 == ATTEMPTS:
                    raise
            time.sleep(PAUSE)


def _send(netlink: socket.socket, message: bytes, about: bytes = b"") -> None:
    """about: the message that an error speaks of, if it is another."""
    buffer = bytearray(message)
    flags = struct.unpack_from("=H", buffer, 6)[0]
    struct.pack_into("=H", buffer, 6, flags | const.NLM_F_ACK)
    netlink.send(buffer)
    _answers(netlink, about or message)


def _wants_number_elsewhere(message: bytes) -> bool:
    """Whether it makes a link with a given ifindex in another namespace."""
    kind, index = struct.unpack_from("=H", message, 4)[0], struct.unpack_from("=i", message, 20)[0]
    return kind == _NEWLINK and index > 0 and _NET_NS_FD in _attributes(message[32:])


def make_and_move(netlink: socket.socket, message: bytes) -> None:
    """Do what a message asks that makes a link with a given ifindex in another namespace, in two steps.

    Before Linux 6.15 the kernel looks for that ifindex among the sender's links, not among those of the namespace that
    the link is for, and refuses (EEXIST) if the host has such a number.  Hence the link is made here under a passing
    name and whatever number, and moved: slower, for the kernel waits for an RCU grace period.  Raises OSError; then
    nothing is left.
    """
    index, attributes = struct.unpack_from("=i", message, 20)[0], _attributes(message[32:])
    name = f"pier-{os.getpid()}"
    here = {**attributes, _IFNAME: name.encode() + b"\0"}
    namespace = here.pop(_NET_NS_FD)
    _send(netlink, _link_message(message, 0, here), message)
    made = socket.if_nametoindex(name)
    moved = {_NET_NS_FD: namespace, _NEW_IFINDEX: struct.pack("=i", index), _IFNAME: attributes[_IFNAME]}
    try:
        _send(netlink, _link_message(_header(_SETLINK), made, moved), message)
    except OSError:
        _send(netlink, _link_message(_header(_DELLINK), made, {}))
        raise


def _header(kind: int) -> bytes:
    """nlmsghdr and ifinfomsg of a request; length and index come later."""
    return _HEADER.pack(0, kind, 1, 0, 0) + bytes(16)  # NLM_F_REQUEST


def _link_message(like: bytes, index: int, attributes: dict[int, bytes]) -> bytes:
    """A message with the header of another, about the link of this number, with these attributes."""
    made = bytearray(like[:32])
    struct.pack_into("=i", made, 20, index)
    for kind, value in attributes.items():
        made += struct.pack("=HH", len(value) + 4, kind) + value + b"\0" * (-len(value) % 4)
    struct.pack_into("=I", made, 0, len(made))
    return bytes(made)


def send_batch(batch: bytes) -> None:
    """Send one nfnetlink batch: all of it is done or nothing (NFNL_MSG_BATCH_BEGIN … END)."""
    netlink = route_socket(const.NETLINK_NETFILTER)
    try:
        netlink.send(batch)
        _answers(netlink)
    finally:
        netlink.close()


def _answers(netlink: socket.socket, message: bytes = b"") -> None:
    """Read what is in the queue; raise the first error. message: the rtnetlink message that is answered."""
    error = None
    while True:
        try:
            data = netlink.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            break
        at = 0
        while at + 20 <= len(data):
            length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
            if kind == const.NLMSG_ERROR and error is None:
                code = -struct.unpack_from("=i", data, at + 16)[0]
                if code:
                    error = failure(*(_subject(message) if message else ("nftables", "")), code)
                    reason = _reason(data[at : at + length], flags)
                    if reason:
                        error.strerror = f"{error.strerror} ({reason})"
            at += max((length + 3) & ~3, 16)
    if error is not None:
        raise error


def _reason(answer: bytes, flags: int) -> str:
    """The kernel's own words in an error answer, or an empty string."""
    if not flags & _TLVS:
        return ""
    at = 36 if flags & _CAPPED else 20 + struct.unpack_from("=I", answer, 20)[0]
    return _text(_attributes(answer[at:]).get(_ATTR_MSG, b""))


def _subject(message: bytes) -> tuple[str, str]:
    """What a message does, and to which interface if it is about a link: for its error."""
    kind = struct.unpack_from("=H", message, 4)[0]
    call = _ROUTE_NAMES.get(kind, "rtnetlink")
    if kind not in (16, 17, 19):
        return call, ""
    attributes = _attributes(message[32:])
    name = attributes.get(3, b"")  # IFLA_IFNAME
    made = _attributes(attributes.get(18, b"")).get(1, b"") if kind == 16 else b""  # IFLA_LINKINFO, IFLA_INFO_KIND
    return " ".join(filter(None, (call, _text(made)))), _text(name)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")


def open_procfs() -> int:
    """A procfs of the current PID namespace that is mounted nowhere: no mount of the container's can lie over it."""
    return fsmount(fsopen("proc"))


def write_sysctls(procfs: int, values: tuple[tuple[str, str], ...]) -> None:
    """Write (path below /proc/sys, value) pairs through a detached procfs. A missing one is an error."""
    for path, value in values:
        call = "open"
        try:
            descriptor = open_beneath(procfs, f"sys/{path}", os.O_WRONLY)
            call = "write"
            try:
                os.write(descriptor, value.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise failure(call, f"/proc/sys/{path}", error.errno or 5) from None


RESOLVER_QUEUE = 1 << 20
"""Bytes of questions that wait while no daemon reads them: some hundred with the kernel's 208 KiB, a thousand so."""


def resolver_sockets(port: int) -> tuple[int, int]:
    """UDP and listening TCP sockets on 127.0.0.11:port of the current namespace, as descriptors (udp, tcp)."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        try:
            udp.setsockopt(socket.SOL_SOCKET, const.SO_RCVBUFFORCE, RESOLVER_QUEUE)
        except PermissionError:
            pass  # in a user namespace of a container: as many as the kernel's default holds
        udp.bind(("127.0.0.11", port))
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind(("127.0.0.11", port))
        tcp.listen(128)
    except OSError as error:
        udp.close()
        tcp.close()
        raise failure("bind", f"127.0.0.11:{port}", error.errno or 5) from None
    return udp.detach(), tcp.detach()


def open_sockets(kinds: tuple[tuple[int, int, int], ...]) -> tuple[int, ...]:
    """A socket of the current namespace for each (family, type, protocol), as descriptors."""
    sockets: list[socket.socket] = []
    for family, kind, protocol in kinds:
        try:
            sockets.append(socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol))
        except OSError as error:
            for opened in sockets:
                opened.close()
            raise failure("socket", f"{family}/{kind}/{protocol}", error.errno or 5) from None
    return tuple(one.detach() for one in sockets)
