"""``python -m tests.mutation.run``: try every mutant, and say what the tests noticed.

Exit codes: 0 when at least 95 % are killed, every survivor is explained and nothing is invalid;
1 otherwise; 130 when interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutation import report
from tests.mutation.mutants import MUTANTS
from tests.mutation.workers import NotGreenError, Result, Workers

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    chosen = [m for m in MUTANTS if all(word in f"{m.area} {m.name}" for word in options.only)]
    if options.list:
        for m in chosen:
            print(f"{m.area:12} {m.name:32} {m.mistake}")
        return 0
    if not chosen:
        print(f"no mutant is called {' '.join(options.only)!r}; --list shows their names")
        return 1
    # The polite way to stop a program takes the same way out as Ctrl-C, and cleans up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    start = time.perf_counter()
    try:
        results = _run(chosen, options.jobs)
    except NotGreenError as error:
        print(f"Tests fail {error}")
        return 1
    except KeyboardInterrupt:
        print("Interrupted; nothing is left behind.")
        return 130
    seconds = time.perf_counter() - start
    found = report.problems(results, part=bool(options.only))
    print("", report.summary(results, seconds, options.jobs), "", sep="\n")
    if not options.only or options.report != _parser().get_default("report"):
        options.report.parent.mkdir(parents=True, exist_ok=True)
        text = report.markdown(results, seconds, options.jobs)
        options.report.write_text(text, encoding="utf-8")
        print(f"Written to {options.report}")
    for problem in found:
        print(f"Problem: {problem}")
    return 1 if found else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.run", description=__doc__)
    parser.add_argument(
        "--only", metavar="TEXT", nargs="+", default=[],
        help="only mutants with these words in their area and name",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time (%(default)s)"
    )
    parser.add_argument(
        "--report", type=Path, default=Path("build/mutants.md"), metavar="FILE",
        help="where the full report goes (%(default)s; with --only, nowhere)",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="show the mutants and stop")
    return parser


def _run(chosen: Sequence, jobs: int) -> list[Result]:
    """All results, in the order of the table; a line on the screen as each is ready."""
    place = {m.name: i for i, m in enumerate(chosen)}
    results: list[Result] = []
    with Workers(ROOT, jobs) as workers:
        print(f"{len(chosen)} mutants. First the tests without any mistake ...", flush=True)
        for result in workers.judge(chosen):
            results.append(result)
            m, seen = result.mutant, result.outcome
            note = " [whole suite]" if result.whole else ""
            print(
                f"{len(results):4} {result.state:8} {m.area:10} {m.name:30} {seen.seconds:5.1f} s  "
                f"{seen.detail}{note}",
                flush=True,
            )
    return sorted(results, key=lambda r: place[r.mutant.name])


if __name__ == "__main__":
    sys.exit(main())
