"""Uploads that break, registries that refuse: a blob arrives whole or its failure is said, and is sent only once."""

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import parse_qs, urlsplit

import pytest

from pierhead import manifest
from pierhead.daemon.jobs.pushes import _manifest as laid_out
from pierhead.errors import Forbidden, PierheadError
from pierhead.graph.blobs import Blob
from pierhead.reference import parse
from pierhead.registry import upload
from pierhead.registry.auth import Credentials
from pierhead.registry.hosts import Hosts, RegistryError
from pierhead.registry.repository import Repository
from pierhead.registry.session import Session
from pierhead.registry.upload import Uploads

DATA = os.urandom(3 << 20)
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()


class Harbour:
    """A registry of one repository, ``x``, whose connections break as a test says."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[str, bytes] = {}
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.break_patch_after: list[int] = []
        self.lose_answers_to: list[str] = []
        self.refuse = b""
        self.elsewhere = ""
        harbour = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                harbour.serve(self)

            do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = handle_one

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        self.seen.append((request.command, request.path, dict(request.headers.items())))
        path, query = urlsplit(request.path).path, parse_qs(urlsplit(request.path).query)
        length = int(request.headers.get("Content-Length") or 0)
        if request.command == "PATCH" and self.break_patch_after:
            self.parts[path] += request.rfile.read(self.break_patch_after.pop(0))
            request.close_connection = True
            return
        body = request.rfile.read(length)
        status, headers, text = self.answer(request.command, path, query, body)
        if request.command in self.lose_answers_to and path != "/v2/":
            self.lose_answers_to.remove(request.command)
            request.close_connection = True
            return
        request.send_response(status)
        for key, value in {"Content-Length": str(len(text)), **headers}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(text)

    def answer(
        self, method: str, path: str, query: dict[str, list[str]], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if path == "/v2/":
            return 200, {}, b"{}"
        if method == "HEAD":
            return (200 if path.rpartition("/")[2] in self.blobs else 404), {}, b""
        if self.refuse:
            return 403, {}, self.refuse
        if method == "POST":
            if "mount" in query and query["from"] == ["other"]:
                return 201, {}, b""
            place = f"/v2/x/blobs/uploads/{len(self.parts)}"
            self.parts[place] = b""
            return 202, {"Location": f"{self.elsewhere}{place}?state=1"}, b""
        if path not in self.parts:
            return 404, {}, b""
        if method == "DELETE":
            del self.parts[path]
            return 204, {}, b""
        if method == "GET":
            return 204, {"Range": f"0-{max(0, len(self.parts[path]) - 1)}"}, b""
        self.parts[path] += body
        if method == "PATCH":
            return 202, {"Location": f"{path}?state=2"}, b""
        data = self.parts.pop(path)
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        if query["digest"] != [digest]:
            return 400, {}, b'{"errors": [{"code": "DIGEST_INVALID", "message": "provided digest did not match"}]}'
        self.blobs[digest] = data
        return 201, {}, b""

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


@pytest.fixture
def harbour(monkeypatch: pytest.MonkeyPatch) -> Iterator[Harbour]:
    monkeypatch.setattr(upload, "BACKOFF", 0.001)
    made = Harbour()
    yield made
    made.close()


def uploads(harbour: Harbour, credentials: Credentials | None = None) -> Uploads:
    session = Session(harbour.address, credentials, Hosts(), ("repository:x:pull,push",))
    session.connect()
    return Uploads(Repository(session, parse(f"{harbour.address}/x")))


def put(harbour: Harbour, tmp_path: Path, data: bytes = DATA, digest: str = DIGEST) -> tuple[list[int], list[float]]:
    sent: list[int] = []
    waits: list[float] = []
    (tmp_path / "blob").write_bytes(data)
    with open(tmp_path / "blob", "rb") as file:
        uploads(harbour).put(cast("BinaryIO", file), digest, len(data), sent.append, waits.append)
    return sent, waits


def sent_bytes(harbour: Harbour) -> int:
    return sum(int(headers.get("Content-Length", 0)) for method, _, headers in harbour.seen if method == "PATCH")


@pytest.mark.parametrize("size", [0, 10, 3 << 20])
def test_a_blob_arrives_whole(harbour: Harbour, tmp_path: Path, size: int) -> None:
    data = DATA[:size]
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    sent, waits = put(harbour, tmp_path, data, digest)
    assert harbour.blobs == {digest: data} and waits == []
    assert sent[-1:] == ([size] if size else [])
    methods = [method for method, _, _ in harbour.seen]
    assert ("PATCH" in methods) == (size > 1 << 20)


def test_a_broken_upload_goes_on_where_it_broke(harbour: Harbour, tmp_path: Path) -> None:
    harbour.break_patch_after = [1_000_000, 500_000]
    _, waits = put(harbour, tmp_path)
    assert harbour.blobs == {DIGEST: DATA} and len(waits) == 2
    ranges = [headers.get("Content-Range") for method, _, headers in harbour.seen if method == "PATCH"]
    assert ranges == [None, f"1000000-{len(DATA) - 1}", f"1500000-{len(DATA) - 1}"]


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT", "GET"])
def test_an_answer_that_is_lost_costs_no_second_upload(harbour: Harbour, tmp_path: Path, method: str) -> None:
    harbour.lose_answers_to = [method]
    if method == "GET":
        harbour.break_patch_after = [1_000_000]
    put(harbour, tmp_path)
    assert harbour.blobs == {DIGEST: DATA}
    if method in ("POST", "PATCH", "PUT"):
        assert sent_bytes(harbour) == len(DATA)


def test_a_registry_that_breaks_for_ever_is_given_up(harbour: Harbour, tmp_path: Path) -> None:
    harbour.break_patch_after = [10] * 100
    with pytest.raises(RegistryError):
        put(harbour, tmp_path)
    assert len([method for method, _, _ in harbour.seen if method == "PATCH"]) == upload.ATTEMPTS


def test_an_upload_that_is_given_up_is_ended_at_the_registry(harbour: Harbour, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(DATA)
    writing = uploads(harbour)
    harbour.break_patch_after = [10]

    def leave(seconds: float) -> None:
        writing._session.cancel()

    with open(tmp_path / "blob", "rb") as file, pytest.raises(RegistryError, match="cancelled"):
        writing.put(cast("BinaryIO", file), DIGEST, len(DATA), lambda sent: None, leave)
    assert harbour.seen[-1][:2] == ("DELETE", "/v2/x/blobs/uploads/0?state=1") and harbour.parts == {}


def test_every_wait_is_twice_as_long_and_never_the_same(harbour: Harbour, tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        harbour.break_patch_after = [10] * (upload.ATTEMPTS - 1)
        seen.append(put(harbour, tmp_path, DATA, DIGEST)[1])
        harbour.blobs.clear()
    assert seen[0] != seen[1]
    for waits in seen:
        assert len(waits) == upload.ATTEMPTS - 1
        assert all(0.75 <= wait / (upload.BACKOFF * 2**n) <= 1.25 for n, wait in enumerate(waits))


def test_a_refusal_is_said_in_the_registrys_words_and_not_repeated(harbour: Harbour, tmp_path: Path) -> None:
    harbour.refuse = b'{"errors": [{"code": "DENIED", "message": "requested access to the resource is denied"}]}'
    with pytest.raises(Forbidden, match=r"^denied: requested access to the resource is denied$"):
        put(harbour, tmp_path)
    assert [method for method, _, _ in harbour.seen].count("POST") == 1
    harbour.refuse = b""
    with pytest.raises(PierheadError, match="digest invalid: provided digest did not match"):
        put(harbour, tmp_path, DATA[:100], DIGEST)


def test_a_blob_is_mounted_or_can_be_uploaded_at_once(harbour: Harbour) -> None:
    writing = uploads(harbour)
    assert writing.mount(DIGEST, "other") == (True, "")
    mounted, location = writing.mount(DIGEST, "unknown")
    assert not mounted and re.search(r"/v2/x/blobs/uploads/\d+\?state=1$", location)


def test_where_an_upload_is_sent_elsewhere_no_credentials_arrive(harbour: Harbour, tmp_path: Path) -> None:
    other = Harbour()
    try:
        other.parts["/v2/x/blobs/uploads/0"] = b""
        harbour.elsewhere = f"http://{other.address}"
        writing = uploads(harbour, Credentials("me", "secret"))
        writing._session.authorize('Basic realm="x"')
        (tmp_path / "blob").write_bytes(DATA)
        with open(tmp_path / "blob", "rb") as file:
            writing.put(cast("BinaryIO", file), DIGEST, len(DATA), lambda sent: None, lambda seconds: None)
        assert any("Authorization" in headers for _, _, headers in harbour.seen)
        assert other.seen and not any("Authorization" in headers for _, _, headers in other.seen)
    finally:
        other.close()


def test_layers_of_zstd_are_pushed_as_what_they_are() -> None:
    """Docker's schema 2 knows gzip alone."""
    config = Blob(DIGEST, 3, manifest.DOCKER_CONFIG, "x")
    gzip = Blob(DIGEST, 1, manifest.OCI_LAYER + "+gzip", "x")
    zstd = Blob(DIGEST, 2, manifest.OCI_LAYER + "+zstd", "x")
    document, kind = laid_out(config, [gzip])
    found = manifest.parse(document, kind)
    assert kind == manifest.DOCKER_MANIFEST and isinstance(found, manifest.Manifest)
    assert [layer.media_type for layer in found.layers] == [manifest.DOCKER_LAYER_GZIP]
    document, kind = laid_out(config, [gzip, zstd])
    found = manifest.parse(document, kind)
    assert kind == manifest.OCI_MANIFEST and isinstance(found, manifest.Manifest)
    assert [layer.media_type for layer in found.layers] == [gzip.media_type, zstd.media_type]
    assert found.config.media_type == manifest.OCI_CONFIG
