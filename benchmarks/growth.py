"""How time and memory of a training step grow: ``make growth``, or ``python -m benchmarks.growth``.

A whole step of an LSTM (`benchmarks/peers.py`) at a middle size, of which one number is changed at
a time: the steps T, the rows B, or the hidden units H. On paper

    time      T B 4H (H + V) for the products + T B H for what is pointwise + T for the calls
    memory    T B H for what backward needs + H^2 for weights, gradients and Adam's moments

so on logarithmic axes each curve is made of straight pieces, with an exponent of 0 to 2, and bends
where another part takes over. The tables have the exponent between neighbours; where it changes by
more than `BEND` the page says so, and `benchmarks/growth_notes.py` measures the parts that can be
the reason. The peers take turns as in `benchmarks/cpu.py`.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cpu import Page, facts, installed
from benchmarks.cpu_fresh import in_turn, peak_bytes
from benchmarks.cpu_turns import Outcome, Peers, compare
from benchmarks.cpu_worker import FLOOR, JAX, OURS, PACKAGES, TORCH
from benchmarks.gpu_table import number, ratio
from benchmarks.growth_curves import (
    COMPILED,
    MIDDLE,
    NAMES,
    OURS_ALONE,
    QUICK,
    SWEEPS,
    Curve,
    characters,
    exponents,
    size_at,
)
from benchmarks.growth_notes import explained, probes
from benchmarks.growth_plot import draw
from tinygrad_rnn.viz import check_picture

RESULTS = Path(__file__).parent / "results" / "growth.md"
PICTURE = RESULTS.with_suffix(".png")
TIMED = (OURS, TORCH, JAX, FLOOR, OURS_ALONE)

INTRODUCTION = f"""\
# How a training step grows

Written by `make growth ARGS=--write`: time and peak memory of a whole training step of an LSTM at
T={MIDDLE.T} B={MIDDLE.B} H={MIDDLE.H}, V={MIDDLE.V}, of which one number is changed at a time.
What the columns are is said in [`cpu.md`](cpu.md); here a time is that of the best turn, because
what disturbs a machine would look like a bend. A character is one of the T B of a step.
**Exponent**: the slope between a row and the one before it on logarithmic axes; 0: no growth, 1: in
proportion. JAX compiles each size anew, and is measured at some.

![Time, time per character and memory against T, B and H]({PICTURE.name})
"""


# ---- measuring and writing down ------------------------------------------------------------------


def record(found: dict[str, dict[int, float]], x: int, outcome: Outcome) -> None:
    """The best turn of each: what disturbs a machine only adds, and would look like a bend."""
    for who, values in outcome.turns.items():
        found.setdefault(who, {})[x] = min(values)


def row(
    curve: Curve, x: int, outcome: Outcome, *, memory: bool, shown: Sequence[str]
) -> dict[str, str]:
    """A row of one of the two tables, by header."""
    found, turns = (curve.bytes, outcome.turns) if memory else (curve.seconds, outcome.turns)
    scale, one, unit = (1e-6, 1e-3, "KB") if memory else (1e3, 1e6, "us")
    ours = found.get(OURS, {})

    def over(top: str, bottom: str) -> str:
        return str(ratio(turns[top], turns[bottom])) if {top, bottom} <= set(turns) else "-"

    cells = {curve.letter: f"{x:,}"}
    cells |= {who: number(found.get(who, {}).get(x, math.nan) * scale) for who in shown}
    cells[f"{unit} a character"] = number(ours.get(x, math.nan) * one / characters(curve.letter, x))
    slope = exponents(ours).get(x)
    cells["exponent"] = "-" if slope is None else f"{slope:.2f}"
    cells |= {f"{who} / ours": over(who, OURS) for who in (TORCH, JAX)}
    return cells if memory else cells | {"x floor": over(OURS, FLOOR)}


def put(page: Page, title: str, cells: dict[str, str], outcome: Outcome) -> None:
    """Onto the page, with what went wrong."""
    page.add(title, list(cells), [list(cells.values())])
    where = f"{title}: {next(iter(cells.values()))}"
    for peer, why in outcome.failed.items():
        page.trouble(f"{where}: {peer}: {why}")
    for peer, off in outcome.wrong.items():
        page.trouble(f"{where}: {peer} is off by {off:.1e}")


def sweep(letter: str, xs: Sequence[int], page: Page, options: Any, deadline: float) -> Curve:
    """Time and then memory at every x; `deadline` bounds the turns."""
    curve, present = Curve(letter), {*installed(), OURS_ALONE}
    here = [who for who in TIMED if who in present]
    with Peers() as peers:
        for k, x in enumerate(xs):
            who = [name for name in here if name != JAX or x in COMPILED[letter]]
            left = max(0.0, deadline - time.monotonic()) / (len(xs) - k)
            args = asdict(size_at(letter, x))
            outcome = compare(peers, who, "step", args, turns=options.turns, seconds=left / 2)
            record(curve.seconds, x, outcome)
            cells = row(curve, x, outcome, memory=False, shown=TIMED)
            put(page, f"Time against {letter}, {NAMES[letter]}: ms", cells, outcome)
    for x in xs:
        who = [name for name in (OURS, TORCH, JAX) if name in here]
        who = [name for name in who if name != JAX or x in COMPILED[letter]]
        outcome = in_turn(who, partial(peak_bytes, size=asdict(size_at(letter, x))), 1)
        record(curve.bytes, x, outcome)
        cells = row(curve, x, outcome, memory=True, shown=(OURS, TORCH, JAX))
        put(page, f"Peak memory against {letter}, {NAMES[letter]}: MB", cells, outcome)
    return curve


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description=__doc__.split("\n")[0]
    )
    p.add_argument("--turns", type=int, default=7, help="turns each one takes, where time allows")
    p.add_argument(
        "--minutes", type=float, default=9, help="the turns' share; parts and memory come on top"
    )
    p.add_argument("--quick", action="store_true", help="few sizes and turns: under three minutes")
    p.add_argument("--write", action="store_true", help=f"write results/{RESULTS.name}, and draw")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(arguments)
    if options.write:
        check_picture(PICTURE)  # not after ten minutes
    if options.quick:
        options.turns, options.minutes = min(options.turns, 3), min(options.minutes, 1.5)
    command = " ".join(["python -m benchmarks.growth", *arguments])
    page = Page(command, RESULTS if options.write else None, facts=facts(installed()),
                introduction=INTRODUCTION)  # fmt: skip
    print(f"{page.command}\n{page.facts}")
    start, sweeps = time.monotonic(), QUICK if options.quick else SWEEPS
    for who in (TORCH, JAX):
        if who not in installed():
            page.note(f"{who}: {PACKAGES[who]} is not installed", "all rows")
    curves = {}
    for k, (letter, xs) in enumerate(sweeps.items()):
        until = start + options.minutes * 60 * 0.9 * (k + 1) / len(sweeps)
        curves[letter] = sweep(letter, xs, page, options, until)
    notes = explained(curves, probes(curves, page))
    print(f"\n{notes}")
    page.introduction = f"{INTRODUCTION}\n{notes}"
    page.save()
    if options.write:
        draw(curves, PICTURE)
    print(f"\n{(time.monotonic() - start) / 60:.1f} minutes")
    return 1 if page.troubles else 0


if __name__ == "__main__":
    sys.exit(main())
