"""What a create request says of mounts."""

import pytest

from pierhead.daemon.jobs.mounts import Wanted, parse_bind, parse_mount, wanted
from pierhead.errors import InvalidParameter, NoSuchContainer
from pierhead.graph.containers import Container
from pierhead.wire.containers import ContainerConfig, HostConfig, Mount, MountPoint


def nobody(name: str) -> Container:
    raise NoSuchContainer(name)


def nothing(container: Container) -> list[MountPoint]:
    return []


def test_a_host_path_is_a_bind_and_is_made_where_it_is_missing() -> None:
    assert parse_bind("/srv/../data:/x/:ro") == Wanted(
        "bind", "/x", source="/data", mode="ro", writable=False, propagation="rprivate", make_source=True
    )


def test_a_name_is_a_volume() -> None:
    assert parse_bind("data:/x") == Wanted("volume", "/x", name="data", mode="z")


def test_nocopy_keeps_a_volume_empty() -> None:
    assert parse_bind("data:/x:nocopy").copy is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:b:c:d", "invalid volume specification: 'a:b:c:d'"),
        ("", "invalid volume specification: ''"),
        ("/a:", "invalid volume specification: '/a:'"),
        ("/a:/", "destination can't be '/'"),
        ("/a:/..", "destination can't be '/'"),
        ("/a:b", "mount path must be absolute"),
        ("/a:/b:frob", "invalid mode: frob"),
        ("/a:/b:ro,rw", "invalid mode: ro,rw"),
        ("vol:/b:shared", "invalid mode: shared"),
    ],
)
def test_a_bad_specification_is_refused_in_dockers_words(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_bind(text)
    assert message in str(caught.value)


def test_a_mount_of_a_missing_path_is_refused_not_made(tmp_path: object) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_mount(Mount(type="bind", source=f"{tmp_path}/nope", target="/x"))
    assert (
        str(caught.value) == f'invalid mount config for type "bind": bind source path does not exist: {tmp_path}/nope'
    )


def test_an_unknown_mount_type_is_refused() -> None:
    with pytest.raises(InvalidParameter, match='invalid mount config for type "frob": mount type unknown'):
        parse_mount(Mount(type="frob", target="/x"))


def test_two_mounts_on_one_target_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="Duplicate mount point: /x"):
        wanted(ContainerConfig(), HostConfig(binds=["/a:/x", "/b:/x/"]), nobody, nothing)


def test_an_image_volume_is_anonymous_unless_something_is_mounted_there() -> None:
    config = ContainerConfig(volumes={"/data": {}, "/logs": {}, "/tmp": {}})
    found = wanted(config, HostConfig(binds=["v:/data"], tmpfs={"/tmp": ""}), nobody, nothing)
    assert [(item.target, item.name) for item in found] == [("/data", "v"), ("/logs", "")]


def test_volumes_from_an_unknown_container_say_so() -> None:
    with pytest.raises(NoSuchContainer, match="No such container: ghost"):
        wanted(ContainerConfig(), HostConfig(volumes_from=["ghost:ro"]), nobody, nothing)
