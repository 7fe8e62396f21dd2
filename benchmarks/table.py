"""The table: each figure of ours beside the peer's of the same run, the ratio, and the goal."""

from dataclasses import dataclass
from statistics import median, quantiles


@dataclass(frozen=True, slots=True)
class Goal:
    """At least this ratio to the peer, or at most this figure (in the row's unit).

    noise: by how much of the ratio one and the same engine differs from itself.
    """

    ratio: float | None = None
    most: float | None = None
    noise: float = 0.0

    def text(self, unit: str) -> str:
        parts = []
        if self.ratio is not None:
            parts.append(f"≥ {self.ratio:g} ×" + (f" ± {self.noise:.0%}" if self.noise else ""))
        if self.most is not None:
            parts.append(f"≤ {self.most:g} {unit}")
        return " and ".join(parts)

    def met(self, ours: float, ratio: float | None) -> bool:
        return (self.most is None or ours <= self.most) and (
            self.ratio is None or (ratio is not None and ratio >= self.ratio * (1 - self.noise))
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One line; figures by engine, in the unit."""

    what: str
    unit: str
    figures: dict[str, float]
    worst: dict[str, float]
    goal: Goal
    rate: bool = False
    """More is better: the ratio is ours over the peer's."""

    def ratio(self) -> float | None:
        """How many times better ours is, where both were measured."""
        ours, peer = self.figures.get("pierd"), self.figures.get("docker")
        if not ours or not peer:
            return None
        return ours / peer if self.rate else peer / ours


def row(
    what: str, unit: str, samples: dict[str, list[float]], goal: Goal, scale: float = 1000.0, *, rate: bool = False
) -> Row:
    """Medians and the percentiles that nine of ten samples are better than."""
    figures = {kind: median(values) * scale for kind, values in samples.items() if values}
    worst = {
        kind: (quantiles(values, n=10)[0 if rate else -1] if len(values) > 1 else values[0]) * scale
        for kind, values in samples.items()
        if values
    }
    return Row(what, unit, figures, worst, goal, rate)


def render(rows: list[Row]) -> str:
    """Markdown, aligned for a terminal."""
    lines = [["what", "dockerd", "pierd", "ratio", "goal", ""]]
    for entry in rows:
        cells = [entry.what]
        for kind in ("docker", "pierd"):
            cells.append(_figure(entry, kind))
        ours, ratio = entry.figures.get("pierd"), entry.ratio()
        cells.append(f"{ratio:.1f} ×" if ratio else "–")
        cells.append(entry.goal.text(entry.unit))
        cells.append("–" if ours is None else ("met" if entry.goal.met(ours, ratio) else "MISSED"))
        lines.append(cells)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def _figure(entry: Row, kind: str) -> str:
    if kind not in entry.figures:
        return "–"
    text = f"{entry.figures[kind]:.1f} {entry.unit}"
    if kind in entry.worst and entry.worst[kind] != entry.figures[kind]:
        text += f" ({'p10' if entry.rate else 'p90'} {entry.worst[kind]:.1f})"
    return text
