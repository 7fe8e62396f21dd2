"""Which layers would go with images and containers, and what that would give back: what ``Graph.collect`` would do."""

from collections import Counter

from pierhead.graph.graph import Graph


class Needs:
    """The graph as it is now, from which images and containers are taken in thought."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        rows = graph.db.all("SELECT chain_id, diff_id, parent, cache_id, disk FROM layer WHERE state = 'ready'")
        self._rows = {row["chain_id"]: row for row in rows}
        self._same = Counter(row["diff_id"] for row in rows)
        self._above = Counter(row["parent"] for row in rows if row["parent"] is not None)
        self._tops = Counter(row["top"] for row in graph.db.all("SELECT top FROM image WHERE top IS NOT NULL"))
        chains = {row["cache_id"]: row["chain_id"] for row in rows}
        self._below = {}
        for row in graph.db.all("SELECT id, layer_id FROM container"):
            self._below[row["id"]] = chains.get(graph.driver.parent(row["layer_id"]) or "")
        self._bases = Counter(chain for chain in self._below.values() if chain is not None)

    def without_image(self, id: str) -> tuple[list[str], int]:
        """Take an image away: the chain ids of the layers that go with it, topmost first, and their bytes on disk."""
        row = self._graph.db.first("SELECT top FROM image WHERE id = ?", (id,))
        if row is None or row["top"] is None:
            return [], 0
        self._tops[row["top"]] -= 1
        return self._collect(row["top"])

    def without_container(self, id: str) -> int:
        """Take a container away: the bytes of the image's layers that were kept for it alone."""
        chain = self._below.pop(id, None)
        if chain is None:
            return 0
        self._bases[chain] -= 1
        return self._collect(chain)[1]

    def _collect(self, chain: str | None) -> tuple[list[str], int]:
        gone: list[str] = []
        size = 0
        while (
            chain is not None
            and chain in self._rows
            and not (self._tops[chain] or self._bases[chain] or self._above[chain])
        ):
            row = self._rows.pop(chain)
            size += row["disk"] if row["disk"] >= 0 else self._graph.on_disk(row["cache_id"])
            gone.append(chain)
            self._same[row["diff_id"]] -= 1
            if not self._same[row["diff_id"]]:  # with the last of them go the blobs that it came as
                size += sum(blob.disk for blob in self._graph.content.of(row["diff_id"]))
            chain = row["parent"]
            if chain is not None:
                self._above[chain] -= 1
        return gone, size
