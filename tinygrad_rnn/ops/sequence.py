"""What the recurrent ops share: all that lies outside the pointwise step of a cell.

Around the time loop there are the large products: the `projections` of the inputs, made ahead of
it, and the gradients of the weights after it. Inside it, between one step and the next, there is
*the state on its way*, and two things may happen to it:

A row of a batch may **end** before the others do. From then on its state stays what it is,

    h_t = h_{t-1}        where ended[t]

so the last state of the trajectory is that of each row's own end, and nothing that stands in the
padding has any influence, forward or backward.

Its gradient may be **limited**. `limit_gradient` is the identity, and on the way back it scales
the gradient that step t + 1 sends to step t down to a given length, row by row:

    g  <-  g * min(1, limit / |g|)        g: what step t + 1 sends to h_t; what the loss sends to
                                          h_t comes on top. Of an LSTM, c_t has a g of its own.

Clipping the gradient of the weights caps the sum over all steps, when the explosion has happened;
this stops it in the step in which it starts. The result is then no derivative of the loss any more,
and is not to be differentiated again.

Sizes: T steps, B rows in a batch, I inputs, H hidden units, G = H or the rows of all gates.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.backends import namespace
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.primitive import primitive
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.errors import NotDifferentiableError
from tinygrad_rnn.ops.arithmetic import where

# Numbers worked on together, 256 KB of float32: two or three such arrays fit the second-level cache
# of a core. A backward of T=25, B=1, H=100, in one block of all steps: 0.15 ms instead of 0.28.
BLOCK = 2**16

# ---- the state on its way from step to step, on Tensors: for the specifications ----


@primitive
def limit_gradient(x: Array, *, limit: float) -> Array:
    """`x` itself; its gradient is scaled down to a norm of at most `limit` along the last axis."""
    return x


def _limited(g: Any, *, limit: float) -> Any:
    """`g`, no longer than `limit`.

    What was limited is no derivative: a "second derivative" through it would depend on how the
    first was computed, and would be limited once more on its own way back.
    """
    if isinstance(g, Tensor):
        raise NotDifferentiableError(
            f"limit_gradient: gradients limited to {limit:g} (clip_state_grad) are no derivatives "
            f"that could be differentiated again; take second derivatives without a limit"
        )
    return (g * scale_to(limit, g, axis=-1)).astype(g.dtype, copy=False)


limit_gradient.vjp(x=_limited)


def scale_to(limit: float, g: Array, axis: int) -> Array:
    """What to multiply `g` with so that no vector along `axis` is longer than `limit`.

    Lengths are taken in float64: a float32 gradient of 1e25, which is what a limit is for, has a
    square that float32 has no number for, and would be scaled to 0. So is the factor: one below
    1e-38, as float32, a GPU takes for 0.
    """
    xp = namespace(g)
    length = xp.sqrt(xp.sum(xp.square(g, dtype=np.float64), axis=axis, keepdims=True))
    scale: Array = limit / xp.maximum(length, limit)  # exactly 1 for short ones
    return scale


def arriving(state: Any, limit: float | None) -> Any:
    """A state (B, H) as the next step gets it: with its gradient limited, if there is a limit."""
    return state if limit is None else limit_gradient(state, limit=limit)


def held(new: Any, old: Any, ended: Array | None, t: int) -> Any:
    """The state after step `t`: `new`, or `old` in the rows (B,) that have ended."""
    return new if ended is None else where(ended[t][:, None], old, new)


# ---- the same on arrays, feature-major (H, B) and in place: for the fused ops ----


def hold(new: Array, old: Array, ended: Array) -> None:
    """Overwrite `new` with `old` in the columns (B,) that have ended."""
    namespace(new).copyto(new, old, where=ended)


def stop(g: Array, ended: Array) -> None:
    """No gradient to what the columns that have ended did at this step."""
    namespace(g).copyto(g, 0, where=ended)


def past(g: Array, ended: Array) -> Array:
    """The gradient that goes by the step: that of the columns that have ended."""
    return namespace(g).where(ended, g, 0)


def limit_columns(g: Array, limit: float) -> None:
    """Scale every column of (H, B) down to a norm of at most `limit`."""
    namespace(g).multiply(g, scale_to(limit, g, axis=0), out=g, casting="same_kind")


# ---- before and in the loop ----


def blocks(T: int, numbers: int) -> list[slice]:
    """The steps in blocks, first to last and at least one; `numbers` is what a step has of the
    largest array.

    What needs no state of the step before is done for a whole block at once: for all steps of a
    small layer, where a call costs more than the arithmetic in it, and step by step for a large
    one, whose arrays would not stay in the cache until the loop gets to them.
    """
    size = max(1, BLOCK // max(1, numbers))
    return [slice(t, min(t + size, T)) for t in range(0, max(T, 1), size)]


def projections(x: Array, ids: Array | None, w_ih: Array, bias: Array | None) -> Iterator[Array]:
    """``W_ih x_t + bias`` for one step after another: (G, B), to be read before the next is made.

    Inputs that are rows of a table need no product of their own: the table is projected once, and
    each step picks its columns. A character model has 100 rows to project instead of T * B.
    """
    xp, backend = namespace(x), backends.of(x)
    T, B = x.shape[:2] if ids is None else ids.shape
    table = None
    if ids is not None:
        table = xp.matmul(w_ih, x.T)  # (G, V)
        if bias is not None:
            table += bias[:, None]
    elif bias is not None:
        bias = tiled(bias, B)
    steps = blocks(T, len(w_ih) * B)
    out = xp.empty((steps[0].stop, len(w_ih), B), dtype=x.dtype)
    for block in steps:
        made = out[: block.stop - block.start]
        if ids is not None:
            backend.take_columns(table, ids[block], made)
        else:
            xp.matmul(w_ih, x[block].transpose((0, 2, 1)), out=made)
            if bias is not None:
                made += bias
        yield from made


def tiled(bias: Array, B: int) -> Array:
    """A bias (G,) written out for every row of the batch, (G, B): added as one block it costs a
    third of what broadcasting it costs.
    """
    if B == 1:
        return bias[:, None]
    xp = namespace(bias)
    return xp.ascontiguousarray(xp.broadcast_to(bias[:, None], (len(bias), B)))


def each(array: Array, T: int) -> Iterable[Array]:
    """`array`, step by step; one that has a single step serves all of them."""
    return array if len(array) == T else itertools.repeat(array[0], T)


def transposed(w: Array, B: int) -> Array:
    """W_hh for ``W_hh' dz``, which every step asks for: copied once, as the product of a matrix
    reads it quickest; for a single column, where each number is read once, the copy never pays.
    """
    return w.T if B == 1 else namespace(w).ascontiguousarray(w.T)


# ---- after the loop ----


def weight_gradients(
    x: Array,
    ids: Array | None,
    h_before: Array,
    dz: Array,
    w_ih: Array,
    needs: tuple[bool, ...],
    ended: Array | None,
) -> tuple[Any, Any, Any, Any]:
    """dx, dW_ih, dW_hh and db from the gradients dz (G, T, B) of all steps' pre-activations.

    `h_before` is (T, B, H), h_0 .. h_{T-1}. `needs` is in the order x, states, weights, biases;
    what nobody needs is not computed.
    """
    need_w_ih, need_w_hh, need_b_ih, need_b_hh = needs[-4:]
    need_b = need_b_ih or need_b_hh
    dx, dw_ih, db = input_gradients(x, ids, dz, w_ih, ended, (needs[0], need_w_ih, need_b))
    dw_hh = sum_of_products(dz, h_before, ended) if need_w_hh else None
    return dx, dw_ih, dw_hh, db


def input_gradients(
    x: Array,
    ids: Array | None,
    dz: Array,
    w_ih: Array,
    ended: Array | None,
    needs: tuple[bool, bool, bool],
) -> tuple[Any, Any, Any]:
    """dx, dW_ih and db, where needed; with `ids`, `x` is a table and dx the gradient of its rows.

    A step that has read row v of a table adds its gradient to column v of what the table was
    projected to, (G, V). From there on there are V columns instead of T * B, for db as well.
    """
    need_x, need_w, need_b = needs
    backend = backends.of(dz)
    dz = dz.reshape((len(dz), -1))  # (G, T*B), a view
    if ids is not None and (need_x or need_w):
        dz = backend.sum_columns(dz, ids.reshape(-1), len(x))  # (G, V), as projected
    dx = dw_ih = None
    if need_x:
        dx = backend.matmul(dz.T, w_ih).reshape(x.shape)
    if need_w:
        rows = x.reshape((-1, x.shape[-1])) if ids is None else _rows_read(x, ids, ended)
        dw_ih = backend.matmul(dz, rows)
    return dx, dw_ih, backend.sum_rows(dz) if need_b else None


def _rows_read(table: Array, ids: Array, ended: Array | None) -> Array:
    """The table with 0 in the rows that no step has read: they may be NaN, and 0 * NaN is NaN."""
    xp = namespace(table)
    seen = xp.zeros(len(table) + 1, dtype=bool)  # one more, for what is read in the padding
    seen[ids if ended is None else xp.where(ended, len(table), ids.astype(np.int64))] = True
    return xp.where(seen[:-1, None], table, 0)


def sum_of_products(dz: Array, h_before: Array, ended: Array | None) -> Array:
    """dW_hh: the sum over steps that a shared weight asks for is done by the product itself, whose
    inner dimension runs over all T * B rows.
    """
    if ended is not None:  # dz is 0 there, but a state may be NaN
        h_before = namespace(dz).where(ended[:, :, None], 0, h_before)
    rows = h_before.reshape((-1, h_before.shape[-1]))  # (T*B, H)
    return backends.of(dz).matmul(dz.reshape((len(dz), -1)), rows)


# ---- rows that end, and sequences turned around ----


@primitive
def turned(x: Array, *, order: Array) -> Array:
    """``out[t, b] = x[order[t, b], b]``: each row of (T, B, ...) in an order of its own.

    `order` (T, B) turns the first steps of a row around and leaves the rest: it undoes itself, and
    so the gradient of this op is this op.
    """
    out: Array = x[order, namespace(order).arange(order.shape[1])]
    return out


turned.vjp(x=lambda g, *, order: turned(g, order=order))
