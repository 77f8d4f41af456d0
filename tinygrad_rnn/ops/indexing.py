"""Picking elements out, and adding gradients back where they came from.

Indexing and scattering are two halves of one linear map: the gradient of picking is to scatter,
the gradient of scattering is to pick. An element picked twice gets both gradients, which is what
an embedding lives on.
"""

from __future__ import annotations

import builtins
import operator
from typing import Any

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.backends import namespace
from tinygrad_rnn.backends.base import Array, check_range
from tinygrad_rnn.core.carriers import Part
from tinygrad_rnn.core.primitive import primitive
from tinygrad_rnn.core.tensor import Tensor, wrap
from tinygrad_rnn.errors import DeviceError, DTypeError, ShapeError
from tinygrad_rnn.ops.shape import normalize_axis, ravel


@primitive
def _getitem(x: Array, *, index: Any, shape: tuple[int, ...]) -> Array:
    return x[index]


@primitive
def _scatter(g: Array, *, index: Any, shape: tuple[int, ...]) -> Array:
    """Zeros of `shape` with `g` added at `index`."""
    target = namespace(g).zeros(shape, dtype=g.dtype)
    if _is_basic(index):
        target[index] = g  # slices name each element at most once
    else:
        backends.of(g).scatter_add(target, index, g)
    return target


def _put_back(g: Any, *, index: Any, shape: tuple[int, ...]) -> Any:
    """The gradient of picking; of a slice on plain arrays without the zeros around it."""
    if isinstance(g, Tensor) or not _is_basic(index):
        return _scatter(g, index=index, shape=shape)
    return Part(g, index, shape)


_getitem.fresh = True  # zeros with something in them, or a `Part`
_getitem.vjp(x=_put_back)
_scatter.vjp(g=lambda g, *, index, shape: _getitem(g, index=index, shape=shape))


def _is_basic(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(p is None or p is Ellipsis or isinstance(p, int | slice) for p in parts)


def getitem(x: Any, index: Any) -> Any:
    """``x[index]`` with ints, slices, None, Ellipsis, integer arrays, bool masks, or a tuple of
    these, as in NumPy. Basic indexing gives a view; the gradient scatters back.
    """
    like = x._data if isinstance(x, Tensor) else x
    if isinstance(index, tuple):
        # NumPy checks for itself, and the sizes need not be known.
        plain = type(like) is np.ndarray
        sizes = [0] * len(index) if plain else _sizes(index, x.shape)
        settled: Any = tuple(_settle(part, like, n) for part, n in zip(index, sizes, strict=True))
    else:
        settled = _settle(index, like, x.shape[0] if x.shape else 0)
    return _getitem(x, index=settled, shape=x.shape)


def _sizes(index: tuple[Any, ...], shape: tuple[int, ...]) -> list[int]:
    """For each part of an index, the size of the (first) dimension that it picks from."""
    used = [_dimensions(part) for part in index]
    sizes, axis = [], 0
    for part, n in zip(index, used, strict=True):
        sizes.append(shape[axis] if n and axis < len(shape) else 0)
        axis += len(shape) - builtins.sum(used) if part is Ellipsis else n
    return sizes


def _dimensions(part: Any) -> int:
    """How many dimensions a part of an index uses up: as many as a mask has, else one."""
    if part is None or part is Ellipsis or isinstance(part, bool | np.bool_):
        return 0
    if isinstance(part, list):
        part = np.asarray(part)
    return int(part.ndim) if getattr(part, "dtype", None) == np.bool_ else 1


def _settle(part: Any, like: Array, size: int, op: str = "getitem") -> Any:
    """One part of an index: Python's own as they are, arrays on the side of `like`.

    NumPy refuses a number that is out of range. Other libraries wrap it around, in silence, so for
    them it is checked here: on the host, which costs no waiting, if that is where it comes from.
    """
    if type(part) in PLAIN or part is Ellipsis:
        return part
    if isinstance(part, slice):
        ends = (part.start, part.stop, part.step)
        return part if all(type(e) in PLAIN for e in ends) else slice(*map(_whole, ends))
    if isinstance(part, bool | np.bool_):
        return backends.of(like).xp.asarray(bool(part))
    if isinstance(part, np.integer):
        return int(part)
    array = part._data if isinstance(part, Tensor) else part
    if isinstance(array, list | tuple):
        array = np.asarray(array, dtype=np.int64 if len(array) == 0 else None)
    if type(array) not in backends.ARRAY_TYPES or array.dtype.kind not in "biu":
        known = type(array) in backends.ARRAY_TYPES
        seen = f"an array of {array.dtype}" if known else f"a {type(array).__name__}"
        raise DTypeError(f"{op}: an index is made of integers, bools and slices, got {seen}")
    if type(like) is not np.ndarray and array.dtype.kind in "iu":
        backends.of(array).check_index(array, size, op, lowest=-size)
    if type(array) is np.ndarray and type(like) is not np.ndarray:
        backend = backends.of(like)
        return backend.asarray(array, backend.device_of(like))
    _check_place(array, like, op)
    # A copy of the caller's own array: one that is filled anew before the backward pass, as a data
    # loader's buffer is, would send the gradient to other rows.
    return array if array is not part or isinstance(part, Tensor) else array.copy()


PLAIN = (int, type(None))  # exactly: True is an int, and means another thing in an index


def _whole(number: Any) -> int | None:
    """A Python number of its own: an array or a Tensor at a slice's end may change later."""
    return number if number is None else operator.index(number)


def _numbers(indices: Any, like: Array, size: int, op: str) -> Any:
    """Integers and nothing else: a bool array would be read as a mask, a slice as a slice."""
    if not isinstance(indices, slice) and indices is not None and indices is not Ellipsis:
        numbers = _settle(indices, like, size, op)
        if isinstance(numbers, int) or numbers.dtype.kind in "iu":
            return numbers
    raise DTypeError(f"{op}: indices are integers, got {indices!r:.60}; use x[...] for the rest")


def _check_place(index: Array, like: Array, op: str) -> None:
    """Refuse an index from another device; only from the host it travels by itself."""
    if type(index) is not type(like):
        there, here = (backends.of(a).device_of(a) for a in (index, like))
        raise DeviceError(
            f"{op}: operands are on different devices (an index on {there}, the tensor on {here}); "
            f"move one of them with .to({here!r})"
        )


def as_index(ids: Any, like: Any, size: int, op: str, *, ignore: int | None = None) -> Array:
    """Class numbers (ids, targets) as an integer array beside `like`, checked against `size`.

    Ids still on the host are checked there, which costs no waiting for a device; an id equal to
    `ignore` passes. Negative ids do not count from the end here: they are always a mistake.
    """
    array = ids._data if isinstance(ids, Tensor) else ids
    if type(array) not in backends.ARRAY_TYPES:
        array = np.asarray(array)
    if array.dtype.kind not in "iu":
        if array.size:
            raise DTypeError(f"{op}: ids are integers, got {array.dtype}; use .to(tg.int64)")
        array = array.astype(np.int64)
    like = like._data if isinstance(like, Tensor) else like
    backend = backends.of(like)
    if type(array) is np.ndarray:
        counted = array if ignore is None else array[array != ignore]
        if counted.size:
            check_range(int(counted.min()), int(counted.max()), size, op)
        if backend.array_type is not np.ndarray:
            return backend.asarray(array, backend.device_of(like))
    else:
        _check_place(array, like, op)
        xp = backend.xp  # no mask: how many elements one picks is a value to wait for
        backend.check_index(
            array if ignore is None else xp.where(array == ignore, 0, array), size, op
        )
    # As in `_settle`: a loader may refill its own, and of whatever `ids` is, this may be a view.
    return array if isinstance(ids, Tensor) else array.copy()


def take(x: Any, indices: Any, axis: int | None = None) -> Any:
    """Slices of `x` along `axis`, by number, in the shape of `indices`; flat without an axis.

    Negative numbers count from the end, as in NumPy; out of range raises IndexError.
    """
    if axis is None:
        return take(ravel(x), indices, 0)
    place = normalize_axis(axis, x.ndim, "take")
    like = x._data if isinstance(x, Tensor) else x
    numbers = _numbers(indices, like, x.shape[place], "take")
    return _getitem(x, index=(*(slice(None),) * place, numbers), shape=x.shape)


def rows(table: Any, ids: Array) -> Any:
    """Rows of a table (V, ...) by ids that `as_index` has checked: what an embedding is."""
    return _getitem(table, index=(ids,), shape=table.shape)


def take_along_axis(x: Any, indices: Any, axis: int = -1) -> Any:
    """One element per position: ``out[.., k, ..] = x[.., indices[.., k, ..], ..]`` along `axis`.

    Args:
        x: Tensor of any shape.
        indices: integers with as many dimensions as `x`, broadcast against it off the axis.
        axis: the axis that `indices` counts along.
    """
    place = normalize_axis(axis, x.ndim, "take_along_axis")
    like = x._data if isinstance(x, Tensor) else x
    numbers = _numbers(indices, like, x.shape[place], "take_along_axis")
    if isinstance(numbers, int) or numbers.ndim != x.ndim:
        raise ShapeError(
            f"take_along_axis: indices of shape {getattr(numbers, 'shape', ())} need as many "
            f"dimensions as the tensor of shape {x.shape}"
        )
    return along_axis(x, numbers, place)


def diagonal(x: Any) -> Any:
    """``x[k, k]`` for every k along the first two dimensions, which have one size."""
    numbers = namespace(x._data if isinstance(x, Tensor) else x).arange(x.shape[0])
    return _getitem(x, index=(numbers, numbers), shape=x.shape)


def along_axis(x: Any, numbers: Array, place: int) -> Any:
    """`take_along_axis` for numbers that are known to be in range."""
    xp = namespace(numbers)
    index: list[Any] = []
    for i, size in enumerate(x.shape):
        shape = [1] * x.ndim
        shape[i] = size
        index.append(numbers if i == place else xp.arange(size).reshape(shape))
    return _getitem(x, index=tuple(index), shape=x.shape)


def one_hot(ids: Any, num_classes: int, *, dtype: Any = np.float32) -> Tensor:
    """A row of zeros with a single one per id: integers (...) to (..., num_classes).

    No gradient flows to the ids. Raises IndexError for an id outside 0 .. num_classes - 1.
    """
    like = ids._data if isinstance(ids, Tensor) else ids
    if type(like) not in backends.ARRAY_TYPES:
        like = np.asarray(like)
    numbers = as_index(like, like, num_classes, "one_hot")
    columns = namespace(numbers).arange(num_classes)
    return wrap((numbers[..., None] == columns).astype(dtype), None)
