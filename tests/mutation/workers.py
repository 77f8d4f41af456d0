"""Judging mutants, several at a time: first whether the tests pass without a mistake, then with."""

from __future__ import annotations

import queue
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.mutation.mutant import Mutant
from tests.mutation.sandbox import Outcome, Sandbox

WHOLE: tuple[str, ...] = ()  # the selection that leaves nothing out


@dataclass(frozen=True)
class Result:
    """What became of a mutant; `whole`: it was the whole suite that had the last word."""

    mutant: Mutant
    outcome: Outcome
    whole: bool = False

    @property
    def state(self) -> str:
        """ "killed", "timeout" (killed, too), "survived" or "INVALID"."""
        words = {"failed": "killed", "passed": "survived", "invalid": "INVALID"}
        return words.get(self.outcome.verdict, self.outcome.verdict)


class NotGreenError(RuntimeError):
    """Tests fail without any mistake: then a failure with one says nothing."""


class Workers:
    """So many sandboxes, lent to one task after the other; a context manager that cleans up.

    Args:
        root: the project.
        jobs: how many sandboxes there are.
        patience: a run may take this many times as long as it does without a mistake ...
        least: ... and this many seconds in any case. Beyond, it hangs, and counts as killed.
    """

    def __init__(self, root: Path, jobs: int, *, patience: float = 10, least: float = 30) -> None:
        self.patience, self.least = patience, least
        self._times: dict[tuple[str, ...], float] = {}
        self._home = tempfile.TemporaryDirectory(prefix="mutants-")
        self._sandboxes: list[Sandbox] = []
        self._free: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
        try:
            for k in range(jobs):
                home = Path(self._home.name, str(k))
                home.mkdir()
                # Copies of the first copy: the same code for all, whoever edits in the meantime.
                self._sandboxes.append(Sandbox(self._sandboxes[0].root if k else root, home))
                self._free.put(self._sandboxes[-1])
        except BaseException:
            self._home.cleanup()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for sandbox in self._sandboxes:
            sandbox.close()
        self._home.cleanup()

    def check_green(self, selections: Iterable[tuple[str, ...]]) -> None:
        """Run each selection without a mistake, and note how long it takes.

        Raises:
            NotGreenError: some of them fail; lists which.
        """
        todo = [s for s in dict.fromkeys(selections) if s not in self._times]
        problems = []
        for selection, outcome in self._each(lambda box, s: box.pytest(s, 900), todo):
            self._times[selection] = outcome.seconds
            if outcome.verdict != "passed":
                name = " ".join(selection) or "the whole suite"
                problems.append(f"{name}: {outcome.verdict}, {outcome.detail}")
        if problems:
            raise NotGreenError("without any mistake:\n  " + "\n  ".join(problems))

    def judge(self, mutants: Sequence[Mutant]) -> Iterator[Result]:
        """Each mutant's result, in the order they are ready.

        A mutant that its own selection lets pass meets the whole suite, at the end; until then
        it has not survived.
        """
        self.check_green(m.selection for m in mutants)
        left = []
        for mutant, outcome in self._each(lambda box, m: self._try(box, m, m.selection), mutants):
            if outcome.verdict == "passed":
                left.append(mutant)
            else:
                yield Result(mutant, outcome)
        if left:
            self.check_green([WHOLE])
        for mutant, outcome in self._each(lambda box, m: self._try(box, m, WHOLE), left):
            yield Result(mutant, outcome, whole=True)

    def _try(self, sandbox: Sandbox, mutant: Mutant, selection: tuple[str, ...]) -> Outcome:
        limit = max(self.least, self.patience * self._times[selection])
        with sandbox.mutated(mutant):
            return sandbox.pytest(selection, limit)

    def _each(
        self, task: Callable[[Sandbox, Any], Outcome], items: Sequence[Any]
    ) -> Iterator[tuple[Any, Outcome]]:
        """(item, outcome) pairs as they are ready, from as many threads as there are sandboxes."""

        def lent(item: Any) -> Outcome:
            sandbox = self._free.get()
            try:
                return task(sandbox, item)
            finally:
                self._free.put(sandbox)

        with ThreadPoolExecutor(len(self._sandboxes)) as pool:
            futures = {pool.submit(lent, item): item for item in items}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BaseException:  # an interrupt, too: nothing may keep the pool waiting
                pool.shutdown(wait=False, cancel_futures=True)
                for sandbox in self._sandboxes:
                    sandbox.close()
                raise
