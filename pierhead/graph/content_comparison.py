"""The kept blobs compared with what is on disk; see ``comparison``."""

from collections.abc import Iterator
from functools import partial

from pierhead.difference import Difference, Kind, Tell
from pierhead.graph.graph import Graph


def blobs(graph: Graph) -> Iterator[Difference]:
    """Blobs without a row or a layer, rows without their blob, and what was interrupted."""
    content = graph.content
    for name in content.strays():
        path = content.path(name)
        yield Difference(
            Kind.LEFTOVER,
            "blob",
            path,
            f"{path} is a layer's blob that the database does not know",
            "it is deleted",
            partial(content.remove_stray, name),
        )
    for digest, state, size, found in content.states():
        mend = partial(content.forget, digest)
        short = digest.rpartition(":")[2][:12]
        if state != "ready":
            doing = "keeping" if state == "making" else "removal"
            told = f"the {doing} of blob {short} was not finished"
            yield Difference(Kind.UNFINISHED, "blob", digest, told, "it is removed", mend)
        elif found < 0:
            told = f"blob {short} is not on the disk: a push that needs it has to fetch it or to make it again"
            yield Difference(Kind.MISSING, "blob", digest, told, "it is forgotten", mend)
        elif found != size:
            told = f"{content.path(digest)} has {found} bytes, and had {size} when it came"
            remedy = "it is deleted; a push that needs it fetches it or makes it again"
            yield Difference(Kind.DAMAGED, "blob", digest, told, remedy, mend)
        elif not content.keeps:
            told = f"blob {short} was kept before the setting compressed-blobs became drop"
            yield Difference(Kind.LEFTOVER, "blob", digest, told, "it is deleted", mend)
        elif graph.db.first(
            "SELECT 1 FROM content c JOIN layer l USING (diff_id) WHERE digest = ? AND l.state <> 'removing'", (digest,)
        ) is None and content.has(digest):
            told = f"blob {short} is kept although the layer that it was is not here any more"
            yield Difference(Kind.LEFTOVER, "blob", digest, told, "it is deleted", mend)


def blob_contents(graph: Graph, tell: Tell) -> Iterator[Difference]:
    """Every blob read and digested."""
    content = graph.content
    kept = content.all()
    done, total = 0, sum(blob.size for blob in kept)
    for blob in kept:
        tell("blob contents", done, total)
        done += blob.size
        if content.is_damaged(blob.digest):
            yield Difference(
                Kind.DAMAGED,
                "blob",
                blob.digest,
                f"{content.path(blob.digest)} is not the blob that it was: its digest is another",
                "it is deleted; a push that needs it fetches it or makes it again",
                partial(content.forget, blob.digest),
            )
