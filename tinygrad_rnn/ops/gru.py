"""The gated recurrent unit over a whole window, as one op (Cho et al. 2014).

    r = sigmoid(W_r x_t + b_r + U_r h_{t-1} + d_r)        reset gate:  how much of the past the new
                                                          may look at
    z = sigmoid(W_z x_t + b_z + U_z h_{t-1} + d_z)        update gate: how much of the past stays
    n = tanh   (W_n x_t + b_n + r * (U_n h_{t-1} + d_n))  the new, a candidate for the state
    h_t = (1 - z) * n + z * h_{t-1}

One state does what the LSTM's two do. Where z is near 1, h_t is a copy of h_{t-1}, and the gradient
goes back through that copy unchanged: the LSTM's conveyor belt with one gate for two, since what is
kept and what is written add up to 1.

W, U, b and d stand under each other in W_ih (3H, I), W_hh (3H, H), b_ih and b_hh (3H,), in the
order r, z, n; as in PyTorch, r multiplies U_n h_{t-1} + d_n, after the product (in the first paper
it multiplied h_{t-1}, before it). So here the two biases are not one number in two halves.

`step` is one step, `specification` the network; below it the same by hand, in the manner of
`ops/rnn.py`. Call q = U_n h_{t-1} + d_n. On the way back there are four gradients, in blocks of
rows in the order n, r, z, q: the first three go through W to the input, the last three through U to
the state, and either three lie side by side.
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
    blocks,
    each,
    held,
    hold,
    input_gradients,
    limit_columns,
    past,
    projections,
    stop,
    sum_of_products,
    tiled,
    transposed,
)
from tinygrad_rnn.ops.shape import matrix_transpose, split, stack
from tinygrad_rnn.ops.window import is_window, own_window, run_window, window_gradients


def step(x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> dict[str, Any]:
    """From x_t (B, I) and h_{t-1} (B, H) to all that the step computes, by name."""
    new = matmul(x, matrix_transpose(w_ih))
    old = matmul(h, matrix_transpose(w_hh))
    if b_ih is not None:
        new, old = new + b_ih, old + b_hh
    r_new, z_new, n_new = split(new, 3, axis=1)  # (B, H) each
    r_old, z_old, n_old = split(old, 3, axis=1)
    r = sigmoid(r_new + r_old)
    z = sigmoid(z_new + z_old)
    n = tanh(n_new + r * n_old)
    return {"r": r, "z": z, "n": n, "h": (1 - z) * n + z * h}


def specification(
    x: Any,
    h0: Any,
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
    """The states of a GRU, step by step.

    Args:
        x: (T, B, I) the inputs; with `ids`, a table (V, I) of which they are rows.
        h0: (B, H) the state before the first step.
        w_ih, w_hh: (3H, I) and (3H, H), blocks in the order r, z, n.
        b_ih, b_hh: (3H,) each, or None.
        ids, ended, limit, impl: as in `ops/rnn.py`.

    Returns:
        (T+1, B, H): h_0, h_1, ..., h_T.
    """
    x = x if ids is None else take(x, ids, 0)
    states = [h0]
    for t in time_steps(x.shape[0]):
        h = arriving(states[-1], limit)
        now = step(x[t], h, w_ih, w_hh, b_ih, b_hh)
        states.append(held(now["h"], states[-1], ended, t))
    return stack(states)


@fused(spec=specification, gates="rzn", fresh=True)
def gru(
    x: Array,
    h0: Array,
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
    """The states of a GRU over a window; see `specification` for shapes."""
    others = (h0, w_ih, w_hh, b_ih, b_hh)
    if (own := own_window("gru", impl, x, ids, others, limit)) is not None:
        return run_window(own, x, (h0,), w_ih, w_hh, b_ih, b_hh, ids=ids, ended=ended, keep=keep)
    xp = namespace(x)
    T, B = x.shape[:2] if ids is None else ids.shape
    H = w_hh.shape[1]
    h = xp.empty((T + 1, H, B), dtype=x.dtype)
    h[0] = h0.T
    gates = xp.empty((T if keep else 1, 4, H, B), dtype=x.dtype)  # r, z, q, n
    bias, bias_q = (None, None) if b_ih is None else biases(b_ih, b_hh, H, B)
    inputs = projections(x, ids, w_ih, bias)
    steps = zip(range(T), each(gates, T), inputs, h[:-1], h[1:], strict=True)
    for t, gate, x_t, h_before, h_t in steps:
        xp.matmul(w_hh, h_before, out=gate[:3].reshape((3 * H, B)))
        activate(gate, x_t, bias_q, h_before, h_t)
        if ended is not None:
            hold(h_t, h_before, ended[t])
    states = xp.ascontiguousarray(h.transpose((0, 2, 1)))  # (T+1, B, H)
    return states, ((x, w_ih, w_hh, states, h, gates) if keep else None)


def biases(b_ih: Array, b_hh: Array, H: int, B: int) -> tuple[Array, Array]:
    """What is added to the projected inputs, (3H,), and to q, (H, B)."""
    bias = b_ih + b_hh
    bias[2 * H :] = b_ih[2 * H :]
    return bias, tiled(b_hh[2 * H :], B)


def activate(gates: Array, x: Array, bias_q: Array | None, h_before: Array, h: Array) -> None:
    """The pointwise half of a step, in place: `gates` (4, H, B) come with what is from the state,
    r, z, q, and are activated; `x` (3H, B) is what is from the input, r, z, n.

    As in `ops/lstm.py`, sigmoid(a) = 1/2 tanh(1/2 a) + 1/2.
    """
    xp, H = namespace(h), len(h)
    r, z, q, n = gates
    r_z = gates[:2].reshape((2 * H, -1))  # the same memory
    r_z += x[: 2 * H]
    r_z *= 0.5
    xp.tanh(r_z, out=r_z)
    r_z *= 0.5
    r_z += 0.5
    if bias_q is not None:
        q += bias_q
    xp.multiply(r, q, out=n)
    n += x[2 * H :]
    xp.tanh(n, out=n)
    xp.subtract(h_before, n, out=h)
    h *= z
    h += n


@gru.backward
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
        _, x, w_ih, _, (h,), _, _ = cache
        dz, (dh,) = window_gradients(g, cache, ended)
        return _weight_gradients(x, ids, h[:-1], dz, w_ih, needs, ended, dh)
    x, w_ih, w_hh, states, h, gates = cache
    xp, (H, B), T = namespace(x), h.shape[1:], len(gates)
    dz = xp.empty((4, H, T, B), dtype=x.dtype)  # the gradients of n, r, z before activation; of q
    w_hh_t = transposed(w_hh, B)
    outside = g.transpose((0, 2, 1))  # (T+1, H, B): what reaches every state from the loss
    dh = outside[-1].copy(order="C")
    through = xp.empty((H, B), dtype=x.dtype)
    for block in reversed(blocks(T, 4 * H * B)):
        slopes = local_slopes(gates[block], h[:-1][block])
        steps = zip(range(T)[block], slopes, gates[block, 1], outside[block], strict=True)
        for t, dz_t, z, from_loss in reversed(list(steps)):
            if ended is not None:
                by = past(dh, ended[t])
            dz_t *= dh
            if ended is not None:
                stop(dz_t, ended[t])
            dh *= z  # what goes by no weight
            xp.matmul(w_hh_t, dz_t[1:].reshape((3 * H, B)), out=through)
            dh += through
            if limit is not None:
                limit_columns(dh, limit)
            if ended is not None:
                hold(dh, by, ended[t])
            dh += from_loss
        dz[:, :, block] = slopes.transpose((1, 2, 0, 3))
    dz = dz.reshape((4 * H, T, B))
    return _weight_gradients(x, ids, states[:-1], dz, w_ih, needs, ended, dh.T)


def local_slopes(gates: Array, h_before: Array) -> Array:
    """What dh is multiplied with on its way to n, r, z before activation and to q: for n steps,
    (n, 4, H, B), known before any gradient comes.

        dn = dh [(1 - z) (1 - n^2)]        dz = dh [(h_{t-1} - n) z (1 - z)]
        dq = dh [that r]                   dr = dh [that q r (1 - r)]
    """
    xp = namespace(gates)
    r, _, q, n = (gates[:, k] for k in range(4))
    slopes = xp.empty_like(gates)
    of_n, of_r, of_z, of_q = (slopes[:, k] for k in range(4))
    xp.multiply(n, n, out=of_n)
    xp.subtract(1, of_n, out=of_n)
    xp.subtract(1, gates[:, :2], out=slopes[:, 1:3])
    of_n *= of_z
    slopes[:, 1:3] *= gates[:, :2]  # r (1 - r) and z (1 - z)
    xp.multiply(of_n, r, out=of_q)
    of_r *= of_n
    of_r *= q
    of_z *= h_before - n
    return slopes


def _weight_gradients(
    x: Array,
    ids: Array | None,
    h_before: Array,
    dz: Array,
    w_ih: Array,
    needs: tuple[bool, ...],
    ended: Array | None,
    dh: Array,
) -> tuple[Any, ...]:
    """All gradients, from those of n, r, z, q in all steps (4H, T, B) and that of h_0."""
    H = len(dz) // 4
    new, old = dz[: 3 * H], dz[H:]  # (n, r, z) met the input, (r, z, q) the state
    need_w_ih, need_w_hh, need_b_ih, need_b_hh = needs[-4:]
    wanted = (needs[0], need_w_ih, need_b_ih or need_b_hh)
    dx, dw_ih, db_new = input_gradients(x, ids, new, n_first(w_ih), ended, wanted)
    db_old = None
    if need_b_hh:  # of r and z both biases have the same gradient
        db_q = backends.of(dz).sum_rows(dz[3 * H :].reshape((H, -1)))
        db_old = namespace(dz).concatenate((db_new[H:], db_q))
    return (
        dx,
        dh,
        None if dw_ih is None else n_last(dw_ih),
        sum_of_products(old, h_before, ended) if need_w_hh else None,
        n_last(db_new) if need_b_ih else None,
        db_old,
    )


def n_first(blocks: Array) -> Array:
    """r, z, n to n, r, z: blocks of rows of a weight or a bias."""
    H = len(blocks) // 3
    return namespace(blocks).concatenate((blocks[-H:], blocks[:-H]))


def n_last(blocks: Array) -> Array:
    """n, r, z to r, z, n: undoes `n_first`."""
    H = len(blocks) // 3
    return namespace(blocks).concatenate((blocks[H:], blocks[:H]))
