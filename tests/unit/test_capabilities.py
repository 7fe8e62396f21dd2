"""Capabilities: a container gets exactly those that Docker would give it."""

import pytest

from pierhead.errors import InvalidParameter
from pierhead.libcontainer import capabilities
from pierhead.libcontainer.capabilities import DEFAULT, NAMES, NUMBERS, mask, resolve


def test_the_default_set_is_dockers() -> None:
    assert mask(DEFAULT) == 0xA80425FB
    assert resolve(existing=NAMES) == DEFAULT


def test_numbers_are_the_kernels() -> None:
    assert NUMBERS["CAP_CHOWN"] == 0
    assert NUMBERS["CAP_SYS_ADMIN"] == 21
    assert NUMBERS["CAP_CHECKPOINT_RESTORE"] == 40
    assert len(set(NAMES)) == 41


@pytest.mark.parametrize("name", ["net_admin", "CAP_NET_ADMIN", "Cap_Net_Admin", "NET_ADMIN"])
def test_a_name_may_be_written_in_any_way(name: str) -> None:
    assert resolve(add=[name], existing=NAMES) == (*DEFAULT, "CAP_NET_ADMIN")


def test_drop_all_leaves_only_what_is_added() -> None:
    assert resolve(add=["chown"], drop=["all"], existing=NAMES) == ("CAP_CHOWN",)
    assert resolve(drop=["ALL"], existing=NAMES) == ()


def test_add_all_leaves_out_what_is_dropped() -> None:
    assert resolve(add=["ALL"], drop=["SYS_ADMIN"], existing=NAMES) == tuple(n for n in NAMES if n != "CAP_SYS_ADMIN")


def test_add_all_with_drop_all_is_all_as_in_docker() -> None:
    assert resolve(add=["ALL"], drop=["ALL"], existing=NAMES) == NAMES


def test_adding_what_is_there_does_not_double_it() -> None:
    assert resolve(add=["CHOWN"], existing=NAMES) == DEFAULT


def test_privileged_ignores_drops_as_docker_does() -> None:
    assert resolve(drop=["ALL"], privileged=True, existing=NAMES) == NAMES


def test_an_unknown_name_is_refused_in_dockers_words() -> None:
    with pytest.raises(InvalidParameter) as caught:
        resolve(add=["foo"], existing=NAMES)
    assert str(caught.value) == 'invalid CapAdd: unknown capability: "CAP_FOO"'
    with pytest.raises(InvalidParameter) as caught:
        resolve(drop=["CAP_FOO"], privileged=True, existing=NAMES)
    assert str(caught.value) == 'invalid CapDrop: unknown capability: "CAP_FOO"'


def test_a_name_that_the_environment_lacks_is_refused_not_ignored() -> None:
    with pytest.raises(InvalidParameter, match="not supported by your kernel or not available"):
        resolve(add=["SYS_RESOURCE"], existing=tuple(n for n in NAMES if n != "CAP_SYS_RESOURCE"))


def test_available_asks_the_kernel() -> None:
    assert set(capabilities.available()) <= set(NAMES)
