"""An image with a web server and a traffic generator, and the same programs for the hosts' side: Debian's packages,
unpacked by `make peers`."""

import io
import os
import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path

from tests.harness.engines import PEERS, Engine, peers_environment
from tests.harness.images import busybox_rootfs

IMAGE = "tools:latest"
HTTP, IPERF = 8080, 5201
CLIENTS_CPU, SERVERS_CPU = 0, min(1, (os.cpu_count() or 1) - 1)
"""Who asks and who answers keep to a core each: left to the scheduler, one and the same engine gave half or double from
sample to sample."""
_PROGRAMS = ("usr/sbin/nginx", "usr/bin/iperf3")
_NGINX = f"""daemon off; worker_processes 1; error_log /dev/null; pid /tmp/pid;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 1000000;
  client_body_temp_path /tmp; proxy_temp_path /tmp; fastcgi_temp_path /tmp; uwsgi_temp_path /tmp; scgi_temp_path /tmp;
  server {{ listen {HTTP}; location / {{ return 200 "hello\\n"; }} }} }}
"""


def program(name: str) -> str:
    """A program of the peers' for use on a host."""
    found = PEERS / "usr/bin" / name
    if not found.exists():
        raise SystemExit(f"benchmarks: no {name}: `make peers` unpacks it")
    return str(found)


def _libraries(binary: Path) -> set[str]:
    """The shared libraries that a program loads, as paths; the loader itself too."""
    listed = subprocess.run(["ldd", str(binary)], env=peers_environment(), capture_output=True, text=True, check=True)
    return {word for line in listed.stdout.splitlines() for word in line.split() if word.startswith("/")}


@cache
def _rootfs() -> bytes:
    """busybox with nginx and iperf3 and all that they load, as a tar."""
    buffer = io.BytesIO(busybox_rootfs())
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        libraries: set[str] = set()
        for name in _PROGRAMS:
            archive.add(PEERS / name, name)
            libraries |= _libraries(PEERS / name)
        for library in sorted(libraries):
            loader = Path(library).name.startswith("ld-linux")
            archive.add(Path(library).resolve(), library[1:] if loader else f"usr/lib/{Path(library).name}")
        configuration = tarfile.TarInfo("etc/nginx.conf")
        configuration.size = len(_NGINX)
        archive.addfile(configuration, io.BytesIO(_NGINX.encode()))
    return buffer.getvalue()


def provide(engine: Engine) -> None:
    """Import the image."""
    engine.api.ok(
        "POST",
        "/images/create?fromSrc=-&repo=tools&tag=latest",
        raw=_rootfs(),
        content_type="application/x-tar",
        timeout=120,
    )


def serve(engine: Engine, name: str) -> None:
    """A container that serves pages on HTTP and traffic on IPERF, both published."""
    ports = {f"{port}/tcp": [{"HostPort": str(port)}] for port in (HTTP, IPERF)}
    engine.api.run(
        "sh",
        "-c",
        "iperf3 -s >/dev/null & exec nginx -c /etc/nginx.conf",
        image=IMAGE,
        name=name,
        ExposedPorts={key: {} for key in ports},
        HostConfig={"PortBindings": ports, "NetworkMode": "bridge", "CpusetCpus": str(SERVERS_CPU)},
    )


def available() -> str:
    """Why the network's rows cannot be measured, or ''."""
    missing = [name for name in (*_PROGRAMS, "usr/bin/wrk") if not (PEERS / name).exists()]
    if missing or shutil.which("ldd") is None:
        return f"missing: {', '.join(missing) or 'ldd'}"
    return ""
