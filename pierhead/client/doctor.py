"""``pier doctor``."""

import subprocess
import sys

from pierhead.client.api import Api
from pierhead.client.errors import ClientError, DaemonError
from pierhead.client.flags import Options
from pierhead.client.session import Session


def doctor(session: Session, options: Options) -> int:
    """Ask the daemon's own code what this machine lacks; no daemon needs to run for it. One that runs is asked what
    its containers' ports are open to."""
    status = subprocess.run([sys.executable, "-m", "pierhead.daemon.main", "--doctor"], check=False).returncode
    try:
        seen = Api(session.host()).get("/pierhead/ports")
    except (ClientError, DaemonError):
        return status  # none runs, or it is dockerd
    for one in seen["past_firewall"]:
        print(
            f"{'warning':8} {'ports':13} {one['ports']} of {one['name']} is reached from outside past "
            f"{one['stopped_by']}: publish it on 127.0.0.1, or start pierd with --publish-policy firewall (or local)"
        )
    return status
