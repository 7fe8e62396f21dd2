"""Mounts as values. The system calls are in ``mountapi``, which the zygote can hold without importing this."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OverlayRoot:
    """A container's root as an overlay: ``lower`` from the topmost layer down, all absolute host paths.

    ``upper`` and ``work`` are None for a read-only view.
    """

    lower: tuple[str, ...]
    upper: str | None = None
    work: str | None = None


@dataclass(frozen=True, slots=True)
class DirectoryRoot:
    """A container's root as a plain directory (the vfs driver): an absolute host path."""

    path: str


Root = OverlayRoot | DirectoryRoot
