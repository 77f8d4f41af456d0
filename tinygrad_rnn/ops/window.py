"""A recurrent op where the backend does the whole time loop in its own way (`backends/window.py`).

Around the loop nothing is new: the inputs are projected before it and the gradients of the weights
come after it, as in `ops/sequence.py`, but on row-major arrays (T, B, ...), as GPUs like them.
"""

from __future__ import annotations

from typing import Any

from tinygrad_rnn import backends
from tinygrad_rnn.backends import namespace
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.errors import DataError

IMPLS = ("auto", "ops", "fused", "step", "persistent")  # what a layer's `impl` may be


def own_window(
    cell: str,
    impl: str,
    x: Array,
    ids: Array | None,
    others: tuple[Array | None, ...],
    limit: float | None,
    *,
    relu: bool = False,
) -> Any:
    """The backend's own way to run this window, or None: then the loop in the op's file runs.

    `others` are the first states, the weights and the biases. There is none for an empty window;
    none with `limit`, because a gradient's length is a sum over all units, for which every step
    would have to wait; and none where dtypes are mixed: a kernel reads bytes, and asks no array
    what they mean.
    """
    if impl not in IMPLS or impl == "ops":  # "ops" is the specification, called by its own name
        raise DataError(f"{cell}: impl is {impl!r}, needed 'auto', 'fused', 'step' or 'persistent'")
    T, B = x.shape[:2] if ids is None else ids.shape
    H = others[0].shape[-1]  # type: ignore[union-attr] # there always is a first state
    if not (T and B and H):
        return None
    reason = "" if limit is None else "does not limit gradients (clip_state_grad)"
    if any(a is not None and a.dtype != x.dtype for a in others):
        reason = f"needs one dtype, and not all of states, weights and biases are {x.dtype}"
    if not reason:
        return backends.of(x).window(cell, impl, x, B, H, relu=relu)
    if impl in ("step", "persistent"):
        raise DataError(f"{cell}: impl={impl!r} {reason}; use impl='auto'")
    return None


def run_window(
    window: Any,
    x: Array,
    starts: tuple[Array, ...],
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None,
    b_hh: Array | None,
    *,
    ids: Array | None,
    ended: Array | None,
    keep: bool,
) -> tuple[Array, Any]:
    """h_0 .. h_T, and of an LSTM c_T, (T+S, B, H) for S kinds of state; and the cache of
    `window_gradients`, which has all states.
    """
    xp, backend = namespace(x), backends.of(x)
    T, B = x.shape[:2] if ids is None else ids.shape
    out = xp.empty((T + len(starts), *starts[0].shape), dtype=x.dtype)
    cells = [xp.empty_like(out[: T + 1]) for _ in starts[1:]]
    states = (out[: T + 1], *cells)  # (T+1, B, H) each
    for state, start in zip(states, starts, strict=True):
        state[0] = start
    if ids is None:
        gates = backend.matmul(x.reshape((T * B, -1)), w_ih.T)
    else:  # the table is projected once, and each step picks its rows
        gates = xp.take(backend.matmul(x, w_ih.T), ids.reshape(-1), axis=0)
    gates = gates.reshape((T, B, -1))
    q = window.forward(gates, w_hh, b_ih, b_hh, states, ended)
    for cell in cells:
        out[-1] = cell[-1]
    return out, (window, x, w_ih, w_hh, states, gates, q) if keep else None


def is_window(cache: Any) -> bool:
    """Whether a cache is one of `run_window`, and not one of the loop in the op's own file.

    It begins with what the backend gave, which knows its way back; an array does not. Its class is
    not asked for: who has no GPU need not import the planning for one (4 of 21 ms at import).
    """
    return hasattr(cache[0], "backward")


def window_gradients(g: Array, cache: Any, ended: Array | None) -> tuple[Array, Array]:
    """The gradients of all pre-activations, feature-major (SLOPES * H, T, B) as a view, and of the
    first states (S, B, H).
    """
    window, _, _, w_hh, states, gates, q = cache
    T = len(gates)
    outside = [g[: T + 1]]  # what reaches each state from the loss
    for cell in states[1:]:
        outside.append(namespace(g).zeros_like(cell))
        outside[-1][-1] = g[-1]
    slopes, starts = window.backward(outside, gates, w_hh, states, q, ended)
    return slopes.transpose((2, 0, 1)), starts
