"""Is a gradient right? Compare it with what it claims to be: a limit of difference quotients.

For ``y = f(x)`` with Jacobian J, a backward pass with cotangent u gives ``J^T u``. Moving x by
+-h v and subtracting gives, without any calculus,

    J v  =  (f(x + h v) - f(x - h v)) / 2h  +  O(h^2)

so for every u and v the numbers ``(J^T u) . v`` and ``u . (J v)`` must agree. Two ways to choose:

- **elements**: u and v run through the unit vectors, and every entry of J is compared;
- **directions**: for large inputs, a few random u and v. A wrong rule would have to be orthogonal
  to all of them to go unseen, which has probability zero; it is only harder to say *where* it is
  wrong. Every entry of v is +1 or -1: in a direction of length 1 the derivative of, say, a mean
  over a million numbers would be so small that a rule wrong by 1 % passed as rounding.

The step h = 6e-6 is about the cube root of the rounding error of float64, where the error of the
formula (growing with h^2) and of rounding (growing with 1/h) are about equal, near 1e-11. In
float32 the best h leaves errors of 1e-5 or worse, which proves nothing: hence float64 only. Where n
numbers move at once their effects add up, and h is divided by n^(1/8): measured on recurrent layers
with half a million weights (h too large) and on sums of a million squares (too small), that leaves
right rules a tenth of the tolerance or less.

Order 2 checks, in the same way, the function that maps (x, u) to ``J^T u``, as recorded by
``create_graph=True``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_rnn import backends
from tinygrad_rnn.core.engine import grad
from tinygrad_rnn.core.grad_mode import enable_grad
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.errors import DataError, DTypeError, GradcheckError
from tinygrad_rnn.ops.random import Rng, generator

__all__ = ["GradcheckReport", "gradcheck"]

Host = NDArray[Any]
ELEMENTS = 64  # up to this many inputs and outputs, every entry of the Jacobian is compared
DIRECTIONS = 5  # beyond, this many random ones are


@dataclass(frozen=True)
class GradcheckReport:
    """What a check found; ``print(report)`` says it in words.

    Attributes:
        passed: whether every comparison was within its tolerance.
        order: 1, or 2 for derivatives of the gradient.
        compared: how many pairs of numbers were compared.
        error: |analytic - numeric| of the worst pair, the one nearest to its tolerance or beyond.
        tolerance: what was tolerated there, ``atol + rtol * max(|analytic|, |numeric|)``.
        place: which pair it was: an input and an index in it, and an output; or a direction.
        analytic, numeric: the two numbers there: from the backward pass, and from differences.
    """

    passed: bool
    order: int
    compared: int
    error: float
    tolerance: float
    place: str
    analytic: float
    numeric: float

    def __str__(self) -> str:
        verdict = "agree" if self.passed else "DISAGREE"
        return (
            f"gradcheck, order {self.order}: {self.compared} comparisons {verdict}. Worst: "
            f"{self.place}: analytic {self.analytic:.12g}, numeric {self.numeric:.12g}, "
            f"difference {self.error:.2e} of {self.tolerance:.2e} tolerated"
        )


def gradcheck(
    fn: Callable[..., Any],
    inputs: Any,
    *,
    order: int = 1,
    eps: float = 6e-6,
    atol: float = 1e-7,
    rtol: float = 1e-6,
    rng: Rng = 0,
) -> GradcheckReport:
    """Compare the gradients of ``fn(*inputs)`` with finite differences.

    Args:
        fn: takes the inputs, returns a Tensor or a list or tuple of them. It must be a smooth
            function near the inputs (no kink within `eps`), and the same one at every call: no
            dropout.
        inputs: one input or a sequence. float64 arrays and Tensors are checked; what is not of a
            floating dtype is passed on as it is. A leaf that requires a gradient is itself given to
            `fn` and changed in place meanwhile, so ``gradcheck(lambda *_: loss(),
            list(model.parameters()))`` checks a model. It ends with the bits it began with.
        order: 1, or 2: the gradients, and then the gradients of the gradients.
        eps: the step h of one element, times max(1, |x|).
        atol, rtol: |analytic - numeric| <= atol + rtol * max(|analytic|, |numeric|).
        rng: generator or seed of the random directions.

    Returns:
        The report of the highest order.

    Raises:
        GradcheckError: they disagree, or `fn` is not the same function at every call.
        DTypeError: an input in float32 or float16, or nothing to check at all.
    """
    if order not in (1, 2):
        raise DataError(f"gradcheck: order is 1 or 2, got {order!r}")
    rng = generator(rng)
    arguments = _arguments(inputs)
    for current in range(1, order + 1):
        outputs = _call(fn, arguments)
        if current > 1:
            # The cotangents become inputs: the gradient is a function of x and of u.
            extra = [
                Tensor(rng.normal(size=y.shape), device=y.device, requires_grad=True)
                for y in outputs
            ]
            fn, arguments = _gradient_of(fn, len(arguments)), [*arguments, *extra]
            outputs = _call(fn, arguments)
        _check_repeats(fn, arguments, outputs)
        small = max(_size(_checked(arguments)), _size(outputs)) <= ELEMENTS
        pairs = (_elements if small else _directions)(fn, arguments, eps, rng)
        report = _worst(pairs, current, atol, rtol)
        if not report.passed:
            raise GradcheckError(str(report))
    return report


# ---- the function and its inputs -----------------------------------------------------------------


def _arguments(inputs: Any) -> list[Any]:
    """The inputs of `fn`: those to be checked as leaves in float64, the rest as they came."""
    single = isinstance(inputs, Tensor) or not isinstance(inputs, Sequence)
    arguments = []
    for i, x in enumerate([inputs] if single else inputs):
        dtype = getattr(x, "dtype", None)
        if dtype is not None and dtype.kind == "f":
            if dtype != np.float64:
                raise DTypeError(
                    f"gradcheck: input {i} is {dtype}; differences need float64, because in "
                    f"{dtype} rounding hides an error of a percent. Convert with .astype('float64')"
                )
            own = isinstance(x, Tensor) and x.is_leaf and x.requires_grad
            x = x if own else Tensor(x, requires_grad=True)
        arguments.append(x)
    if not _checked(arguments):
        raise DTypeError("gradcheck: none of the inputs is a float64 array or Tensor")
    return arguments


def _checked(arguments: Sequence[Any]) -> list[Tensor]:
    return [x for x in arguments if isinstance(x, Tensor) and x.requires_grad]


def _call(fn: Callable[..., Any], arguments: Sequence[Any]) -> list[Tensor]:
    with enable_grad():
        result = fn(*arguments)
    outputs = list(result) if isinstance(result, list | tuple) else [result]
    for y in outputs:
        if not isinstance(y, Tensor) or y.dtype != np.float64:
            seen = y.dtype if isinstance(y, Tensor) else type(y).__name__
            raise DTypeError(f"gradcheck: fn must return float64 Tensors, but gave {seen}")
    return outputs


def _gradient_of(fn: Callable[..., Any], count: int) -> Callable[..., list[Tensor]]:
    """The function (inputs, cotangents) -> gradients, recorded so that it can be differentiated."""

    def gradient(*arguments: Any) -> list[Tensor]:
        inputs, cotangents = arguments[:count], arguments[count:]
        found = _vjp(_call(fn, inputs), _checked(inputs), cotangents, create_graph=True)
        return [g for g in found if g is not None]

    return gradient


def _vjp(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Any], **options: Any
) -> Sequence[Tensor | None]:
    """J^T u by one backward pass; None for inputs that no output depends on."""
    pairs = [(y, u) for y, u in zip(outputs, cotangents, strict=True) if y.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    ys, us = zip(*pairs, strict=True)
    return grad(list(ys), list(inputs), list(us), allow_unused=True, **options)


def _check_repeats(fn: Callable[..., Any], arguments: Sequence[Any], first: list[Tensor]) -> None:
    """A function that draws random numbers has no derivative to compare with."""
    again = _call(fn, arguments)
    same = [y.shape for y in first] == [y.shape for y in again] and all(
        np.array_equal(_host(a), _host(b), equal_nan=True)
        for a, b in zip(first, again, strict=True)
    )
    if not same:
        raise GradcheckError(
            "gradcheck: fn gave two different results for the same inputs; switch dropout off "
            "(model.eval()), or give its generator the same seed at each call"
        )


# ---- the two sides of the comparison -------------------------------------------------------------

Pair = tuple[str, float, float]  # where, analytic, numeric


def _elements(
    fn: Callable[..., Any], arguments: Sequence[Any], eps: float, rng: np.random.Generator
) -> Iterator[Pair]:
    """Every entry of the Jacobian: rows by backward passes, columns by differences."""
    del rng  # nothing is left to chance
    inputs = _checked(arguments)
    rows: list[tuple[str, list[Host]]] = []
    for k, y in enumerate(_call(fn, arguments)):
        for index in np.ndindex(y.shape):
            outputs = _call(fn, arguments)  # a graph of its own: each pass frees it
            cotangents = [np.zeros(o.shape) for o in outputs]
            cotangents[k][index] = 1
            rows.append((f"output {k}{_at(index)}", _gradients(outputs, inputs, cotangents)))
    for i, x in enumerate(inputs):
        for index in np.ndindex(x.shape):
            v = [np.zeros(other.shape) for other in inputs]
            v[i][index] = 1
            column = np.concatenate([d.ravel() for d in _differences(fn, arguments, v, eps)])
            for (place, gradients), numeric in zip(rows, column, strict=True):
                where = f"input {i}{_at(index)}, {place}"
                yield where, float(gradients[i][index]), float(numeric)


def _directions(
    fn: Callable[..., Any], arguments: Sequence[Any], eps: float, rng: np.random.Generator
) -> Iterator[Pair]:
    """Random directions through all inputs together, and then through each input alone."""
    inputs = _checked(arguments)
    alone = range(len(inputs)) if len(inputs) > 1 else ()
    for chosen in [None] * DIRECTIONS + [*alone]:
        outputs = _call(fn, arguments)
        u = [_unit(rng, y.shape) for y in outputs]
        v = [
            _signs(rng, x.shape) if chosen in (None, i) else np.zeros(x.shape)
            for i, x in enumerate(inputs)
        ]
        analytic = _inner(_gradients(outputs, inputs, u), v)
        numeric = _inner(u, _differences(fn, arguments, v, eps))
        through = "all inputs" if chosen is None else f"input {chosen}"
        yield f"a random direction through {through}", analytic, numeric


def _gradients(outputs: list[Tensor], inputs: list[Tensor], cotangents: list[Host]) -> list[Host]:
    found = _vjp(outputs, inputs, cotangents)
    return [
        np.zeros(x.shape) if g is None else _host(g) for x, g in zip(inputs, found, strict=True)
    ]


def _differences(
    fn: Callable[..., Any], arguments: Sequence[Any], v: list[Host], eps: float
) -> list[Host]:
    """J v: move all inputs along v, both ways, and put them back."""
    inputs = _checked(arguments)
    before = [_host(x) for x in inputs]
    largest = max((np.abs(x[d != 0]).max(initial=0) for x, d in zip(before, v, strict=True)))
    moved = sum(np.count_nonzero(d) for d in v)
    h = eps * max(1.0, float(largest)) / max(1, moved) ** 0.125
    try:
        sides = []
        for sign in (1, -1):
            for x, start, d in zip(inputs, before, v, strict=True):
                _write(x, start + sign * h * d)
            sides.append([_host(y) for y in _call(fn, arguments)])
    finally:
        for x, start in zip(inputs, before, strict=True):
            _write(x, start)
    return [(high - low) / (2 * h) for high, low in zip(*sides, strict=True)]


def _worst(pairs: Iterator[Pair], order: int, atol: float, rtol: float) -> GradcheckReport:
    """The pair that is worst in units of its tolerance; NaN is worse than anything."""
    report, worst, count = None, -1.0, 0
    for place, analytic, numeric in pairs:
        count += 1
        error = abs(analytic - numeric)
        tolerance = atol + rtol * max(abs(analytic), abs(numeric))
        ratio = error / tolerance if np.isfinite(error) else np.inf
        if ratio > worst:
            worst, report = ratio, (error, tolerance, place, analytic, numeric)
    if report is None:  # an empty input, or an empty output: true of all of its elements
        return GradcheckReport(True, order, 0, 0.0, atol, "there are no elements", 0.0, 0.0)
    return GradcheckReport(worst <= 1, order, count, *report)


# ---- small things --------------------------------------------------------------------------------


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(t.size for t in tensors)


def _host(x: Tensor) -> Host:
    return np.array(backends.of(x.data).to_host(x.data))


def _write(x: Tensor, values: Host) -> None:
    x.writable()[...] = backends.of(x.data).asarray(values, x.device)


def _unit(rng: np.random.Generator, shape: tuple[int, ...]) -> Host:
    v = np.asarray(rng.normal(size=shape))
    return v / max(float(np.linalg.norm(v)), 1e-300)


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> Host:
    return np.asarray(rng.choice([-1.0, 1.0], size=shape))


def _inner(a: list[Host], b: list[Host]) -> float:
    return float(sum(np.vdot(x, y) for x, y in zip(a, b, strict=True)))


def _at(index: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, index))}]" if index else ""
