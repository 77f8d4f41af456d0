"""Arithmetic and comparison: the operators of a Tensor.

Each op is one line of forward and one line of calculus per input. In a rule, `g` is the gradient
of the loss with respect to the result. Broadcasting is not the rules' business: the engine sums
a gradient down to its input's shape (`core/broadcast.py`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_rnn.backends import namespace
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.primitive import primitive
from tinygrad_rnn.ops.creation import zeros_like


@primitive
def add(a: Array, b: Array) -> Array:
    """``a + b``, elementwise with broadcasting."""
    return a + b


add.vjp(a=lambda g: g, b=lambda g: g)


@primitive
def subtract(a: Array, b: Array) -> Array:
    """``a - b``, elementwise with broadcasting."""
    return a - b


subtract.vjp(a=lambda g: g, b=lambda g: -g)


@primitive
def multiply(a: Array, b: Array) -> Array:
    """``a * b``, elementwise with broadcasting."""
    return a * b


multiply.vjp(a=lambda g, b: g * b, b=lambda g, a: g * a)


@primitive
def divide(a: Array, b: Array) -> Array:
    """``a / b``, elementwise with broadcasting."""
    return a / b


# d(a/b)/db = -a/b^2 = -out/b: naming `out` spares keeping `a`.
divide.vjp(a=lambda g, b: g / b, b=lambda g, b, out: -g * out / b)


@primitive
def negative(x: Array) -> Array:
    """``-x``, elementwise."""
    return -x


negative.vjp(x=lambda g: -g)


# The logarithm stands here and not with the other functions because the rule of `power` needs it.
@primitive
def log(x: Array) -> Array:
    """The natural logarithm; -inf at 0, where its gradient is infinite."""
    return namespace(x).log(x)


log.vjp(x=lambda g, x: g / x)


@primitive
def power(a: Array, b: Array) -> Array:
    """``a ** b``, elementwise with broadcasting.

    At b = 0 the derivative by `a` is 0, even where a = 0; at a = 0 the derivative by `b` is 0. For
    a < 0 there is no derivative by `b`: it is NaN.
    """
    return a**b


def _power_by_base(g: Any, a: Any, b: Any) -> Any:
    """b * a**(b-1), and 0 at b = 0; a**-1 is infinite at a = 0, so that corner takes a = 1."""
    if isinstance(b, float | int):
        return g * b * a ** (b - 1) if b != 0 else zeros_like(g)
    corner = logical_and(equal(a, 0), equal(b, 0))
    return g * b * where(corner, 1, a) ** (b - 1)


def _power_by_exponent(g: Any, a: Any, out: Any) -> Any:
    """a**b * log(a); 0 at a = 0, where a**b is flat for every b > 0."""
    if isinstance(a, float | int):
        return g * out * (math.log(a) if a > 0 else 0.0 if a == 0 else math.nan)
    return g * out * log(where(equal(a, 0), 1, a))


power.vjp(a=_power_by_base, b=_power_by_exponent)


# ---- comparisons: bool results, and so no gradient ----


@primitive
def equal(a: Array, b: Array) -> Array:
    """``a == b``, elementwise; bool, no gradient."""
    return a == b


@primitive
def not_equal(a: Array, b: Array) -> Array:
    """``a != b``, elementwise; bool, no gradient."""
    return a != b


@primitive
def less(a: Array, b: Array) -> Array:
    """``a < b``, elementwise; bool, no gradient."""
    return a < b


@primitive
def less_equal(a: Array, b: Array) -> Array:
    """``a <= b``, elementwise; bool, no gradient."""
    return a <= b


@primitive
def greater(a: Array, b: Array) -> Array:
    """``a > b``, elementwise; bool, no gradient."""
    return a > b


@primitive
def greater_equal(a: Array, b: Array) -> Array:
    """``a >= b``, elementwise; bool, no gradient."""
    return a >= b


@primitive
def logical_and(a: Array, b: Array) -> Array:
    """``a & b`` of bools, elementwise; no gradient."""
    return a & b


@primitive
def logical_or(a: Array, b: Array) -> Array:
    """``a | b`` of bools, elementwise; no gradient."""
    return a | b


@primitive
def logical_not(x: Array) -> Array:
    """``~x`` of bools, elementwise; no gradient."""
    return namespace(x).logical_not(x)


# ---- choosing between two values ----


@primitive
def where(condition: Array, a: Array, b: Array) -> Array:
    """`a` where `condition` holds, else `b`; with broadcasting.

    The gradient is *selected*, not multiplied by 0 or 1, so a NaN or an infinity in the branch
    not taken stays out of the result and of this op's gradient.
    """
    out = _library(condition, a, b).where(condition, a, b)
    if isinstance(a, float | int) and isinstance(b, float | int) and out.dtype == np.float64:
        return out.astype(np.float32)  # two Python floats: float32, as everywhere here
    return out


where.vjp(
    a=lambda g, condition: where(condition, g, 0),
    b=lambda g, condition: where(condition, 0, g),
)


@primitive
def maximum(a: Array, b: Array) -> Array:
    """The larger of `a` and `b`, elementwise; at a tie each gets half of the gradient."""
    return _library(a, b).maximum(a, b)


maximum.vjp(
    a=lambda g, a, b: where(a > b, g, where(equal(a, b), 0.5 * g, 0)),
    b=lambda g, a, b: where(b > a, g, where(equal(a, b), 0.5 * g, 0)),
)


@primitive
def minimum(a: Array, b: Array) -> Array:
    """The smaller of `a` and `b`, elementwise; at a tie each gets half of the gradient."""
    return _library(a, b).minimum(a, b)


minimum.vjp(
    a=lambda g, a, b: where(a < b, g, where(equal(a, b), 0.5 * g, 0)),
    b=lambda g, a, b: where(b < a, g, where(equal(a, b), 0.5 * g, 0)),
)


def _library(*operands: Any) -> Any:
    """The namespace of the first operand that is an array: the others may be Python numbers."""
    return namespace(next((x for x in operands if hasattr(x, "dtype")), np.asarray(0)))
