"""Where the daemon listens: nothing of anybody else's is taken away, nothing of ours is left behind."""

import os
import socket
import stat
from pathlib import Path

import pytest

from pierhead.daemon.server.listen import listen
from pierhead.errors import InvalidParameter


def test_the_socket_is_for_its_owner_and_group_only(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "s"
    listener = listen(f"unix://{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()
    assert not path.exists()


def test_a_socket_left_by_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
        old.listen()
    listener = listen(f"unix://{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()


def test_another_daemon_s_socket_is_left_alone(tmp_path: Path) -> None:
    first = listen(f"unix://{tmp_path}/s")
    with pytest.raises(OSError, match="another daemon listens"):
        listen(f"unix://{tmp_path}/s")
    first.close()


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
def test_what_is_no_socket_is_never_replaced(tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "s", tmp_path / "target"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        if kind == "link":
            with socket.socket(socket.AF_UNIX) as old:
                old.bind(str(target))
        path.symlink_to(target)
    with pytest.raises(OSError, match="is not a socket"):
        listen(f"unix://{path}")
    assert os.path.lexists(path)


def test_a_path_longer_than_the_kernel_allows_is_served(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 100)
    listener = listen(f"unix://{folder}/s")
    descriptor = os.open(folder, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"/proc/self/fd/{descriptor}/s")
    os.close(descriptor)
    listener.close()


def test_the_end_takes_only_its_own_socket_away(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = listen(f"unix://{path}")
    path.unlink()
    second = listen(f"unix://{path}")
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def test_tcp_is_served_on_v4_and_v6() -> None:
    for host, name in (("tcp://127.0.0.1:0", "127.0.0.1"), ("tcp://[::1]:0", "::1"), ("127.0.0.1:0", "127.0.0.1")):
        listener = listen(host)
        assert listener.socket.getsockname()[0] == name
        listener.close()


@pytest.mark.parametrize(
    "host", ["", "unix://", "/run/s", "fd://", "tcp://a:b", "tcp://1:99999", "http://x", "npipe://x"]
)
def test_an_address_that_means_nothing_is_refused(host: str) -> None:
    with pytest.raises(InvalidParameter):
        listen(host)
