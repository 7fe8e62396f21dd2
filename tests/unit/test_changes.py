"""What ``--change`` of ``import`` and ``commit`` says, as Docker takes it."""

import pytest

from pierhead.daemon.jobs.changes import apply_change, instructions
from pierhead.errors import InvalidParameter
from pierhead.wire.containers import ContainerConfig


def changed(change: str) -> ContainerConfig:
    config = ContainerConfig(env=["PATH=/bin:/usr/bin", "NAME=me", "EMPTY="])
    for instruction in instructions([change]):
        apply_change(config, instruction)
    return config


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        (["ENV A=b\nCMD x"], ["ENV A=b", "CMD x"]),
        (["ENV A=b", "USER u\r\n\r\nCMD x\r\n"], ["ENV A=b", "USER u", "CMD x"]),
        (["# why\n\tENV A=b \\\n\n# and\n   C=d # no comment\nUSER u"], ["ENV A=b    C=d # no comment", "USER u"]),
        (["ENV A=b \\  ", " C=d"], ["ENV A=b  C=d"]),
        (["CMD a\\\\\nUSER u"], ["CMD a\\\\", "USER u"]),
        ([], []),
    ],
)
def test_changes_are_the_lines_of_a_dockerfile(changes: list[str], wanted: list[str]) -> None:
    assert instructions(changes) == wanted


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$PATH:/opt", "/bin:/usr/bin:/opt"),
        ("${NAME}2", "me2"),
        ("'$NAME'", "$NAME"),
        (r"\$NAME", "$NAME"),
        (r'"it is $NAME \"\$x\""', 'it is me "$x"'),
        ("${NONE:-some}${EMPTY:-more}${EMPTY-none}", "somemore"),
        ("${NAME:+alt}${NONE:+alt}", "alt"),
        ("${NONE:-${NAME}}", "me"),
        ("$NONE", ""),
        ("5$", "5$"),
        ("a\\ b", "a b"),
        ("1\\", "1"),
    ],
)
def test_variables_of_the_image_are_in_what_is_made_of_it(text: str, value: str) -> None:
    assert f"VALUE={value}" in (changed(f"ENV VALUE={text}").env or [])
    assert changed(f"LABEL value={text}").labels == {"value": value}


def test_every_instruction_that_docker_replaces_variables_in_has_them_replaced() -> None:
    assert changed("USER $NAME:x").user == "me:x"
    assert changed("WORKDIR /home/$NAME").working_dir == "/home/me"
    assert changed('VOLUME ["/$NAME a"]').volumes == {"/me a": {}}
    assert changed("VOLUME /$NAME [/b]").volumes == {"/me": {}, "[/b]": {}}
    assert list(changed("EXPOSE ${NONE:-80} 90").exposed_ports or {}) == ["80/tcp", "90/tcp"]
    assert not changed("VOLUME []").volumes
    assert changed("ENV\tTAB\tb").env == ["PATH=/bin:/usr/bin", "NAME=me", "EMPTY=", "TAB=b"]
    assert changed("ENV TWO it is $NAME").env == ["PATH=/bin:/usr/bin", "NAME=me", "EMPTY=", "TWO=it is me"]
    assert changed("CMD echo $NAME").cmd == ["/bin/sh", "-c", "echo $NAME"], "the shell does it"
    assert changed("ONBUILD RUN $NAME").on_build == ["RUN $NAME"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("ONBUILD from x", "FROM isn't allowed as an ONBUILD trigger"),
        ("STOPSIGNAL SIGFOO", "invalid signal: SIGFOO"),
        ('VOLUME [""]', "VOLUME specified can not be an empty string"),
        ("WORKDIR $NONE", "cannot normalize nothing"),
        ("HEALTHCHECK --interval=1us CMD x", "Interval in Healthcheck cannot be less than 1ms"),
        ("HEALTHCHECK --retries=-1 CMD x", "Retries in Healthcheck cannot be negative"),
        ('ENV A="open', "unexpected end of statement"),
        ("ENV A=${open", "syntax error"),
        ("ENV A=${NONE:?needed}", "needed"),
        ("HEALTHCHECK --retries=2147483648 CMD x", "value out of range"),
        ("HEALTHCHECK --interval=9999999999999h CMD x", "invalid duration"),
        (f"HEALTHCHECK --timeout={'9' * 400}h CMD x", "invalid duration"),
        ("", "file with no instructions"),
        ("# RUN x\n", "file with no instructions"),
        ("ENV A=b\nRUN x", "run is not a valid change command"),
    ],
)
def test_what_would_be_a_broken_image_is_refused(change: str, words: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        changed(change)
    assert words in str(refused.value)
