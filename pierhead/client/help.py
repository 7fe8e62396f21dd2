"""Help pages, laid out as Docker's client lays them out."""

import os

from pierhead.client.commands import COMMON, GROUPS, HIDDEN, TREE, Command
from pierhead.client.flags import Flag, Page

GLOBAL_FLAGS = """\
--config string  Location of client config files (default "{config}")
-c, --context string  Name of the context to use to connect to the daemon (overrides DOCKER_HOST env var and default \
context set with "docker context use")
-D, --debug  Enable debug mode
-H, --host list  Daemon socket to connect to
-l, --log-level string  Set the logging level ("debug", "info", "warn", "error", "fatal") (default "info")
--tls  Use TLS; implied by --tlsverify
--tlscacert string  Trust certs signed only by this CA (default "{config}/ca.pem")
--tlscert string  Path to TLS certificate file (default "{config}/cert.pem")
--tlskey string  Path to TLS key file (default "{config}/key.pem")
--tlsverify  Use TLS and verify the remote
-v, --version  Print version information and quit"""


def width() -> int:
    """Columns of the terminal on standard input, as Docker measures it; 80 where there is none."""
    try:
        return os.get_terminal_size(0).columns or 80
    except OSError:
        return 80


def flag_lines(flags: list[Flag], columns: int) -> list[str]:
    """The Options block."""
    shown = sorted((flag for flag in flags if not flag.hidden), key=lambda flag: flag.name)
    heads = []
    for flag in shown:
        letter = f"  -{flag.letter}, " if flag.letter else "      "
        heads.append(f"{letter}--{flag.name}{' ' + flag.type if flag.type else ''}")
    margin = max(map(len, heads)) + 3
    return [
        head.ljust(margin) + _wrap(flag.usage, margin, columns - 1) for head, flag in zip(heads, shown, strict=True)
    ]


def _wrap(text: str, indent: int, columns: int) -> str:
    """pflag's wrapping, quirks and all: it may run over by five columns rather than leave a short word alone."""
    room = columns - indent
    start = ""
    if room < 24:
        indent = 16
        room = columns - indent
        start = "\n" + " " * indent
    if room < 24:
        return text.replace("\n", start)
    slop = 5
    room -= slop
    lines: list[str] = []
    rest = text
    while rest or not lines:
        line, rest = _wrap_once(room, slop, rest)
        lines.append(line)
    return start + "\n".join(lines).replace("\n", "\n" + " " * indent)


def _wrap_once(room: int, slop: int, text: str) -> tuple[str, str]:
    if room + slop > len(text):
        return text, ""
    cut = max(text.rfind(character, 0, room) for character in " \t\n")
    if cut <= 0:
        return text, ""
    line_end = text.rfind("\n", 0, room)
    if 0 < line_end < cut:
        cut = line_end
    return text[:cut], text[cut + 1 :]


def usage_line(path: str, page: Page) -> str:
    """``Usage:  pier ps [OPTIONS]``."""
    return f"Usage:  pier {path} {page.operands}".rstrip()


def command_page(path: str, command: Command, page: Page) -> str:
    """``pier COMMAND --help``."""
    parts = [usage_line(path, page), "", page.description, ""]
    if command.aliases:
        parts += ["Aliases:", "  " + ", ".join(f"pier {alias}" for alias in command.aliases), ""]
    if page.flags:
        parts += ["Options:", *flag_lines(list(page.flags.values()), width()), ""]
    return "\n".join(parts).rstrip("\n") + "\n"


def group_page(group: str) -> str:
    """``pier network --help``, and what ``pier network`` alone prints."""
    names = {path.split()[1]: command for path, command in TREE.items() if path.startswith(group + " ")}
    first = {command.canonical.split()[-1]: command.description for command in names.values()}
    return (
        f"Usage:  pier {group} COMMAND\n\n{GROUPS[group]}\n\nCommands:\n"
        + "".join(_entries(first))
        + f"\nRun 'pier {group} COMMAND --help' for more information on a command.\n"
    )


def _entries(names: dict[str, str]) -> list[str]:
    return [f"  {name.ljust(12)}{text}\n" for name, text in sorted(names.items())]


def main_page(config: str) -> str:
    """``pier --help``."""
    top = {path: command.description for path, command in TREE.items() if " " not in path and path not in HIDDEN}
    common = [f"  {name.ljust(12)}{top[name]}\n" for name in COMMON]
    groups = _entries(GROUPS)
    rest = _entries({name: text for name, text in top.items() if name not in COMMON})
    flags = Page("\n\n" + GLOBAL_FLAGS.format(config=config))
    return (
        "Usage:  pier [OPTIONS] COMMAND\n\nA container engine that speaks Docker's Engine API\n\nCommon Commands:\n"
        + "".join(common)
        + "\nManagement Commands:\n"
        + "".join(groups)
        + "\nCommands:\n"
        + "".join(rest)
        + "\nGlobal Options:\n"
        + "\n".join(flag_lines(list(flags.flags.values()), width()))
        + "\n\nRun 'pier COMMAND --help' for more information on a command.\n"
    )
