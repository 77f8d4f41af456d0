"""The arithmetic of the GPU benchmark that needs no GPU: work, floors, ratios and tables.

No program can be faster than its floor, the larger of two times:

    floor = max(FLOPs / (FLOP/s of a large matrix product), bytes / (bytes/s of a large copy))

Both rates are measured on the same device in the same run (`benchmarks/gpu_ceilings.py`). FLOPs are
those of the matrix products; bytes are each input read once and each output written once. A
recurrent layer has a second floor that is not counted here: its T steps wait for each other.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BLOCKS = {"lstm": 4, "gru": 3, "rnn": 1}  # (H, .) blocks in a weight
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Window:
    """T steps of B rows, I features in and H hidden units."""

    T: int
    B: int
    I: int
    H: int

    def __str__(self) -> str:
        return f"T={self.T} B={self.B} I={self.I} H={self.H}"


WINDOWS = {
    "A": Window(128, 64, 512, 512),
    "B": Window(256, 128, 1024, 1024),
    "C": Window(100, 32, 128, 128),
}
REHEARSAL = {name: Window(5, 3, 8, 8) for name in WINDOWS}  # to run the program, not to measure


@dataclass(frozen=True)
class Work:
    """What has to be done, whoever does it."""

    flops: float
    bytes: float


def layer_work(cell: str, w: Window, *, backward: bool) -> Work:
    """One recurrent layer over one window, forward only or forward and backward.

    Forward: two products with the weights (n H, I) and (n H, H) for each of T * B rows, 2 FLOPs per
    multiplication and addition. Backward: twice that, for the inputs' and the weights' gradients.
    """
    n = BLOCKS[cell]
    forward = 2.0 * n * w.T * w.B * w.H * (w.I + w.H)
    weights = n * w.H * (w.I + w.H + 2)  # with the two biases
    x, out = w.T * w.B * w.I, w.T * w.B * w.H
    if not backward:
        return Work(forward, FLOAT * float(x + weights + out))
    # Read: x, the weights, the gradient of out. Written: out, and a gradient of x and each weight.
    return Work(3 * forward, FLOAT * float(2 * x + 2 * weights + 2 * out))


def floor_ms(work: Work, tflops: float, gbps: float) -> float:
    """The larger of the two times, in milliseconds, for rates in TFLOP/s and GB/s."""
    return max(work.flops / (tflops * 1e12), work.bytes / (gbps * 1e9)) * 1e3


@dataclass(frozen=True)
class Ratio:
    """Our time over theirs, turn by turn: the median, the lowest and the highest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} - {self.high:.2f})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Below 1 ours is the faster. A slow moment of the machine hits both halves of a turn."""
    found = [o / t for o, t in zip(ours, theirs, strict=True)]
    return Ratio(statistics.median(found), min(found), max(found))


def number(value: float | None) -> str:
    """Three digits that matter: 0.0123, 1.23, 12.3, 1,230."""
    if value is None or math.isnan(value):
        return "-"
    size = abs(value)
    for limit, digits in ((100, 0), (10, 1), (1, 2), (0.1, 3)):
        if size >= limit:
            return f"{value:,.{digits}f}"
    return f"{value:.4f}" if size >= 1e-3 or size == 0 else f"{value:.1e}"


def widths_of(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[int]:
    """How wide the columns of a table have to be."""
    if any(len(row) != len(headers) for row in rows):
        raise ValueError(f"every row needs {len(headers)} cells, as the headers {headers} have")
    return [max(len(str(row[k])) for row in [headers, *rows]) for k in range(len(headers))]


def table(
    headers: Sequence[str], rows: Sequence[Sequence[Any]], widths: Sequence[int] | None = None
) -> list[str]:
    """A Markdown table whose columns also line up on a screen."""
    widths = widths or widths_of(headers, rows)
    lines = [
        "| " + " | ".join(str(c).ljust(n) for c, n in zip(row, widths, strict=True)) + " |"
        for row in [headers, *rows]
    ]
    lines.insert(1, "|" + "|".join("-" * (n + 2) for n in widths) + "|")
    return lines


def turns_for(once: float, seconds: float, *, wanted: int, least: int = 3) -> int:
    """How many turns fit: `wanted` of them, fewer where one takes so long, but some."""
    if once <= 0:
        return wanted
    return max(least, min(wanted, int(seconds / once)))
