"""How a registry's host is reached: with TLS or without, whose certificates count, which mirrors come first.

Only a literal loopback address, "localhost", and what the administrator listed is spoken to without TLS: a name that
merely resolves to such an address does not count (CVE-2026-92543).  Certificates lie where Docker has them:
``certs.d/<host>[:<port>]/*.crt`` are authorities beside the system's, ``*.cert`` and ``*.key`` what we show.
"""

import ipaddress
import os
import ssl
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from pierhead.errors import InvalidParameter, PierheadError
from pierhead.manifest import LIMIT as MANIFEST_LIMIT

CERTIFICATES = "/etc/docker/certs.d"


class RegistryError(PierheadError):
    """A registry that cannot be reached or does not do its part."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """What the administrator says of registries.

    mirrors: URLs, of docker.io.  certificates: a folder.  attempts: how often a blob's download is begun.
    manifest_size: bytes that a manifest or an index may have.
    """

    insecure: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    certificates: str = CERTIFICATES
    attempts: int = 5
    manifest_size: int = MANIFEST_LIMIT

    def is_insecure(self, domain: str) -> bool:
        """Whether a registry may be spoken to without TLS, or with a certificate that nobody signed."""
        return is_insecure(domain, self.insecure)

    def context(self, domain: str, own: str) -> ssl.SSLContext:
        """TLS to a host on behalf of the registry ``own``: its authorities count, and to itself its certificate is
        shown.

        Raises RegistryError for files that cannot be used.
        """
        if self.is_insecure(domain):
            # Nobody is asked who signed it: the system's authorities, which take longer than a small pull, stay away.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context = ssl.create_default_context()
        folder = os.path.join(self.certificates, own)
        try:
            names = sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return context
        except OSError as error:
            raise RegistryError(f"{folder}: {error.strerror}") from error
        for name in names:
            path = os.path.join(folder, name)
            try:
                if name.endswith(".crt"):
                    context.load_verify_locations(path)
                elif name.endswith(".cert"):
                    key = name.removesuffix(".cert") + ".key"
                    if key not in names:
                        raise RegistryError(
                            f"missing key {key} for client certificate {name}. CA certificates must use the extension "
                            ".crt"
                        )
                    if domain == own:
                        context.load_cert_chain(path, os.path.join(folder, key))
                elif name.endswith(".key") and name.removesuffix(".key") + ".cert" not in names:
                    raise RegistryError(f"missing client certificate {name.removesuffix('.key')}.cert for key {name}")
            except (OSError, ssl.SSLError) as error:
                raise RegistryError(f"{path}: {error}") from error
        return context


def is_loopback(host: str) -> bool:
    """Whether a registry's host is a literal address of 127.0.0.0/8 or ::1, or "localhost"."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _split_host(domain: str) -> str:
    if domain.startswith("["):
        return domain[: domain.index("]") + 1]
    return domain.partition(":")[0]


def is_insecure(domain: str, listed: tuple[str, ...]) -> bool:
    """Whether a registry may be spoken to without TLS: loopback, or listed by name, address or network."""
    host = _split_host(domain)
    if is_loopback(host) or domain in listed or host in listed:
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    for entry in listed:
        with suppress(ValueError):
            if address in ipaddress.ip_network(entry):
                return True
    return False


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where docker.io's images are asked for first."""

    scheme: str
    domain: str


def parse_mirror(url: str) -> Mirror:
    """A mirror's URL. Raises InvalidParameter in Docker's words."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidParameter(
            f"invalid mirror: no scheme specified for \"{url}\": must use either 'https://' or 'http://'"
        )
    if parts.query or parts.fragment or parts.path.strip("/"):
        raise InvalidParameter(f'invalid mirror: path, query, or fragment at end of the URI "{url}"')
    if parts.username is not None:
        raise InvalidParameter(
            f'invalid mirror: username/password not allowed in URI "{parts.scheme}://{parts.hostname}"'
        )
    return Mirror(parts.scheme, parts.netloc)
