"""Where everything of a network map's picture goes. Pure arithmetic.

The host is a row of interfaces at the top.  Below it every network is a panel, one to four container cards wide, laid
out from left to right in rows; a panel's bar is its bridge, from which a rail leads to each card.  A trunk runs down
the left side from the way out and branches above each row to the panels that have one.
"""

from dataclasses import dataclass
from typing import Any

from pierhead.client import network_words as words
from pierhead.client.network_cards import PAD, Card, container_card, interface_card
from pierhead.client.picture import HEAD, MONO, PLAIN, SMALL, TITLE, Box, Dot, Font, Line, Picture, rows_of

CARD = 228
"""The width of a panel's only card; those of a wider panel share its width."""
GAP = 18
"""Between cards, and around them: rails run in it."""
UNIT = CARD + 3 * GAP
"""From the left edge of a panel for one card to that of its neighbour."""
COLUMNS = 4
MARGIN = 28
GUTTER = 26
"""Left of the panels, for the trunk."""
ROW_GAP = 34
"""Between rows of panels, for the trunk's branches."""
LEFT = MARGIN + GUTTER
TRUNK = MARGIN + 8
WIDTH = LEFT + COLUMNS * UNIT - GAP + MARGIN


def layout(map: Any) -> Picture:
    """Draw a map."""
    return _Layout(map).draw()


# Panels --------------------------------------------------------------------------------------------------------------

LEGEND = {
    "bridge-bar": "bridge",
    "internal-bar": "internal: no way out",
    "parent-bar": "macvlan, ipvlan",
    "host-bar": "host",
    "none-bar": "no network",
    "port": "port of the host",
    "silent": "published, nothing listens",
    "broken-bar": "not as it should be",
}
KINDS = {"bridge": "bridge", "host": "host", "null": "none"}


def panel_width(columns: int) -> float:
    """Of a panel with so many cards beside each other."""
    return columns * UNIT - GAP


def card_width(columns: int) -> float:
    """Of a card in a panel with so many beside each other."""
    return (panel_width(columns) - (columns + 1) * GAP) / columns


@dataclass(slots=True)
class Panel:
    """A network with its cards, so many columns of them.

    notes: text, kind.  bar: rows of text on the bridge; none: there is no bridge.  way_out: the trunk leads here.
    """

    kind: str
    title: str
    notes: list[tuple[str, str]]
    bar: list[str]
    cards: list[Card]
    columns: int
    way_out: bool = False

    @property
    def width(self) -> float:
        """With the gaps around the cards."""
        return panel_width(self.columns)

    def grid(self) -> list[list[Card]]:
        """The cards in rows."""
        return [self.cards[at : at + self.columns] for at in range(0, len(self.cards), self.columns)]

    def head(self) -> list[tuple[str, Font, str]]:
        """Title and notes, in rows."""
        rows = [(self.title, HEAD, f"{self.kind}-text")]
        for text, kind in self.notes:
            rows += [(row, SMALL, kind) for row in rows_of(text, SMALL, self.width - 2 * GAP)]
        return rows

    def _bar_height(self) -> int:
        return 16 + len(self.bar) * MONO.leading if self.bar else 0

    @property
    def height(self) -> float:
        """With everything in it."""
        head = PAD + sum(font.leading for _, font, _ in self.head()) + self._bar_height()
        return head + sum(max(card.height for card in row) + GAP for row in self.grid()) + GAP

    def place(self, picture: Picture, x: float, y: float, height: float) -> None:
        """Paint it: the frame, the bar, the rails from the bar to the cards, the cards."""
        picture.shapes.append(Box(x, y, self.width, height, f"{self.kind}-panel", 12))
        at = y + PAD
        for text, font, kind in self.head():
            at = picture.text(x + GAP, at, text, font, kind, self.width - 2 * GAP)
        bottom = at + self._bar_height()
        if self.bar:
            at += 6
            picture.shapes.append(Box(x + GAP / 2 - 5, at, self.width - GAP + 10, bottom - at, f"{self.kind}-bar", 6))
            at += 5
            for row in self.bar:
                at = picture.text(x + GAP, at, row, MONO, "on-bar", self.width - 2 * GAP)
        at = bottom
        step = card_width(self.columns) + GAP
        ends: dict[int, float] = {}
        for cards in self.grid():
            at += GAP
            high = max(card.height for card in cards)
            for number, card in enumerate(cards):
                left = x + GAP + number * step
                if self.bar:
                    end = ends[number] = at + PAD + 6
                    cable = "loose" if card.loose else f"{self.kind}-line"
                    picture.shapes.append(Line(((left - GAP / 2, end), (left, end)), cable))
                card.place(picture, left, at, high)
            at += high
        for number, end in ends.items():
            left = x + GAP / 2 + number * step
            picture.shapes.append(Line(((left, bottom), (left, end)), f"{self.kind}-line"))


def in_rows(panels: list[Panel]) -> list[list[Panel]]:
    """Panels side by side: each in the first row that has room for it, so that small ones fill up."""
    rows: list[list[Panel]] = []
    for panel in panels:
        for row in rows:
            if sum(other.columns for other in row) + panel.columns <= COLUMNS:
                row.append(panel)
                break
        else:
            rows.append([panel])
    return rows


class _Layout:
    """One picture in the making."""

    def __init__(self, map: Any) -> None:
        self.map = map
        self.picture = Picture(WIDTH)
        self.containers = {one["id"]: one for one in map["containers"]}
        self.interfaces = {one["name"]: one for one in map["interfaces"]}
        self.ways_out = {
            one["container"] for network in map["networks"] for one in network["attachments"] if one["way_out"]
        }

    def draw(self) -> Picture:
        y, begin = self._host(self._title(MARGIN))
        trunk = begin
        panels = self._panels()
        for row in in_rows(panels):
            y += ROW_GAP
            high = max(panel.height for panel in row)
            joint = y - ROW_GAP / 2
            reached = 0.0
            x: float = LEFT
            for panel in row:
                panel.place(self.picture, x, y, high)
                if panel.way_out:
                    reached = x + panel.width / 2
                    self.picture.shapes.append(Line(((reached, joint), (reached, y)), "trunk"))
                    self.picture.shapes.append(Dot(reached, y, "trunk-dot"))
                x += panel.width + GAP
            if reached:
                self.picture.shapes.append(Line(((TRUNK, joint), (reached, joint)), "trunk"))
                trunk = joint
            y += high
        if trunk > begin:
            self.picture.shapes.append(Line(((TRUNK, begin), (TRUNK, trunk)), "trunk"))
        y = self._legend(y + GAP, panels)
        self.picture.height = y + MARGIN - 8
        return self.picture

    def _title(self, y: float) -> float:
        running, networks = len(self.map["containers"]), len(self.map["networks"])
        note = f"{running} container{'s' * (running != 1)} · {networks} network{'s' * (networks != 1)}"
        if not self.map["forwards"]:
            note += " · does not forward IPv4"
        room = self.picture.width - 2 * MARGIN
        y = self.picture.text(MARGIN, y, self.map["host"], TITLE, "ink", room)
        y = self.picture.text(MARGIN, y, note, PLAIN, "soft", room)
        for problem in self.map["problems"]:
            for row in rows_of(f"✗ {problem}", PLAIN, room):
                y = self.picture.text(MARGIN, y, row, PLAIN, "bad-text", room)
        return y + 10

    def _host(self, y: float) -> tuple[float, float]:
        """The host's own interfaces; returns the y below them, and where the trunk begins."""
        shown = [one for one in self.map["interfaces"] if not one["network"] and one["parent"] not in self.interfaces]
        shown.sort(key=lambda one: (not one["gateways"], one["name"] == "lo"))  # the trunk comes from the way out
        begin = y + PAD + 6
        if shown and shown[0]["gateways"]:
            self.picture.shapes.append(Line(((TRUNK, begin), (LEFT, begin)), "trunk"))
            self.picture.shapes.append(Dot(TRUNK, begin, "trunk-dot"))
        for at in range(0, len(shown), COLUMNS):
            cards = [interface_card(one, self._on(one["name"]), UNIT - GAP) for one in shown[at : at + COLUMNS]]
            high = max(card.height for card in cards)
            for number, card in enumerate(cards):
                card.place(self.picture, LEFT + number * UNIT, y, high)
            y += high + GAP
        return y - GAP, begin

    def _on(self, name: str) -> list[Any]:
        return [port for port in self.map["interfaces"] if port["parent"] == name]

    def _panels(self) -> list[Panel]:
        placed: set[str] = set()
        panels = [
            self._panel(network, placed)
            for network in self.map["networks"]
            if network["interface"] or network["attachments"]
        ]
        left = words.detached(self.map)
        if left:
            columns = min(COLUMNS, len(left))
            cards = [container_card(self.map, one, None, True, card_width(columns)) for one in left]
            panels.append(Panel("none", "no network", [("only lo is left to them", "soft")], [], cards, columns))
        return panels

    def _panel(self, network: Any, placed: set[str]) -> Panel:
        """placed: the containers of which all has been said in another panel."""
        columns = max(1, min(COLUMNS, len(network["attachments"])))
        cards = []
        for one in network["attachments"]:
            main = one["way_out"] or not (one["container"] in self.ways_out or one["container"] in placed)
            container = self.containers[one["container"]]
            cards.append(container_card(self.map, container, one, main, card_width(columns)))
            if main:
                placed.add(one["container"])
        kind = "internal" if network["internal"] else KINDS.get(network["driver"], "parent")
        carrier = self.interfaces.get(network["interface"])
        if network["interface"] and (carrier is None or words.state(carrier) != "up"):
            kind = "broken"
        notes = [*self._notes(network), *((f"✗ {problem}", "bad-text") for problem in network["problems"])]
        bar = self._bar(network, carrier, panel_width(columns) - 2 * GAP)
        outside = any(one["gateways"] for one in self.map["interfaces"])
        routed = outside and (kind == "host" or (bool(bar) and not network["internal"]))
        return Panel(kind, network["name"], notes, bar, cards, columns, routed)

    def _notes(self, network: Any) -> list[tuple[str, str]]:
        if network["driver"] in ("host", "null"):
            return [("the host's own interfaces" if network["driver"] == "host" else "only lo", "soft")]
        notes = [" · ".join([network["driver"], *network["subnets"]]), words.way_out(self.map, network)]
        return [(note, "soft") for note in notes if note]

    def _bar(self, network: Any, carrier: Any, room: float) -> list[str]:
        """The bridge with its addresses, or a parent, in rows."""
        if not network["interface"]:
            return []
        if carrier is None:
            return rows_of(f"{network['interface']} is missing", MONO, room)
        addresses = carrier["addresses"] if carrier["kind"] == "bridge" else []
        return rows_of(" ".join([carrier["name"], *addresses]), MONO, room)

    def _legend(self, y: float, panels: list[Panel]) -> float:
        """What the colours mean that are there."""
        there = {f"{panel.kind}-bar" for panel in panels}
        there |= {kind for panel in panels for card in panel.cards for _, kind in card.chips}
        x: float = LEFT
        for kind, text in LEGEND.items():
            if kind in there:
                self.picture.shapes.append(Box(x, y + 2, 12, 12, kind, 3))
                self.picture.text(x + 18, y, text, SMALL, "soft", 220)
                x += 18 + SMALL.width(text) + 14
        return y + SMALL.leading
