"""What a mutant is: one text of one file, replaced by another."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One mistake, and the tests that ought to notice it.

    Attributes:
        area: the heading it is counted under.
        name: short and unique; ``--only`` looks for a part of it.
        file: below the package, as in "ops/reduce.py".
        old: the right text, exactly as it stands there. Short, so that edits nearby leave it be.
        new: the wrong text.
        tests: arguments of pytest that select the tests expected to fail. They are tried first
            because they are quick; whoever survives them meets the whole suite.
        mistake: what a person got wrong.
        explanation: for a mutant that no test can kill, or that we choose not to: why.
        of, nth: `old` occurs `of` times, and the one numbered `nth` is replaced.
    """

    area: str
    name: str
    file: str
    old: str
    new: str
    tests: str
    mistake: str
    explanation: str = ""
    of: int = 1
    nth: int = 0

    @property
    def selection(self) -> tuple[str, ...]:
        """`tests`, word by word."""
        return tuple(shlex.split(self.tests))

    def applied(self, source: str) -> str:
        """The source with the mistake in it, or a ValueError where `old` is not where it was."""
        pieces = source.split(self.old)
        if len(pieces) - 1 != self.of:
            raise ValueError(
                f"{self.name}: in {self.file} the text {self.old!r} occurs {len(pieces) - 1} "
                f"times, needed {self.of}; the code has changed, so bring tests/mutation/ up to it"
            )
        before, after = self.old.join(pieces[: self.nth + 1]), self.old.join(pieces[self.nth + 1 :])
        return before + self.new + after
