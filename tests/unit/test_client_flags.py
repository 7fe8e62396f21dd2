"""The command line of pier: flags in all of Docker's spellings, and what is refused."""

from importlib import import_module
from pathlib import Path

import pytest

from pierhead.client.commands import TREE
from pierhead.client.flags import HelpWanted, Options, Page, UsageError, parse
from pierhead.client.grammar.run import COMMANDS
from pierhead.client.mounts import MountProblem
from pierhead.client.mounts import parse as parse_mount
from pierhead.client.ports import publish
from pierhead.client.run import _id_file
from pierhead.client.run_options import request
from pierhead.client.streams import DetachKeys
from pierhead.client.values import duration, size

RUN = Page(COMMANDS["run"])


def run(*words: str) -> Options:
    return parse(RUN, list(words), interspersed=False)


@pytest.mark.parametrize("words", [("--name", "x"), ("--name=x",)])
def test_long_flags_take_their_value_either_way(words: tuple[str, ...]) -> None:
    assert run(*words, "image").text("name") == "x"


@pytest.mark.parametrize("words", [("-p8081:80",), ("-p", "8081:80"), ("-p=8081:80",), ("--publish", "8081:80")])
def test_short_flags_take_their_value_every_way(words: tuple[str, ...]) -> None:
    assert run(*words, "image").all("publish") == ["8081:80"]


def test_letters_are_grouped_and_the_last_may_take_a_value() -> None:
    options = run("-ite", "A=1", "image")
    assert options.on("interactive") and options.on("tty") and options.all("env") == ["A=1"]


def test_flags_behind_the_image_belong_to_the_command() -> None:
    assert run("--rm", "image", "ls", "--all", "-l").operands == ["image", "ls", "--all", "-l"]


def test_flags_may_stand_behind_operands_elsewhere() -> None:
    page = Page(import_module("pierhead.client.grammar.container").COMMANDS["rm"])
    options = parse(page, ["a", "-f", "b", "--", "-v"], interspersed=True)
    assert options.on("force") and options.operands == ["a", "b", "-v"] and not options.on("volumes")


def test_booleans_take_a_value_only_behind_an_equals_sign() -> None:
    assert not run("--rm=false", "image").on("rm") and run("--sig-proxy", "false").operands == ["false"]
    assert run("image").on("sig-proxy") and not run("--sig-proxy=0", "image").on("sig-proxy")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["-itZ"], "unknown shorthand flag: 'Z' in -Z"),
        (["--name"], "flag needs an argument: --name"),
        (["-itp"], "flag needs an argument: 'p' in -itp"),
        (["-m", "x"], 'invalid argument "x" for "-m, --memory" flag: invalid size: \'x\''),
        (["--rm=x"], 'invalid argument "x" for "--rm" flag: strconv.ParseBool: parsing "x": invalid syntax'),
        (["--=x"], "bad flag syntax: --=x"),
    ],
)
def test_mistakes_are_named_in_dockers_words(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(*words)
    assert str(caught.value) == message and caught.value.status == 125


def test_help_is_asked_for_anywhere_before_the_image() -> None:
    with pytest.raises(HelpWanted):
        run("-d", "--help")
    assert run("image", "--help").operands == ["image", "--help"]


@pytest.mark.parametrize("path", sorted(TREE))
def test_every_command_has_code_and_a_grammar(path: str) -> None:
    command = TREE[path]
    grammar, entry = command.grammar.split(":")
    page = Page(import_module("pierhead.client.grammar." + grammar).COMMANDS[entry])
    page.operand_range()
    module, function = command.code.split(":")
    assert callable(getattr(import_module("pierhead.client." + module), function))


def test_sizes_and_durations_are_read_as_docker_reads_them() -> None:
    assert [size(text) for text in ("64", "64m", "1.5GiB", "2kb", "x", "-1")] == [
        64,
        64 << 20,
        3 << 29,
        2048,
        None,
        None,
    ]
    assert duration("1h2m3.5s") == 3_723_500_000_000 and duration("100ms") == 10**8
    assert duration("") is None and duration("5") is None and duration("1x") is None


def test_a_range_onto_the_same_numbers_is_one_binding_a_port() -> None:
    exposed, bindings = publish(["127.0.0.1:8000-8001:80-81/udp", "[::1]::90"])
    assert exposed == {"80/udp": {}, "81/udp": {}, "90/tcp": {}}
    assert bindings["81/udp"] == [{"HostIp": "127.0.0.1", "HostPort": "8001"}]
    assert bindings["90/tcp"] == [{"HostIp": "::1", "HostPort": ""}]


def test_an_env_file_is_read_as_docker_reads_it(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{tmp_path}/env"
    with open(path, "w", encoding="utf-8") as file:
        file.write("# comment\n\nA=1 # kept\n  B = \nSET\nUNSET\n".replace("B = ", "B= "))
    monkeypatch.setenv("SET", "here")
    monkeypatch.delenv("UNSET", raising=False)
    assert request(run("--env-file", path, "-e", "C=3", "image"))["Env"] == ["A=1 # kept", "B= ", "SET=here", "C=3"]


@pytest.mark.parametrize("text", ["type=bind", "foo=x", "type=bind,dst=/x,tmpfs-size=1m", "dst=/x,readonly=maybe"])
def test_a_mount_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(MountProblem):
        parse_mount(text)


def test_detach_keys_are_held_back_until_they_are_complete() -> None:
    keys = DetachKeys("")
    assert keys.filter(b"ab\x10") == (b"ab", False)
    assert keys.filter(b"c") == (b"\x10c", False)
    assert keys.filter(b"x\x10\x10\x11y")[1] is True
    assert DetachKeys("ctrl-a,b").keys == b"\x01b"
    with pytest.raises(ValueError, match="Unknown"):
        DetachKeys("foo")


def test_an_id_file_that_was_taken_away_stops_nothing_and_hides_no_error(tmp_path: Path) -> None:
    path = tmp_path / "id"
    with _id_file(str(path)):
        path.unlink()
    with pytest.raises(KeyError, match="the real one"), _id_file(str(path)):
        path.unlink()
        raise KeyError("the real one")
    with _id_file(str(path)):
        pass
    assert not path.exists()
