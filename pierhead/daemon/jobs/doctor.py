"""What this machine must have, what it lacks, and what would fix it (``pierd --doctor``, ``pier doctor``)."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TextIO

from pierhead.daemon.config import Config
from pierhead.driver.networkdriver import marks
from pierhead.driver.networkdriver.hostbridge import bridged_frames_are_filtered
from pierhead.driver.networkdriver.hostfirewall import HostFirewall
from pierhead.libcontainer import cgroups
from pierhead.linux import sublinks
from pierhead.linux.netlink import Netlink

CAPABILITIES = {
    "CAP_SYS_ADMIN": 21,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_CHROOT": 18,
    "CAP_MKNOD": 27,
    "CAP_SETUID": 7,
    "CAP_SETGID": 6,
    "CAP_DAC_OVERRIDE": 1,
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at. needed: pierd does not start without it. look: None where it is there, else what to say.
    by_root: only root sees it."""

    name: str
    needed: bool
    look: Callable[[Config], str | None]
    by_root: bool = False


def _root(config: Config) -> str | None:
    if os.geteuid() != 0:
        return "pierd needs root to make namespaces, mounts and cgroups: start it with sudo"
    return None


def _capabilities(config: Config) -> str | None:
    with open("/proc/self/status", encoding="ascii") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    absent = [name for name, number in CAPABILITIES.items() if not effective >> number & 1]
    if absent:
        return (
            f"missing capabilities {', '.join(absent)}: this looks like an unprivileged container; "
            "run pierd on the host, or in a container started with --privileged"
        )
    return None


def _kernel(config: Config) -> str | None:
    release = os.uname().release
    major, minor = (int(part) for part in release.split(".")[:2])
    if (major, minor) < (6, 1):
        return f"Linux {release} is too old: 6.1 or newer is needed (Debian 12 has it)"
    return None


def _file_system(name: str) -> bool:
    with open("/proc/filesystems", encoding="ascii") as file:
        return name in file.read().split()


def _overlay(config: Config) -> str | None:
    if not _file_system("overlay") and shutil.which("modprobe"):
        os.spawnlp(os.P_WAIT, "modprobe", "modprobe", "-q", "overlay")
    if not _file_system("overlay"):
        return (
            "the kernel has no overlay file system (modprobe overlay): the vfs driver is used, which copies every image"
        )
    return None


def _nftables(config: Config) -> str | None:
    if shutil.which("nft") is None and not os.path.exists("/usr/sbin/nft"):
        return "nftables is not installed: apt-get install nftables"
    return None


def _cgroups(config: Config) -> str | None:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        kinds = [line.partition(" - ")[2].split()[0] for line in file]
    if "cgroup" not in kinds and "cgroup2" not in kinds:
        return "no cgroup file system is mounted: mount -t cgroup2 none /sys/fs/cgroup"
    if config.cgroup_driver != "cgroupfs" or os.geteuid() != 0:
        return None  # made by PID 1; or nothing that root could not write to
    closed = [path for path in cgroups.detect().mounts() if not os.access(path, os.W_OK)]
    if closed:
        return (
            f"control groups are read-only ({', '.join(closed)}): mount -o remount,rw each of them; in a container, "
            "start that with --privileged"
        )
    return None


def _init(config: Config) -> str | None:
    if shutil.which("docker-init") is None and shutil.which("tini-static") is None and shutil.which("tini") is None:
        return "no init for --init: apt-get install tini"
    return None


def _links(config: Config) -> str | None:
    modules = {"macvlan": "macvlan", "ipvlan": "ipvlan", "vlan": "8021q"}
    absent = [kind for kind in modules if not sublinks.supported(kind)]
    if absent:
        what = " and ".join("parents like eth0.100" if kind == "vlan" else f"{kind} networks" for kind in absent)
        return (
            f"the kernel has no {', '.join(absent)} (modprobe {' '.join(modules[kind] for kind in absent)}): "
            f"{what} are refused"
        )
    return None


def _firewalls(config: Config) -> str | None:
    """Of the bridges of every Pierhead that runs here; where none does, of the one that the default bridge would be."""
    firewall = HostFirewall("")
    try:
        said = []
        for name, addresses in _bridges():
            found = firewall.forwarding(name, addresses, internal=False, filtered=bridged_frames_are_filtered())
            said += [str(one) for one in found]
        return "\n         ".join(said) or None
    except OSError as error:
        return f"the rules of other firewalls cannot be read: {error}"
    finally:
        firewall.close()


def _bridges() -> list[tuple[str, list[IPv4Address | IPv6Address]]]:
    """Names, and an address that a container could have, of each IP version."""
    with Netlink() as netlink:
        links = {link.index: link.name for link in netlink.links() if link.kind == "bridge" and marks.ours(link)}
        addresses = netlink.addresses()
    found = [
        (name, [one.ip + 1 for at, one in addresses if at == index and not one.ip.is_link_local])
        for index, name in links.items()
    ]
    return found or [(marks.DEFAULT_BRIDGES[0], [IPv4Address("172.17.0.2")])]


CHECKS = (
    Check("root", True, _root),
    Check("capabilities", True, _capabilities, by_root=True),
    Check("kernel", True, _kernel),
    Check("cgroups", True, _cgroups),
    Check("nftables", True, _nftables),
    Check("overlay", False, _overlay),
    Check("init", False, _init),
    Check("links", False, _links),
    Check("firewalls", False, _firewalls, by_root=True),
)


def missing(config: Config) -> list[str]:
    """What pierd cannot do without, in words. Of someone who is not root nothing else is asked: it would follow."""
    not_root = _root(config)
    if not_root is not None:
        return [not_root]
    return [said for check in CHECKS if check.needed and (said := check.look(config)) is not None]


def report(config: Config, out: TextIO) -> int:
    """Print every check; returns the exit status: 0 if pierd can start."""
    failed = 0
    for check in CHECKS:
        if check.by_root and os.geteuid() != 0:
            print(f"{'unknown':8} {check.name:13} only root sees it", file=out)
            continue
        said = check.look(config)
        mark = "ok" if said is None else ("MISSING" if check.needed else "warning")
        failed += check.needed and said is not None
        print(f"{mark:8} {check.name:13} {said or ''}".rstrip(), file=out)
    return 1 if failed else 0
