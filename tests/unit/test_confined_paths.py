"""No path string of a container meets the file system but through ``linux/openat``: a rule over the source.

The modules below handle what images, layers, volumes and containers name. In them each call that takes a path must get
a descriptor (as its first argument, or as dir_fd) or stand in ALLOWED with the reason why its path is the host's own.
Every known engine was hit again in the places that still joined strings (docs/security.md).
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2] / "pierhead"
CONFINED = (
    "libcontainer/rootfs.py",
    "libcontainer/init.py",
    "libcontainer/user.py",
    "libcontainer/view.py",
    "daemon/jobs/archives.py",
    "driver/graphdriver/*.py",
    "daemon/jobs/volumes.py",
    "linux/openat.py",
    "linux/tty.py",
)
TAKES_PATH = frozenset(
    "open mkdir makedirs mknod mkfifo symlink link unlink remove rmdir removedirs rename replace chmod chown lchown "
    "lchmod utime stat lstat access readlink listdir scandir walk fwalk truncate chdir chroot statvfs execve "
    "getxattr setxattr listxattr removexattr mount umount".split()
)
IN_OS_PATH = frozenset("exists lexists isfile isdir islink realpath getsize ismount samefile".split())
OPENS = frozenset(
    "open open_in_root open_in open_beneath open_regular open_directory openat2 ensure_directory ensure_file "
    "clone_tree _directory _directory_in _open _layer fsmount new_mount dup".split()
)
FORBIDDEN = ("tarfile", "zipfile", "shutil.unpack_archive")

ALLOWED: dict[str, str] = {
    "libcontainer/rootfs.py:source": "a bind's source or a volume's top folder; what is below goes by a descriptor",
    "libcontainer/rootfs.py:foreign_shm": "our own namespace's file in /proc",
    "libcontainer/rootfs.py:image": "a number in /proc/self/fd",
    "libcontainer/rootfs.py:slave": "our own copy of the host's mounts, before anything of the container is there",
    "libcontainer/rootfs.py:_layer": "the graph driver's folder of a layer",
    "libcontainer/rootfs.py:_overlay_in_a_page": "numbers in /proc/self/fd, and our copy of the host's root",
    "libcontainer/rootfs.py:core_link": "a call of the function below, not of os",
    "libcontainer/rootfs.py:_null": "the host's null device, verified when it is open",
    "libcontainer/rootfs.py:pivot": '"." and "/" only, after fchdir',
    "libcontainer/init.py:_stdio": '"/" of an exec: the container\'s root itself',
    "libcontainer/init.py:_user": '"/" after pivot_root',
    "libcontainer/init.py:_exec": "after pivot_root, with the process' own rights: what it executes is the container's",
    "libcontainer/init.py:_executable": "the same",
    "libcontainer/init.py:_cause": "the same",
    "libcontainer/view.py:process": "/proc/PID of a process, verified; what is below goes by descriptors",
    "driver/graphdriver/archiving.py:FileExtractor._owned": "of dataclasses, not of os",
    "driver/graphdriver/archiving.py:_mount_id": "our own descriptor's file in /proc",
    "driver/graphdriver/extract.py:Extractor._node_metadata": "a number in /proc/self/fd",
    "driver/graphdriver/compare.py:_level": "a descriptor, or None for no directory",
    "driver/graphdriver/compare.py:_capability": "one name in an open directory, not followed",
    "driver/graphdriver/places.py:Places._prepare": "our own folders with numbers for names, before any layer is there",
    "driver/graphdriver/places.py:Places.take": "the same; the id is the caller's own (random hex)",
    "driver/graphdriver/places.py:Places._present": "the same",
    "driver/graphdriver/places.py:Places._make": "the same",
    "driver/graphdriver/places.py:_apart": "the same",
    "driver/graphdriver/places.py:_cost": "the same",
    "driver/graphdriver/detached.py:_by_mount": "a place of our own below the data root",
    "driver/graphdriver/extract.py:Extractor.run": "the name of a descriptor, for an error",
    "driver/graphdriver/extract.py:Extractor._xattr": "a descriptor, or one name in an open directory",
    "driver/graphdriver/btrfs.py:BtrfsDriver.measure": "the driver's own folder of a layer",
    "driver/graphdriver/btrfs.py:BtrfsDriver.probe": "the driver's own folder",
    "driver/graphdriver/btrfs.py:BtrfsDriver._prepare": "the same",
    "driver/graphdriver/btrfs.py:BtrfsDriver.create": "the driver's own folders",
    "driver/graphdriver/btrfs.py:BtrfsDriver.remove": "the same",
    "driver/graphdriver/fuseoverlay.py:FuseOverlayDriver.probe": "the driver's own folders, a program, a device",
    "driver/graphdriver/fuseoverlay.py:FuseOverlayDriver._mounted": "a place of our own below the driver's folder",
    "driver/graphdriver/fuseoverlay.py:FuseOverlayDriver._open_overlay": "the same",
    "driver/graphdriver/merge.py:merge": "the top folders of layers",
    "driver/graphdriver/merge.py:unshared": "the top folder of a merged tree",
    "driver/graphdriver/overlaylayout.py:OverlayLayout._merge_long": "the driver's own folder beside a layer",
    "driver/graphdriver/overlaylayout.py:OverlayLayout._check_names": "the same",
    "driver/graphdriver/overlaylayout.py:OverlayLayout._read": "the driver's own files beside a layer",
    "driver/graphdriver/overlaylayout.py:OverlayLayout._write": "the same",
    "driver/graphdriver/overlay.py:OverlayDriver.probe": "a trial of our own",
    "driver/graphdriver/overlaylayout.py:OverlayLayout._prepare": "the driver's own folders",
    "driver/graphdriver/overlaylayout.py:OverlayLayout._make_folders": "the same",
    "driver/graphdriver/overlay.py:OverlayDriver.create": "the same",
    "driver/graphdriver/overlay.py:OverlayDriver._like": "two layers' top folders, which a container cannot replace",
    "driver/graphdriver/overlaylayout.py:OverlayLayout.remove": "the driver's own link to a layer",
    "driver/graphdriver/overlaylayout.py:OverlayLayout.exists": "the top folder of a layer",
    "driver/graphdriver/overlaylayout.py:OverlayLayout.list": "the driver's own folders",
    "driver/graphdriver/overlay.py:OverlayDriver.root": "the driver's own folder beside a layer",
    "driver/graphdriver/overlay.py:OverlayDriver.open_layer": "the top folder of a layer",
    "driver/graphdriver/overlay.py:OverlayDriver.diff": "a generator of pack, which is given a descriptor",
    "driver/graphdriver/overlaylayout.py:OverlayLayout._shorten": "the driver's own link to a layer",
    "driver/graphdriver/overlaylayout.py:OverlayLayout.check": "the driver's own folders of a layer",
    "driver/graphdriver/overlaylayout.py:OverlayLayout._rename": "the driver's own link to a layer",
    "driver/graphdriver/overlaylayout.py:OverlayLayout._check_strays": "the driver's own links",
    "driver/graphdriver/overlaylayout.py:opened": "the top folder of a layer",
    "driver/graphdriver/overlaylayout.py:_target": "the driver's own link to a layer",
    "driver/graphdriver/notes.py:read_note": "the driver's own file beside a layer",
    "driver/graphdriver/notes.py:write_note": "the same",
    "driver/graphdriver/notes.py:check_note": "the folder that it is in",
    "driver/graphdriver/overlaylayout.py:OverlayLayout.measure": "the top folder of a layer",
    "driver/graphdriver/overlaylayout.py:OverlayLayout.remainder": "the driver's own folders",
    "driver/graphdriver/overlay.py:_backing": "the data root, and our own mountinfo",
    "driver/graphdriver/pack.py:open_content": "a number in /proc/self/fd: the very node that was looked at",
    "driver/graphdriver/pack.py:read_xattrs": "a descriptor, or one name in an open directory",
    "driver/graphdriver/tree.py:inherit": "a descriptor",
    "driver/graphdriver/remove.py:remove_tree": "the driver's own folder; what is below goes by descriptors",
    "driver/graphdriver/tree.py:copy_attributes": "a descriptor, or one name in an open directory",
    "driver/graphdriver/usage.py:blocks": "a place of our own below the data root",
    "driver/graphdriver/usage.py:measure": "the same; what is below goes by descriptors",
    "driver/graphdriver/vfs.py:VfsDriver.probe": "the driver's own folder",
    "driver/graphdriver/vfs.py:VfsDriver.create": "the driver's own folders",
    "driver/graphdriver/vfs.py:VfsDriver._mark": "the driver's own file beside a layer",
    "driver/graphdriver/vfs.py:VfsDriver.parent": "the driver's own file beside a layer",
    "driver/graphdriver/vfs.py:VfsDriver.exists": "the top folder of a layer",
    "driver/graphdriver/vfs.py:VfsDriver.list": "the driver's own folder",
    "driver/graphdriver/vfs.py:VfsDriver.check": "the top folder of a layer",
    "driver/graphdriver/vfs.py:VfsDriver.changes": "the driver's own file beside a layer",
    "driver/graphdriver/vfs.py:VfsDriver.remainder": "the driver's own folder",
    "driver/graphdriver/vfs.py:VfsDriver.open_layer": "the top folder of a layer",
    "daemon/jobs/volumes.py:make": "the daemon's folder of a volume",
    "daemon/jobs/volumes.py:_unmake": "the same",
    "daemon/jobs/volumes.py:adopt": "the same",
    "daemon/jobs/volumes.py:usage": "a volume's top folder, which a container cannot replace",
    "driver/graphdriver/projects.py:confine": "the driver's own folder of a layer",
    "daemon/jobs/volumes.py:_copy_up": "the same",
    "daemon/jobs/volumes.py:_copy": "that, or the folder that is to take its place",
    "daemon/jobs/volumes.py:_replace": "folders of the daemon's, beside the volume's own",
}
"""module:function to why the paths in it are the host's own."""


@dataclass
class Function:
    """What is known of a function's names."""

    name: str
    descriptors: set[str] = field(default_factory=set)


def modules() -> list[Path]:
    found = [path for pattern in CONFINED for path in sorted(TOP.glob(pattern))]
    assert len(found) > 12
    return found


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Every function and method by its qualified name; the module's own statements as "<module>"."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{node.name}.{inner.name}", inner
                else:
                    yield node.name, inner
        else:
            yield "<module>", node


def descriptors(function: ast.AST) -> set[str]:
    """Names that hold descriptors: parameters that are int, and what an opening call was assigned to."""
    names = set()
    for node in ast.walk(function):
        if isinstance(node, ast.arg) and isinstance(node.annotation, ast.Name) and node.annotation.id == "int":
            names.add(node.arg)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and called(node.value)[1] in OPENS:
            for target in node.targets:
                names |= {name.id for name in ast.walk(target) if isinstance(name, ast.Name)}
    return names


def called(call: ast.Call) -> tuple[str, str]:
    """The module's and the function's name of a call."""
    if isinstance(call.func, ast.Attribute):
        return ast.unparse(call.func.value), call.func.attr
    return "", call.func.id if isinstance(call.func, ast.Name) else ""


def unconfined(function: ast.AST) -> Iterator[ast.Call]:
    """Calls that give the kernel a path without a directory's descriptor."""
    known = descriptors(function)
    for node in ast.walk(function):
        if not isinstance(node, ast.Call):
            continue
        module, name = called(node)
        if module == "os.path":
            takes = name in IN_OS_PATH
        elif module == "shutil":
            takes = True
        else:
            takes = name in TAKES_PATH and module in ("", "os", "posix")
        if not takes:
            continue
        keywords = {keyword.arg for keyword in node.keywords}
        first = node.args[0] if node.args else None
        if keywords & {"dir_fd", "src_dir_fd"} or (isinstance(first, ast.Name) and first.id in known):
            continue
        yield node


def found() -> dict[str, list[str]]:
    """Every place that would need a reason: "module:function" to its calls."""
    result: dict[str, list[str]] = {}
    for path in modules():
        tree = ast.parse(path.read_text())
        for name, function in functions(tree):
            for call in unconfined(function):
                place = f"{path.relative_to(TOP)}:{name}"
                result.setdefault(place, []).append(f"line {call.lineno}: {ast.unparse(call)}")
    return result


def test_every_path_below_a_container_root_goes_through_a_descriptor() -> None:
    places = found()
    assert not {place: calls for place, calls in places.items() if place not in ALLOWED}
    assert not set(ALLOWED) - set(places), "reasons for what is no longer there"


@pytest.mark.parametrize(
    "text",
    [
        "def f(root: str, name: str) -> None: os.mkdir(os.path.join(root, name))",
        "def f(root: str) -> None: open(root + '/etc/passwd')",
        "def f(root: str) -> None: shutil.rmtree(root)",
        "def f(root: str) -> bool: return os.path.exists(root)",
        "def f(path: str, mode: int) -> None: os.chmod(path, mode)",
        "def f() -> None:\n path = name()\n os.stat(path)",
    ],
)
def test_the_rule_sees_a_path_that_was_joined(text: str) -> None:
    tree = ast.parse(text)
    assert [call for _, function in functions(tree) for call in unconfined(function)]


@pytest.mark.parametrize(
    "text",
    [
        "def f(fd: int, name: str) -> None: os.mkdir(name, dir_fd=fd)",
        "def f(fd: int) -> list[str]: return os.listdir(fd)",
        "def f(root: int) -> None:\n fd = open_in_root(root, '/etc')\n os.chdir(fd)",
    ],
)
def test_the_rule_lets_descriptors_pass(text: str) -> None:
    assert not [call for _, function in functions(ast.parse(text)) for call in unconfined(function)]


def test_nobody_unpacks_archives_by_the_standard_library() -> None:
    """CVE-2024-12718, CVE-2025-4517, CVE-2025-8194, CVE-2026-82049 are tarfile's."""
    for path in TOP.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {name.name for name in node.names} & set(FORBIDDEN), path
            elif isinstance(node, ast.ImportFrom):
                assert node.module not in FORBIDDEN, path
            elif isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in FORBIDDEN, path


def test_no_root_is_joined_with_a_path_anywhere() -> None:
    """os.path.join forgets the root as soon as the second path is absolute. (The client knows no roots.)"""
    joined = []
    for path in set(TOP.rglob("*.py")) - set(TOP.glob("client/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and called(node)[1] == "join" and called(node)[0] in ("os.path", "posixpath"):
                first = ast.unparse(node.args[0]).rpartition(".")[2] if node.args else ""
                if first in ("root", "rootfs", "merged", "mergeddir", "upper", "root_path"):
                    joined.append(f"{path.relative_to(TOP)}:{node.lineno}: {ast.unparse(node)}")
    assert joined == []
