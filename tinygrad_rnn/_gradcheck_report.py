"""What a gradient check found, as data and in words.

Three verdicts, because a number that disagrees with a difference quotient is not always a wrong
rule:

- ``agree``: every comparison was within its tolerance;
- ``DISAGREE``: at a point where the function is smooth the gradient is another number;
- ``KINK``: the function is not smooth there. A difference quotient that reaches over a kink is
  the slope of neither side, so it says nothing about the rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Index = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One row of the sweep over step sizes.

    For a large h the formula is off by O(h^2), for a small one rounding by O(1/h) is worse: a
    right gradient shows as a valley between the two, a wrong one as a plateau.
    """

    h: float
    numeric: float
    difference: float


@dataclass(frozen=True)
class Kink:
    """A place where the function is not smooth.

    Attributes:
        kind: "kink" (or tie: two slopes), "bend" (several, or a curve too sharp for the step),
            "jump" (a discontinuity), or "edge" (beyond it the function is not finite).
        near: whether it lies beside the point, within the step, rather than at it.
        input, index, output: where it was seen.
        left, right: the slopes on its two sides, as seen from one step away.
        analytic: what the backward pass says.
    """

    kind: str
    near: bool
    input: str
    index: Index | None
    output: str
    left: float
    right: float
    analytic: float

    def __str__(self) -> str:
        beside = ", beside the point" if self.near else ""
        return (
            f"{self.kind} near {self.input}{at(self.index)} (slopes {_slope(self.left)} and "
            f"{_slope(self.right)}; analytic {_slope(self.analytic)}) in {self.output}{beside}"
        )


@dataclass(frozen=True)
class Comparison:
    """The worst pair of numbers of one kind of comparison.

    Attributes:
        compared: how many pairs there were.
        error, tolerance: |analytic - other|, and what of it was tolerated.
        input, index, output: where the worst pair is; no index for a direction through all.
        analytic, other: from the backward pass, and from what it is compared with.
    """

    compared: int
    error: float
    tolerance: float
    input: str
    index: Index | None
    output: str
    analytic: float
    other: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # false for NaN, too

    @property
    def place(self) -> str:
        return ", ".join(part for part in (f"{self.input}{at(self.index)}", self.output) if part)


@dataclass(frozen=True)
class GradcheckReport:
    """What a check found; ``print(report)`` says it in a few lines.

    Attributes:
        passed: whether every comparison was within its tolerance.
        order: 1, or 2 for derivatives of the gradient.
        compared: how many pairs of numbers were compared with differences.
        error: |analytic - numeric| of the worst pair, the one nearest to its tolerance or beyond.
        tolerance: what was tolerated there, ``atol + rtol * max(|analytic|, |numeric|)``.
        place: which pair it was: an input and an index in it, and an output; or a direction.
        analytic, numeric: the two numbers there: from the backward pass, and from `against`.
        verdict: "agree", "DISAGREE" or "KINK".
        input, index, output: `place` in parts.
        method: "every entry of the Jacobian" or "random directions".
        against: what `numeric` comes from: "central differences", "the complex step", or "the
            float64 gradient" (then `analytic` is the one computed in float32).
        sweep: the same derivative by differences of many step sizes.
        kinks: the places found where the function is not smooth. A check can pass with kinks, where
            the gradient is the mean of both slopes.
        complex_step: the comparison with the complex step; None where that was not possible.
        no_complex_step: why it was not.
        single: the comparison of the float32 with the float64 gradient, for float32 inputs.
    """

    passed: bool
    order: int
    compared: int
    error: float
    tolerance: float
    place: str
    analytic: float
    numeric: float
    verdict: str = "agree"
    input: str = ""
    index: Index | None = None
    output: str = ""
    method: str = "every entry of the Jacobian"
    against: str = "central differences"
    sweep: tuple[Step, ...] = ()
    kinks: tuple[Kink, ...] = ()
    complex_step: Comparison | None = None
    no_complex_step: str = ""
    single: Comparison | None = None

    def __str__(self) -> str:
        return "\n".join([self._headline(), *self._body()])

    def _headline(self) -> str:
        start = f"gradcheck, order {self.order}: "
        if self.verdict == "agree":
            return f"{start}{self.compared} comparisons agree"
        if self.verdict == "KINK":
            return f"{start}KINK at {self.place}"
        return f"{start}DISAGREE at {self.place}"

    def _body(self) -> list[str]:
        other = {"central differences": "numeric"}.get(self.against, self.against)
        times = self.error / self.tolerance if self.tolerance else math.inf
        label = "" if self.passed else "values"
        difference = f"difference {self.error:.1e}, {times:.2g} times the {self.tolerance:.1e}"
        lines = [
            f"{'worst':13} {self.place}" if self.passed else "",
            f"{label:13} analytic {self.analytic:.12g}, {other} {self.numeric:.12g}",
            f"{'':13} {difference} tolerated",
            *self._about_kinks(),
            f"{'compared':13} {self.method} with central differences, {self.compared} numbers",
            f"{'complex step':13} {self._about(self.complex_step, self.no_complex_step)}",
            f"{'float32':13} {self._about(self.single, '')}" if self.single else "",
            *self._about_steps(),
        ]
        return [f"  {line}" for line in lines if line]

    def _about_kinks(self) -> list[str]:
        lines = [f"{'not smooth' if i == 0 else '':13} {k}" for i, k in enumerate(self.kinks[:4])]
        if len(self.kinks) > 4:
            lines.append(f"{'':13} and {len(self.kinks) - 4} more in report.kinks")
        if self.verdict == "KINK":
            lines += [
                f"{'':13} This is no evidence of a wrong rule: differences reach over such a",
                f"{'':13} place, and at a kink or a tie there is no derivative. Move the input",
                f"{'':13} away from it, or take a smaller eps if it lies beside the point.",
            ]
        return lines

    @staticmethod
    def _about(comparison: Comparison | None, reason: str) -> str:
        if comparison is None:
            return f"not possible: {reason}"
        return (
            f"{comparison.compared} numbers, difference at most {comparison.error:.1e} of "
            f"{comparison.tolerance:.1e} tolerated"
        )

    def _about_steps(self) -> list[str]:
        """The table of the sweep; the best row is where truncation and rounding balance."""
        if not self.sweep:
            return []
        finite = [s.difference for s in self.sweep if math.isfinite(s.difference)]
        best = next((s for s in self.sweep if finite and s.difference == min(finite)), None)
        lines = [f"{'step sizes':13} {'h':>7}  {'numeric':>20}  difference"]
        for s in self.sweep:
            best_mark = "truncation above, rounding below" if self.passed else "smallest"
            # Of a linear function the largest step is the best: there is nothing to cut off.
            mark = f"  <- {best_mark}" if s is best is not self.sweep[0] else ""
            lines.append(f"{'':13} {s.h:7.0e}  {s.numeric:20.12g}  {s.difference:10.1e}{mark}")
        return lines


def at(index: Index | None) -> str:
    """``[1, 2]``; nothing for a 0-d place, or where no index is known."""
    return f"[{', '.join(map(str, index))}]" if index else ""


def _slope(value: float) -> str:
    """A slope as a person would write it: 1, not 0.99999999998, and no -0."""
    return f"{0.0 if abs(value) < 1e-8 else value:.4g}"
