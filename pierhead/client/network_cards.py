"""The cards of a map's picture: what is said of an interface or a container, measured before it is placed."""

from dataclasses import dataclass, field
from typing import Any

from pierhead.client import network_words as words
from pierhead.client.picture import CHIP, MONO, NAME, SMALL, TINY, Box, Dot, Font, Picture, rows_of

PAD = 12


@dataclass(slots=True)
class Card:
    """A box with rows of text, measured before it is placed. kind: its colour; loose: its cable does not hold."""

    kind: str
    width: float
    rows: list[tuple[str, Font, str]] = field(default_factory=list)
    chips: list[tuple[str, str]] = field(default_factory=list)
    """Ports: text, kind."""
    dot: str = ""
    loose: bool = False

    def say(self, text: str, font: Font, kind: str) -> None:
        """Rows of text, as many as it takes."""
        self.rows += [(row, font, kind) for row in rows_of(text, font, self.width - 2 * PAD)]

    def _chip(self, text: str) -> float:
        """The width of a chip, at most all the room."""
        return min(CHIP.width(text) + 18, self.width - 2 * PAD)

    def lines(self) -> list[list[tuple[str, str]]]:
        """The chips in lines that fit."""
        found: list[list[tuple[str, str]]] = []
        used = 0.0
        for text, kind in self.chips:
            width = self._chip(text)
            if not found or used + width > self.width - 2 * PAD:
                found.append([])
                used = 0.0
            found[-1].append((text, kind))
            used += width + 6
        return found

    @property
    def height(self) -> float:
        """With its padding."""
        chips = len(self.lines()) * (CHIP.leading + 5)
        return 2 * PAD - 4 + sum(font.leading for _, font, _ in self.rows) + (chips + 3 if chips else 0)

    def place(self, picture: Picture, x: float, y: float, height: float) -> None:
        """Paint it."""
        picture.shapes.append(Box(x, y, self.width, height, self.kind))
        if self.dot:
            picture.shapes.append(Dot(x + self.width - PAD - 2, y + PAD + 6, self.dot))
        at = y + PAD - 2
        for number, (text, font, kind) in enumerate(self.rows):
            room = self.width - 2 * PAD - (16 if self.dot and number == 0 else 0)
            at = picture.text(x + PAD, at, text, font, kind, room)
        at += 3
        for line in self.lines():
            left = x + PAD
            for text, kind in line:
                width = self._chip(text)
                picture.shapes.append(Box(left, at, width, CHIP.leading, kind, CHIP.leading / 2))
                picture.text(left + 9, at, text, CHIP, f"{kind}-text", width - 16)
                left += width + 6
            at += CHIP.leading + 5


def interface_card(interface: Any, ports: list[Any], width: float) -> Card:
    """One of the host's interfaces. ports: what sits on it."""
    card = Card("interface", width)
    state = words.state(interface)
    card.dot = "good" if state == "up" else "bad"
    card.say(interface["name"], NAME, "ink")
    for address in interface["addresses"]:
        card.say(address, MONO, "address")
    facts = [interface["kind"] or "device", *([] if state == "up" else [state])]
    card.say(" · ".join([*facts, *(f"port {one['name']}" for one in ports)]), SMALL, "faint")
    for gateway in interface["gateways"]:
        card.say(f"default route via {gateway}", SMALL, "faint")
    return card


def container_card(map: Any, container: Any, attachment: Any, main: bool, width: float) -> Card:
    """A container's place in a network, or (attachment None) its own namespace. main: say all that is to be said."""
    problems = [*(attachment["problems"] if attachment else ()), *(container["problems"] if main else ())]
    card = Card("broken" if problems else "card", width)
    card.dot = "good" if container["state"] == "running" and not problems else "bad" if problems else "warn"
    card.say(container["name"], NAME, "ink")
    if container["state"] != "running":
        card.say(container["state"], SMALL, "warn")
    if attachment is not None:
        card.loose = bool(attachment["problems"]) or not attachment["up"]
        for address in attachment["addresses"]:
            card.say(words.short(address), MONO, "address")
        others = words.other_names(attachment, container)
        if others:
            card.say("also " + ", ".join(others), SMALL, "soft")
        if attachment["outside"] or attachment["interface"]:
            cable = " — ".join(filter(None, (attachment["interface"], attachment["outside"])))
            card.say(cable, TINY, "faint")
    if main:
        for other in container["others"]:
            card.say(f"also has {other['name']} {' '.join(other['addresses'])}", SMALL, "soft")
        served = words.listeners(container)
        if served and container["mode"] == "host":
            card.chips += [(one, "port") for one in served]  # on the host's own ports
        elif served:
            card.say("listens " + ", ".join(served), SMALL, "soft")
        sharing = words.sharing(map, container)
        if sharing:
            card.say("shared by " + ", ".join(sharing), SMALL, "soft")
        for port in container["ports"]:
            card.chips.append((words.published(port), "silent" if words.silent(port, container) else "port"))
    for problem in problems:
        card.say(f"✗ {problem}", SMALL, "bad-text")
    return card
