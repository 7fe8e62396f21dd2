"""Who we are to a registry: the answer to a 401's WWW-Authenticate (RFC 9110, distribution-spec token.md).

Credentials belong to one registry.  They are sent to it, and to the token server that it names over TLS; never to where
a blob is redirected (CVE-2020-15157).
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

import msgspec

from pierhead.errors import InvalidParameter

_PARAMETER = re.compile(r'([a-zA-Z0-9_-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')


@dataclass(frozen=True, slots=True)
class Credentials:
    """From X-Registry-Auth. identity_token: an OAuth2 refresh token; registry_token: used as it is."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    @property
    def basic(self) -> str:
        """The header of RFC 7617, or "" without a password."""
        if not self.username:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry asks for: scheme "bearer" or "basic", in lower case."""

    scheme: str
    parameters: Mapping[str, str]


class _Token(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None
    refresh_token: str | None = None


def parse_challenge(header: str) -> Challenge | None:
    """The first challenge of a WWW-Authenticate header that we can answer."""
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() not in ("bearer", "basic"):
        return None
    parameters = {
        match[1].lower(): match[2].replace('\\"', '"') if match[2] is not None else match[3]
        for match in _PARAMETER.finditer(rest)
    }
    return Challenge(scheme.lower(), parameters)


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """How to get a token: GET where ``form`` is None, else POST of the form."""

    url: str
    headers: Mapping[str, str]
    form: Mapping[str, str] | None


def token_request(
    challenge: Challenge,
    scopes: Sequence[str],
    credentials: Credentials | None,
    *,
    insecure: bool,
    offline: bool = False,
) -> TokenRequest:
    """The request that a Bearer challenge asks for.

    insecure: the registry itself is spoken to without TLS, so that its token server may be too.
    offline: ask for an identity token, to be kept in place of the password.
    Raises InvalidParameter for a realm that cannot be used.
    """
    realm = challenge.parameters.get("realm", "")
    parts = urlsplit(realm)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username:
        raise InvalidParameter(f"invalid realm in the registry's challenge: {realm[:200]!r}")
    if parts.scheme == "http" and not insecure:
        raise InvalidParameter(f"the registry wants credentials sent in the clear to {realm[:200]!r}: refused")
    fields = {"service": challenge.parameters.get("service", "")}
    if credentials is not None and credentials.identity_token:
        form = {
            **fields,
            "scope": " ".join(scopes),
            "grant_type": "refresh_token",
            "refresh_token": credentials.identity_token,
            "client_id": "docker",
        }
        return TokenRequest(realm, {}, form)
    headers = {}
    if credentials is not None and credentials.basic:
        headers["Authorization"] = credentials.basic
        fields["account"] = credentials.username
    if offline:
        fields |= {"offline_token": "true", "client_id": "docker"}
    query = urlencode([(key, value) for key, value in fields.items() if value] + [("scope", one) for one in scopes])
    separator = "&" if parts.query else "?"
    return TokenRequest(f"{realm}{separator}{query}", headers, None)


def parse_tokens(data: bytes) -> tuple[str, str]:
    """The token of a token server's answer, and an identity token or "". Raises InvalidParameter."""
    try:
        answer = msgspec.json.decode(data, type=_Token)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidParameter(f"invalid answer of the token server: {error}") from error
    token = answer.token or answer.access_token
    if not token or not token.isascii() or not token.isprintable():
        raise InvalidParameter("invalid answer of the token server: no token in it")
    return token, answer.refresh_token or ""
