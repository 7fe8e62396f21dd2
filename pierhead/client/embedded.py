"""The daemon that ``pier`` starts by itself when nobody asked for another one, and its end."""

import os
import select
import signal
import socket
import struct
import sys
import time
from typing import Any

from pierhead.client.connection import Connection
from pierhead.client.errors import ClientError, NoDaemon
from pierhead.client.flags import Options
from pierhead.client.host import Host, default_socket
from pierhead.client.session import Session

PATIENCE = 120.0  # seconds; the daemon answers within one, under an emulator within half of this


def _folders() -> tuple[str, str]:
    """State and runtime folder of the embedded daemon."""
    if os.geteuid() == 0:
        return "/var/lib/pierhead", "/run/pierhead"
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "pierhead"), os.path.dirname(default_socket())


def start(host: Host) -> None:
    """Start ``pierd`` and wait until it answers. Says so on standard error; raises ClientError with its last words."""
    import subprocess

    data, runtime = _folders()
    path = host.address.removeprefix("unix://")
    log = os.path.join(runtime, "pierd.log")
    try:
        os.makedirs(runtime, mode=0o711, exist_ok=True)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ClientError(
            f"Cannot start a Pierhead daemon: {error.filename}: {error.strerror}. "
            "Run pier as root, or point it at a running daemon with -H or DOCKER_HOST."
        ) from None
    command = [sys.executable, "-m", "pierhead.daemon.main", "--embedded", "-H", host.address]
    command += ["--data-root", data, "--exec-root", runtime, "--pidfile", os.path.join(runtime, "pierd.pid")]
    said_before = os.fstat(output).st_size
    interrupts: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if callable(before):  # else it is ignored, and stays so. An exception within Popen would lose the process.
        signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    try:
        try:
            daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/"
            )
        finally:
            os.close(output)
        deadline = time.monotonic() + PATIENCE
        while not interrupts and time.monotonic() < deadline:
            if answers(host):
                print(f"pier: no daemon was running: started one ({path}; 'pier system stop' ends it)", file=sys.stderr)
                daemon.returncode = 0  # it stays on purpose: no warning about a child left behind
                return
            if daemon.poll() is not None and not answers(host):
                raise ClientError(_failure(f"it ended with status {daemon.returncode}", log, said_before))
            time.sleep(0.01)
        daemon.terminate()  # nobody has been told of it
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupts:
        raise KeyboardInterrupt
    raise ClientError(_failure(f"it did not answer within {PATIENCE:.0f} s", log, said_before))


def answers(host: Host) -> bool:
    """Whether a daemon is there."""
    try:
        Connection(host).close()
    except (NoDaemon, ClientError):
        return False
    return True


def _failure(what: str, log: str, offset: int) -> str:
    with open(log, "rb") as file:
        file.seek(offset)
        words = file.read().decode("utf-8", "replace").strip().splitlines()[-8:]
    said = "\n".join(f"  {line}" for line in words) or "  (nothing)"
    return (
        f"Cannot start a Pierhead daemon: {what}. Its last words ({log}):\n{said}\n"
        "'pier doctor' says what this machine lacks; DOCKER_HOST or -H names another daemon."
    )


def stop(session: Session, options: Options) -> int:
    """End the daemon that pier started; with ``-f`` its containers first. Others are left alone."""
    host = session.host()
    if not host.address.startswith("unix://"):
        raise ClientError(f"{host.address} is not a daemon on this machine: 'pier system stop' cannot end it")
    try:
        connection = Connection(host)
    except NoDaemon:
        print(f"No daemon is running at {host.address}.")
        return 0
    pid = struct.unpack("3i", connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    connection.close()
    if not _is_embedded(pid):
        raise ClientError(
            f"The daemon at {host.address} (process {pid}) was not started by pier: end it the way it was started."
        )
    running = session.api.get("/containers/json")
    if running and options.on("force"):
        _stop_all(session, running)
        running = []
    session.api.close()
    process = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if not select.select([process], [], [], 60)[0]:
            raise ClientError(f"The daemon (process {pid}) has not ended after 60 s; see its log beside its socket.")
    finally:
        os.close(process)
    if running:
        names = ", ".join(sorted(name.removeprefix("/") for entry in running for name in entry["Names"]))
        session.warn(
            f"Still running, and found again by the next daemon: {names}. 'pier system stop -f' ends them too."
        )
    return 0


def _stop_all(session: Session, running: list[Any]) -> None:
    """All at once: each may take its whole stop timeout."""
    path = session.api.path
    asked = []
    for entry in running:
        connection = Connection(session.api.host)
        connection.send("POST", path(f"/containers/{entry['Id']}/stop", {}), {}, b"")
        asked.append(connection)
    for connection in asked:
        answer = connection.answer("POST")
        said = answer.read().decode("utf-8", "replace").strip()
        connection.close()
        if answer.status >= 400 and answer.status != 404:
            session.warn(f"Error response from daemon: {said}")


def _is_embedded(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    return b"--embedded" in words
