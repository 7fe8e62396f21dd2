"""What a create request says of mounts (Binds, Mounts, Volumes, VolumesFrom, Tmpfs), checked and made one list."""

import os
import posixpath
from collections.abc import Callable
from dataclasses import dataclass

from pierhead.errors import InvalidParameter, NoSuchContainer, NotFound, PierheadError
from pierhead.graph.containers import Container
from pierhead.linux.idmap import IdMaps
from pierhead.wire.containers import BindOptions, ContainerConfig, HostConfig, Mount, MountPoint

PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
MODES = {"ro", "rw", "z", "Z", "nocopy", "consistent", "cached", "delegated", *PROPAGATIONS}


@dataclass(frozen=True, slots=True)
class Wanted:
    """One mount to make. source: a host path of a bind; name: of an image or a volume, "" = anonymous (made anew).

    copy: an empty volume gets what the image has at the target.  make_source: a missing host path is made.
    """

    kind: str
    target: str
    source: str = ""
    name: str = ""
    mode: str = ""
    writable: bool = True
    propagation: str = ""
    copy: bool = True
    make_source: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str], ...] = ()


def _target(path: str, specification: str) -> str:
    if not path.startswith("/"):
        raise InvalidParameter(
            f"invalid volume specification: '{specification}': invalid mount path: '{path}' mount path must be absolute"
        )
    clean = posixpath.normpath(path)
    clean = "/" + clean.lstrip("/")
    if clean == "/":
        raise InvalidParameter(
            f"invalid volume specification: '{specification}': invalid specification: destination can't be '/'"
        )
    return clean


def parse_bind(text: str) -> Wanted:
    """ "source:target[:options]", "volume:target[:options]" or "target". Raises InvalidParameter."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise InvalidParameter(f"invalid volume specification: '{text}'")
    if len(parts) == 1:
        return Wanted("volume", _target(parts[0], text))
    source, target = parts[0], _target(parts[1], text)
    mode = parts[2] if len(parts) == 3 else ""
    flags = [flag for flag in mode.split(",") if flag]
    for flag in flags:
        if flag not in MODES:
            raise InvalidParameter(f"invalid mode: {mode}")
    if "ro" in flags and "rw" in flags:
        raise InvalidParameter(f"invalid mode: {mode}")
    propagation = next((flag for flag in flags if flag in PROPAGATIONS), "")
    if source.startswith("/"):
        return Wanted(
            "bind",
            target,
            source=os.path.normpath(source),
            mode=mode,
            writable="ro" not in flags,
            propagation=propagation or "rprivate",
            make_source=True,
        )
    if propagation:
        raise InvalidParameter(f"invalid mode: {mode}")
    return Wanted(
        "volume", target, name=source, mode=mode or "z", writable="ro" not in flags, copy="nocopy" not in flags
    )


_OPTIONS = {kind: f"{kind}_options" for kind in ("bind", "volume", "image", "tmpfs")} | {"cluster": "cluster_options"}
"""Of each type of mount, what it alone may have."""


def _invalid(mount: Mount, why: str) -> InvalidParameter:
    return InvalidParameter(f'invalid mount config for type "{mount.type}": {why}')


def parse_mount(mount: Mount) -> Wanted:
    """One entry of HostConfig.Mounts. Raises InvalidParameter with Docker's words."""
    if not mount.target:
        raise _invalid(mount, "field Target must not be empty")
    if posixpath.normpath(mount.target) == "/":
        raise _invalid(mount, "invalid specification: destination can't be '/'")
    if not mount.target.startswith("/"):
        raise _invalid(mount, f"invalid mount path: '{mount.target}' mount path must be absolute")
    target = posixpath.normpath("/" + mount.target.lstrip("/"))
    for kind, field in _OPTIONS.items():
        if mount.type != kind and mount.type in _OPTIONS and getattr(mount, field) is not None:
            raise _invalid(mount, f"field {kind.capitalize()}Options must not be specified")
    match mount.type:
        case "bind":
            return _bind(mount, target)
        case "tmpfs":
            if mount.source:
                raise _invalid(mount, "field Source must not be specified")
            tmpfs_words(mount)
            return Wanted("tmpfs", target, writable=not mount.read_only, copy=False)
        case "volume":
            return _volume(mount, target)
        case "image":
            if not mount.source:
                raise _invalid(mount, "field Source must not be empty")
            subpath = mount.image_options.subpath if mount.image_options else ""
            _check_subpath(mount, subpath)
            return Wanted("image", target, name=mount.source, writable=False, copy=False)
        case _:
            raise _invalid(mount, "mount type unknown")


def _bind(mount: Mount, target: str) -> Wanted:
    if not mount.source:
        raise _invalid(mount, "field Source must not be empty")
    options = mount.bind_options or BindOptions()
    propagation = options.propagation or "rprivate"
    if propagation not in PROPAGATIONS:
        raise _invalid(mount, f"invalid propagation mode: {propagation}")
    if not mount.source.startswith("/"):
        raise _invalid(mount, f"invalid mount path: '{mount.source}' mount path must be absolute")
    if options.read_only_force_recursive:
        if not mount.read_only:
            raise _invalid(mount, "mount option ReadOnlyForceRecursive requires ReadOnly")
        if options.non_recursive or options.read_only_non_recursive:
            raise _invalid(mount, "mount option ReadOnlyForceRecursive conflicts with the other ones about recursion")
        if propagation != "rprivate":
            raise _invalid(mount, 'mount option ReadOnlyForceRecursive requires the propagation "rprivate"')
    if not options.create_mountpoint and not os.path.lexists(mount.source):
        raise _invalid(mount, f"bind source path does not exist: {mount.source}")
    return Wanted(
        "bind",
        target,
        source=os.path.normpath(mount.source),
        writable=not mount.read_only,
        propagation=propagation,
        make_source=options.create_mountpoint,
    )


def check_propagation(source: str, propagation: str) -> None:
    """Refuse a bind that is to pass mounts on, from where none are. Raises PierheadError in Docker's words."""
    kind = propagation.removeprefix("r")
    if kind not in ("shared", "slave"):
        return
    point, groups = _mount_of(os.path.realpath(source))
    if any(group.startswith("shared:") or (kind == "slave" and group.startswith("master:")) for group in groups):
        return
    wanted = "shared" if kind == "shared" else "shared or slave"
    raise PierheadError(f"path {source} is mounted on {point} but it is not a {wanted} mount")


def _mount_of(path: str) -> tuple[str, list[str]]:
    """The mount that a path is in, and the peer groups that it has (proc_pid_mountinfo(5))."""
    found: tuple[str, list[str]] = "/", []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.partition(" - ")[0].split()
            point = fields[4].encode("latin-1", "replace").decode("unicode_escape")
            if f"{path}/".startswith(f"{point.rstrip('/')}/") and len(point) >= len(found[0]):
                found = point, fields[6:]
    return found


def _volume(mount: Mount, target: str) -> Wanted:
    options = mount.volume_options
    if options is not None and options.subpath:
        if not mount.source:
            raise _invalid(mount, "must not set Subpath when using anonymous volumes")
        _check_subpath(mount, options.subpath)
    if mount.read_only and not mount.source:
        raise _invalid(mount, "must not set ReadOnly mode when using anonymous volumes")
    driver = options.driver_config if options else None
    if driver is not None:
        check_driver(mount.source, driver.name)
    return Wanted(
        "volume",
        target,
        name=mount.source,
        mode="z",
        writable=not mount.read_only,
        # Docker copies nothing where only a part of the volume is mounted.
        copy=not (options and (options.no_copy or options.subpath)),
        labels=tuple((options.labels or {}).items()) if options else (),
        options=tuple((driver.options or {}).items()) if driver else (),
    )


def check_driver(volume: str, name: str) -> None:
    """There is one volume driver. Raises NotFound for another."""
    if name not in ("", "local"):
        raise NotFound(f'create {volume}: error looking up volume plugin {name}: plugin "{name}" not found')


def _check_subpath(mount: Mount, subpath: str) -> None:
    """Go's filepath.IsLocal: relative, and not out of where it begins."""
    if subpath and (subpath.startswith("/") or posixpath.normpath(subpath).split("/")[0] == ".."):
        raise _invalid(mount, "subpath must be a relative path within the volume")


def tmpfs_words(mount: Mount) -> str:
    """TmpfsOptions as mount(8) has them. Raises InvalidParameter."""
    options = mount.tmpfs_options
    if options is None:
        return ""
    words = [f"mode={options.mode:o}"] if options.mode else []
    if options.size_bytes:
        words.append(f"size={options.size_bytes}")
    for option in options.options or []:
        if not 1 <= len(option) <= 2:
            raise _invalid(mount, "invalid option array length")
        if option[0] not in ("exec", "noexec"):
            raise _invalid(mount, f"invalid option: {option[0]}")
        words.append("=".join(option))
    return ",".join(words)


def _inherited(
    text: str, find: Callable[[str], Container], mounts_of: Callable[[Container], list[MountPoint]]
) -> list[Wanted]:
    name, _, mode = text.partition(":")
    if mode not in ("", "ro", "rw", "z", "Z"):
        raise InvalidParameter(f"invalid mode: {mode}")
    try:
        container = find(name)
    except NoSuchContainer:
        raise NoSuchContainer(name) from None
    return [
        Wanted(
            point.type,
            point.destination,
            source=point.source if point.type == "bind" else "",
            name=point.name,
            writable=point.rw and mode != "ro",
            propagation=point.propagation,
            copy=False,
        )
        for point in mounts_of(container)
        if point.type in ("bind", "volume")
    ]


def make_source(path: str, maps: IdMaps | None) -> None:
    """Make a missing host path of a bind, for the container's root to own."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        make_source(parent, maps)
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return  # made by somebody else, for whom it is
    if maps is not None:
        os.chown(path, *maps.root, follow_symlinks=False)


def wanted(
    config: ContainerConfig,
    host: HostConfig,
    find: Callable[[str], Container],
    mounts_of: Callable[[Container], list[MountPoint]],
) -> list[Wanted]:
    """Every mount of a new container, at most one for each target, later sources win as in Docker.

    Raises InvalidParameter, NoSuchContainer.
    """
    result: dict[str, Wanted] = {}
    for text in host.volumes_from or []:
        for item in _inherited(text, find, mounts_of):
            result[item.target] = item
    asked: dict[str, Wanted] = {}
    bound = [parse_bind(text) for text in host.binds or []]
    for item in bound:
        if item.kind == "volume":  # of the others' driver their own request says
            check_driver(item.name, host.volume_driver)
    for item in bound + [parse_mount(mount) for mount in host.mounts or []]:
        if item.target in asked:
            raise InvalidParameter(f"Duplicate mount point: {item.target}")
        asked[item.target] = item
    for target in host.tmpfs or {}:
        clean = _target(target, target)
        if clean in asked:
            raise InvalidParameter(f"Duplicate mount point: {clean}")
    result.update(asked)
    tmpfs = {posixpath.normpath(target) for target in host.tmpfs or {}}
    for target in config.volumes or {}:
        clean = _target(target, target)
        if clean not in result and clean not in tmpfs:
            result[clean] = Wanted("volume", clean)
    return [result[target] for target in sorted(result)]
