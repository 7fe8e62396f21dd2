"""The prune commands."""

import sys
from typing import Any

from pierhead.client.api import filter_query
from pierhead.client.errors import ClientError, Quit
from pierhead.client.flags import Options
from pierhead.client.reclaimed import Reclaimed
from pierhead.client.session import Session
from pierhead.client.units import ago, human_size


def _confirm(options: Options, warning: str) -> None:
    """Ask, unless ``--force`` or ``--dry-run``; anything but y ends the command."""
    if options.on("force") or options.on("dry-run"):
        return
    sys.stdout.write(f"{warning}\nAre you sure you want to continue? [y/N] ")
    sys.stdout.flush()
    answer = sys.stdin.readline()
    if answer.strip().lower() != "y":
        raise Quit(0)


def _filters(session: Session, options: Options) -> list[str]:
    """Those given, and the ones the configuration file adds."""
    return options.all("filter") + [str(pair) for pair in session.config.get("pruneFilters") or ()]


def _space(options: Options, *answers: Any) -> None:
    total = Reclaimed()
    for answer in answers:
        total.add(answer)
    total.show("reclaimable" if options.on("dry-run") else "reclaimed")


def _list(options: Options, kind: str, names: list[str] | None) -> None:
    if names:
        print(f"{'Would delete' if options.on('dry-run') else 'Deleted'} {kind}:\n" + "\n".join(names) + "\n")


def _prune(session: Session, options: Options, kind: str, filters: list[str]) -> Any:
    query = {"filters": filter_query(filters)}
    if options.on("dry-run"):
        _check_ours(session)
        query["dry-run"] = "1"
    return session.api.post(f"/{kind}/prune", query)


def _check_ours(session: Session) -> None:
    """Raise ClientError where the daemon would take a dry run for the real thing."""
    components = session.api.get("/version").get("Components") or ()
    if not any(component.get("Name") == "pierhead" for component in components):
        raise ClientError("This daemon has no --dry-run: it is not Pierhead's. Nothing was removed.")


def containers(session: Session, options: Options) -> int:
    """Remove stopped containers."""
    _confirm(options, "WARNING! This will remove all stopped containers.")
    found = _prune(session, options, "containers", _filters(session, options))
    _list(options, "Containers", found.get("ContainersDeleted"))
    _space(options, found)
    return 0


def images(session: Session, options: Options) -> int:
    """Remove images that nothing uses: those without a name, with ``--all`` the others too."""
    every = options.on("all")
    _confirm(
        options,
        "WARNING! This will remove all images without at least one container associated to them."
        if every
        else "WARNING! This will remove all dangling images.",
    )
    found = _prune(
        session, options, "images", [*_filters(session, options), f"dangling={'false' if every else 'true'}"]
    )
    _images(options, found)
    _space(options, found)
    return 0


def _images(options: Options, found: Any) -> None:
    entries = found.get("ImagesDeleted") or ()
    lines = [
        f"untagged: {entry['Untagged']}" if entry.get("Untagged") else f"deleted: {entry['Deleted']}"
        for entry in entries
    ]
    _list(options, "Images", lines)


def networks(session: Session, options: Options) -> int:
    """Remove networks that no container uses."""
    _confirm(options, "WARNING! This will remove all custom networks not used by at least one container.")
    found = _prune(session, options, "networks", _filters(session, options))
    _list(options, "Networks", found.get("NetworksDeleted"))
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
    found = _prune(session, options, "volumes", filters)
    _list(options, "Volumes", found.get("VolumesDeleted"))
    _space(options, found)
    return 0


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
    preview = None
    if options.on("dry-run"):
        _check_ours(session)
        query = {"filters": filter_query(filters)} | {name: "1" for name in ("all", "volumes") if options.on(name)}
        preview = session.api.get("/system/prune", query)
    answers = []
    for kind in ("Containers", "Networks", *(("Volumes",) if with_volumes else ()), "Images"):
        chosen = [*filters, f"dangling={'false' if every else 'true'}"] if kind == "Images" else filters
        found = preview[kind] if preview else _prune(session, options, kind.lower(), chosen)
        if kind == "Images":
            _images(options, found)
        else:
            _list(options, kind, found.get(f"{kind}Deleted"))
        answers.append(found)
    _space(options, *answers)
    if preview and preview.get("CleanUp"):
        _clean_up(preview["CleanUp"])
    return 0


def _clean_up(found: Any) -> None:
    """What the daemon does by itself."""
    print(
        f"\nThe disk is {found['Full']:g}% full. From {found['High']:g}% on the daemon itself removes, until it is "
        f"{found['Low']:g}% full, in this order:"
    )
    for one in found["Order"]:
        print(f"{one['Kind']} {one['Name']}, last used {ago(one['Used'] // 10**9)}: {human_size(one['Size'])}")
    if not found["Order"]:
        print("(nothing may go now)")
