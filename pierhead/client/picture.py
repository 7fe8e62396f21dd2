"""Pictures as values: shapes with their places, and text that is measured before it is placed.

Lengths are pixels.  Text is measured by the widest of the fonts that a viewer may have in place of the wanted one, so
that it is never wider than is said here.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Font:
    """size in px; wide: the mean width of a letter in em of the widest likely font; leading: of a line, in px."""

    size: float
    leading: int
    mono: bool = False
    bold: bool = False

    def width(self, text: str) -> float:
        """At most this wide, in px."""
        if self.mono:
            return len(text) * 0.605 * self.size
        return sum(_em(letter) for letter in text) * (1.08 if self.bold else 1.0) * self.size

    def cut(self, text: str, room: float) -> str:
        """As much of it as fits, with an ellipsis where something is missing."""
        if self.width(text) <= room:
            return text
        while text and self.width(text + "…") > room:
            text = text[:-1]
        return text.rstrip() + "…"


def _em(letter: str) -> float:
    """The advance of a letter in DejaVu Sans, which is wider than what is asked for, rounded up."""
    if letter in "ijl.,:;|'! ":
        return 0.34
    if letter in "frtI()[]/-\\":
        return 0.43
    if letter in "mwMW@%—→…":
        return 1.0
    return 0.71 if letter.isupper() or letter in "&?~+=<>" else 0.64


TITLE = Font(20, 28, bold=True)
HEAD = Font(15, 20, bold=True)
NAME = Font(13.5, 18, bold=True)
PLAIN = Font(11.5, 16)
SMALL = Font(10.5, 15)
MONO = Font(11.5, 16, mono=True)
TINY = Font(10, 14, mono=True)
CHIP = Font(10.5, 20, mono=True)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle. kind: what it means, which is its colour."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    radius: float = 8
    tip: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """One line of text; y is its baseline. whole: what was cut, or empty."""

    x: float
    y: float
    text: str
    font: Font
    kind: str
    whole: str = ""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        return (
            self.x,
            self.y - self.font.size * 0.95,
            self.x + self.font.width(self.text),
            self.y + self.font.size * 0.28,
        )


@dataclass(frozen=True, slots=True)
class Line:
    """Straight pieces from point to point."""

    points: tuple[tuple[float, float], ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A filled circle."""

    x: float
    y: float
    kind: str
    radius: float = 4


Shape = Box | Text | Line | Dot


@dataclass(slots=True)
class Picture:
    """The whole: shapes in the order in which they are painted."""

    width: float
    height: float = 0
    shapes: list[Shape] = field(default_factory=list)

    def text(self, x: float, y: float, text: str, font: Font, kind: str, room: float) -> float:
        """A line of text whose top is at y, cut to ``room``; returns the y below it."""
        shown = font.cut(text, room)
        whole = text if shown != text else ""
        self.shapes.append(Text(x, y + font.leading * 0.74, shown, font, kind, whole))
        return y + font.leading


def rows_of(text: str, font: Font, room: float) -> list[str]:
    """Words in rows that fit; a word that does not has one of its own, to be cut when it is placed."""
    rows: list[str] = []
    for word in text.split(" "):
        if rows and font.width(f"{rows[-1]} {word}") <= room:
            rows[-1] = f"{rows[-1]} {word}"
        else:
            rows.append(word)
    return rows
