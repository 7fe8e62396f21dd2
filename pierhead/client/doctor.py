"""``pier doctor``."""

import subprocess
import sys

from pierhead.client.flags import Options
from pierhead.client.session import Session


def doctor(session: Session, options: Options) -> int:
    """Ask the daemon's own code what this machine lacks; no daemon needs to run for it."""
    return subprocess.run([sys.executable, "-m", "pierhead.daemon.main", "--doctor"], check=False).returncode
