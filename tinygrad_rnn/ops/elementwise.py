"""Functions of one number, applied to every element."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.backends import namespace
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.primitive import primitive
from tinygrad_rnn.errors import DTypeError
from tinygrad_rnn.ops.arithmetic import greater_equal, less_equal, logical_and, where
from tinygrad_rnn.ops.creation import zeros_like


@primitive
def exp(x: Array) -> Array:
    """e ** x."""
    return namespace(x).exp(x)


exp.vjp(x=lambda g, out: g * out)


@primitive
def expm1(x: Array) -> Array:
    """e ** x - 1, accurate near 0."""
    return namespace(x).expm1(x)


expm1.vjp(x=lambda g, out: g * (out + 1))


@primitive
def log1p(x: Array) -> Array:
    """log(1 + x), accurate near 0."""
    return namespace(x).log1p(x)


log1p.vjp(x=lambda g, x: g / (1 + x))


@primitive
def sqrt(x: Array) -> Array:
    """The square root; its gradient is infinite at 0."""
    return namespace(x).sqrt(x)


sqrt.vjp(x=lambda g, out: 0.5 * g / out)


@primitive
def square(x: Array) -> Array:
    """x * x."""
    return x * x


square.vjp(x=lambda g, x: 2 * g * x)


@primitive
def reciprocal(x: Array) -> Array:
    """1 / x."""
    return 1 / x


reciprocal.vjp(x=lambda g, out: -g * out * out)


@primitive
def sin(x: Array) -> Array:
    """The sine of `x` radians."""
    return namespace(x).sin(x)


@primitive
def cos(x: Array) -> Array:
    """The cosine of `x` radians."""
    return namespace(x).cos(x)


sin.vjp(x=lambda g, x: g * cos(x))
cos.vjp(x=lambda g, x: -g * sin(x))


@primitive
def tanh(x: Array) -> Array:
    """The hyperbolic tangent: the vanilla RNN's nonlinearity, in (-1, 1)."""
    return namespace(x).tanh(x)


tanh.vjp(x=lambda g, out: g * (1 - out * out))


@primitive
def sigmoid(x: Array) -> Array:
    """1 / (1 + e**-x), the gate of an LSTM, in (0, 1).

    Written with e**-|x|, which cannot overflow, so that it is accurate at both ends.
    """
    xp = namespace(x)
    small = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1, small) / (1 + small)


sigmoid.vjp(x=lambda g, out: g * out * (1 - out))


@primitive
def softplus(x: Array) -> Array:
    """log(1 + e**x), a smooth relu, without overflow."""
    xp = namespace(x)
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


softplus.vjp(x=lambda g, x: g * sigmoid(x))


@primitive
def relu(x: Array) -> Array:
    """max(x, 0); gradient 0 at 0."""
    return namespace(x).maximum(x, 0)


relu.vjp(x=lambda g, out: where(out > 0, g, 0))


@primitive
def abs(x: Array) -> Array:
    """The absolute value; gradient 0 at 0."""
    return namespace(x).abs(x)


@primitive
def sign(x: Array) -> Array:
    """-1, 0 or 1; flat wherever it has a derivative, so its gradient is 0."""
    return namespace(x).sign(x)


abs.vjp(x=lambda g, x: g * sign(x))
sign.vjp(x=lambda g: zeros_like(g))


@primitive
def erf(x: Array) -> Array:
    """The error function, 2/sqrt(pi) times the integral of e**(-t*t) from 0 to x."""
    return backends.of(x).erf(x)


erf.vjp(x=lambda g, x: g * (2 / math.sqrt(math.pi)) * exp(-x * x))


def gelu(x: Any, *, approximate: str = "none") -> Any:
    """x * P(Z <= x) for a standard normal Z (Hendrycks & Gimpel 2016).

    Args:
        x: Tensor of any shape.
        approximate: "none" for the exact form (element by element on the CPU: slow), "tanh" for
            the paper's approximation, within 0.001 of it.
    """
    if approximate == "tanh":
        return 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    if approximate != "none":
        raise DTypeError(f"gelu: approximate is 'none' or 'tanh', got {approximate!r}")
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


@primitive
def _clip(x: Array, *, low: float | None, high: float | None) -> Array:
    return namespace(x).clip(x, low, high)


_clip.vjp(x=lambda g, x, *, low, high: where(_inside(x, low, high), g, 0))


def _inside(x: Any, low: float | None, high: float | None) -> Any:
    if high is None:
        return greater_equal(x, low)
    if low is None:
        return less_equal(x, high)
    return logical_and(greater_equal(x, low), less_equal(x, high))


def clip(x: Any, min: Any = None, max: Any = None) -> Any:
    """`x` limited to [min, max]; either bound may be None, a number, or a Tensor (broadcast).

    The gradient passes unchanged inside and at the edges, and is 0 beyond them; where a Tensor
    bound took over, it goes to the bound.
    """
    if min is None and max is None:
        raise DTypeError("clip: needed min, max or both, got neither")
    # np.float64 is a float to Python, yet in an array library it turns float32 into float64.
    min, max = (b.item() if isinstance(b, np.generic) else b for b in (min, max))
    if all(bound is None or isinstance(bound, float | int) for bound in (min, max)):
        return _clip(x, low=min, high=max)
    if min is not None:
        x = where(x < min, min, x)
    return x if max is None else where(x > max, max, x)
