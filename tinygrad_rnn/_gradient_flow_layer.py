"""What `gradient_flow` says about one recurrent layer, and its Jacobians step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_rnn import backends
from tinygrad_rnn.backends import namespace
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.engine import grad
from tinygrad_rnn.core.grad_mode import enable_grad
from tinygrad_rnn.core.tensor import Tensor, wrap
from tinygrad_rnn.errors import DataError, NonFiniteError, ShapeError
from tinygrad_rnn.nn.record import Walk

Host = NDArray[Any]
AT_ONCE = 1 << 22  # numbers in the largest array of a batch of Jacobians: 32 MB in float64


@dataclass(frozen=True, eq=False)
class LayerFlow:
    """One recurrent layer in one direction, over all the steps it made.

    Steps are in the order in which the layer made them: of the direction that reads backwards, the
    first is at the end of the sequence. It keeps what was recorded, for the Jacobians.

    Attributes:
        h: (T,) the norm of dL/dh_t over all rows of the batch, for t = 1 .. T, along all ways.
        c: (T,) the same of the cell state, of an LSTM only, else None. The way through h_t is
            among them: dL/dc_t = (dL/dc_t with h_t held fixed) + dL/dh_t * o_t * (1 - tanh^2 c_t).
        norms: for each weight by name, (T,): the norm of each step's part of its gradient.
        parts: for each weight by name, (T, *its shape): the parts themselves. Their sum is the
            gradient, unless something else in the loss uses the weight too (a penalty, another
            layer that shares it). Only with ``ledger=True``, else empty.
        totals: the whole gradient of each weight, as the same sweep gave it.
    """

    h: Host
    c: Host | None
    norms: dict[str, Host] = field(repr=False)
    parts: dict[str, Host] = field(repr=False)
    totals: dict[str, Host] = field(repr=False)
    _walks: list[Walk] = field(repr=False)
    _weights: list[Any] = field(repr=False)  # as they were: the caller may train on

    @property
    def steps(self) -> int:
        """T, how many steps the layer made."""
        return len(self.h)

    def jacobian(self, t: int, k: int, *, row: int = 0) -> Host:
        """ds_t/ds_k, (S, S): how the state after step `t` changes with that after step `k`.

        s is h, or of an LSTM h and c, one after the other: S = H or 2 H, and ``[:H, :H]`` is
        dh_t/dh_k. State 0 is the one before the first step. Both are what a step passes on to the
        next: when c changes here, h of the same step does not. A limit on gradients
        (`clip_state_grad`) is no part of it.

        Args:
            t, k: 0 <= k <= t <= T.
            row: of the batch.

        Raises:
            ShapeError: steps or a row that are not there.
            DataError: the layer was called several times, and not each time with the state that the
                call before had ended with; then there is no way from step k to step t.
        """
        product = np.eye(self._size)
        for j in self.jacobians(k, t, row=row):
            product = j @ product
        return product

    def jacobians(self, start: int = 0, stop: int | None = None, *, row: int = 0) -> Host:
        """J_{start+1} .. J_{stop}, each ds_t/ds_{t-1}: (stop - start, S, S), as float64.

        Arguments and errors are those of `jacobian`. A row that has ended stays as it is: J = 1.
        """
        stop = self.steps if stop is None else stop
        if not 0 <= start <= stop <= self.steps:
            raise ShapeError(
                f"jacobian: needed steps 0 <= k <= t <= T = {self.steps}, got k = {start} and "
                f"t = {stop}"
            )
        steps = [(walk, t) for walk in self._walks for t in range(walk.length)][start:stop]
        self._check_row(steps, row)
        size = self._size
        found = np.empty((len(steps), size, size))
        at_once = max(1, AT_ONCE // (4 * size * size))
        for first in range(0, len(steps), at_once):
            some = steps[first : first + at_once]
            found[first : first + len(some)] = step_jacobians(some, self._weights, row)
        return found

    def singular_values(self, *, row: int = 0) -> Host:
        """(T, S): those of each J_t, the largest first. Costs T S^3: seconds, for T = 500, S = 256.

        Raises:
            NonFiniteError: a Jacobian is not finite. Others as `jacobian`.
        """
        values: Host = np.linalg.svd(self._finite(row), compute_uv=False)
        return values

    def spectral_radius(self, *, row: int = 0) -> Host:
        """(T,): the largest absolute eigenvalue of each J_t. Cost and errors as above."""
        radius: Host = np.abs(np.linalg.eigvals(self._finite(row))).max(axis=1, initial=0.0)
        return radius

    def _finite(self, row: int) -> Host:
        found = self.jacobians(row=row)
        bad = np.flatnonzero(~np.isfinite(found).all(axis=(1, 2)))
        if bad.size:
            raise NonFiniteError(
                f"the Jacobian of step {bad[0] + 1} has values that are not finite"
            )
        return found

    @property
    def _size(self) -> int:
        states = self._walks[0].states
        return len(states) * int(states[0][0].shape[-1])

    def _check_row(self, steps: list[tuple[Walk, int]], row: int) -> None:
        before: Walk | None = None
        for walk in dict.fromkeys(walk for walk, _ in steps):
            batch = walk.states[0][0].shape[0]
            if not 0 <= row < batch:
                raise ShapeError(f"jacobian: row {row} of a batch of {batch}")
            if before is not None and not all(
                np.array_equal(on_host(a[-1])[row], on_host(b[0])[row])
                for a, b in zip(before.states, walk.states, strict=True)
            ):
                raise DataError(
                    "jacobian: between these steps the layer was called anew, with another state "
                    "than it had ended with; choose steps of one call"
                )
            before = walk


def step_jacobians(steps: list[tuple[Walk, int]], weights: list[Any], row: int) -> Host:
    """ds_t/ds_{t-1} for some steps of a layer, from one sweep.

    Each step is made S times side by side, as so many rows of one batch, and of the r-th copy the
    r-th number of the new state is differentiated: rows of a batch do not touch each other, so the
    gradient of the sum of these numbers holds one row of the Jacobian in every row.
    """
    walk = steps[0][0]
    kinds, H = len(walk.states), int(walk.states[0][0].shape[-1])
    S, xp = kinds * H, namespace(walk.inputs._data)

    def repeated(arrays: list[Array]) -> Tensor:
        return wrap(xp.repeat(xp.stack(arrays), S, axis=0), None)  # (len(steps) * S, ...)

    x = repeated([w.inputs._data[t, row] for w, t in steps])
    before = [
        repeated([w.states[kind][t]._data[row] for w, t in steps]).requires_grad_()
        for kind in range(kinds)
    ]
    with enable_grad():
        now = walk.step(x, *before, *(None if w is None else wrap(w, None) for w in weights))
        after = [now["hc"[kind]] for kind in range(kinds)]
        one = xp.tile(xp.eye(S, dtype=x.dtype), (len(steps), 1))  # row r asks for number r
        seeds = [
            wrap(xp.ascontiguousarray(one[:, k * H : (k + 1) * H]), None) for k in range(kinds)
        ]
        found = grad(after, before, seeds, allow_unused=True)
    blocks = [gradient_on_host(g, b) for g, b in zip(found, before, strict=True)]
    result = np.concatenate(blocks, axis=1).reshape(len(steps), S, S).astype(np.float64)
    for place, (w, t) in enumerate(steps):
        if w.ended is not None and bool(w.ended[t, row]):
            result[place] = np.eye(S)
    return result


def on_host(x: Tensor) -> Host:
    return backends.of(x._data).to_host(x._data)


def gradient_on_host(g: Tensor | None, weight: Tensor) -> Host:
    return np.zeros(weight.shape, dtype=weight.dtype) if g is None else on_host(g)
