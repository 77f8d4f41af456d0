"""The vanilla recurrent network over a whole window, as one op.

    h_t = f(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)          f = tanh or relu

One set of weights serves every step, so the gradient of a weight is the sum over all steps, and
the gradient of h_{t-1} is that of h_t sent once more through f' and W_hh. Sent back k steps, it is
multiplied by k such factors: that product is what vanishes or explodes.

`step` is one step in plain ops, and `specification` the network, step by step. Below it the same by
hand, in the way of all recurrent ops (`ops/sequence.py` has what they do alike). Only the product
W_hh h_{t-1} has to wait for its turn. What does not wait is done for many steps at once: the
projection of the inputs, on the way back the slopes f' of the steps, and after the loop the
gradient of each weight, as one product. Inside the loop arrays are feature-major, (H, B): on two
AMD cores an LSTM's W_hh h, (4H, H) times (H, B), runs at 390 GFLOP/s for H=256 and B=32, h W_hh' at
180 to 240.

Sizes: T steps, B rows in a batch, I inputs, H hidden units.
"""

from __future__ import annotations

from typing import Any

from tinygrad_rnn.backends import namespace
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.fused import fused
from tinygrad_rnn.core.grad_mode import time_steps
from tinygrad_rnn.ops.elementwise import relu, tanh
from tinygrad_rnn.ops.indexing import take
from tinygrad_rnn.ops.linalg import matmul
from tinygrad_rnn.ops.sequence import (
    arriving,
    blocks,
    held,
    hold,
    limit_columns,
    past,
    projections,
    stop,
    transposed,
    weight_gradients,
)
from tinygrad_rnn.ops.shape import matrix_transpose, stack
from tinygrad_rnn.ops.window import is_window, own_window, run_window, window_gradients


def step(
    x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, *, nonlinearity: str
) -> dict[str, Any]:
    """From x_t (B, I) and h_{t-1} (B, H) to what the step computes, by name: ``{"h": h_t}``."""
    z = matmul(x, matrix_transpose(w_ih)) + matmul(h, matrix_transpose(w_hh))
    if b_ih is not None:
        z = z + b_ih + b_hh
    return {"h": tanh(z) if nonlinearity == "tanh" else relu(z)}


def specification(
    x: Any,
    h0: Any,
    w_ih: Any,
    w_hh: Any,
    b_ih: Any,
    b_hh: Any,
    *,
    nonlinearity: str,
    ids: Any = None,
    ended: Any = None,
    limit: float | None = None,
    impl: str = "auto",
) -> Any:
    """The states of a vanilla RNN, step by step.

    Args:
        x: (T, B, I) the inputs; with `ids`, a table (V, I) of which they are rows.
        h0: (B, H) the state before the first step.
        w_ih, w_hh: (H, I) and (H, H).
        b_ih, b_hh: (H,) each, or None.
        nonlinearity: "tanh" or "relu".
        ids: (T, B) the row of the table that is the input of each step; None: `x` is the input.
        ended: (T, B) True where a row of the batch is over, and its state stays; None: nowhere.
        limit: the longest gradient that a step may send to the one before; None: any.
        impl: how a GPU runs the loop (`backends/window.py`); the result is the same.

    Returns:
        (T+1, B, H): h_0, h_1, ..., h_T.
    """
    x = x if ids is None else take(x, ids, 0)
    states = [h0]
    for t in time_steps(x.shape[0]):
        h = arriving(states[-1], limit)
        now = step(x[t], h, w_ih, w_hh, b_ih, b_hh, nonlinearity=nonlinearity)
        states.append(held(now["h"], states[-1], ended, t))
    return stack(states)


@fused(spec=specification, fresh=True)
def rnn(
    x: Array,
    h0: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None,
    b_hh: Array | None,
    *,
    keep: bool,
    nonlinearity: str,
    ids: Array | None = None,
    ended: Array | None = None,
    limit: float | None = None,
    impl: str = "auto",
) -> tuple[Array, Any]:
    """The states of a vanilla RNN over a window; see `specification` for shapes."""
    others, relu_cell = (h0, w_ih, w_hh, b_ih, b_hh), nonlinearity == "relu"
    if (own := own_window("rnn", impl, x, ids, others, limit, relu=relu_cell)) is not None:
        return run_window(own, x, (h0,), w_ih, w_hh, b_ih, b_hh, ids=ids, ended=ended, keep=keep)
    xp = namespace(x)
    T, B = x.shape[:2] if ids is None else ids.shape
    h = xp.empty((T + 1, len(w_hh), B), dtype=x.dtype)
    h[0] = h0.T
    inputs = projections(x, ids, w_ih, None if b_ih is None else b_ih + b_hh)
    for t, x_t, h_before, h_t in zip(range(T), inputs, h[:-1], h[1:], strict=True):
        xp.matmul(w_hh, h_before, out=h_t)
        h_t += x_t
        if nonlinearity == "tanh":
            xp.tanh(h_t, out=h_t)
        else:
            xp.maximum(h_t, 0, out=h_t)
        if ended is not None:
            hold(h_t, h_before, ended[t])
    states = xp.ascontiguousarray(h.transpose((0, 2, 1)))  # (T+1, B, H)
    return states, ((x, w_ih, w_hh, states, h) if keep else None)


@rnn.backward
def _(
    g: Array,
    cache: Any,
    needs: tuple[bool, ...],
    *,
    nonlinearity: str,
    ids: Array | None = None,
    ended: Array | None = None,
    limit: float | None = None,
    impl: str = "auto",
) -> tuple[Any, ...]:
    if is_window(cache):
        _, x, w_ih, _, (h,), _, _ = cache
        dz, (dh,) = window_gradients(g, cache, ended)
        dx, dw_ih, dw_hh, db = weight_gradients(x, ids, h[:-1], dz, w_ih, needs, ended)
        return dx, dh, dw_ih, dw_hh, db, db
    x, w_ih, w_hh, states, h = cache
    xp, (H, B), T = namespace(x), h.shape[1:], len(h) - 1
    dz = xp.empty((H, T, B), dtype=x.dtype)  # the gradient of every pre-activation
    w_hh_t = transposed(w_hh, B)
    outside = g.transpose((0, 2, 1))  # (T+1, H, B): what reaches every state from the loss
    dh = outside[-1].copy(order="C")
    for block in reversed(blocks(T, H * B)):
        slopes = local_slopes(h[1:][block], nonlinearity)
        steps = zip(range(T)[block], slopes, h[1:][block], outside[block], strict=True)
        for t, dz_t, h_t, from_loss in reversed(list(steps)):
            if nonlinearity == "tanh":
                dz_t *= dh
            else:
                xp.copyto(dz_t, dh, where=h_t > 0)  # not times 0: an infinite dh would be NaN
            if ended is not None:
                stop(dz_t, ended[t])
                by = past(dh, ended[t])
            xp.matmul(w_hh_t, dz_t, out=dh)
            if limit is not None:
                limit_columns(dh, limit)
            if ended is not None:
                hold(dh, by, ended[t])  # not a sum: 0 times an infinite weight is NaN
            dh += from_loss
        dz[:, block] = slopes.transpose((1, 0, 2))
    dx, dw_ih, dw_hh, db = weight_gradients(x, ids, states[:-1], dz, w_ih, needs, ended)
    return dx, dh.T, dw_ih, dw_hh, db, db


def local_slopes(h: Array, nonlinearity: str) -> Array:
    """f' at steps whose result is `h` (n, H, B), by what f has made; for relu, zeros to fill in."""
    xp = namespace(h)
    if nonlinearity == "relu":
        return xp.zeros_like(h)
    slopes = h * h
    return xp.subtract(1, slopes, out=slopes)
