"""``docker top``: the host's ps, asked about the container's processes only."""

import asyncio
import shutil

from pierhead.errors import InvalidParameter, PierheadError
from pierhead.wire.containers import ContainerTopResponse


def rows(output: str, pids: frozenset[int]) -> ContainerTopResponse:
    """Titles and the lines of these pids. Raises PierheadError where there is no PID column."""
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise PierheadError("Couldn't find PID field in ps output")
    column = titles.index("PID")
    processes = []
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) > column and fields[column].isdigit() and int(fields[column]) in pids:
            processes.append(fields)
    return ContainerTopResponse(titles=titles, processes=processes)


async def table(pids: tuple[int, ...], ps_args: str) -> ContainerTopResponse:
    """Run ps on the host, with the client's arguments as words, never through a shell."""
    words = ps_args.split()
    if any("\0" in word for word in words):
        raise InvalidParameter("ps arguments hold a NUL byte")
    program = shutil.which("ps")
    if program is None:
        raise PierheadError("top needs the host's ps: apt-get install procps")
    process = await asyncio.create_subprocess_exec(
        program,
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )
    out, err = await process.communicate()
    if process.returncode:
        raise PierheadError(f"ps: {err.decode('utf-8', 'replace').strip()}")
    return rows(out.decode("utf-8", "replace"), frozenset(pids))
