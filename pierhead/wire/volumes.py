"""Volumes."""

from pierhead.wire.codec import Message, always, always_list


class UsageData(Message):
    """Only in ``system df``: bytes and users, -1 where unknown. disk: bytes on the disk, which Docker does not say."""

    ref_count: int = always(-1)
    size: int = always(-1)
    disk: int | None = None


class Volume(Message):
    """A volume as listed and inspected."""

    created_at: str = ""
    driver: str = always("local")
    labels: dict[str, str] | None = always(None)
    mountpoint: str = always("")
    name: str = always("")
    options: dict[str, str] | None = always(None)
    scope: str = always("local")
    usage_data: UsageData | None = None


class VolumeCreateOptions(Message):
    """POST /volumes/create; an empty name makes an anonymous volume."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class VolumeListResponse(Message):
    """GET /volumes."""

    volumes: list[Volume] = always_list()
    warnings: list[str] | None = always(None)


class VolumePruneResponse(Message):
    """What was removed; None is written as null, as Docker does for nothing.

    free_space_change: as in ``space.Released``; not Docker's.
    """

    volumes_deleted: list[str] | None = always(None)
    space_reclaimed: int = always(0)
    free_space_change: int | None = None
