"""File systems of a test's own, each in a file, for what this machine's disk is not."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.processes import run


@contextmanager
def file_system(kind: str, folder: Path, megabytes: int, *options: str, at: Path | None = None) -> Iterator[Path]:
    """A new one, mounted below ``folder`` (or elsewhere) for a while; options: mkfs's."""
    image, place = folder / f"{kind}.img", at or folder / kind
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    run([f"mkfs.{kind}", "-q", *options, str(image)]).check()
    place.mkdir(exist_ok=True)
    run(["mount", "-t", kind, "-o", "loop", str(image), str(place)]).check()
    try:
        yield place
    except BaseException:
        run(["umount", "-l", str(place)])  # whoever is still on it must not hide what has gone wrong
        raise
    finally:
        image.unlink()
    run(["umount", str(place)]).check()
