"""Derivatives from values alone: differences, their sweep over step sizes, and kinks.

Along a direction v, and weighted with u, a function is a curve of one number t:

    phi(t) = u . f(x + t v)          phi'(0) = u . J v

The central difference (phi(h) - phi(-h)) / 2h is phi'(0) if phi is smooth between -h and h. Whether
it is can be seen from phi alone, without asking any rule: **through a smooth curve goes a
polynomial**. Over a window [-W, W] we fit one of degree 4, and look at its slope s at 0 and at the
largest residual r it leaves.

- Smooth: r is rounding, so r/W is tiny, and s is the derivative. A claim that differs from s by
  more than r/W can account for is wrong.
- A kink inside the window: r is of the size of the change of slope times W, whatever W is. Of all
  kinks in a window, the one that hides best (8 % off the centre) moves s by 13.7 r/W, so a claim
  within `DOUBT` = 40 r/W of s is no evidence of a wrong rule.

Windows from 2h down to 2h/4096 are tried, and of those that decide anything the smallest counts,
because the derivative is a limit. So a kink beside the point is seen through, as long as rounding
lets one look closely enough: to the near side of it the curve is smooth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinygrad_rnn._gradcheck_inputs import Host, Problem, host
from tinygrad_rnn._gradcheck_report import Comparison, Index, Kink, Step

DOUBT = 40.0  # a claim this many r/W away from the slope may still be due to a kink
SWEEP = tuple(10.0**-k for k in range(2, 10))
POINTS = np.linspace(-1, 1, 13)  # of a window; 3 and 9 from the left are at -W/2 and W/2
POWERS = np.vander(POINTS, 5, increasing=True)
FIT = np.linalg.pinv(POWERS)  # values at the points -> coefficients of the polynomial
WINDOWS = tuple(2.0 * 4.0**-k for k in range(7))  # in units of the step h


@dataclass(frozen=True)
class Probe:
    """One direction v, and the numbers along it: one for each row, that is, for each u.

    Attributes:
        v: one array per leaf.
        input, index: what v moves, for the report.
        outputs: what each row is, for the report.
        analytic: from the backward pass, ``(J^T u) . v``, one per row.
        size: how large the terms are whose sum each number is; rounding is relative to it.
        u, gradient: of a random direction, the one row's u and ``J^T u``, flat. Otherwise None: u
            runs through the unit vectors.
    """

    v: list[Host]
    input: str
    index: Index | None
    outputs: Sequence[str]
    analytic: Host
    size: float
    u: Host | None = None
    gradient: Host | None = None

    def rows(self, values: Host) -> Host:
        """The number u . f of each row, from the flat results of f."""
        return values if self.u is None else np.array([np.vdot(self.u, values)])


@dataclass
class Pair:
    """Two numbers that should be one: a row of a probe, and what it was compared with."""

    probe: Probe
    row: int
    other: float
    error: float
    tolerance: float

    @property
    def ratio(self) -> float:
        """The error in units of its tolerance; NaN is worse than anything."""
        return self.error / self.tolerance if math.isfinite(self.error) else math.inf

    @property
    def analytic(self) -> float:
        return float(self.probe.analytic[self.row])

    def comparison(self, compared: int) -> Comparison:
        """This pair for the report, as the worst of so many."""
        p = self.probe
        return Comparison(
            compared, self.error, self.tolerance, p.input, p.index, p.outputs[self.row],
            self.analytic, self.other,
        )  # fmt: skip


def pair_of(probe: Probe, row: int, other: Host, tolerance: Host) -> Pair:
    with np.errstate(all="ignore"):
        error = float(np.abs(probe.analytic[row] - other[row]))
    return Pair(probe, row, float(other[row]), error, float(tolerance[row]))


def step(problem: Problem, v: list[Host], eps: float) -> float:
    """The h of a direction: relative to the largest number that moves, less where many move.

    Where n numbers move at once their effects add up; n^(1/8) was measured on recurrent layers with
    half a million weights (h too large) and on sums of a million squares (h too small).
    """
    moving = [np.abs(host(x)[d != 0]) for x, d in zip(problem.leaves, v, strict=True)]
    largest = max((float(m.max(initial=0)) for m in moving), default=0.0)
    count = sum(m.size for m in moving)
    h: float = eps * max(1.0, largest if math.isfinite(largest) else 1.0) / max(1, count) ** 0.125
    return h


def differences(problem: Problem, v: list[Host], h: float) -> Host:
    """J v, flat, by central differences."""
    with np.errstate(all="ignore"):
        difference: Host = (problem.at(v, h) - problem.at(v, -h)) / (2 * h)
    return difference


def sweep(problem: Problem, probe: Probe, row: int) -> tuple[Step, ...]:
    """The number of one row by differences of many step sizes."""
    rows = []
    for eps in SWEEP:
        h = step(problem, probe.v, eps)
        numeric = float(probe.rows(differences(problem, probe.v, h))[row])
        rows.append(Step(h, numeric, abs(float(probe.analytic[row]) - numeric)))
    return tuple(rows)


# ---- kinks ----


@dataclass(frozen=True)
class Windows:
    """phi in windows around 0, for all rows of a probe: slopes and residuals, (windows, rows)."""

    h: float
    widths: Host
    slopes: Host
    residuals: Host
    samples: Host  # (windows, points, rows)


def look_around(problem: Problem, probe: Probe, h: float) -> Windows:
    """Fit a polynomial to phi in every window."""
    widths = h * np.array(WINDOWS)
    samples = np.array([[probe.rows(problem.at(probe.v, t * w)) for t in POINTS] for w in widths])
    with np.errstate(all="ignore"):
        offsets = samples - samples[:, 6:7]  # from phi(0): what is fitted is the change
        coefficients = np.einsum("cp,wpr->wcr", FIT, offsets)
        residuals = np.abs(offsets - np.einsum("pc,wcr->wpr", POWERS, coefficients)).max(axis=1)
        slopes = coefficients[:, 1] / widths[:, None]
    return Windows(h, widths, slopes, residuals, samples)


def is_wrong(seen: Windows, row: int, claim: float, tolerance: float, error: float) -> bool | None:
    """Whether a claim that is off by `error` is wrong (True), right (False), or nobody can tell."""
    verdict = None
    if math.isnan(claim) and not np.isfinite(seen.samples).all():
        return None  # 0 times the infinite slope at the edge, of this row or of another
    for w, slope, r in zip(seen.widths, seen.slopes[:, row], seen.residuals[:, row], strict=True):
        if not math.isfinite(slope):
            continue
        doubt = DOUBT * r / w
        if math.isnan(claim):
            off = math.inf  # NaN is no slope of anything
        elif math.isinf(claim):
            off = max(abs(slope), 1.0)  # right only where slopes grow without a bound
        else:
            off = abs(claim - slope)
        if off > tolerance + doubt:
            verdict = True
        elif off <= tolerance and doubt <= 0.1 * error:
            verdict = False
    return verdict


def suspicious(low: Host, middle: Host, high: Host, h: float) -> Host:
    """The rows whose slopes left and right of the point differ by more than a smooth curve's do."""
    with np.errstate(all="ignore"):
        left, right = (middle - low) / h, (high - middle) / h
        noise = 1e-13 * (np.abs(low) + np.abs(middle) + np.abs(high)) / h
        found = np.abs(right - left) > 1e-3 * np.maximum(np.abs(left), np.abs(right)) + noise
    return np.flatnonzero(found)


def is_kinked(seen: Windows, row: int) -> bool:
    """Positive evidence of a kink at the point: the residual shrinks only as fast as the window."""
    ratios = seen.residuals[:5, row] / seen.widths[:5]
    left, right = _slopes(seen, row)
    change = abs(right - left)
    return bool(np.isfinite(ratios).all() and change > 0 and ratios.min() > 0.005 * change)


def describe(seen: Windows, row: int, probe: Probe, *, near: bool) -> Kink:
    """What kind of place it is that a smooth curve does not go through."""
    left, right = _slopes(seen, row)
    inner = seen.samples[-1, :, row]
    beyond = ~np.isfinite(seen.samples)
    if beyond[:, :, row].any() or (math.isnan(probe.analytic[row]) and beyond.any()):
        kind = "edge"
    else:
        # A curve that still changes as much in the smallest window as a slope a hundred times as
        # steep as any seen outside would make it has a gap in it.
        steep = (inner.max() - inner.min()) / (2 * seen.widths[-1])
        kind = "jump" if steep > 100 * max(abs(left), abs(right), 1e-6) else "kink"
        # A kink has two slopes, and one interval between two points where both mix.
        slopes = np.diff(seen.samples[0, :, row]) / (seen.h / 3)
        from_either = np.minimum(np.abs(slopes - left), np.abs(slopes - right))
        if kind == "kink" and np.count_nonzero(from_either > 0.1 * abs(right - left)) > 1:
            kind = "bend"
    return Kink(
        kind, near, probe.input, probe.index, probe.outputs[row], left, right,
        float(probe.analytic[row]),
    )  # fmt: skip


def _slopes(seen: Windows, row: int) -> tuple[float, float]:
    """From -2h to -h and from h to 2h: the sides of a kink anywhere in between."""
    wide = seen.samples[0, :, row]
    with np.errstate(all="ignore"):
        return float((wide[3] - wide[0]) / seen.h), float((wide[12] - wide[9]) / seen.h)
