"""Plans for a user namespace: the same operations, and which of them somebody with the host's rights does beforehand.

Pure, as ``plan``.  What comes of it is read by ``usernamespace.admit``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from pierhead.libcontainer.spec import Process, Spec
from pierhead.linux.idmap import text
from pierhead.linux.mount import DirectoryRoot, Root

Operation = tuple[object, ...]

_ROOTS = ("directory_root", "overlay_root")


def start(spec: Spec, operations: Iterable[Operation]) -> dict[str, object]:
    """The plan's "operations" and "user" of a start in the user namespace of ``spec.process.user_maps``.

    "user": ids (of its root on the host), uids and gids (the maps, where it is new), oom, rlimits, sources, root and
    images (operations), base (the folder that has all layers).  Raises ValueError.
    """
    maps = spec.process.user_maps
    assert maps is not None
    operations = tuple(operations)
    users = _limits(spec.process, operations)
    if not spec.join_users:
        users |= {"uids": text(maps.uids), "gids": text(maps.gids)}
    own: list[Operation] = []
    sources: list[Operation] = []
    images: list[Operation] = []
    number = 0
    devices = iter(spec.devices)
    for operation in operations:
        if operation[0] == "source":
            sources.append(operation)
            number = max(number, int(str(operation[1])))
        elif operation[0] == "image":
            images.append(operation)
            number = max(number, int(str(operation[1])))
        elif operation[0] in _ROOTS:
            users |= {"root": operation, "base": base(spec.root)}
            own.append(("given_root",))
        elif operation[0] == "device":
            node = next(devices)
            number += 1
            sources.append(("source", number, node.source or node.path, False, ""))
            own.append(("bound_device", operation[1], number, operation[2], operation[3]))
        elif operation[0] not in ("oom_score", "rlimit"):
            own.append(operation)
    users |= {"sources": tuple(sources), "images": tuple(images)}
    # Behind the keyring, which thus counts as the host root's: others may have 200 keys, of all containers.
    own.insert(1, ("user_namespace", tuple(operation[1] for operation in (*sources, *images))))
    return {"operations": tuple(own), "user": users}


def execution(process: Process, operations: Iterable[Operation]) -> dict[str, object]:
    """The same of an exec, which joins the user namespace of its container."""
    operations = tuple(operations)
    others = {"oom_score", "rlimit"}
    if not any(operation[0] == "apparmor" for operation in operations):
        others.add("procfs")  # nothing else is written there
    own = [operation for operation in operations if operation[0] not in others]
    return {"operations": (("user_namespace", None), *own), "user": _limits(process, operations)}


def _limits(process: Process, operations: tuple[Operation, ...]) -> dict[str, object]:
    """What only the host's root may raise."""
    assert process.user_maps is not None
    return {
        "ids": process.user_maps.root,
        "oom": process.oom_score_adj,
        "rlimits": tuple(operation[1:] for operation in operations if operation[0] == "rlimit"),
    }


def base(root: Root) -> str:
    """The folder that has all layers of a root. Raises ValueError where there is none."""
    paths = [root.path] if isinstance(root, DirectoryRoot) else [*root.lower, root.upper or "", root.work or ""]
    found = os.path.commonpath(list(filter(None, paths)))
    if found == "/":
        raise ValueError("layers in different folders cannot be shown with other owners")
    return found
