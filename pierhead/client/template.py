"""Go's text/template, as far as ``--format`` uses it.

Values are JSON's (dicts, lists, strings, numbers, None) or objects with ``go_field(name)``.  Known: fields, methods
with arguments, variables, pipelines, parentheses, if/else if/else, range/else, with, trim markers, comments, Go's
comparison and printing functions, and Docker's own: json, split, join, title, lower, upper, pad, truncate.
"""

import re
from typing import Any

from pierhead.client.template_values import (
    FUNCTIONS,
    Escaped,
    Nil,
    TemplateError,
    field_of,
    go_json,
    go_print,
    is_true,
    iterate,
)

__all__ = ["Escaped", "Template", "TemplateError", "go_json"]

_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.S)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<char>'(?:\\.|[^'\\])')|(?P<number>[+-]?\d[\w.]*)|"""
    r"""(?P<field>(?:\.[A-Za-z_]\w*)+|\$\w*(?:\.[A-Za-z_]\w*)*|\.)|(?P<word>[A-Za-z_]\w*)|(?P<mark>:=|[|(),=]))"""
)
Scope = dict[str, Any]
Token = tuple[str, str, int]  # kind, text, place in the template


class Template:
    """A parsed template. Raises TemplateError in Go's words where it makes no sense."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.pieces = _split(text)
        self.position = 0
        self.root, end = self._block()
        if end:
            raise TemplateError(f":1: unexpected {{{{{end}}}}}")

    def _block(self) -> tuple[list[Any], str]:
        """Nodes up to ``end`` or ``else``: they are plain text, ("print", …), ("if", …), …."""
        nodes: list[Any] = []
        while self.position < len(self.pieces):
            literal, action, place = self.pieces[self.position]
            self.position += 1
            if literal:
                nodes.append(literal)
            if action is None or action.startswith("/*"):
                continue
            word, _, rest = action.partition(" ")
            if word in ("end", "else"):
                return nodes, action
            if word in ("if", "range", "with"):
                nodes.append(self._branches(word, _tokens(rest, place + len(action) - len(rest))))
            else:
                nodes.append(("print", _tokens(action, place)))
        return nodes, ""

    def _branches(self, word: str, condition: list[Token]) -> tuple[str, list[Token], list[Any], list[Any]]:
        body, end = self._block()
        if end.startswith("else "):
            again, _, rest = end[5:].strip().partition(" ")
            return word, condition, body, [self._branches(again, _tokens(rest, 0))]
        other: list[Any] = []
        if end == "else":
            other, end = self._block()
        if end != "end":
            raise TemplateError(":1: unexpected EOF")
        return word, condition, body, other

    def execute(self, data: Any, header: bool = False) -> str:
        """The text for one value. ``header``: functions give their argument back, as Docker titles its columns."""
        out: list[str] = []
        _Run(header).nodes(self.root, data, {"$": data}, out)
        return "".join(out)


def _split(text: str) -> list[tuple[str, str | None, int]]:
    """Literal text, the action behind it, and where that begins."""
    pieces: list[tuple[str, str | None, int]] = []
    at = 0
    trim = False
    for match in _ACTION.finditer(text):
        literal = text[at : match.start()]
        literal = literal.lstrip() if trim else literal
        pieces.append((literal.rstrip() if match[1] else literal, match[2].strip(), match.start(2)))
        trim = bool(match[3])
        at = match.end()
    rest = text[at:]
    if "{{" in rest:
        raise TemplateError(":1: unclosed action")
    pieces.append((rest.lstrip() if trim else rest, None, at))
    return pieces


def _tokens(text: str, place: int) -> list[Token]:
    found: list[Token] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise TemplateError(f':1: unexpected "{text[at:].lstrip()[:1]}" in command')
        if match.lastgroup == "word" and not _known(match["word"]):
            raise TemplateError(f':1: function "{match["word"]}" not defined')
        # ".A" straight behind ")" is a field of what the parentheses give, not a further argument.
        behind = bool(found) and found[-1][:2] == ("mark", ")") and text[at : at + 1] == "."
        kind = "chain" if behind and match.lastgroup == "field" else match.lastgroup
        found.append((kind, match[match.lastgroup], place + match.start(match.lastgroup)))
        at = match.end()
    if not found:
        raise TemplateError(":1: missing value for command")
    return found


def _known(word: str) -> bool:
    return word in FUNCTIONS or word in ("true", "false", "nil", "and", "or", "break", "continue")


class _Stop(Exception):
    """break or continue inside range."""


class _Run:
    """One execution."""

    def __init__(self, header: bool) -> None:
        self.header = header

    def nodes(self, nodes: list[Any], dot: Any, scope: Scope, out: list[str]) -> None:
        for node in nodes:
            if isinstance(node, str):
                out.append(node)
            elif node[0] == "print":
                if node[1][0][1] in ("break", "continue"):
                    raise _Stop(node[1][0][1])
                name, value = self.assigned(node[1], dot, scope)
                if not name:
                    out.append(go_print(value))
            else:
                self.branch(node, dot, scope, out)

    def branch(
        self, node: tuple[str, list[Token], list[Any], list[Any]], dot: Any, scope: Scope, out: list[str]
    ) -> None:
        word, condition, body, other = node
        inner = dict(scope)
        if word == "range":
            self.range(condition, body, other, dot, inner, out)
            return
        _, value = self.assigned(condition, dot, inner)
        if is_true(value):
            self.nodes(body, value if word == "with" else dot, inner, out)
        else:
            self.nodes(other, dot, inner, out)

    def range(
        self, tokens: list[Token], body: list[Any], other: list[Any], dot: Any, scope: Scope, out: list[str]
    ) -> None:
        names: list[str] = []
        marks = [number for number, token in enumerate(tokens) if token[:2] == ("mark", ":=")]
        if marks:
            cut = marks[0]
            names = [text for kind, text, _ in tokens[:cut] if kind == "field"]
            tokens = tokens[cut + 1 :]
        pairs = iterate(self.pipeline(tokens, dot, scope))
        for key, value in pairs:
            if names:
                scope[names[-1]] = value
            if len(names) > 1:
                scope[names[0]] = key
            try:
                self.nodes(body, value, dict(scope), out)
            except _Stop as stop:
                if str(stop) == "break":
                    break
        if not pairs:
            self.nodes(other, dot, scope, out)

    def assigned(self, tokens: list[Token], dot: Any, scope: Scope) -> tuple[str, Any]:
        """``$x := pipeline`` or a pipeline alone."""
        if len(tokens) > 2 and tokens[1][:2] in (("mark", ":="), ("mark", "=")):
            value = self.pipeline(tokens[2:], dot, scope)
            scope[tokens[0][1]] = value
            return tokens[0][1], value
        return "", self.pipeline(tokens, dot, scope)

    def pipeline(self, tokens: list[Token], dot: Any, scope: Scope) -> Any:
        depth, start = 0, 0
        commands: list[list[Token]] = []
        for at, (kind, text, _) in enumerate(tokens):
            depth += (kind == "mark" and text == "(") - (kind == "mark" and text == ")")
            if kind == "mark" and text == "|" and depth == 0:
                commands.append(tokens[start:at])
                start = at + 1
        commands.append(tokens[start:])
        value: Any = _NONE
        for command in commands:
            value = self.command(command, dot, scope, value)
        return value

    def command(self, tokens: list[Token], dot: Any, scope: Scope, piped: Any) -> Any:
        if not tokens:
            raise TemplateError(":1: missing value for command")
        kind, text, _ = tokens[0]
        if kind == "word" and text not in ("true", "false", "nil"):
            arguments = self.operands(tokens[1:], dot, scope)
            if piped is not _NONE:
                arguments.append(piped)
            return self.function(text, arguments)
        values = self.operands(tokens, dot, scope)
        arguments = values[1:] + ([] if piped is _NONE else [piped])
        if callable(values[0]):
            return values[0](*arguments)
        if arguments:
            raise TemplateError(f"can't give argument to non-function {text}", executing=True)
        return values[0]

    def function(self, name: str, arguments: list[Any]) -> Any:
        if name in ("and", "or"):
            for value in arguments:
                if is_true(value) == (name == "or"):
                    return value
            return arguments[-1]
        if self.header and name in ("json", "title", "lower", "upper", "pad", "truncate", "split", "join"):
            return next((value for value in arguments if isinstance(value, str)), "")
        try:
            return FUNCTIONS[name](*arguments)
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise TemplateError(f":1: error calling {name}: {error}", executing=True) from None

    def operands(self, tokens: list[Token], dot: Any, scope: Scope) -> list[Any]:
        values: list[Any] = []
        at = 0
        while at < len(tokens):
            kind, text, place = tokens[at]
            at += 1
            if kind == "mark" and text == "(":
                end, depth = at, 1
                while end < len(tokens) and depth:
                    depth += (tokens[end][:2] == ("mark", "(")) - (tokens[end][:2] == ("mark", ")"))
                    end += 1
                if depth:
                    raise TemplateError(":1: unclosed left paren")
                values.append(self.pipeline(tokens[at : end - 1], dot, scope))
                at = end
            elif kind == "chain":
                values[-1] = self.fields(values[-1], text, text, place)
            else:
                values.append(self.operand(tokens[at - 1], dot, scope))
        return values

    def operand(self, token: Token, dot: Any, scope: Scope) -> Any:
        kind, text, place = token
        if kind == "string":
            return text[1:-1] if text[0] == "`" else _unquote(text)
        if kind == "char":
            return ord(_unquote('"' + text[1:-1] + '"'))
        if kind == "number":
            return float(text) if "." in text else int(text, 0)
        if kind == "word":
            return FUNCTIONS[text] if text in FUNCTIONS else {"true": True, "false": False}.get(text)
        if kind == "field":
            if text.startswith("$"):
                name, _, rest = text.partition(".")
                if name not in scope:
                    raise TemplateError(f':1: undefined variable "{name}"')
                return self.fields(scope[name], "." + rest if rest else ".", text, place + len(name))
            return self.fields(dot, text, text, place)
        raise TemplateError(f':1: unexpected "{text}" in operand')

    def fields(self, value: Any, path: str, shown: str, place: int) -> Any:
        """Follow ``.A.B``; ``shown`` and ``place`` are for Go's error."""
        for name in path.split("."):
            if name:
                try:
                    value = field_of(value, name)
                except TemplateError as error:
                    if isinstance(value, Nil):
                        place -= len(value.name) + 1  # it is what is missing
                    where = f':1:{place}: executing "" at <{shown}>: '
                    raise TemplateError(where + str(error), executing=True) from None
                place += len(name) + 1
        return value


def _unquote(text: str) -> str:
    import json

    try:
        return str(json.loads(text, strict=False))
    except ValueError:
        raise TemplateError(f":1: invalid syntax: {text}") from None


_NONE = object()
