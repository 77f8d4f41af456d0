"""A recurrent layer's time loop as a GPU does it: three ways, all of them the shared loop's equal.

The loops in `ops/lstm.py` and its neighbours hand each step to the array library, a dozen calls or
more. A GPU is done with such a step before Python has asked for the next, so here the whole window
is one thing a backend may do in its own way:

    "fused"       per step one matrix product (cuBLAS) and one pointwise kernel      steps.cu
    "step"        per step one launch of a kernel that does both                     sequence.cu
    "persistent"  one launch for all steps; the weights stay on the chip             sequence.cu

This file says which kernels are started, with which buffers, in which order; `plan.py` says with
how many blocks. Neither touches CuPy. What they need of a GPU is a `Device`, and the tests give
them one that runs the very same kernels on a CPU (`tests/test_sequence_kernels.py`).

Arrays are row-major here, (T, B, ...): gates (T, B, G) with G = GATES * H rows of W_hh, gradients
of pre-activations (T, B, SLOPES * H); the GRU has four of them for three gates (`ops/gru.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.backends.kernels import GATES, REAL, find
from tinygrad_rnn.backends.plan import THREADS, Device, Plan, plan
from tinygrad_rnn.errors import DataError

# "auto" takes the persistent kernel where the batch needs at most this many launches of it, one
# after the other; beyond that cuBLAS is quicker.
MOST_LAUNCHES = 2


class Window:
    """One layer and direction over one window; `run` and `run_backward` are the three ways."""

    def __init__(self, device: Device, cell: str, relu: bool) -> None:
        self.device, self.cell, self.relu = device, cell, int(relu)
        self.n_gates = GATES[cell]
        self.n_slopes = 4 if cell == "gru" else self.n_gates

    def forward(
        self,
        gates: Array,
        w_hh: Array,
        b_ih: Array | None,
        b_hh: Array | None,
        states: Sequence[Array],
        ended: Array | None,
    ) -> Array | None:
        """Fill in `states`, (T+1, B, H) each, of which the first are given: h, and an LSTM's c.

        `gates` (T, B, G) holds W_ih x_t and is overwritten with the activated gates. `ended` (T, B)
        is True where a row is over and its state stays. Returns the GRU's q (T, B, H), else None.
        """
        T, B = gates.shape[:2]
        H = w_hh.shape[1]
        h, c = states[0], states[1] if self.cell == "lstm" else None
        gru = self.cell == "gru"
        q = self.device.xp.empty((T, B, H), dtype=gates.dtype) if gru else None
        given = (self._whole(a) for a in (w_hh, b_ih, b_hh))
        self.run((gates, *given, h, c, q, self._mask(ended, T, B)), T, B, H)
        return q

    def backward(
        self,
        g: Sequence[Array],
        gates: Array,
        w_hh: Array,
        states: Sequence[Array],
        q: Array | None,
        ended: Array | None,
    ) -> tuple[Array, Array]:
        """From g, the gradients of all `states`, back to slopes and to the first states.

        Returns the gradients of the pre-activations (T, B, SLOPES * H), and of the first states
        (S, B, H).
        """
        T, B = gates.shape[:2]
        H, xp, lstm = w_hh.shape[1], self.device.xp, self.cell == "lstm"
        g, w_hh, ended = [*map(self._whole, g)], self._whole(w_hh), self._mask(ended, T, B)
        slopes = xp.empty((T, B, self.n_slopes * H), dtype=gates.dtype)
        carry = xp.empty((2, B, H), dtype=gates.dtype)
        c, dc = (states[1], g[1]) if lstm else (None, None)
        given = (gates, states[0], c, q, ended, g[0], dc)
        self.run_backward(given, w_hh, slopes, carry, T, B, H)
        return slopes, carry[: len(states)]

    def _whole(self, array: Array | None) -> Array | None:
        """For a kernel, which takes no strides: in C order."""
        return None if array is None else self.device.xp.ascontiguousarray(array)

    def _mask(self, ended: Array | None, T: int, B: int) -> Array | None:
        """The same for (T, B) flags: one byte each, and every one of them there."""
        if ended is None:
            return None
        return self._whole(self.device.xp.broadcast_to(ended, (T, B)).astype(bool, copy=False))

    def run(self, arrays: tuple[Any, ...], T: int, B: int, H: int) -> None:
        """All steps, first to last: gates, w_hh, b_ih, b_hh, h, c, q, ended as in `forward`."""
        raise NotImplementedError

    def run_backward(
        self,
        given: tuple[Any, ...],
        w_hh: Array,
        slopes: Array,
        carry: Array,
        T: int,
        B: int,
        H: int,
    ) -> None:
        """All steps, last to first. `given`: gates, h, c, q, ended, and the gradients of h and c.

        `carry` (2, B, H) receives the gradients of the first states.
        """
        raise NotImplementedError


class FusedWindow(Window):
    """Two launches a step: the product W_hh h in cuBLAS, and the rest of the step."""

    def _launcher(self, name: str, dtype: Any, B: int, H: int) -> Callable[..., None]:
        variant = find("steps", CELL=self.n_gates, REAL=REAL[dtype])
        return self.device.launcher(variant, name, -(-B * H // THREADS), 0, together=False)

    def run(self, arrays: tuple[Any, ...], T: int, B: int, H: int) -> None:
        gates, w_hh, b_ih, b_hh, h, c, q, ended = arrays
        device, gru = self.device, self.cell == "gru"
        # r multiplies U_n h in a GRU, so that product stays by itself; else it is added in place.
        recurrent = device.xp.empty((B, 3 * H), dtype=gates.dtype) if gru else None
        out = gates if recurrent is None else recurrent
        multiply = device.multiplier(h, w_hh, out, add=not gru, transposed=True)
        start = self._launcher("step_forward", gates.dtype, B, H)
        fixed = device.arguments(gates, recurrent, b_ih, b_hh, h, c, q, ended)
        sizes = device.arguments(B, H, self.relu)
        for t, number in enumerate(device.arguments(*range(T))):
            multiply(t)
            start((*fixed, number, *sizes))

    def run_backward(
        self,
        given: tuple[Any, ...],
        w_hh: Array,
        slopes: Array,
        carry: Array,
        T: int,
        B: int,
        H: int,
    ) -> None:
        device = self.device
        carry[...] = 0
        received = device.xp.empty((B, H), dtype=slopes.dtype)
        met_state = slopes[..., H:] if self.cell == "gru" else slopes  # r, z, q of n, r, z, q
        multiply = device.multiplier(met_state, w_hh, received, add=False, transposed=False)
        start = self._launcher("step_backward", slopes.dtype, B, H)
        sizes = device.arguments(B, H, self.relu)
        numbers = device.arguments(*range(-1, T))  # of step t the (t + 1)-th
        start((*device.arguments(*given, None, carry, slopes), numbers[T], *sizes))
        fixed = device.arguments(*given, received, carry, slopes)
        for t in range(T - 1, -1, -1):
            multiply(t)
            start((*fixed, numbers[t], *sizes))  # step t - 1, or with t = 0 what is left to do


class KernelWindow(Window):
    """Steps inside a kernel: all of them in one launch, or one in each."""

    def __init__(
        self, device: Device, cell: str, relu: bool, plan: Plan, *, persistent: bool
    ) -> None:
        super().__init__(device, cell, relu)
        self.plan, self.persistent = plan, persistent

    def _spans(self, T: int) -> list[tuple[int, int]]:
        """The steps of each launch, first to last."""
        return [(0, T)] if self.persistent else [(t, t + 1) for t in range(T)]

    def _launcher(self, name: str, shared: int) -> Callable[[tuple[Any, ...]], None]:
        p, together = self.plan, self.persistent
        return self.device.launcher(p.variant, name, p.blocks, shared, together=together)

    def _batches(self, B: int) -> range:
        return range(0, B, self.plan.slices * self.plan.slice_rows)

    def run(self, arrays: tuple[Any, ...], T: int, B: int, H: int) -> None:
        p, device = self.plan, self.device
        start = self._launcher("sequence_forward", p.shared_forward)
        arrays = device.arguments(*arrays)
        spans = [device.arguments(*span) for span in self._spans(T)]
        for b in self._batches(B):
            counters = device.arguments(device.xp.zeros(p.slices, dtype="uint32"))
            sizes = device.arguments(b, B, H, p.parts, p.slice_rows, self.relu)
            for span in spans:
                start((*arrays, *counters, *span, *sizes))

    def run_backward(
        self,
        given: tuple[Any, ...],
        w_hh: Array,
        slopes: Array,
        carry: Array,
        T: int,
        B: int,
        H: int,
    ) -> None:
        p, device, xp = self.plan, self.device, self.device.xp
        gates, *rest = given
        exchange = xp.empty((2, p.slices, p.parts, p.slice_rows, p.padded), dtype=slopes.dtype)
        arrays = device.arguments(gates, w_hh, *rest, slopes, exchange, carry)
        start = self._launcher("sequence_backward", p.shared_backward)
        # From `end` - 1 down to `first`. Where each launch does one step, one more launch gathers
        # what the first step has sent.
        finish = int(self.persistent)
        numbers = [(end, first, T, finish) for first, end in self._spans(T)[::-1]]
        numbers += [] if self.persistent else [(0, 0, T, 1)]
        spans = [device.arguments(*span) for span in numbers]
        for b in self._batches(B):
            counters = device.arguments(xp.zeros(p.slices, dtype="uint32"))
            sizes = device.arguments(b, B, H, p.parts, p.slice_rows, self.relu)
            for span in spans:
                start((*arrays, *counters, *span, *sizes))


def choose(
    device: Device, cell: str, way: str, dtype: Any, B: int, H: int, *, relu: bool = False
) -> Window | None:
    """The window for a layer of this size; None where only the shared loop can do it.

    Raises DataError where a way was asked for by name and is not to be had.
    """
    if dtype not in REAL:
        if way not in ("auto", "fused"):
            raise _impossible(
                cell, way, f"there are kernels for float32 and float64, not for {dtype}"
            )
        return None
    if way == "fused":
        return FusedWindow(device, cell, relu)
    made = plan(cell, B, H, device) if dtype == np.float32 else None
    if way == "auto":
        if made is None or made.launches > MOST_LAUNCHES:
            return FusedWindow(device, cell, relu)
        return KernelWindow(device, cell, relu, made, persistent=True)
    if made is None:
        raise _impossible(cell, way, f"it has no code for {H} hidden units in {dtype} on this GPU")
    return KernelWindow(device, cell, relu, made, persistent=way == "persistent")


def _impossible(cell: str, way: str, reason: str) -> DataError:
    return DataError(f"{cell}: impl={way!r} is not possible here: {reason}; use impl='auto'")
