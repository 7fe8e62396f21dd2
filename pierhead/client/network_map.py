"""``pier network map``: the tree of what is really there; the picture is in ``network_svg``."""

import sys
from collections.abc import Iterator
from typing import Any

from pierhead.client import network_words as words
from pierhead.client.errors import ClientError, DaemonError
from pierhead.client.flags import Options
from pierhead.client.session import Session

WIDTH = 100
ROOM = 40
"""Columns that must be left for what is said of a container beside its name, cable and address."""

NAME = 28
"""Columns that a container's name may have."""

STYLES = {"name": "1", "address": "36", "port": "32", "dim": "2", "bad": "31", "": ""}
"""What the parts of a line mean, and how a terminal shows it (SGR)."""

Part = tuple[str, str]
"""Text and its style."""
Line = tuple[Part, ...]


def map_(session: Session, options: Options) -> int:
    """Draw the networks."""
    format, output = options.text("format"), options.text("output")
    if format not in ("", "tree", "svg", "json"):
        raise ClientError(f'unknown format "{format}": must be one of "tree", "svg", "json"')
    if not format:
        format = {"svg": "svg", "json": "json"}.get(output.rpartition(".")[2] if "." in output else "", "tree")
    drawn = draw(fetch(session), format, colours=not output and sys.stdout.isatty())
    if not output or output == "-":
        sys.stdout.write(drawn)
        return 0
    try:
        with open(output, "w", encoding="utf-8") as file:
            file.write(drawn)
    except OSError as error:
        raise ClientError(f"{output}: {error.strerror}") from None
    return 0


def fetch(session: Session) -> Any:
    """The map as the daemon sees it."""
    try:
        return session.api.get("/pierhead/network/map")
    except DaemonError as error:
        if error.code == 404:
            raise ClientError("This daemon draws no map of its networks: it is not Pierhead's.") from None
        raise


def draw(map: Any, format: str, *, colours: bool = False) -> str:
    """The map as text of that format."""
    if format == "json":
        import json

        return json.dumps(map, indent=4) + "\n"
    if format == "svg":
        from pierhead.client.network_svg import svg

        return svg(map)
    return "".join(paint(line, colours) + "\n" for line in tree(map))


def paint(line: Line, colours: bool) -> str:
    """A line for a terminal, or plain."""
    if not colours:
        return "".join(text for text, _ in line).rstrip()
    return "".join(f"\x1b[{STYLES[style]}m{text}\x1b[m" if STYLES[style] else text for text, style in line)


# The tree ------------------------------------------------------------------------------------------------------------


def tree(map: Any) -> Iterator[Line]:
    """The whole map. Pure; no line is longer than WIDTH."""
    yield (map["host"], "name"), ("" if map["forwards"] else "  does not forward IPv4", "bad")
    yield from _hang(_Tree(map).branches())


def _hang(branches: list[list[Line]]) -> Iterator[Line]:
    """Branches below their parent: the first line of each at a fork, its others behind that."""
    for branch in branches:
        last = branch is branches[-1]
        for number, line in enumerate(branch):
            fork = ("└─ " if last else "├─ ") if number == 0 else ("   " if last else "│  ")
            yield (fork, "dim"), *line


def _columns(rows: list[list[str]]) -> list[int]:
    """The width of each column."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _flow(head: list[Part], columns: list[int], items: list[Part], width: int) -> list[Line]:
    """Cells in columns, then items as far as they fit; the others below the first of them, if there is room."""
    line: list[Part] = [
        (text.ljust(size + 2), style) for (text, style), size in zip(head, columns, strict=True) if size
    ]
    indent = used = sum(len(text) for text, _ in line)
    below = indent if width - indent >= ROOM else 4
    lines: list[Line] = []
    for text, style in items:
        if used > below and used + len(text) > width:
            lines.append(tuple(line))
            line, used = [(" " * below, "")], below
        short = _cut(text, width - used)
        line.append((f"{short}  ", style))
        used += len(short) + 2
    return [*lines, tuple(line)]


def _problem(text: str, width: int) -> list[Line]:
    """Words in lines of at most this width."""
    found: list[Line] = []
    line = "✗"
    for word in text.split(" "):
        if line.strip() and len(line) + 1 + len(word) > width:
            found.append(((line, "bad"),))
            line = " "
        line = f"{line} {_cut(word, width - 2)}"
    return [*found, ((line, "bad"),)]


class _Tree:
    """One map as branches of lines."""

    def __init__(self, map: Any) -> None:
        self.map = map
        self.containers = {one["id"]: one for one in map["containers"]}
        self.interfaces = {one["name"]: one for one in map["interfaces"]}
        names = [[one["name"], words.state(one)] for one in map["interfaces"]]
        self.columns = _columns([*names, *([one["interface"], "missing"] for one in self._missing())])

    def _missing(self) -> list[Any]:
        """Networks whose interface the kernel does not have."""
        return [one for one in self.map["networks"] if one["interface"] and one["interface"] not in self.interfaces]

    def branches(self) -> list[list[Line]]:
        """What hangs below the host."""
        found = [
            [*self._interface(one), *_hang(self._ports(one["name"]))]
            for one in self.map["interfaces"]
            if not one["network"] and one["parent"] not in self.interfaces
        ]
        for network in self.map["networks"]:
            if network["interface"] or network["attachments"]:
                found.append(self._network(network))
        left = words.detached(self.map)
        if left:
            found.append([(("no network", "name"),), *_hang([self._container(one, None, []) for one in left])])
        return found + [_problem(problem, WIDTH - 3) for problem in self.map["problems"]]

    def _interface(self, interface: Any, more: tuple[Part, ...] = (), depth: int = 1) -> list[Line]:
        state = words.state(interface)
        head = [(interface["name"], "name"), (state, "dim" if state == "up" else "bad")]
        facts = [interface["kind"]] if interface["kind"] and not more else []
        facts += [f"default route via {gateway}" for gateway in interface["gateways"]]
        items = [*((one, "address") for one in interface["addresses"]), *more, *((one, "dim") for one in facts)]
        return _flow(head, self.columns, items, WIDTH - 3 * depth)

    def _ports(self, name: str) -> list[list[Line]]:
        """What sits on an interface and is no container's: a virtual machine's end, a VLAN."""
        return [self._interface(one, depth=2) for one in self.map["interfaces"] if one["parent"] == name]

    def _network(self, network: Any) -> list[Line]:
        about: list[Part] = [(f"network {network['name']}", "name")]
        if network["driver"] not in ("bridge", "host", "null"):
            about.append((network["driver"], "dim"))
        if network["internal"]:
            about.append(("internal", "dim"))
        carrier = self.interfaces.get(network["interface"])
        own = carrier is not None and carrier["network"] == network["name"]
        if carrier is not None and own:
            lines = self._interface(carrier, tuple(about))
        elif carrier is not None:
            head = [about[0], (f"{network['driver']} on {carrier['name']}", "dim")]
            subnets = [(subnet, "address") for subnet in network["subnets"]]
            lines = _flow(head, [len(text) for text, _ in head], subnets, WIDTH - 3)
        elif network["interface"]:
            head = [(network["interface"], "name"), ("missing", "bad")]
            lines = _flow(head, self.columns, about, WIDTH - 3)
        else:
            note = {"host": "  the host's own interfaces", "null": "  only lo"}.get(network["driver"], "")
            lines = [(*about, (note, "dim"))]
        branches = [_problem(problem, WIDTH - 6) for problem in network["problems"]]
        joined = [(self.containers[one["container"]], one) for one in network["attachments"]]
        widths = _columns([_place(container, one) for container, one in joined])
        branches += [self._container(container, one, widths) for container, one in joined]
        return [*lines, *_hang([*branches, *(self._ports(network["interface"]) if own else [])])]

    def _container(self, container: Any, attachment: Any, widths: list[int]) -> list[Line]:
        """A container's place in a network. What is the same in all of its networks is said at its way out."""
        head: list[Part] = [(_cut(container["name"], NAME), "name")]
        items: list[Part] = []
        problems: list[str] = []
        main = attachment is None or attachment["way_out"] or not self._ways_out(container)
        if attachment is not None:
            name, cable, address = _place(container, attachment)
            head = [(name, "name"), (cable, "dim"), (address, "address")]
            items += [(words.short(one), "address") for one in attachment["addresses"][1:]]
            problems += attachment["problems"]
            others = words.other_names(attachment, container)
            items += [(f"also {', '.join(others)}", "dim")] if others else []
        if main:
            items += self._ports_of(container)
            items += [(f"listens {one}", "dim") for one in words.listeners(container)]
            items += [(f"shared by {one}", "dim") for one in words.sharing(self.map, container)]
            items += [
                (f"also has {other['name']} {' '.join(other['addresses'])}".rstrip(), "dim")
                for other in container["others"]
            ]
            problems += container["problems"]
        if container["state"] != "running":
            items.insert(0, (container["state"], "bad"))
        lines = _flow(head, widths or [len(head[0][0])], items, WIDTH - 6)
        return lines + [line for problem in problems for line in _problem(problem, WIDTH - 6)]

    def _ports_of(self, container: Any) -> Iterator[Part]:
        for port in container["ports"]:
            if words.silent(port, container):
                yield f"{words.published(port)} (nothing listens)", "bad"
            else:
                yield words.published(port), "port"

    def _ways_out(self, container: Any) -> bool:
        return any(
            one["way_out"]
            for network in self.map["networks"]
            for one in network["attachments"]
            if one["container"] == container["id"]
        )


def _place(container: Any, attachment: Any) -> list[str]:
    cable = attachment["interface"]
    if attachment["outside"]:
        cable += f" ─ {attachment['outside']}"
    return [_cut(container["name"], NAME), cable, " ".join(map(words.short, attachment["addresses"][:1]))]
