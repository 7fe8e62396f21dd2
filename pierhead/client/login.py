"""``pier login`` and ``pier logout``."""

import sys

from pierhead.client import credentials
from pierhead.client.errors import ClientError
from pierhead.client.flags import Options
from pierhead.client.session import Session


def login(session: Session, options: Options) -> int:
    """Check a user and password at a registry, and keep them."""
    user, password = options.text("username"), options.text("password")
    if options.given("username") and not user.strip():
        raise ClientError("username is empty")
    if options.given("password"):
        session.warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
        if options.on("password-stdin"):
            raise ClientError("conflicting options: cannot specify both --password and --password-stdin")
        if not password:
            raise ClientError("password is empty")
    if options.on("password-stdin"):
        if not user:
            raise ClientError("the --password-stdin option requires --username to be set")
        password = sys.stdin.read().rstrip("\r\n")
    server = _server(options)
    if not user and not password:
        known = credentials.stored(session, server)
        if known.get("username") or known.get("identitytoken"):
            return _again(session, known)
    user, password = _asked(user, password)
    return _check(session, {"username": user, "password": password, "serveraddress": server})


def _server(options: Options) -> str:
    given = options.operands[0] if options.operands else ""
    return credentials.server_of(credentials.hostname(given) or "docker.io")


def _again(session: Session, known: credentials.Login) -> int:
    name = f" [Username: {known['username']}]" if known.get("username") else ""
    session.warn(
        f"Authenticating with existing credentials...{name}\n\n"
        " Info -> To login with a different account, run 'pier logout' followed by 'pier login'\n\n"
    )
    return _check(session, known)


def _asked(user: str, password: str) -> tuple[str, str]:
    if user and password:
        return user, password
    if not sys.stdin.isatty():
        raise ClientError("Error: Cannot perform an interactive login from a non TTY device")
    import getpass

    if not user:
        user = input("Username: ").strip()
        if not user:
            raise ClientError("Error: Non-null Username Required")
    if not password:
        password = getpass.getpass("Password: ")
        if not password:
            raise ClientError("Error: Password Required")
    return user, password


def _check(session: Session, login: credentials.Login) -> int:
    answer = session.api.post("/auth", body=login) or {}
    if answer.get("IdentityToken"):
        login = {**login, "password": "", "identitytoken": str(answer["IdentityToken"])}
    path = credentials.keep(session, login)
    if path:
        session.warn(
            f"\nWARNING! Your credentials are stored unencrypted in '{path}'.\n"
            "Configure a credential helper to remove this warning. See\n"
            "https://docs.docker.com/go/credential-store/\n"
        )
    print(answer.get("Status") or "Login Succeeded")
    return 0


def logout(session: Session, options: Options) -> int:
    """Forget what is kept for a registry."""
    server = _server(options)
    print(f"Removing login credentials for {server}", flush=True)
    credentials.forget(session, server)
    return 0
