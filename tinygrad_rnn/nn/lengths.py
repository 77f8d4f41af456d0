"""Sequences of unequal lengths side by side in one batch.

Rows that are shorter than the longest are filled up with anything, and their lengths say so:

    x           lengths        what a layer makes of it

    h e l l o   5              h_5 is the last state
    y e s . .   3              h_3 is: after step 3 the state stays as it is (`ops/sequence.py`),
    n o . . .   2              and outputs are 0

What stands in the padding has no influence on values, states or gradients, not even if it is NaN,
and no gradient reaches it. Rows need not be sorted. Read backwards, each row begins at its own end.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.backends import namespace
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.errors import DTypeError, ShapeError
from tinygrad_rnn.ops.arithmetic import where
from tinygrad_rnn.ops.sequence import turned
from tinygrad_rnn.ops.shape import flip


class Lengths:
    """Where the rows of a batch end.

    Args:
        lengths: (B,) whole numbers from 0 to T; a list or an array. Those on a device are read,
            which waits for it.
        T, B: steps and rows of the batch.
        like: an array beside which the masks are to be.
        layer: what errors call the layer.

    Attributes:
        ended: (T, B) bool, True in the padding, on the device.
    """

    def __init__(self, lengths: Any, T: int, B: int, like: Array, layer: str) -> None:
        numbers = _on_host(lengths, layer)
        if numbers.shape != (B,):
            raise ShapeError(
                f"{layer}: needed one length for each of the {B} rows of the batch, got lengths of "
                f"shape {numbers.shape}"
            )
        wrong = numbers[(numbers < 0) | (numbers > T)]
        if wrong.size:
            raise ShapeError(
                f"{layer}: a row has length {wrong[0]}; needed 0 <= length <= T = {T}, the steps "
                f"of the input. Is the batch axis where batch_first says?"
            )
        steps = np.arange(T)[:, None]
        self._host = steps >= numbers  # (T, B)
        self._order = np.where(self._host, steps, numbers - 1 - steps)
        backend = backends.of(like)
        self._device = backend.device_of(like)
        self.ended = backend.asarray(self._host, self._device)
        self._turn: Array | None = None

    def blank(self, x: Any) -> Any:
        """(T, B, ...) with zeros in the padding, to which no gradient goes."""
        xp = namespace(self.ended)
        return where(xp.reshape(self.ended, self.ended.shape + (1,) * (x.ndim - 2)), 0, x)

    def blank_ids(self, ids: Array) -> Array:
        """Ids (T, B), on the host or not, with 0 in the padding: whatever stood there may do."""
        ended = self._host if type(ids) is np.ndarray else self.ended
        filled: Array = namespace(ids).where(ended, 0, ids)
        return filled

    def turn(self, x: Any) -> Any:
        """Each row of (T, B, ...) backwards within its own length."""
        if self._turn is None:
            self._turn = backends.of(self.ended).asarray(self._order, self._device)
        return turned(x, order=self._turn)


def turn(x: Any, lengths: Lengths | None) -> Any:
    """A sequence (T, B, ...) backwards in time."""
    return flip(x, 0) if lengths is None else lengths.turn(x)


def _on_host(lengths: Any, layer: str) -> np.ndarray:
    array = lengths._data if isinstance(lengths, Tensor) else lengths
    if type(array) in backends.ARRAY_TYPES:
        array = backends.of(array).to_host(array)
    try:
        array = np.asarray(array)
    except ValueError as error:
        raise ShapeError(f"{layer}: lengths are one whole number for each row; {error}") from None
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise DTypeError(f"{layer}: lengths are whole numbers, got {array.dtype}")
    return array.clip(max=np.iinfo(np.int64).max).astype(np.int64)  # what is too large stays so
