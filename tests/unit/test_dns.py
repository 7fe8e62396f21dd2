"""The embedded name server: names are found whatever their case, garbage is dropped, forged answers are ignored."""

import random
import struct
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pierhead.driver.networkdriver import dns as ours
from pierhead.driver.networkdriver.dns import Malformed, Zone

WEB = ip_address("172.18.0.2")
ZONE = Zone(
    {
        "web": (WEB,),
        "web.tomcats": (WEB,),
        "both": (WEB, ip_address("fd00::2")),
        "many": tuple(ip_address(f"10.0.{number // 250}.{number % 250 + 1}") for number in range(600)),
    },
    {WEB.reverse_pointer: "web.tomcats"},
)


def ask(name: str, kind: str = "A", *, tcp: bool = False, **extra: object) -> dns.message.Message | None:
    query = dns.message.make_query(name, kind, **extra)  # type: ignore[arg-type]
    answer = ours.answer(query.to_wire(), ZONE, tcp=tcp)
    if answer is None:
        return None
    parsed = dns.message.from_wire(answer)
    assert query.is_response(parsed)
    return parsed


def addresses(message: dns.message.Message | None) -> list[str]:
    assert message is not None
    return sorted(item.address for rrset in message.answer for item in rrset)


def test_names_are_found_whatever_their_case() -> None:
    for name in ("web", "WEB.", "Web.Tomcats"):
        assert addresses(ask(name)) == ["172.18.0.2"]
    assert addresses(ask("web", use_edns=0)) == ["172.18.0.2"]


def test_answers_live_for_seconds_not_minutes() -> None:
    message = ask("web")
    assert message is not None and message.answer[0].ttl == 5


def test_each_family_gets_its_own_and_an_absent_one_is_no_error() -> None:
    assert addresses(ask("both")) == ["172.18.0.2"]
    assert addresses(ask("both", "AAAA")) == ["fd00::2"]
    empty = ask("web", "AAAA")
    assert empty is not None and empty.rcode() == 0 and not empty.answer
    mail = ask("web", "MX")
    assert mail is not None and mail.rcode() == 0 and not mail.answer


def test_an_address_has_a_name() -> None:
    message = ask(WEB.reverse_pointer, "PTR")
    assert message is not None and str(message.answer[0][0]) == "web.tomcats."
    assert ask("9.9.9.9.in-addr.arpa", "PTR") is None


def test_other_names_are_somebody_elses() -> None:
    assert ask("example.com") is None
    assert ask("web.example.com") is None


def test_many_addresses_fit_a_datagram_and_all_come_by_tcp() -> None:
    query = dns.message.make_query("many", "A").to_wire()
    answer = ours.answer(query, ZONE)
    assert answer is not None and len(answer) <= 512
    assert 20 < len(addresses(ask("many"))) < 600
    assert len(addresses(ask("many", tcp=True))) == 600


def test_equal_names_share_the_load() -> None:
    seen = {str(message.answer[0][0]) for _ in range(12) if (message := ask("many", tcp=True)) is not None}
    assert len(seen) > 3


@given(st.binary(max_size=600))
def test_no_bytes_bring_it_down(data: bytes) -> None:
    try:
        answer = ours.answer(data, ZONE)
    except Malformed:
        return
    assert answer is None or answer[:2] == data[:2]


def test_ten_thousand_damaged_queries_are_dropped_or_answered() -> None:
    chance = random.Random(4)
    query = dns.message.make_query("web.tomcats", "A", use_edns=0).to_wire()
    for _ in range(10000):
        damaged = bytearray(query)
        for _ in range(chance.randrange(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        cut = bytes(damaged[: chance.randrange(len(damaged) + 1)])
        try:
            answer = ours.answer(cut, ZONE)
        except Malformed:
            continue
        if answer is not None and not answer[2] & 0x78:  # dnspython wants more of an UPDATE than its header
            dns.message.from_wire(answer)


@pytest.mark.parametrize(
    "query",
    [
        b"",
        struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 0),
        struct.pack(">HHHHHH", 1, 0x100, 0, 0, 0, 0) + b"\x03web\0\0\1\0\1",
        struct.pack(">HHHHHH", 1, 0x8100, 1, 0, 0, 0) + b"\x03web\0\0\1\0\1",  # a response
        struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",  # a name that points to itself
        struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 0) + b"\x3fweb",  # a label beyond the end
        struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 0) + b"\x01a" * 200 + b"\0\0\1\0\1",  # too long a name
        struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 0) + b"\x03web\0\0\1\0\3",  # class CHAOS
        struct.pack(">HHHHHH", 1, 0x100, 1, 5, 0, 0) + b"\x03web\0\0\1\0\1",  # answers in a query
    ],
)
def test_what_is_no_query_gets_no_answer(query: bytes) -> None:
    with pytest.raises(Malformed):
        ours.answer(query, ZONE)


def test_forged_answers_are_not_taken_for_the_upstreams() -> None:
    query = dns.message.make_query("example.com", "A")
    reply = dns.message.make_response(query)
    wire, sent = reply.to_wire(), query.to_wire()
    assert ours.answers(wire, sent)
    assert not ours.answers(ours.with_id(wire, query.id ^ 1), sent)
    assert not ours.answers(
        dns.message.make_response(dns.message.make_query("example.org", "A", id=query.id)).to_wire(), sent
    )
    assert not ours.answers(
        dns.message.make_response(dns.message.make_query("example.com", "MX", id=query.id)).to_wire(), sent
    )
    assert not ours.answers(sent, sent), "a query is no answer"
    assert not ours.answers(b"", sent)


def test_nobody_to_ask_is_an_error_at_once() -> None:
    query = dns.message.make_query("example.com", "A")
    refused = dns.message.from_wire(ours.refusal(query.to_wire()))
    assert refused.rcode() == 2 and query.is_response(refused)


HOST = ours.parse_resolv_conf("# x\nnameserver 127.0.0.53\nnameserver 192.0.2.53\nsearch lan\noptions edns0 trust-ad\n")


def test_a_user_networks_resolv_conf_points_at_the_embedded_server() -> None:
    text = ours.resolv_conf(HOST, embedded=True)
    assert "\nnameserver 127.0.0.11\nsearch lan\noptions edns0 trust-ad ndots:0\n" in text
    assert "# ExtServers: [host(127.0.0.53) host(192.0.2.53)]\n" in text


def test_the_default_bridges_resolv_conf_leaves_out_what_cannot_be_reached() -> None:
    text = ours.resolv_conf(HOST)
    assert "nameserver 192.0.2.53\nsearch lan\noptions edns0 trust-ad\n" in text
    assert "127.0.0.53" not in text
    alone = ours.resolv_conf(ours.ResolvConf(("127.0.0.53",)))
    assert "nameserver 8.8.8.8\nnameserver 8.8.4.4\n" in alone and "# Used default nameservers." in alone


def test_what_the_user_gives_wins() -> None:
    text = ours.resolv_conf(HOST, nameservers=("1.1.1.1",), search=("a", "b"), options=("ndots:2",), embedded=True)
    assert "nameserver 127.0.0.11\nsearch a b\noptions ndots:2\n" in text
    assert "# ExtServers: [1.1.1.1]\n# Overrides: [nameservers search options]\n# Option ndots from: override" in text
    assert "search" not in ours.resolv_conf(HOST, search=(".",)).partition("# Based")[0]
