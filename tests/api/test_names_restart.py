"""Names while the daemon is away: questions wait in the container's sockets, and none of them fails."""

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import dns.message
import pytest

from tests.harness.api import Api, demultiplex
from tests.harness.engines import Pierd
from tests.harness.naming import OUTSIDE, SERVER, Asker, asker, name_server
from tests.harness.netns import call_in

pytestmark = pytest.mark.only_pierhead("the daemon of a container that goes on")

PATIENCE = 60.0
NSLOOKUP = "while :; do nslookup server >/tmp/said 2>&1 && echo found || cat /tmp/said; done"


@dataclass
class Prober:
    """Asks for a name again and again, each time once; ``lost`` are the questions that had to be asked once more.

    restarts: after which the daemon has answered others.
    """

    netns: str
    name: str
    answered: int = 0
    lost: int = 0
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0
    restarts: int = 0
    ending: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        client = call_in(self.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with client:
            client.connect((SERVER, 53))
            while not self.ending.is_set():
                self._ask(client)
                time.sleep(0.005)

    def _ask(self, client: socket.socket) -> None:
        query = dns.message.make_query(self.name, "A")
        begin = time.monotonic()
        for _ in range(3):
            client.send(query.to_wire())
            reply = self._reply(client, query.id)
            if reply is None:
                self.lost += 1
                continue
            self.answered += 1
            self.slowest = max(self.slowest, time.monotonic() - begin)
            if not reply.answer:
                self.wrong.append(f"{self.name}: {dns.rcode.to_text(reply.rcode())}")
            return
        self.wrong.append(f"{self.name}: no answer")

    def _reply(self, client: socket.socket, id: int) -> dns.message.Message | None:
        """None: it is lost, for a daemon that came after the question has answered later ones, two seconds ago."""
        before = self.restarts
        client.settimeout(2)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            back = self.restarts > before
            try:
                reply = dns.message.from_wire(client.recv(4096))
            except TimeoutError:
                if back:
                    break
                continue
            if reply.id == id:  # not a second answer to what was asked twice
                return reply
        return None


def network_with_server(api: Api) -> tuple[str, Asker]:
    """A network with "server", and one that asks; the server's address."""
    api.ok("POST", "/networks/create", {"Name": "n1"})
    server = api.run("sleep", "1000", name="server", HostConfig={"NetworkMode": "n1"})
    # A C library's 5 s may be less than a daemon's start on a busy machine.
    host = {"NetworkMode": "n1", "Dns": ["192.0.2.20"], "DnsOptions": ["timeout:30"]}
    id = api.run("sh", "-c", NSLOOKUP, name="asker", HostConfig=host)
    return str(api.inspect(server)["NetworkSettings"]["Networks"]["n1"]["IPAddress"]), asker(api, id)


def away_and_back(pierd: Pierd, end: Callable[[], object], away: float) -> None:
    end()
    time.sleep(away)
    pierd.start()


@pytest.mark.parametrize("how", ["terminated", "killed"])
def test_no_question_fails_while_the_daemon_is_restarted(pierd: Pierd, how: str) -> None:
    address, here = network_with_server(pierd.api)
    with name_server(pierd.world.neighbour.path, pierd.world.neighbour_address):
        probers = [Prober(here.netns, name) for name in ("server", "server", "www.example.com")]
        threads = [threading.Thread(target=prober.run) for prober in probers]
        for thread in threads:
            thread.start()
        rounds = 4
        for _ in range(rounds):
            time.sleep(0.3)
            away_and_back(pierd, pierd.stop if how == "terminated" else pierd.kill, 0.5)
            assert here.addresses("server") == [address] and here.addresses("www.example.com") == [OUTSIDE]
            for prober in probers:
                prober.restarts += 1
        time.sleep(0.3)
        for prober in probers:
            prober.ending.set()
        for thread in threads:
            thread.join()
    for prober in probers:
        print(f"{prober.name}: {prober.answered} answered, {prober.lost} lost, slowest {prober.slowest:.3f} s")
        assert prober.wrong == [] and prober.answered > 2 * rounds
        # kill -9 may come between reading a question and answering it, and SIGTERM before another server has answered.
        assert prober.lost <= (0 if how == "terminated" and prober.name == "server" else rounds)
    said = demultiplex(pierd.api.logs("asker"))[0].decode().splitlines()
    assert len(said) > rounds and set(said) == {"found"}


def test_what_was_asked_while_nobody_was_there_is_answered_by_the_next_daemon(pierd: Pierd) -> None:
    """A thousand questions wait, over UDP and TCP, and each is answered for what it asked."""
    address, here = network_with_server(pierd.api)
    client = call_in(here.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    pierd.kill()
    connection = call_in(here.netns, lambda: socket.create_connection((SERVER, 53), timeout=PATIENCE))
    with client, connection:
        client.connect((SERVER, 53))
        client.settimeout(PATIENCE)
        client.setsockopt(socket.SOL_SOCKET, 33, 1 << 21)  # SO_RCVBUFFORCE
        for number in range(1000):
            client.send(dns.message.make_query("server", "A", id=number).to_wire())
        wire = dns.message.make_query("server.n1", "A").to_wire()
        connection.sendall(len(wire).to_bytes(2) + wire)
        time.sleep(0.5)
        pierd.start()
        replies = [dns.message.from_wire(client.recv(4096)) for _ in range(1000)]
        assert {reply.id for reply in replies} == set(range(1000))
        assert {str(reply.answer[0][0]) for reply in replies} == {address}
        over_tcp = connection.recv(4096)
        assert str(dns.message.from_wire(over_tcp[2:]).answer[0][0]) == address


def test_names_that_changed_while_the_daemon_was_away_are_right_when_it_is_back(pierd: Pierd) -> None:
    """A container that ended meanwhile is not found any more, and one that goes on is."""
    address, here = network_with_server(pierd.api)
    ending = pierd.api.run("sleep", "2", name="ending", HostConfig={"NetworkMode": "n1"})
    assert here.addresses("ending")
    pid = pierd.api.inspect(ending)["State"]["Pid"]
    with name_server(pierd.world.neighbour.path, pierd.world.neighbour_address):
        pierd.kill()
        wait_for_end(pid)
        pierd.start()
        assert here.addresses("server") == [address] and here.addresses("ending") == []


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if ") Z " in file.read():
                    return
        except OSError:
            return
        time.sleep(0.05)
    raise AssertionError("the container did not end")
