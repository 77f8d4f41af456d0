"""What an op accepts besides Tensors, and what it says when its forward fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.backends import ARRAY_TYPES
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.errors import (
    DeviceError,
    DTypeError,
    IndexingError,
    ShapeError,
    TinygradError,
)

NUMBER_TYPES = (float, int, bool)


def complete(op: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
    """All inputs of `op` in order, where some were given by name; these leave `options`."""
    if getattr(op, "variadic", False):
        return inputs
    missing = op.inputs[len(inputs) :]
    if len(inputs) > len(op.inputs) or any(name not in options for name in missing):
        raise TypeError(f"{op.__name__} takes the inputs {op.inputs}, got {len(inputs)} of them")
    return (*inputs, *(options.pop(name) for name in missing))


def coerce(x: Any, inputs: Iterable[Any], op: str) -> Any:
    """Make an unusual operand usual, or refuse it."""
    if isinstance(x, np.generic) and x.dtype.kind in "biuf":
        # A NumPy scalar would turn float32 into float64; beside a Tensor it means the number.
        return x.item() if any(isinstance(i, Tensor) for i in inputs) else np.asarray(x)
    if isinstance(x, np.ma.MaskedArray):
        raise DTypeError(f"{op}: a masked array would lose its mask; use .filled() or tg.where")
    if isinstance(x, np.ndarray):
        return np.asarray(x)  # a matrix, say, whose * is a matrix product
    if isinstance(x, list | tuple):
        return Tensor(x)._data
    try:
        backends.of(x)  # a subclass of a known array type, or the first CuPy array
    except DTypeError:
        raise DTypeError(
            f"{op}: cannot work with an operand of type {type(x).__name__}; needed a Tensor, an "
            f"array or a number"
        ) from None
    return x


def arrays_in(value: Any, name: str) -> Iterator[tuple[str, Array]]:
    """The arrays in a saved value or an option (an index is a tuple of slices and arrays)."""
    if type(value) in ARRAY_TYPES:
        yield name, value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from arrays_in(part, name)


# ---- a failed forward ----

# What to do, where the library's own message says only what is wrong.
BROADCAST = (
    "Sizes are compared from the right and have to be equal or 1; use .reshape or tg.expand_dims."
)
ELEMENTWISE = (
    "add", "subtract", "multiply", "divide", "power", "maximum", "minimum", "where",
    "equal", "not_equal", "less", "less_equal", "greater", "greater_equal",
    "logical_and", "logical_or",
)  # fmt: skip
HINTS = {
    **dict.fromkeys(ELEMENTWISE, BROADCAST),
    "matmul": "What stands before the last two dimensions is compared from the right: equal, or 1.",
    "reshape": "The number of elements has to stay; one size may be -1, which is worked out.",
    "broadcast_to": "Sizes are compared from the right, and only a 1 can be stretched.",
    "concat": "Only the axis that is joined may differ; use .reshape(), or tg.pad the smaller one.",
    "max": "An empty axis has no largest element; look at the size first.",
    "min": "An empty axis has no smallest element; look at the size first.",
    "logsumexp": "An empty axis has no largest element; look at the size first.",
}


def raise_explained(error: Exception, op: Any, values: Sequence[Any]) -> NoReturn:
    """Raise what a failed forward means: typed where the cause is known, else with a note.

    Args:
        error: what the forward of `op` raised.
        op: a Primitive or Fused. Of one from outside the package a ValueError may mean anything.
        values: its operands.
    """
    if isinstance(error, TinygradError):
        raise error
    name = op.__name__
    seen = ", ".join(f"{v.shape} {v.dtype}" if type(v) in ARRAY_TYPES else repr(v) for v in values)
    arrays = [v for v in values if type(v) in ARRAY_TYPES]
    places = list(dict.fromkeys(backends.of(a).device_of(a) for a in arrays))
    if len(places) > 1:
        raise DeviceError(
            f"{name}: operands are on different devices ({' and '.join(places)}); "
            f"move one of them with .to({places[0]!r}). Operands: {seen}"
        ) from error
    if op.forward.__module__.startswith("tinygrad_rnn."):
        if isinstance(error, IndexError):
            raise IndexingError(f"{name}: {error}; operands: {seen}") from error
        if isinstance(error, ValueError):
            hint = f". {HINTS[name]}" if name in HINTS else ""
            raise ShapeError(f"{name}: {str(error).strip()}; operands: {seen}{hint}") from error
    error.add_note(f"in {name}, with operands: {seen}")
    if isinstance(error, MemoryError) and arrays:
        memory = backends.of(arrays[0]).memory(places[0])
        told = ", ".join(f"{size / 2**20:,.1f} MiB {what}" for what, size in memory.items())
        error.add_note(f"memory of {places[0]}: {told or 'not counted'}")
    raise error
