"""``pier``: reads the command line, finds the command, runs it, prints what went wrong."""

from __future__ import annotations

import os
import sys

from pierhead.client.commands import GROUPS, TREE, Command
from pierhead.client.errors import ClientError, Quit
from pierhead.client.flags import HelpWanted, Options, Page, UsageError, parse
from pierhead.client.session import GlobalOptions, Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

NOT_INTERSPERSED = frozenset(("container run", "container create", "container exec", "container top"))


def main() -> None:
    """Run the command line, and end: at once, where the interpreter would free piece by piece what goes anyway."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _stand_in()
    status = _run(sys.argv[1:])
    try:
        sys.stderr.flush()
    except OSError:
        pass  # nobody reads it
    os._exit(status)


def _stand_in() -> None:
    """Open /dev/null for the standard streams that we were begun without: a connection must not take their place."""
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(number)
    sys.stdin = sys.stdin or open(0, encoding="utf-8")
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8")
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8")


def _run(words: list[str]) -> int:
    """The exit status; everything is written."""
    try:
        try:
            return _dispatch(words)
        except Quit as quit:
            return quit.status
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return 1
    except KeyboardInterrupt:
        return 130
    except ClientError as error:
        _complain(str(error))
        return error.status
    except OSError as error:  # the daemon has gone in the middle of an answer, a disk is full
        return _failed(error)


def _complain(message: str) -> None:
    """Errors follow what was printed before them, also where both go to one pipe."""
    sys.stdout.flush()
    print(message, file=sys.stderr)


def _failed(error: OSError) -> int:
    from pierhead.errors import plain

    try:
        sys.stdout.flush()
    except OSError:  # it was the output itself
        _drop_output()
    _complain(plain(error))
    return 1


def _drop_output() -> None:
    """A reader that went away (``pier ps | head -1``) is no error; let nothing be flushed at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)


def _dispatch(words: list[str]) -> int:
    try:
        settings, rest = _global_options(words)
    except UsageError as error:
        _complain(f"{error}\n\nUsage:  pier [OPTIONS] COMMAND [ARG...]\n\nRun 'pier --help' for more information")
        return error.status
    if settings.version:
        from pierhead import __version__

        print(f"Pierhead version {__version__}")
        return 0
    if settings.help or not rest or rest == ["help"]:
        from pierhead.client.help import main_page
        from pierhead.client.host import config_folder

        print(main_page(config_folder(settings.config)))
        return 0
    if rest[0] == "help":
        rest = [*rest[1:], "--help"]
    path, arguments = (" ".join(rest[:2]), rest[2:]) if rest[0] in GROUPS else (rest[0], rest[1:])
    command = TREE.get(path)
    if command is None:
        return _no_command(rest)
    return _execute(command, path, arguments, settings)


def _global_options(words: list[str]) -> tuple[GlobalOptions, list[str]]:
    settings = GlobalOptions()
    if words and not words[0].startswith("-"):
        return settings, words
    from pierhead.client.help import GLOBAL_FLAGS

    page = Page("\n\n" + GLOBAL_FLAGS.replace("{config}", ""))
    try:
        options = parse(page, words, interspersed=False)
    except HelpWanted:
        settings.help = True
        return settings, []
    settings.hosts = tuple(options.all("host"))
    settings.config = options.text("config")
    settings.context = options.text("context")
    settings.version = options.on("version")
    settings.tls = options.on("tls") or options.on("tlsverify")
    settings.tls_verify = options.on("tlsverify")
    settings.tls_files = (options.text("tlscacert"), options.text("tlscert"), options.text("tlskey"))
    if options.text("log-level") not in ("debug", "info", "warn", "error", "fatal", "panic", "trace"):
        raise ClientError(f"Unable to parse logging level: {options.text('log-level')}")
    return settings, options.operands


def _no_command(rest: list[str]) -> int:
    group = rest[0] if rest[0] in GROUPS else ""
    if group and (len(rest) == 1 or rest[1] in ("--help", "-h", "help")):
        from pierhead.client.help import group_page

        print(group_page(group), end="", file=sys.stderr if len(rest) == 1 else sys.stdout)
        return 0
    if group and rest[1].startswith("-"):
        kind = f"unknown flag: {rest[1]}" if rest[1].startswith("--") else f"unknown shorthand flag: '{rest[1][1]}' in "
        kind += "" if rest[1].startswith("--") else rest[1]
        _complain(f"{kind}\n\nUsage:  pier {group} COMMAND\n\nRun 'pier {group} --help' for more information")
        return 125
    if group:
        _complain(
            f"pier: unknown command: pier {group} {rest[1]}\n\n"
            f"Usage:  pier {group}{' COMMAND' if group == 'volume' else ''}\n\n"
            f"Run 'pier {group} --help' for more information"
        )
        return 1
    _complain(f"pier: unknown command: pier {rest[0]}\n\nRun 'pier --help' for more information")
    return 1


def _module(name: str) -> ModuleType:
    """``importlib.import_module`` without the import of importlib."""
    __import__(name)
    return sys.modules[name]


def _execute(command: Command, path: str, arguments: list[str], settings: GlobalOptions) -> int:
    grammar, entry = command.grammar.split(":")
    page = Page(_module("pierhead.client.grammar." + grammar).COMMANDS[entry])
    try:
        options = parse(page, arguments, command.canonical not in NOT_INTERSPERSED)
    except HelpWanted as wanted:
        from pierhead.client.help import command_page

        if wanted.deprecated:
            print("Flag shorthand -h has been deprecated, use --help")
        print(command_page(path, command, page), end="")
        return 0
    except UsageError as error:
        usage = f"Usage:  pier {path} {page.operands}"
        _complain(f"{error}\n\n{usage}\n\nRun 'pier {path} --help' for more information")
        return error.status
    for line in options.deprecated:
        print(line)
    problem = _count_operands(options)
    if problem:
        see = "See" if problem.startswith("requires at least") and "most" not in problem else "Run"
        _complain(
            f"pier: 'pier {path}' {problem}\n\nUsage:  pier {path} {page.operands}\n\n"
            f"{see} 'pier {path} --help' for more information"
        )
        return 1
    module, function = command.code.split(":")
    session = Session(settings, path)
    status = getattr(_module("pierhead.client." + module), function)(session, options)
    assert isinstance(status, int)
    return status


def _count_operands(options: Options) -> str:
    least, most = options.page.operand_range()
    count = len(options.operands)
    if count >= least and (most is None or count <= most):
        return ""

    def words(number: int) -> str:
        return f"{number} argument" + ("s" if number != 1 else "")

    if most == 0:
        return "accepts no arguments"
    if most is None:
        return f"requires at least {words(least)}"
    if least == most:
        return f"requires {words(least)}"
    if least == 0:
        return f"requires at most {words(most)}"
    return f"requires at least {least} and at most {words(most)}"
