"""A token server as docker-registry wants one (distribution-spec token.md), which signs with openssl."""

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

from tests.harness.netns import Namespace
from tests.harness.processes import run
from tests.harness.registry import BASIC, PASSWORD, USER, certificate

PORT = 5001
IDENTITY = "an-identity-token"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class TokenServer:
    """Gives USER every scope that is asked for, others none. scopes: what was asked for, in order."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.scopes: list[str] = []
        certificate(folder / "token", "127.0.0.1")
        self.settings: dict[str, object] = {
            "token": {
                "realm": f"http://127.0.0.1:{port}/token",
                "service": "the harbour",
                "issuer": "the harbour master",
                "rootcertbundle": str(folder / "token.crt"),
            }
        }

    def token(self, scopes: list[str]) -> str:
        """A signed token (RFC 7519, RS256) for scopes like "repository:x:pull,push"."""
        self.scopes += scopes
        der = run(["openssl", "x509", "-in", str(self.folder / "token.crt"), "-outform", "PEM"]).check().stdout
        chain = "".join(line for line in der.splitlines() if "-----" not in line)
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {"iss": "the harbour master", "aud": "the harbour", "sub": USER, "jti": str(time.time_ns())}
        claims |= {"exp": now + 600, "nbf": now - 60, "iat": now, "access": access}  # type: ignore[dict-item]
        head = _encoded(json.dumps({"typ": "JWT", "alg": "RS256", "x5c": [chain]}).encode())
        text = f"{head}.{_encoded(json.dumps(claims).encode())}"
        where = self.folder / f"signed-{time.time_ns()}"
        where.with_suffix(".text").write_text(text)
        key = str(self.folder / "token.key")
        run(["openssl", "dgst", "-sha256", "-sign", key, "-out", f"{where}.sig", f"{where}.text"]).check()
        return f"{text}.{_encoded(where.with_suffix('.sig').read_bytes())}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a GET, or the POST of an identity token."""
        form = parse_qs(request.rfile.read(int(request.headers.get("Content-Length") or 0)).decode())
        asked = form or parse_qs(urlsplit(request.path).query)
        known = request.headers.get("Authorization") == BASIC or form.get("refresh_token") == [IDENTITY]
        given = {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]}
        if known:
            scopes = [one for scope in asked.get("scope", ()) for one in scope.split(" ")]
            given = {"access_token" if form else "token": self.token(scopes)}  # type: ignore[dict-item]
            if asked.get("offline_token"):
                given["refresh_token"] = IDENTITY  # type: ignore[assignment]
        body = json.dumps(given).encode()
        request.send_response(200 if known else 401)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


@contextmanager
def token_server(host: Namespace, folder: Path, port: int = PORT) -> Iterator[TokenServer]:
    """One at 127.0.0.1:5001 of a machine."""
    made = TokenServer(folder, port)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.answer(self)

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    server = host.call(lambda: ThreadingHTTPServer(("127.0.0.1", port), Handler))
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


__all__ = ["IDENTITY", "PASSWORD", "USER", "TokenServer", "token_server"]
