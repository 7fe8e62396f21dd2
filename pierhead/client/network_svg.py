"""A network map as SVG: the shapes of ``network_layout`` with their colours, for light and dark surroundings."""

from typing import Any
from xml.sax.saxutils import escape, quoteattr

from pierhead.client.network_layout import layout
from pierhead.client.picture import Box, Dot, Line, Picture, Shape, Text

SANS = "Inter,'Segoe UI',Roboto,'Helvetica Neue',Arial,'DejaVu Sans',sans-serif"
MONO = "ui-monospace,'SF Mono',Menlo,Consolas,'DejaVu Sans Mono',monospace"

# Class · colour on light · colour on dark
_INKS = """
ink #1c2330 #e8ecf3
soft #566070 #a8b2c2
faint #7c8696 #8791a2
address #0b5cad #7cb8f5
bridge-text #174ea6 #8ab4f8
internal-text #6b2fb3 #c6a2f5
parent-text #9a4a00 #f3b06b
host-text #0b6b57 #6fd3b8
none-text #566070 #a8b2c2
broken-text #b3261e #f2938c
bad-text #b3261e #f2938c
warn #8a5a00 #efc05f
on-bar #ffffff #ffffff
port-text #0f5a2c #c9f2d7
silent-text #8a4b00 #ffdfae
"""
# Class · fill and border on light · fill and border on dark
_FILLS = """
page #ffffff #ffffff #14171d #14171d
card #ffffff #cfd6e1 #232833 #3d4554
interface #f6f8fb #cfd6e1 #1d222b #3d4554
broken #fff1f0 #d9534a #3a2022 #c9605a
bridge-panel #eef4fd #bcd3f5 #182235 #2f4a78
internal-panel #f5effc #d6c0f0 #221a31 #513a78
parent-panel #fdf3e7 #f0cf9f #2c2114 #74522a
host-panel #e9f6f2 #b0dccf #132a25 #2b5f53
none-panel #f4f5f7 #d6dae1 #1c2027 #3a414d
broken-panel #fdeeed #efb3af #2f1a1b #7d3a37
bridge-bar #2f6fd6 #2f6fd6 #2a61bd #2a61bd
internal-bar #7b45c6 #7b45c6 #6d3db0 #6d3db0
parent-bar #c06a14 #c06a14 #a65b10 #a65b10
host-bar #178a6f #178a6f #14775f #14775f
none-bar #8d96a5 #8d96a5 #5c6675 #5c6675
broken-bar #c9372e #c9372e #b3302a #b3302a
port #d9f3e2 #58b57a #17402a #3f8f5f
silent #ffe9cc #e0a040 #4a3312 #b98432
good #2fa35b #2fa35b #3fbf70 #3fbf70
bad #d0342c #d0342c #e5675f #e5675f
warn #e0a040 #e0a040 #e0a040 #e0a040
trunk-dot #5f6b7c #5f6b7c #8d99ab #8d99ab
"""
_LINES = """
trunk #8792a3 #6f7b8d
bridge-line #7ea7e8 #3f6fb8
internal-line #b596e3 #7a57b3
parent-line #dda765 #a06a2c
host-line #7cc3b1 #3d8b78
none-line #b7bdc8 #59616e
broken-line #e08a84 #a34b46
loose #d0342c #e5675f
"""


def _style() -> str:
    """The style sheet: the light colours, and the dark ones for whoever prefers them."""
    light, dark = [], []
    for row in _INKS.split("\n"):
        if row:
            name, first, second = row.split()
            light.append(f"text.{name}{{fill:{first}}}")
            dark.append(f"text.{name}{{fill:{second}}}")
    for row in _FILLS.split("\n"):
        if row:
            name, fill, border, other, rim = row.split()
            light.append(f".b.{name}{{fill:{fill};stroke:{border}}}")
            dark.append(f".b.{name}{{fill:{other};stroke:{rim}}}")
    for row in _LINES.split("\n"):
        if row:
            name, first, second = row.split()
            light.append(f"path.{name}{{stroke:{first}}}")
            dark.append(f"path.{name}{{stroke:{second}}}")
    return (
        f"text{{font-family:{SANS};white-space:pre}} .m{{font-family:{MONO}}} .h{{font-weight:600}}\n"
        "path{fill:none;stroke-width:1.6;stroke-linecap:round;stroke-linejoin:round} path.trunk{stroke-width:2} "
        "path.loose{stroke-dasharray:3 4}\n"
        f"{' '.join(light)}\n@media (prefers-color-scheme:dark){{{' '.join(dark)}}}"
    )


def svg(map: Any) -> str:
    """The picture of a map, as a document of its own."""
    return document(layout(map), f"Networks of {map['host']}")


def document(picture: Picture, title: str) -> str:
    """Shapes as an SVG document."""
    width, height = _number(picture.width), _number(picture.height)
    page = _shape(Box(0, 0, picture.width, picture.height, "page", 0))
    body = "\n".join(map(_shape, picture.shapes))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img">\n<title>{escape(title)}</title>\n<style>{_style()}</style>\n{page}\n{body}\n</svg>\n'
    )


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _shape(shape: Shape) -> str:
    match shape:
        case Box():
            tip = f"<title>{escape(shape.tip)}</title>" if shape.tip else ""
            return (
                f'<rect class="b {shape.kind}" x="{_number(shape.x)}" y="{_number(shape.y)}" '
                f'width="{_number(shape.width)}" height="{_number(shape.height)}" rx="{_number(shape.radius)}"'
                + (f">{tip}</rect>" if tip else "/>")
            )
        case Text():
            classes = f"{shape.kind}{' m' if shape.font.mono else ''}{' h' if shape.font.bold else ''}"
            tip = f"<title>{escape(shape.whole)}</title>" if shape.whole else ""
            return (
                f'<text class={quoteattr(classes)} x="{_number(shape.x)}" y="{_number(shape.y)}" '
                f'font-size="{_number(shape.font.size)}">{escape(shape.text)}{tip}</text>'
            )
        case Line():
            points = "L".join(f"{_number(x)} {_number(y)}" for x, y in shape.points)
            return f'<path class="{shape.kind}" d="M{points}"/>'
        case Dot():
            at = f'cx="{_number(shape.x)}" cy="{_number(shape.y)}" r="{_number(shape.radius)}"'
            return f'<circle class="b {shape.kind}" {at}/>'
