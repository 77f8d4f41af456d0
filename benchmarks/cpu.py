"""The CPU benchmark: ``make bench``, or ``python -m benchmarks.cpu``.

Sections, in order, each of which can be asked for with ``--only``:

    step        a whole training step                 graph        a graph, built and freed
    layer       the recurrent layer alone             optimizer    clip and Adam over 10^6 numbers
    sampling    writing, one character at a time      long         a step through 1,000 time steps
    ops         small ops, forward and backward       memory       the peak of a training step
                                                      import       importing the package

This project, PyTorch, JAX and the floor take turns, each in a process of its own
(`benchmarks/cpu_turns.py`); what a row is stands in `benchmarks/cpu_rows.py`. An opponent that is
not installed, or cannot do a row, is left out of it, and the page says so.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import itertools
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cpu_fresh import import_seconds, in_turn, peak_bytes
from benchmarks.cpu_rows import SECTIONS, Row, cells, headers, rows
from benchmarks.cpu_turns import Outcome, Peers, compare
from benchmarks.cpu_worker import JAX, PACKAGES, TORCH
from benchmarks.gpu_watch import INTRODUCTION as OF_THE_GPU
from benchmarks.gpu_watch import Report
from benchmarks.task_runs import machine

RESULTS = Path(__file__).parent / "results" / "cpu.md"
THREADS = (  # and, the last two, with which kernels
    *("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "XLA_FLAGS"),
    *("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"),
)
FRESH_TURNS = {"memory": 2, "import": 7}  # a turn of these is a start of every framework

INTRODUCTION = """\
# On a CPU, measured

Written by `make bench ARGS=--write`. Each framework runs in its own process and they take turns; a
turn's time is its median run. Ratios are taken turn by turn, then their median (lowest - highest).
**Above 1 this project is the faster**, or needs less memory. All start from the same weights and
see the same batches, and what they compute (losses, norms of outputs and gradients, texts at
temperature 0) must agree to 2e-5 before anything is timed. float32 throughout.

- **PyTorch** is eager, with its own layers and its default Adam where nothing else is said.
  **JAX** is one `jit` for all of a step, layer, text or update, with a `lax.scan` over time and its
  memory donated; compiling is not counted. Its small op is one compiled call that does the op
  and its gradients, and 100 such calls in a row; it has no graph that could be built and freed.
- **The floor** is the matrix products of the task alone, of each shape in the fastest of the eight
  ways in which NumPy can lay out its arrays, in the same run; which products these are is said in
  [`peers_floor.py`](../peers_floor.py). "x floor" is our time over the floor's. Of a small op it is
  the bare NumPy calls of the op and its gradients, of Adam a copy of as many bytes as it moves,
  by one thread, as NumPy copies.
- **The whole step** is embedding, layers, linear, cross entropy, backward, clip, Adam. Our model
  hands the embedding to the layer as a table, `lstm(ids, table=embedding.weight)`, so that each row
  of the table is projected once. The last column is ours written as PyTorch's model is,
  `lstm(embedding(ids))`.
- **The layer alone** gets an x (T, B, H) that needs a gradient. **Writing** is what
  `tinygrad-rnn sample` runs, a loop with softmax and multinomial in PyTorch, and in JAX one
  compiled scan over the whole text.
- **Peak memory** is what three steps of a new model add to a process that has done a tiny step:
  activations, gradients, Adam's moments, and what the allocator keeps.
- **Kernels**: the line below names those that NumPy's OpenBLAS took for its products. A set
  `OPENBLAS_CORETYPE` overrides its choice, and may halve the speed; `python -m threadpoolctl -i
  numpy` shows it as `architecture`.
"""


@dataclass
class Page(Report):
    """The page of the CPU: the same report with an introduction of its own, and one line more."""

    facts: str = ""
    introduction: str = INTRODUCTION

    def markdown(self) -> str:
        command, _, rest = super().markdown().removeprefix(OF_THE_GPU).lstrip().partition("\n")
        return f"{self.introduction}\n{command}\n\n{self.facts}\n{rest}"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__.split("\n")[0])
    p.add_argument("--only", type=_sections, default=list(SECTIONS), help=", ".join(SECTIONS))
    p.add_argument("--match", default="", help="only rows whose label has this text in it")
    p.add_argument("--turns", type=int, default=11, help="turns each one takes, where time allows")
    p.add_argument("--minutes", type=float, default=13, help="about how long all takes")
    p.add_argument("--quick", action="store_true", help="few rows and turns: under two minutes")
    p.add_argument("--write", action="store_true", help=f"write results/{RESULTS.name}")
    return p


def _sections(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if unknown := [word for word in words if word not in SECTIONS]:
        known = ", ".join(SECTIONS)
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {known}")
    return [name for name in SECTIONS if name in words]


def chosen(options: argparse.Namespace) -> list[Row]:
    """The rows that were asked for."""
    return [
        row
        for row in rows()
        if row.section in options.only
        and options.match.lower() in row.label.lower()
        and (row.quick or not options.quick)
    ]


def installed() -> list[str]:
    """The peers whose package is here."""
    return [who for who, name in PACKAGES.items() if importlib.util.find_spec(name) is not None]


def facts(found: Sequence[str]) -> str:
    """Machine, date, versions, and settings of threads, in one line."""
    others = [f"{who} {importlib.metadata.version(PACKAGES[who])}" for who in (TORCH, JAX)
              if who in found]  # fmt: skip
    settings = [f"{name}={os.environ[name]}" for name in THREADS if name in os.environ]
    return ", ".join([machine(), *others]) + "; set for all: " + (" ".join(settings) or "nothing")


def measure(row: Row, who: Sequence[str], peers: Peers, *, turns: int, seconds: float) -> Outcome:
    """One row."""
    if row.section in FRESH_TURNS:
        one: Any = import_seconds if row.section == "import" else partial(peak_bytes, size=row.args)
        turns = min(turns, FRESH_TURNS[row.section])
        return in_turn(who, one, turns, warm=row.section == "import")
    return compare(peers, who, row.task, row.args, turns=turns, seconds=seconds)


def share(row: Row, left: Sequence[Row], seconds: float) -> float:
    """The seconds of a row: by weight, of what is left for it and for those after it."""
    return max(0.0, seconds) * row.weight / sum(other.weight for other in left)


def run(todo: Sequence[Row], page: Report, *, turns: int, seconds: float) -> None:
    """Measure all rows and put them on the page. Each section has processes of its own."""
    deadline, present, done = time.monotonic() + seconds, installed(), 0
    for who in PACKAGES:
        if who not in present:
            page.note(f"{who}: {PACKAGES[who]} is not installed", "all rows")
    for name, group in itertools.groupby(todo, key=lambda row: row.section):
        section = SECTIONS[name]
        who = [peer for peer in section.who if peer in present]
        with Peers() as peers:
            for row in group:
                limit = share(row, todo[done:], deadline - time.monotonic())
                outcome = measure(row, who, peers, turns=turns, seconds=limit)
                label, *values = cells(row, outcome)
                width = max(len(other.label) for other in todo if other.section == name)
                page.add(section.title, headers(section), [[label.ljust(width), *values]])
                for peer, why in outcome.failed.items():
                    page.trouble(f"{section.title}: {row.label}: {peer}: {why}")
                for peer, off in outcome.wrong.items():
                    page.trouble(f"{section.title}: {row.label}: {peer} is off by {off:.1e}")
                done += 1


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(arguments)
    if options.quick:
        options.turns, options.minutes = min(options.turns, 3), min(options.minutes, 0.8)
    command = " ".join(["python -m benchmarks.cpu", *arguments])
    page = Page(command, RESULTS if options.write else None, facts=facts(installed()))
    print(f"{page.command}\n{page.facts}")
    start = time.monotonic()
    run(chosen(options), page, turns=options.turns, seconds=options.minutes * 60)
    print(f"\n{(time.monotonic() - start) / 60:.1f} minutes")
    return 1 if page.troubles else 0


if __name__ == "__main__":
    sys.exit(main())
