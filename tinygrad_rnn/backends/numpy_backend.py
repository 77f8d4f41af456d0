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


class NumpyBackend(Backend):
    """Arrays in host memory, computed on by NumPy."""

    name = "cpu"
    xp = np
    array_type = np.ndarray

    def asarray(self, host: np.ndarray, device: str) -> Array:
        return np.array(host, order="C", copy=True)

    def to_host(self, array: Array) -> np.ndarray:
        return np.array(array, order="C", copy=True)

    def scatter_add(self, target: Array, index: Any, values: Array) -> None:
        """As in the contract; rows picked by one integer array take a faster way.

        ``np.add.at`` adds element by element. Sorting the row numbers first lets ``reduceat``
        add each group of equal rows in one sweep: 3,200 rows of 256 in 2 ms instead of 8.
        """
        rows = index[0] if isinstance(index, tuple) and len(index) == 1 else index
        if not (isinstance(rows, np.ndarray) and rows.dtype.kind in "iu" and target.ndim > 1):
            np.add.at(target, index, values)
            return
        flat = rows.ravel()
        if not flat.size or not target.size:
            return
        flat = np.where(flat < 0, flat + len(target), flat)
        order = np.argsort(flat, kind="stable")
        ordered = flat[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        rows_of_values = values.reshape((flat.size, *target.shape[1:]))
        target[ordered[starts]] += np.add.reduceat(rows_of_values[order], starts, axis=0)

    def lstm_step(self, gates: Array, c_before: Array, c: Array, h: Array) -> None:
        """As in the contract, with one tanh over all four gates.

        NumPy's tanh is vectorised and a call costs as much as a few thousand elements, so the three
        sigmoids ride along: sigmoid(x) = 0.5 tanh(x / 2) + 0.5.
        """
        size = len(c)
        i_f, g, o = gates[: 2 * size], gates[2 * size : 3 * size], gates[3 * size :]
        i_f *= 0.5
        o *= 0.5
        np.tanh(gates, out=gates)
        for part in (i_f, o):
            part *= 0.5
            part += 0.5
        np.multiply(i_f[size:], c_before, out=c)
        np.multiply(i_f[:size], g, out=h)  # h as scratch for i * g
        c += h
        np.tanh(c, out=h)
        h *= o

    def lstm_step_backward(
        self, dh: Array, dc: Array, gates: Array, c_before: Array, c: Array, dgates: Array
    ) -> None:
        """As in the contract, in place in two scratch arrays, so that a step stays in the cache."""
        size = len(c)
        i, f, g, o = gates.reshape((4, *c.shape))
        tanh_c = np.tanh(c)
        scratch = np.subtract(1, o)  # through h = o tanh(c), to o: dh tanh(c) o (1 - o)
        scratch *= o
        scratch *= tanh_c
        np.multiply(scratch, dh, out=dgates[3 * size :])
        np.multiply(tanh_c, tanh_c, out=scratch)  # and to c: dh o (1 - tanh(c)^2)
        np.subtract(1, scratch, out=scratch)
        scratch *= o
        scratch *= dh
        dc += scratch
        for k, gate, other in ((0, i, g), (1, f, c_before)):  # c = f c_before + i g
            np.subtract(1, gate, out=scratch)
            scratch *= gate
            scratch *= other
            np.multiply(scratch, dc, out=dgates[k * size : (k + 1) * size])
        np.multiply(g, g, out=scratch)
        np.subtract(1, scratch, out=scratch)
        scratch *= i
        np.multiply(scratch, dc, out=dgates[2 * size : 3 * size])
        dc *= f

    def global_norm(self, arrays: Sequence[Array]) -> Array:
        """As in the contract; a BLAS dot product where float32 squares cannot overflow.

        The dot product is taken in the array's own precision and is redone in float64 when it
        comes out infinite, or so small that squares may have been lost.
        """
        total = 0.0
        for array in arrays:
            flat = array.ravel()
            with np.errstate(over="ignore"):  # noticed, and mended, below
                square = float(np.dot(flat, flat))
            if not 1e-30 < square < 1e37:
                wide = flat.astype(np.float64)
                square = float(np.dot(wide, wide))
            total += square
        return np.asarray(math.sqrt(total))

    def erf(self, x: Array) -> Array:
        """The standard library's erf, element by element: exact, and slow (0.1 us an element)."""
        values = np.array([math.erf(v) for v in x.ravel().tolist()], dtype=x.dtype)
        return values.reshape(x.shape)
