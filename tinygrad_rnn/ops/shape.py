"""Ops that move elements and compute nothing.

Each is linear, and its rule moves the gradient back. Public functions settle shapes and axes, in
plain integers, and hand them to a primitive as options, so that no array is kept for its shape.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_rnn.backends import namespace
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.primitive import primitive
from tinygrad_rnn.errors import ShapeError

Shape = int | Sequence[int]


def normalize_axis(axis: int, ndim: int, op: str) -> int:
    """`axis` counted from the front, or a ShapeError that names the op."""
    axis = operator.index(axis)
    if not -ndim <= axis < ndim:
        raise ShapeError(f"{op}: axis {axis} does not exist in a tensor of {ndim} dimensions")
    return axis % ndim


def normalize_axes(axis: int | Sequence[int] | None, ndim: int, op: str) -> tuple[int, ...]:
    """Several axes counted from the front, each at most once; None means all."""
    if axis is None:
        return tuple(range(ndim))
    axes = tuple(normalize_axis(a, ndim, op) for a in _as_tuple(axis))
    if len(set(axes)) != len(axes):
        raise ShapeError(f"{op}: axis {axis} names an axis twice")
    return axes


def _as_tuple(shape: Any) -> tuple[int, ...]:
    return tuple(shape) if isinstance(shape, tuple | list) else (shape,)


@primitive
def _reshape(x: Array, *, shape: tuple[int, ...], before: tuple[int, ...]) -> Array:
    return x.reshape(shape)


_reshape.vjp(x=lambda g, *, before: _reshape(g, shape=before, before=g.shape))


def reshape(x: Any, *shape: Any) -> Any:
    """The same elements in C order under another shape; one -1 is worked out. A view if it can."""
    wanted = _as_tuple(shape[0]) if len(shape) == 1 else shape
    return _reshape(x, shape=wanted, before=x.shape)


def ravel(x: Any) -> Any:
    """All elements in one dimension, in C order."""
    return reshape(x, (math.prod(x.shape),))


@primitive
def _permute_dims(x: Array, *, axes: tuple[int, ...]) -> Array:
    return x.transpose(axes)


_permute_dims.vjp(
    x=lambda g, *, axes: _permute_dims(
        g, axes=tuple(sorted(range(len(axes)), key=axes.__getitem__))
    )
)


def permute_dims(x: Any, axes: Sequence[int]) -> Any:
    """The dimensions in another order: result dimension k is input dimension ``axes[k]``."""
    order = normalize_axes(axes, x.ndim, "permute_dims")
    if len(order) != x.ndim:
        raise ShapeError(f"permute_dims: axes {axes} do not name all {x.ndim} dimensions")
    return _permute_dims(x, axes=order)


def transpose(x: Any, *axes: Any) -> Any:
    """All dimensions reversed, or in the order of `axes`, as NumPy's ``transpose``."""
    if not axes or axes[0] is None:
        return permute_dims(x, tuple(reversed(range(x.ndim))))
    return permute_dims(x, axes[0] if len(axes) == 1 else axes)


def swapaxes(x: Any, axis1: int, axis2: int) -> Any:
    """Two dimensions exchanged."""
    order = list(range(x.ndim))
    first = normalize_axis(axis1, x.ndim, "swapaxes")
    second = normalize_axis(axis2, x.ndim, "swapaxes")
    order[first], order[second] = order[second], order[first]
    return permute_dims(x, order)


def matrix_transpose(x: Any) -> Any:
    """The last two dimensions exchanged: a stack of matrices, each transposed (``x.mT``)."""
    n = x.ndim
    if n < 2:
        return swapaxes(x, -1, -2)  # says what is missing
    return _permute_dims(x, axes=(*range(n - 2), n - 1, n - 2))


def expand_dims(x: Any, axis: int | Sequence[int]) -> Any:
    """New dimensions of size 1 at the positions `axis` of the result."""
    added = _as_tuple(axis)
    places = normalize_axes(added, x.ndim + len(added), "expand_dims")
    sizes = iter(x.shape)
    return reshape(x, tuple(1 if i in places else next(sizes) for i in range(x.ndim + len(added))))


def squeeze(x: Any, axis: int | Sequence[int] | None = None) -> Any:
    """Dimensions of size 1 removed: those in `axis`, or all."""
    if axis is None:
        return reshape(x, tuple(n for n in x.shape if n != 1))
    gone = normalize_axes(axis, x.ndim, "squeeze")
    if any(x.shape[i] != 1 for i in gone):
        raise ShapeError(f"squeeze: axis {axis} of shape {x.shape} is not of size 1")
    return reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in gone))


@primitive
def _broadcast_to(x: Array, *, shape: tuple[int, ...]) -> Array:
    return namespace(x).broadcast_to(x, shape)


# The engine sums every gradient down to its input's shape, which is all there is to do.
_broadcast_to.vjp(x=lambda g: g)


def broadcast_to(x: Any, shape: Shape) -> Any:
    """`x` repeated, without copying, along new and size-1 dimensions up to `shape`."""
    return _broadcast_to(x, shape=_as_tuple(shape))


@primitive
def _flip(x: Array, *, axes: tuple[int, ...]) -> Array:
    return namespace(x).flip(x, axes)


_flip.vjp(x=lambda g, *, axes: _flip(g, axes=axes))


def flip(x: Any, axis: int | Sequence[int] | None = None) -> Any:
    """The order of the elements reversed along some axes, or along all."""
    return _flip(x, axes=normalize_axes(axis, x.ndim, "flip"))


@primitive
def _roll(x: Array, *, shift: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    return namespace(x).roll(x, shift, axes)


_roll.vjp(x=lambda g, *, shift, axes: _roll(g, shift=tuple(-s for s in shift), axes=axes))


def roll(x: Any, shift: Shape, axis: int | Sequence[int] | None = None) -> Any:
    """Elements moved by `shift` places along `axis`, those at the end coming back in front.

    Without an axis the elements are rolled in flattened order, as in NumPy.
    """
    if axis is None:
        return reshape(roll(ravel(x), shift, 0), x.shape)
    shifts = tuple(operator.index(s) for s in _as_tuple(shift))
    axes = normalize_axes(axis, x.ndim, "roll")
    if len(shifts) != len(axes):
        raise ShapeError(f"roll: {len(shifts)} shifts for {len(axes)} axes; needed one for each")
    return _roll(x, shift=shifts, axes=axes)


@primitive
def _tril(x: Array, *, k: int) -> Array:
    return namespace(x).tril(x, k)


_tril.vjp(x=lambda g, *, k: _tril(g, k=k))


def tril(x: Any, k: int = 0) -> Any:
    """`x` with zeros above the k-th diagonal of its last two dimensions."""
    return _tril(x, k=operator.index(k))


@primitive
def _triu(x: Array, *, k: int) -> Array:
    return namespace(x).triu(x, k)


_triu.vjp(x=lambda g, *, k: _triu(g, k=k))


def triu(x: Any, k: int = 0) -> Any:
    """`x` with zeros below the k-th diagonal of its last two dimensions."""
    return _triu(x, k=operator.index(k))


@primitive
def _pad(x: Array, *, widths: tuple[tuple[int, int], ...], value: float) -> Array:
    return namespace(x).pad(x, widths, constant_values=value)


_pad.vjp(
    x=lambda g, *, widths: g[
        tuple(slice(a, n - b) for (a, b), n in zip(widths, g.shape, strict=True))
    ]
)


def pad(x: Any, pad_width: Any, *, constant_value: float = 0) -> Any:
    """`x` with a border of `constant_value`; `pad_width` as in NumPy: n, (before, after), or a
    pair for each dimension.
    """
    widths: list[Any]
    if isinstance(pad_width, int | np.integer):
        widths = [(pad_width, pad_width)] * x.ndim
    elif all(isinstance(w, int) for w in pad_width):
        widths = [tuple(pad_width) * (1 if len(pad_width) == 2 else 2)] * x.ndim
    else:
        widths = [tuple(pair) for pair in pad_width]
    if len(widths) != x.ndim or any(len(pair) != 2 or min(pair) < 0 for pair in widths):
        raise ShapeError(
            f"pad: pad_width {pad_width} does not fit {x.ndim} dimensions; "
            f"needed n, (before, after) or one pair for each, none negative"
        )
    return _pad(x, widths=tuple(widths), value=constant_value)


# ---- putting together, taking apart ----


@primitive
def _concat(*arrays: Array, axis: int, ends: tuple[int, ...]) -> Array:
    if len(arrays) == 1:  # the state of a network of one layer: on a GPU half a dozen steps saved
        return arrays[0].copy(order="C")
    return namespace(arrays[0]).concatenate(arrays, axis)


_concat.vjp_each(
    lambda g, *, position, axis, ends: g[
        (slice(None),) * axis + (slice(ends[position - 1] if position else 0, ends[position]),)
    ]
)


def concat(tensors: Sequence[Any], axis: int | None = 0) -> Any:
    """Tensors joined along an existing axis; None flattens each of them first."""
    parts = list(tensors)
    if not parts:
        raise ShapeError("concat: needed at least one tensor, got none")
    if axis is None:
        return concat([ravel(p) for p in parts], 0)
    place = normalize_axis(axis, parts[0].ndim, "concat")
    ends, total = [], 0
    for part in parts:
        if part.ndim != parts[0].ndim:
            raise ShapeError(
                f"concat: shapes {parts[0].shape} and {part.shape} differ in their number of "
                f"dimensions; use tg.expand_dims, or tg.stack for a new axis"
            )
        total += part.shape[place]
        ends.append(total)
    return _concat(*parts, axis=place, ends=tuple(ends))


def stack(tensors: Sequence[Any], axis: int = 0) -> Any:
    """Tensors of one shape joined along a new axis."""
    parts = list(tensors)
    shapes = {p.shape for p in parts}
    if len(shapes) != 1:
        raise ShapeError(
            f"stack: needed tensors of one shape, got {sorted(shapes)}; tg.concat joins along an "
            f"axis that differs"
        )
    return concat([expand_dims(p, axis) for p in parts], axis)


def split(x: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    """Cut along an axis: into n equal parts, or before each of the given indices (as NumPy)."""
    place = normalize_axis(axis, x.ndim, "split")
    size = x.shape[place]
    if isinstance(indices_or_sections, int | np.integer):
        n = int(indices_or_sections)
        if n < 1 or size % n:
            raise ShapeError(f"split: {size} elements do not make {n} equal parts")
        cuts = [size // n * i for i in range(1, n)]
    else:
        cuts = list(indices_or_sections)
    before = (slice(None),) * place
    pairs = zip([0, *cuts], [*cuts, size], strict=True)
    return [x[(*before, slice(start, stop))] for start, stop in pairs]


def unstack(x: Any, axis: int = 0) -> tuple[Any, ...]:
    """The slices of `x` along an axis, one by one: the inverse of `stack`."""
    place = normalize_axis(axis, x.ndim, "unstack")
    before = (slice(None),) * place
    return tuple(x[(*before, i)] for i in range(x.shape[place]))


def repeat(x: Any, repeats: Any, axis: int | None = None) -> Any:
    """Each element (or slice along `axis`) repeated in place: ``[1, 2] -> [1, 1, 2, 2]``."""
    if not isinstance(repeats, int | np.integer) or repeats < 0:
        raise ShapeError(f"repeat: repeats is a whole number >= 0, got {repeats!r}")
    if axis is None:
        return repeat(ravel(x), repeats, 0)
    place = normalize_axis(axis, x.ndim, "repeat")
    shape = x.shape
    wide = (*shape[: place + 1], repeats, *shape[place + 1 :])
    result = (*shape[:place], shape[place] * repeats, *shape[place + 1 :])
    return reshape(broadcast_to(expand_dims(x, place + 1), wide), result)


def tile(x: Any, repetitions: Shape) -> Any:
    """The whole of `x` repeated along each dimension: ``[1, 2] -> [1, 2, 1, 2]``."""
    times = _as_tuple(repetitions)
    ndim = max(len(times), x.ndim)
    times = (1,) * (ndim - len(times)) + times
    shape = (1,) * (ndim - x.ndim) + x.shape
    pairs = list(zip(times, shape, strict=True))
    narrow = tuple(n for _, size in pairs for n in (1, size))
    wide = tuple(n for pair in pairs for n in pair)
    return reshape(broadcast_to(reshape(x, narrow), wide), tuple(t * n for t, n in pairs))
