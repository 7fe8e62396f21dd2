"""What pier prints: Go's templates, Docker's tables, its sizes and times, progress and the waterfall."""

import io
import json
from typing import Any

import pytest

from pierhead.client import units
from pierhead.client.jobs import waterfall
from pierhead.client.ports import display_ports
from pierhead.client.streams import Demultiplexer
from pierhead.client.table import align, formatted
from pierhead.client.template import Template, TemplateError

DATA: dict[str, Any] = {
    "Name": "/web",
    "Id": "abc",
    "Null": None,
    "State": {"Running": True, "Pid": 7, "Share": 0.5},
    "Cmd": ["a", "b"],
    "Labels": {"z": "1", "a.b": "2"},
    "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8081"}], "90/tcp": None},
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Name}}", "/web"),
        ("{{.ID}} {{.State.Pid}} {{.State.Running}} {{.State.Share}}", "abc 7 true 0.5"),
        ("{{json .Cmd}}|{{.Cmd}}|{{.Labels}}", '["a","b"]|[a b]|map[a.b:2 z:1]'),
        ("{{.Ports}}", "map[80/tcp:[{0.0.0.0 8081}] 90/tcp:[]]"),
        ('{{index .Labels "a.b"}} {{(index (index .Ports "80/tcp") 0).HostPort}}', "2 8081"),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}};{{end}}", "a.b=2;z=1;"),
        ("{{range $i, $e := .Cmd}}{{if $i}},{{end}}{{$e}}{{end}}", "a,b"),
        ("{{range .Null}}x{{else}}none{{end}}", "none"),
        ("{{if and .State.Running (eq .State.Pid 7)}}yes{{else if .Null}}b{{else}}no{{end}}", "yes"),
        ("{{if not .State.Running}}a{{else if eq .Id `abc` `x`}}b{{else}}c{{end}}", "b"),
        ("{{with .State}}{{.Pid}} {{$.Name}}{{end}}", "7 /web"),
        ('{{.Name | printf "%-6s|%q" "x"}}', 'x     |"/web"'),
        (
            '{{join .Cmd "+"}} {{upper .Id}} {{title "a b"}} {{pad "x" 1 2}}. {{truncate .Name 2}}',
            "a+b ABC A B  x  . /w",
        ),
        ("{{println .Id}}{{len .Cmd}} {{slice .Id 1 2}} {{lt 1 2}}", "abc\n2 b true"),
        ("a {{- .Id -}} b{{/* not shown */}}", "aabcb"),
        ("{{$x := .Id}}{{$x}}{{$x = `y`}}{{$x}}", "abcy"),
        ("{{.Null}}", "<no value>"),
        ("{{range .Cmd}}{{if eq . `b`}}{{break}}{{end}}{{.}}{{end}}", "a"),
    ],
)
def test_templates_print_what_go_prints(template: str, text: str) -> None:
    assert Template(template, "").execute(DATA) == text


def test_what_json_leaves_out_is_empty_where_dockers_client_has_a_field_for_it() -> None:
    answer = {"HostConfig": {"RestartPolicy": {}}, "Config": {"AttachStdin": False}, "State": {"OOMKilled": False}}

    def said(template: str) -> str:
        return Template(template, "").execute(answer)

    assert said("{{with .State.Health}}{{.Status}}{{else}}none{{end}}{{if .State.Health}}x{{end}}") == "none"
    assert said("{{.State.Health}} {{json .State.Health}} {{.SizeRw}}") == "<nil> null <nil>"
    assert said("{{.HostConfig.Sysctls}} {{.HostConfig.Mounts}} {{.HostConfig.Init}}") == "map[] [] <nil>"
    assert said("{{.Config.Shell}} {{.Config.StopTimeout}}{{.Config.StopSignal}}") == "[] <nil>"
    with pytest.raises(TemplateError, match=r':1:8: executing "" at <\.State\.Health\.Status>: map has .* "Health"'):
        said("{{.State.Health.Status}}")
    with pytest.raises(TemplateError, match='map has no entry for key "Health"'):
        said("{{.Health}}")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{.Foo}}", ':1:2: executing "" at <.Foo>: map has no entry for key "Foo"'),
        ("{{.State.Foo}}", ':1:8: executing "" at <.State.Foo>: map has no entry for key "Foo"'),
        ("{{foo .Id}}", ':1: function "foo" not defined'),
        ("{{.Id", ":1: unclosed action"),
        ("{{if .Id}}", ":1: unexpected EOF"),
        ("{{.Id}}{{end}}", ":1: unexpected {{end}}"),
    ],
)
def test_a_wrong_template_says_where(template: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(template, "").execute(DATA)
    assert str(caught.value) == message


def test_columns_are_as_wide_as_gos_tabwriter_makes_them() -> None:
    assert align("A\tB\tC\na long cell\tx\ty\n") == "A             B         C\na long cell   x         y\n"
    assert align("NAME\n\nx\ty\n") == "NAME\n\nx         y\n"


def test_a_table_template_has_a_head() -> None:
    columns = {"ID": ("CONTAINER ID", lambda row: str(row["id"])), "Labels": ("LABELS", lambda row: "")}
    shown = formatted(
        r"table {{.ID}}\t{{.Label \"a.some-key\"}}".replace('\\"', '"'), columns, [{"id": 1, "Labels": {}}]
    )
    assert shown.splitlines()[0] == "CONTAINER ID   some key"
    assert json.loads(formatted("json", columns, [{"id": "<"}])) == {"ID": "<", "Labels": ""}
    assert "\\u003c" in formatted("json", columns, [{"id": "<"}])


@pytest.mark.parametrize(
    ("ports", "text"),
    [
        ([(8081, 8080, "0.0.0.0")], "0.0.0.0:8081->8080/tcp"),
        ([(80, 80, "0.0.0.0"), (81, 81, "0.0.0.0"), (83, 83, "::")], "0.0.0.0:80-81->80-81/tcp, [::]:83->83/tcp"),
        ([(0, 70, ""), (0, 71, ""), (0, 73, "")], "70-71/tcp, 73/tcp"),
        ([], ""),
    ],
)
def test_ports_are_shown_in_ranges(ports: list[tuple[int, int, str]], text: str) -> None:
    given = [
        {"PrivatePort": inside, "Type": "tcp"} | ({"PublicPort": outside, "IP": ip} if ip else {})
        for outside, inside, ip in ports
    ]
    assert display_ports(given) == text


def test_sizes_are_dockers() -> None:
    assert [units.human_size(n, 3) for n in (0, 999, 1000, 1_234_567, 4_850_000)] == [
        *("0B", "999B", "1kB", "1.23MB", "4.85MB"),
    ]
    assert units.bytes_size(24_683_331_584) == "22.99GiB" and units.human_size(1_982_000) == "1.982MB"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_lengths_of_time_are_dockers(seconds: float, words: str) -> None:
    assert units.human_duration(seconds) == words


def test_times_are_read_with_their_zone() -> None:
    assert units.parse_time("1970-01-02T00:00:00Z") == 86400
    assert units.parse_time("2024-02-29T12:00:00.5+01:00") == 1709204400.5


class Written:
    """Keeps what a Demultiplexer writes, by descriptor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: dict[int, bytes] = {1: b"", 2: b""}
        monkeypatch.setattr("pierhead.client.streams.write_all", self.write)

    def write(self, descriptor: int, data: bytes) -> None:
        self.found[descriptor] += data


def test_frames_cut_anywhere_lose_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = b"\1\0\0\0\0\0\0\5hello\2\0\0\0\0\0\0\3err\1\0\0\0\0\0\0\1!"
    for cut in range(len(stream)):
        written = Written(monkeypatch)
        split = Demultiplexer()
        split.feed(stream[:cut])
        split.feed(stream[cut:])
        assert written.found == {1: b"hello!", 2: b"err"}


def test_the_waterfall_shows_every_span_below_its_parent() -> None:
    out = io.StringIO()
    phase = {
        "id": 2,
        "name": "networkdriver: join",
        "start": 2_000_000,
        "duration": 3_000_000,
        "outcome": "",
        "children": [],
    }
    job = {"id": 1, "name": "lifecycle.start", "subject": "web", "at": 5, "start": 0, "duration": 10_000_000}
    waterfall(out, [job | {"outcome": "OK", "children": [phase]}])
    head, first, second = out.getvalue().splitlines()
    assert head.startswith("TIMELINE") and "10.0 ms  lifecycle.start  web" in first
    assert "3.0 ms    networkdriver: join" in second and second.index("█") > first.index("█")
