"""NumPy on the CPU: the reference backend, and the few places where NumPy can be made faster.

An override earns its place by a measurement, and computes what the body it hides computes:
`tests/test_backends.py` compares each with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_rnn.backends.base import Array, Backend
from tinygrad_rnn.backends.memory import keep_freed_memory

keep_freed_memory()


class NumpyBackend(Backend):
    """Arrays in host memory, computed on by NumPy."""

    name = "cpu"
    xp = np
    array_type = np.ndarray

    def asarray(self, host: np.ndarray, device: str) -> Array:
        return np.array(host, order="C", copy=True)

    def to_host(self, array: Array) -> np.ndarray:
        return np.array(array, order="C", copy=True)

    def read_only(self, array: Array) -> Array:
        view = array.view()
        view.flags.writeable = False
        return view

    def scatter_add(self, target: Array, index: Any, values: Array) -> None:
        """As in the contract; rows picked by one integer array take a faster way.

        ``np.add.at`` adds element by element. Sorting the row numbers first lets ``reduceat``
        add each group of equal rows in one sweep: 3,200 rows of 256 in 2.2 ms instead of 7.1.
        """
        rows = index[0] if isinstance(index, tuple) and len(index) == 1 else index
        if not (isinstance(rows, np.ndarray) and rows.dtype.kind in "iu" and target.ndim > 1):
            np.add.at(target, index, values)
            return
        flat = rows.ravel().astype(np.int64, copy=False)  # row 200 does not fit into the ids' int8
        self.check_index(flat, len(target), "scatter_add", lowest=-len(target))
        if not flat.size or not target.size:
            return
        flat = np.where(flat < 0, flat + len(target), flat)
        order = np.argsort(flat, kind="stable")
        ordered = flat[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        rows_of_values = values.reshape((flat.size, *target.shape[1:]))
        target[ordered[starts]] += np.add.reduceat(rows_of_values[order], starts, axis=0)

    def take_columns(self, matrix: Array, index: Array, out: Array) -> None:
        """As in the contract; "clip" spares a buffer, and clips nothing: the index is in range."""
        for columns, numbers in zip(out, index, strict=True):
            matrix.take(numbers, axis=1, out=columns, mode="clip")

    def sum_columns(self, matrix: Array, index: Array, size: int) -> Array:
        """As in the contract, as a product with one-hot columns while there are few of them.

        (1024, 3200) to 96 columns: 4 ms, by sorting and adding 31 ms; (400, 25) to 64: 0.01 and
        0.1 ms. But 0 times infinity is NaN, and float16 has no BLAS.
        """
        if size <= max(256, len(index)) and matrix.dtype.itemsize >= 4:
            one_hot = np.zeros((len(index), size), dtype=matrix.dtype)
            one_hot[np.arange(len(index)), index] = 1
            with np.errstate(invalid="ignore", over="ignore"):  # noticed, and mended
                total: Array = matrix @ one_hot
            if np.isfinite(total).all():
                return total
        return super().sum_columns(matrix, index, size)

    def matmul(self, a: Array, b: Array) -> Array:
        """As in the contract; of two small matrices `dot` gives the product 1 us sooner.

        A factor of one number `dot` takes for a scalar, and if that is 0, it does not look at the
        other: what is not finite there would get lost.
        """
        if a.ndim == b.ndim == 2 and a.size > 1 < b.size:
            return a.dot(b)
        return np.matmul(a, b)

    def squared_norms(self, arrays: Sequence[Array]) -> Array:
        """As in the contract; a BLAS dot product where float32 squares cannot overflow.

        The dot product is taken in the array's own precision, at least float32 (in float16 a sum
        of 2,000 ones stays 2,000), and is redone in float64 when it comes out infinite, or so small
        that squares may have been lost.
        """
        squares = []
        with np.errstate(over="ignore"):  # noticed, and mended
            for array in arrays:
                flat = array.ravel()
                if flat.dtype.itemsize < 4:
                    flat = flat.astype(np.float32)
                square = float(np.dot(flat, flat))
                if not 1e-30 < square < 1e37:
                    wide = flat.astype(np.float64)
                    square = float(np.dot(wide, wide))
                squares.append(square)
        return np.array(squares)

    def clip_factor(self, arrays: Sequence[Array], max_norm: float) -> tuple[Array, Array, Array]:
        """As in the contract, in Python's numbers: a call on a 0-d array costs ten times more."""
        squares = self.squared_norms(arrays)
        norm = math.sqrt(squares.sum())
        clips = max_norm < math.inf and not norm <= max_norm  # a NaN clips, to NaN
        factor = max_norm / (norm + 1e-6) if clips else 1.0
        return squares, np.array(norm), np.array(factor)

    def erf(self, x: Array) -> Array:
        """The standard library's erf, element by element: exact, and slow (0.1 us an element)."""
        dtype = x.dtype if x.dtype.kind == "f" else np.float64
        values = np.array([math.erf(v) for v in x.ravel().tolist()], dtype=dtype)
        return values.reshape(x.shape)
