"""What the daemon does for its disk, fsck, trim, previews of prune (none of it is part of Docker's API)."""

from pierhead.wire.codec import Message, always, always_list, always_new
from pierhead.wire.containers import ContainerPruneResponse
from pierhead.wire.images import ImagePruneResponse
from pierhead.wire.networks import NetworkPruneResponse
from pierhead.wire.volumes import VolumePruneResponse


class Progress(Message):
    """What is being looked at, and how much of it (bytes) of how much; 0 of 0 where it is not counted."""

    what: str = always("")
    current: int = always(0)
    total: int = always(0)


class FsckDifference(Message):
    """One difference (see ``pierhead.difference``). error: why it could not be mended."""

    kind: str = always("")
    area: str = always("")
    subject: str = always("")
    found: str = always("")
    repair: str = always("")
    mendable: bool = always(False)
    mended: bool = always(False)
    error: str = ""


class FsckResult(Message):
    """At the end: how many differences there were, how many of them are left."""

    found: int = always(0)
    left: int = always(0)


class FsckMessage(Message):
    """One line of the answer to POST /system/fsck: one of these."""

    progress: Progress | None = None
    difference: FsckDifference | None = None
    result: FsckResult | None = None


class TrimResult(Message):
    """Of one file system: a folder on it, its type and device, and how many bytes its device was told to be free.

    error: why it could not be told (all).
    """

    path: str = always("")
    kind: str = always("")
    device: str = always("")
    trimmed: int = always(0)
    error: str = ""


class TrimMessage(Message):
    """One line of the answer to POST /system/trim: one of these."""

    progress: Progress | None = None
    result: TrimResult | None = None


class CleanUpStep(Message):
    """Something that a clean-up by marks would remove: an image or container; used: when it last was, in ns; size:
    the bytes that gives back."""

    kind: str = always("")
    name: str = always("")
    used: int = always(0)
    size: int = always(0)


class CleanUpPreview(Message):
    """What a clean-up by marks may remove, in its order; it stops below the low mark. In per cent of the disk."""

    full: float = always(0.0)
    high: float = always(0.0)
    low: float = always(0.0)
    order: list[CleanUpStep] = always_list()


class PrunePreview(Message):
    """The answer to GET /system/prune: what the prunes of ``system prune`` would answer, one after the other.

    clean_up: what the daemon does by itself where it has been given marks; as things are, not after these prunes.
    """

    containers: ContainerPruneResponse = always_new(ContainerPruneResponse)
    networks: NetworkPruneResponse = always_new(NetworkPruneResponse)
    volumes: VolumePruneResponse = always_new(VolumePruneResponse)
    images: ImagePruneResponse = always_new(ImagePruneResponse)
    clean_up: CleanUpPreview | None = None
