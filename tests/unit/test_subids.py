"""--userns-remap: whose ids containers get, and what is said where there are none."""

import pytest

from pierhead.daemon import subids
from pierhead.errors import InvalidParameter
from pierhead.linux.idmap import Range


def test_all_ranges_of_a_user_become_one_row_of_ids() -> None:
    """As dockerd: lines by name or by number, in the file's order; the files may differ."""
    subuid = "# comment\nother:1:2\nroot:100000:1000\n\n0:300000:500\n"
    maps = subids.maps_of("root", subuid, "root:200000:65536\n")
    assert maps.uids == (Range(0, 100000, 1000), Range(1000, 300000, 500))
    assert maps.gids == (Range(0, 200000, 65536),)
    assert maps.root == (100000, 200000)
    assert (maps.uid(999), maps.uid(1000), maps.gid(7)) == (100999, 300000, 200007)
    with pytest.raises(OSError, match="user 1500 has no place"):
        maps.uid(1500)


@pytest.mark.parametrize(
    ("subuid", "subgid", "said"),
    [
        ("", "", 'no subuid ranges found for user "someone": usermod --add-subuids 100000-165535 someone, or a line'),
        ("someone:100000:10", "other:1:2", 'no subgid ranges found for user "someone"'),
        ("someone:100000", "", "not a line of subuid or subgid: 'someone:100000'"),
        ("someone:-1:10", "", "not a line"),
        ("someone:4294967290:10", "someone:1:1", "ids are from 0 to 4294967294"),
        ("someone:100000:0", "someone:1:1", "id map"),
        ("someone:100000:10\nsomeone:100005:10", "someone:1:1", "overlap"),
        ("someone:1:1\n" * 341, "someone:1:1", "id map of 341 ranges"),
    ],
)
def test_ids_that_cannot_be_used_are_refused_at_the_daemons_start(subuid: str, subgid: str, said: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        subids.maps_of("someone", subuid, subgid)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a:b:c", 'Invalid user/group specification in --userns-remap: "a:b:c"'),
        (":", 'Invalid user/group specification in --userns-remap: ":"'),
        ("nobody-of-this-name", 'Error during uid lookup for "nobody-of-this-name"'),
        ("1999999999", "Uid 1999999999 has no entry in /etc/passwd"),
        ("root:1999999999", "Gid 1999999999 has no entry in /etc/group"),
        ("root:no-such-group", 'Error during gid lookup for "no-such-group"'),
        ("٣", 'Error during uid lookup for "٣"'),
    ],
)
def test_a_user_who_is_not_there_is_named(text: str, said: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        subids.user_of(text)
    assert said in str(caught.value)


def test_users_are_given_by_name_or_number_with_or_without_a_group() -> None:
    assert [subids.user_of(text) for text in ("root", "0", "root:root", "0:0", "daemon:0")] == ["root"] * 4 + ["daemon"]
