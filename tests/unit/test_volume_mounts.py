"""What the local driver's options become as a call of mount(2)."""

import pytest

from pierhead.daemon.jobs.volume_mounts import arguments
from pierhead.errors import PierheadError
from pierhead.linux import const


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"type": "nfs", "device": ":/export", "o": "addr=192.0.2.7,rw,nfsvers=4,soft"},
            (":/export", "nfs", 0, "addr=192.0.2.7,nfsvers=4,soft"),
        ),
        (
            {"type": "nfs", "device": ":/export", "o": "ro,noatime,addr=localhost,vers=4.2"},
            (":/export", "nfs", const.MS_RDONLY | const.MS_NOATIME, "addr=127.0.0.1,vers=4.2"),
        ),
        (
            {"type": "nfs", "device": "host:/export", "o": "addr=2001:db8::1"},
            ("host:/export", "nfs", 0, "addr=2001:db8::1"),
        ),
        (
            {"type": "cifs", "device": "//localhost/share/part", "o": "username=a,password=b"},
            ("//127.0.0.1/share/part", "cifs", 0, "username=a,password=b"),
        ),
        (
            {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=7,noexec,defaults"},
            ("tmpfs", "tmpfs", const.MS_NOEXEC, "size=1m,uid=7"),
        ),
        ({"type": "none", "device": "/x", "o": "bind,ro"}, ("/x", "none", const.MS_BIND | const.MS_RDONLY, "")),
        ({"type": "btrfs", "device": "/dev/vdb"}, ("/dev/vdb", "btrfs", 0, "")),
    ],
)
def test_a_volumes_options_reach_the_kernel_as_it_takes_them(
    options: dict[str, str], expected: tuple[str, str, int, str]
) -> None:
    assert arguments(options) == expected


def test_a_servers_name_that_nobody_knows_is_said() -> None:
    with pytest.raises(PierheadError, match=r"network volume address: lookup no\.invalid"):
        arguments({"type": "nfs", "device": ":/x", "o": "addr=no.invalid"})
