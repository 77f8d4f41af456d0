"""The vanilla recurrent network over a whole window, as one op.

    h_t = f(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)          f = tanh or relu

One set of weights serves every step, so the gradient of a weight is the sum over all steps, and
the gradient of h_{t-1} is that of h_t sent once more through f' and W_hh. Sent back k steps, it is
multiplied by k such factors: that product is what vanishes or explodes.

`specification` is the network step by step, in plain ops. Below it the same by hand: the inputs of
all steps are projected before the loop, and the weight gradients come from one matrix product each
after it; only W_hh h_{t-1} has to wait for its turn. Inside the loop arrays are feature-major,
(H, B): on two AMD cores an LSTM's W_hh h, (4H, H) times (H, B), runs at 150 GFLOP/s, h W_hh' at 94.

The nonlinearity and its slope, `rnn_step` and `rnn_step_backward`, are the backend's: their plain
form is in `backends/base.py`, and so is that of the LSTM's gates.

Sizes: T steps, B rows in a batch, I inputs, H hidden units.
"""

from __future__ import annotations

from typing import Any

from tinygrad_rnn import backends
from tinygrad_rnn.backends import namespace
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.fused import fused
from tinygrad_rnn.core.grad_mode import time_steps
from tinygrad_rnn.ops.elementwise import relu, tanh
from tinygrad_rnn.ops.indexing import take
from tinygrad_rnn.ops.linalg import matmul
from tinygrad_rnn.ops.shape import expand_dims, matrix_transpose, stack


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
) -> Any:
    """The states of a vanilla RNN, step by step.

    Args:
        x: (T, B, I) the inputs; with `ids`, a table (V, I) of which they are rows.
        h0: (B, H) the state before the first step.
        w_ih, w_hh: (H, I) and (H, H).
        b_ih, b_hh: (H,) each, or None.
        nonlinearity: "tanh" or "relu".
        ids: (T, B) the row of the table that is the input of each step; None: `x` is the input.

    Returns:
        (1, T+1, B, H): h_0, h_1, ..., h_T. The leading 1 is the number of kinds of state.
    """
    x = x if ids is None else take(x, ids, 0)
    f = tanh if nonlinearity == "tanh" else relu
    states = [h0]
    for t in time_steps(x.shape[0]):
        z = matmul(x[t], matrix_transpose(w_ih)) + matmul(states[-1], matrix_transpose(w_hh))
        if b_ih is not None:
            z = z + b_ih + b_hh
        states.append(f(z))
    return expand_dims(stack(states), 0)


@fused(spec=specification)
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
) -> tuple[Array, Any]:
    """The states of a vanilla RNN over a window; see `specification` for shapes."""
    xp, step = namespace(x), backends.of(x).rnn_step
    T, B = x.shape[:2] if ids is None else ids.shape
    H = len(w_hh)
    h = xp.empty((T + 1, H, B), dtype=x.dtype)
    h[0] = h0.T
    project_inputs(x, ids, w_ih, out=h[1:])
    bias = tiled_bias(b_ih, b_hh, B)
    recurrent = xp.empty((H, B), dtype=x.dtype)
    for t in range(T):
        xp.matmul(w_hh, h[t], out=recurrent)
        if bias is not None:
            recurrent += bias
        h[t + 1] += recurrent  # W_ih x_t is there already, from project_inputs
        step(h[t + 1], nonlinearity)
    states = xp.ascontiguousarray(h.transpose((0, 2, 1)))[None]  # (1, T+1, B, H)
    return states, ((x, w_ih, w_hh, states, h) if keep else None)


@rnn.backward
def _(
    g: Array, cache: Any, needs: tuple[bool, ...], *, nonlinearity: str, ids: Array | None = None
) -> tuple[Any, ...]:
    x, w_ih, w_hh, states, h = cache
    xp, step = namespace(x), backends.of(x).rnn_step_backward
    T, H, B = len(h) - 1, h.shape[1], h.shape[2]
    dh_out = g[0]  # (T+1, B, H): what reaches every state from outside
    dz = xp.empty((H, T, B), dtype=x.dtype)  # the gradient of every pre-activation
    dz_t = xp.empty((H, B), dtype=x.dtype)  # and of one step, contiguous for the product
    w_hh_t = xp.ascontiguousarray(w_hh.T)
    dh = dh_out[-1].T.copy(order="C")  # (H, B)
    for t in reversed(range(T)):
        step(dh, h[t + 1], dz_t, nonlinearity)
        dz[:, t] = dz_t
        xp.matmul(w_hh_t, dz_t, out=dh)
        dh += dh_out[t].T
    dx, dw_ih, dw_hh, db = weight_gradients(x, ids, states[0, :-1], dz, w_ih, needs)
    return dx, dh.T, dw_ih, dw_hh, db, db


# ---- shared with the LSTM: what lies outside the time loop ----


def project_inputs(x: Array, ids: Array | None, w_ih: Array, *, out: Array) -> None:
    """``out[t] = W_ih x_t'`` for all steps: (T, B, I) to (T, G, B), where G is H or 4H.

    Inputs that are rows of a table need no product of their own: the table is projected once, and
    each step picks its columns. A character model has 100 rows to project instead of T * B.
    """
    xp, backend = namespace(x), backends.of(x)
    if ids is None:
        xp.matmul(w_ih, x.transpose((0, 2, 1)), out=out)
    else:
        projected = xp.matmul(w_ih, x.T)  # (G, V)
        for t in range(len(ids)):
            backend.take_columns(projected, ids[t], out[t])


def tiled_bias(b_ih: Array | None, b_hh: Array | None, B: int) -> Array | None:
    """The sum of the biases written out for every row of the batch, (G, B): added as one block it
    costs a third of what broadcasting it costs.
    """
    if b_ih is None:
        return None
    xp, total = namespace(b_ih), b_ih + b_hh
    return xp.ascontiguousarray(xp.broadcast_to(total[:, None], (len(total), B)))


def weight_gradients(
    x: Array,
    ids: Array | None,
    h_before: Array,
    dz: Array,
    w_ih: Array,
    needs: tuple[bool, ...],
) -> tuple[Any, Any, Any, Any]:
    """dx, dW_ih, dW_hh and db from the gradients dz (G, T, B) of all steps' pre-activations.

    The sum over steps that a shared weight asks for is done by the matrix product itself: its
    inner dimension runs over all T * B rows. `h_before` is (T, B, H), h_0 .. h_{T-1}. `needs` is
    in the order x, states, weights, biases; what nobody needs is not computed.
    """
    xp = namespace(dz)
    dz = dz.reshape((len(dz), -1))  # (G, T*B), a view
    need_w_ih, need_w_hh, need_b_ih, need_b_hh = needs[-4:]
    dw_hh = xp.matmul(dz, h_before.reshape((-1, h_before.shape[-1]))) if need_w_hh else None
    db = xp.sum(dz, axis=1) if need_b_ih or need_b_hh else None
    rows = x.reshape((-1, x.shape[-1]))  # (T*B, I), or the table (V, I)
    if ids is not None and (needs[0] or need_w_ih):
        dz = backends.of(dz).sum_columns(dz, ids.reshape(-1), len(x))  # (G, V), as projected
    dx = xp.matmul(dz.T, w_ih).reshape(x.shape) if needs[0] else None
    dw_ih = xp.matmul(dz, rows) if need_w_ih else None
    return dx, dw_ih, dw_hh, db
