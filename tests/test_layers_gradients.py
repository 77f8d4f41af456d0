"""Layers with states, and losses with ignored targets, through everything that ops go through.

Of a layer everything moves that can have a gradient: the input, the states it begins with, and each
parameter. Everything that comes out counts, outputs and last states. Orders 1 and 2.
"""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn, testing
from tinygrad_rnn.nn import functional as F
from tinygrad_rnn.testing.strategies import grid

EXAMPLES = (
    6  # a layer is a long graph; its ops are tested with many more in tests/test_gradients.py
)


@contextlib.contextmanager
def replaced(layer, tensors):
    """The layer with `tensors` in place of its parameters, in their order."""
    names = [name for name, _ in layer.named_parameters()]
    before = [getattr(layer, name) for name in names]
    try:
        for name, tensor in zip(names, tensors, strict=True):
            twin = object.__new__(nn.Parameter)  # a layer looks for Parameters; a leaf need not be
            twin._data, twin._node = tensor._data, tensor._node
            setattr(layer, name, twin)
        yield
    finally:
        for name, parameter in zip(names, before, strict=True):
            setattr(layer, name, parameter)


@st.composite
def windows(draw, make, *, table=False, start=True, batch=True, unequal=False, **options):
    """Calls of a layer, as a function of its input (or table), its states and its parameters."""
    T, B, I, H = draw(st.tuples(*[st.integers(1, 3), st.integers(1, 2), *[st.integers(1, 2)] * 2]))
    layer = make(I, H, rng=0, dtype=np.float64, **options)
    lstm = isinstance(layer, nn.LSTM)
    shape = (B, T) if layer.batch_first else (T, B)
    shape = shape if batch else (T,)
    V = draw(st.integers(1, 6))  # of more than 2 I rows, the layer makes the input row by row
    ids = draw(testing.arrays(st.integers(0, V - 1).map(float), shape)).astype(int)
    lengths = draw(st.lists(st.integers(0, T), min_size=B, max_size=B)) if unequal else None
    rows = (layer.num_layers * layer.directions, *([B] if batch else []), H)
    kinds = (2 if lstm else 1) if start else 0
    # An offset that no sum of products of grid points cancels: no pre-activation is 0 (for relu).
    numbers, shifted = grid(-1, 1), grid(-1, 1, offset=0.0173)
    arrays = [draw(testing.arrays(numbers, (V, I) if table else (*shape, I)))]
    arrays += [draw(testing.arrays(numbers, rows)) for _ in range(kinds)]
    for name, parameter in layer.named_parameters():
        arrays.append(draw(testing.arrays(shifted if "bias" in name else numbers, parameter.shape)))

    def call(x, *rest):
        state = rest[:kinds]
        state = (tuple(state) if lstm else state[0]) if state else None
        with replaced(layer.to(x.device), rest[kinds:]):
            if table:
                return layer(ids, state, table=x, lengths=lengths)
            return layer(x, state, lengths=lengths)

    return testing.Case(tuple(arrays), call)


KINDS = {
    "RNN tanh": nn.RNN,
    "RNN relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
}
VARIANTS = {
    "": {},
    "2 layers": {"num_layers": 2},
    "bidirectional": {"bidirectional": True},
    "2 layers, bidirectional, batch_first": {
        "num_layers": 2, "bidirectional": True, "batch_first": True,
    },
    "batch_first": {"batch_first": True},
    "no bias": {"bias": False},
    "no state": {"start": False},
    "no batch": {"batch": False},
    "table=": {"table": True},
    "lengths=": {"unequal": True},
    "lengths=, 2 layers, bidirectional, batch_first": {
        "unequal": True, "num_layers": 2, "bidirectional": True, "batch_first": True,
    },
    "lengths=, table=, bidirectional": {"unequal": True, "table": True, "bidirectional": True},
    "table=, 2 layers, bidirectional, batch_first": {
        "table": True, "num_layers": 2, "bidirectional": True, "batch_first": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_layers(backend, kind, variant):
    if kind == "RNN relu" and variant == "no bias":
        variant = ""  # sums of products of grid points may be 0, where relu has its kink
    cases = windows(KINDS[kind], **VARIANTS[variant])
    testing.check_cases(f"{kind} {variant}", cases, devices=[backend.device], max_examples=EXAMPLES)


@st.composite
def steps(draw, make):
    """Calls of a cell, as a function of its input, its states and its parameters."""
    B, I, H = draw(st.tuples(st.integers(0, 2), st.integers(1, 2), st.integers(1, 2)))
    cell = make(I, H, rng=0, dtype=np.float64, bias=draw(st.booleans()))
    batch = (B,) if draw(st.booleans()) else ()
    numbers = grid(-1, 1)
    shapes = [(*batch, I), *[(*batch, H)] * cell.kinds, *(p.shape for p in cell.parameters())]
    arrays = tuple(draw(testing.arrays(numbers, shape)) for shape in shapes)

    def call(x, *rest):
        state = rest[: cell.kinds]
        with replaced(cell.to(x.device), rest[cell.kinds :]):
            return cell(x, tuple(state) if cell.kinds == 2 else state[0])

    return testing.Case(arrays, call)


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_cells(backend, kind):
    testing.check_cases(kind.__name__, steps(kind), devices=[backend.device], max_examples=EXAMPLES)


def test_the_layers_parameters_really_move():
    """The harness checks itself: a parameter that were left in place would pass every property."""
    layer = nn.LSTM(2, 2, rng=0, dtype=np.float64)
    x = tg.tensor(np.ones((2, 1, 2)))
    zeros = [tg.tensor(np.zeros(p.shape), requires_grad=True) for p in layer.parameters()]
    with replaced(layer, zeros):
        out, _ = layer(x)
    assert not out.detach().numpy().any()
    found = tg.grad(out.sum(), zeros, allow_unused=True)
    assert all(g is not None for g in found)
    assert layer(x)[0].detach().numpy().any()


# ---- losses ----


@st.composite
def classified(draw, loss, **options):
    """Rows of scores with targets, some of them (or all) ignored; no rows at all, too."""
    *outer, classes = draw(testing.shapes(1, min_side=1))
    if draw(st.booleans()):
        outer = [0, *outer][: len(outer)]
    numbers = st.sampled_from([-100, *range(classes)]).map(float)
    targets = draw(testing.arrays(numbers, tuple(outer))).astype(int)
    scores = draw(testing.arrays("real", (*outer, classes)))
    return testing.Case((scores,), loss, {"targets": targets, **options})


@st.composite
def paired(draw, loss, first, second, **options):
    """A prediction and a target of one shape; both move."""
    shape = draw(testing.shapes(min_side=1))
    arrays = (draw(testing.arrays(first, shape)), draw(testing.arrays(second, shape)))
    return testing.Case(arrays, loss, options)


LOSSES = {
    "cross_entropy": lambda how: classified(F.cross_entropy, reduction=how),
    "cross_entropy, smoothed": lambda how: classified(
        F.cross_entropy, reduction=how, label_smoothing=0.25
    ),
    "nll_loss": lambda how: classified(F.nll_loss, reduction=how),
    "mse_loss": lambda how: paired(F.mse_loss, "real", "real", reduction=how),
    # |a - b| has a kink at 0 (two grids that never meet), and the Huber loss one more at beta.
    "l1_loss": lambda how: paired(F.l1_loss, "real", "with zero", reduction=how),
    "smooth_l1_loss": lambda how: paired(
        F.smooth_l1_loss, "real", "with zero", reduction=how, beta=0.7
    ),
    "binary_cross_entropy_with_logits": lambda how: paired(
        F.binary_cross_entropy_with_logits, "real", testing.between(0, 1), reduction=how
    ),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses(backend, loss, reduction):
    testing.check_cases(
        f"{loss}, {reduction}", LOSSES[loss](reduction), devices=[backend.device], max_examples=20
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss])
def test_all_targets_ignored(backend, loss, reduction):
    """The mean over nothing is 0, and so are both its derivatives: never 0/0."""
    targets = np.full((2, 3), -100)

    def call(scores):
        return loss(scores, targets, reduction=reduction)

    testing.check_op(
        call, inputs=testing.arrays("real", (2, 3, 4)), devices=[backend.device], max_examples=3
    )
    scores = backend.tensor(np.ones((2, 3, 4)), requires_grad=True)
    out = call(scores)
    (g,) = tg.grad(out, scores)
    assert out.item() == 0
    assert not backend.host(g).any()
