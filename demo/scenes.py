"""The scenes: every command is printed, run, and its real output shown, with one line on what it shows."""

import argparse
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.harness.engines import plain_environment
from tests.harness.images import WEB, busybox_rootfs

TOP = Path(__file__).resolve().parents[1]
BIN = TOP / ".venv/bin"
SOCKET = "/run/pierhead/pierd.sock"
BOLD, DIM, RED, PLAIN = ("\033[1m", "\033[2m", "\033[31m", "\033[0m") if sys.stdout.isatty() else ("", "", "", "")


class Failed(Exception):
    """A command did not do what the demo says."""


class Stage:
    """Prints and runs."""

    def __init__(self, image: str, ports: tuple[int, int, int, int]) -> None:
        self.image = image
        self.ports = ports
        self.environment = plain_environment()
        self.environment["PATH"] = f"{BIN}:{self.environment.get('PATH', '')}:/usr/sbin:/sbin"

    def scene(self, title: str) -> None:
        print(f"\n{BOLD}=== {title}{PLAIN}", flush=True)

    def run(self, command: str, shows: str, *, fails: bool = False, stdin: bytes | None = None) -> str:
        """Run a shell line; it must succeed (or fail, where that is the point)."""
        print(f"\n{BOLD}$ {command}{PLAIN}", flush=True)
        process = subprocess.Popen(
            ["sh", "-c", command],
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
            process_group=0,
        )
        try:
            output = process.communicate(stdin, timeout=300)[0].decode(errors="replace")
        except BaseException:
            _interrupt(process)
            raise
        print(output, end="" if output.endswith("\n") or not output else "\n")
        print(f"{DIM}  -> {shows}{PLAIN}", flush=True)
        if (process.returncode != 0) != fails:
            raise Failed(f"`{command}` ended with status {process.returncode}")
        return output

    def fetch(self, address: str, port: int, shows: str) -> str:
        """Ask a web server from this machine, with patience for its start."""
        # Debian's static busybox has no wget that works; nc says all that HTTP/1.0 needs.
        plain = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc {address} {port} | tail -n 1"
        command = f"curl -s http://{address}:{port}/" if shutil.which("curl") else plain
        end = time.monotonic() + 90
        while True:
            try:
                with socket.create_connection((address, port), 5) as connection:
                    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    if connection.recv(16).startswith(b"HTTP/1."):
                        break
            except OSError:
                pass
            if time.monotonic() > end:
                raise Failed(f"nothing answers on {address}:{port}")
            time.sleep(0.1)
        said = self.run(command, shows)
        if "this is" not in said.lower():
            raise Failed(f"{address}:{port} gave {said!r}")
        return said


def _interrupt(process: "subprocess.Popen[bytes]") -> None:
    """End a command with everything that it has begun: what goes on would make anew what is then removed."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def free_ports() -> tuple[int, int, int, int]:
    """The article's 8081 to 8084, or the next four that nobody on this machine listens on."""
    for base in range(8081, 60000, 10000):
        ports = (base, base + 1, base + 2, base + 3)
        if all(_free(port) for port in ports):
            return ports
    raise Failed("no free ports on this machine")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def own_address() -> str:
    """An address of this machine other than loopback, or loopback where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only asks for a route
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def images(stage: Stage, tomcat: bool) -> None:
    stage.scene("0. An image without the internet, and an engine that nobody installed")
    changes = f"--change {shlex.quote('CMD ' + json.dumps(['sh', '-c', WEB]))}"
    stage.run(
        "pier import - busybox",
        "Debian's static busybox is the base image; pier started a daemon for it",
        stdin=busybox_rootfs(),
    )
    stage.run(
        f"pier import {changes} --change 'EXPOSE 8080' - web",
        "the same, with a web server as its command",
        stdin=busybox_rootfs(),
    )
    if tomcat:
        archive = TOP / ".cache/tomcat/rootfs.tar"
        stage.run(f"examples/tomcat/build {archive}", "a real Tomcat out of Debian's packages")
        options = " ".join(
            f"--change {shlex.quote(line)}"
            for line in (TOP / "examples/tomcat/changes").read_text().splitlines()
            if line
        )
        stage.run(f"pier import {options} {archive} tomcat", "imported as an image of its own")
    stage.run("pier images", "what is stored; the ids are digests of the configurations")
    stage.run("pier version", "client and server, and the API they speak")


def networks(stage: Stage) -> None:
    stage.scene("1. Three networks are there from the start")
    stage.run("pier network ls", "bridge, host and none")
    stage.run("pier network inspect bridge | grep -i -E 'name|subnet|gateway'", "the default bridge and its own subnet")
    stage.run("ip -br link", "on the machine: one bridge more than before, nothing else")


def bridge(stage: Stage) -> None:
    one, two, *_ = stage.ports
    stage.scene("2. bridge: each container has its own address, and answers on the machine's ports")
    stage.run(f"pier run -d -p {one}:8080 --name tomcat81 {stage.image}", "the first server")
    stage.run(f"pier run -d -p {two}:8080 --name tomcat82 {stage.image}", "the second, the same port inside")
    stage.run("pier ps", "both run")
    stage.fetch("127.0.0.1", one, "the first answers on this machine")
    stage.fetch(own_address(), two, "the second answers on the machine's own address")
    stage.run(
        "pier inspect -f '{{.Name}} {{.NetworkSettings.IPAddress}}' tomcat81 tomcat82", "two addresses on one bridge"
    )
    stage.run("ip -br link show type veth", "a pair of ends for each container; these are ours")


def host(stage: Stage) -> None:
    port = stage.ports[2]
    stage.scene("3. host: the machine's own interfaces")
    server = f"sh -c 'echo this is tomcat83 > /www/index.html; exec httpd -f -p {port} -h /www'"
    stage.run(
        f"pier run -d -p {port}:8080 --network host --name tomcat83 web {server}",
        "the warning: ports are discarded here",
    )
    stage.fetch("127.0.0.1", port, "its server is on the machine's own port")
    stage.run("pier inspect -f '{{json .NetworkSettings.Ports}}' tomcat83", "nothing is published")
    stage.run("pier ps --filter name=tomcat83", "PORTS is where it really listens (docker ps leaves it empty)")


def none(stage: Stage) -> None:
    stage.scene("4. none: only lo")
    stage.run(f"pier run -d -p {stage.ports[3]}:8080 --network none --name tomcat84 web", "accepted without a word")
    stage.run("pier exec tomcat84 ip -br link 2>/dev/null || pier exec tomcat84 ip link", "nothing but lo")


def container(stage: Stage) -> None:
    stage.scene("5. container: two share one network")
    stage.run("pier run -dit --name alpine1 busybox sh", "the first")
    stage.run(
        "pier run -dit --network container:alpine1 --name alpine2 busybox sh", "the second, in the first's network"
    )
    stage.run(
        "pier exec alpine1 ip -4 addr show eth0; pier exec alpine2 ip -4 addr show eth0",
        "the same interface, the same address",
    )
    stage.run(
        "pier run -d -p 8085:80 --network container:alpine1 busybox sleep 9", "refused, in Docker's words", fails=True
    )
    stage.run(
        "pier stop -t 0 alpine1; pier exec alpine2 ip -o -4 addr", "the first is gone: the second is left with lo"
    )
    stage.run(
        "pier start alpine1; pier restart -t 0 alpine2; pier exec alpine2 ip -o -4 addr", "both again: joined again"
    )


def names(stage: Stage) -> None:
    stage.scene("6. A network of one's own: names instead of addresses")
    stage.run("pier network create --subnet 10.99.81.0/24 tomcats", "a user-defined bridge")
    stage.run(
        "pier run -d --network tomcats --name one web; pier run -d --network tomcats --ip 10.99.81.50 --name two web",
        "two containers in it",
    )
    stage.run("pier exec one ping -c 1 two", "found by name")
    stage.run(
        "pier rm -f two; pier run -d --network tomcats --ip 10.99.81.60 --name two web; pier exec one ping -c 1 two",
        "another address, the same name",
    )
    stage.run("pier exec tomcat81 ping -c 1 tomcat82", "on the default bridge names do not resolve", fails=True)


def seen(stage: Stage, file: str) -> None:
    stage.scene("And seen from above: what is really there")
    stage.run("pier network map", "interfaces, bridges, cables, containers, names and ports, read from the kernel")
    if file:
        stage.run(f"pier network map --output {shlex.quote(file)}", "the same as a picture")
    stage.run("pier network check one two:8080", "one reaches two, and this is the way")
    stage.run("pier network check tomcat81 one:8080", "another network: where it ends, and what to do", fails=True)


def steps(stage: Stage) -> None:
    stage.scene("7. The seven steps, as they happen")
    stage.run(
        "pier run --rm --trace busybox echo hello",
        "client, server, job, graph, network driver, exec driver, libcontainer",
    )
    stage.run("pier jobs --all | tail -n 6", "every piece of work is a job")


def space(stage: Stage) -> None:
    stage.scene("8. Space is given back")
    used = "du -sh --apparent-size /var/lib/pierhead | cut -f1"
    stage.run(
        f"pier run --name big busybox dd if=/dev/zero of=/file bs=1M count=64 2>&1 | tail -n 1; {used}",
        "64 MB written in a container",
    )
    stage.run("pier system df", "and accounted to it")
    stage.run(f"pier rm big; {used}", "removed: the disk has them again")


def real_docker(stage: Stage) -> None:
    client = shutil.which("docker")
    if client is None:
        return
    stage.scene("And the real docker client, unchanged")
    stage.run(
        f"docker -H unix://{SOCKET} ps --format 'table {{{{.Names}}}}\\t{{{{.Status}}}}\\t{{{{.Ports}}}}'",
        "the same containers",
    )
    stage.run(f"echo hi | docker -H unix://{SOCKET} run -i --rm busybox cat", "stdin goes through and ends by itself")


def clean(stage: Stage) -> None:
    """Everything that was made is removed again; used at the end and after an interruption."""
    stage.scene("The end: everything is removed")
    stage.run(
        "pier rm -f $(pier ps -aq) >/dev/null 2>&1; pier network prune -f; pier system stop -f", "and the daemon ends"
    )


def main() -> int:
    """Play all scenes; clean up whatever happens. 0, 1 for a failure, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--tomcat", action="store_true", help="build and use a real Tomcat")
    parser.add_argument("--map", metavar="FILE.svg", default="", help="write the picture of the networks there")
    options = parser.parse_args()
    # Said outright: a shell that starts the demo in the background has it ignore SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    stage = Stage("tomcat" if options.tomcat else "web", free_ports())
    scenes: tuple[Callable[[Stage], None], ...] = (
        lambda stage: images(stage, options.tomcat),
        *(networks, bridge, host, none, container, names),
        lambda stage: seen(stage, options.map),
        *(steps, space, real_docker),
    )
    status = 0
    try:
        for scene in scenes:
            scene(stage)
    except KeyboardInterrupt:
        print("\ninterrupted", flush=True)
        status = 130
    except (Failed, subprocess.TimeoutExpired) as error:
        print(f"\n{RED}The demo failed: {error}{PLAIN}", flush=True)
        _last_words()
        status = 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if os.path.exists(SOCKET):
            try:
                clean(stage)
            except (Failed, subprocess.TimeoutExpired) as error:
                print(f"\n{RED}Cleaning up failed: {error}{PLAIN}", flush=True)
                status = status or 1
    return status


def _last_words() -> None:
    log = Path("/run/pierhead/pierd.log")
    if log.exists():
        print("The daemon's last words:\n  " + "\n  ".join(log.read_text(errors="replace").splitlines()[-15:]))


if __name__ == "__main__":
    sys.exit(main())
