"""Debian's docker-registry on the engine's loopback, and what it takes to put an image into it."""

import base64
import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.harness.engines import PEERS
from tests.harness.images import DOCKER_MANIFEST, MANIFEST, compressed, config_of, digest, oci_manifest
from tests.harness.netns import Namespace
from tests.harness.processes import DEADLINE, Daemon, run, wait_until

PORT = 5000


USER, PASSWORD = "captain", "opensesame"
HTPASSWD = "captain:$2y$05$abcdefghijklmnopqrstuuQbLfdQZSxZ9gjhA5V9o8Tyc6aQRO0Qi\n"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class Registry:
    """A registry at 127.0.0.1:5000 of a machine. trusted: its certificate, where it has one."""

    def __init__(self, host: Namespace, port: int = PORT, ip: str = "127.0.0.1", trusted: Path | None = None) -> None:
        self.host = host
        self.port = port
        self.ip = ip
        self.trusted = trusted
        self.address = f"{ip}:{port}"
        self.authorization = ""
        self.shown: tuple[str, str] | None = None
        """Certificate and key that its clients need."""

    def request(self, method: str, path: str, body: bytes = b"", content_type: str = "application/octet-stream") -> str:
        """One request from the registry's machine; returns the Location."""
        connection = http.client.HTTPConnection(self.ip, self.port, timeout=DEADLINE)
        headers = {"Content-Type": content_type, "Host": self.address}
        if self.authorization:
            headers["Authorization"] = self.authorization
        try:
            connection.sock = self.host.connect(self.ip, self.port)
            if self.trusted is not None:
                context = ssl.create_default_context(cafile=str(self.trusted))
                if self.shown is not None:
                    context.load_cert_chain(*self.shown)
                connection.sock = context.wrap_socket(connection.sock, server_hostname=self.ip)
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status < 400, f"{method} {path}: {answer.status} {text!r}"
            return answer.getheader("Location") or ""
        finally:
            connection.close()

    def push(
        self, repository: str, tag: str, layers: Sequence[bytes], config: bytes | None = None, docker: bool = True
    ) -> str:
        """Store an image of uncompressed layers; returns the manifest's digest."""
        config = config or config_of(layers)
        blobs = [compressed(layer) for layer in layers]
        for blob in (config, *blobs):
            where = self.request("POST", f"/v2/{repository}/blobs/uploads/")
            where = where[where.index("/v2/") :]
            joined = "&" if "?" in where else "?"
            self.request("PUT", f"{where}{joined}digest={digest(blob)}", blob)
        manifest = oci_manifest(config, blobs, docker)
        self.request("PUT", f"/v2/{repository}/manifests/{tag}", manifest, DOCKER_MANIFEST if docker else MANIFEST)
        return digest(manifest)


def certificate(where: Path, ip: str) -> None:
    """A key and a certificate that it signs itself, for an address: ``where`` with .key and .crt."""
    made = run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=the harbour", "-addext", f"subjectAltName=IP:{ip}"),
            *("-keyout", f"{where}.key", "-out", f"{where}.crt"),
        ]
    )
    made.check()


@contextmanager
def registry(
    host: Namespace,
    folder: Path,
    port: int = PORT,
    *,
    ip: str = "127.0.0.1",
    users: bool = False,
    tls: bool = False,
    auth: dict[str, object] | None = None,
    clients: Path | None = None,
) -> Iterator[Registry]:
    """A registry that answers, with its storage in the folder; ended at the end.

    users: USER with PASSWORD alone, by basic auth.  tls: with a certificate of its own, ``folder/registry.crt``.
    auth: the registry's own setting of that name.  clients: the authority of those who may come at all.
    """
    http: dict[str, object] = {"addr": f"{ip}:{port}"}
    if tls:
        certificate(folder / "registry", ip)
        known = {"clientcas": [str(clients)]} if clients else {}
        http["tls"] = {"certificate": str(folder / "registry.crt"), "key": str(folder / "registry.key"), **known}
    if users:
        (folder / "htpasswd").write_text(HTPASSWD)
        auth = {"htpasswd": {"realm": "the harbour", "path": str(folder / "htpasswd")}}
    settings = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
        "http": http,
        **({"auth": auth} if auth else {}),
    }
    # JSON is YAML.
    (folder / "registry.yml").write_text(json.dumps(settings))
    program = str(PEERS / "usr/bin/docker-registry")
    daemon = Daemon(host.argv(program, "serve", str(folder / "registry.yml")), folder / "registry.log")
    try:
        made = Registry(host, port, ip, folder / "registry.crt" if tls else None)
        if users:
            made.authorization = BASIC
        if clients:
            made.shown = (str(clients), str(clients.with_suffix(".key")))

        def answers() -> bool:
            assert daemon.running(), daemon.said()
            try:
                made.request("GET", "/v2/" if auth is None or users else "/")
            except OSError:
                return False
            return True

        wait_until(answers, "the registry")
        yield made
    finally:
        daemon.terminate()


@contextmanager
def _serving(host: Namespace, port: int, answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[None]:
    """A server at 127.0.0.1 of a machine that has every request answered by a function, each in a thread."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    server = host.call(lambda: ThreadingHTTPServer(("127.0.0.1", port), Handler))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class StallingRegistry:
    """A registry of one image, ``image``, that stops in the middle of one of its layers until it is told to ``go``."""

    def __init__(self, port: int, layers: Sequence[bytes], stalls: int) -> None:
        self.image = f"127.0.0.1:{port}/stalls:here"
        self.asked: list[str] = []
        self.stalled = threading.Event()
        self.go = threading.Event()
        config = config_of(layers)
        blobs = [compressed(layer) for layer in layers]
        self.layers = [digest(blob) for blob in blobs]
        self.slow = self.layers[stalls]
        manifest = oci_manifest(config, blobs, docker=True)
        self.answers = {f"/v2/stalls/blobs/{digest(blob)}": blob for blob in (config, *blobs)}
        self.answers |= {f"/v2/stalls/manifests/{name}": manifest for name in ("here", digest(manifest))}
        self.answers["/v2/"] = b"{}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a GET or HEAD."""
        body = self.answers.get(request.path)
        request.send_response(404 if body is None else 200)
        body = body or b""
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Docker-Distribution-API-Version", "registry/2.0")
        if "/manifests/" in request.path:
            request.send_header("Content-Type", DOCKER_MANIFEST)
            request.send_header("Docker-Content-Digest", digest(body))
        request.end_headers()
        if request.command == "HEAD":
            return
        self.asked.append(request.path)
        with suppress(ConnectionError):  # given up
            if request.path.endswith(self.slow):
                request.wfile.write(body[: len(body) // 2])
                self.stalled.set()
                self.go.wait(60)
                body = body[len(body) // 2 :]
            request.wfile.write(body)


@contextmanager
def stalling_registry(
    host: Namespace, layers: Sequence[bytes], port: int = PORT, stalls: int = -1
) -> Iterator[StallingRegistry]:
    """One at 127.0.0.1:5000 of a machine. stalls: the layer that it stops in."""
    made = StallingRegistry(port, layers, stalls)
    with _serving(host, port, made.answer):
        try:
            yield made
        finally:
            made.go.set()


class ReceivingRegistry:
    """A registry that has nothing, and stops in the middle of what is uploaded. ended: uploads that were given up."""

    def __init__(self) -> None:
        self.stalled = threading.Event()
        self.go = threading.Event()
        self.ended: list[str] = []
        self.begun = 0

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer whatever is asked."""
        status, location = {"GET": 200, "HEAD": 404, "POST": 202, "DELETE": 204}.get(request.command, 400), ""
        if request.command == "POST":
            self.begun += 1
            location = f"/v2/app/blobs/uploads/{self.begun}"
        elif request.command == "DELETE":
            self.ended.append(request.path)
        elif request.command in ("PATCH", "PUT"):
            request.rfile.read(1000)
            self.stalled.set()
            self.go.wait(60)
            request.close_connection = True
            return
        request.send_response(status)
        if location:
            request.send_header("Location", location)
        request.send_header("Content-Length", "0")
        request.end_headers()


@contextmanager
def receiving_registry(host: Namespace, port: int = PORT) -> Iterator[ReceivingRegistry]:
    """One at 127.0.0.1:5000 of a machine."""
    made = ReceivingRegistry()
    with _serving(host, port, made.answer):
        try:
            yield made
        finally:
            made.go.set()


class Answers:
    """What a registry says, path by path; the bodies may be changed while it serves."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {"/v2/": b"{}"}
        self.asked: list[tuple[str, str]] = []
        """Paths that were got, each with the stretch that was wanted ("": all)."""
        self.break_once: set[str] = set()
        """Paths whose first answer ends in the middle."""
        self.moved: dict[str, str] = {}
        """Where it is that a path leads to."""

    def image(self, repository: str, layers: Sequence[bytes]) -> list[bytes]:
        """An image with the tag 1; returns its blobs: configuration and compressed layers."""
        config = config_of(layers)
        blobs = [config, *(compressed(layer) for layer in layers)]
        manifest = oci_manifest(config, blobs[1:], docker=True)
        self.bodies |= {f"/v2/{repository}/blobs/{digest(blob)}": blob for blob in blobs}
        self.bodies |= {f"/v2/{repository}/manifests/{name}": manifest for name in ("1", digest(manifest))}
        return blobs

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a GET or HEAD."""
        body = self.bodies.get(request.path)
        wanted = request.headers.get("Range") or ""
        if request.command == "GET":
            self.asked.append((request.path, wanted))
        moved = self.moved.get(request.path)
        status = 302 if moved else 404 if body is None else 206 if wanted else 200
        body = body or b""
        if wanted:
            body = body[int(wanted.removeprefix("bytes=").partition("-")[0]) :]
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        if moved:
            request.send_header("Location", moved)
        if "/manifests/" in request.path:
            request.send_header("Content-Type", DOCKER_MANIFEST)
        request.end_headers()
        if request.path in self.break_once:
            self.break_once.remove(request.path)
            body = body[: len(body) // 2]
        if request.command == "GET":
            with suppress(ConnectionError):
                request.wfile.write(body)


@contextmanager
def serving_registry(host: Namespace, answers: Answers, port: int = PORT) -> Iterator[str]:
    """A registry at 127.0.0.1:5000 of a machine that says these; yields its address."""
    with _serving(host, port, answers.answer):
        yield f"127.0.0.1:{port}"
