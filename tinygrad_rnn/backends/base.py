"""The contract between the engine and an array library.

A backend is a small table of the things on which NumPy and CuPy disagree, or which one of them can
do faster: how an array travels, how repeated indices are added up, how a recurrent layer is run on
a GPU. Everything else in this package is written once, in terms of ``backend.xp``, the
array library's own namespace.

Every kernel below has a plain body in terms of ``xp``. That body is the reference: it is what a
person reads, what a subclass may override for speed, and what the override is tested against.
To add a backend of your own, subclass `Backend`, fill in the part marked *must*, and hand an
instance to `tinygrad_rnn.backends.register`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from tinygrad_rnn.errors import DataError, DeviceError, IndexingError

Array = Any  # an array of whichever library the backend wraps
Namespace = Any  # the module (or module-like object) with that library's functions


class Backend:
    """One array library: where its arrays live and what it does in its own way."""

    name: str  # the device name without its number: "cpu", "cuda"
    xp: Namespace
    array_type: type
    fused_updates = False  # whether `adam_step` over all parameters beats a formula for each

    # ---- what a backend must say: how arrays come, go and are waited for ----

    def device_names(self) -> list[str]:
        """Every device of this backend that can be used right now."""
        return [self.name]

    def device_of(self, array: Array) -> str:
        """The name of the device an array lives on."""
        return self.name

    def asarray(self, host: np.ndarray, device: str) -> Array:
        """A copy of a host array on `device`, C-contiguous, with the same dtype."""
        raise NotImplementedError(f"the {self.name} backend does not say how to copy to it")

    def to_host(self, array: Array) -> np.ndarray:
        """A copy of `array` as a NumPy array: on an accelerator this waits for the device."""
        raise NotImplementedError(f"the {self.name} backend does not say how to copy from it")

    def owner(self, array: Array) -> Any:
        """The object that owns the memory: the same one for an array and for all of its views.

        In between may stand a helper that is no array (NumPy's ``as_strided`` has one).
        """
        owner = base = array
        while (base := getattr(base, "base", None)) is not None:
            owner = base if hasattr(base, "shape") else owner
        return owner

    def read_only(self, array: Array) -> Array:
        """`array` for looking at: where the library can, a view that refuses to be written to."""
        return array

    def on(self, array: Array) -> AbstractContextManager[Any]:
        """Where new arrays go to the device of `array`."""
        return contextlib.nullcontext()

    def synchronize(self) -> None:
        """Wait until all work handed to the device is done (nothing to do on a CPU)."""

    def memory(self, device: str = "") -> dict[str, int]:
        """Bytes in use and reserved, by name, where the library keeps count; "": where we are."""
        return {}

    # ---- indices ----

    def scatter_add(self, target: Array, index: Any, values: Array) -> None:
        """``target[index] += values`` in place, where a repeated index adds up every time.

        Plain ``+=`` keeps only one of the repeats: the classic way to lose an embedding's gradient.
        """
        self.xp.add.at(target, index, values)

    def check_index(self, index: Array, size: int, op: str, *, lowest: int = 0) -> None:
        """Raise IndexError unless ``lowest <= index < size`` everywhere.

        CuPy wraps an index that is out of range instead of refusing it, so the check cannot be
        left to the library. This body waits for the device; ids that are still on the host are
        checked there, before they travel (`tinygrad_rnn.ops.indexing.as_index`).
        """
        if index.size:
            low, high = self.xp.min(index), self.xp.max(index)
            check_range(int(low), int(high), size, op, lowest=lowest)

    def take_columns(self, matrix: Array, index: Array, out: Array) -> None:
        """Columns picked for every step, ``out[t] = matrix[:, index[t]]``: (G, V) and (T, B) into
        (T, G, B); `index` is in range.
        """
        for columns, numbers in zip(out, index, strict=True):
            columns[...] = matrix[:, numbers]

    def sum_columns(self, matrix: Array, index: Array, size: int) -> Array:
        """Columns of equal number added up: (G, N) and (N,) to (G, size); undoes `take_columns`."""
        total = self.xp.zeros((size, len(matrix)), dtype=matrix.dtype)
        self.scatter_add(total, index, matrix.T)
        return total.T

    # ---- recurrent layers ----

    def window(self, cell: str, impl: str, like: Array, B: int, H: int, *, relu: bool) -> Any:
        """The backend's own way to run a recurrent layer over a window (`backends/window.py`), for
        arrays such as `like`; None where it has none, and the loop of the op itself is used.

        `impl` is "auto" or the name of a way; DataError where that way is not to be had.
        """
        if impl not in ("auto", "fused"):
            raise DataError(
                f"{cell}: impl={impl!r} is a kernel of its own, which the {self.name} backend does "
                f"not have; use impl='auto'"
            )
        return None

    # ---- whole-array kernels ----

    def matmul(self, a: Array, b: Array) -> Array:
        """``a @ b``: matrices, or stacks of them."""
        return self.xp.matmul(a, b)

    def sum_rows(self, x: Array) -> Array:
        """The sum of each row of a matrix: (R, N) to (R,)."""
        return self.xp.sum(x, axis=1)

    def softmax_cross_entropy(
        self, logits: Array, targets: Array, counted: Array, smoothing: float
    ) -> tuple[Array, Array]:
        """Loss per row and softmax of the rows: (N, V) and (N,) to (N,) and (N, V).

        `counted` (N,) is False where a target is to be ignored; the loss is 0 there.
        """
        xp = self.xp
        rows = xp.arange(len(targets))
        shifted = logits - xp.max(logits, axis=1, keepdims=True)  # exp never overflows
        softmax = xp.exp(shifted)
        total = xp.sum(softmax, axis=1, keepdims=True)  # >= 1: the largest term is exp(0)
        softmax /= total
        log_total = xp.log(total[:, 0])
        loss = log_total - shifted[rows, xp.where(counted, targets, 0)]
        if smoothing:
            spread = log_total - xp.mean(shifted, axis=1)
            loss = (1 - smoothing) * loss + smoothing * spread
        return xp.where(counted, loss, 0), softmax

    def reduce_losses(self, loss: Array, counted: Array, mean: bool) -> tuple[Array, Array]:
        """The sum of the losses of all rows, or their mean over those that are counted, and how
        many these are, at least 1: (N,) and (N,) to two 0-d arrays.

        Both stay on the device, where reading them would make it wait. The count has at least
        float32: 70,000 rows are infinitely many in float16.
        """
        xp = self.xp
        count = xp.maximum(xp.sum(counted), 1).astype(np.promote_types(loss.dtype, np.float32))
        total = xp.sum(loss, dtype=np.float64)  # in float32 two losses of 2e38 add up to inf
        return xp.asarray(total / count if mean else total, dtype=loss.dtype), count

    def softmax_cross_entropy_backward(
        self, softmax: Array, targets: Array, counted: Array, factor: Array, smoothing: float
    ) -> Array:
        """The gradient of the logits, (N, V): ``factor * (softmax - target)`` row by row.

        `factor` is the gradient of each row's loss, (N,), or (1,) for one that all rows share;
        that of a row which is not counted is taken for 0.
        """
        xp = self.xp
        factor = xp.where(counted, factor, 0)
        grad = softmax * factor[:, None]
        if smoothing:
            grad -= factor[:, None] * (smoothing / softmax.shape[1])
        grad[xp.arange(len(targets)), xp.where(counted, targets, 0)] -= factor * (1 - smoothing)
        return grad.astype(softmax.dtype, copy=False)

    # ---- all parameters at once: what an optimizer's step is made of ----

    def squared_norms(self, arrays: Sequence[Array]) -> Array:
        """The squared 2-norm of each of n >= 1 arrays: (n,) float64 on their device.

        Summed in float64: in float32 the squares of gradients near 1e20 are already infinite, and
        clipping by an infinite norm silently zeroes every gradient.
        """
        xp = self.xp
        return xp.stack([xp.sum(xp.square(array, dtype=np.float64)) for array in arrays])

    def clip_factor(self, arrays: Sequence[Array], max_norm: float) -> tuple[Array, Array, Array]:
        """The squared norms, (n,); the norm of all, 0-d; and the factor that limits it, 0-d.

        All are float64 on the device of the arrays. The factor is exactly 1 where nothing is to be
        clipped: where ``norm <= max_norm``, and for an infinite `max_norm`.
        """
        xp, squares = self.xp, self.squared_norms(arrays)
        norm = xp.asarray(xp.sqrt(xp.sum(squares)))  # NumPy's sum is no array
        if max_norm == math.inf:
            return squares, norm, xp.ones_like(norm)
        return squares, norm, xp.where(norm <= max_norm, 1.0, max_norm / (norm + 1e-6))

    def scale_all(self, arrays: Sequence[Array], factor: Array) -> None:
        """``array *= factor`` for each; `factor` is 0-d and stays on the device."""
        for array in arrays:
            array *= factor.astype(np.promote_types(array.dtype, np.float32))

    def adam_step(
        self,
        parameters: Sequence[tuple[Array, Array, Array, Array]],
        *,
        betas: tuple[float, float],
        step_size: float,
        eps: float,
        weight_decay: float,
        shrink: float,
    ) -> None:
        """One step of Adam for (x, g, m, v) of each parameter, in place: `Adam.update`, unrolled.

        `step_size` and `eps` contain what the number of the step has to do with them; `shrink`
        multiplies the weights before the step (AdamW).
        """
        beta1, beta2 = betas
        for x, g, m, v in parameters:
            x *= shrink
            if weight_decay:
                g = g + weight_decay * x
            m[...] = m + (g - m) * (1 - beta1) if beta1 > 0.5 else g - (g - m) * beta1
            v[...] = v * beta2 + g * (1 - beta2) * g
            x -= m / (self.xp.sqrt(v) + eps) * step_size

    def erf(self, x: Array) -> Array:
        """The error function, elementwise."""
        raise NotImplementedError(f"the {self.name} backend has no error function")


def check_range(low: int, high: int, size: int, op: str, *, lowest: int = 0) -> None:
    """Raise the one IndexError for an index out of range."""
    if low < lowest or high >= size:
        wrong = low if low < lowest else high
        advice = "" if lowest else " Check the vocabulary (or number of classes) against the ids."
        raise IndexingError(
            f"{op}: index {wrong} is out of range; needed {lowest} <= index < {size}.{advice}"
        )


def wrong_device(device: str, known: Sequence[str]) -> DeviceError:
    """The error for a device name that no backend answers to."""
    return DeviceError(
        f"unknown device {device!r}; known: {', '.join(known)} (and 'cuda:N' for the N-th GPU)"
    )
