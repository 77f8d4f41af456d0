"""What a run showed, for the screen and for a file."""

from __future__ import annotations

import datetime as dt
import os
import platform
import sys
from collections.abc import Sequence

import hypothesis
import numpy as np

from tests.mutation.workers import Result

LEAST_KILLED = 0.95
LEAST_MUTANTS = 60


def killed(results: Sequence[Result]) -> list[Result]:
    return [r for r in results if r.outcome.killed]


def survivors(results: Sequence[Result]) -> list[Result]:
    return [r for r in results if r.state == "survived"]


def problems(results: Sequence[Result], *, part: bool) -> list[str]:
    """Why this run is no success; `part`: only some mutants were asked for, so few are enough."""
    found = [f"{r.mutant.name} is invalid: {r.outcome.detail}" for r in invalid(results)]
    found += [
        f"{r.mutant.name} survived, and the table does not explain it"
        for r in survivors(results)
        if not r.mutant.explanation
    ]
    if not part and len(results) < LEAST_MUTANTS:
        found.append(f"{len(results)} mutants; needed {LEAST_MUTANTS}")
    if not part and len(killed(results)) < LEAST_KILLED * len(results):
        found.append(f"fewer than {LEAST_KILLED:.0%} were killed")
    return found


def invalid(results: Sequence[Result]) -> list[Result]:
    return [r for r in results if r.state == "INVALID"]


def summary(results: Sequence[Result], seconds: float, jobs: int) -> str:
    """A table by area, and every survivor with its explanation; Markdown that reads as it is."""
    rows = [("area", "mutants", "killed", "by hanging", "by the whole suite only")]
    areas = dict.fromkeys(r.mutant.area for r in results)
    for name in (*areas, "all"):
        some = [r for r in results if name in (r.mutant.area, "all")]
        dead = killed(some)
        hanging = [r for r in dead if r.state == "timeout"]
        rows.append((name, *(str(len(x)) for x in (some, dead, hanging)), _whole(dead)))
    share = len(killed(results)) / max(1, len(results))
    headline = (
        f"{len(killed(results))} of {len(results)} mutants killed ({share:.1%}) in "
        f"{seconds / 60:.1f} minutes by {jobs} at a time."
    )
    lines = [headline, "", *_table(rows)]
    if alive := survivors(results):
        lines += ["", "Survivors:", ""]
        lines += [
            f"- `{r.mutant.name}` ({r.mutant.file}; {r.mutant.mistake}): "
            f"{r.mutant.explanation or '**not explained**'}"
            for r in alive
        ]
    return "\n".join(lines)


def _whole(results: Sequence[Result]) -> str:
    return str(sum(r.whole for r in results))


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]


def markdown(results: Sequence[Result], seconds: float, jobs: int) -> str:
    """The whole report: the summary, and what killed each mutant."""
    rows = [("mutant", "file", "mistake", "result", "first test to fail", "s")]
    for r in results:
        test = f"`{r.outcome.detail}`" if r.state == "killed" else r.outcome.detail or "-"
        state = r.state + (" (whole suite)" if r.whole else "")
        cells = (r.mutant.name, r.mutant.file, r.mutant.mistake, state, test)
        rows.append((*(c.replace("|", r"\|") for c in cells), f"{r.outcome.seconds:.1f}"))
    versions = (
        f"CPython {platform.python_version()}, NumPy {np.__version__}, "
        f"Hypothesis {hypothesis.__version__}, {sys.platform}, {os.cpu_count()} cores, "
        f"{dt.date.today()}"
    )
    about = (
        "Deliberate mistakes in the package, one at a time, and what the tests said to each. "
        "Written by `make mutants`; the mutants are in `tests/mutation/`."
    )
    parts = [
        "# Mutants",
        about,
        versions + ".",
        summary(results, seconds, jobs),
        "## Every mutant",
        "\n".join(_table(rows)),
    ]
    return "\n\n".join(parts) + "\n"
