"""Where the disk has gone: beside what Docker's answers say, in fields of our own, which its clients ignore.

Bytes on disk are st_blocks × 512, folders included and hard links once, so that they add up.
"""

from pierhead.wire.codec import Message, always, always_list, always_new

RECLAIMED = "Pierhead-Space-Reclaimed"
FREE_CHANGE = "Pierhead-Free-Space-Change"
"""Header fields in which answers to DELETE have the two numbers of ``Released``."""


class Released(Message):
    """What a removal has given back.

    space_reclaimed: bytes on disk of all that was deleted.  free_space_change: by how much more (less: below 0) is free
    on the file system than before, whoever else was at work on it.
    """

    space_reclaimed: int = always(0)
    free_space_change: int = always(0)


class LayersDisk(Message):
    """Image layers, in bytes on disk: those of several images, those of one, and those that only containers need."""

    shared: int = always(0)
    unique: int = always(0)
    kept: int = always(0)


class ContainersDisk(Message):
    """Containers, in bytes on disk: what they have written, their logs, and their hosts, hostname and resolv.conf."""

    writable: int = always(0)
    logs: int = always(0)
    files: int = always(0)


class Stray(Message):
    """Something in the data root that belongs to nothing."""

    path: str = always("")
    size: int = always(0)


class DiskUsage(Message):
    """Every byte on disk of the data root by its owner; ``total`` is the sum.

    blobs: layers as registries have them.  scratch: of work that is under way.  elsewhere: of storage drivers that are
    not in use, and of daemons with other user ids.  capacity and free: of the file system.
    """

    root: str = always("")
    total: int = always(0)
    layers: LayersDisk = always_new(LayersDisk)
    containers: ContainersDisk = always_new(ContainersDisk)
    volumes: int = always(0)
    blobs: int = always(0)
    database: int = always(0)
    engine: int = always(0)
    scratch: int = always(0)
    elsewhere: int = always(0)
    unaccounted: int = always(0)
    strays: list[Stray] = always_list()
    capacity: int = always(0)
    free: int = always(0)
