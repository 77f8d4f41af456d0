"""A curve of `benchmarks/growth.py`: its sizes, its exponents, and where it bends."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace

from benchmarks.cpu_worker import ONE_THREAD, OURS
from benchmarks.peers import Size

MIDDLE = Size(T=100, B=32, V=96, H=128)
SWEEPS = {
    "T": (25, 50, 100, 200, 400, 1000, 2000),
    "B": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "H": (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024),
}
QUICK = {"T": (25, 100, 400), "B": (1, 8, 32), "H": (32, 128, 256)}
COMPILED = {"T": (25, 100, 400, 2000), "B": (1, 8, 32, 128), "H": (32, 128, 512, 1024)}  # by JAX
NAMES = {"T": "time steps", "B": "rows", "H": "hidden units"}
OURS_ALONE = OURS + ONE_THREAD
BEND = 0.25  # a change of the exponent that is worth a line


@dataclass
class Curve:
    """What one sweep came to: value by who and by the number that was changed."""

    letter: str
    seconds: dict[str, dict[int, float]] = field(default_factory=dict)
    bytes: dict[str, dict[int, float]] = field(default_factory=dict)


def size_at(letter: str, x: int) -> Size:
    """The middle size with one number changed."""
    return replace(MIDDLE, **{letter: x})


def characters(letter: str, x: int) -> int:
    size = size_at(letter, x)
    return size.T * size.B


def exponents(values: dict[int, float]) -> dict[int, float]:
    """The slope on logarithmic axes between each point and the one before it."""
    xs = list(values)
    return {b: math.log(values[b] / values[a]) / math.log(b / a) for a, b in itertools.pairwise(xs)}


def bends(values: dict[int, float], least: float = BEND) -> dict[int, tuple[float, float]]:
    """Where the exponent changes by more than `least`: what it is before and after the point."""
    slopes = exponents(values)
    xs = list(slopes)
    return {
        a: (slopes[a], slopes[b])
        for a, b in itertools.pairwise(xs)
        if abs(slopes[b] - slopes[a]) > least
    }
