"""The prune commands."""

import sys
from typing import Any

from pierhead.client.api import filter_query
from pierhead.client.errors import ClientError, Quit
from pierhead.client.flags import Options
from pierhead.client.reclaimed import Reclaimed
from pierhead.client.session import Session


def _confirm(options: Options, warning: str) -> None:
    """Ask, unless ``--force``; anything but y ends the command."""
    if options.on("force"):
        return
    sys.stdout.write(f"{warning}\nAre you sure you want to continue? [y/N] ")
    sys.stdout.flush()
    answer = sys.stdin.readline()
    if answer.strip().lower() != "y":
        raise Quit(0)


def _filters(session: Session, options: Options) -> list[str]:
    """Those given, and the ones the configuration file adds."""
    return options.all("filter") + [str(pair) for pair in session.config.get("pruneFilters") or ()]


def _show(found: Any) -> int:
    total = Reclaimed()
    total.add(found)
    total.show()
    return 0


def _list(title: str, names: list[str] | None) -> None:
    if names:
        print(title + "\n" + "\n".join(names) + "\n")


def _prune(session: Session, kind: str, filters: list[str]) -> Any:
    return session.api.post(f"/{kind}/prune", {"filters": filter_query(filters)})


def containers(session: Session, options: Options) -> int:
    """Remove stopped containers."""
    _confirm(options, "WARNING! This will remove all stopped containers.")
    found = _prune(session, "containers", _filters(session, options))
    _list("Deleted Containers:", found.get("ContainersDeleted"))
    return _show(found)


def images(session: Session, options: Options) -> int:
    """Remove images that nothing uses: those without a name, with ``--all`` the others too."""
    every = options.on("all")
    _confirm(
        options,
        "WARNING! This will remove all images without at least one container associated to them."
        if every
        else "WARNING! This will remove all dangling images.",
    )
    found = _prune(session, "images", [*_filters(session, options), f"dangling={'false' if every else 'true'}"])
    _images(found)
    return _show(found)


def _images(found: Any) -> None:
    entries = found.get("ImagesDeleted") or ()
    if entries:
        print("Deleted Images:")
        for entry in entries:
            print(f"untagged: {entry['Untagged']}" if entry.get("Untagged") else f"deleted: {entry['Deleted']}")
        print()


def networks(session: Session, options: Options) -> int:
    """Remove networks that no container uses."""
    _confirm(options, "WARNING! This will remove all custom networks not used by at least one container.")
    _list("Deleted Networks:", _prune(session, "networks", _filters(session, options)).get("NetworksDeleted"))
    return 0


def volumes(session: Session, options: Options) -> int:
    """Remove volumes that no container uses: anonymous ones, with ``--all`` the named ones too."""
    filters = _filters(session, options)
    every = options.on("all")
    if every and any(pair.startswith("all=") for pair in filters):
        raise ClientError("conflicting options: cannot specify both --all and --filter all=1")
    anonymous = session.api.version >= (1, 42) and not every
    _confirm(
        options,
        "WARNING! This will remove anonymous local volumes not used by at least one container."
        if anonymous
        else "WARNING! This will remove all local volumes not used by at least one container.",
    )
    if every and session.api.version >= (1, 42):
        filters.append("all=true")
    found = _prune(session, "volumes", filters)
    _list("Deleted Volumes:", found.get("VolumesDeleted"))
    return _show(found)


def system(session: Session, options: Options) -> int:
    """Containers, networks, images and, where asked for, volumes."""
    filters = _filters(session, options)
    if options.on("volumes") and any(pair.startswith("until") for pair in filters):
        raise ClientError('ERROR: The "until" filter is not supported with "--volumes"')
    every, with_volumes = options.on("all"), options.on("volumes")
    lines = ["all stopped containers", "all networks not used by at least one container"]
    if with_volumes:
        lines.append("all anonymous volumes not used by at least one container")
    lines.append("all images without at least one container associated to them" if every else "all dangling images")
    lines.append("all build cache" if every else "unused build cache")
    warning = "WARNING! This will remove:\n" + "".join(f"  - {line}\n" for line in lines)
    if filters:
        warning += "\n  Items to be pruned will be filtered with:\n" + "".join(f"  - {pair}\n" for pair in filters)
    _confirm(options, warning)
    total = Reclaimed()
    found = _prune(session, "containers", filters)
    _list("Deleted Containers:", found.get("ContainersDeleted"))
    total.add(found)
    _list("Deleted Networks:", _prune(session, "networks", filters).get("NetworksDeleted"))
    if with_volumes:
        found = _prune(session, "volumes", filters)
        _list("Deleted Volumes:", found.get("VolumesDeleted"))
        total.add(found)
    found = _prune(session, "images", [*filters, f"dangling={'false' if every else 'true'}"])
    _images(found)
    total.add(found)
    total.show()
    return 0
