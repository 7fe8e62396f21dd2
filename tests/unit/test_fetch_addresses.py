"""Where an answer leads is followed by one rule, for registries and for an archive's address alike."""

import pytest

from pierhead.registry.hosts import RegistryError
from pierhead.registry.transport import followed


@pytest.mark.parametrize(
    "location",
    ["http://other/x", "HTTP://other/x", "ftp://other/x", "file:///x", "https://[::1", "https://other:99999/"],
)
@pytest.mark.parametrize("url", ["https://here/a", "HTTPS://here/a"])
def test_what_is_no_address_or_leads_from_tls_to_none_is_not_followed(url: str, location: str) -> None:
    with pytest.raises(RegistryError, match="redirects"):
        followed(url, location, "somebody")


def test_a_path_and_another_host_are_followed() -> None:
    assert followed("https://here/a/b", "/c", "somebody") == "https://here/c"
    assert followed("http://here/a", "https://other/c", "somebody") == "https://other/c"
