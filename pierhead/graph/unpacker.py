"""The program that unpacks a large layer: a process of its own, so that layers do not wait for each other's Python.

Run as ``python -I unpacker.py PARENT`` with a stream socket to the daemon as descriptor CONNECTION.  Each task comes
with three descriptors: what the layer's blob is read from, the folder that it is unpacked below, the file for what its
archive was (``split``).  That is all it is given.  It goes with the thread that has started it, whatever ends that.
"""

import os
import signal
import socket
import sys
from importlib import import_module
from io import FileIO
from typing import BinaryIO, cast

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from pierhead.errors import InvalidParameter
from pierhead.graph.split import SplitWriter
from pierhead.graph.stream import Limits, PlainStream
from pierhead.graph.unpacker_messages import CONNECTION, Failed, Task, Unpacked, receive, send
from pierhead.linux import calls, const

CHUNK = 1 << 20


class _Pipe(FileIO):
    """Reads give as much as was asked for, or all that is left: fewer and larger pieces."""

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = CHUNK if size is None or size < 0 else size
        pieces, got = [], 0
        while got < wanted and (piece := super().read(wanted - got)):
            pieces.append(piece)
            got += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def unpack(task: Task, source: int, root: int, split: int) -> Unpacked:
    """One layer. The descriptors are closed, unless it raises what reading, unpacking and writing raise."""
    module, _, name = task.rules.partition(":")
    rules = getattr(import_module(module), name)
    try:
        writer = SplitWriter(split)
        try:
            with _Pipe(source) as pipe:
                stream = PlainStream(cast("BinaryIO", pipe), Limits(task.size, task.ratio, task.allowance))
                applied = rules(root, record=writer).run(stream)
                diff_id, archive = stream.finish()
            writer.close()
        finally:
            writer.abandon()
    finally:
        os.close(root)
    return Unpacked(diff_id, archive, applied.size, applied.entries, applied.inherits, applied.opaque)


def serve(connection: socket.socket) -> None:
    """Task after task, until the daemon has no more or one has failed.

    What that one has left open goes with the process: the daemon would feed a pipe for ever that nobody reads.
    """
    while (received := receive(connection, Task, 3)) is not None:
        task, descriptors = received
        answer: Unpacked | Failed
        try:
            answer = unpack(task, *descriptors)
        except InvalidParameter as error:
            answer = Failed(str(error))
        except OSError as error:
            answer = Failed(error.strerror or str(error), error.errno or 0, str(error.filename or ""))
        except Exception as error:
            answer = Failed(f"{type(error).__name__}: {error}", -1)
        send(connection, answer)
        if isinstance(answer, Failed):
            return


def main() -> None:
    calls.prctl(const.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        return
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    calls.name_process("pierhead-unpack")
    serve(socket.socket(fileno=CONNECTION))


if __name__ == "__main__":
    main()
