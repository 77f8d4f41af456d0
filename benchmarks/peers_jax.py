"""JAX beside us: the same step, layers, writing, ops and updates, each compiled with `jit`.

Written as one writes JAX for speed: the whole step is one compiled function that is given its
weights' memory back (`donate_argnums`), the inputs of all time steps are projected in one product,
and time is a `lax.scan`. Adam and the clip are a few lines of `jax.numpy`, with PyTorch's formulas.
Compiling does not count, and a run ends when its last result is there (`block_until_ready`).

Gates stand in PyTorch's order, each cell has two biases, and the GRU's reset gate multiplies the
recurrent product after its bias, as in PyTorch and cuDNN.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.peers import CLIP, LEARNING_RATE, Size, weights
from benchmarks.peers_parts import (
    CHECKED,
    FIRST,
    TEXT,
    Step,
    Task,
    norms,
    recurrent_weights,
    signals,
)
from benchmarks.peers_small import CHAIN, operands, values_and_grads

Weights = dict[str, Any]
float32 = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)


# ---- cells and layers: gx is the projected input, gh the projected state, (B, n H) both ----------


def rnn(gx: Any, gh: Any, state: Any) -> Any:  # noqa: ARG001 - one signature for all cells
    return (jnp.tanh(gx + gh),)


def lstm(gx: Any, gh: Any, state: Any) -> Any:
    i, f, g, o = jnp.split(gx + gh, 4, axis=-1)
    c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru(gx: Any, gh: Any, state: Any) -> Any:
    (xr, xz, xn), (hr, hz, hn) = jnp.split(gx, 3, axis=-1), jnp.split(gh, 3, axis=-1)
    r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
    n = jnp.tanh(xn + r * hn)
    return ((1 - z) * n + z * state[0],)


CELLS: dict[str, Callable[..., Any]] = {"rnn": rnn, "lstm": lstm, "gru": gru}


def layer(w: Weights, k: int, cell: str, x: Any, state: Any = None) -> tuple[Any, Any]:
    """Layer k over a whole window x (T, B, I): out (T, B, H) and the last state."""
    w_ih, w_hh, b_ih, b_hh = (
        w[f"{kind}_l{k}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    gx = x @ w_ih.T + b_ih
    if state is None:
        zero = jnp.zeros((x.shape[1], w_hh.shape[1]), x.dtype)
        state = (zero, zero) if cell == "lstm" else (zero,)

    def one(state: Any, gx: Any) -> tuple[Any, Any]:
        new = CELLS[cell](gx, state[0] @ w_hh.T + b_hh, state)
        return new, new[0]

    state, out = lax.scan(one, state, gx)
    return out, state


def layers(w: Weights, size: Size, x: Any) -> Any:
    for k in range(size.layers):
        x, _ = layer(w, k, size.cell, x)
    return x


def inside(w: Weights) -> Weights:
    """The recurrent layers' weights by their names inside the layer."""
    return {n[4:]: a for n, a in w.items() if n.startswith("rnn.")}


# ---- the training step ---------------------------------------------------------------------------


def loss_of(w: Weights, size: Size, x: Any, y: Any) -> Any:
    out = layers(inside(w), size, w["embedding.weight"][x])
    logits = out @ w["head.weight"].T + w["head.bias"]
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, y[..., None], axis=-1).mean()


def clipped(grads: Any, limit: float) -> Any:
    norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads)))
    scale = jnp.minimum(1.0, limit / (norm + 1e-6))
    return jax.tree.map(lambda g: g * scale, grads)


def adam(w: Any, m: Any, v: Any, t: Any, grads: Any, rate: float) -> tuple[Any, Any, Any]:
    """Kingma and Ba's Adam with PyTorch's defaults; t counts from 1."""
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
    rate, root = rate / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
    w = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) / root + 1e-8), w, m, v)
    return w, m, v


def zeros(w: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, w)


class Jax:
    """The whole step as one compiled function of weights, moments, time and batch."""

    def __init__(self, size: Size) -> None:
        self.w = jax.tree.map(jnp.asarray, weights(size))
        self.moments: Any = None
        self.t = 0

        def step(w: Weights, m: Weights, v: Weights, t: Any, x: Any, y: Any) -> Any:
            loss, grads = jax.value_and_grad(loss_of)(w, size, x, y)
            return *adam(w, m, v, t, clipped(grads, CLIP), LEARNING_RATE), loss

        shapes = jax.tree.map(lambda a: float32(a.shape), self.w)
        ids = jax.ShapeDtypeStruct((size.T, size.B), jnp.int32)
        jitted = jax.jit(step, donate_argnums=(0, 1, 2))
        self.compiled = jitted.lower(shapes, shapes, shapes, float32(()), ids, ids).compile()

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        if self.moments is None:  # made in the first step, as the others make theirs
            self.moments = zeros(self.w), zeros(self.w)
        self.t += 1
        x, y = x.astype(np.int32), y.astype(np.int32)
        self.w, *self.moments, loss = self.compiled(self.w, *self.moments, np.float32(self.t), x, y)
        jax.block_until_ready((self.w, self.moments))
        return float(loss)


# ---- the other tasks -----------------------------------------------------------------------------


class Layer(Task):
    """A stack of layers over a window: forward, or forward and all gradients."""

    def __init__(self, *, backward: bool, **sizes: Any) -> None:
        size = Size(**sizes)
        x, g = map(jnp.asarray, signals(size))
        w = jax.tree.map(jnp.asarray, recurrent_weights(size))
        self.names = list(recurrent_weights(size))  # of which JAX sorts its copy

        def forward(w: Weights, x: Any, g: Any) -> Any:  # noqa: ARG001
            return (layers(w, size, x),)

        def gradients(w: Weights, x: Any, g: Any) -> Any:
            out, pull = jax.vjp(lambda w, x: layers(w, size, x), w, x)
            return out, *pull(g)

        self.compiled = jax.jit(gradients if backward else forward)
        self.arguments = w, x, g

    def run(self) -> Any:
        return jax.block_until_ready(self.compiled(*self.arguments))

    def check(self) -> list[float]:
        out, *grads = self.run()
        if not grads:
            return norms([out])
        return norms([out, grads[1], *(grads[0][name] for name in self.names)])


class Writer(Task):
    """The whole text in one compiled scan that draws each character and reads it."""

    def __init__(self, **sizes: Any) -> None:
        size = Size(**sizes)
        self.w = jax.tree.map(jnp.asarray, weights(size))

        def write(w: Weights, key: Any, best: bool) -> Any:
            rnn = inside(w)

            def one(carry: Any, key: Any) -> tuple[Any, Any]:
                token, states = carry
                x, new = w["embedding.weight"][token][None, None], []
                for k in range(size.layers):
                    x, state = layer(rnn, k, size.cell, x, states[k])
                    new.append(state)
                logits = x[0, 0] @ w["head.weight"].T + w["head.bias"]
                token = jnp.where(best, logits.argmax(), jax.random.categorical(key, logits))
                return (token.astype(jnp.int32), new), token

            zero = jnp.zeros((1, size.H), jnp.float32)
            states = [(zero,) * (2 if size.cell == "lstm" else 1)] * size.layers
            return lax.scan(one, (jnp.int32(FIRST), states), jax.random.split(key, TEXT))[1]

        self.compiled = jax.jit(write)

    def run(self, *, best: bool = False) -> np.ndarray:
        return np.asarray(self.compiled(self.w, jax.random.key(0), best))

    def check(self) -> list[float]:
        return [float(i) for i in self.run(best=True)]


class Ops(Task):
    """`CHAIN` calls of one compiled function: an op, and the gradients of its operands.

    A whole chain in one `jit` would be a loop without Python, which is not what this row measures;
    JAX without `jit` takes hundreds of microseconds for the same.
    """

    def __init__(self, op: str, elements: int) -> None:
        function = {"add": jnp.add, "mul": jnp.multiply, "tanh": jnp.tanh, "matmul": jnp.matmul}[op]
        self.operands = [jnp.asarray(a) for a in operands(op, elements)]

        def both(g: Any, *operands: Any) -> Any:
            out, pull = jax.vjp(function, *operands)
            return out, pull(g)

        self.compiled = jax.jit(both)

    def run(self) -> Any:
        compiled, (y, *rest) = self.compiled, self.operands
        g = y
        for _ in range(CHAIN):
            y, (g, *_) = compiled(g, y, *rest)
        return jax.block_until_ready((y, g))

    def check(self) -> list[float]:
        return norms(self.run())


class Update(Task):
    """Adam over a million parameters as one compiled function, after a clip or without."""

    def __init__(self, *, clip: bool, fused: bool = False) -> None:  # noqa: ARG002 - PyTorch's
        self.w, self.g = ([jnp.asarray(a) for a in arrays] for arrays in values_and_grads())
        self.moments, self.t = [zeros(self.w), zeros(self.w)], 0

        def step(w: Any, m: Any, v: Any, t: Any, g: Any) -> Any:
            return adam(w, m, v, t, clipped(g, 1.0) if clip else g, 1e-3)

        self.compiled = jax.jit(step, donate_argnums=(0, 1, 2))

    def run(self) -> None:
        self.t += 1
        new = self.compiled(self.w, *self.moments, np.float32(self.t), self.g)
        self.w, *self.moments = jax.block_until_ready(new)

    def check(self) -> list[float]:
        for _ in range(CHECKED):
            self.run()
        return norms(self.w)


TASKS = {
    "step": lambda **size: Step(Jax, **size),
    "layer": Layer,
    "sampling": Writer,
    "ops": Ops,
    "optimizer": Update,
}
