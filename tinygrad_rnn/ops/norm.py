"""Layer normalisation as one op: every row of numbers gets mean 0 and variance 1, by itself.

    m = mean(x)      v = mean((x - m)^2)      n = (x - m) / sqrt(v + eps)      out = w * n + b

over the last axes of x, each row on its own: no other row of the batch and no other time step
counts, so training and evaluation are the same computation, and so is a sequence of any length
(Ba, Kiros & Hinton 2016, arXiv:1607.06450).

What comes back through it has lost two things. An offset of the row changes nothing in n, and
neither (but for eps) does its scale. So of the gradient u = g * w that reaches n, the backward
pass takes away the part along the offset and the part along n, and then undoes the scale:

    dx = (u - mean(u) - n * mean(u * n)) / sqrt(v + eps)

`specification` is the equations above in plain ops: 16 passes over x, and a graph of as many
nodes. Below it the same by hand.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_rnn.backends import namespace
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.fused import fused
from tinygrad_rnn.errors import DataError, DTypeError, ShapeError
from tinygrad_rnn.ops.convert import astype
from tinygrad_rnn.ops.elementwise import sqrt, square
from tinygrad_rnn.ops.reduce import mean


def specification(x: Any, weight: Any, bias: Any, *, dims: int, eps: float) -> Any:
    """Layer normalisation in plain ops.

    Args:
        x: (..., *S), where S are the last `dims` sizes.
        weight, bias: S each, or None.
        dims: over how many of the last axes mean and variance are taken.
        eps: what is added to the variance, so that a constant row is not divided by 0.

    Returns:
        The shape of x.
    """
    axes = tuple(range(x.ndim - dims, x.ndim))
    centred = astype(x, _wide(x))
    centred = centred - mean(centred, axes, keepdims=True)
    # Beside an offset of 10,000 float32 rounds the mean to 1/1000. What is left of the mean is
    # small and known precisely: it is taken away once more.
    centred = centred - mean(centred, axes, keepdims=True)
    variance = mean(square(centred), axes, keepdims=True)
    out = astype(centred / sqrt(variance + eps), x.dtype)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _wide(x: Any) -> np.dtype[Any]:
    """The dtype that rows are added up in: at least float32 (the square of 300 is no float16)."""
    return np.promote_types(x.dtype, np.float32)


def _rows(x: Array, size: int) -> Array:
    """`x` as a matrix, (N, size), in the dtype for sums: where it can be, a view."""
    return x.reshape((x.size // size, size)).astype(_wide(x), copy=False)


@fused(spec=specification)
def _layer_norm(
    x: Array, weight: Array | None, bias: Array | None, *, keep: bool, dims: int, eps: float
) -> tuple[Array, Any]:
    xp, size = namespace(x), math.prod(x.shape[x.ndim - dims :])
    rows = _rows(x, size)  # (N, size)
    # Numbers that lie close together have exact differences: with the first of the row as origin,
    # an offset leaves no trace at all, and a constant row is 0 to the last bit.
    normal = rows - rows[:, :1]
    normal -= xp.mean(normal, axis=1, keepdims=True)
    # A row times itself: BLAS adds up a square more precisely than einsum, and without a copy.
    square_sum = xp.matmul(normal[:, None, :], normal[:, :, None])[:, 0]  # (N, 1)
    spread = square_sum / size + eps  # v + eps
    # 1 / sqrt(spread), but for the overflow of a square: 1 / inf would give a row of zeros.
    scale = xp.sqrt(spread) / spread
    normal *= scale
    out = normal.astype(x.dtype, copy=False)
    out = out if weight is None else out * weight.reshape(-1)
    out = out if bias is None else out + bias.reshape(-1)
    return out.reshape(x.shape), ((normal, scale, weight) if keep else None)


@_layer_norm.backward
def _(
    g: Array, cache: Any, needs: tuple[bool, ...], *, dims: int, eps: float
) -> tuple[Any, Any, Any]:
    normal, scale, weight = cache
    xp, shape, size = namespace(g), g.shape[g.ndim - dims :], normal.shape[1]
    rows = _rows(g, size)
    db = xp.sum(rows, axis=0).reshape(shape).astype(g.dtype, copy=False) if needs[2] else None
    if not (needs[0] or needs[1]):
        return None, None, db
    along = rows * normal  # (N, size)
    dw = xp.sum(along, axis=0).reshape(shape).astype(g.dtype, copy=False) if needs[1] else None
    if not needs[0]:
        return None, dw, db
    # The two means of u = g * w are products with w: u itself is not needed for them.
    w = xp.ones_like(normal, shape=(size,)) if weight is None else _rows(weight, size)[0]
    offset = xp.matmul(rows, w)[:, None] / size  # (N, 1): mean(u)
    length = xp.matmul(along, w)[:, None] / size  # (N, 1): mean(u * n)
    xp.multiply(normal, length, out=along)
    dx = rows * w
    dx -= offset
    dx -= along
    dx *= scale
    return dx.reshape(g.shape).astype(g.dtype, copy=False), dw, db


def layer_norm(
    x: Any, weight: Any = None, bias: Any = None, *, dims: int = 1, eps: float = 1e-5
) -> Any:
    """Each row of `x` with its mean taken away and divided by its standard deviation.

    Args:
        x: (..., *S), floating-point; S are the last `dims` sizes, and a row is what they span.
        weight, bias: of shape S and of the dtype of `x`: a factor and a summand for every place
            in a row. None for none.
        dims: over how many of the last axes a row spans.
        eps: added to the variance (over the count, not the count - 1, as in PyTorch).

    Returns:
        The shape and dtype of `x`. A constant row gives `bias`, or 0.

    Raises:
        DTypeError: an `x` that is not floating-point; a weight or bias of another dtype.
        ShapeError: fewer axes than `dims`, a row of no numbers, another shape than S.
        DataError: an `eps` that is not a finite number >= 0.
    """
    check_eps(eps, "layer_norm")
    if x.dtype.kind != "f":
        raise DTypeError(
            f"layer_norm: needed a floating-point input, got {x.dtype}; "
            f"convert it with .astype(tg.float32)"
        )
    if not 1 <= dims <= x.ndim:
        raise ShapeError(
            f"layer_norm: needed an input of at least dims = {dims} dimensions (and dims >= 1), "
            f"got shape {x.shape}"
        )
    shape = tuple(x.shape[x.ndim - dims :])
    if 0 in shape:
        raise ShapeError(f"layer_norm: rows of shape {shape} have no numbers; got shape {x.shape}")
    for name, given in (("weight", weight), ("bias", bias)):
        if given is not None and (given.shape != shape or given.dtype != x.dtype):
            kind = ShapeError if given.shape != shape else DTypeError
            raise kind(
                f"layer_norm: an input {x.shape} of {x.dtype}, with dims={dims}, needs a {name} "
                f"{shape} of {x.dtype}; got {given.shape} of {given.dtype}"
            )
    return _layer_norm(x, weight, bias, dims=dims, eps=eps)


def check_eps(eps: object, name: str) -> None:
    """Refuse an `eps` that is not a finite number >= 0."""
    if isinstance(eps, bool) or not isinstance(eps, float | int) or not 0 <= eps < math.inf:
        raise DataError(f"{name}: eps is a finite number >= 0, got {eps!r}")
