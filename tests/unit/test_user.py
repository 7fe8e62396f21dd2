"""Who a process becomes, by Docker's rules, whatever an image's passwd and group files say."""

import pytest

from pierhead.libcontainer.user import UserError, select

PASSWD = [
    ["root", "x", "0", "0", "root", "/root", "/bin/sh"],
    ["joe", "x", "1000", "1001", "", "/home/joe", ""],
    ["joe", "x", "2000", "2000", "", "/second", ""],
    ["1000", "x", "0", "0", "", "/trap", ""],
    ["huge", "x", "4294967296", "0", "", "/", ""],
    ["nohome", "x", "5", "5", "", "", ""],
    ["-1", "x", "0", "0", "", "/trap", ""],
    ["+0", "x", "0", "0", "", "/trap", ""],
]
GROUP = [
    ["root", "x", "0", ""],
    ["joe", "x", "1001", ""],
    ["wheel", "x", "10", "root,joe"],
    ["audio", "x", "29", "joe"],
    ["50", "x", "51", ""],
    ["-1", "x", "0", ""],
]


def who(user: str, *additional: str) -> tuple[int, int, list[int], str]:
    found = select(PASSWD, GROUP, user, additional)
    return found.uid, found.gid, found.groups, found.home


def test_no_user_is_root_with_roots_home_and_groups() -> None:
    assert who("") == (0, 0, [0, 10], "/root")


def test_a_name_has_its_groups_and_the_primary_one_first() -> None:
    assert who("joe") == (1000, 1001, [1001, 10, 29], "/home/joe")


def test_a_number_is_an_id_even_where_a_user_is_called_so() -> None:
    """CVE-2016-3697, CVE-2026-46680: a number was looked up as a name."""
    assert who("1000") == (1000, 1001, [1001, 10, 29], "/home/joe")
    assert who("01000")[0] == 1000


def test_an_unknown_number_is_allowed_and_has_group_0() -> None:
    assert who("4711") == (4711, 0, [0], "/")


def test_a_given_group_leaves_no_other_of_the_file() -> None:
    assert who("joe:wheel") == (1000, 10, [10], "/home/joe")
    assert who("joe:50") == (1000, 50, [50], "/home/joe")
    assert who("joe:")[1] == 1001


def test_additional_groups_come_behind_and_once() -> None:
    assert who("joe", "29", "wheel", "77") == (1000, 1001, [1001, 10, 29, 77], "/home/joe")


def test_an_empty_home_is_the_root_directory() -> None:
    assert who("nohome")[3] == "/"


@pytest.mark.parametrize("user", ["huge", "4294967296", "99999999999", "2147483648", "0:4294967295", "9" * 9999])
def test_ids_beyond_the_kernels_int_are_refused(user: str) -> None:
    """CVE-2024-40635: an id that wrapped round to root."""
    with pytest.raises(UserError, match="range"):
        who(user)


@pytest.mark.parametrize("user", ["-1", "+0", " 0", "0x0", "1e3", "٣", "²"])
def test_what_only_looks_like_a_number_is_a_name(user: str) -> None:
    with pytest.raises(UserError, match="no matching entries in passwd file"):
        who(user)


@pytest.mark.parametrize("group", ["-1", "+0", "nosuch"])
def test_an_unknown_group_is_refused(group: str) -> None:
    with pytest.raises(UserError, match=r"unable to find group .*: no matching entries in group file"):
        who(f"joe:{group}")
    with pytest.raises(UserError, match="group file"):
        who("joe", group)
