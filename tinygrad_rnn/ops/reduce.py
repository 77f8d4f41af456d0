"""Sums and their relatives: many elements become few, and the gradient is spread out again.

A reduction's rule needs two things that the array alone no longer shows: which axes went, and the
shape from before. The public function settles both and passes them as options.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_rnn.backends import namespace
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.primitive import primitive
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.errors import ShapeError
from tinygrad_rnn.ops.arithmetic import equal, where
from tinygrad_rnn.ops.convert import astype
from tinygrad_rnn.ops.elementwise import abs as absolute
from tinygrad_rnn.ops.elementwise import exp, square
from tinygrad_rnn.ops.shape import (
    broadcast_to,
    flip,
    normalize_axes,
    normalize_axis,
    permute_dims,
    ravel,
    reshape,
)

Axes = int | Sequence[int] | None


def _kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with each reduced axis kept as 1: the one that broadcasts back."""
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _spread(g: Any, shape: tuple[int, ...], axes: tuple[int, ...]) -> Any:
    """A reduction's gradient, given to every element that went into it."""
    return broadcast_to(reshape(g, _kept(shape, axes)), shape)


@primitive
def _sum(x: Array, *, axes: tuple[int, ...], shape: tuple[int, ...], keepdims: bool) -> Array:
    return namespace(x).sum(x, axis=axes, keepdims=keepdims)


_sum.vjp(x=lambda g, *, shape, axes: _spread(g, shape, axes))


def sum(x: Any, axis: Axes = None, *, keepdims: bool = False) -> Any:
    """The sum over some axes, or over all. Integers and bools add up in int64."""
    axes = normalize_axes(axis, x.ndim, "sum")
    return _sum(x, axes=axes, shape=x.shape, keepdims=keepdims)


def _count(x: Any, axes: tuple[int, ...]) -> int:
    return math.prod(x.shape[i] for i in axes)


def mean(x: Any, axis: Axes = None, *, keepdims: bool = False) -> Any:
    """The mean over some axes, or over all; NaN over no elements."""
    axes = normalize_axes(axis, x.ndim, "mean")
    count = _count(x, axes)
    return sum(x, axes, keepdims=keepdims) / (count or math.nan)


def var(x: Any, axis: Axes = None, *, correction: float = 0, keepdims: bool = False) -> Any:
    """The mean squared distance from the mean, over ``n - correction`` instead of n."""
    axes = normalize_axes(axis, x.ndim, "var")
    free = _count(x, axes) - correction
    distance = x - mean(x, axes, keepdims=True)
    return sum(square(distance), axes, keepdims=keepdims) / (free if free > 0 else math.nan)


def std(x: Any, axis: Axes = None, *, correction: float = 0, keepdims: bool = False) -> Any:
    """The square root of `var`; its gradient is 0 where all elements are equal."""
    axes = normalize_axes(axis, x.ndim, "std")
    free = _count(x, axes) - correction
    distance = x - mean(x, axes, keepdims=True)
    scale = 1 / math.sqrt(free) if free > 0 else math.nan
    return norm(distance, axis=axes, keepdims=keepdims) * scale


# ---- the largest and the smallest ----


@primitive
def _max(x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Array:
    return namespace(x).max(x, axis=axes, keepdims=keepdims)


@primitive
def _min(x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Array:
    return namespace(x).min(x, axis=axes, keepdims=keepdims)


def _share(g: Any, x: Any, out: Any, axes: tuple[int, ...]) -> Any:
    """The gradient of max and min: shared equally among the elements that reach the extreme."""
    kept = _kept(x.shape, axes)
    hit = astype(equal(x, reshape(out, kept)), x.dtype)
    return hit * reshape(g, kept) / sum(hit, axes, keepdims=True)


_max.vjp(x=lambda g, x, out, *, axes: _share(g, x, out, axes))
_min.vjp(x=lambda g, x, out, *, axes: _share(g, x, out, axes))


def max(x: Any, axis: Axes = None, *, keepdims: bool = False) -> Any:
    """The largest element over some axes, or over all; ties share the gradient equally."""
    return _max(x, axes=normalize_axes(axis, x.ndim, "max"), keepdims=keepdims)


def min(x: Any, axis: Axes = None, *, keepdims: bool = False) -> Any:
    """The smallest element over some axes, or over all; ties share the gradient equally."""
    return _min(x, axes=normalize_axes(axis, x.ndim, "min"), keepdims=keepdims)


@primitive
def _argmax(x: Array, *, axis: int | None, keepdims: bool) -> Array:
    return namespace(x).argmax(x, axis=axis, keepdims=keepdims)


@primitive
def _argmin(x: Array, *, axis: int | None, keepdims: bool) -> Array:
    return namespace(x).argmin(x, axis=axis, keepdims=keepdims)


def argmax(x: Any, axis: int | None = None, *, keepdims: bool = False) -> Any:
    """Where the largest element is, the first if there are several; int64, no gradient."""
    return _argmax(x, axis=axis, keepdims=keepdims)


def argmin(x: Any, axis: int | None = None, *, keepdims: bool = False) -> Any:
    """Where the smallest element is, the first if there are several; int64, no gradient."""
    return _argmin(x, axis=axis, keepdims=keepdims)


# ---- products and running sums ----


@primitive
def _prod(x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Array:
    return namespace(x).prod(x, axis=axes, keepdims=keepdims)


def _product_of_others(x: Any, axes: tuple[int, ...]) -> Any:
    """For every element, the product of all the others along the reduced axes.

    Dividing the product by the element is quicker and wrong at 0. Instead the n elements are
    written n times in a square whose diagonal is set to 1: O(n*n) memory, right everywhere, and
    made of ops that can be differentiated again.
    """
    stay = tuple(i for i in range(x.ndim) if i not in axes)
    moved = permute_dims(x, (*stay, *axes))
    sizes = moved.shape
    n = math.prod(sizes[len(stay) :])
    flat = reshape(moved, (*sizes[: len(stay)], 1, n))
    plain = x._data if isinstance(x, Tensor) else x
    diagonal = namespace(plain).eye(n, dtype=bool)
    others = _prod(where(diagonal, 1, flat), axes=(flat.ndim - 1,), keepdims=False)
    order = tuple(sorted(range(x.ndim), key=(*stay, *axes).__getitem__))
    return permute_dims(reshape(others, sizes), order)


_prod.vjp(
    x=lambda g, x, *, axes: reshape(g, _kept(x.shape, axes)) * _product_of_others(x, axes),
)


def prod(x: Any, axis: Axes = None, *, keepdims: bool = False) -> Any:
    """The product over some axes, or over all; the gradient is right at zeros too."""
    return _prod(x, axes=normalize_axes(axis, x.ndim, "prod"), keepdims=keepdims)


@primitive
def _cumsum(x: Array, *, axis: int) -> Array:
    return namespace(x).cumsum(x, axis=axis)


# x_k is part of every later sum, so its gradient is the sum of theirs, from the end.
_cumsum.vjp(x=lambda g, *, axis: flip(_cumsum(flip(g, axis), axis=axis), axis))


def cumsum(x: Any, axis: int | None = None) -> Any:
    """Running sums along an axis; of all elements in flattened order without one."""
    if axis is None:
        return cumsum(ravel(x), 0)
    return _cumsum(x, axis=normalize_axis(axis, x.ndim, "cumsum"))


# ---- logarithms of sums of exponentials, and softmax ----


@primitive
def _logsumexp(x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Array:
    xp = namespace(x)
    top = xp.max(x, axis=axes, keepdims=True)
    top = xp.where(xp.isfinite(top), top, 0)  # -inf - -inf would be NaN
    total = xp.sum(xp.exp(x - top), axis=axes, keepdims=True)
    nothing = total == 0  # every element was -inf
    out = xp.where(nothing, -xp.inf, xp.log(xp.where(nothing, 1, total)) + top).astype(x.dtype)
    return out if keepdims else out.reshape([n for i, n in enumerate(x.shape) if i not in axes])


def _softmax_weights(x: Any, out: Any, axes: tuple[int, ...]) -> Any:
    """softmax(x), and 0 where all elements were -inf.

    exp(x - logsumexp(x)) alone will not do: beside x = 1e8, log(3) is lost to rounding, and three
    equal elements would get 1 each. What is lost is the same for all; dividing by the sum mends it.
    """
    total = reshape(out, _kept(x.shape, axes))
    weights = exp(x - where(equal(total, -math.inf), 0, total))
    whole = sum(weights, axes, keepdims=True)
    return weights / where(equal(whole, 0), 1, whole)


_logsumexp.vjp(
    x=lambda g, x, out, *, axes: reshape(g, _kept(x.shape, axes)) * _softmax_weights(x, out, axes)
)


def logsumexp(x: Any, axis: Axes = None, *, keepdims: bool = False) -> Any:
    """log(sum(exp(x))) without overflow; -inf, with gradient 0, where every element is -inf."""
    x = astype(x, np.float64) if x.dtype.kind != "f" else x
    return _logsumexp(x, axes=normalize_axes(axis, x.ndim, "logsumexp"), keepdims=keepdims)


@primitive
def _softmax(x: Array, *, axis: int) -> Array:
    xp = namespace(x)
    weights = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
    return weights / xp.sum(weights, axis=axis, keepdims=True)


_softmax.vjp(x=lambda g, out, *, axis: out * (g - sum(g * out, axis, keepdims=True)))


def softmax(x: Any, axis: int = -1) -> Any:
    """exp(x) / sum(exp(x)) along an axis: positive numbers that add up to 1."""
    return _softmax(x, axis=normalize_axis(axis, x.ndim, "softmax"))


@primitive
def _log_softmax(x: Array, *, axis: int) -> Array:
    xp = namespace(x)
    shifted = x - xp.max(x, axis=axis, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))


_log_softmax.vjp(x=lambda g, out, *, axis: g - exp(out) * sum(g, axis, keepdims=True))


def log_softmax(x: Any, axis: int = -1) -> Any:
    """log(softmax(x)) along an axis, without overflow or log(0)."""
    return _log_softmax(x, axis=normalize_axis(axis, x.ndim, "log_softmax"))


# ---- lengths ----


@primitive
def _norm(x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Array:
    xp = namespace(x)
    return xp.sqrt(xp.sum(x * x, axis=axes, keepdims=keepdims))


def _direction(x: Any, out: Any, axes: tuple[int, ...]) -> Any:
    """x / |x|, and 0 at x = 0: of all the subgradients there, the smallest."""
    length = reshape(out, _kept(x.shape, axes))
    return x / where(equal(length, 0), 1, length)


_norm.vjp(x=lambda g, x, out, *, axes: reshape(g, _kept(x.shape, axes)) * _direction(x, out, axes))


def norm(x: Any, ord: Any = 2, axis: Axes = None, *, keepdims: bool = False) -> Any:
    """The length of vectors: over some axes, or of all elements taken as one vector.

    Args:
        x: Tensor of any shape.
        ord: 2 (Euclidean; gradient 0 at 0), 1 (sum of absolute values), inf or -inf (the largest
            or smallest of them), or any other p > 0 for (sum |x|**p) ** (1/p).
        axis: the axes a vector lies along; None for all.
        keepdims: keep reduced axes with size 1.
    """
    axes = normalize_axes(axis, x.ndim, "norm")
    if ord == 2:
        return _norm(x, axes=axes, keepdims=keepdims)
    if ord == 1:
        return sum(absolute(x), axes, keepdims=keepdims)
    if ord == math.inf:
        return max(absolute(x), axes, keepdims=keepdims)
    if ord == -math.inf:
        return min(absolute(x), axes, keepdims=keepdims)
    if not isinstance(ord, float | int) or not ord > 0:
        raise ShapeError(f"norm: ord is a number > 0, inf or -inf, got {ord!r}")
    # At 0 powers have infinite slopes, and inf * 0 is NaN: zeros are set aside before and after.
    zero = equal(x, 0)
    total = sum(where(zero, 0, where(zero, 1, absolute(x)) ** ord), axes, keepdims=keepdims)
    nothing = equal(total, 0)
    return where(nothing, 0, where(nothing, 1, total) ** (1 / ord))
