"""The drawings of a network map: nothing overlaps, nothing is cut off, and what is wrong can be seen."""

import random
import xml.etree.ElementTree as ElementTree
from functools import cache
from itertools import combinations
from typing import Any

import pytest

from pierhead.client import network_words as words
from pierhead.client.network_cards import Card
from pierhead.client.network_layout import COLUMNS, layout
from pierhead.client.network_map import WIDTH, draw
from pierhead.client.picture import NAME, Box, Dot, Line, Picture, Text


def interface(name: str, **more: Any) -> dict[str, Any]:
    plain = {"kind": "", "up": True, "carrier": True, "mtu": 1500, "mac": "", "addresses": []}
    return {"name": name, **plain, "parent": "", "network": "", "gateways": [], **more}


def attachment(container: str, number: int, **more: Any) -> dict[str, Any]:
    plain = {"names": [], "interface": "eth0", "outside": f"veth{number:08x}", "up": True, "mac": "", "mtu": 1500}
    address = [f"10.0.{number // 250}.{number % 250 + 2}/16"]
    return {"container": container, **plain, "addresses": address, "way_out": True, "problems": [], **more}


def container(id: str, name: str, **more: Any) -> dict[str, Any]:
    plain = {"image": "web", "state": "running", "mode": "bridge", "shares": "", "ports": [], "listeners": []}
    return {"id": id, "name": name, **plain, "others": [], "problems": [], **more}


def network(name: str, **more: Any) -> dict[str, Any]:
    plain = {"id": name, "driver": "bridge", "internal": False, "interface": f"br-{name}", "subnets": ["10.0.0.0/16"]}
    return {"name": name, **plain, "gateways": ["10.0.0.1"], "attachments": [], "problems": [], **more}


def port(outside: int, inside: int, protocol: str = "tcp", ip: str = "", last: int = 0) -> dict[str, Any]:
    return {"protocol": protocol, "ip": ip, "port": outside, "last": last or outside, "container_port": inside}


def listener(number: int, address: str = "0.0.0.0", protocol: str = "tcp", process: str = "httpd") -> dict[str, Any]:
    return {"protocol": protocol, "address": address, "port": number, "process": process}


def whole(networks: list[Any], containers: list[Any], interfaces: list[Any], **more: Any) -> dict[str, Any]:
    plain = {"host": "somewhere", "forwards": True, "problems": []}
    return {**plain, "networks": networks, "containers": containers, "interfaces": interfaces, **more}


def simple(count: int) -> dict[str, Any]:
    """One network of ``count`` containers."""
    containers = [container(f"{number:064x}", f"container{number}") for number in range(count)]
    joined = [attachment(one["id"], number) for number, one in enumerate(containers)]
    interfaces = [
        interface("ens33", addresses=["192.0.2.10/24"], gateways=["192.0.2.1"]),
        interface("br-one", kind="bridge", addresses=["10.0.0.1/16"], network="one"),
    ]
    return whole([network("one", attachments=joined)], containers, interfaces)


def wild(seed: int) -> dict[str, Any]:
    """Up to 40 containers in some networks, with long names, many ports, and things that are broken."""
    chance = random.Random(seed)

    def name(longest: int) -> str:
        return "".join(chance.choice("abcMWil_-09") for _ in range(chance.randint(1, longest)))

    containers = [container(f"{number:064x}", f"{number}{name(60)}") for number in range(chance.randint(1, 40))]
    for one in containers:
        one["state"] = chance.choice(["running"] * 5 + ["paused"])
        one["ports"] = [
            port(
                number, number, chance.choice(["tcp", "udp"]), chance.choice(["", "127.0.0.1", "2001:db8::aaaa:bbbb:1"])
            )
            for number in range(8000, 8000 + chance.randint(0, 6))
        ]
        one["listeners"] = [listener(number, process=name(15)) for number in range(chance.randint(0, 5))]
        one["shares"] = chance.choice(["", "", "", chance.choice(containers)["id"]])
        one["others"] = [
            interface(name(15), addresses=["2001:db8:1111:2222:3333:4444:5555:6666/128"])
        ] * chance.randint(0, 1)
        one["problems"] = [f"its namespace {name(80)} could not be {name(20)}"] * chance.randint(0, 1)
    networks, interfaces = [], [interface("lo", addresses=["127.0.0.1/8", "::1/128"])]
    for number in range(chance.randint(0, 9)):
        made = network(f"n{number}{name(30)}", interface=f"br-{number:012x}", internal=chance.random() < 0.3)
        made["driver"] = chance.choice(["bridge", "bridge", "macvlan", "host", "null"])
        if made["driver"] in ("host", "null"):
            made["interface"] = ""
        made["attachments"] = [
            attachment(
                one["id"],
                chance.randint(0, 60000),
                names=[name(40) for _ in range(chance.randint(0, 6))],
                way_out=chance.random() < 0.5,
                problems=[f"eth0 has lost {name(40)} and {name(10)}"] * chance.randint(0, 2),
            )
            for one in chance.sample(containers, chance.randint(0, len(containers)))
        ]
        networks.append(made)
        if made["interface"] and chance.random() < 0.8:
            addresses = ["10.0.0.1/16", "2001:db8:1111:2222:3333:4444:5555:1/64"]
            up = chance.random() < 0.8
            interfaces.append(
                interface(made["interface"], kind="bridge", up=up, addresses=addresses, network=made["name"])
            )
    for number in range(chance.randint(0, 6)):
        parent = chance.choice([one["name"] for one in interfaces])
        interfaces.append(
            interface(f"if{number}", parent=chance.choice(["", parent]), gateways=["10.1.1.1"] * chance.randint(0, 1))
        )
    return whole(
        networks, containers, interfaces, problems=[f"{name(70)} is nobody's {name(70)}"] * chance.randint(0, 2)
    )


MAPS = {f"{count} containers": simple(count) for count in (0, 1, 2, 3, 4, 5, 8, 9, 21, 40)}
MAPS |= {f"wild {seed}": wild(seed) for seed in range(16)}
every_map = pytest.mark.parametrize("map", MAPS)

Edges = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@cache
def picture_of(map: str) -> Picture:
    return layout(MAPS[map])


@cache
def places(map: str) -> list[tuple[Text, Edges]]:
    """Every text with its edges."""
    return [(text, text.box) for text in texts(picture_of(map))]


def texts(picture: Picture) -> list[Text]:
    return [shape for shape in picture.shapes if isinstance(shape, Text)]


def overlap(one: Edges, two: Edges) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def edges(box: Box) -> Edges:
    return box.x, box.y, box.x + box.width, box.y + box.height


@every_map
def test_no_text_of_the_picture_lies_on_another(map: str) -> None:
    for (one, first), (two, second) in combinations(places(map), 2):
        assert not overlap(first, second), f"{one.text!r} and {two.text!r}"


@every_map
def test_every_box_holds_its_text_and_every_panel_its_cards(map: str) -> None:
    picture = picture_of(map)
    boxes = [shape for shape in picture.shapes if isinstance(shape, Box)]
    for text, at in places(map):
        left, top, right, bottom = at
        assert left >= 0 and top >= 0 and right <= picture.width and bottom <= picture.height, text.text
        for box in boxes:
            if overlap(at, edges(box)):
                inside = box.x <= left and box.y <= top and right <= box.x + box.width and bottom <= box.y + box.height
                assert inside, f"{text.text!r} crosses the edge of a {box.kind}"
    for one, two in combinations(boxes, 2):  # apart, or one within the other
        first, second = edges(one), edges(two)
        if overlap(first, second):
            inner, outer = (first, second) if one.width < two.width else (second, first)
            held = outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]
            bar = one.kind.endswith("-bar") or two.kind.endswith("-bar")
            assert held or bar, f"a {one.kind} crosses a {two.kind}"


@every_map
def test_no_line_of_the_picture_runs_through_a_text(map: str) -> None:
    for line in (shape for shape in picture_of(map).shapes if isinstance(shape, Line)):
        (x1, y1), (x2, y2) = line.points
        along = min(x1, x2), min(y1, y2), max(x1, x2) + 0.1, max(y1, y2) + 0.1
        for text, at in places(map):
            assert not overlap(at, along), f"{text.text!r} and a {line.kind}"


@every_map
def test_every_container_and_network_is_in_both_drawings(map: str) -> None:
    made = MAPS[map]
    tree = draw(made, "tree")
    said = " ".join(f"{text.text} {text.whole}" for text, _ in places(map))
    placed = {one["container"] for each in made["networks"] for one in each["attachments"]}
    for one in made["containers"]:
        if one["id"] in placed or not one["shares"]:
            assert one["name"][:20] in tree
            assert one["name"] in said
    for each in made["networks"]:
        if each["interface"] or each["attachments"]:
            assert f"network {each['name']}" in tree and each["name"] in said


@every_map
def test_the_tree_fits_into_a_hundred_columns(map: str) -> None:
    assert max(len(line) for line in draw(MAPS[map], "tree").splitlines()) <= WIDTH == 100


@every_map
def test_the_picture_is_a_whole_document_that_knows_every_colour_it_uses(map: str) -> None:
    document = draw(MAPS[map], "svg")
    root = ElementTree.fromstring(document)
    style = next(element.text for element in root.iter() if element.tag.endswith("style"))
    assert style is not None and "prefers-color-scheme:dark" in style
    for element in root.iter():
        kind = element.tag.rpartition("}")[2]
        names = (element.get("class") or "").split()
        if kind in ("rect", "circle"):
            assert f".b.{names[1]}{{" in style, names
        elif kind in ("text", "path"):
            assert f"{kind}.{names[0]}{{" in style, names


def test_a_wide_panel_has_its_cards_in_columns() -> None:
    boxes = [shape for shape in layout(simple(10)).shapes if isinstance(shape, Box) and shape.kind == "card"]
    assert len({box.x for box in boxes}) == COLUMNS and len({box.y for box in boxes}) == 3
    assert len({(box.width, box.height) for box in boxes}) == 1


def test_what_is_cut_can_still_be_read_whole() -> None:
    long = simple(1)
    long["containers"][0]["name"] = "x" * 100
    cut = [text for text in texts(layout(long)) if text.font is NAME and text.text.endswith("…")]
    assert [text.whole for text in cut] == ["x" * 100]
    assert f"<title>{'x' * 100}</title>" in draw(long, "svg")


def test_what_is_broken_is_marked_in_both_drawings() -> None:
    broken = simple(3)
    broken["networks"][0]["attachments"][1]["problems"] = ["veth00000001 is not a port of br-one"]
    broken["interfaces"][1]["up"] = False
    broken["networks"][0]["problems"] = ["br-one is down"]
    tree = draw(broken, "tree")
    assert "✗ br-one is down" in tree and "✗ veth00000001 is not a port of br-one" in tree
    shapes = layout(broken).shapes
    assert [shape.kind for shape in shapes if isinstance(shape, Box)].count("broken") == 1
    assert [shape.kind for shape in shapes if isinstance(shape, Line)].count("loose") == 1
    assert any(isinstance(shape, Box) and shape.kind == "broken-bar" for shape in shapes)
    assert sum(isinstance(shape, Dot) and shape.kind == "bad" for shape in shapes) == 1


def test_a_network_that_the_kernel_does_not_have_is_said_to_be_missing() -> None:
    gone = simple(1)
    del gone["interfaces"][1]
    gone["networks"][0]["problems"] = ["br-one is missing"]
    assert "br-one  missing  network one" in draw(gone, "tree")
    assert any(text.text == "br-one is missing" for text in texts(layout(gone)))


def test_a_network_on_a_parent_of_the_hosts_leaves_the_parent_in_its_place() -> None:
    parented = simple(1)
    parented["networks"].append(network("lan", driver="macvlan", interface="ens33", subnets=["192.0.2.0/24"]))
    tree = draw(parented, "tree").splitlines()
    assert any(line.endswith("ens33   up  192.0.2.10/24  default route via 192.0.2.1") for line in tree)
    assert any(line.endswith("network lan  macvlan on ens33  192.0.2.0/24") for line in tree)
    assert {"ens33", "lan"} <= {text.text for text in texts(layout(parented))}


def test_only_networks_with_a_way_out_hang_on_the_trunk() -> None:
    both = simple(2)
    inside = network("two", internal=True, interface="br-two", attachments=[attachment(f"{1:064x}", 7, way_out=False)])
    both["networks"].append(inside)
    both["interfaces"].append(interface("br-two", kind="bridge", network="two"))
    kinds = [shape.kind for shape in layout(both).shapes if isinstance(shape, Dot) and shape.kind == "trunk-dot"]
    assert len(kinds) == 2, "the way out itself, and network one"
    assert "internal" in draw(both, "tree")


def test_ports_are_told_with_what_answers_on_them() -> None:
    one = container(
        "a" * 64, "web", ports=[port(8081, 80), port(9000, 90, ip="127.0.0.1"), port(5000, 6000, "udp", last=5010)]
    )
    one["listeners"] = [listener(80), listener(80, "::"), listener(90, "127.0.0.1", process="db")]
    assert [words.published(each) for each in one["ports"]] == [
        "8081→80/tcp",
        "127.0.0.1:9000→90/tcp",
        "5000-5010→6000-6010/udp",
    ]
    assert [words.silent(each, one) for each in one["ports"]] == [False, True, True], "loopback inside serves nobody"
    assert words.listeners(one) == ["80/tcp httpd", "127.0.0.1:90/tcp db"]


def test_a_terminal_gets_colours_and_a_file_none() -> None:
    assert "\x1b[" in draw(simple(2), "tree", colours=True) and "\x1b" not in draw(simple(2), "tree")


def test_a_card_is_as_high_as_what_it_says() -> None:
    card = Card("card", 228)
    card.say("one", NAME, "ink")
    less = card.height
    card.say("two", NAME, "ink")
    card.chips.append(("8080→80/tcp", "port"))
    assert card.height > less + NAME.leading
