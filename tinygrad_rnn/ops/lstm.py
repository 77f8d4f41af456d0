"""The long short-term memory over a whole window, as one op (Hochreiter & Schmidhuber 1997; the
forget gate by Gers, Schmidhuber & Cummins 2000).

    i = sigmoid(W_i x_t + U_i h_{t-1} + b_i)      input gate:  how much of the new is written
    f = sigmoid(W_f x_t + U_f h_{t-1} + b_f)      forget gate: how much of the old is kept
    g = tanh   (W_g x_t + U_g h_{t-1} + b_g)      the new, a candidate for the cell
    o = sigmoid(W_o x_t + U_o h_{t-1} + b_o)      output gate: how much of the cell is shown
    c_t = f * c_{t-1} + i * g
    h_t = o * tanh(c_t)

The cell c is a conveyor belt: from c_t to c_{t-1} the gradient is only multiplied by f, with no
weight and no tanh in between. Where the network keeps f near 1, a gradient of long ago arrives.

The four W stand under each other in one weight W_ih (4H, I), the four U in W_hh (4H, H), in
PyTorch's order i, f, g, o; and b is kept as PyTorch keeps it, in two halves b_ih + b_hh.

`step` is one step, `specification` the network; below it the same by hand, in the manner of
`ops/rnn.py`: projections before the loop, weight gradients after it, feature-major (H, B) arrays
inside.
"""

from __future__ import annotations

from typing import Any

from tinygrad_rnn import backends
from tinygrad_rnn.backends import namespace
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.fused import fused
from tinygrad_rnn.core.grad_mode import time_steps
from tinygrad_rnn.ops.elementwise import sigmoid, tanh
from tinygrad_rnn.ops.indexing import take
from tinygrad_rnn.ops.linalg import matmul
from tinygrad_rnn.ops.sequence import (
    arriving,
    held,
    hold,
    limit_columns,
    past,
    project_inputs,
    stop,
    tiled_sum,
    weight_gradients,
)
from tinygrad_rnn.ops.shape import matrix_transpose, split, stack
from tinygrad_rnn.ops.window import is_window, own_window, run_window, window_gradients


def step(x: Any, h: Any, c: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> dict[str, Any]:
    """From x_t (B, I), h_{t-1} and c_{t-1} (B, H) to all that the step computes, by name."""
    z = matmul(x, matrix_transpose(w_ih)) + matmul(h, matrix_transpose(w_hh))
    if b_ih is not None:
        z = z + b_ih + b_hh
    i, f, g, o = split(z, 4, axis=1)  # (B, H) each
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    c = f * c + i * g
    return {"i": i, "f": f, "g": g, "o": o, "c": c, "h": o * tanh(c)}


def specification(
    x: Any,
    h0: Any,
    c0: Any,
    w_ih: Any,
    w_hh: Any,
    b_ih: Any,
    b_hh: Any,
    *,
    ids: Any = None,
    ended: Any = None,
    limit: float | None = None,
    impl: str = "auto",
) -> Any:
    """The states of an LSTM, step by step.

    Args:
        x: (T, B, I) the inputs; with `ids`, a table (V, I) of which they are rows.
        h0, c0: (B, H) the hidden and the cell state before the first step.
        w_ih, w_hh: (4H, I) and (4H, H), blocks in the order i, f, g, o.
        b_ih, b_hh: (4H,) each, or None.
        ids, ended, limit, impl: as in `ops/rnn.py`.

    Returns:
        (2, T+1, B, H): h_0 .. h_T, and c_0 .. c_T.
    """
    x = x if ids is None else take(x, ids, 0)
    hs, cs = [h0], [c0]
    for t in time_steps(x.shape[0]):
        h, c = arriving(hs[-1], limit), arriving(cs[-1], limit)
        now = step(x[t], h, c, w_ih, w_hh, b_ih, b_hh)
        hs.append(held(now["h"], hs[-1], ended, t))
        cs.append(held(now["c"], cs[-1], ended, t))
    return stack([stack(hs), stack(cs)])


@fused(spec=specification, gates="ifgo", fresh=True)
def lstm(
    x: Array,
    h0: Array,
    c0: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None,
    b_hh: Array | None,
    *,
    keep: bool,
    ids: Array | None = None,
    ended: Array | None = None,
    limit: float | None = None,
    impl: str = "auto",
) -> tuple[Array, Any]:
    """The states of an LSTM over a window; see `specification` for shapes."""
    others = (h0, c0, w_ih, w_hh, b_ih, b_hh)
    if (own := own_window("lstm", impl, x, ids, others, limit)) is not None:
        return run_window(own, x, (h0, c0), w_ih, w_hh, b_ih, b_hh, ids=ids, ended=ended, keep=keep)
    xp, activate = namespace(x), backends.of(x).lstm_step
    T, B = x.shape[:2] if ids is None else ids.shape
    H = w_hh.shape[1]
    kept = xp.empty((2, T + 1, H, B), dtype=x.dtype)
    h, c = kept[0], kept[1]  # (T+1, H, B) each
    h[0], c[0] = h0.T, c0.T
    gates = xp.empty((T, 4 * H, B), dtype=x.dtype)  # pre-activations first, then activated
    project_inputs(x, ids, w_ih, out=gates)
    bias = tiled_sum(b_ih, b_hh, B)
    recurrent = xp.empty((4 * H, B), dtype=x.dtype)
    for t in range(T):
        xp.matmul(w_hh, h[t], out=recurrent)
        if bias is not None:
            recurrent += bias
        gates[t] += recurrent
        activate(gates[t], c[t], c[t + 1], h[t + 1])
        if ended is not None:
            hold(kept[:, t + 1], kept[:, t], ended[t])
    states = xp.ascontiguousarray(kept.transpose((0, 1, 3, 2)))  # (2, T+1, B, H)
    return states, ((x, w_ih, w_hh, states, c, gates) if keep else None)


@lstm.backward
def _(
    g: Array,
    cache: Any,
    needs: tuple[bool, ...],
    *,
    ids: Array | None = None,
    ended: Array | None = None,
    limit: float | None = None,
    impl: str = "auto",
) -> tuple[Any, ...]:
    if is_window(cache):
        _, x, w_ih, _, states, _, _ = cache
        dz, (dh, dc) = window_gradients(g, cache, ended)
        dx, dw_ih, dw_hh, db = weight_gradients(x, ids, states[0, :-1], dz, w_ih, needs, ended)
        return dx, dh, dc, dw_ih, dw_hh, db, db
    x, w_ih, w_hh, states, c, gates = cache
    xp, undo = namespace(x), backends.of(x).lstm_step_backward
    T, (H, B) = len(gates), c.shape[1:]
    dh_out, dc_out = g[0], g[1]  # (T+1, B, H): what reaches every state from outside
    dz = xp.empty((4 * H, T, B), dtype=x.dtype)  # the gradient of every pre-activation
    dz_t = xp.empty((4 * H, B), dtype=x.dtype)  # and of one step, contiguous for the product
    w_hh_t = xp.ascontiguousarray(w_hh.T)
    dh, dc = dh_out[-1].T.copy(order="C"), dc_out[-1].T.copy(order="C")  # (H, B)
    for t in reversed(range(T)):
        if ended is not None:
            h_by, c_by = past(dh, ended[t]), past(dc, ended[t])
        undo(dh, dc, gates[t], c[t], c[t + 1], dz_t)
        if ended is not None:
            stop(dz_t, ended[t])
        dz[:, t] = dz_t
        xp.matmul(w_hh_t, dz_t, out=dh)
        if limit is not None:
            limit_columns(dh, limit)
            limit_columns(dc, limit)
        if ended is not None:
            hold(dh, h_by, ended[t])  # not a sum: 0 times an infinite weight is NaN
            hold(dc, c_by, ended[t])
        dh += dh_out[t].T
        dc += dc_out[t].T
    dx, dw_ih, dw_hh, db = weight_gradients(x, ids, states[0, :-1], dz, w_ih, needs, ended)
    return dx, dh.T, dc.T, dw_ih, dw_hh, db, db
