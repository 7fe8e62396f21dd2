"""``pier system df``."""

import sys
from typing import Any

from pierhead.client.flags import Options
from pierhead.client.images import NONE
from pierhead.client.ps import columns as container_columns
from pierhead.client.session import Session
from pierhead.client.table import Columns, align, formatted, show
from pierhead.client.units import ago, human_size, parse_time, truncated


def df(session: Session, options: Options) -> int:
    """How much disk images, containers and volumes take, as Docker counts; then every byte of the disk by its owner."""
    found = session.api.get("/system/df", {"fresh": options.on("fresh")})
    format = options.text("format")
    if options.on("verbose") and format in ("", "table"):
        _verbose(found)
        _owners(found, everything=True)
        return 0
    plain = format in ("", "table")
    if plain:
        format = "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"
    show(format, COLUMNS, [_images(found), _containers(found), _volumes(found), _cache(found)])
    if plain:
        _owners(found, everything=False)
    return 0


COLUMNS: Columns = {
    "Active": ("ACTIVE", lambda row: str(row["active"])),
    "Reclaimable": ("RECLAIMABLE", lambda row: str(row["reclaimable"])),
    "Size": ("SIZE", lambda row: human_size(row["size"])),
    "TotalCount": ("TOTAL", lambda row: str(row["total"])),
    "Type": ("TYPE", lambda row: str(row["type"])),
}


def _row(kind: str, total: int, active: int, size: float, free: float) -> dict[str, Any]:
    share = f" ({int(free * 100 / size)}%)" if size > 0 else ""
    return {"type": kind, "total": total, "active": active, "size": size, "reclaimable": human_size(free) + share}


def _images(found: Any) -> dict[str, Any]:
    images = found.get("Images") or []
    size = found.get("LayersSize") or 0
    used = sum(
        image["Size"] - max(image.get("SharedSize", -1), 0)
        for image in images
        if image.get("Containers", 0) > 0 and image["Size"] >= 0
    )
    active = sum(image.get("Containers", 0) > 0 for image in images)
    return _row("Images", len(images), active, size, size - used)


def _containers(found: Any) -> dict[str, Any]:
    containers = found.get("Containers") or []
    active = [entry for entry in containers if _lives(entry)]
    size = sum(entry.get("SizeRw") or 0 for entry in containers)
    used = sum(entry.get("SizeRw") or 0 for entry in active)
    return _row("Containers", len(containers), len(active), size, size - used)


def _lives(entry: Any) -> bool:
    return any(word in str(entry.get("State")).lower() for word in ("running", "paused", "restarting"))


def _volumes(found: Any) -> dict[str, Any]:
    volumes = found.get("Volumes") or []
    usages = [volume.get("UsageData") or {"RefCount": 0, "Size": -1} for volume in volumes]
    size = sum(usage["Size"] for usage in usages if usage["Size"] != -1)
    free = sum(usage["Size"] for usage in usages if usage["Size"] != -1 and usage["RefCount"] == 0)
    return _row("Local Volumes", len(volumes), sum(usage["RefCount"] > 0 for usage in usages), size, free)


def _cache(found: Any) -> dict[str, Any]:
    entries = found.get("BuildCache") or []
    size = sum(entry["Size"] for entry in entries)
    used = sum(entry["Size"] for entry in entries if entry.get("InUse") or entry.get("Shared"))
    return _row("Build Cache", len(entries), sum(bool(entry.get("InUse")) for entry in entries), size, size - used)


def _owners(found: Any, everything: bool) -> None:
    """What Docker does not say: every byte on the disk by its owner, their sum, and what has none.

    everything: also owners of nothing, the parts of each image, container and volume, and what is unaccounted.
    """
    disk = found.get("Pierhead")
    if disk is None:
        return  # it is dockerd
    layers, containers = disk["Layers"], disk["Containers"]
    rows = [
        ("Layers of several images", layers["Shared"]),
        ("Layers of one image", layers["Unique"]),
        ("Layers kept for containers", layers["Kept"]),
        ("Written by containers", containers["Writable"]),
        ("Logs of containers", containers["Logs"]),
        ("Files of containers", containers["Files"]),
        ("Volumes", disk["Volumes"]),
        ("Compressed layers", disk["Blobs"]),
        ("Database", disk["Database"]),
        ("Engine", disk["Engine"]),
        ("Work under way", disk["Scratch"]),
        ("Elsewhere", disk["Elsewhere"]),
    ]
    lines = ["OWNER\tSIZE\tBYTES ON DISK"]
    lines += [f"{owner}\t{human_size(size)}\t{size}" for owner, size in rows if size or everything]
    lines.append(f"Unaccounted\t{human_size(disk['Unaccounted'])}\t{disk['Unaccounted']}")
    lines.append(f"Total\t{human_size(disk['Total'])}\t{disk['Total']}")
    out = f"\nOn the disk, in {disk['Root']}:\n\n" + align("".join(line + "\n" for line in lines))
    if everything:
        out += _parts(found)
    if disk["Strays"]:
        lines = ["BELONGS TO NOTHING\tSIZE", *(f"{one['Path']}\t{human_size(one['Size'])}" for one in disk["Strays"])]
        out += "\n" + align("".join(line + "\n" for line in lines))
    free = f"{human_size(disk['Free'])} of {human_size(disk['Capacity'])}"
    sys.stdout.write(f"{out}\nFree on this file system: {free}\n")


def _parts(found: Any) -> str:
    """Of each image, container and volume, what it takes on the disk."""
    lines = ["IMAGE\tON DISK\tSHARED\tUNIQUE"]
    for image in found.get("Images") or ():
        name = (image.get("RepoTags") or [truncated(image["Id"])])[0]
        size, shared = image.get("Disk") or 0, image.get("DiskShared") or 0
        lines.append(f"{name}\t{human_size(size)}\t{human_size(shared)}\t{human_size(size - shared)}")
    out = "\n" + align("".join(line + "\n" for line in lines))
    lines = ["CONTAINER\tWRITTEN\tLOGS\tFILES"]
    for entry in found.get("Containers") or ():
        sizes = [human_size(entry.get(key) or 0) for key in ("DiskRw", "DiskLogs", "DiskFiles")]
        lines.append("\t".join([entry["Names"][0].removeprefix("/"), *sizes]))
    out += "\n" + align("".join(line + "\n" for line in lines))
    lines = ["VOLUME\tON DISK"]
    for volume in found.get("Volumes") or ():
        size = (volume.get("UsageData") or {}).get("Disk") or 0
        lines.append(f"{volume['Name']}\t{human_size(size)}")
    return out + "\n" + align("".join(line + "\n" for line in lines))


def _verbose(found: Any) -> None:
    out = "Images space usage:\n\n"
    lines = ["REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE\tSHARED SIZE\tUNIQUE SIZE\tCONTAINERS"]
    for image in found.get("Images") or ():
        repository, _, tag = ((image.get("RepoTags") or [f"{NONE}:{NONE}"])[0]).rpartition(":")
        size, shared = image["Size"], image.get("SharedSize", -1)
        cells = [repository, tag, truncated(image["Id"]), ago(image["Created"]), human_size(size, 3)]
        cells += [human_size(shared), human_size(size - shared), str(image.get("Containers", -1))]
        lines.append("\t".join(cells))
    out += align("".join(line + "\n" for line in lines))
    out += "\nContainers space usage:\n\n"
    format = "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}"
    format += "\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}"
    out += formatted(format, _small(container_columns(True)), found.get("Containers") or [])
    out += "\nLocal Volumes space usage:\n\n"
    lines = ["VOLUME NAME\tLINKS\tSIZE"]
    for volume in found.get("Volumes") or ():
        usage = volume.get("UsageData") or {"RefCount": 0, "Size": -1}
        lines.append(f"{volume['Name']}\t{usage['RefCount']}\t{human_size(usage['Size'])}")
    out += align("".join(line + "\n" for line in lines))
    cache = found.get("BuildCache") or []
    out += f"\nBuild cache usage: {human_size(sum(entry['Size'] for entry in cache))}\n\n"
    lines = ["CACHE ID\tCACHE TYPE\tSIZE\tCREATED\tLAST USED\tUSAGE\tSHARED"]
    for entry in cache:
        used = entry.get("LastUsedAt")
        cells = [
            truncated(entry["ID"]),
            entry["Type"],
            human_size(entry["Size"], 3),
            ago(parse_time(entry["CreatedAt"])),
        ]
        cells += [ago(parse_time(used)) if used else "", str(entry["UsageCount"]), str(bool(entry["Shared"])).lower()]
        lines.append("\t".join(cells))
    sys.stdout.write(out + align("".join(line + "\n" for line in lines)))


def _small(columns: Columns) -> Columns:
    """Docker shows here what a container itself wrote, without its image."""
    return {**columns, "Size": ("SIZE", lambda row: human_size(row.get("SizeRw") or 0, 3))}
