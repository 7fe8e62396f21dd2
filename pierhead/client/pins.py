"""``pier image pin`` and ``unpin``."""

from urllib.parse import quote

from pierhead.client.flags import Options
from pierhead.client.session import Session


def pin(session: Session, options: Options) -> int:
    """Keep images; without a name, say which are kept."""
    for name in options.operands:
        session.api.call("POST", f"/images/{quote(name, safe='/:@')}/pin", {}, b"")
        print(name)
    if not options.operands:
        for name in session.api.get("/images/pins") or ():
            print(name)
    return 0


def unpin(session: Session, options: Options) -> int:
    """No longer."""
    for name in options.operands:
        session.api.call("DELETE", f"/images/{quote(name, safe='/:@')}/pin")
        print(name)
    return 0
