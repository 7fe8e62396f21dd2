"""What ``--change`` of ``import`` and ``commit`` says: Dockerfile instructions that only touch the configuration.

Variables in them are those of the configuration before the instruction, as the Dockerfile reference has it
(https://docs.docker.com/reference/dockerfile/#environment-replacement).
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from pierhead.daemon.jobs.checks import check_health
from pierhead.daemon.jobs.describe import variables
from pierhead.daemon.jobs.lifecycle import signal_number
from pierhead.errors import InvalidParameter
from pierhead.wire import codec
from pierhead.wire.containers import ContainerConfig, HealthConfig
from pierhead.wire.time import parse_duration

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_QUOTED = r"'[^']*'|\"(?:[^\"\\]|\\.)*\"|\\."
_WORD = re.compile(rf"(?:{_QUOTED}|[^\s'\"\\])+", re.DOTALL)
_VARIABLE = r"\$(?:(?P<plain>\w+)|\{(?P<name>\w+)(?:(?P<how>:?[-+?])(?P<word>(?:[^{}]|\$\{[^{}]*\})*))?\})"
_BARE = re.compile(rf"(?P<quoted>{_QUOTED})|{_VARIABLE}|(?P<bad>\$\{{|['\"\\])|(?P<rest>.)", re.DOTALL)
_WITHIN_QUOTES = re.compile(rf"(?P<quoted>\\[\"$\\])|{_VARIABLE}|(?P<bad>\$\{{)|(?P<rest>.)", re.DOTALL)
_CONTINUED = re.compile(r"(?<!\\)\\[ \t]*$")
_NO_TRIGGERS = {
    "ONBUILD": "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
    "MAINTAINER": "MAINTAINER isn't allowed as an ONBUILD trigger",
    "FROM": "FROM isn't allowed as an ONBUILD trigger",
}


def instructions(changes: Sequence[str]) -> list[str]:
    """Every ``--change`` together is one Dockerfile: an instruction a line, lines that go on in the next, comments.

    Raises InvalidParameter where there are changes and no instruction.
    """
    found: list[str] = []
    goes_on = 0
    for line in "\n".join(changes).split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            continue  # within an instruction that goes on, too
        text, more = _CONTINUED.subn("", line.rstrip("\r"))
        if goes_on:
            found[-1] += text
        else:
            found.append(text.lstrip())
        goes_on = more
    if changes and not found:
        raise InvalidParameter("file with no instructions")
    return found


def apply_change(config: ContainerConfig, change: str) -> None:
    """One instruction. Raises InvalidParameter."""
    word, rest = (*change.split(maxsplit=1), "", "")[:2]
    rest = rest.strip()
    name = word.upper()
    if name not in _CHANGES:
        raise InvalidParameter(f"{name.lower() or change} is not a valid change command")
    if not rest and name not in ("CMD", "ENTRYPOINT"):
        raise InvalidParameter(f"{name} requires at least one argument")
    _CHANGES[name](config, rest)


def _words(text: str) -> list[str]:
    """Its words with their quotes. Raises InvalidParameter."""
    words = _WORD.findall(text)
    if _WORD.sub("", text).strip() or not words:
        raise InvalidParameter(f"failed to process {text!r}: unexpected end of statement while looking for a quote")
    return words


def _expand(text: str, config: ContainerConfig) -> str:
    """Without its quotes, and its variables replaced. Raises InvalidParameter."""
    return _replaced(text, variables(config), _BARE)


def _replaced(text: str, known: Mapping[str, str], parts: re.Pattern[str]) -> str:
    done = ""
    for match in parts.finditer(text):
        found = match.groupdict()
        quoted, name = found["quoted"], found["plain"] or found["name"]
        if found["bad"]:
            raise InvalidParameter(f"failed to process {text!r}: syntax error")
        if name:
            done += _value(name, found["how"] or "", found["word"] or "", known)
        elif not quoted:
            done += found["rest"]
        elif quoted[0] == '"':
            done += _replaced(quoted[1:-1], known, _WITHIN_QUOTES)
        else:
            done += quoted[1:-1] if quoted[0] == "'" else quoted[1:]
    return done


def _value(name: str, how: str, word: str, known: Mapping[str, str]) -> str:
    """What ``${name}`` or ``${name:-word}`` stands for; how: "" or -, +, ?, with a colon where empty is none."""
    value = known.get(name, "")
    there = bool(value) if how.startswith(":") else name in known
    if how.endswith("+"):
        return _replaced(word, known, _BARE) if there else ""
    if there or not how:
        return value
    word = _replaced(word, known, _BARE)
    if how.endswith("?"):
        raise InvalidParameter(f"failed to process {name!r}: {word or 'not allowed to be unset'}")
    return word


def _listed(text: str) -> list[str] | None:
    """The JSON form; None where it is not."""
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError:
        return None


def _command(text: str) -> list[str]:
    """The JSON form, or a line for the shell."""
    listed = _listed(text)
    if listed is not None:
        return listed
    return ["/bin/sh", "-c", text] if text else []


def _pairs(config: ContainerConfig, text: str, what: str) -> dict[str, str]:
    words = _words(text)
    if "=" not in words[0]:
        key, *rest = text.split(maxsplit=1)
        if not rest:
            raise InvalidParameter(f"{what} must have two arguments")
        return {_expand(key, config): _expand(rest[0], config)}
    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        key, value = _expand(key, config), _expand(value, config)
        if not equals or not key:
            raise InvalidParameter(f"Syntax error - can't find = in {word!r}. Must be of the form: name=value")
        pairs[key] = value
    return pairs


def _env(config: ContainerConfig, text: str) -> None:
    pairs = _pairs(config, text, "ENV")
    kept = [entry for entry in config.env or [] if entry.partition("=")[0] not in pairs]
    config.env = kept + [f"{key}={value}" for key, value in pairs.items()]


def _label(config: ContainerConfig, text: str) -> None:
    config.labels = {**(config.labels or {}), **_pairs(config, text, "LABEL")}


def _expose(config: ContainerConfig, text: str) -> None:
    ports = dict(config.exposed_ports or {})
    for word in " ".join(_expand(word, config) for word in _words(text)).split():
        match = _PORT.fullmatch(word)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if match is None or not 0 < low <= high < 65536:
            raise InvalidParameter(f"invalid containerPort: {word}")
        for port in range(low, high + 1):
            ports[f"{port}/{(match[3] or 'tcp').lower()}"] = {}
    config.exposed_ports = ports


def _volume(config: ContainerConfig, text: str) -> None:
    listed = _listed(text)
    names = [_expand(name, config) for name in (_words(text) if listed is None else listed)]
    if not all(names):
        raise InvalidParameter("VOLUME specified can not be an empty string")
    config.volumes = {**(config.volumes or {}), **codec.decode(codec.encode({n: {} for n in names}), dict)}


def _workdir(config: ContainerConfig, text: str) -> None:
    text = _expand(text, config)
    if not text:
        raise InvalidParameter("cannot normalize nothing")
    config.working_dir = os.path.normpath(os.path.join(config.working_dir or "/", text))


def _user(config: ContainerConfig, text: str) -> None:
    config.user = _expand(text, config)


def _stop_signal(config: ContainerConfig, text: str) -> None:
    text = _expand(text, config)
    signal_number(text)
    config.stop_signal = text


def _set_command(field: str) -> Callable[[ContainerConfig, str], None]:
    return lambda config, text: setattr(config, field, _command(text))


def _onbuild(config: ContainerConfig, text: str) -> None:
    trigger = text.split(maxsplit=1)[0].upper()
    if trigger in _NO_TRIGGERS:
        raise InvalidParameter(_NO_TRIGGERS[trigger])
    config.on_build = [*(config.on_build or []), text]


_HEALTH_TIMES = {
    "interval": "interval",
    "timeout": "timeout",
    "start-period": "start_period",
    "start-interval": "start_interval",
}


def _healthcheck(config: ContainerConfig, text: str) -> None:
    """NONE, or [--interval=1m --timeout=…] CMD and a command."""
    health = HealthConfig()
    kind, _, rest = text.partition(" ")
    while kind.startswith("--"):
        name, _, value = kind[2:].partition("=")
        try:
            if name == "retries":
                health.retries = int(value)
                if health.retries >= 1 << 31:
                    raise InvalidParameter(f"invalid retries: {value}: value out of range")
            elif name in _HEALTH_TIMES:
                setattr(health, _HEALTH_TIMES[name], parse_duration(value))
            else:
                raise InvalidParameter(f"unknown flag: --{name}")
        except ValueError as error:
            raise InvalidParameter(str(error)) from None
        kind, _, rest = rest.lstrip().partition(" ")
    rest = rest.strip()
    if kind.upper() == "NONE":
        if rest or health != HealthConfig():
            raise InvalidParameter("HEALTHCHECK NONE takes no arguments")
        health.test = ["NONE"]
    elif kind.upper() != "CMD":
        raise InvalidParameter(f"Unknown type {kind.upper()!r} in HEALTHCHECK (try CMD)".replace("'", '"'))
    elif not rest:
        raise InvalidParameter("Missing command after HEALTHCHECK CMD")
    else:
        words = _command(rest)
        health.test = ["CMD-SHELL", rest] if words[:2] == ["/bin/sh", "-c"] else ["CMD", *words]
    check_health(health)
    config.healthcheck = health


_CHANGES: dict[str, Callable[[ContainerConfig, str], None]] = {
    "CMD": _set_command("cmd"),
    "ENTRYPOINT": _set_command("entrypoint"),
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
