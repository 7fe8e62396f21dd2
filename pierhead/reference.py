"""Image references: Docker's grammar, its normalization and its short ("familiar") forms.

The grammar is that of github.com/distribution/reference::

    reference  := name [ ":" tag ] [ "@" digest ]
    name       := [ domain "/" ] path          domain: has a "." or a ":" or an upper-case letter, or is "localhost"
    path       := component { "/" component }  component: [a-z0-9]+ joined by ".", "_", "__" or "-"s
    tag        := [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}
    digest     := algorithm ":" hex

A name without a domain is at docker.io, and there a name of one component is below ``library/``.
"""

import re
from dataclasses import dataclass, replace

from pierhead.errors import InvalidParameter

DEFAULT_DOMAIN = "docker.io"
LEGACY_DOMAIN = "index.docker.io"
OFFICIAL = "library/"
DEFAULT_TAG = "latest"
NAME_LIMIT = 255

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[(?:[a-fA-F0-9:]+)\])"
_DOMAIN = rf"{_HOST}(?::[0-9]+)?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

_PATH_RE = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_DOMAIN_RE = re.compile(_DOMAIN, re.ASCII)
_TAG_RE = re.compile(_TAG, re.ASCII)
_DIGEST_RE = re.compile(_DIGEST, re.ASCII)
_SHA256_RE = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_HEX64_RE = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalized reference: domain "docker.io", path "library/busybox", and at most a tag and a digest."""

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """Domain and path: "docker.io/library/busybox"."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The name as people write it: "busybox", "someone/thing", "localhost:5000/x"."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(OFFICIAL)
        return self.path if "/" in short else short

    def _with_suffix(self, name: str) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{name}{tag}{digest}"

    @property
    def familiar(self) -> str:
        """What ``docker images`` shows: "busybox:latest", "busybox@sha256:…"."""
        return self._with_suffix(self.familiar_name)

    def __str__(self) -> str:
        return self._with_suffix(self.name)

    @property
    def is_name_only(self) -> bool:
        """Neither tag nor digest."""
        return self.tag is None and self.digest is None

    def tagged(self) -> "Reference":
        """The same, ":latest" where there is neither tag nor digest."""
        return replace(self, tag=DEFAULT_TAG) if self.is_name_only else self

    def with_tag(self, tag: str) -> "Reference":
        """This name with a tag instead of its own. Raises InvalidParameter."""
        if not _TAG_RE.fullmatch(tag):
            raise InvalidParameter("invalid tag format")
        return replace(self, tag=tag, digest=None)

    def with_digest(self, digest: str) -> "Reference":
        """This name with a digest and no tag. Raises InvalidParameter."""
        if not is_digest(digest):
            raise InvalidParameter("invalid digest format")
        return replace(self, tag=None, digest=digest)


def is_digest(text: str) -> bool:
    """Whether it is "sha256:" and 64 lower-case hex digits: the only digests accepted as names of content."""
    return _SHA256_RE.fullmatch(text) is not None


def is_domain(text: str) -> bool:
    """Whether it can be a registry's host, with or without a port."""
    return _DOMAIN_RE.fullmatch(text) is not None


def _split_domain(name: str) -> tuple[str, str]:
    """Cut a name into domain and path, with Docker's defaults put in."""
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        domain, path = DEFAULT_DOMAIN, name
    else:
        domain, path = first, rest
    if domain == LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = OFFICIAL + path
    return domain, path


def parse(text: str) -> Reference:
    """Read a reference as a user writes it. Raises InvalidParameter with Docker's wording."""
    if _HEX64_RE.fullmatch(text):
        raise InvalidParameter(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    rest, at, digest = text.partition("@")
    # A colon after the last slash begins the tag; one before it belongs to the domain's port.
    colon = rest.rfind(":")
    if colon > rest.rfind("/"):
        name, tag = rest[:colon], rest[colon + 1 :]
    else:
        name, tag = rest, None
    domain, path = _split_domain(name)
    if path.lower() != path:
        raise InvalidParameter(f"invalid reference format: repository name ({path}) must be lowercase")
    if (
        not name
        or not _PATH_RE.fullmatch(path)
        or not _DOMAIN_RE.fullmatch(domain)
        or (tag is not None and not _TAG_RE.fullmatch(tag))
        or (at and not _DIGEST_RE.fullmatch(digest))
    ):
        raise InvalidParameter("invalid reference format")
    if at and not is_digest(digest):
        algorithm, _, encoded = digest.partition(":")
        wrong_hash = algorithm == "sha256" or (algorithm == "sha512" and len(encoded) != 128)
        raise InvalidParameter("invalid checksum digest length" if wrong_hash else "unsupported digest algorithm")
    if len(path) > NAME_LIMIT:
        raise InvalidParameter(f"repository name must not be more than {NAME_LIMIT} characters")
    return Reference(domain, path, tag, digest if at else None)


def join(repository: str, tag: str) -> Reference:
    """A repository and a tag or digest, as the API has them: ``fromImage`` and ``tag``, ``repo`` and ``tag``."""
    if not tag:
        return parse(repository)
    if "@" in repository:
        raise InvalidParameter("invalid reference format")
    return parse(f"{repository}@{tag}" if is_digest(tag) else f"{repository}:{tag}")
