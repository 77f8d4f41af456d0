"""How a gradient travels back through time: where it vanishes, where it explodes, who gets it.

    flow = tg.gradient_flow(model, lambda: cross_entropy(model(x)[0], y))
    flow["lstm.l0"].h           |dL/dh_t| for t = 1 .. T

One weight serves every step, so its gradient is a sum over steps, and each term of it has come
back through all the steps after it:

    dL/dW   = sum over t of  dL/dh_t (dh_t/dW, at step t alone)      the *ledger* of W
    dL/dh_k = sum over t of  (dL/dh_t, by the output at t alone) dh_t/dh_k          the *flow*
    dh_t/dh_k = J_t J_{t-1} ... J_{k+1},    J_t = dh_t/dh_{t-1}                the *Jacobians*

Where the largest singular value of the J_t stays below 1, the product vanishes with the distance
t - k; where it is above 1, the product can explode (Pascanu, Mikolov & Bengio 2013). An LSTM's
Jacobian has the forget gate on the diagonal of its cell block, and can be held near 1 by it.

Nothing here is an estimate: the layers record (`nn/record.py`), and the engine is asked. Each step
has a copy of the weights of its own, so the sweep itself splits the sum; no finite differences.
Numbers are as precise as the model, float32 or float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn._gradient_flow_layer import Host, LayerFlow, gradient_on_host
from tinygrad_rnn.backends import namespace
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.engine import grad
from tinygrad_rnn.core.grad_mode import enable_grad
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.errors import DataError, DTypeError, ShapeError
from tinygrad_rnn.nn.module import Module
from tinygrad_rnn.nn.record import Walk, listening

__all__ = ["GradientFlow", "LayerFlow", "gradient_flow"]


class GradientFlow(Mapping[str, LayerFlow]):
    """What `gradient_flow` found: a `LayerFlow` for each layer and direction, by name.

    Names are those of the weights without their beginnings: "lstm.l0", "lstm.l0_reverse", ...; of a
    cell, the cell's own, and "cell" if the model is one.

    Attributes:
        loss: the loss that was differentiated.
    """

    def __init__(self, loss: float, layers: dict[str, LayerFlow]) -> None:
        self.loss, self._layers = loss, layers

    def __getitem__(self, name: str) -> LayerFlow:
        try:
            return self._layers[name]
        except KeyError:
            raise KeyError(f"{name!r}; there are {', '.join(map(repr, self._layers))}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        lines = [f"loss {self.loss:.6g}; the norm of dL/dh_t at the first, middle and last step"]
        width = max(map(len, self._layers))
        for name, layer in self._layers.items():
            at = [layer.h[0], layer.h[layer.steps // 2], layer.h[-1]]
            shown = "  ".join(f"{norm:9.3g}" for norm in at)
            lines.append(f"  {name:<{width}}  T = {layer.steps:<5} {shown}")
        return "\n".join(lines)


def gradient_flow(
    model: Module, loss: Callable[[], Tensor], *, ledger: bool = False
) -> GradientFlow:
    """Run `loss` once and find the gradient at every step of the recurrent layers of `model`.

    No ``.grad`` is touched. It takes two to five times as long as a training step.

    Args:
        model: a Module with RNN, LSTM, GRU or cells of these somewhere in it, or one of these.
        loss: calls the model on a batch and returns a 0-d loss.
        ledger: keep every step's part of every weight's gradient, which takes T times the memory
            of the weights; without it only the norms of the parts are kept.

    Raises:
        DTypeError, ShapeError: not a Module, not a function, not a 0-d loss.
        DataError: `loss` ran no recurrent layer of `model`, or not for a single step.
    """
    _check_arguments(model, loss)
    with enable_grad(), listening(model) as tape:
        result = loss()
    _check_loss(result)
    runs: dict[str, list[Walk]] = {}
    for module, suffix, walk in tape.walks:
        if walk.length:  # a window without steps has no place in time
            name = ".".join(filter(None, (module, suffix[1:]))) or "cell"
            runs.setdefault(name, []).append(walk)
    if not runs:
        raise DataError(
            "gradient_flow: the loss ran no step of a recurrent layer of this model; needed a "
            "function that calls the model, such as lambda: cross_entropy(model(x)[0], y)"
        )
    return GradientFlow(float(result), _layer_flows(result, runs, ledger))


def _check_arguments(model: Any, loss: Any) -> None:
    if not isinstance(model, Module) or not callable(loss):
        raise DTypeError(
            f"gradient_flow: needed a Module and a function without arguments that returns the "
            f"loss, such as lambda: cross_entropy(model(x)[0], y); got a {type(model).__name__} "
            f"and a {type(loss).__name__}"
        )


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.ndim:
        seen = f"shape {loss.shape}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise ShapeError(f"gradient_flow: the loss is one number, a 0-d Tensor; got {seen}")


def _layer_flows(result: Tensor, runs: dict[str, list[Walk]], ledger: bool) -> dict[str, LayerFlow]:
    """One sweep from the loss to every state of every step, and to the weights."""
    notes = {name: _Ledger(walks, keep=ledger) for name, walks in runs.items()}
    states = [s for walks in runs.values() for kind in _kinds(walks) for s in _states(walks, kind)]
    weights = [w for walks in runs.values() for w in _weights(walks).values()]
    # A state that comes of nothing with a gradient (a frozen layer's) cannot be asked about.
    asked = list(dict.fromkeys(t for t in [*states, *weights] if t.requires_grad))
    found = dict(zip(asked, grad(result, asked, allow_unused=True), strict=True))
    layers = {}
    for name, walks in runs.items():
        flows = [_norms([found.get(s) for s in _states(walks, kind)]) for kind in _kinds(walks)]
        norms, parts = notes[name].closed()
        totals = {n: gradient_on_host(found.get(w), w) for n, w in _weights(walks).items()}
        kept = [None if w is None else w._data.copy() for w in walks[0].parameters.values()]
        c = flows[1] if len(flows) > 1 else None
        layers[name] = LayerFlow(flows[0], c, norms, parts, totals, walks, kept)
    return layers


def _kinds(walks: list[Walk]) -> range:
    return range(len(walks[0].states))


def _states(walks: list[Walk], kind: int) -> list[Tensor]:
    """The states of one kind after each step: h_1 .. h_T, or c_1 .. c_T."""
    name = "hc"[kind]
    return [state for walk in walks for state in walk.values[name]]


def _weights(walks: list[Walk]) -> dict[str, Tensor]:
    """The weights of a layer that can have a gradient."""
    return {n: w for n, w in walks[0].parameters.items() if w is not None and w.requires_grad}


def _norms(gradients: list[Tensor | None]) -> Host:
    """Their norms (T,), brought to the host in one go; 0 where there is no gradient."""
    norms = np.zeros(len(gradients))
    some = [(k, g._data) for k, g in enumerate(gradients) if g is not None]
    if some:
        places, arrays = zip(*some, strict=True)
        backend = backends.of(arrays[0])
        norms[list(places)] = np.sqrt(backend.to_host(backend.squared_norms(arrays)))
    return norms


# ---- the ledger ----


class _Ledger:
    """Notes what each step's copy of each weight is sent, while the sweep passes by."""

    def __init__(self, walks: list[Walk], *, keep: bool) -> None:
        self.steps = sum(walk.length for walk in walks)
        self.squares: dict[str, dict[int, Array]] = {name: {} for name in _weights(walks)}
        self.parts: dict[str, Host] = {
            name: np.zeros((self.steps, *w.shape), dtype=w.dtype)
            for name, w in _weights(walks).items()
            if keep
        }
        first = 0
        for walk in walks:
            for name in self.squares:
                for t, copy in enumerate(walk.weights[name]):
                    if copy.requires_grad:  # a call under no_grad has no part in it
                        copy.register_hook(self._note(name, first + t))
            first += walk.length

    def _note(self, name: str, t: int) -> Callable[[Any], None]:
        def note(g: Array) -> None:
            self.squares[name][t] = backends.of(g).squared_norms([g])
            if self.parts:
                self.parts[name][t] = backends.of(g).to_host(g)

        return note

    def closed(self) -> tuple[dict[str, Host], dict[str, Host]]:
        """The norms (T,) and the parts (T, ...) by name; 0 at a step that got no gradient."""
        norms = {name: np.zeros(self.steps) for name in self.squares}
        for name, squares in self.squares.items():
            if squares:
                some = list(squares.values())
                together = namespace(some[0]).concatenate(some)
                host = backends.of(together).to_host(together)
                norms[name][list(squares)] = np.sqrt(host)
        return norms, self.parts
