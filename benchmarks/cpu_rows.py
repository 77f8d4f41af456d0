"""What the CPU benchmark measures, row by row, and how a row is written down.

Ratios are speeds: PyTorch's and JAX's time over ours, above 1 this project is the faster (of
memory: theirs over ours, above 1 ours needs less). "x floor" is our time over the floor's: 1 would
be nothing but the matrix products (`benchmarks/peers_floor.py`).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.cpu_turns import Outcome
from benchmarks.cpu_worker import FLOOR, JAX, OURS, ROWS_FIRST, TORCH
from benchmarks.gpu_table import number, ratio
from benchmarks.peers import Size
from benchmarks.peers_parts import TEXT
from benchmarks.peers_small import CHAIN, NODES, SHAPES

CELLS = ("rnn", "gru", "lstm")
SIZES = [  # one layer; the last two also with two
    Size(25, 1, 64, 100),  # min-char-rnn's
    Size(50, 32, 96, 128),
    Size(100, 32, 96, 256),
    Size(100, 64, 96, 512),
]
LONG = Size(1000, 32, 96, 128)  # back-propagation through 1,000 steps, not truncated


@dataclass(frozen=True)
class Section:
    """Rows of one kind: a table."""

    title: str
    who: tuple[str, ...]
    show: Callable[[float], str]  # a time in seconds, or bytes, for a cell


@dataclass(frozen=True)
class Row:
    section: str
    label: str
    task: str
    args: dict[str, Any]
    weight: float = 1.0  # its share of the time is this over the sum of all
    quick: bool = False  # whether `--quick` has it


def unit(scale: float) -> Callable[[float], str]:
    return lambda value: number(value * scale)


ALL = (OURS, TORCH, JAX, FLOOR)
MILLION = f"{sum(math.prod(shape) for shape in SHAPES):,}"
SECTIONS = {
    "step": Section("A whole training step, ms", (OURS, ROWS_FIRST, TORCH, JAX, FLOOR), unit(1e3)),
    "layer": Section("The layer alone, ms", ALL, unit(1e3)),
    "sampling": Section(
        "Writing, characters a second, LSTM", ALL, lambda seconds: f"{TEXT / seconds:,.0f}"
    ),
    "ops": Section("A small op, forward and backward, us", ALL, unit(1e6 / CHAIN)),
    "graph": Section("A node of a graph, us", (OURS, TORCH), unit(1e6 / NODES)),
    "optimizer": Section(f"An update of {MILLION} parameters, ms", ALL, unit(1e3)),
    "long": Section("A whole training step through 1,000 time steps, ms", ALL, unit(1e3)),
    "memory": Section("Peak memory of a training step, MB", (OURS, TORCH, JAX), unit(1e-6)),
    "import": Section("Import, beyond NumPy's, ms", (OURS, TORCH, JAX), unit(1e3)),
}


def named(size: Size) -> str:
    layers = f", {size.layers} layers" if size.layers > 1 else ""
    return f"{size.cell.upper()} T={size.T} B={size.B} H={size.H}{layers}"


def sizes(cell: str) -> list[Size]:
    """One layer of all sizes, and two of the last two."""
    found = [asdict(size) | {"cell": cell} for size in SIZES]
    return [Size(**a) for a in found] + [Size(**a | {"layers": 2}) for a in found[-2:]]


def rows() -> list[Row]:
    """All rows, in order. Whole steps get more of the time: they are what a person waits for."""
    found: list[Row] = []
    add = found.append
    for cell in CELLS:
        for k, size in enumerate(sizes(cell)):
            few = k == 0 or (cell == "lstm" and k < 3)
            add(Row("step", named(size), "step", asdict(size), 3.0, quick=few))
    for cell in CELLS:
        for size in sizes(cell)[: len(SIZES)]:
            for backward in (False, True):
                label = named(size) + (", forward and backward" if backward else ", forward")
                few = cell == "lstm" and size.H == 128
                args = asdict(size) | {"backward": backward}
                add(Row("layer", label, "layer", args, quick=few))
    for H in (128, 512):
        add(Row("sampling", f"H={H}", "sampling", asdict(Size(1, 1, 96, H)), quick=H == 128))
    for op in ("add", "mul", "tanh", "matmul"):
        for n in (1, 32, 1024):
            label = f"{op}, {n:,} element{'s' if n > 1 else ''}"
            add(Row("ops", label, "ops", {"op": op, "elements": n}, 0.5, quick=n == 32))
    for free in (False, True):
        add(Row("graph", "freed" if free else "built", "graph", {"free": free}, quick=True))
    for clip, fused in itertools.product((False, True), repeat=2):
        label = ("clip and Adam" if clip else "Adam") + (", PyTorch's fused" if fused else "")
        add(Row("optimizer", label, "optimizer", {"clip": clip, "fused": fused}, quick=True))
    add(Row("long", named(LONG), "step", asdict(LONG), 2.0))
    for size in (*SIZES, LONG):  # 3: every turn starts all frameworks anew
        add(Row("memory", named(size), "memory", asdict(size), 3.0, quick=size.T == 50))
    add(Row("import", "import", "import", {}, quick=True))
    return found


# ---- how a row is written ------------------------------------------------------------------------


def headers(section: Section) -> list[str]:
    found = ["what", OURS, TORCH, JAX, FLOOR, f"{TORCH} / ours", f"{JAX} / ours", "x floor"]
    return [*found, f"rows first: {TORCH} / ours"] if ROWS_FIRST in section.who else found


def cells(row: Row, outcome: Outcome) -> list[str]:
    """The row of the table: medians, and medians of ratios (lowest - highest)."""
    section, turns = SECTIONS[row.section], outcome.turns

    def value(who: str) -> str:
        if who in outcome.wrong:
            return f"WRONG by {outcome.wrong[who]:.1e}"
        if who in outcome.failed:
            return "failed"
        return section.show(statistics.median(turns[who])) if who in turns else "-"

    def over(top: str, bottom: str) -> str:
        known = top in turns and bottom in turns
        return str(ratio(turns[top], turns[bottom])) if known else "-"

    found = [row.label, *map(value, ALL), over(TORCH, OURS), over(JAX, OURS), over(OURS, FLOOR)]
    return [*found, over(TORCH, ROWS_FIRST)] if ROWS_FIRST in section.who else found
