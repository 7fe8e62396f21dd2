"""Jobs on pins: images that are kept whatever is pruned."""

from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.jobs.image_names import event, find, names_id
from pierhead.errors import NotFound
from pierhead.reference import is_digest, parse


async def pin(engine: Engine, name: str) -> None:
    """Keep whatever image has a name from now on, or the one that an id means. Raises NoSuchImage."""
    image = find(engine, name)
    by_id = names_id(image.id, name)
    engine.graph.pins.add(image.id if by_id else _key(name))
    event(engine, "pin", image, "" if by_id else parse(name).tagged().familiar)


async def unpin(engine: Engine, name: str) -> None:
    """No longer. The image may be gone. Raises NotFound for what was not pinned."""
    pins = engine.graph.pins
    by_id = [id for id in pins.all() if is_digest(id) and names_id(id, name)]
    keys = by_id if is_digest(name) else [*by_id, _key(name)]
    if not sum(pins.remove(key) for key in keys):
        raise NotFound(f"not pinned: {name}")


async def pinned(engine: Engine) -> list[str]:
    """As the user knows them: short names, and ids."""
    return [name if is_digest(name) else parse(name).familiar for name in engine.graph.pins.all()]


def _key(name: str) -> str:
    reference = parse(name)
    return f"{reference.name}@{reference.digest}" if reference.digest is not None else str(reference.tagged())
