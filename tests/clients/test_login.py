"""Logins at registries: basic and token auth, TLS with an authority of one's own, credential helpers."""

import json
import os
import stat
from pathlib import Path

import pytest

from tests.harness.engines import Engine, Pierd
from tests.harness.images import busybox_rootfs
from tests.harness.registry import PASSWORD, USER, certificate, registry
from tests.harness.tokens import IDENTITY, token_server

LAYERS = (busybox_rootfs(),)
CLIENTS = ("docker", "pier")


def config(engine: Engine) -> dict[str, dict[str, dict[str, str]]]:
    found: dict[str, dict[str, dict[str, str]]] = json.loads((engine.root / "client/config.json").read_text())
    return found


def pier_only_with_pierd(engine: Engine, program: str) -> None:
    if program == "pier" and engine.kind != "pierd":
        pytest.skip("pier is tested with pierd")


@pytest.mark.parametrize("program", CLIENTS)
def test_a_login_by_password_lets_in_until_the_logout(
    own_engine: Engine, peers: Path, tmp_path: Path, program: str
) -> None:
    pier_only_with_pierd(own_engine, program)
    client = own_engine.docker if program == "docker" else own_engine.pier
    with registry(own_engine.host, tmp_path, users=True) as harbour:
        name = f"{harbour.address}/team/secret:v1"
        harbour.push("team/secret", "v1", LAYERS)
        refused = client("pull", name)
        assert refused.status == 1 and "no basic auth credentials" in refused.stderr
        wrong = client("login", "-u", USER, "--password-stdin", harbour.address, stdin=b"wrong\n")
        assert wrong.status == 1 and "login attempt to http://127.0.0.1:5000/v2/ failed" in wrong.stderr
        assert "401 Unauthorized" in wrong.stderr
        said = client("login", "-u", USER, "--password-stdin", f"http://{harbour.address}/", stdin=PASSWORD.encode())
        assert said.check().stdout == "Login Succeeded\n"
        assert "WARNING! Your credentials are stored unencrypted in" in said.stderr
        assert list(config(own_engine)["auths"]) == [harbour.address]
        mode = os.stat(own_engine.root / "client/config.json").st_mode
        assert stat.S_IMODE(mode) == 0o600
        again = client("login", harbour.address).check()
        assert f"Authenticating with existing credentials... [Username: {USER}]" in again.stderr
        client("pull", "-q", name).check()
        assert PASSWORD not in own_engine.log.read_text()
        left = client("logout", harbour.address).check()
        assert (
            left.stdout == f"Removing login credentials for {harbour.address}\n" and config(own_engine)["auths"] == {}
        )
        assert client("pull", name).status == 1


def test_a_login_by_token_keeps_an_identity_and_no_password(own_engine: Engine, peers: Path, tmp_path: Path) -> None:
    clients = CLIENTS if own_engine.kind == "pierd" else ("docker",)
    with (
        token_server(own_engine.host, tmp_path) as tokens,
        registry(own_engine.host, tmp_path, auth=tokens.settings) as harbour,
    ):
        harbour.authorization = "Bearer " + tokens.token(["repository:team/secret:pull,push"])
        harbour.push("team/secret", "v1", LAYERS)
        tokens.scopes.clear()
        for program in clients:
            client = own_engine.docker if program == "docker" else own_engine.pier
            wrong = client("login", "-u", USER, "-p", "wrong", harbour.address)
            assert wrong.status == 1 and "unauthorized: incorrect username or password" in wrong.stderr
            client("login", "-u", USER, "-p", PASSWORD, harbour.address).check()
            entry = config(own_engine)["auths"][harbour.address]
            assert entry["identitytoken"] == IDENTITY and PASSWORD not in json.dumps(entry)
            client("pull", "-q", f"{harbour.address}/team/secret:v1").check()
            assert tokens.scopes[-1] == "repository:team/secret:pull"
            client("rmi", f"{harbour.address}/team/secret:v1").check()
            client("logout", harbour.address).check()


def test_tls_is_believed_by_the_hosts_own_authority_alone(pierd: Pierd, peers: Path, tmp_path: Path) -> None:
    """CVE-2025-6032, CVE-2014-5277: certificates that nobody checked, and plain HTTP where TLS failed."""
    ip = pierd.world.host_address
    certs = tmp_path / "certs.d"
    pierd.stop()
    pierd.start("--registry-certs", str(certs))
    with registry(pierd.host, tmp_path, ip=ip, tls=True) as harbour:
        harbour.push("team/app", "v1", LAYERS)
        name = f"{harbour.address}/team/app:v1"
        refused = pierd.docker("pull", name)
        assert refused.status == 1
        assert "tls: failed to verify certificate: x509: certificate signed by unknown authority" in refused.stderr
        (certs / harbour.address).mkdir(parents=True)
        (certs / harbour.address / "ca.crt").write_bytes((tmp_path / "registry.crt").read_bytes())
        pierd.docker("pull", name).check()
        (certs / harbour.address / "odd.key").write_text("x")
        odd = pierd.docker("pull", name)
        assert odd.status == 1 and "missing client certificate odd.cert for key odd.key" in odd.stderr
        (certs / harbour.address / "odd.key").unlink()
    certificate(tmp_path / "client", "192.0.2.10")
    with registry(pierd.host, tmp_path, ip=ip, tls=True, clients=tmp_path / "client.crt") as harbour:
        (certs / harbour.address / "ca.crt").write_bytes((tmp_path / "registry.crt").read_bytes())
        assert pierd.docker("pull", name).status == 1
        for suffix, ours in (("cert", "client.crt"), ("key", "client.key")):
            (certs / harbour.address / f"me.{suffix}").write_bytes((tmp_path / ours).read_bytes())
        pierd.docker("pull", name).check()
    with registry(pierd.host, tmp_path, ip=ip) as harbour:
        plain = pierd.docker("pull", name)
        assert plain.status == 1 and "http: server gave HTTP response to HTTPS client" in plain.stderr
        pierd.stop()
        pierd.start("--insecure-registry", "192.0.2.0/24")
        pierd.docker("pull", name).check()


def test_a_credential_helper_keeps_the_password_instead_of_the_file(
    own_engine: Engine, peers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = CLIENTS if own_engine.kind == "pierd" else ("docker",)
    helper = tmp_path / "docker-credential-hold"
    helper.write_text(
        f"""#!/bin/sh
case $1 in
store) cat > {tmp_path}/kept ;;
get) [ -e {tmp_path}/kept ] || {{ echo "credentials not found in native keychain"; exit 1; }}; cat {tmp_path}/kept ;;
erase) rm -f {tmp_path}/kept ;;
list) echo '{{}}' ;;
esac
"""
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    file = own_engine.root / "client/config.json"
    file.parent.mkdir(exist_ok=True)
    with registry(own_engine.host, tmp_path, users=True) as harbour:
        harbour.push("team/secret", "v1", LAYERS)
        settings = [(program, {"credsStore": "hold"}) for program in clients]
        for program, helpers in (*settings, (clients[-1], {"credHelpers": {harbour.address: "hold"}})):
            client = own_engine.docker if program == "docker" else own_engine.pier
            file.write_text(json.dumps({**helpers, "psFormat": "{{.ID}}"}))
            assert "no basic auth credentials" in client("pull", f"{harbour.address}/team/secret:v1").stderr
            said = client("login", "-u", USER, "--password-stdin", harbour.address, stdin=PASSWORD.encode()).check()
            assert "unencrypted" not in said.stderr
            assert json.loads((tmp_path / "kept").read_text())["Secret"] == PASSWORD
            assert config(own_engine)["auths"][harbour.address] == {} and "psFormat" in config(own_engine)
            client("pull", "-q", f"{harbour.address}/team/secret:v1").check()
            client("rmi", f"{harbour.address}/team/secret:v1").check()
            client("logout", harbour.address).check()
            assert not (tmp_path / "kept").exists()
