"""What a prune would remove: exactly what it then removes, and until then nothing is touched."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.engines import Engine
from tests.harness.images import tar

pytestmark = pytest.mark.only_pierhead("previews and pins are ours")


def import_image(engine: Engine, name: str, size: int = 100_000) -> str:
    repository, _, tag = name.partition(":")
    path = f"/images/create?fromSrc=-&repo={repository}&tag={tag}"
    archive = tar({"file": os.urandom(size)})
    return str(engine.api.ok("POST", path, raw=archive, content_type="application/x-tar").records[-1]["status"])


def everything(engine: Engine) -> list[Path]:
    return sorted(path for path in engine.data_root.rglob("*") if "graph.db" not in path.name)


def comparable(answer: Any) -> Any:
    """Order does not matter."""
    deleted = next(key for key in answer if key.endswith("Deleted"))
    entries = [sorted(one.items()) if isinstance(one, dict) else one for one in answer[deleted] or []]
    return sorted(entries), answer.get("SpaceReclaimed")


def stage(engine: Engine) -> None:
    """Something of every kind to go, and something to stay."""
    import_image(engine, "old:1")
    import_image(engine, "old:1")  # the first has no name any more
    import_image(engine, "named:1")
    import_image(engine, "kept:1")
    engine.api.ok("POST", "/images/old:1/tag", repo="other", tag="2")
    base = engine.api.create("sh", "-c", "echo changed > /file", name="done", Volumes={"/v": {}})
    engine.api.ok("POST", f"/containers/{base}/start")
    engine.api.wait(base)
    engine.api.ok("POST", "/commit", {}, container="done", repo="above", tag="1")
    engine.api.create("/none", image="above:1", name="of-above", HostConfig={"Binds": ["named-volume:/v"]})
    engine.api.run("sleep", "1000", name="running")
    engine.api.ok("POST", "/networks/create", {"Name": "unused"})
    engine.api.ok("POST", "/volumes/create", {})
    engine.api.ok("POST", "/images/kept:1/pin")


@pytest.fixture(autouse=True)
def cleared(engine: Engine) -> Iterator[None]:
    """Images and pins of a test are gone after it."""
    yield
    engine.forget()
    for entry in engine.api.get("/images/json"):
        if not {"busybox:latest", "web:latest"} & set(entry["RepoTags"] or ()):
            engine.api.send("DELETE", f"/images/{entry['Id']}", force=1)
    for name in engine.api.get("/images/pins"):
        engine.api.ok("DELETE", f"/images/{name}/pin")


def test_each_prune_removes_what_its_preview_has_said(engine: Engine) -> None:
    stage(engine)
    before = everything(engine)
    for kind, query in (
        ("containers", {}),
        ("networks", {}),
        ("volumes", {"filters": {"all": ["true"]}}),
        ("images", {}),
        ("images", {"filters": {"dangling": ["false"]}}),
    ):
        preview = comparable(engine.api.ok("POST", f"/{kind}/prune", **{"dry-run": 1}, **query).json)
        assert everything(engine) == before, "nothing was touched"
        assert preview[0], "there is something to remove"
        assert comparable(engine.api.ok("POST", f"/{kind}/prune", **query).json) == preview
        before = everything(engine)
    assert engine.api.get("/images/kept:1/json") and engine.api.inspect("running")["State"]["Running"]


def test_the_preview_of_all_counts_what_only_things_have_that_go_before(engine: Engine) -> None:
    stage(engine)
    before = everything(engine)
    preview = engine.api.get("/system/prune", all=1, volumes=1)
    said = engine.pier("system", "prune", "--all", "--volumes", "--dry-run").check().stdout
    assert everything(engine) == before
    tags = {entry.get("Untagged") for entry in preview["Images"]["ImagesDeleted"]}
    assert tags >= {"above:1", "old:1", "other:2", "named:1"} and not tags & {"kept:1", "busybox:latest"}
    for kind, filters in (("containers", {}), ("networks", {}), ("volumes", {}), ("images", {"dangling": ["false"]})):
        done = comparable(engine.api.ok("POST", f"/{kind}/prune", filters=filters).json)
        assert comparable(preview[kind.capitalize()]) == done
    assert said.startswith("Would delete Containers:\n") and "Would delete Images:\n" in said
    assert "untagged: above:1\n" in said and "Total reclaimable space: " in said


def test_a_pinned_image_is_kept_until_it_is_unpinned_or_removed_by_name(engine: Engine) -> None:
    import_image(engine, "mine:1")
    id = import_image(engine, "yours:1")
    assert engine.pier("image", "pin", "mine:1", id[7:19]).check().stdout == f"mine:1\n{id[7:19]}\n"
    assert engine.pier("image", "pin").check().lines == ["mine:1", id]
    everywhere = {"filters": {"dangling": ["false"]}}
    engine.api.create("true", image="busybox", name="user")  # keeps the image that other tests need
    engine.api.ok("POST", "/images/prune", **everywhere)  # what other tests have left
    assert engine.api.ok("POST", "/images/prune", **everywhere).json["ImagesDeleted"] is None
    # A pin on a name is for whatever has the name, a pin on an id for that image whatever its names.
    second = import_image(engine, "mine:1")
    engine.api.ok("POST", f"/images/{id}/tag", repo="more")
    gone = engine.api.ok("POST", "/images/prune").json["ImagesDeleted"]
    assert gone is not None and engine.api.get(f"/images/{second}/json") and engine.api.get(f"/images/{id}/json")
    assert engine.pier("image", "unpin", "mine", id).status == 1, "mine:latest was not pinned"
    engine.pier("image", "unpin", "mine:1", id).check()
    assert engine.pier("image", "pin").stdout == ""
    assert len(engine.api.ok("POST", "/images/prune", **everywhere).json["ImagesDeleted"]) >= 5
    assert engine.api.send("DELETE", "/images/mine:1/pin").status == 404
    assert engine.api.send("POST", "/images/none:1/pin").status == 404
