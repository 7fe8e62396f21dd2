"""Requests are read as Go reads them, answers written as Docker writes them."""

import json
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pierhead.daemon.server import call, detach
from pierhead.errors import InvalidParameter
from pierhead.wire import codec, containers, filters, images, networks, stdcopy, time, versions
from pierhead.wire.containers import ContainerConfig, ContainerCreateRequest
from pierhead.wire.execs import ExecInspectResponse, ProcessConfig


def test_null_leaves_every_field_as_it_is() -> None:
    """docker-py sends null for nearly everything."""
    body = {
        "Hostname": None,
        "Tty": None,
        "Env": None,
        "Labels": None,
        "Image": "busybox",
        "HostConfig": {"NetworkMode": None, "Memory": None, "RestartPolicy": None, "LogConfig": {"Config": None}},
        "NetworkingConfig": {"EndpointsConfig": {"net": None}},
    }
    request = codec.decode(json.dumps(body).encode(), ContainerCreateRequest)
    assert request.hostname == "" and request.tty is False and request.env is None
    assert request.host_config is not None and request.host_config.memory == 0
    assert request.networking_config is not None
    assert request.networking_config.endpoints_config == {"net": networks.EndpointSettings()}


def test_keys_match_in_any_case_and_unknown_ones_pass() -> None:
    body = b'{"image":"x","hostconfig":{"memory":5,"portbindings":{"80/tcp":[{"hostport":"8080"}]}},"New":[{"a":1}]}'
    request = codec.decode(body, ContainerCreateRequest)
    assert request.image == "x" and request.host_config is not None and request.host_config.memory == 5
    assert request.host_config.port_bindings == {"80/tcp": [containers.PortBinding(host_port="8080")]}


def test_a_command_may_be_one_string() -> None:
    request = codec.decode(
        b'{"Cmd":"ls","Entrypoint":["sh","-c"],"HostConfig":{"CapAdd":"ALL"}}', ContainerCreateRequest
    )
    assert request.cmd == ["ls"] and request.entrypoint == ["sh", "-c"]
    assert request.host_config is not None and request.host_config.cap_add == ["ALL"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "invalid JSON: got EOF while reading request body"),
        (b'{"Image":', "invalid JSON: unexpected EOF"),
        (b'{"Image":"x"} {}', "unexpected content after JSON"),
        (b'{"Image":5}', "invalid JSON: "),
        (b'{"HostConfig":{"Memory":"5"}}', "invalid JSON: "),
        (b"[]", "invalid JSON: "),
        (b"\xff\xfe", "invalid JSON: "),
        (b"{" * 100_000, "invalid JSON: "),
        (b"[" * 100_000, "invalid JSON: "),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_such_json_is_refused_in_docker_s_words(body: bytes, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        codec.decode(body, ContainerCreateRequest)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "body", [b'{"Memory":9223372036854775807}', b'{"Labels":{"id":"99999999999999999999"}}', b"99999999999999999999 {"]
)
def test_what_docker_clients_can_read_back_is_not_refused_for_its_digits(body: bytes) -> None:
    codec.refuse_wide(body)


def test_a_number_is_too_large_beside_what_is_no_text_as_well() -> None:
    with pytest.raises(InvalidParameter, match="into Go value of type int64"):
        codec.refuse_wide(b'{"Image":"\xff","HostConfig":{"Memory":99999999999999999999}}')


def test_stored_configuration_reads_back_as_it_was() -> None:
    request = ContainerCreateRequest(
        image="x",
        cmd=["a"],
        stop_timeout=0,
        host_config=containers.HostConfig(
            init=False, pids_limit=-1, mounts=[containers.Mount(type="bind", tmpfs_options=containers.TmpfsOptions())]
        ),
    )
    assert codec.decode(codec.encode(request), ContainerCreateRequest) == request
    assert codec.copy(request) == request and codec.copy(request) is not request


def encoded(value: object) -> dict[str, object]:
    result: dict[str, object] = json.loads(codec.encode(value))
    return result


def test_empty_lists_and_null_are_told_apart_as_in_docker() -> None:
    inspect = encoded(containers.ContainerInspectResponse())
    assert inspect["Mounts"] == [] and inspect["Args"] == [] and inspect["ExecIDs"] is None
    assert inspect["Config"]["Env"] is None and "ExposedPorts" not in inspect["Config"]  # type: ignore[index,operator]
    assert inspect["NetworkSettings"]["Ports"] == {}  # type: ignore[index]
    assert inspect["HostConfig"]["Binds"] is None and inspect["HostConfig"]["ConsoleSize"] == [0, 0]  # type: ignore[index]
    assert "SizeRw" not in inspect and inspect["State"]["FinishedAt"] == "0001-01-01T00:00:00Z"  # type: ignore[index]
    summary = encoded(containers.ContainerSummary())
    assert summary["Names"] == [] and summary["Ports"] == [] and summary["Labels"] == {} and summary["Mounts"] == []
    assert encoded(containers.Port(private_port=80)) == {"PrivatePort": 80, "Type": "tcp"}
    assert encoded(networks.NetworkPruneResponse()) == {"NetworksDeleted": None}
    assert encoded(containers.ContainerCreateResponse(id="a")) == {"Id": "a", "Warnings": []}
    assert encoded(containers.ContainerWaitResponse()) == {"StatusCode": 0}
    assert encoded(images.ImageInspect())["Config"] == {}
    assert encoded(ProcessConfig()) == {"tty": False, "entrypoint": "", "arguments": []}
    assert encoded(ExecInspectResponse())["ExitCode"] is None


# Times


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0001-01-01T00:00:00Z"),
        (1_000_000_000, "1970-01-01T00:00:01Z"),
        (1_700_000_000_120_000_000, "2023-11-14T22:13:20.12Z"),
        (1_700_000_000_000_000_001, "2023-11-14T22:13:20.000000001Z"),
    ],
)
def test_times_are_written_as_go_writes_them(ns: int, text: str) -> None:
    assert time.rfc3339(ns) == text
    assert time.parse_rfc3339(text) == ns


@given(st.integers(min_value=1, max_value=4_000_000_000 * 10**9))
def test_no_nanosecond_is_lost(ns: int) -> None:
    assert time.parse_rfc3339(time.rfc3339(ns)) == time.parse_rfc3339(time.rfc3339_fixed(ns)) == ns


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("", 0),
        ("0", 0),
        ("1136073600.000000001", 1136073600_000000001),
        ("1136073600", 1136073600 * 10**9),
        ("2006-01-02T15:04:05+02:00", 1136207045 * 10**9),
        ("2006-01-02T15:04:05.999999999Z", 1136214245_999999999),
        ("2006-01-02", 1136160000 * 10**9),
        ("2006-01-02T15:04", 1136214240 * 10**9),
        ("10m", 400 * 10**9),
        ("1h", -2600 * 10**9),
        ("1.5s", 998_500_000_000),
    ],
)
def test_since_takes_seconds_dates_and_durations(text: str, ns: int) -> None:
    assert time.parse_moment(text, now=1000 * 10**9) == ns


@pytest.mark.parametrize("text", ["yesterday", "10 minutes", "2006-13-01", "1h-", "--1s", "s", "2006-01-02T25:00:00Z"])
def test_since_refuses_what_is_no_time(text: str) -> None:
    with pytest.raises(InvalidParameter):
        time.parse_moment(text, "since")


# Filters


@given(
    st.dictionaries(st.text(max_size=5), st.lists(st.text(max_size=5), min_size=1, max_size=3, unique=True), max_size=3)
)
def test_both_forms_of_filters_say_the_same(wanted: dict[str, list[str]]) -> None:
    new = json.dumps({key: dict.fromkeys(values, True) for key, values in wanted.items()})
    expected = {key: tuple(values) for key, values in wanted.items()}
    assert dict(filters.parse(new)) == dict(filters.parse(json.dumps(wanted))) == expected
    assert dict(filters.parse(filters.encode(expected))) == expected


@given(st.text(max_size=40) | st.binary(max_size=20).map(lambda data: data.decode("latin-1")))
def test_any_other_text_is_an_invalid_filter(text: str) -> None:
    try:
        filters.parse(text)
    except InvalidParameter as error:
        assert str(error).startswith("invalid filter")


@pytest.mark.parametrize(
    "text", ["{", "[]", "5", '"a"', '{"a":1}', '{"a":"b"}', '{"a":[1]}', '{"a":{"b":1}}', '{"a":["b"],"c":{"d":true}}']
)
def test_malformed_filters_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid filter"):
        filters.parse(text)


def test_filters_match_as_docker_s_do() -> None:
    found = filters.parse('{"label":["a","b=c"],"name":["we.*"],"dangling":["true"],"id":["abc"]}')
    assert found.matches_labels("label", {"a": "x", "b": "c"}) and not found.matches_labels(
        "label", {"a": "", "b": "d"}
    )
    assert not found.matches_labels("label", None) and found.matches_labels("nothing", None)
    assert found.matches("name", "my-web") and not found.matches("name", "db")
    assert found.matches_prefix("id", "abcdef") and not found.matches_exact("id", "abcdef")
    assert found.flag("dangling") is True and found.flag("absent", True) is True
    with pytest.raises(InvalidParameter, match="invalid filter 'name=\\[we"):
        found.flag("name")
    with pytest.raises(InvalidParameter, match="invalid filter 'dangling'"):
        found.validate({"label", "name", "id"})


# Versions


def test_old_and_new_clients_are_told_which_versions_there_are() -> None:
    assert versions.negotiate("1.24") == (1, 24) and versions.negotiate("1.50") == (1, 50)
    with pytest.raises(InvalidParameter) as old:
        versions.negotiate("1.10")
    assert str(old.value) == (
        "client version 1.10 is too old. Minimum supported API version is 1.24, "
        "please upgrade your client to a newer version"
    )
    with pytest.raises(InvalidParameter) as new:
        versions.negotiate("1.99")
    assert str(new.value) == "client version 1.99 is too new. Maximum supported API version is 1.50"
    for text in ("1", "1.", ".1", "1.2.3", ".", "1.x"):
        with pytest.raises(InvalidParameter):
            versions.negotiate(text)


# Multiplexed output


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=50)), max_size=10), st.lists(st.integers(1, 20)))
def test_output_is_taken_apart_however_it_was_cut(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(stdcopy.frame(stream, payload) for stream, payload in frames)
    reader = stdcopy.Reader()
    found: dict[int, bytes] = {}
    position = 0
    for cut in [*cuts, len(data)]:
        for stream, piece in reader.feed(data[position : position + cut]):
            found[stream] = found.get(stream, b"") + piece
        position += cut
    expected: dict[int, bytes] = {}
    for stream, payload in frames:
        if payload:
            expected[stream] = expected.get(stream, b"") + payload
    assert found == expected and reader.whole


def test_what_is_not_multiplexed_is_said() -> None:
    with pytest.raises(ValueError, match="Unrecognized input header: 97"):
        list(stdcopy.Reader().feed(b"abcdefgh"))
    assert stdcopy.frame(1, b"ab") == struct.pack(">BxxxI", 1, 2) + b"ab"


# Detach keys


def test_detach_keys_are_read_as_docker_reads_them() -> None:
    assert detach.parse("") == b"\x10\x11" == detach.parse("ctrl-p,ctrl-q")
    assert detach.parse("a,ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_,DEL") == b"a\x00\x1b\x1c\x1d\x1e\x1f\x7f"
    for text in ("ctrl-P", "ctrl-", "ab", "a,", "ctrl-p ,q", "ä"):
        with pytest.raises(InvalidParameter, match="Invalid detach keys"):
            detach.parse(text)


@given(st.binary(min_size=1, max_size=3), st.lists(st.binary(max_size=6), max_size=8))
def test_typed_input_passes_whole_unless_the_keys_are_typed(keys: bytes, typed: list[bytes]) -> None:
    scanner = detach.Scanner(keys)
    out = b""
    for piece in typed:
        passed, found = scanner.feed(piece)
        out += passed
        if found:
            assert keys in b"".join(typed)
            return
    whole = b"".join(typed)
    held = len(whole) - len(out)
    assert held < len(keys) and whole == out + keys[:held]


def test_detach_keys_are_found_across_reads() -> None:
    scanner = detach.Scanner(detach.DEFAULT)
    assert scanner.feed(b"a\x10") == (b"a", False)
    assert scanner.feed(b"b") == (b"\x10b", False)
    assert scanner.feed(b"\x10") == (b"", False)
    assert scanner.feed(b"\x10\x11rest") == (b"\x10", True)


# Parameters


@pytest.mark.parametrize(
    ("content_type", "message"),
    [
        ("", "malformed Content-Type header (): mime: no media type"),
        ("json", "malformed Content-Type header (json): mime: expected slash after first token"),
        ("text/plain", "unsupported Content-Type header (text/plain): must be 'application/json'"),
        (
            "text/json; charset=utf-8",
            "unsupported Content-Type header (text/json; charset=utf-8): must be 'application/json'",
        ),
    ],
)
def test_a_body_that_is_not_called_json_is_refused(content_type: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        call.check_json(content_type)
    assert str(caught.value) == message


def test_json_may_be_called_so_with_parameters() -> None:
    call.check_json("application/json")
    call.check_json("Application/JSON; charset=utf-8")


def test_a_file_s_name_that_is_no_utf8_is_told_as_docker_tells_it() -> None:
    name = "q\udcff"
    told = codec.encode([ContainerConfig(user=name, env=["a=b", name], labels={name: name}), {"x": msgspec.Raw(b"1")}])
    (seen, raw) = json.loads(told)
    assert (seen["User"], seen["Env"], seen["Labels"]) == ("q\ufffd", ["a=b", "q\ufffd"], {"q\ufffd": "q\ufffd"})
    assert raw == {"x": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (rb"A=\udcffx", "A=\ufffdx"),
        (b"A=\xffx", "A=\ufffdx"),
        (rb"\ud83d\ude00 \uD83D", "\U0001f600 \ufffd"),
        (rb"\\ud83d\udcff", "\\ud83d\ufffd"),
    ],
)
def test_what_is_no_text_in_a_request_is_read_as_go_reads_it(text: bytes, value: str) -> None:
    """docker-py sends the environment of a process as it is, whatever bytes are in it."""
    assert codec.decode(b'{"Env":["' + text + b'"]}', ContainerConfig).env == [value]


def test_any_name_of_a_file_can_be_asked_for_and_nothing_else_is_taken_that_is_no_utf8() -> None:
    assert call.parse_query("path=/a%FF&x=%C3%A4") == {"path": ["/a\udcff"], "x": ["ä"]}
    for query in ("name=%FF", "path=x&%FF=1"):
        with pytest.raises(InvalidParameter, match="invalid query: "):
            call.parse_query(query)
