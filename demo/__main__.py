"""The demo's command: says what is missing, or plays."""

import os
import shutil
import subprocess
import sys

from demo.stage import play

NEEDED = {"unshare": "util-linux", "busybox": "busybox-static", "nft": "nftables", "ip": "iproute2"}


def missing() -> str:
    """What this machine lacks for the demo, and what would mend it; '' if nothing."""
    if os.geteuid() != 0:
        return "it makes namespaces, mounts and control groups: run it as root (sudo make demo)"
    for program, package in NEEDED.items():
        if shutil.which(program) is None:
            return f"there is no {program}: apt-get install {package}"
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, timeout=20)
    if tried.returncode != 0:
        return f"this machine lets root make no namespaces (an unprivileged container?): {tried.stderr.strip()}"
    return ""


if __name__ == "__main__":
    if problem := missing():
        sys.exit(f"demo: {problem}")
    sys.exit(play(sys.argv[1:]))
