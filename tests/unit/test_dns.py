"""The embedded name server: names are found whatever their case, garbage is dropped, forged answers are ignored.

dnspython writes the questions and reads the answers.
"""

import random
import struct
from ipaddress import ip_address, ip_network

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.driver.networkdriver import dns as ours
from pierhead.driver.networkdriver.dns import Address, Malformed
from pierhead.driver.networkdriver.zone import Member, View, Zone, answer

WEB = ip_address("172.18.0.2")
MANY = tuple(ip_address(f"10.0.{number // 250}.{number % 250 + 1}") for number in range(600))


def zone(network: str, *members: tuple[tuple[str, ...], tuple[Address, ...]], subnet: str = "172.18.0.0/16") -> Zone:
    made = Zone(network, (ip_network(subnet),))
    made.update({str(number): Member(names, addresses) for number, (names, addresses) in enumerate(members)})
    return made


VIEW = View(
    (
        zone(
            "tomcats",
            (("web", "Shop", "a.b"), (WEB,)),
            (("both",), (WEB, ip_address("fd00::2"))),
            *((("m1", "many"), (address,)) for address in MANY),
        ),
    )
)


def ask(name: str, kind: str = "A", view: View = VIEW, *, tcp: bool = False, **extra: object) -> dns.message.Message:
    found = maybe(name, kind, view, tcp=tcp, **extra)
    assert found is not None, "it would be asked of others"
    return found


def maybe(
    name: str, kind: str = "A", view: View = VIEW, *, tcp: bool = False, **extra: object
) -> dns.message.Message | None:
    query = dns.message.make_query(name, kind, **extra)  # type: ignore[arg-type]
    found = answer(query.to_wire(), view, tcp=tcp)
    if found is None:
        return None
    parsed = dns.message.from_wire(found)
    assert query.is_response(parsed) and parsed.flags & dns.flags.RA
    assert bool(parsed.flags & dns.flags.RD) == bool(query.flags & dns.flags.RD)
    assert not parsed.flags & dns.flags.AD, "nothing here has been validated"
    assert (parsed.edns >= 0) == (query.edns >= 0)
    return parsed


def addresses(message: dns.message.Message) -> list[str]:
    return sorted(item.address for rrset in message.answer for item in rrset)


def in_order(message: dns.message.Message) -> list[str]:
    return [item.address for rrset in message.answer for item in rrset]


# Names ---------------------------------------------------------------------------------------------------------------


def test_names_are_found_whatever_their_case_and_the_question_comes_back_as_it_was_sent() -> None:
    for name in ("web", "WEB.", "Web.Tomcats", "sHOP", "a.b", "A.B.tomcats"):
        assert addresses(ask(name)) == ["172.18.0.2"]
        assert addresses(ask(name, use_edns=0)) == ["172.18.0.2"]
    wire = dns.message.make_query("wEb.toMCats", "A").to_wire()
    found = answer(wire, VIEW)
    assert found is not None and found[12 : len(wire)] == wire[12:], "0x20: the client compares the very bytes"


def test_answers_live_for_seconds_not_minutes() -> None:
    assert ask("web").answer[0].ttl == 5
    assert ask(WEB.reverse_pointer, "PTR").answer[0].ttl == 5


def test_each_family_gets_its_own_and_an_absent_one_is_no_error() -> None:
    assert addresses(ask("both")) == ["172.18.0.2"]
    assert addresses(ask("both", "AAAA")) == ["fd00::2"]
    assert addresses(ask("both", "ANY")) == ["172.18.0.2", "fd00::2"]
    for kind in ("AAAA", "MX", "TXT", "SRV", "HTTPS", "SOA", "TYPE65333"):
        empty = ask("web", kind)
        assert empty.rcode() == 0 and not empty.answer, kind
        assert empty.authority[0].rdtype == dns.rdatatype.SOA and empty.authority[0][0].minimum == 5, kind
        assert not ask("web", kind, use_edns=0).answer, kind


def test_other_names_are_somebody_elses() -> None:
    for name in ("example.com", "web.example.com", "we", "webb", "b", "tomcats", "localhost", "."):
        assert maybe(name) is None, name
        assert maybe(name, "TXT", use_edns=0) is None, name


def test_a_service_of_a_known_name_is_not_asked_of_others() -> None:
    empty = ask("_http._tcp.web", "SRV")
    assert empty.rcode() == 0 and not empty.answer and empty.authority
    assert maybe("_http._tcp.example.com", "SRV") is None
    assert maybe("_http.web", "SRV") is None
    assert maybe("_http._tcp.web", "A") is None


def test_an_address_has_a_name_and_one_of_ours_that_has_none_is_not_asked_of_others() -> None:
    assert str(ask(WEB.reverse_pointer, "PTR").answer[0][0]) in ("web.tomcats.", "both.tomcats.")
    assert str(ask(ip_address("fd00::2").reverse_pointer.upper(), "PTR").answer[0][0]) == "both.tomcats."
    unknown = ask(ip_address("172.18.9.9").reverse_pointer, "PTR")
    assert unknown.rcode() == 3 and unknown.authority[0][0].minimum == 1
    for name in (
        "9.9.9.9.in-addr.arpa",
        "18.172.in-addr.arpa",
        "x.0.18.172.in-addr.arpa",
        "1.f.ip6.arpa",
        "in-addr.arpa",
    ):
        assert maybe(name, "PTR") is None, name
    assert ask("web", "PTR").rcode() == 0 and not ask("web", "PTR").answer


def test_a_name_that_two_networks_have_is_that_of_the_first() -> None:
    front = zone("front", (("db",), (ip_address("10.1.0.2"),)))
    back = zone("back", (("db", "only"), (ip_address("10.2.0.2"),)))
    view = View((front, back))
    assert addresses(ask("db", view=view)) == ["10.1.0.2"]
    assert addresses(ask("db.back", view=view)) == ["10.2.0.2"]
    assert addresses(ask("only", view=view)) == ["10.2.0.2"]
    assert maybe("only.front", view=view) is None
    six = zone("six", (("db", "only"), (ip_address("fd00::3"),)))
    assert addresses(ask("db", "AAAA", view=View((front, back, six)))) == ["fd00::3"], "the first that has such a one"
    assert not ask("db", "AAAA", view=view).answer


def test_a_link_is_seen_by_the_one_that_has_it_and_goes_before_a_name() -> None:
    network = zone("n", (("postgres",), (ip_address("10.1.0.2"),)), (("db",), (ip_address("10.1.0.3"),)))
    linked = View((network,), {b"\2db\0": {network: b"\x08postgres\0"}, b"\2no\0": {network: b"\4gone\0"}})
    assert addresses(ask("DB", view=linked)) == ["10.1.0.2"]
    assert not ask("db", "AAAA", view=linked).answer and not ask("db", "TXT", view=linked).answer
    assert addresses(ask("db", view=View((network,)))) == ["10.1.0.3"]
    assert maybe("no", view=linked) is None


def test_a_link_on_several_networks_leads_through_the_one_that_the_other_is_in() -> None:
    front = zone("front", (("db",), (ip_address("10.1.0.2"),)))
    back = zone("back", (("postgres",), (ip_address("10.2.0.2"),)))
    side = zone("side", (("db",), (ip_address("10.3.0.2"),)))
    target = b"\x08postgres\0"
    assert addresses(ask("db", view=View((front, back), {b"\2db\0": {front: target, back: target}}))) == ["10.2.0.2"]
    # Where the other is in none of them, it is a name of the other networks.
    assert addresses(ask("db", view=View((front, side), {b"\2db\0": {front: target}}))) == ["10.3.0.2"]


def test_where_nobody_else_is_asked_what_is_not_known_does_not_exist() -> None:
    closed = View(VIEW.zones, closed=True)
    assert addresses(ask("web", view=closed)) == ["172.18.0.2"]
    for name, kind in (("example.com", "A"), ("x", "AAAA"), ("9.9.9.9.in-addr.arpa", "PTR"), ("x", "TXT")):
        absent = ask(name, kind, view=closed)
        assert absent.rcode() == 3 and absent.authority[0][0].minimum == 1


def test_with_ndots_names_without_a_dot_stay_here() -> None:
    dotted = View(VIEW.zones, dotted=True)
    assert ask("nobody", view=dotted).rcode() == 3 and ask("nobody", "AAAA", view=dotted).rcode() == 3
    assert maybe("nobody", "MX", view=dotted) is None and maybe("no.body", view=dotted) is None


def test_names_follow_when_members_come_go_and_change() -> None:
    moving = Zone("n")
    one, two = ip_address("10.0.0.2"), ip_address("10.0.0.3")
    moving.update({"1": Member(("a", "shared"), (one,)), "2": Member(("b", "shared"), (two,))})
    view = View((moving,))
    assert addresses(ask("shared", view=view)) == ["10.0.0.2", "10.0.0.3"]
    moving.update({"1": Member(("c", "shared"), (one,)), "2": Member(("b",), (two,))})
    assert addresses(ask("shared", view=view)) == ["10.0.0.2"] and maybe("a", view=view) is None
    assert str(ask(one.reverse_pointer, "PTR", view=view).answer[0][0]) == "c.n."
    moving.update({"3": Member(("b",), (one,))})
    assert addresses(ask("b", view=view)) == ["10.0.0.2"] and maybe("c", view=view) is None
    assert str(ask(one.reverse_pointer, "PTR", view=view).answer[0][0]) == "b.n."
    moving.update({})
    assert maybe("b", view=view) is None and maybe(one.reverse_pointer, "PTR", view=view) is None


MEMBERS = st.dictionaries(
    st.sampled_from("123456"),
    st.builds(
        Member,
        st.lists(st.sampled_from(["a", "b", "C", "c", "a.n", "x" * 64, ""]), min_size=1, max_size=3).map(tuple),
        st.lists(st.integers(1, 9).map(lambda n: ip_address(f"10.0.0.{n}")), max_size=2, unique=True).map(tuple),
    ),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(MEMBERS, min_size=1, max_size=6))
def test_a_zone_brought_up_to_date_is_as_one_made_anew(history: list[dict[str, Member]]) -> None:
    kept, fresh = Zone("n"), Zone("n")
    for members in history:
        kept.update(members)
    fresh.update(history[-1])
    for name in ("a", "b", "c", "a.n", "b.n", "c.n", "a.n.n"):
        found = [maybe(name, view=View((each,)), tcp=True) for each in (kept, fresh)]
        assert (found[0] is None) == (found[1] is None)
        if found[0] is not None and found[1] is not None:
            assert addresses(found[0]) == addresses(found[1])
        expected = {
            str(address)
            for member in history[-1].values()
            for each in member.names
            if name in (each.lower(), f"{each.lower()}.n")
            for address in member.addresses
        }
        assert found[0] is None or set(addresses(found[0])) == expected


# Sizes and rotation --------------------------------------------------------------------------------------------------


def test_what_does_not_fit_a_datagram_is_marked_and_comes_whole_by_tcp() -> None:
    cut = ask("many")
    assert cut.flags & dns.flags.TC and 20 < len(addresses(cut)) < 600
    whole = ask("many", tcp=True)
    assert not whole.flags & dns.flags.TC and len(addresses(whole)) == 600
    for size, most in ((100, 512), (512, 512), (1232, 1232), (4096, 4096)):
        wire = dns.message.make_query("many", "A", use_edns=0, payload=size).to_wire()
        found = answer(wire, VIEW)
        assert found is not None and most - 40 < len(found) <= most
        assert dns.message.from_wire(found).flags & dns.flags.TC
    large = ask("many", use_edns=0, payload=16384)
    assert not large.flags & dns.flags.TC and len(addresses(large)) == 600


def test_equal_names_share_the_load() -> None:
    first = {in_order(ask("many", tcp=True))[0] for _ in range(12)}
    assert len(first) > 3
    three = zone("n", *((("db",), (ip_address(f"10.0.0.{number}"),)) for number in (1, 2, 3)))
    asked = [in_order(ask("db", view=View((three,)))) for _ in range(600)]
    assert all(sorted(each) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"] for each in asked), "all of them, each time"
    for number in (1, 2, 3):
        assert 120 < sum(each[0] == f"10.0.0.{number}" for each in asked) < 280


# EDNS ----------------------------------------------------------------------------------------------------------------


def test_edns_is_answered_with_our_size_and_the_clients_do_bit() -> None:
    for wanted in (False, True):
        for name, kind in (("web", "A"), ("web", "AAAA"), ("web", "TXT"), ("172.18.9.9", "PTR")):
            asked = ip_address(name).reverse_pointer if kind == "PTR" else name
            message = ask(asked, kind, use_edns=0, want_dnssec=wanted)
            assert message.payload == 1232 and bool(message.ednsflags & dns.flags.DO) == wanted
    assert ask("web").edns == -1


def test_options_and_flags_do_not_change_what_is_found() -> None:
    cookie = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")
    assert addresses(ask("web", use_edns=0, options=[cookie])) == ["172.18.0.2"]
    for flags in (0, dns.flags.RD, dns.flags.RD | dns.flags.AD, dns.flags.RD | dns.flags.CD, dns.flags.AD, 0x0040):
        message = ask("web", flags=flags)
        assert addresses(message) == ["172.18.0.2"]
        assert bool(message.flags & dns.flags.CD) == bool(flags & dns.flags.CD)


def test_a_version_of_edns_that_nobody_knows_is_said_to_be() -> None:
    for name in ("web", "example.com"):
        message = ask(name, use_edns=1)
        assert message.rcode() == 16 and message.edns == 0 and not message.answer


def test_two_opt_records_are_a_format_error() -> None:
    wire = dns.message.make_query("web", "A", use_edns=0).to_wire()
    found = answer(wire[:10] + b"\0\2" + wire[12:] + wire[-11:], VIEW)
    assert found is not None and dns.message.from_wire(found).rcode() == 1


# What is no plain question -------------------------------------------------------------------------------------------


def test_two_questions_or_none_are_a_format_error() -> None:
    one = dns.message.make_query("web", "A").to_wire()
    for wire in (one[:4] + b"\0\2" + one[6:] + one[12:], one[:4] + b"\0\0" + one[6:12]):
        found = answer(wire, VIEW)
        assert found is not None and found[:2] == wire[:2]
        assert dns.message.from_wire(found).rcode() == 1


def test_other_operations_are_not_implemented() -> None:
    for operation in (1, 2, 4, 5):
        wire = bytearray(dns.message.make_query("web", "SOA").to_wire())
        wire[2] |= operation << 3
        found = answer(bytes(wire), VIEW)
        assert found is not None and found[3] & 15 == 4 and found[2] >> 3 & 15 == operation


def test_other_classes_are_asked_of_others_or_refused() -> None:
    assert maybe("version.bind", "TXT", rdclass="CH") is None
    assert ask("version.bind", "TXT", View(closed=True), rdclass="CH").rcode() == 5
    assert addresses(ask("web", rdclass="ANY")) == ["172.18.0.2"]


QUESTION = b"\x03web\0\0\1\0\1"


@pytest.mark.parametrize(
    "query",
    [
        b"",
        struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 0),
        struct.pack(">HHHHHH", 1, 0x100, 3, 0, 0, 0) + QUESTION * 3,
        struct.pack(">HHHHHH", 1, 0x100, 2, 0, 0, 0) + QUESTION,
        struct.pack(">HHHHHH", 1, 0x8100, 1, 0, 0, 0) + QUESTION,  # a response
        struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",  # a name that points to itself
        struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 0) + b"\x3fweb",  # a label beyond the end
        struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 0) + b"\x41web\0\0\1\0\1",  # an unknown kind of label
        struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 0) + b"\x01a" * 200 + b"\0\0\1\0\1",  # too long a name
        struct.pack(">HHHHHH", 1, 0x100, 1, 5, 0, 0) + QUESTION,  # answers in a query
        struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 0) + QUESTION + b"x",  # something behind it
        struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 1) + QUESTION,  # a record that is not there
        struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 1) + QUESTION + b"\0\0\x29\x10\0\0\0\0\0\0\x09",  # or not all of it
        struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 9) + QUESTION + b"\0\0\x29\x10\0\0\0\0\0\0\0" * 9,
    ],
)
def test_what_is_no_query_gets_no_answer(query: bytes) -> None:
    with pytest.raises(Malformed):
        answer(query, VIEW)


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_no_bytes_bring_it_down(data: bytes) -> None:
    try:
        found = answer(data, VIEW)
    except Malformed:
        return
    assert found is None or found[:2] == data[:2]


LABEL = st.binary(min_size=1, max_size=63)
HOSTILE = st.builds(
    lambda number, flags, counts, labels, tail: (
        struct.pack(">HHHHHH", number, flags, *counts)
        + b"".join(bytes([len(label)]) + label for label in labels)
        + tail
    ),
    st.integers(0, 65535),
    st.one_of(st.just(0x0100), st.integers(0, 65535)),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.lists(st.one_of(st.sampled_from([b"web", b"WEB", b"tomcats", b"many"]), LABEL), max_size=6),
    st.one_of(
        st.sampled_from([b"\0\0\1\0\1", b"\0\0\x1c\0\1", b"\0\0\xff\0\xff", b"\0\0\1\0\1\0\0\x29\x02\0\0\0\0\0\0\0"]),
        st.binary(max_size=40),
    ),
)


@settings(deadline=None, max_examples=300)
@given(HOSTILE)
def test_what_dnspython_reads_as_one_question_is_answered_or_passed_on_and_the_rest_dropped(data: bytes) -> None:
    try:
        query: dns.message.Message | None = dns.message.from_wire(data)
    except dns.exception.DNSException:
        query = None
    except ValueError:  # dnspython's own: an unknown opcode
        query = None
    try:
        found = answer(data, VIEW)
    except Malformed:
        plain = (
            query is not None
            and len(query.question) == 1
            and not query.flags & dns.flags.QR
            and not query.answer
            and not query.authority
            and len(query.additional) < 2
        )
        assert not plain, "a question that was dropped"
        return
    if found is not None and found[2] >> 3 & 15 == 0:
        parsed = dns.message.from_wire(found)
        assert parsed.flags & dns.flags.QR
        if query is not None and len(query.question) == 1 and parsed.question:
            assert query.is_response(parsed) or parsed.rcode() in (1, 16)


def test_ten_thousand_damaged_queries_are_dropped_or_answered() -> None:
    """CVE-2017-15133, CVE-2018-17419: a packet that ends a name server."""
    chance = random.Random(4)
    query = dns.message.make_query("web.tomcats", "A", use_edns=0).to_wire()
    for _ in range(10000):
        damaged = bytearray(query)
        for _ in range(chance.randrange(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        cut = bytes(damaged[: chance.randrange(len(damaged) + 1)])
        try:
            found = answer(cut, VIEW)
        except Malformed:
            continue
        if found is not None and not found[2] & 0x78:  # dnspython wants more of an UPDATE than its header
            dns.message.from_wire(found)


# Others' answers -----------------------------------------------------------------------------------------------------


def test_forged_answers_are_not_taken_for_the_upstreams() -> None:
    query = dns.message.make_query("example.com", "A")
    reply = dns.message.make_response(query)
    wire, sent = reply.to_wire(), query.to_wire()
    assert ours.is_reply(wire, sent)
    assert ours.is_reply(wire.replace(b"example", b"eXample"), sent)
    assert not ours.is_reply(bytes([wire[0] ^ 1]) + wire[1:], sent)
    for name, kind in (("example.org", "A"), ("example.com", "MX"), ("com", "A"), ("a.example.com", "A")):
        other = dns.message.make_response(dns.message.make_query(name, kind, id=query.id))
        assert not ours.is_reply(other.to_wire(), sent)
    https, other_type = (dns.message.make_query("example.com", kind, id=1).to_wire() for kind in (65, 97))
    assert not ours.is_reply(https[:2] + b"\x81" + https[3:], other_type), "type 65 is not type 97 in upper case"
    assert not ours.is_reply(sent, sent), "a query is no answer"
    assert not ours.is_reply(b"", sent)


def test_nobody_to_ask_is_an_error_at_once() -> None:
    for extra in ({}, {"use_edns": 0}):
        query = dns.message.make_query("example.com", "A", **extra)  # type: ignore[arg-type]
        refused = dns.message.from_wire(ours.refusal(query.to_wire()))
        assert refused.rcode() == 2 and query.is_response(refused) and refused.edns == query.edns
