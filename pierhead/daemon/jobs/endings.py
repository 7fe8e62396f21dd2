"""Why a container has ended, in plain words: which signal and who sent it, or that its memory was not enough."""

import asyncio
import signal

from pierhead.daemon.engine.engine import Engine, log
from pierhead.daemon.engine.running import Running
from pierhead.daemon.jobs.describe import attributes, host_config_of
from pierhead.driver.execdriver.api import Exited
from pierhead.graph.containers import Container


def reason(container: Container, exit: Exited, running: Running | None) -> str:
    """Empty where its own exit code says all there is to say."""
    if exit.oom:
        limit = host_config_of(container).memory
        figures = [f"{what} {_size(value)}" for what, value in (("limit", limit), ("peak", exit.peak)) if value > 0]
        what = "out of memory" + (f" ({', '.join(figures)})" if figures else "")
        return f"{what}: {'killed by the kernel' if exit.signal == signal.SIGKILL else 'a process in it was killed'}"
    if not exit.signal:
        return ""
    sender = running.sent.get(exit.signal, "") if running is not None else ""
    return f"killed by {_name(exit.signal)}, {sender or 'not sent by the engine'}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _size(count: int) -> str:
    """Bytes as a limit is given: "16MiB"."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.4g}{unit}"
        value /= 1024
    return f"{value:.4g}GiB"


def watch_memory(engine: Engine, container: Container, running: Running, known: int | None = None) -> None:
    """Tell the event "oom" in the moment when a container with a limit of memory runs out of it, as Docker does.

    known: as for the exec driver's ``watch_oom``.
    """
    if host_config_of(container).memory <= 0:
        return
    try:
        watch = engine.exec.watch_oom(container.id, known)
    except OSError as error:
        log.debug("container %s: %s", container.id[:12], error)
        return
    loop = asyncio.get_running_loop()

    def told() -> None:
        if watch.happened():
            running.out_of_memory = True
            engine.events.publish("container", "oom", container.id, attributes(container))

    loop.add_reader(watch.fileno(), told)
    told()

    def ended() -> None:
        loop.remove_reader(watch.fileno())
        watch.close()

    if running.exited.done():  # before anybody watched: nobody tells of its end any more
        ended()
    else:
        running.at_end.append(ended)
