"""A registry that lies, loops, redirects or stalls: nothing of it is believed, and no credentials leave."""

import base64
import gzip
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pierhead.errors import InvalidParameter, NotFound, PierheadError, Unauthorized
from pierhead.manifest import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor, Index, Platform, choose
from pierhead.reference import parse
from pierhead.registry import client
from pierhead.registry.auth import Credentials, parse_challenge, token_request
from pierhead.registry.client import Registry, Resolved
from pierhead.registry.hosts import Hosts, RegistryError, is_insecure

AMD64 = Platform("linux", "amd64")
LAYER = gzip.compress(b"\0" * 1024, mtime=0)
CONFIG = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
SECRET = Credentials("me", "secret")


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def manifest(**changes: object) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(CONFIG),
                "size": len(CONFIG),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                    "digest": digest(LAYER),
                    "size": len(LAYER),
                }
            ],
            **changes,
        }
    ).encode()


class Rogue:
    """A server whose answers a test lays out by path; every request is kept."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, dict[str, str], bytes]]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.endless: set[str] = set()
        rogue = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                rogue.seen.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
                if self.path.partition("?")[0] in rogue.endless:
                    self.send_response(200)
                    self.send_header("Content-Type", OCI_MANIFEST)
                    self.end_headers()
                    with suppress(OSError):
                        while True:
                            self.wfile.write(b"[" * 65536)
                    return
                listed = rogue.answers.get(self.path.partition("?")[0], [(404, {}, b"")])
                status, headers, body = listed.pop(0) if len(listed) > 1 else listed[0]
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.put("/v2/", b"{}")

    def put(self, path: str, body: bytes, status: int = 200, **headers: str) -> None:
        self.answers.setdefault(path, []).append((status, {k.replace("_", "-"): v for k, v in headers.items()}, body))

    def image(self, document: bytes | None = None, kind: str = OCI_MANIFEST, name: str = "x") -> None:
        self.put(f"/v2/{name}/manifests/1", document or manifest(), Content_Type=kind)
        self.put(f"/v2/{name}/blobs/{digest(CONFIG)}", CONFIG)
        self.put(f"/v2/{name}/blobs/{digest(LAYER)}", LAYER)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a registry that lies."""
    monkeypatch.setattr(client, "BACKOFF", 0.001)


@pytest.fixture
def rogue() -> Iterator[Rogue]:
    made = Rogue()
    yield made
    made.close()


def resolve(rogue: Rogue, what: str = "x:1", credentials: Credentials | None = None) -> Resolved:
    reference = parse(f"{rogue.address}/{what}")
    with Registry(reference, credentials) as registry:
        return registry.resolve(reference, AMD64)


def download(rogue: Rogue, descriptor: Descriptor, credentials: Credentials | None = None) -> bytes:
    with Registry(parse(f"{rogue.address}/x"), credentials) as registry:
        blob = registry.blob(descriptor, lambda count: None)
        try:
            data = b"".join(iter(blob.read, b""))
            blob.check()
        finally:
            blob.close()
        return data


def test_an_image_is_resolved_and_its_blobs_come_whole(rogue: Rogue) -> None:
    rogue.image()
    found = resolve(rogue)
    assert found.config == CONFIG and found.digest == digest(manifest())
    assert download(rogue, found.manifest.layers[0]) == LAYER


def test_an_index_is_searched_for_the_platform(rogue: Rogue) -> None:
    document = manifest()
    entries = [
        {"mediaType": OCI_MANIFEST, "digest": digest(text), "size": len(text), "platform": platform}
        for text, platform in (
            (b"arm", {"os": "linux", "architecture": "arm64"}),
            (document, {"os": "linux", "architecture": "amd64"}),
        )
    ]
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    rogue.image(index, OCI_INDEX)
    rogue.put(f"/v2/x/manifests/{digest(document)}", document, Content_Type=OCI_MANIFEST)
    assert resolve(rogue).digest == digest(index)
    reference = parse(f"{rogue.address}/x:1")
    with Registry(reference, None) as registry, pytest.raises(NotFound, match="no matching manifest for linux/s390x"):
        registry.resolve(reference, Platform("linux", "s390x"))


def test_an_index_that_names_itself_is_not_followed_for_ever(rogue: Rogue) -> None:
    inner = {
        "mediaType": OCI_INDEX,
        "digest": "sha256:" + "1" * 64,
        "size": 1,
        "platform": {"os": "linux", "architecture": "amd64"},
    }
    index = json.dumps({"schemaVersion": 2, "manifests": [inner] * 10}).encode()
    rogue.put("/v2/x/manifests/1", index, Content_Type=OCI_INDEX)
    rogue.put("/v2/x/manifests/sha256:" + "1" * 64, index, Content_Type=OCI_INDEX)
    with pytest.raises(PierheadError):
        resolve(rogue)
    assert len(rogue.seen) < 10


LIES: dict[str, bytes] = {
    "null": b"null",
    "list": b"[]",
    "empty": b"{}",
    "no json": b"{",
    "utf-16": manifest().decode().encode("utf-16"),
    "deep": b'{"schemaVersion": 2, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "big number": b'{"schemaVersion": ' + b"9" * 5000 + b"}",
    "schema 1": b'{"schemaVersion": 1, "fsLayers": []}',
    "both": manifest(manifests=[]),
    "other media type": manifest(mediaType=DOCKER_MANIFEST),
    "negative size": manifest(layers=[{"digest": digest(LAYER), "size": -1}]),
    "huge size": manifest(layers=[{"digest": digest(LAYER), "size": 2**63}]),
    "path as digest": manifest(layers=[{"digest": "sha256:../../etc/passwd", "size": 1}]),
    "upper digest": manifest(layers=[{"digest": "SHA256:" + "a" * 64, "size": 1}]),
    "md5": manifest(layers=[{"digest": "md5:" + "a" * 32, "size": 1}]),
    "too many layers": manifest(layers=[{"digest": digest(LAYER), "size": 1}] * 451),
    "no image": manifest(
        config={"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": digest(CONFIG), "size": 1}
    ),
    "layers as text": manifest(layers="many"),
    "layers without end": manifest(layers=[{"digest": digest(LAYER), "size": 1}] * 30_000),
    "huge configuration": manifest(
        config={"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(CONFIG), "size": 5 << 20}
    ),
    "two thousand manifests": json.dumps(
        {"schemaVersion": 2, "manifests": [{"digest": digest(LAYER), "size": 1}] * 2000}
    ).encode(),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_is_refused(rogue: Rogue, lie: str) -> None:
    """CVE-2014-8178, CVE-2014-8179, CVE-2014-5282, CVE-2024-3727: digests that are none, documents of other shapes."""
    rogue.image(LIES[lie])
    with pytest.raises(InvalidParameter):
        resolve(rogue)


@pytest.mark.parametrize("kind", [OCI_INDEX, "text/html", "application/json; charset=x", ""])
def test_what_a_document_is_called_does_not_change_what_it_is(rogue: Rogue, kind: str) -> None:
    """CVE-2021-41190: one client's image is another's index."""
    rogue.image(manifest(), kind)
    if kind == OCI_INDEX:
        with pytest.raises(InvalidParameter, match="but was delivered as"):
            resolve(rogue)
    else:
        assert resolve(rogue).digest == digest(manifest())


def test_an_index_of_indexes_is_not_amplified(rogue: Rogue) -> None:
    """CVE-2026-53493: ten levels of ten are 10^10 manifests, of which three are asked for."""
    platform = {"os": "linux", "architecture": "amd64"}
    document, kind = manifest(), OCI_MANIFEST
    for _ in range(10):
        entry = {"mediaType": kind, "digest": digest(document), "size": len(document), "platform": platform}
        rogue.put(f"/v2/x/manifests/{digest(document)}", document, Content_Type=kind)
        document = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] * 10}).encode()
        kind = OCI_INDEX
    rogue.put("/v2/x/manifests/1", document, Content_Type=OCI_INDEX)
    with pytest.raises(InvalidParameter, match="nests too deeply"):
        resolve(rogue)
    assert len([path for path, _ in rogue.seen if "/manifests/" in path]) == 3


ENDLESS: dict[str, tuple[str, Callable[[Registry], object]]] = {
    "manifest": ("/v2/x/manifests/1", lambda registry: registry.resolve(parse("reg.io/x:1"), AMD64)),
    "tags": ("/v2/x/tags/list", lambda registry: registry.tags()),
    "ping": ("/v2/", lambda registry: registry.tags()),
    "token": ("/token", lambda registry: registry.tags()),
    "layer": (
        f"/v2/x/blobs/{digest(LAYER)}",
        lambda registry: registry.blob(Descriptor("", digest(LAYER), len(LAYER)), lambda count: None).check(),
    ),
    "configuration": (
        f"/v2/x/blobs/{digest(CONFIG)}",
        lambda registry: registry.resolve(parse("reg.io/x:1"), AMD64),
    ),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_answer_without_end_is_cut_off(rogue: Rogue, what: str) -> None:
    path, ask = ENDLESS[what]
    rogue.image()
    rogue.put("/v2/x/tags/list", b"", 401, WWW_Authenticate=f'Bearer realm="http://{rogue.address}/token"')
    rogue.endless.add(path)
    with pytest.raises(PierheadError), Registry(parse(f"{rogue.address}/x"), SECRET, Hosts(attempts=1)) as registry:
        ask(registry)
    assert len(rogue.seen) < 12


@pytest.mark.parametrize("scheme", ['Basic realm="x"', 'Bearer realm="http://{}/token"', "Digest realm=x", ""])
@pytest.mark.parametrize("path", ["/v2/x/manifests/1", f"/v2/x/blobs/{digest(CONFIG)}", "/v2/x/tags/list"])
def test_a_registry_that_always_wants_to_know_who_we_are_is_given_up(rogue: Rogue, scheme: str, path: str) -> None:
    rogue.image()
    rogue.answers[path] = [(401, {"WWW-Authenticate": scheme.format(rogue.address)}, b"")]
    rogue.put("/token", b'{"token": "once-more"}')
    with pytest.raises(PierheadError), Registry(parse(f"{rogue.address}/x"), SECRET, Hosts(attempts=2)) as registry:
        registry.tags() if path.endswith("list") else registry.resolve(parse(f"{rogue.address}/x:1"), AMD64)
    assert len(rogue.seen) < 16


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b'{"token": 5}', b'{"token": "a\\nb: c"}', b"[" * 100_000])
def test_a_token_server_that_answers_nonsense_is_said(rogue: Rogue, body: bytes) -> None:
    rogue.put("/v2/x/manifests/1", b"", 401, WWW_Authenticate=f'Bearer realm="http://{rogue.address}/token"')
    rogue.put("/token", body)
    with pytest.raises(InvalidParameter, match="token server"):
        resolve(rogue)


@pytest.mark.parametrize("location", ["http://{}/v2/x/tags/list?n=2", "//{}/v2/x/tags/list"])
def test_a_list_of_tags_does_not_go_on_at_another_host(rogue: Rogue, location: str) -> None:
    other = Rogue()
    try:
        rogue.put("/v2/x/tags/list", b'{"tags": ["1"]}', Link=f'<{location.format(other.address)}>; rel="next"')
        with (
            pytest.raises(RegistryError, match="another host"),
            Registry(parse(f"{rogue.address}/x"), SECRET) as registry,
        ):
            registry.tags()
        assert other.seen == []
    finally:
        other.close()


def test_a_list_of_tags_that_never_ends_does(rogue: Rogue) -> None:
    rogue.put("/v2/x/tags/list", b'{"tags": ["1"]}', Link='</v2/x/tags/list?last=1>; rel="next"')
    with Registry(parse(f"{rogue.address}/x"), None) as registry:
        assert len(registry.tags()) <= 100


def test_a_bound_on_manifests_is_the_administrators(rogue: Rogue) -> None:
    rogue.image()
    reference = parse(f"{rogue.address}/x:1")
    with (
        Registry(reference, None, Hosts(manifest_size=100)) as registry,
        pytest.raises(RegistryError, match="larger than 100 bytes"),
    ):
        registry.resolve(reference, AMD64)


def test_a_manifest_of_another_digest_is_refused(rogue: Rogue) -> None:
    asked = "sha256:" + "0" * 64
    rogue.put(f"/v2/x/manifests/{asked}", manifest(), Content_Type=OCI_MANIFEST)
    with pytest.raises(InvalidParameter, match="manifest verification failed"):
        resolve(rogue, f"x@{asked}")


def test_a_manifest_without_end_is_cut_off(rogue: Rogue) -> None:
    rogue.image(b" " * (5 << 20))
    with pytest.raises(RegistryError, match="larger than"):
        resolve(rogue)


@pytest.mark.parametrize(
    "body", [LAYER[:-1] + b"x", LAYER + b"x", b"", LAYER[:10]], ids=["wrong", "long", "empty", "cut"]
)
def test_a_blob_that_is_not_its_digest_is_refused(rogue: Rogue, body: bytes) -> None:
    rogue.put(f"/v2/x/blobs/{digest(LAYER)}", body)
    with pytest.raises(PierheadError):
        download(rogue, Descriptor("", digest(LAYER), len(LAYER)))


def test_a_broken_download_goes_on_where_it_broke(rogue: Rogue) -> None:
    path = f"/v2/x/blobs/{digest(LAYER)}"
    rogue.put(path, LAYER[:9], Content_Length=str(len(LAYER)), Connection="close")
    rogue.put(path, LAYER[9:], 206, Content_Range=f"bytes 9-{len(LAYER) - 1}/{len(LAYER)}")
    assert download(rogue, Descriptor("", digest(LAYER), len(LAYER))) == LAYER
    assert rogue.seen[-1][1]["range"] == "bytes=9-"


def test_a_download_is_begun_as_often_as_is_allowed_and_every_wait_is_told(rogue: Rogue) -> None:
    rogue.put(f"/v2/x/blobs/{digest(LAYER)}", b"", 503)
    waits: list[float] = []
    with Registry(parse(f"{rogue.address}/x"), None, Hosts(attempts=3)) as registry:
        blob = registry.blob(Descriptor("", digest(LAYER), len(LAYER)), lambda count: None, waits.append)
        with pytest.raises(RegistryError, match="503"):
            blob.read()
        blob.close()
    assert len(waits) == 2 and len([path for path, _ in rogue.seen if "/blobs/" in path]) == 3


def test_a_mirror_gets_no_credentials_and_may_fail_at_any_moment(rogue: Rogue) -> None:
    mirror = Rogue()
    try:
        challenge = f'Bearer realm="http://{mirror.address}/token"'
        mirror.put("/v2/library/x/manifests/1", b"", 401, WWW_Authenticate=challenge)
        mirror.put("/token", b"{}", 401)
        rogue.image(name="library/x")
        hosts = Hosts(mirrors=(f"http://{mirror.address}", f"http://{rogue.address}/"))
        reference = parse("x:1")
        with Registry(reference, SECRET, hosts) as registry:
            layer = registry.resolve(reference, AMD64).manifest.layers[0]
            blob = registry.blob(layer, lambda count: None)
            assert b"".join(iter(blob.read, b"")) == LAYER
            blob.close()
        assert mirror.seen and not any("authorization" in headers for _, headers in mirror.seen + rogue.seen)
    finally:
        mirror.close()


def test_a_token_is_fetched_and_used(rogue: Rogue) -> None:
    challenge = f'Bearer realm="http://{rogue.address}/token",service="the registry",scope="repository:x:pull"'
    rogue.put("/v2/x/manifests/1", b"", 401, WWW_Authenticate=challenge)
    rogue.put("/token", b'{"token": "let-me-in"}')
    rogue.image()
    assert resolve(rogue, credentials=SECRET).config == CONFIG
    token = next(entry for entry in rogue.seen if entry[0].startswith("/token"))
    assert "scope=repository%3Ax%3Apull" in token[0] and "service=the+registry" in token[0]
    assert base64.b64decode(token[1]["authorization"].removeprefix("Basic ")) == b"me:secret"
    assert rogue.seen[-1][1]["authorization"] == "Bearer let-me-in"


def test_basic_credentials_are_sent_when_asked_for(rogue: Rogue) -> None:
    rogue.put("/v2/x/manifests/1", b"", 401, WWW_Authenticate='Basic realm="x"')
    rogue.image()
    assert resolve(rogue, credentials=SECRET).config == CONFIG
    with pytest.raises(PierheadError, match="no basic auth credentials"):
        rogue.answers.clear()
        rogue.put("/v2/", b"{}")
        rogue.put("/v2/x/manifests/1", b"", 401, WWW_Authenticate='Basic realm="x"')
        resolve(rogue)


def test_wrong_credentials_are_said(rogue: Rogue) -> None:
    rogue.put("/v2/x/manifests/1", b"", 401, WWW_Authenticate=f'Bearer realm="http://{rogue.address}/token"')
    rogue.put("/token", b"{}", 401)
    with pytest.raises(Unauthorized, match="incorrect username or password"):
        resolve(rogue, credentials=SECRET)
    with pytest.raises(NotFound, match=r"pull access denied for .*/x, repository does not exist or may require"):
        resolve(rogue)


def test_where_a_blob_is_redirected_no_credentials_arrive(rogue: Rogue) -> None:
    """CVE-2020-15157: another host was sent the password."""
    other = Rogue()
    try:
        path = f"/v2/x/blobs/{digest(LAYER)}"
        rogue.put(path, b"", 401, WWW_Authenticate='Basic realm="x"')
        rogue.put(path, b"", 307, Location=f"http://{other.address}/elsewhere")
        other.put("/elsewhere", LAYER)
        assert download(rogue, Descriptor("", digest(LAYER), len(LAYER)), SECRET) == LAYER
        assert "authorization" in rogue.seen[-1][1] and "authorization" not in other.seen[-1][1]
    finally:
        other.close()


@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://", "/v2/x/blobs/loop"])
def test_redirects_to_nowhere_end(rogue: Rogue, location: str) -> None:
    rogue.put(f"/v2/x/blobs/{digest(LAYER)}", b"", 302, Location=location)
    rogue.put("/v2/x/blobs/loop", b"", 302, Location="/v2/x/blobs/loop")
    with pytest.raises(PierheadError):
        download(rogue, Descriptor("", digest(LAYER), len(LAYER)))
    assert len(rogue.seen) < 60


def test_credentials_are_not_sent_in_the_clear() -> None:
    challenge = parse_challenge('Bearer realm="http://evil.example/token",service="s"')
    assert challenge is not None
    with pytest.raises(InvalidParameter, match="in the clear"):
        token_request(challenge, ("repository:x:pull",), SECRET, insecure=False)
    for realm in ("file:///x", "https://user@host/x", ""):
        odd = parse_challenge(f'Bearer realm="{realm}"')
        assert odd is not None
        with pytest.raises(InvalidParameter):
            token_request(odd, (), SECRET, insecure=False)


@pytest.mark.parametrize(
    ("domain", "wanted"),
    [
        ("127.0.0.1:5000", True),
        ("127.9.9.9", True),
        ("[::1]:5000", True),
        ("localhost:5000", True),
        ("localhost", True),
        ("registry.example", False),
        ("127.0.0.1.example:5000", False),
        ("localhost.example", False),
        ("10.0.0.1:5000", False),
        ("10.1.0.1:5000", True),
        ("named.example:5000", True),
    ],
)
def test_only_loopback_and_what_is_listed_goes_without_tls(domain: str, wanted: bool) -> None:
    """CVE-2014-5277, CVE-2026-92543: by its literal name or address, whatever a name resolves to."""
    assert is_insecure(domain, ("10.1.0.0/16", "named.example")) is wanted


def test_what_is_missing_is_said_in_dockers_words(rogue: Rogue) -> None:
    body = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
    rogue.put("/v2/x/manifests/1", body, 404)
    with pytest.raises(NotFound) as missing:
        resolve(rogue)
    assert str(missing.value) == f"manifest for {rogue.address}/x:1 not found: manifest unknown: manifest unknown"
    with pytest.raises(
        RegistryError, match=r'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused'
    ):
        reference = parse("127.0.0.1:1/x")
        with Registry(reference, None):
            pass


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbeginning"])
def test_a_cancelled_pull_ends_although_the_registry_stalls(said: bytes) -> None:
    stalled = threading.Event()
    accepted: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            accepted.append(peer)
            if b"/blobs/" in peer.recv(4096):
                peer.sendall(said)
                stalled.set()
            else:
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    listener = socket.create_server(("127.0.0.1", 0))
    server = threading.Thread(target=serve)
    server.start()
    failures: list[BaseException] = []
    registry = Registry(parse(f"127.0.0.1:{listener.getsockname()[1]}/x"), None)

    def read() -> None:
        blob = registry.blob(Descriptor("", digest(LAYER), 1_000_000), lambda count: None)
        try:
            while blob.read():
                pass
        except PierheadError as error:
            failures.append(error)
        finally:
            blob.close()

    try:
        with registry:
            thread = threading.Thread(target=read)
            thread.start()
            assert stalled.wait(20)
            registry.cancel()
            thread.join(20)
            assert not thread.is_alive() and "cancelled" in str(failures[0])
    finally:
        for peer in accepted:
            peer.close()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        server.join(10)


@pytest.mark.parametrize(
    ("there", "wanted", "chosen"),
    [
        (["amd64"], "amd64/v2", "amd64"),
        (["amd64", "amd64/v2", "amd64/v3"], "amd64/v3", "amd64/v3"),
        (["amd64/v2", "amd64", "amd64/v4"], "amd64/v3", "amd64/v2"),
        (["amd64/v3"], "amd64/v2", None),
        (["arm/v5", "arm/v6"], "arm", "arm/v6"),
        (["arm/v7", "arm/v6"], "arm/v6", "arm/v6"),
        (["arm64", "amd64"], "arm64/v8", "arm64"),
    ],
)
def test_a_processor_gets_the_newest_image_that_it_can_run(there: list[str], wanted: str, chosen: str | None) -> None:
    entries = tuple(Descriptor(OCI_MANIFEST, name, 1, Platform("linux", *name.split("/"))) for name in there)
    found = choose(Index(entries), Platform("linux", *wanted.split("/")))
    assert (found and found.digest) == chosen
