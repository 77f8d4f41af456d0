"""The properties of `properties.py` for second derivatives, on the recorded gradient of a `Point`.

One more appears: the derivative of ``J^T u`` by u, along c, is ``J c``, an exact Jacobian-vector
product. Against the rule itself,

    <w, J c>  =  <J^T w, c>      for every w and c

must hold up to rounding; differences see a fault of 1e-7, this sees 1e-12.
"""

from __future__ import annotations

import numpy as np

from tinygrad_rnn.errors import GradcheckError
from tinygrad_rnn.testing.point import Host, Point, derivatives
from tinygrad_rnn.testing.properties import (
    ROUNDING,
    require_apart,
    require_difference,
    require_same,
    require_unchanged,
)


def second_order(p: Point) -> None:
    """The derivative of the gradient, under create_graph, against differences of the gradient.

    The incoming gradient counts as an input too: a rule is a function of it, and its own rule is
    what carries the forward pass in double backward.
    """
    require_same(
        "the gradient under create_graph",
        p.hosts(p.inputs, p.gradient.found),
        p.first,
        ROUNDING,
    )

    def weighted(arrays: list[Host]) -> tuple[float, float]:
        grads = p.gradients(arrays[:-1], arrays[-1])
        terms = [(c * g).ravel() for c, g in zip(p.coefficients, grads, strict=True)]
        return float(sum(t.sum() for t in terms)), float(sum(np.abs(t).sum() for t in terms))

    require_difference(weighted, [*p.arrays, p.weight], p.gradient.second, p)


def duality(p: Point) -> None:
    """<w, J c> = <J^T w, c>, with J c the derivative of the vjp by its incoming gradient."""
    forward = [p.other_weight * p.gradient.second[-1]]
    back = [g * c for g, c in zip(p.first_other, p.coefficients, strict=True)]
    left, right = (float(sum(t.sum() for t in terms)) for terms in (forward, back))
    size = 1 + sum(float(np.abs(t).sum()) for t in (*forward, *back))
    if not abs(left - right) <= ROUNDING * size:
        raise GradcheckError(f"<w, J c> is {left:.15g}, <J^T w, c> is {right:.15g}")


def second_linear(p: Point) -> None:
    """The second backward pass is linear in what comes in."""
    a, b = 0.75, -1.5
    c, d = p.coefficients, p.other_coefficients
    together = p.gradient.pull([a * x + b * y for x, y in zip(c, d, strict=True)])
    parts = zip(p.gradient.second, p.gradient.second_other, strict=True)
    apart = [a * x + b * y for x, y in parts]
    require_same("the second pass for a sum of incoming gradients", together, apart, ROUNDING)


def second_zero(p: Point) -> None:
    """Zeros into the second backward pass give zeros: exactly, and not NaN."""
    for g in p.gradient.pull([np.zeros_like(c) for c in p.coefficients]):
        if not (g == 0).all():
            raise GradcheckError(f"zeros into the second backward pass give {g.tolist()}")


def second_isolated(p: Point) -> None:
    """Nothing is written to, nothing shares memory, and twice gives the same bits, at order 2."""
    place, gradient = p.place, p.gradient
    ends = gradient.ends(p.coefficients)
    bystanders = [*gradient.inputs, p.out, *(t for pair in ends for t in pair)]
    before = [place.host(t) for t in bystanders]
    found = derivatives(ends, gradient.inputs)
    require_unchanged(place, bystanders, before)
    require_apart([g.data for g in found if g is not None], bystanders)
    again = p.hosts(gradient.inputs, found)
    require_same("a second pass over the graph of the gradient", again, gradient.second)


def second_repeatable(p: Point) -> None:
    """A gradient recorded anew, from another use of the inputs, has the same second derivatives."""
    anew = p.gradient_again.pull(p.coefficients)
    require_same("the second derivative of a second call", anew, p.gradient.second)


def second_order_of_construction(p: Point) -> None:
    """Gradients of two uses of the inputs: it does not matter which was built, or recorded, first.

    Two gradients with two sets of coefficients; exchanging the sets exchanges older and younger.
    """
    older, younger = p.gradient, p.gradient_again
    c, d = p.coefficients, p.other_coefficients
    one, other = (
        p.hosts(p.inputs, derivatives([*older.ends(x), *younger.ends(y)], p.inputs))
        for x, y in ((c, d), (d, c))
    )
    what = "the second derivative through two uses"
    require_same(f"{what}, built in the other order", one, other, ROUNDING)
    parts = zip(one, older.second, older.second_other, strict=False)  # without the weight's
    require_same(f"{what}, against their sum", one, [x + y for _, x, y in parts], ROUNDING)
