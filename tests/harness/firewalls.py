"""Other people's firewalls, really running: ufw, firewalld, both iptables, in a network namespace of a test.

They come from the unpacked peers and are laid over /usr and /etc in a mount namespace of their own, so they find their
files where they look for them and change nothing on the machine.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness.engines import PEERS, plain_environment
from tests.harness.netns import Namespace
from tests.harness.processes import DEADLINE, Daemon, Output, run, wait_until

_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_type="method_return"/><allow send_type="error"/><allow receive_type="method_call"/>
<allow receive_type="signal"/><allow receive_type="method_return"/><allow receive_type="error"/></policy></busconfig>
"""

# What a package's installation does with its files.
_LAY = r"""
set -e
space=$1 peers=$2
mount -t tmpfs none "$space"
for top in etc usr; do mkdir -p "$space/$top" "$space/$top.work"; done
mkdir -p "$space/usr/lib"
cp -r "$peers/lib/ufw" "$space/usr/lib/"
cp -r "$peers/etc/ufw" "$space/etc/"
for name in before before6 after after6 user user6; do
    cp "$peers/usr/share/ufw/iptables/$name.rules" "$space/etc/ufw/"
done
for name in before.init after.init ufw.conf; do cp "$peers/usr/share/ufw/$name" "$space/etc/ufw/"; done
for top in etc usr; do
    mount -t overlay overlay -o "lowerdir=/$top:$peers/$top,upperdir=$space/$top,workdir=$space/$top.work" "/$top"
done
mount -t tmpfs none /run
echo laid
exec sleep infinity
"""


def unpacked() -> bool:
    """Whether the peers hold them."""
    return all((PEERS / name).exists() for name in ("usr/sbin/ufw", "usr/sbin/firewalld", "usr/sbin/iptables-legacy"))


@dataclass(frozen=True, slots=True)
class Firewalls:
    """The programs, at work in one network namespace."""

    namespace: Namespace
    folder: Path
    holder: Daemon

    def argv(self, *command: str) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", f"--net={self.namespace.path}", "--", *command]

    def run(self, *command: str, stdin: bytes = b"") -> Output:
        """One command of theirs, to its end."""
        environment = {**plain_environment(), "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/run/bus"}
        return run(self.argv(*command), stdin=stdin, env=environment, timeout=2 * DEADLINE)

    @contextmanager
    def firewalld(self) -> Iterator[None]:
        """firewalld with a message bus of its own."""
        environment = {**plain_environment(), "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/run/bus"}
        (self.folder / "bus.conf").write_text(_BUS)
        bus = Daemon(
            self.argv("dbus-daemon", "--nofork", f"--config-file={self.folder}/bus.conf"),
            self.folder / "bus.log",
            environment,
        )
        try:
            daemon = Daemon(self.argv("firewalld", "--nofork", "--nopid"), self.folder / "firewalld.log", environment)
            try:
                wait_until(lambda: self.run("firewall-cmd", "--state").status == 0, "firewalld")
                yield
            finally:
                daemon.terminate()
        finally:
            bus.terminate()


@contextmanager
def firewalls(namespace: Namespace) -> Iterator[Firewalls]:
    """Their programs, with fresh settings."""
    with tempfile.TemporaryDirectory(prefix="pier-firewalls-") as name:
        folder = Path(name)
        space = folder / "space"
        space.mkdir()
        log = folder / "holder.log"
        holder = Daemon(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", _LAY, "lay", str(space), str(PEERS)], log
        )
        try:
            wait_until(lambda: "laid" in holder.said() or not holder.running(), "the programs' files")
            assert holder.running(), holder.said()
            yield Firewalls(namespace, folder, holder)
        finally:
            holder.kill()
