"""``pier update``."""

from pierhead.client.api import quote
from pierhead.client.errors import ClientError, DaemonError
from pierhead.client.flags import Options
from pierhead.client.ports import publish
from pierhead.client.run_options import resources, restart_policy
from pierhead.client.session import Session


def update(session: Session, options: Options) -> int:
    """Change the limits, the restart policy or the published ports of containers."""
    if not options.said:
        raise ClientError("you must provide one or more flags when using this command")
    body = resources(options)
    if options.given("restart"):
        body["RestartPolicy"] = restart_policy(options.text("restart"))
    if options.given("publish-add"):
        _, body["PublishAdd"] = publish(options.all("publish-add"))
    if options.given("publish-rm"):
        body["PublishRemove"] = options.all("publish-rm")
    problems = []
    for name in options.operands:
        try:
            answer = session.api.post(f"/containers/{quote(name)}/update", {}, body)
        except DaemonError as error:
            problems.append(str(error))
            continue
        print(name)
        for warning in (answer or {}).get("Warnings") or ():
            session.warn(warning)
    if problems:
        raise ClientError("\n".join(problems))
    return 0
