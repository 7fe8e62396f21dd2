"""An operation broken off at each of its steps: pierd killed there, or the step failing; what must hold afterwards."""

import http.client
import itertools
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.api import Answer, Api
from tests.harness.breakable import Breakable
from tests.harness.reality import kept, settled
from tests.harness.steps import Fault, Moment, Step, Verdict, go_on, kill, nth, when

Request = Callable[[Api], Answer]


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that a user asks for.

    prepare: what it needs, idempotent.  ask: the request.  done: whether all of it is there (or gone, for a removal);
    AssertionError where a part is.  undo: takes everything away again, done or not.
    """

    name: str
    ask: Request
    done: Callable[[Api], bool]
    undo: Callable[[Api], object]
    prepare: Callable[[Api], object] = lambda api: None


def failure(answer: Answer) -> str:
    """What went wrong by the answer; empty where nothing did. A stream says so in its last record."""
    if answer.status >= 400:
        return answer.message
    if answer.headers.get("Content-Type") == "application/json" and b'"errorDetail"' in answer.body:
        return str(answer.records[-1]["error"])
    return ""


def fsck(api: Api, *, repair: bool = False) -> list[str]:
    """What it finds."""
    records = api.ok("POST", "/system/fsck", repair=int(repair)).records
    return [record["Difference"]["Found"] for record in records if "Difference" in record]


def strays(api: Api) -> list[str]:
    """What `system df` finds in the data root that belongs to nothing."""
    disk = api.get("/system/df")["Pierhead"]
    return [str(one) for one in disk["Strays"]] or [f"{disk['Unaccounted']} bytes"] * bool(disk["Unaccounted"])


def held(pierd: Breakable) -> dict[str, int]:
    """Every file and folder below the roots with its bytes on disk; of the database, which keeps what it has, none."""
    found = {}
    for root in (pierd.data_root, pierd.exec_root):
        for folder, folders, files in os.walk(root):
            for name in (*folders, *files):
                path = os.path.join(folder, name)
                if not name.startswith("graph.db") and not path.startswith(f"{pierd.exec_root}/zygote"):
                    found[os.path.relpath(path, pierd.root)] = os.lstat(path).st_blocks * 512
    return found


def rows(data_root: Path) -> dict[str, int]:
    """How many there are in each table."""
    with closing(sqlite3.connect(f"file:{data_root}/graph.db?mode=ro", uri=True)) as db:
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        # Settings of the daemon's own, who had an address last and when an image was used are remembered on purpose.
        return {
            name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            for name in names
            if name not in ("meta", "address_history", "image_use")
        }


def state(pierd: Breakable) -> set[tuple[str, int]]:
    """Both: what must be the same when an operation has been taken back."""
    return {*held(pierd).items(), *((f"rows of {name}", count) for name, count in rows(pierd.data_root).items())}


@dataclass(slots=True)
class Breaking:
    """An operation on a daemon, broken again and again."""

    pierd: Breakable
    operation: Operation
    mended: list[str] = field(default_factory=list)
    """What fsck had to mend, after the failure of which steps."""
    _hit: Step | None = None

    def _ask(self, verdict: Verdict, chosen: Callable[[Step], bool]) -> Answer | None:
        """None: no answer came."""
        self.operation.prepare(self.pierd.api)
        assert not self.operation.done(self.pierd.api)
        self.pierd.watch.begin(verdict, chosen)
        try:
            return self.operation.ask(self.pierd.api)
        except (OSError, http.client.HTTPException):
            return None

    def _again(self) -> None:
        """It is still to be done: nothing that is left of it stands in the way."""
        answer = self.operation.ask(self.pierd.api)
        assert not failure(answer), f"the second time: {failure(answer)}"
        assert self.operation.done(self.pierd.api), "the second time it is not done"

    def _restore(self, before: set[tuple[str, int]]) -> None:
        self.operation.undo(self.pierd.api)
        after = state(self.pierd)
        assert after == before, f"now: {sorted(after - before)}; before: {sorted(before - after)}"

    def _moments(self, chosen: Callable[[Step], bool]) -> Iterator[Moment]:
        """Each chosen step by its number; then what threads have done in another order meanwhile, by what it is."""
        answer = self._ask(go_on, lambda step: True)
        assert answer is not None and not failure(answer)
        steps = self.pierd.watch.end()
        self.operation.undo(self.pierd.api)
        # SQLite folds its log into the database now and then, not each time.
        missed = {step for step in steps if chosen(step) and not step.place.endswith("graph.db")}
        for number, step in enumerate(steps, 1):
            if chosen(step):
                yield nth(number)
                missed.discard(self._hit or step)
        for _ in range(10):
            for step in [*missed]:
                yield when(step)
                if self._hit is not None:
                    missed.discard(self._hit)
        assert not missed, f"never came to these: {missed}"

    def killed_everywhere(self) -> None:
        """-9 before each step and after the last."""
        before = state(self.pierd)
        for moment in itertools.chain(self._moments(lambda step: step.journaled), [nth(0)]):
            answer = self._ask(kill(moment), lambda step: True)
            self.pierd.kill()
            self._hit = self.pierd.watch.hit
            try:
                self.pierd.start()
                assert not (left := kept(self.pierd) or fsck(self.pierd.api) or strays(self.pierd.api)), left
                done = self.operation.done(self.pierd.api)
                assert answer is None or done, "it was answered as done and is not"
                if not done:
                    self._again()
                self._restore(before)
            except BaseException as error:
                self._give_up(error, "killed before")
                raise
        assert settled(self.pierd) == []

    def failed_everywhere(self, fault: Fault) -> None:
        """An error at each step that may have it, without a restart."""
        before = state(self.pierd)
        for moment in self._moments(fault.concerns):
            answer = self._ask(fault.verdict(moment), lambda step: True)
            self.pierd.watch.end()
            self._hit = self.pierd.watch.hit
            try:
                assert answer is not None, "no answer"
                why = failure(answer)
                assert not why or fault.words in why.lower(), f"what the user is told: {why}"
                done = self.operation.done(self.pierd.api)
                assert done or why, "it was answered as done and is not"
                if not done:
                    self._again()
                if found := fsck(self.pierd.api, repair=True):
                    # What the error has kept from being given back is known, and given back when that is asked for.
                    self.mended.append(f"{self._hit}: {found[0]}")
                    assert not (left := fsck(self.pierd.api)), left
                assert not (left := kept(self.pierd)), left
                self._restore(before)
            except BaseException as error:
                self._give_up(error, f"{fault.name} at")
                raise
        print(*self.mended, sep="\n")
        assert settled(self.pierd) == []

    def _give_up(self, error: BaseException, where: str) -> None:
        """Say where, and take away what is left for the tests that follow."""
        error.add_note(f"{self.operation.name}, {where} {self._hit or 'the end'}")
        with suppress(Exception):
            self.operation.undo(self.pierd.api)
            fsck(self.pierd.api, repair=True)
