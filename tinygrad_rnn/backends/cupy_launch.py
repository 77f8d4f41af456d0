"""The small kernels of losses and indices: their arguments, their grids, and their launches.

`SmallKernels` overrides those methods of the contract for which `kernels/loss.cu`, `scatter.cu` and
`update.cu` (in `cupy_update.py`) have a kernel. Each computes what the body it hides computes:

    softmax_cross_entropy, ..._backward     1 launch each, instead of about a dozen
    reduce_losses                           1: the sum or mean of a loss per row
    scatter_add, sum_columns                2: row numbers are sorted, then runs of them are summed
    take_columns                            1 for all steps of a window

All of it is deterministic: the order of every sum follows from sizes and row numbers alone, so that
the same step gives the same bits again. Nothing waits for the device. (One thing would on any GPU:
to scatter by a bool mask, because the size of what a mask picks is a value.)

What does not fit a kernel goes to the plain body, as float16 does; only its scatters are added up
by the kernel, in float32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.backends.cupy_update import UpdateKernels
from tinygrad_rnn.backends.kernels import REAL

LONG_ROW = 1024  # columns, from which on a row has a block of its own
RANKED = 16384  # row numbers, up to which they are sorted by comparing each with each


def row_numbers(index: Any, shape: tuple[int, ...]) -> tuple[Array, int] | None:
    """An index of integers, as numbers of rows: of an array whose first `axes` have become one.

    Returns the numbers and `axes`; None for an index with slices, masks and the like.
    """
    parts = index if isinstance(index, tuple) else (index,)
    whole = [type(p) is int or getattr(p, "dtype", np.dtype("O")).kind in "iu" for p in parts]
    if not all(whole) or all(type(p) is int for p in parts) or len(parts) > len(shape):
        return None
    if len(parts) == 1:
        return parts[0].astype(np.int64, copy=False), 1
    numbers: Any = 0
    for part, size in zip(parts, shape, strict=False):
        wide = part if type(part) is int else part.astype(np.int64, copy=False)
        numbers = numbers * size + wide % max(1, size)  # -1 % size is the last one
    return numbers, len(parts)


class SmallKernels(UpdateKernels):
    """What a GPU does in small kernels of its own; a backend fills in the methods of `Kernels`."""

    deterministic = True  # False: `scatter_add` in float32 may use atomics, in no fixed order

    # ---- loss.cu ----

    def softmax_cross_entropy(
        self, logits: Array, targets: Array, counted: Array, smoothing: float
    ) -> tuple[Array, Array]:
        """As in the contract: a warp or a block for each row."""
        if logits.dtype not in REAL or not logits.size:
            return super().softmax_cross_entropy(logits, targets, counted, smoothing)
        xp, number = self.xp, logits.dtype.type
        with self.on(logits):
            loss = xp.empty(len(logits), dtype=logits.dtype)
            softmax = xp.empty(logits.shape, dtype=logits.dtype)
            arrays = (xp.ascontiguousarray(logits), *self._rows(targets, counted), loss, softmax)
            self._launch_rows(
                "softmax_cross_entropy", softmax, arrays, number(smoothing), number(1 - smoothing)
            )
        return loss, softmax

    def softmax_cross_entropy_backward(
        self, softmax: Array, targets: Array, counted: Array, factor: Array, smoothing: float
    ) -> Array:
        """As in the contract, in one pass."""
        if softmax.dtype not in REAL or factor.dtype != softmax.dtype or not softmax.size:
            return super().softmax_cross_entropy_backward(
                softmax, targets, counted, factor, smoothing
            )
        xp, number = self.xp, softmax.dtype.type
        with self.on(softmax):
            grad = xp.empty(softmax.shape, dtype=softmax.dtype)
            step = np.int32(len(factor) > 1)  # one row has one factor either way
            arrays = (xp.ascontiguousarray(softmax), *self._rows(targets, counted))
            factors = (xp.ascontiguousarray(factor), step)
            everywhere = number(smoothing / softmax.shape[1])
            self._launch_rows(
                "softmax_cross_entropy_backward",
                grad,
                (*arrays, *factors, grad),
                everywhere,
                number(1 - smoothing),
            )
        return grad

    def reduce_losses(self, loss: Array, counted: Array, mean: bool) -> tuple[Array, Array]:
        """As in the contract, in one block."""
        if loss.dtype not in REAL:
            return super().reduce_losses(loss, counted, mean)
        xp = self.xp
        with self.on(loss):
            total, count = (xp.empty((), dtype=loss.dtype) for _ in range(2))
            arrays = (xp.ascontiguousarray(loss), xp.ascontiguousarray(counted), total, count)
            numbers = (np.int64(loss.size), np.int32(mean))
            reduce = self.kernel("loss", "reduce_losses", REAL=REAL[loss.dtype])
            reduce((1,), (256,), (*arrays, *numbers), shared_mem=16 * 8)
        return total, count

    def _rows(self, targets: Array, counted: Array) -> tuple[Array, Array]:
        whole = targets.astype(np.int64, copy=False)
        return self.xp.ascontiguousarray(whole), self.xp.ascontiguousarray(counted)

    def _launch_rows(self, name: str, like: Array, arrays: Any, *numbers: Any) -> None:
        """Hand the rows of `like` to teams: a block of eight warps, or of one block."""
        rows, columns = like.shape
        width, height = (32, 8) if columns <= LONG_ROW else (256, 1)
        self.kernel("loss", name, REAL=REAL[like.dtype])(
            (-(-rows // height),),
            (width, height),
            (*arrays, np.int64(rows), np.int32(columns), *numbers),
            shared_mem=8 * like.dtype.itemsize,
        )

    # ---- scatter.cu ----

    def scatter_add(self, target: Array, index: Any, values: Array) -> None:
        """As in the contract, for every form of index; numbers must be in range (`check_index`).

        Whole numbers in integer arrays go to the plain body: their sums have no rounding, so the
        order of adding cannot show.
        """
        if target.dtype.kind != "f" or (target.dtype == np.float32 and not self.deterministic):
            super().scatter_add(target, index, values)
            return
        xp = self.xp
        with self.on(target):
            real = target.dtype in REAL
            work = xp.ascontiguousarray(target if real else target.astype(np.float32))
            found = row_numbers(index, target.shape)
            if found is None:  # slices, masks: the number of each element that the index picks
                numbers, flat = (
                    xp.arange(target.size).reshape(target.shape)[index],
                    work.reshape(-1),
                )
            else:
                numbers, axes = found
                flat = work.reshape((math.prod(target.shape[:axes]), *target.shape[axes:]))
            self._add_rows(flat, numbers, values)
            if work is not target:
                target[...] = work

    def _add_rows(self, target: Array, numbers: Array, values: Array) -> None:
        """``target[numbers] += values``, for a contiguous target and rows along its first axis."""
        count, size, width = numbers.size, len(target), math.prod(target.shape[1:])
        if not count or not target.size:
            return
        xp = self.xp
        given = xp.broadcast_to(values, (*numbers.shape, *target.shape[1:]))
        given = xp.ascontiguousarray(given.astype(target.dtype, copy=False))
        sizes = (np.int32(count), np.int32(size), np.int32(width))
        self.kernel("scatter", "add_rows", REAL=REAL[target.dtype])(
            (min(size, count), min(65535, -(-width // 32))),
            (32, 8),
            (target, *self._sorted(numbers, size), given, *sizes),
            shared_mem=256 * target.dtype.itemsize,
        )

    def _sorted(self, numbers: Array, size: int) -> tuple[Array, Array]:
        """Row numbers in order, from 0 on, and where each one was; equal ones stay in order."""
        xp = self.xp
        numbers = xp.ascontiguousarray(numbers.astype(np.int64, copy=False).reshape(-1))
        if numbers.size > RANKED:
            rows = xp.where(numbers < 0, numbers + size, numbers).astype(np.int32)
            order = xp.argsort(rows, kind="stable")
            return rows[order], order.astype(np.int32)
        found, order = (xp.empty(numbers.size, dtype=np.int32) for _ in range(2))
        self.kernel("scatter", "sort_rows", REAL="float")(
            (-(-numbers.size // 256),),
            (256,),
            (numbers, found, order, np.int32(numbers.size), np.int32(size)),
            shared_mem=4 * 256,
        )
        return found, order

    def take_columns(self, matrix: Array, index: Array, out: Array) -> None:
        """As in the contract, in one launch."""
        if matrix.dtype not in REAL or out.dtype != matrix.dtype or not out.flags.c_contiguous:
            super().take_columns(matrix, index, out)
            return
        steps, count = index.shape
        height, size = matrix.shape
        if not out.size:
            return
        with self.on(matrix):
            arrays = (
                self.xp.ascontiguousarray(matrix),
                self.xp.ascontiguousarray(index.astype(np.int64, copy=False)),
                out,
            )
            self.kernel("scatter", "take_columns", REAL=REAL[matrix.dtype])(
                (min(65535, -(-out.size // 256)),),
                (256,),
                (*arrays, *(np.int32(n) for n in (steps, height, count, size))),
            )

    def sum_columns(self, matrix: Array, index: Array, size: int) -> Array:
        """As in the contract: a block for each row of the matrix, a warp for each sum."""
        if matrix.dtype not in REAL or not matrix.size or not size:
            return super().sum_columns(matrix, index, size)
        height, count = matrix.shape
        with self.on(matrix):
            total = self.xp.zeros((height, size), dtype=matrix.dtype)
            self.kernel("scatter", "sum_columns", REAL=REAL[matrix.dtype])(
                (height,),
                (256,),
                (
                    self.xp.ascontiguousarray(matrix),
                    *self._sorted(index, size),
                    total,
                    np.int32(count),
                    np.int32(size),
                ),
            )
        return total
