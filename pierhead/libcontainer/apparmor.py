"""AppArmor, where the kernel enforces it: the default profile of containers, as Docker has it.

A profile is a text that the tool apparmor_parser compiles for the kernel; without the tool none is loaded, and
containers run without one, as with Docker.
"""

import os
import shutil
import subprocess

DEFAULT = "docker-default"
UNCONFINED = "unconfined"

_ENABLED = "/sys/module/apparmor/parameters/enabled"
_PROFILES = "/sys/kernel/security/apparmor/profiles"
_PATIENCE = 30.0

# What a container may not: write to what of /proc and /sys is not its own (only sysctls of namespaces are), mount, and
# meet processes that have not the same profile.
_TEXT = f"""\
@{{PROC}}=/proc/

profile {DEFAULT} flags=(attach_disconnected,mediate_deleted) {{
  network,
  capability,
  file,
  umount,

  signal (receive) peer=unconfined,
  signal (send,receive) peer={DEFAULT},
  ptrace (trace,read,tracedby,readby) peer={DEFAULT},

  deny mount,

  deny @{{PROC}}/* w,
  deny @{{PROC}}/{{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9/]*}}/** w,
  deny @{{PROC}}/sys/[^k]** w,
  deny @{{PROC}}/sys/kernel/{{?,??,[^s][^h][^m]**}} w,
  deny @{{PROC}}/sysrq-trigger rwklx,
  deny @{{PROC}}/kcore rwklx,

  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"""


def enabled() -> bool:
    """Whether this kernel enforces profiles and shows them here."""
    try:
        with open(_ENABLED, encoding="ascii") as file:
            return file.read().startswith("Y") and os.path.exists(_PROFILES)
    except OSError:
        return False


def loaded(name: str) -> bool:
    """Whether the kernel knows a profile."""
    try:
        with open(_PROFILES, encoding="utf-8", errors="surrogateescape") as file:
            return any(line.rpartition(" (")[0] == name for line in file)
    except OSError:
        return False


def prepare() -> None:
    """Load the default profile, unless it is there. Raises OSError that says what is missing or wrong."""
    if loaded(DEFAULT):
        return
    parser = shutil.which("apparmor_parser", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if parser is None:
        raise OSError(2, "no apparmor_parser, so containers have no AppArmor profile: apt-get install apparmor")
    done = subprocess.run(
        [parser, "--skip-cache", "--replace"],
        input=_TEXT,
        text=True,
        capture_output=True,
        timeout=_PATIENCE,
        check=False,
    )
    if done.returncode:
        raise OSError(5, f"apparmor_parser: {done.stderr.strip()}")
