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
`ops/rnn.py`: feature-major (H, B) arrays, projections before the loop and weight gradients after
it, and of the way back, before a gradient arrives, all that does not depend on it.
"""

from __future__ import annotations

from typing import Any

from tinygrad_rnn.backends import namespace
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.fused import fused
from tinygrad_rnn.core.grad_mode import time_steps
from tinygrad_rnn.ops.elementwise import sigmoid, tanh
from tinygrad_rnn.ops.indexing import take
from tinygrad_rnn.ops.linalg import matmul
from tinygrad_rnn.ops.sequence import (
    arriving,
    blocks,
    each,
    held,
    hold,
    limit_columns,
    past,
    projections,
    stop,
    transposed,
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
        (T+2, B, H): h_0, h_1, ..., h_T, and behind them c_T. What the cell held before is nobody's
        business outside (`record=True` shows it), and would cost as much again to hand out.
    """
    x = x if ids is None else take(x, ids, 0)
    hs, cs = [h0], [c0]
    for t in time_steps(x.shape[0]):
        h, c = arriving(hs[-1], limit), arriving(cs[-1], limit)
        now = step(x[t], h, c, w_ih, w_hh, b_ih, b_hh)
        hs.append(held(now["h"], hs[-1], ended, t))
        cs.append(held(now["c"], cs[-1], ended, t))
    return stack([*hs, cs[-1]])


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
    xp = namespace(x)
    T, B = x.shape[:2] if ids is None else ids.shape
    H = w_hh.shape[1]
    h, c = xp.empty((2, T + 1, H, B), dtype=x.dtype)
    h[0], c[0] = h0.T, c0.T
    gates = xp.empty((T if keep else 1, 4, H, B), dtype=x.dtype)
    inputs = projections(x, ids, w_ih, None if b_ih is None else b_ih + b_hh)
    steps = zip(range(T), each(gates, T), inputs, h[:-1], c[:-1], h[1:], c[1:], strict=True)
    for t, gate, x_t, h_before, c_before, h_t, c_t in steps:
        z = gate.reshape((4 * H, B))  # the same memory
        xp.matmul(w_hh, h_before, out=z)
        z += x_t
        activate(gate, c_before, c_t, h_t)
        if ended is not None:
            hold(h_t, h_before, ended[t])
            hold(c_t, c_before, ended[t])
    out = xp.empty((T + 2, B, H), dtype=x.dtype)
    out[:-1], out[-1] = h.transpose((0, 2, 1)), c[-1].T
    return out, ((x, w_ih, w_hh, out, c, gates) if keep else None)


def activate(gates: Array, c_before: Array, c: Array, h: Array) -> None:
    """The pointwise half of a step, in place: `gates` (4, H, B) come as pre-activations.

    A call costs as much as some thousand numbers in it, so one tanh serves all four gates:

        sigmoid(z) = 1/2 tanh(z / 2) + 1/2
    """
    xp = namespace(gates)
    i_f, o = gates[:2], gates[3]
    i_f *= 0.5
    o *= 0.5
    xp.tanh(gates, out=gates)
    for gate in (i_f, o):
        gate *= 0.5
        gate += 0.5
    i, f, g, o = gates
    xp.multiply(f, c_before, out=c)
    xp.multiply(i, g, out=h)  # h as scratch
    c += h
    xp.tanh(c, out=h)
    h *= o


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
        _, x, w_ih, _, (h, _), _, _ = cache
        dz, (dh, dc) = window_gradients(g, cache, ended)
        dx, dw_ih, dw_hh, db = weight_gradients(x, ids, h[:-1], dz, w_ih, needs, ended)
        return dx, dh, dc, dw_ih, dw_hh, db, db
    x, w_ih, w_hh, out, c, gates = cache
    xp, (H, B), T = namespace(x), c.shape[1:], len(gates)
    dz = xp.empty((4, H, T, B), dtype=x.dtype)  # the gradient of every pre-activation
    w_hh_t = transposed(w_hh, B)
    outside = g.transpose((0, 2, 1))  # (T+2, H, B): what reaches the states from the loss
    d = outside[-2:].copy(order="C")
    dh, dc = d  # views
    through_h = xp.empty((H, B), dtype=x.dtype)
    for block in reversed(blocks(T, 4 * H * B)):
        slopes, through = local_slopes(gates[block], c[:-1][block], c[1:][block])
        steps = zip(range(T)[block], slopes, through, gates[block, 1], outside[block], strict=True)
        for t, dz_t, dc_dh, f, from_loss in reversed(list(steps)):
            if ended is not None:
                by = past(d, ended[t])
            xp.multiply(dh, dc_dh, out=through_h)
            dc += through_h
            dz_t[3] *= dh
            dz_t[:3] *= dc
            dc *= f
            if ended is not None:
                stop(dz_t, ended[t])
            xp.matmul(w_hh_t, dz_t.reshape((4 * H, B)), out=dh)
            if limit is not None:
                limit_columns(dh, limit)
                limit_columns(dc, limit)
            if ended is not None:
                hold(d, by, ended[t])  # not a sum: 0 times an infinite weight is NaN
            dh += from_loss
        dz[:, :, block] = slopes.transpose((1, 2, 0, 3))
    dz = dz.reshape((4 * H, T, B))
    dx, dw_ih, dw_hh, db = weight_gradients(x, ids, out[:-2], dz, w_ih, needs, ended)
    return dx, dh.T, dc.T, dw_ih, dw_hh, db, db


def local_slopes(gates: Array, c_before: Array, c: Array) -> tuple[Array, Array]:
    """What is known of the way back before any gradient comes, for n steps: (n, 4, H, B) and
    (n, H, B).

    With dh and dc for what arrives at h_t and c_t, each of these takes one product:

        dc  += dh [o (1 - tanh(c_t)^2)]         dz_i = dc [g       i (1 - i)]
        dz_o = dh [tanh(c_t) o (1 - o)]         dz_f = dc [c_{t-1} f (1 - f)]
                                                dz_g = dc [i (1 - g^2)]

    The brackets behind dz are `slopes`, in the order of the gates; the one behind dc, from h_t
    through to c_t, is `through`.
    """
    xp = namespace(gates)
    i, _, g, o = (gates[:, k] for k in range(4))
    through = xp.tanh(c)
    slopes = xp.subtract(1, gates)
    slopes *= gates  # s (1 - s): the slope of a sigmoid, right for i, f and o
    of_i, of_f, of_g, of_o = (slopes[:, k] for k in range(4))
    of_i *= g
    of_f *= c_before
    of_o *= through
    xp.multiply(g, g, out=of_g)
    xp.subtract(1, of_g, out=of_g)
    of_g *= i
    through *= through
    xp.subtract(1, through, out=through)
    through *= o
    return slopes, through
