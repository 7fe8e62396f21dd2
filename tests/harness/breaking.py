"""An operation broken off at each of its steps: pierd killed there, or the step failing; what must hold afterwards."""

import http.client
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.harness.api import Answer, Api
from tests.harness.breakable import Breakable
from tests.harness.reality import kept
from tests.harness.steps import Step, Verdict, go_on, kill_at

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
        # Settings of the daemon's own, and who had an address last, are remembered on purpose.
        return {
            name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            for name in names
            if name not in ("meta", "address_history")
        }


def state(pierd: Breakable) -> set[tuple[str, int]]:
    """Both: what must be the same when an operation has been taken back."""
    return {*held(pierd).items(), *((f"rows of {name}", count) for name, count in rows(pierd.data_root).items())}


@dataclass(slots=True)
class Breaking:
    """An operation on a daemon, broken again and again."""

    pierd: Breakable
    operation: Operation

    def _begin(self, verdict: Verdict, chosen: Callable[[Step], bool]) -> Answer | None:
        """Ask; None where no answer came."""
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

    def killed_everywhere(self) -> list[Step]:
        """-9 at each step and after the last; the steps."""
        before = state(self.pierd)
        number = 0
        over = False
        steps: list[Step] = []
        while not over:
            number += 1
            answer = self._begin(kill_at(number), lambda step: step.journaled)
            self.pierd.kill()
            steps = self.pierd.watch.end()
            over = not self.pierd.watch.hit
            where = f"{self.operation.name}, killed at step {number}: {self.pierd.watch.hit or 'the end'}"
            try:
                self.pierd.start()
                assert not (left := kept(self.pierd)), left
                done = self.operation.done(self.pierd.api)
                assert answer is None or done, "it was answered as done and is not"
                if not done:
                    self._again()
                self._restore(before)
            except BaseException as error:
                error.add_note(where)
                with suppress(Exception):
                    self.operation.undo(self.pierd.api)  # for the tests that follow
                raise
        return steps

    def failed_everywhere(self, verdict: Callable[[int], Verdict], words: Sequence[str]) -> list[Step]:
        """An error at each step; the steps. words: one of these must be in what the user is told."""
        before = state(self.pierd)
        number = 0
        over = False
        steps: list[Step] = []
        while not over:
            number += 1
            answer = self._begin(verdict(number), lambda step: True)
            steps = self.pierd.watch.end()
            over = not self.pierd.watch.hit
            where = f"{self.operation.name}, failed at step {number}: {self.pierd.watch.hit or 'the end'}"
            try:
                assert answer is not None, "no answer"
                why = failure(answer)
                done = self.operation.done(self.pierd.api)
                assert done or why, "it was answered as done and is not"
                assert not why or any(word in why for word in words), f"what the user is told: {why}"
                assert not over or done
                if not done:
                    self._again()
                assert not (left := kept(self.pierd)), left
                self._restore(before)
            except BaseException as error:
                error.add_note(where)
                with suppress(Exception):
                    self.operation.undo(self.pierd.api)  # for the tests that follow
                raise
        return steps


def count(pierd: Breakable, operation: Operation) -> list[Step]:
    """The steps of the operation, undisturbed."""
    operation.prepare(pierd.api)
    pierd.watch.begin(go_on)
    answer = operation.ask(pierd.api)
    steps = pierd.watch.end()
    assert not failure(answer)
    operation.undo(pierd.api)
    return steps
