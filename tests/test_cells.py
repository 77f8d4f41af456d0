"""RNNCell, LSTMCell, GRUCell: PyTorch's numbers, and the layers' step by step."""

import json
import pathlib

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn

STORED = json.loads((pathlib.Path(__file__).parent / "data" / "torch_cells.json").read_text())
KINDS = ["RNN", "LSTM", "GRU"]


def parts(state):
    return list(state) if isinstance(state, tuple) else [state]


@pytest.mark.parametrize(
    "case",
    STORED["cases"],
    ids=lambda c: f"{c['kind']}-{c['options']}-{np.ndim(c['x'])}d",
)
def test_equals_pytorch(backend, case):
    x = backend.tensor(case["x"], requires_grad=True)
    states = [backend.tensor(s, requires_grad=True) for s in case["states"]]
    sizes = x.shape[-1], states[0].shape[-1]
    cell = getattr(nn, case["kind"])(*sizes, **case["options"], dtype=np.float64)
    assert [name for name, _ in cell.named_parameters()] == list(case["weights"])
    cell.load_state_dict(case["weights"])
    cell.to(backend.device)
    new = parts(cell(x, tuple(states) if len(states) > 1 else states[0]))
    for ours, theirs in zip(new, case["out"], strict=True):
        np.testing.assert_allclose(backend.host(ours), theirs, rtol=1e-12, atol=1e-12)
    seeds = [backend.tensor(s) for s in case["seeds"]]
    found = tg.grad(new, [x, *states, *cell.parameters()], seeds)
    expected = [case["dx"], *case["dstates"], *case["dweights"].values()]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(backend.host(ours), theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_over_a_cell_is_the_layer(backend, kind, bias):
    layer = getattr(nn, kind)(2, 3, bias=bias, rng=0, dtype=np.float64).to(backend.device)
    cell = getattr(nn, kind + "Cell")(2, 3, bias=bias, dtype=np.float64).to(backend.device)
    weights = {name.removesuffix("_l0"): w for name, w in layer.state_dict().items()}
    cell.load_state_dict(weights)
    x = backend.tensor(np.random.default_rng(0).normal(size=(4, 2, 2)), requires_grad=True)
    out, _ = layer(x)
    state, outputs = None, []
    for t in range(4):
        state = cell(x[t], state)
        outputs.append(parts(state)[0])
    again = tg.stack(outputs)
    np.testing.assert_allclose(backend.host(again), backend.host(out), rtol=1e-12, atol=1e-14)
    first = tg.grad((out * out).sum(), [x, *layer.parameters()])
    second = tg.grad((again * again).sum(), [x, *cell.parameters()])
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(backend.host(a), backend.host(b), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_row_needs_no_batch(kind):
    cell = getattr(nn, kind + "Cell")(2, 3, rng=0)
    x = tg.random.normal((1, 2), rng=1)
    whole, single = parts(cell(x, cell(x))), cell(x[0])
    single = parts(cell(x[0], single))
    for a, b in zip(whole, single, strict=True):
        assert b.shape == (3,)
        np.testing.assert_array_equal(a.data[0], b.data)


def test_first_values_are_those_of_the_layers():
    cell, layer = nn.LSTMCell(2, 3, rng=0), nn.LSTM(2, 3, rng=0)
    for a, b in zip(cell.parameters(), layer.parameters(), strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    assert (cell.bias_ih.data[3:6] == 1).all()
    assert not nn.LSTMCell(2, 3, forget_bias=0.0, rng=0).bias_ih.data.any()
    for k in range(3):
        block = nn.GRUCell(2, 3, rng=0).weight_hh.data[3 * k : 3 * k + 3]
        np.testing.assert_allclose(block @ block.T, np.eye(3), atol=1e-6)


def test_a_cell_takes_plain_arrays_and_lists():
    cell = nn.GRUCell(2, 3, rng=0)
    np.testing.assert_array_equal(cell([1.0, 2.0]).data, cell(np.float32([1, 2])).data)
    h = np.ones(3, np.float32)
    np.testing.assert_array_equal(cell([1.0, 2.0], h).data, cell([1.0, 2.0], tg.tensor(h)).data)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nn.LSTMCell(2, 3)(tg.zeros((4, 5))), ["LSTMCell(2, 3)", "(B, 2)", "(4, 5)"]),
        (lambda: nn.RNNCell(2, 3)(tg.zeros((4, 1, 2))), ["without 'Cell'", "(4, 1, 2)"]),
        (lambda: nn.RNNCell(2, 3)(tg.zeros((4, 2)), tg.zeros((3, 3))), ["state h", "(4, 3)"]),
        (lambda: nn.LSTMCell(2, 3)(tg.zeros((4, 2)), tg.zeros((4, 3))), ["(h, c)", "RNNCell"]),
        (lambda: nn.LSTMCell(2, 3)(tg.zeros((4, 2)), (1, 2)), ["state h is a int"]),
        (lambda: nn.GRUCell(2, 3)(tg.zeros((4, 2), dtype=tg.float64)), ["float64", "float32"]),
        (lambda: nn.RNNCell(2, 3, nonlinearity="elu"), ["'tanh' or 'relu'", "elu"]),
        (lambda: nn.GRUCell(2, 0), ["hidden_size", "0"]),
    ],
)
def test_errors_name_what_was_seen_and_needed(call, words):
    with pytest.raises(tg.TinygradError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def test_repr_and_no_grad():
    assert repr(nn.GRUCell(2, 3)) == "GRUCell(2, 3)"
    assert repr(nn.RNNCell(2, 3, bias=False)) == "RNNCell(2, 3, bias=False)"
    with tg.no_grad():
        assert not nn.GRUCell(2, 3)(tg.zeros((1, 2))).requires_grad
