"""Flags as Docker's own client reads them: the grammar of the pflag library of Go.

``--name=x``, ``--name x``, ``-n x``, ``-nx``, ``-n=x``, ``-itd``; booleans take a value only after ``=``; ``--`` ends
the flags.  A command that runs another (run, create, exec, top) ends them at its first operand.
"""

from pierhead.client.values import check, quoted

FORMAT_PLAIN = """Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates"""
FORMAT_TABLE = FORMAT_PLAIN.replace(
    "\n'json'",
    """
'table':            Print output in table format with column headers (default)
'table TEMPLATE':   Print output in table format using the given Go template
'json'""",
    1,
)
REPEATED = frozenset(("list", "map", "strings", "filter", "mount", "network", "ulimit", "gpu-request"))
TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))


class UsageError(Exception):
    """The command line itself is wrong. ``status`` is the exit status that Docker gives it."""

    def __init__(self, message: str, status: int = 125) -> None:
        super().__init__(message)
        self.status = status


class HelpWanted(Exception):
    """``--help`` was among the flags."""

    def __init__(self, deprecated: bool = False) -> None:
        super().__init__()
        self.deprecated = deprecated


class Flag:
    """One flag of a page."""

    __slots__ = ("hidden", "key", "letter", "name", "type", "usage")

    def __init__(self, line: str) -> None:
        head, _, self.usage = line.partition("  ")
        self.hidden = head.startswith("!")
        head = head.lstrip("!")
        self.letter = ""
        if head[1] != "-":
            self.letter, head = head[1], head[4:]
        name, _, self.type = head[2:].partition(" ")
        self.name = name
        # Under which name its values are kept: what a flag and its older spelling say is one list.
        self.key = self.usage.partition("Same as --")[2] or name
        if self.usage in ("@table", "@plain"):
            self.usage = FORMAT_TABLE if self.usage == "@table" else FORMAT_PLAIN

    @property
    def shown(self) -> str:
        """How Docker's errors name it."""
        return f"-{self.letter}, --{self.name}" if self.letter else f"--{self.name}"

    def default(self) -> "bool | str | list[str]":
        """The value without the flag: what the usage says in ``(default …)``, else Go's zero value."""
        if self.type in REPEATED:
            return []
        text = ""
        if self.usage.endswith(")"):
            text = self.usage.rpartition("(default ")[2][:-1] if "(default " in self.usage else ""
        if not self.type:
            return text == "true"
        if text.startswith('"'):
            return text[1:-1]
        return text if text.lstrip("-").isdigit() else ""


class Page:
    """One command's grammar."""

    def __init__(self, text: str) -> None:
        lines = text.rstrip("\n").split("\n")
        self.operands, self.description = lines[0], lines[1]
        self.flags: dict[str, Flag] = {}
        last = None
        for line in lines[2:]:
            if line.startswith("|"):
                assert last is not None
                last.usage += "\n" + line[1:]
            else:
                last = Flag(line)
                self.flags[last.name] = last
        self.letters = {flag.letter: flag for flag in self.flags.values() if flag.letter}

    def operand_range(self) -> tuple[int, int | None]:
        """How many operands the usage line allows: least and most (None: any number)."""
        least, most = 0, 0
        for word in self.operands.split():
            if word == "[OPTIONS]":
                continue
            if word.endswith(("...]", "OPTIONS]")):
                return least, None
            if word == "file|URL|-":
                return 1, None  # Docker counts only the first
            most += 1
            least += not word.startswith("[")
        return least, most


class Options:
    """What was said on a command line. Absent flags read as their defaults."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.said: dict[str, bool | str | list[str]] = {}
        self.operands: list[str] = []
        self.deprecated: list[str] = []

    def _get(self, name: str) -> "bool | str | list[str]":
        if name in self.said:
            return self.said[name]
        flag = self.page.flags.get(name)
        return False if flag is None else flag.default()

    def on(self, name: str) -> bool:
        """A boolean flag's value."""
        return self._get(name) is True

    def text(self, name: str) -> str:
        """A single value; empty where the flag is absent and has no default."""
        value = self._get(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> int:
        """A whole number; 0 where absent."""
        text = self.text(name)
        return int(text, 0) if text else 0

    def all(self, name: str) -> list[str]:
        """Every value of a flag that may be repeated."""
        value = self._get(name)
        return value if isinstance(value, list) else []

    def given(self, name: str) -> bool:
        """Whether the flag was on the command line."""
        return name in self.said

    def set(self, flag: Flag, value: str) -> None:
        """Take one value. Raises UsageError in pflag's words."""
        problem = ""
        if not flag.type:
            if value in TRUE or value in FALSE:
                self.said[flag.key] = value in TRUE
                return
            problem = f"strconv.ParseBool: parsing {quoted(value)}: invalid syntax"
        else:
            problem = check(flag.type, flag.name, value)
        if problem:
            raise UsageError(f'invalid argument {quoted(value)} for "{flag.shown}" flag: {problem}')
        if flag.type in REPEATED:
            values = self.said.setdefault(flag.key, [])
            assert isinstance(values, list)
            values.extend(_split(value) if flag.type == "strings" else [value])
        else:
            self.said[flag.key] = value


def _split(value: str) -> list[str]:
    from pierhead.client import csvline

    return csvline.split(value) if value else []


def parse(page: Page, arguments: list[str], interspersed: bool) -> Options:
    """Read a command's arguments. Raises UsageError, or HelpWanted for ``--help``."""
    options = Options(page)
    position = 0
    while position < len(arguments):
        word = arguments[position]
        position += 1
        if word == "--":
            options.operands += arguments[position:]
            break
        if len(word) < 2 or word[0] != "-":
            options.operands.append(word)
            if not interspersed:
                options.operands += arguments[position:]
                break
        elif word[1] == "-":
            position = _long(options, word, arguments, position)
        else:
            position = _short(options, word, arguments, position)
    return options


def _long(options: Options, word: str, arguments: list[str], position: int) -> int:
    name, equals, value = word[2:].partition("=")
    if not name or name.startswith(("-", "=")):
        raise UsageError(f"bad flag syntax: {word}")
    flag = options.page.flags.get(name)
    if flag is None or name == "help":
        if name == "help":
            raise HelpWanted
        raise UsageError(f"unknown flag: --{name}")
    if flag.hidden and flag.usage.startswith("Deprecated: use "):
        replacement = flag.usage.removeprefix("Deprecated: use ")
        options.deprecated.append(f"Flag --{name} has been deprecated, use {replacement} instead")
    if not equals:
        if not flag.type:
            value = "true"
        elif position < len(arguments):
            value = arguments[position]
            position += 1
        else:
            raise UsageError(f"flag needs an argument: --{name}")
    options.set(flag, value)
    return position


def _short(options: Options, word: str, arguments: list[str], position: int) -> int:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        flag = options.page.letters.get(letter)
        if flag is None:
            if letter == "h":
                raise HelpWanted(deprecated=True)
            raise UsageError(f"unknown shorthand flag: '{letter}' in -{letter}{letters}")
        if len(letters) > 1 and letters[0] == "=":
            value, letters = letters[1:], ""
        elif not flag.type:
            value = "true"
        elif letters:
            value, letters = letters, ""
        elif position < len(arguments):
            value = arguments[position]
            position += 1
        else:
            raise UsageError(f"flag needs an argument: '{letter}' in {word}")
        options.set(flag, value)
    return position
