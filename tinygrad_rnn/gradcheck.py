"""Is a gradient right? Compare it with what it claims to be: a limit of difference quotients.

For ``y = f(x)`` with Jacobian J, a backward pass with cotangent u gives ``J^T u``. Moving x by
+-h v and subtracting gives, without any calculus,

    J v  =  (f(x + h v) - f(x - h v)) / 2h  +  O(h^2)

so for every u and v the numbers ``(J^T u) . v`` and ``u . (J v)`` must agree. Two ways to choose:

- **elements**: u and v run through the unit vectors, and every entry of J is compared;
- **directions**: for large inputs, a few random u and v. A wrong rule would have to be orthogonal
  to all of them to go unseen, which has probability zero. Every entry of v is +1 or -1: in a
  direction of length 1 the derivative of, say, a mean over a million numbers would be so small that
  a rule wrong by 1 % passed as rounding. Where a direction disagrees, v is halved again and again
  to find the element to blame.

The step h = 6e-6 is about the cube root of the rounding error of float64, where the error of the
formula (growing with h^2) and of rounding (growing with 1/h) are about equal, near 1e-11. Right
rules stay below a tenth of the tolerance.

Differences see a rule that is wrong by a millionth. Where every op of f is an analytic function,
the *complex step* (`_gradcheck_complex.py`) sees one that is wrong by a billionth. Where f has a
kink, neither is a derivative: `_gradcheck_numeric.py` tells that from a wrong rule.

Order 2 checks, in the same way, the function that maps (x, u) to ``J^T u``, as recorded by
``create_graph=True``, and that it is the function that a plain backward pass computes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from tinygrad_rnn._gradcheck_compare import Check
from tinygrad_rnn._gradcheck_inputs import (
    Host,
    Inputs,
    Problem,
    gradients,
    host,
    lent,
    prepare,
    refuse_narrow,
    vjp,
)
from tinygrad_rnn._gradcheck_report import Comparison, GradcheckReport
from tinygrad_rnn.core.primitive import Primitive
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.errors import DataError, GradcheckError
from tinygrad_rnn.ops.random import Rng, generator

__all__ = ["GradcheckReport", "gradcheck"]

SINGLE = 1e-4  # what float32 may be off, relative to the largest element of a gradient
RECORDED = 1e-9  # and what the gradient that create_graph records may be off: rounding in float64


def gradcheck(
    fn: Callable[..., Any],
    inputs: Any,
    *,
    order: int = 1,
    eps: float = 6e-6,
    atol: float = 1e-7,
    rtol: float = 1e-6,
    rng: Rng = 0,
    analytic: Collection[Primitive] = (),
) -> GradcheckReport:
    """Compare the gradients of ``fn(*inputs)`` with finite differences, and more.

    Args:
        fn: a Module, or a function that returns a Tensor or a list, tuple or dict of them. It must
            be the same function at every call: no dropout. Of a Module the parameters are checked
            with the inputs, on a float64 copy.
        inputs: one input or a list or tuple; pairs of states are looked into. Arrays and Tensors of
            float64 and float32 are checked; what is not of a floating dtype is passed on as it is.
            A leaf that requires a gradient is itself given to `fn`, with another array for the
            time of the check, so ``gradcheck(lambda *_: loss(), list(model.parameters()))`` checks
            a model, if the constants in `loss` are float64.
        order: 1, or 2: the gradients, and then the gradients of the gradients.
        eps: the step h of one element, times max(1, |x|).
        atol, rtol: |analytic - numeric| <= atol + rtol * max(|analytic|, |numeric|).
        rng: generator or seed of the random directions.
        analytic: primitives of your own whose forward may be given complex numbers, so that the
            complex step is possible; all of tinygrad_rnn's that may are known.

    Returns:
        The report of the highest order.

    Raises:
        GradcheckError: they disagree, or there is a kink where they do; ``error.report`` has the
            details. Or `fn` is not the same function at every call.
        DTypeError: an input in float16, something in between that computes in float32, or nothing
            to check at all.
    """
    if order not in (1, 2):
        raise DataError(f"gradcheck: order is 1 or 2, got {order!r}")
    if not (0 < eps < math.inf and 0 <= atol < math.inf and 0 <= rtol < math.inf):
        raise DataError(
            f"gradcheck: needed finite numbers eps > 0, atol >= 0 and rtol >= 0, got eps={eps}, "
            f"atol={atol}, rtol={rtol}"
        )
    rng = generator(rng)
    given = prepare(fn, inputs)
    problem = given.problem
    with lent(problem.leaves):
        _check_repeats(problem)
        refuse_narrow(problem)
        for current in range(1, order + 1):
            before = problem
            if current > 1:
                problem = _gradient_of(problem, rng)
                _check_repeats(problem)
            report = Check(problem, current, eps, atol, rtol, rng, analytic).run()
            if current > 1 and report.passed:
                report = _with_recorded(report, before, rng)
            if not report.passed:
                raise _failed(report)
        if given.as_given:
            cotangents = _random_cotangents(given.problem, rng)
            precise = gradients(given.problem.outputs(), given.problem.leaves, cotangents)
    if given.as_given:  # after the leaves have their own arrays back
        report = _with_single(report, given, cotangents, precise)
        if not report.passed:
            raise _failed(report)
    return report


def _failed(report: GradcheckReport) -> GradcheckError:
    error = GradcheckError(str(report))
    error.report = report  # for whoever catches it
    return error


def _check_repeats(problem: Problem) -> None:
    """A function that draws random numbers has no derivative to compare with."""
    first, again = problem.outputs(), problem.outputs()
    for y in first:
        if np.isnan(host(y)).any():
            raise GradcheckError(
                "gradcheck: fn is NaN at the inputs given, and has no derivative there; choose "
                "inputs inside of its domain"
            )
    same = [y.shape for y in first] == [y.shape for y in again] and all(
        np.array_equal(host(a), host(b), equal_nan=True) for a, b in zip(first, again, strict=True)
    )
    if not same:
        raise GradcheckError(
            "gradcheck: fn gave two different results for the same inputs; switch dropout off "
            "(model.eval()), or give its generator the same seed at each call"
        )


def _gradient_of(problem: Problem, rng: np.random.Generator) -> Problem:
    """The function (inputs, cotangents) -> gradients, recorded so that it can be differentiated."""
    named = problem.run()
    cotangents = [
        Tensor(rng.normal(size=y.shape), device=y.device, requires_grad=True) for _, y in named
    ]

    def run() -> list[tuple[str, Tensor]]:
        found = vjp(problem.outputs(), problem.leaves, cotangents, create_graph=True)
        return [
            (f"gradient by {name}", g)
            for name, g in zip(problem.names, found, strict=True)
            if g is not None
        ]

    return Problem(
        run,
        [*problem.leaves, *cotangents],
        [*problem.names, *(f"cotangent of {name}" for name, _ in named)],
    )


# ---- one gradient held against another ----


def _with_recorded(
    report: GradcheckReport, problem: Problem, rng: np.random.Generator
) -> GradcheckReport:
    """Compare the gradient that ``create_graph=True`` records with the plain one.

    They come from different code: a fused op has a hand-written backward for the one and its
    specification for the other. Differences of the second alone would never see the first.
    """
    cotangents = _random_cotangents(problem, rng)
    plain = gradients(problem.outputs(), problem.leaves, cotangents)
    recorded = gradients(problem.outputs(), problem.leaves, cotangents, create_graph=True)
    worst = _worst_of(problem.names, recorded, plain, RECORDED)
    if worst is None or worst.passed:
        return report
    return _disagreeing(
        report, worst, "the plain gradient", "as recorded by create_graph; of a fused op, its "
        "specification is another function"
    )  # fmt: skip


def _with_single(
    report: GradcheckReport, given: Inputs, cotangents: list[Host], precise: list[Host]
) -> GradcheckReport:
    """Run `fn` as it was given, in float32, and compare its gradient with that of float64."""
    assert given.as_given is not None  # noqa: S101 - for the type checker; see the caller
    problem = given.as_given()
    found = gradients(problem.outputs(), problem.leaves, cotangents)
    single = _worst_of(problem.names, found, precise, SINGLE)
    if single is None:
        return report
    if not single.passed:
        report = _disagreeing(report, single, "the float64 gradient", "in float32")
    return dataclasses.replace(report, single=single)


def _random_cotangents(problem: Problem, rng: np.random.Generator) -> list[Host]:
    return [np.asarray(rng.normal(size=y.shape)) for y in problem.outputs()]


def _worst_of(
    names: list[str], found: list[Host], wanted: list[Host], rtol: float
) -> Comparison | None:
    """The element whose two gradients are furthest apart; None if there are no elements.

    Rounding is relative to the terms a gradient is the sum of. They may be larger than the sum, so
    a hundredth of `rtol` of the largest gradient of all is tolerated as well.
    """
    largest = max((float(np.abs(g).max(initial=0)) for g in wanted), default=0.0)
    worst, ratio, count = None, -1.0, 0
    for name, g, right in zip(names, found, wanted, strict=True):
        count += g.size
        tolerance = rtol * float(np.abs(right).max(initial=0)) + 0.01 * rtol * max(largest, 0.1)
        with np.errstate(all="ignore"):
            error = np.abs(g - right)
        for index in [np.unravel_index(np.argmax(error), error.shape)] if error.size else []:
            off = float(error[index]) / tolerance if np.isfinite(error[index]) else np.inf
            if off > ratio:
                place = tuple(int(i) for i in index)
                pair = float(g[index]), float(right[index])
                ratio, worst = off, (float(error[index]), tolerance, name, place, "", *pair)
    return None if worst is None else Comparison(count, *worst)


def _disagreeing(
    report: GradcheckReport, worst: Comparison, against: str, how: str
) -> GradcheckReport:
    return dataclasses.replace(
        report,
        passed=False,
        verdict="DISAGREE",
        against=against,
        error=worst.error,
        tolerance=worst.tolerance,
        place=f"{worst.place}, {how}",
        input=worst.input,
        index=worst.index,
        output="",
        analytic=worst.analytic,
        numeric=worst.other,
        sweep=(),
    )
