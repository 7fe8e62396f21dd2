"""``pier image``: ls, history, rm, tag."""

import sys
from typing import Any

from pierhead.client.api import filter_query, quote
from pierhead.client.errors import ClientError, DaemonError
from pierhead.client.flags import Options
from pierhead.client.platforms import as_json
from pierhead.client.session import Session
from pierhead.client.table import Columns, show
from pierhead.client.units import ago, human_size, local_time, rfc3339_local, shortened, truncated

NONE = "<none>"


def ls(session: Session, options: Options) -> int:
    """List images, the newest first."""
    if options.on("tree"):
        from pierhead.client.imagetree import tree

        return tree(session, options)
    format = options.text("format")
    if not format and not options.on("quiet"):
        format = str(session.config.get("imagesFormat") or "")
    digest = "\t{{.Digest}}" if options.on("digests") else ""
    if not format or format == "table":
        format = f"table {{{{.Repository}}}}\t{{{{.Tag}}}}{digest}\t{{{{.ID}}}}\t{{{{.CreatedSince}}}}\t{{{{.Size}}}}"
        if options.on("quiet"):
            format = "{{.ID}}"
    elif format == "raw":
        format = "image_id: {{.ID}}"
        if not options.on("quiet"):
            format = (
                "repository: {{.Repository}}\ntag: {{.Tag}}\n"
                + ("digest: {{.Digest}}\n" if digest else "")
                + "image_id: {{.ID}}\ncreated_at: {{.CreatedAt}}\nvirtual_size: {{.Size}}\n"
            )
    filters = options.all("filter")
    if options.operands:
        filters = [*filters, f"reference={options.operands[0]}"]
    query = {"all": options.on("all"), "filters": filter_query(filters)}
    found = session.api.get("/images/json", query)
    found.sort(key=lambda image: -image["Created"])
    rows = [row for image in found for row in _rows(image, options.on("digests") or ".Digest" in format)]
    show(format, _columns(not options.on("no-trunc")), rows)
    return 0


def _split(reference: str) -> tuple[str, str]:
    repository, colon, tag = reference.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (reference, NONE)


def _rows(image: Any, digests: bool) -> list[Any]:
    """One row per tag, or per tag and digest; one row of ``<none>`` for an image without names."""
    tags: dict[str, list[str]] = {}
    hashes: dict[str, list[str]] = {}
    for reference in image.get("RepoTags") or ():
        repository, tag = _split(reference)
        if reference != f"{NONE}:{NONE}":
            tags.setdefault(repository, []).append(tag)
    for reference in image.get("RepoDigests") or ():
        repository, _, digest = reference.partition("@")
        if repository != NONE:
            hashes.setdefault(repository, []).append(digest)
    rows = []
    for repository, names in tags.items():
        found = hashes.pop(repository, []) if digests else [NONE]
        if not digests:
            hashes.pop(repository, None)
        rows += [
            image | {"_repository": repository, "_tag": tag, "_digest": digest}
            for tag in names
            for digest in found or [NONE]
        ]
    for repository, found in hashes.items():
        shown = found if digests else [NONE]
        rows += [image | {"_repository": repository, "_tag": NONE, "_digest": digest} for digest in shown]
    return rows or [image | {"_repository": NONE, "_tag": NONE, "_digest": NONE}]


def _columns(short: bool) -> Columns:
    def identity(row: Any) -> str:
        return truncated(row["Id"]) if short else str(row["Id"])

    def size(row: Any) -> str:
        return human_size(row["Size"], 3)

    def count(key: str) -> Any:
        return lambda row: "N/A" if row.get(key, -1) == -1 else str(row[key])

    def share(key: str) -> Any:
        return lambda row: "N/A" if row.get(key, -1) == -1 else human_size(row[key], 3)

    return {
        "Containers": ("CONTAINERS", count("Containers")),
        "CreatedAt": ("CREATED AT", lambda row: local_time(row["Created"])),
        "CreatedSince": ("CREATED", lambda row: ago(row["Created"]) if row["Created"] > 0 else "N/A"),
        "Digest": ("DIGEST", lambda row: str(row["_digest"])),
        "ID": ("IMAGE ID", identity),
        "Repository": ("REPOSITORY", lambda row: str(row["_repository"])),
        "SharedSize": ("SHARED SIZE", share("SharedSize")),
        "Size": ("SIZE", size),
        "Tag": ("TAG", lambda row: str(row["_tag"])),
        "UniqueSize": ("UNIQUE SIZE", lambda row: "N/A"),
        "VirtualSize": ("SIZE", lambda row: human_size(row.get("VirtualSize") or row["Size"])),
    }


def history(session: Session, options: Options) -> int:
    """Show the layers of an image, the newest first."""
    format = options.text("format")
    if not format or format == "table":
        format = "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
        if options.on("quiet"):
            format = "{{.ID}}"
        elif not options.on("human"):
            format = "table {{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
    query = {"platform": as_json(options.text("platform"))}
    found = session.api.get(f"/images/{quote(options.operands[0], '/:@')}/history", query)
    show(format, _history_columns(not options.on("no-trunc"), options.on("human")), found)
    return 0


def _history_columns(short: bool, human: bool) -> Columns:
    def identity(row: Any) -> str:
        return truncated(row["Id"]) if short else str(row["Id"])

    def command(row: Any) -> str:
        text = str(row.get("CreatedBy") or "").replace("\t", " ")
        return shortened(text, 45) if short else text

    def since(row: Any) -> str:
        if not human:
            return rfc3339_local(row["Created"])
        return ago(row["Created"]) if row["Created"] > 0 else "N/A"

    return {
        "Comment": ("COMMENT", lambda row: str(row.get("Comment") or "")),
        "CreatedAt": ("CREATED AT", lambda row: rfc3339_local(row["Created"])),
        "CreatedBy": ("CREATED BY", command),
        "CreatedSince": ("CREATED", since),
        "ID": ("IMAGE", identity),
        "Size": ("SIZE", lambda row: human_size(row["Size"], 3) if human else str(row["Size"])),
    }


def rm(session: Session, options: Options) -> int:
    """Remove images, or only the names given."""
    from pierhead.client.reclaimed import Reclaimed

    platforms = [as_json(text) for text in options.all("platform")]
    query = {"force": options.on("force"), "noprune": options.on("no-prune"), "platforms": platforms}
    total = Reclaimed()
    problems = []
    fatal = False
    for name in options.operands:
        try:
            found, headers = session.api.remove(f"/images/{quote(name, '/:@')}", query)
        except DaemonError as error:
            fatal = fatal or error.code != 404
            problems.append(str(error))
            continue
        total.read(headers)
        for entry in found or ():
            print(f"Deleted: {entry['Deleted']}" if entry.get("Deleted") else f"Untagged: {entry['Untagged']}")
        sys.stdout.flush()
    if options.on("space"):
        total.show()
    if problems:
        text = "\n".join(problems)
        if not options.on("force") or fatal:
            raise ClientError(text)
        session.warn(text)
    return 0


def tag(session: Session, options: Options) -> int:
    """Give an image another name."""
    from pierhead.errors import PierheadError
    from pierhead.reference import parse

    source, target = options.operands
    try:
        name = parse(target).tagged()
    except PierheadError as error:
        raise ClientError(f'Error parsing reference: "{target}" is not a valid repository/tag: {error}') from None
    session.api.post(f"/images/{quote(source, '/:@')}/tag", {"repo": name.name, "tag": name.tag})
    return 0
