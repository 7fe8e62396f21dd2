"""What ``--security-opt`` says, over the daemon's own settings: seccomp, no-new-privileges, AppArmor, cgroups; and
which sysctls are a container's own.
"""

import os
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from functools import lru_cache

from pierhead.daemon.config import Config
from pierhead.daemon.engine.engine import log
from pierhead.errors import InvalidParameter
from pierhead.libcontainer import apparmor, capabilities, seccomp
from pierhead.libcontainer.plan import sysctl_path
from pierhead.wire.containers import HostConfig

_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")
_SYSCTLS_OF_IPC = frozenset(
    f"kernel.{name}" for name in "msgmnb msgmni msgmax sem shmall shmmax shmmni shm_rmid_forced".split()
)


@dataclass(frozen=True, slots=True)
class Confinement:
    """profile: of seccomp, as Docker's JSON; None: unconfined.  apparmor: a profile's name, or empty.

    writable_cgroups: the container may change its own cgroup.
    """

    profile: str | None
    no_new_privileges: bool
    apparmor: str
    writable_cgroups: bool


def of(host: HostConfig, config: Config) -> Confinement:
    """Raises InvalidParameter in Docker's words.

    "label" is for SELinux, which no kernel that we run on enforces; Docker accepts it there, too.
    """
    profile: str | None = None
    no_new_privileges = config.no_new_privileges
    asked = ""
    writable_cgroups = False
    for option in host.security_opt or []:
        if option == "no-new-privileges":
            no_new_privileges = True
            continue
        if option == "writable-cgroups":
            writable_cgroups = True
            continue
        if option == "disable":  # of labels, as it was written once
            continue
        name, separator, value = option.partition("=")
        if not separator:
            name, separator, value = option.partition(":")
        if not separator:
            raise InvalidParameter(f'invalid --security-opt 1: "{option}"')
        match name:
            case "no-new-privileges":
                no_new_privileges = _truth(value, option)
            case "writable-cgroups":
                writable_cgroups = _truth(value, option)
            case "seccomp":
                profile = value
            case "apparmor":
                asked = value
            case "label":
                pass
            case _:
                raise InvalidParameter(f'invalid --security-opt 2: "{option}"')
    seccomp_profile = _seccomp(profile, host, config)
    return Confinement(seccomp_profile, no_new_privileges, _apparmor(asked, host), writable_cgroups)


@lru_cache(maxsize=1)
def enforced() -> bool:
    """Whether profiles mean anything here: the kernel has AppArmor and the default one could be loaded."""
    if not apparmor.enabled():
        return False
    try:
        apparmor.prepare()
    except OSError as error:
        log.warning("AppArmor: %s", error.strerror)
    return True


def _apparmor(asked: str, host: HostConfig) -> str:
    """The profile of a container; Docker ignores what is asked for where no kernel would enforce it."""
    if not enforced():
        return ""
    if not asked and not host.privileged and apparmor.loaded(apparmor.DEFAULT):
        return apparmor.DEFAULT
    return "" if asked == apparmor.UNCONFINED else asked


def _truth(value: str, option: str) -> bool:
    if value not in _TRUE + _FALSE:
        raise InvalidParameter(f'invalid --security-opt 2: "{option}"')
    return value in _TRUE


def _seccomp(asked: str | None, host: HostConfig, config: Config) -> str | None:
    if asked == "unconfined" or (not asked and host.privileged):
        return None
    if asked == "builtin":
        return seccomp.default_profile()
    profile = asked or config.seccomp_profile
    if profile == "unconfined":
        return None
    return profile or seccomp.default_profile()


def program(host: HostConfig, found: Confinement) -> bytes | None:
    """The seccomp profile compiled for this container's capabilities. Raises InvalidParameter."""
    if found.profile is None:
        return None
    caps = capabilities.resolve(tuple(host.cap_add or ()), tuple(host.cap_drop or ()), host.privileged)
    return seccomp.compile(found.profile, caps)


def check_sysctls(host: HostConfig) -> None:
    """Only what is in a namespace of the container's own; in the words of runc, which finds it out at a start.

    Raises InvalidParameter.
    """
    for name in host.sysctls or {}:
        plain = name.replace("/", ".")
        if plain.startswith("net."):
            if host.network_mode == "host":
                raise InvalidParameter(f'sysctl "{name}" not allowed in host network namespace')
        elif plain.startswith("fs.mqueue.") or plain in _SYSCTLS_OF_IPC:
            if host.ipc_mode == "host":
                raise InvalidParameter(f'sysctl "{name}" is not allowed in the hosts ipc namespace')
        elif plain == "kernel.domainname":
            if host.uts_mode == "host":
                raise InvalidParameter(f'sysctl "{name}" is not allowed as it is in the host\'s UTS namespace')
        else:
            raise InvalidParameter(f'sysctl "{name}" is not in a separate kernel namespace')
        try:
            sysctl_path(name)
        except ValueError as error:
            raise InvalidParameter(str(error)) from None


def check_joined_sysctls(host: HostConfig, joined: Mapping[str, int]) -> None:
    """The same of namespaces that are joined ("ns:net" to a descriptor): whose container has it, may have the host's.

    Raises InvalidParameter.
    """
    if not host.sysctls:
        return
    found = copy(host)
    for field, kind in (("network_mode", "net"), ("ipc_mode", "ipc")):
        descriptor = joined.get(f"ns:{kind}", -1)
        if descriptor >= 0 and os.path.samestat(os.fstat(descriptor), os.stat(f"/proc/self/ns/{kind}")):
            setattr(found, field, "host")
    check_sysctls(found)
