"""What ``tinygrad-rnn check`` checks, part two: layers with their states, losses, and a model.

Of a layer everything that can have a gradient is moved: its input, the states that it begins with,
and each of its parameters, which `gradcheck` finds by itself. Whatever comes out counts: outputs
and last states. So a rule is caught that is right in the middle of a window and wrong at its ends.

The functions of losses get targets that are ignored, and are asked for each reduction.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from tinygrad_rnn._check_examples import Array, Example, Points
from tinygrad_rnn.char_lm import CharModel
from tinygrad_rnn.nn import functional
from tinygrad_rnn.nn.cells import GRUCell, LSTMCell, RNNCell
from tinygrad_rnn.nn.layers import Dropout, Embedding, LayerNorm, Linear, Sequential
from tinygrad_rnn.nn.module import Module, Parameter
from tinygrad_rnn.nn.recurrent import GRU, LSTM, RNN, Recurrent

# Steps, rows of a batch, inputs, hidden units, rows of a table; of V > 2 I a layer makes no table.
# Most layers have more numbers than `gradcheck` takes one by one. They are checked in random
# directions, through all numbers and through each array: at order 2 that is far faster.
T, B, I, H, V = 3, 2, 3, 3, 4


def layers(seed: int) -> list[Example]:
    """An example or more for each layer and loss of `nn`."""
    points = Points(seed)
    return [*_plain(points), *_recurrent(points), *_cells(points), *_losses(points)]


def _plain(p: Points) -> Iterator[Example]:
    """Layers without a memory."""
    settings: dict[str, Any] = {"rng": p.rng, "dtype": np.float64}
    x = p(2, 3, 2)
    yield Example("Linear", Linear(2, 3, **settings), [x])
    yield Example("Linear", Linear(2, 3, bias=False, **settings), [x])
    yield Example("Embedding", Embedding(4, 3, **settings), [np.array([[1, 0], [1, 3]])])
    yield Example("LayerNorm", LayerNorm((3, 2), dtype=np.float64), [x])
    # A row of two is nearly +-1 whatever it is: with a small eps its gradient is mostly rounding.
    yield Example("LayerNorm", LayerNorm(2, eps=0.5, elementwise_affine=False), [x])
    yield Example("Dropout (in evaluation)", Dropout(0.5).eval(), [x])
    stack = Sequential(Linear(2, 3, **settings), Dropout(0.5), Linear(3, 2, **settings)).eval()
    yield Example("Sequential", stack, [x])


VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    " (2 layers)": {"num_layers": 2},
    " (bidirectional)": {"bidirectional": True},
    " (2 x bidirectional)": {"num_layers": 2, "bidirectional": True},
    " (batch_first)": {"batch_first": True},
    " (without bias)": {"bias": False},
}


def _recurrent(p: Points) -> Iterator[Example]:
    """Each kind of network in each variant, with states to begin with; then the other doors."""
    kinds: list[tuple[str, Any, dict[str, Any]]] = [
        ("RNN tanh", RNN, {}),
        ("RNN relu", RNN, {"nonlinearity": "relu"}),
        ("LSTM", LSTM, {}),
        ("GRU", GRU, {}),
    ]
    for kind, network, settings in kinds:
        make = partial(network, I, H, **settings, rng=p.rng, dtype=np.float64)
        for variant, options in VARIANTS.items():
            layer = _with_biases(make(**options), p)
            x = p.small(B, T, I) if layer.batch_first else p.small(T, B, I)
            size = layer.num_layers * layer.directions, B, H
            # Order 2 of what is stacked and bidirectional costs most, and is made of the two above.
            order = 1 if "2 x" in variant else 2
            yield Example(kind + variant, layer, [x, _states(layer, p, *size)], order)
        layer = _with_biases(make(), p)
        yield Example(f"{kind} (without a state)", layer, [p.small(T, B, I)])
        yield Example(f"{kind} (without a batch)", layer, [p.small(T, I), _states(layer, p, 1, H)])
        lengths = _Options(layer, lengths=[1, T])
        yield Example(f"{kind} (lengths=)", lengths, [p.small(T, B, I), _states(layer, p, 1, B, H)])
        rows = _Rows(layer, p.ids(V, T, B))
        yield Example(f"{kind} (table=)", rows, [p.small(V, I), _states(layer, p, 1, B, H)])


class _Options(Module):
    """A layer called with options."""

    def __init__(self, layer: Recurrent, **options: Any) -> None:
        self.layer, self.options = layer, options

    def forward(self, *inputs: Any) -> Any:
        return self.layer(*inputs, **self.options)


class _Rows(Module):
    """A layer that reads rows of a table, as a function of the table."""

    def __init__(self, layer: Recurrent, ids: Array) -> None:
        self.layer, self.ids = layer, ids

    def forward(self, table: Any, state: Any) -> Any:
        return self.layer(self.ids, state, table=table)


def _cells(p: Points) -> Iterator[Example]:
    """One step of each kind, with a state to begin with."""
    for make in (RNNCell, LSTMCell, GRUCell):
        cell = make(I, H, rng=p.rng, dtype=np.float64)
        states: Any = p.small(B, H) if cell.kinds == 1 else (p.small(B, H), p.small(B, H))
        yield Example(make.__name__, cell, [p.small(B, I), states])


def _states(layer: Recurrent, p: Points, *size: int) -> Any:
    """What the layer takes as its state: h, or the pair (h, c)."""
    return p.small(*size) if layer.kinds == 1 else (p.small(*size), p.small(*size))


def _with_biases(layer: Recurrent, p: Points) -> Recurrent:
    """The layer with biases that are not 0: a relu whose inputs are all 0 would be on its kink."""
    for name, parameter in layer.named_parameters():
        if name.startswith("bias"):
            draw = p if name.startswith("bias_ih") else p.between
            parameter.writable()[...] = draw(*parameter.shape) / 2
    return layer


def _losses(p: Points) -> Iterator[Example]:
    """Each loss in each reduction, by its prediction and, where it is a number, by its target."""
    F = functional
    prediction, target, logits = p(2, 3), p.between(2, 3), p(3, 4)
    classes = np.array([2, -100, 0])  # the second is ignored
    sides = np.array([[0.0, 1.0, 0.25], [1.0, 0.5, 0.0]])
    for how in ("mean", "sum", "none"):
        for loss in (F.mse_loss, F.l1_loss):
            yield _loss(loss, [prediction, target], reduction=how)
        yield _loss(F.smooth_l1_loss, [prediction, target], reduction=how, beta=0.7)
        yield _loss(F.binary_cross_entropy_with_logits, [prediction, sides], reduction=how)
        yield _loss(F.nll_loss, [logits, classes], reduction=how)
        for share in (0.0, 0.25):
            yield _loss(F.cross_entropy, [logits, classes], reduction=how, label_smoothing=share)
    yield _loss(F.cross_entropy, [logits, np.full(3, -100)])  # nothing counts: all of it is 0
    yield _loss(F.nll_loss, [logits, np.full(3, -100)])


def _loss(loss: Any, inputs: list[Any], **options: Any) -> Example:
    name = {"softmax_cross_entropy": "cross_entropy"}.get(loss.__name__, loss.__name__)
    return Example(name, partial(loss, **options), inputs)


SYMBOLS, BATCH, EMBEDDING = 7, 3, 4  # of the model; the rest is for the command line to say


def describe(kind: str, hidden: int, layers: int, steps: int) -> str:
    """The model below, in a line."""
    return (
        f"embedding {EMBEDDING}, {layers} x {kind.upper()} {hidden}, cross entropy of {SYMBOLS} "
        f"symbols, {steps} steps x {BATCH} rows"
    )


def model(kind: str, *, hidden: int, layers: int, steps: int, seed: int) -> list[Example]:
    """A whole character model under its loss: each parameter and each state, and all at once.

    One by one they are checked at order 1. Order 2, where everything acts on everything, is for the
    last example: random directions through all of them, and through each.
    """
    rng = np.random.default_rng(seed)
    network = CharModel(
        SYMBOLS, kind=kind, hidden=hidden, layers=layers, embedding=EMBEDDING, rng=rng,
        dtype=np.float64,
    )  # fmt: skip
    ids = rng.integers(SYMBOLS, size=(steps + 1, BATCH))
    start = [
        Parameter(rng.normal(size=(layers, BATCH, hidden)))
        for _ in range(2 if kind == "lstm" else 1)
    ]

    def loss(*_: Any) -> Any:
        logits, _state = network(ids[:-1], tuple(start) if len(start) == 2 else start[0])
        return functional.cross_entropy(logits, ids[1:])

    leaves = dict(network.named_parameters())
    leaves |= {f"state {kind}": state for kind, state in zip("hc", start, strict=False)}
    alone = [Example(f"{name} {leaf.shape}", loss, [leaf], 1) for name, leaf in leaves.items()]
    return [*alone, Example("everything at once", loss, [*leaves.values()])]
