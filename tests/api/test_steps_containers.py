"""pierd killed with -9 at every step of what makes and removes containers, volumes and networks, then started again."""

import io
import tarfile
from collections.abc import Callable, Iterator

import pytest

from tests.harness.api import Answer, Api
from tests.harness.breakable import Breakable, breakable
from tests.harness.breaking import Breaking, Operation
from tests.harness.images import docker_archive, tar
from tests.harness.steps import BROKEN, FULL, Fault

pytestmark = [pytest.mark.only_pierhead("steps of ours"), pytest.mark.timeout(400)]

IMAGE = docker_archive([tar({"home/seed": "seed\n", "home/deep/er": "er\n"}, ["home", "home/deep"])], ["base:1"])


@pytest.fixture(scope="module")
def pierd() -> Iterator[Breakable]:
    with breakable() as made:
        made.api.ok("POST", "/images/load", raw=IMAGE, content_type="application/x-tar")
        with_volumes(made.api)  # the folder of all volumes is made with the first
        everything_removed(made.api)
        yield made


def create(api: Api, *binds: str, **host: object) -> Answer:
    body = {
        "Image": "base:1",
        "Volumes": {"/home": {}},
        "HostConfig": {"NetworkMode": "none", "Binds": binds, **host},
    }
    return api.send("POST", "/containers/create", body, name="half")


def create_mounted(api: Api) -> Answer:
    """With a volume that is a mount, and is filled."""
    driver = {"Name": "local", "Options": {"type": "tmpfs", "device": "tmpfs"}}
    volume = {"Type": "volume", "Source": "named", "Target": "/home", "VolumeOptions": {"DriverConfig": driver}}
    body = {"Image": "base:1", "HostConfig": {"NetworkMode": "none", "Mounts": [volume]}}
    return api.send("POST", "/containers/create", body, name="half")


def volumes(api: Api) -> set[str]:
    return {volume["Name"] for volume in api.get("/volumes")["Volumes"] or ()}


def created(api: Api) -> bool:
    """Whole, with all that the image has where its volumes are; else nothing but a named volume, as in Docker."""
    if [one["Names"] for one in api.get("/containers/json", all=1)] != [["/half"]]:
        assert api.get("/containers/json", all=1) == []
        assert volumes(api) <= {"named", "other"}
        return False
    with tarfile.open(fileobj=io.BytesIO(api.ok("GET", "/containers/half/archive?path=/home").body)) as archive:
        assert set(archive.getnames()) == {"home", "home/seed", "home/deep", "home/deep/er"}
    assert len(volumes(api)) == len(api.inspect("half")["Mounts"])
    return True


def everything_removed(api: Api) -> None:
    api.send("DELETE", "/containers/half", force=1, v=1)
    for name in volumes(api):
        api.ok("DELETE", f"/volumes/{name}")
    for network in api.get("/networks"):
        if network["Name"] == "half":
            api.ok("DELETE", "/networks/half")


def there(api: Api) -> None:
    """A container with what belongs to it."""
    if api.send("GET", "/containers/half/json").status == 404:
        assert create(api, "named:/named").status == 201
    api.ok("PUT", "/containers/half/archive?path=/", raw=tar({"new": "new\n"}), content_type="application/x-tar")


def dead(api: Api) -> bool:
    found = api.send("GET", "/containers/half/json")
    return bool(found.status == 200 and found.json["State"]["Dead"])


def removed(api: Api) -> bool:
    """With its anonymous volume; else it is all there, or dead: to be removed again."""
    if dead(api):
        return False
    assert "named" in volumes(api)
    return not created(api) and volumes(api) == {"named"}


def pruned(api: Api) -> bool:
    return api.send("GET", "/containers/half/json").status == 404 or not (dead(api) or created(api))


def no_volume(api: Api) -> bool:
    found = api.send("GET", "/volumes/named")
    assert found.status == 200 or volumes(api) == set()
    return found.status == 404


def with_volumes(api: Api) -> None:
    for name in ("named", "other"):
        api.ok("POST", "/volumes/create", {"Name": name})


def has(kind: str) -> Callable[[Api], bool]:
    return lambda api: api.send("GET", f"/{kind}").status == 200


OPERATIONS = [
    Operation("create", lambda api: create(api, "named:/named"), created, everything_removed),
    Operation("create that fills a new volume", lambda api: create(api, "named:/home"), created, everything_removed),
    Operation(
        "create that fills a volume",
        lambda api: create(api, "named:/home"),
        created,
        everything_removed,
        lambda api: api.ok("POST", "/volumes/create", {"Name": "named"}),
    ),
    Operation("create with a mounted volume", create_mounted, lambda api: mounted(api), everything_removed),
    Operation("rm -v", lambda api: api.send("DELETE", "/containers/half", v=1), removed, everything_removed, there),
    Operation(
        "container prune",
        lambda api: api.send("POST", "/containers/prune"),
        pruned,
        everything_removed,
        there,
    ),
    Operation(
        "volume create",
        lambda api: api.send("POST", "/volumes/create", {"Name": "named"}),
        has("volumes/named"),
        everything_removed,
    ),
    Operation(
        "volume rm",
        lambda api: api.send("DELETE", "/volumes/named"),
        lambda api: not has("volumes/named")(api),
        everything_removed,
        with_volumes,
    ),
    Operation(
        "volume prune",
        lambda api: api.send("POST", "/volumes/prune", filters={"all": ["1"]}),
        lambda api: volumes(api) == set(),
        everything_removed,
        with_volumes,
    ),
    Operation(
        "network create",
        lambda api: api.send("POST", "/networks/create", {"Name": "half"}),
        has("networks/half"),
        everything_removed,
    ),
    Operation(
        "network rm",
        lambda api: api.send("DELETE", "/networks/half"),
        lambda api: not has("networks/half")(api),
        everything_removed,
        lambda api: has("networks/half")(api) or api.ok("POST", "/networks/create", {"Name": "half"}),
    ),
]


def mounted(api: Api) -> bool:
    """Nothing is mounted where no container runs (see ``kept``), and it is all there or not."""
    return [one["Names"] for one in api.get("/containers/json", all=1)] == [["/half"]]


each = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)


@each
def test_killed_at_any_step_it_is_done_or_not_begun(pierd: Breakable, operation: Operation) -> None:
    Breaking(pierd, operation).killed_everywhere()


@each
@pytest.mark.parametrize("fault", [FULL, BROKEN], ids=lambda fault: fault.name)
def test_failed_at_any_step_it_says_so_and_can_be_done_again(
    pierd: Breakable, operation: Operation, fault: Fault
) -> None:
    Breaking(pierd, operation).failed_everywhere(fault)
