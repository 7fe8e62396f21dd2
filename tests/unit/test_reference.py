"""Names of images: what people write is what Docker understands."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.errors import InvalidParameter
from pierhead.reference import is_digest, is_domain, join, parse

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("someone/thing", "docker.io/someone/thing", "someone/thing"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox", "busybox"),
        ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/x", "localhost/x", "localhost/x"),
        ("localhost:5000/x:y", "localhost:5000/x:y", "localhost:5000/x:y"),
        ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c"),
        ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
        ("Registry/x", "Registry/x", "Registry/x"),
        ("gcr.io/a_b/c__d/e-f.g", "gcr.io/a_b/c__d/e-f.g", "gcr.io/a_b/c__d/e-f.g"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"busybox:x@{DIGEST}", f"docker.io/library/busybox:x@{DIGEST}", f"busybox:x@{DIGEST}"),
        ("a:5000", "docker.io/library/a:5000", "a:5000"),
    ],
)
def test_names_are_completed_and_shortened_as_docker_does(text: str, full: str, familiar: str) -> None:
    reference = parse(text)
    assert str(reference) == full and reference.familiar == familiar
    assert parse(full) == reference


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        ("Busybox", "invalid reference format: repository name (library/Busybox) must be lowercase"),
        ("a/B:c", "invalid reference format: repository name (a/B) must be lowercase"),
        ("x:", "invalid reference format"),
        ("x:-y", "invalid reference format"),
        ("x:" + "y" * 129, "invalid reference format"),
        ("-x", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("a/", "invalid reference format"),
        ("a..b", "invalid reference format"),
        ("a___b", "invalid reference format"),
        ("x y", "invalid reference format"),
        ("x\n", "invalid reference format"),
        ("x@sha256:abc", "invalid reference format"),
        ("../etc/passwd", "invalid reference format"),
        ("http://example.com/x", "invalid reference format"),
        ("x@sha256:" + "a" * 63, "invalid checksum digest length"),
        ("x@sha256:" + "A" * 64, "invalid checksum digest length"),
        ("x@md5:" + "a" * 32, "unsupported digest algorithm"),
        ("a" * 64, f"invalid repository name ({'a' * 64}), cannot specify 64-byte hexadecimal strings"),
        ("a" * 300, "repository name must not be more than 255 characters"),
        ("ü", "invalid reference format"),
    ],
)
def test_bad_names_are_refused_in_dockers_words(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        parse(text)
    assert str(refusal.value) == message


def test_a_name_alone_means_latest() -> None:
    assert str(parse("x").tagged()) == "docker.io/library/x:latest"
    assert parse(f"x@{DIGEST}").tagged().tag is None
    assert str(parse("x:1").with_digest(DIGEST)) == f"docker.io/library/x@{DIGEST}"
    assert str(join("x", "1")) == "docker.io/library/x:1" and str(join("x", "")) == "docker.io/library/x"
    assert join("x", DIGEST).digest == DIGEST
    for wrong in ("", "a b", "-a", "x" * 129):
        with pytest.raises(InvalidParameter, match="invalid tag format"):
            parse("x").with_tag(wrong)


@settings(deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_either_a_reference_or_refused(text: str) -> None:
    try:
        reference = parse(text)
    except InvalidParameter:
        return
    assert parse(str(reference)) == reference and parse(reference.familiar) == reference


@pytest.mark.parametrize("text", ["sha256:../../x", "SHA256:" + "a" * 64, "md5:" + "a" * 32, DIGEST + "\n", ""])
def test_only_a_sha256_is_a_digest(text: str) -> None:
    assert not is_digest(text) and is_digest(DIGEST)


@pytest.mark.parametrize("text", ["docker.io", "registry", "localhost:5000", "[::1]:5000", "192.0.2.1"])
def test_a_registrys_host_is_one(text: str) -> None:
    assert is_domain(text)


@pytest.mark.parametrize("text", ["", "..", "me@host", "host/x", "host:port", "host?x", "a b", "host\n"])
def test_what_is_no_host_is_no_folder_of_certificates_either(text: str) -> None:
    assert not is_domain(text)
