"""Rules of nftables made by hand, as bytes that are only sent: where libnftables is not at hand, or too slow.

Sources: linux/netfilter/nf_tables.h, linux/netfilter.h.
"""

import socket
import struct
from ipaddress import IPv4Address

from pierhead.linux.netlink import NLM_F_CREATE, attribute, nested, text
from pierhead.linux.nft import (
    NFNL_SUBSYS_NFTABLES,
    NFPROTO_INET,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    NFT_MSG_DELTABLE,
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE,
    NFT_MSG_NEWTABLE,
    NFTA_LIST_ELEM,
    NFTA_TABLE_NAME,
    batch,
    data_value,
    field,
    nfnetlink,
)

NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_TYPE = 1, 3, 4, 7
NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY = 1, 2
NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS = 1, 2, 4
NFTA_EXPR_NAME, NFTA_EXPR_DATA = 1, 2
NFTA_PAYLOAD_DREG, NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_OFFSET, NFTA_PAYLOAD_LEN = 1, 2, 3, 4
NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER = 1, 2
NFTA_CMP_SREG, NFTA_CMP_OP, NFTA_CMP_DATA = 1, 2, 3
NFTA_META_DREG, NFTA_META_KEY, NFT_META_L4PROTO = 1, 2, 16
NFTA_IMMEDIATE_DREG, NFTA_IMMEDIATE_DATA = 1, 2
NFTA_CT_DREG, NFTA_CT_KEY, NFT_CT_STATE = 1, 2, 0
NFTA_NAT_TYPE, NFTA_NAT_FAMILY, NFTA_NAT_REG_ADDR_MIN, NFTA_NAT_REG_PROTO_MIN = 1, 2, 3, 5
NFT_NAT_DNAT, NF_INET_LOCAL_OUT, NF_IP_PRI_NAT_DST = 1, 3, -100
NFT_REG32_00 = 8


def _be32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">i", value))


def _expression(name: str, *data: bytes) -> bytes:
    return nested(NFTA_LIST_ELEM, text(NFTA_EXPR_NAME, name), nested(NFTA_EXPR_DATA, *data))


def _equal(data: bytes) -> bytes:
    return _compared(NFT_CMP_EQ, data)


def _compared(operator: int, data: bytes) -> bytes:
    register, how = _be32(NFTA_CMP_SREG, NFT_REG32_00), _be32(NFTA_CMP_OP, operator)
    return _expression("cmp", register, how, data_value(NFTA_CMP_DATA, data))


def _meta(key: int) -> bytes:
    return _expression("meta", _be32(NFTA_META_DREG, NFT_REG32_00), _be32(NFTA_META_KEY, key))


def _payload(base: int, offset: int, length: int) -> bytes:
    return _expression(
        "payload",
        _be32(NFTA_PAYLOAD_DREG, NFT_REG32_00),
        _be32(NFTA_PAYLOAD_BASE, base),
        _be32(NFTA_PAYLOAD_OFFSET, offset),
        _be32(NFTA_PAYLOAD_LEN, length),
    )


def local_redirect(table: str, address: IPv4Address, port: int, to_port: int, *, again: bool = False) -> bytes:
    """A batch: what this namespace sends to ``address:port`` by UDP or TCP goes to ``to_port`` of the same address.

    again: a table of that name may be there, and is replaced.

    DNAT, because nft's own ``redirect`` in the output hook rewrites the address to 127.0.0.1.
    """
    family = NFPROTO_IPV4

    def nftables(kind: int, body: bytes) -> bytes:
        return nfnetlink(NFNL_SUBSYS_NFTABLES << 8 | kind, NLM_F_CREATE, family, 0, body)

    named = text(NFTA_TABLE_NAME, table)
    messages = [nftables(NFT_MSG_NEWTABLE, named), nftables(NFT_MSG_DELTABLE, named)] if again else []
    messages += [
        nftables(NFT_MSG_NEWTABLE, named),
        nftables(
            NFT_MSG_NEWCHAIN,
            text(NFTA_CHAIN_TABLE, table)
            + text(NFTA_CHAIN_NAME, "output")
            + nested(
                NFTA_CHAIN_HOOK,
                _be32(NFTA_HOOK_HOOKNUM, NF_INET_LOCAL_OUT),
                _be32(NFTA_HOOK_PRIORITY, NF_IP_PRI_NAT_DST),
            )
            + text(NFTA_CHAIN_TYPE, "nat"),
        ),
    ]
    for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP):
        expressions = nested(
            NFTA_RULE_EXPRESSIONS,
            _payload(NFT_PAYLOAD_NETWORK_HEADER, 16, 4),
            _equal(address.packed),
            _meta(NFT_META_L4PROTO),
            _equal(bytes([protocol])),
            _payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2),
            _equal(struct.pack(">H", port)),
            _expression(
                "immediate", _be32(NFTA_IMMEDIATE_DREG, NFT_REG32_00), data_value(NFTA_IMMEDIATE_DATA, address.packed)
            ),
            _expression(
                "immediate",
                _be32(NFTA_IMMEDIATE_DREG, NFT_REG32_00 + 1),
                data_value(NFTA_IMMEDIATE_DATA, struct.pack(">H", to_port)),
            ),
            _expression(
                "nat",
                _be32(NFTA_NAT_TYPE, NFT_NAT_DNAT),
                _be32(NFTA_NAT_FAMILY, family),
                _be32(NFTA_NAT_REG_ADDR_MIN, NFT_REG32_00),
                _be32(NFTA_NAT_REG_PROTO_MIN, NFT_REG32_00 + 1),
            ),
        )
        messages.append(
            nftables(NFT_MSG_NEWRULE, text(NFTA_RULE_TABLE, table) + text(NFTA_RULE_CHAIN, "output") + expressions)
        )
    return batch(messages)


NFT_META_IIFNAME, NFT_META_NFPROTO, NFT_CMP_EQ, NFT_CMP_NEQ, NF_DROP = 6, 15, 0, 1, 0
NFTA_DATA_VERDICT, NFTA_VERDICT_CODE, NFT_REG_VERDICT = 2, 1, 0
NF_INET_PRE_ROUTING, NF_IP_PRI_RAW, NF_IP_PRI_NAT = 0, -300, -100


def loopback_guard(table: str) -> list[bytes]:
    """Messages that make, or add to, an inet table of that name what must not be missing for a moment: nobody but the
    host itself reaches its loopback addresses, and tracked connections go on being translated.

    Its chains are those of the whole table, ``raw`` and ``prerouting``.  The second translates nothing new, but without
    any such chain the kernel translates no known connection either, and answers its packets with a reset.
    """
    family = NFPROTO_INET

    def nftables(kind: int, body: bytes) -> bytes:
        return nfnetlink(NFNL_SUBSYS_NFTABLES << 8 | kind, NLM_F_CREATE, family, 0, body)

    def chain(name: str, kind: str, priority: int) -> bytes:
        hook = nested(
            NFTA_CHAIN_HOOK, _be32(NFTA_HOOK_HOOKNUM, NF_INET_PRE_ROUTING), _be32(NFTA_HOOK_PRIORITY, priority)
        )
        names = text(NFTA_CHAIN_TABLE, table) + text(NFTA_CHAIN_NAME, name) + text(NFTA_CHAIN_TYPE, kind)
        return nftables(NFT_MSG_NEWCHAIN, names + hook)

    def drop(protocol: int, offset: int, data: bytes) -> bytes:
        verdict = nested(NFTA_IMMEDIATE_DATA, nested(NFTA_DATA_VERDICT, _be32(NFTA_VERDICT_CODE, NF_DROP)))
        expressions = nested(
            NFTA_RULE_EXPRESSIONS,
            _meta(NFT_META_IIFNAME),
            _compared(NFT_CMP_NEQ, field("lo")),
            _meta(NFT_META_NFPROTO),
            _equal(bytes([protocol])),
            _payload(NFT_PAYLOAD_NETWORK_HEADER, offset, len(data)),
            _equal(data),
            _expression("immediate", _be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT), verdict),
        )
        return nftables(NFT_MSG_NEWRULE, text(NFTA_RULE_TABLE, table) + text(NFTA_RULE_CHAIN, "raw") + expressions)

    # The kernel tracks connections only while some rule asks for what it knows of them.
    state = _expression("ct", _be32(NFTA_CT_DREG, NFT_REG32_00), _be32(NFTA_CT_KEY, NFT_CT_STATE))
    asks = text(NFTA_RULE_TABLE, table) + text(NFTA_RULE_CHAIN, "prerouting") + nested(NFTA_RULE_EXPRESSIONS, state)
    return [
        nftables(NFT_MSG_NEWTABLE, text(NFTA_TABLE_NAME, table)),
        chain("raw", "filter", NF_IP_PRI_RAW),
        chain("prerouting", "nat", NF_IP_PRI_NAT),
        nftables(NFT_MSG_NEWRULE, asks),
        drop(NFPROTO_IPV4, 16, b"\x7f"),
        drop(NFPROTO_IPV6, 24, bytes(15) + b"\1"),
    ]
