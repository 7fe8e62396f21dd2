"""The fuse-overlayfs graph driver: layers as overlay2 keeps them, stacked by a program instead of the kernel.

For machines whose kernel has no overlayfs, or has none for who runs the daemon.  Every mount has a process of its own,
which is nobody's child and in nobody's way: it ends when its mount does, that is, with the last container's namespace
or descriptor that holds it, and a daemon that is killed or upgraded finds its containers' file systems going on.

<data_root>/fuse-overlayfs/          as overlay2's
<data_root>/fuse-overlayfs/mounts/   where a mount is for a moment, until it is in a container's mount namespace
"""

import errno
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pierhead.driver.graphdriver.api import Change
from pierhead.driver.graphdriver.overlay import OverlayDriver
from pierhead.driver.graphdriver.whiteout import OverlayExtractor
from pierhead.linux import const
from pierhead.linux.mount import DirectoryRoot, OverlayRoot, Root, mount_points
from pierhead.linux.mountapi import umount

PROGRAM = "fuse-overlayfs"
DEVICE = "/dev/fuse"
_NO_MORE_THAN_OTHERS = ("setpriv", "--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource")
"""It is the program that writes: with this capability it would write beyond every quota, and so would its container."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class _Extractor(OverlayExtractor):
    """An archive steers this program no more than the kernel."""

    steering = (*OverlayExtractor.steering, b"user.overlay.", b"user.fuseoverlayfs.")


class FuseOverlayDriver(OverlayDriver):
    """``GraphDriver`` by fuse-overlayfs(1)."""

    name = "fuse-overlayfs"
    opaque_marks: tuple[str, ...] = (*OverlayDriver.opaque_marks, "user.overlay.opaque", "user.fuseoverlayfs.opaque")
    marks = True
    extractor = _Extractor
    needs = "It needs root, and a file system with extended attributes; else use --storage-driver vfs"
    reserved = (*OverlayDriver.reserved, "mounts")

    def __init__(self, data_root: str, *, remapped: bool = False) -> None:
        """remapped: containers' users are others on the host."""
        super().__init__(data_root)
        self._remapped = remapped
        self._mounts = os.path.join(self._home, "mounts")

    def probe(self) -> None:
        """The program and the device are there, and a file can be deleted through them."""
        if self._remapped:
            raise OSError(errno.ENOTSUP, f"{PROGRAM} cannot show layers with other owners, as --userns-remap wants")
        if shutil.which(PROGRAM) is None:
            raise OSError(errno.ENOENT, f"there is no program {PROGRAM} in PATH: apt-get install fuse-overlayfs")
        try:
            os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise OSError(
                error.errno,
                f"{DEVICE} cannot be used ({error.strerror}), which fuse-overlayfs needs: modprobe fuse; and where "
                "this is a container, start it with --device /dev/fuse",
            ) from error
        for point in mount_points():
            if point.startswith(self._mounts + "/"):
                umount(point, const.MNT_DETACH)  # of a daemon that was killed: containers have their own
        with suppress(FileNotFoundError):
            for name in os.listdir(self._mounts):
                os.rmdir(os.path.join(self._mounts, name))
        super().probe()

    @contextmanager
    def mounted(self, id: str) -> Iterator[Root]:
        """Mounted in the host's namespace, until it is in the container's."""
        with self._mounted(self.root(id), readonly=False) as place:
            yield DirectoryRoot(place)

    def _open_overlay(self, root: OverlayRoot, *, readonly: bool) -> int:
        """The mount lives on in the descriptor."""
        with self._mounted(root, readonly=readonly) as place:
            return os.open(place, _DIRECTORY)

    @contextmanager
    def _mounted(self, root: OverlayRoot, *, readonly: bool) -> Iterator[str]:
        """Layers are named from within the driver's folder: what is in its own path may mean something to options."""
        named = {"upperdir": root.upper, "workdir": root.work}
        options = ["dev", "suid", "lowerdir=" + ":".join(map(self._within, root.lower))]
        options += [f"{key}={self._within(path)}" for key, path in named.items() if path]
        if readonly:
            options.append("ro")
        place = os.path.join(self._mounts, secrets.token_hex(8))
        os.makedirs(place, mode=0o700)
        try:
            # It goes into the background, as a child of nobody's, when the mount is there.
            done = subprocess.run(
                [*_NO_MORE_THAN_OTHERS, PROGRAM, "-o", ",".join(options), place],
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
                check=False,
            )
            if done.returncode:
                said = done.stderr.decode(errors="replace").strip()
                raise OSError(errno.EIO, f"{PROGRAM} could not mount the layers: {said}")
            try:
                yield place
            finally:
                umount(place, const.MNT_DETACH)
        finally:
            os.rmdir(place)

    def _within(self, path: str) -> str:
        return os.path.relpath(path, self._home)

    def changes(self, id: str) -> Iterator[Change]:
        """Without the marks of the program's own."""
        return (change for change in super().changes(id) if "/.wh." not in change.path)

    def status(self) -> tuple[tuple[str, str], ...]:
        """As dockerd's: nothing to say."""
        return ()
