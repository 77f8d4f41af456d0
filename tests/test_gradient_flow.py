"""`tg.gradient_flow`: norms at every step, the ledger of each weight, and the Jacobians."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn

KINDS = ["RNN", "LSTM", "GRU"]


def norms(array):
    return np.sqrt((array**2).sum(axis=tuple(range(1, array.ndim))))


class Stepper(nn.Module):
    """A cell in a loop, twice: a model that makes its steps one by one."""

    def __init__(self, kind):
        self.cell = getattr(nn, kind + "Cell")(2, 3, rng=0, dtype=np.float64)
        self.head = nn.Linear(3, 1, rng=1, dtype=np.float64)

    def forward(self, x):
        state, outputs = None, []
        for t in range(len(x)):
            state = self.cell(x[t], state)
            outputs.append(self.head(state[0] if isinstance(state, tuple) else state))
        return tg.stack(outputs)


@pytest.mark.parametrize("kind", KINDS)
@given(
    T=st.integers(1, 5), B=st.integers(1, 3), layers=st.integers(1, 2), both=st.booleans(),
    bias=st.booleans(), unequal=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_the_ledger_adds_up_to_the_gradient(backend, kind, T, B, layers, both, bias, unequal, seed):
    rng = np.random.default_rng(seed)
    layer = getattr(nn, kind)(
        2, 3, layers, bias=bias, bidirectional=both, rng=seed, dtype=np.float64
    ).to(backend.device)
    x = backend.tensor(rng.normal(size=(T, B, 2)))
    weight = backend.tensor(rng.normal(size=(T, B, 3 * layer.directions)))
    lengths = rng.integers(0, T + 1, B) if unequal else None

    def loss():
        return (layer(x, lengths=lengths)[0] * weight).sum()

    expected = dict(
        zip(
            [name for name, _ in layer.named_parameters()],
            tg.grad(loss(), list(layer.parameters())),
            strict=True,
        )
    )
    flow = tg.gradient_flow(layer, loss, ledger=True)
    assert flow.loss == pytest.approx(float(loss()), abs=1e-12)
    seen = set()
    for name, one in flow.items():
        assert one.steps == T
        for weight_name, parts in one.parts.items():
            assert weight_name.endswith("_" + name)
            seen.add(weight_name)
            gradient = backend.host(expected[weight_name])
            np.testing.assert_allclose(parts.sum(axis=0), gradient, rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(one.totals[weight_name], gradient, rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(one.norms[weight_name], norms(parts), rtol=1e-10)
    if any(part.any() for one in flow.values() for part in one.parts.values()):
        assert seen == expected.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_those_of_the_recorded_gradients(backend, kind):
    model = getattr(nn, kind)(2, 3, 2, rng=0, dtype=np.float64).to(backend.device)
    x = backend.tensor(np.random.default_rng(0).normal(size=(5, 3, 2)))
    flow = tg.gradient_flow(model, lambda: (model(x)[0] ** 2).sum())
    out, _, record = model(x, record=True)
    for name, one in record.items():
        (dh,) = tg.grad((out**2).sum(), one.h, retain_graph=True)
        np.testing.assert_allclose(flow[name].h, norms(backend.host(dh)), rtol=1e-10)
        if kind == "LSTM":
            (dc,) = tg.grad((out**2).sum(), one.c, retain_graph=True)
            np.testing.assert_allclose(flow[name].c, norms(backend.host(dc)), rtol=1e-10)
        else:
            assert flow[name].c is None
    assert flow["l0"].parts == {}


def state_after(layer, x, states, row):
    """The layer's state after x as one vector: of one row, all kinds side by side."""
    leaves = [tg.tensor(s[None, None], dtype=np.float64) for s in states]
    with tg.no_grad():
        _, ends = layer(x[:, row : row + 1], tuple(leaves) if len(leaves) > 1 else leaves[0])
    ends = ends if isinstance(ends, tuple) else (ends,)
    return np.concatenate([e.data.ravel() for e in ends])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("t", "k"), [(1, 0), (5, 4), (5, 1), (3, 3)])
def test_jacobians_equal_central_differences(kind, t, k):
    layer = getattr(nn, kind)(2, 3, rng=0, dtype=np.float64)
    x = tg.random.normal((5, 2, 2), rng=1, dtype=np.float64)
    flow = tg.gradient_flow(layer, lambda: (layer(x)[0] ** 2).sum())
    found = flow["l0"].jacobian(t, k, row=1)
    _, _, record = layer(x, record=True)
    kinds = "hc"[: layer.kinds]
    start = [record["l0"][n].data[k - 1, 1] if k else np.zeros(3) for n in kinds]
    flat, eps = np.concatenate(start), 1e-6
    for column in range(len(flat)):
        ends = []
        for sign in (1, -1):
            moved = flat.copy()
            moved[column] += sign * eps
            ends.append(state_after(layer, x[k:t], np.split(moved, len(kinds)), 1))
        np.testing.assert_allclose((ends[0] - ends[1]) / (2 * eps), found[:, column], atol=1e-8)


@pytest.mark.parametrize("a", [0.9, 1.1])
def test_a_linear_network_has_the_closed_form(a):
    """relu with all units far above 0 is linear: J = W, and W = a Q has the singular values a."""
    layer = nn.RNN(1, 4, nonlinearity="relu", rng=0, dtype=np.float64)
    W = a * layer.weight_hh_l0.data
    layer.weight_hh_l0.writable()[...] = W
    layer.weight_ih_l0.writable()[...] = 0
    layer.bias_ih_l0.writable()[...] = 1e6 * (np.ones(4) - W @ np.ones(4))  # h stays at 1e6
    x, state = tg.zeros((100, 1, 1), dtype=tg.float64), tg.tensor(np.full((1, 1, 4), 1e6))
    v = np.arange(1.0, 5.0)
    flow = tg.gradient_flow(layer, lambda: (layer(x, state)[0][-1] * v).sum())["l0"]
    np.testing.assert_allclose(flow.h, np.linalg.norm(v) * a ** np.arange(99.0, -1, -1), rtol=1e-12)
    np.testing.assert_allclose(flow.jacobians(), np.broadcast_to(W, (100, 4, 4)), rtol=1e-12)
    np.testing.assert_allclose(flow.singular_values(), np.full((100, 4), a), rtol=1e-12)
    np.testing.assert_allclose(flow.spectral_radius(), np.full(100, a), rtol=1e-12)
    np.testing.assert_allclose(flow.jacobian(6, 1), np.linalg.matrix_power(W, 5), rtol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_cells_in_a_loop_flow_like_the_layer(kind):
    model = Stepper(kind)
    x = tg.random.normal((4, 2, 2), rng=2, dtype=np.float64)
    flow = tg.gradient_flow(model, lambda: (model(x) ** 2).sum(), ledger=True)
    assert list(flow) == ["cell"]
    layer = getattr(nn, kind)(2, 3, dtype=np.float64)
    layer.load_state_dict({n + "_l0": w for n, w in model.cell.state_dict().items()})
    other = tg.gradient_flow(layer, lambda: (model.head(layer(x)[0]) ** 2).sum(), ledger=True)["l0"]
    np.testing.assert_allclose(flow["cell"].h, other.h, rtol=1e-10)
    for name, parts in flow["cell"].parts.items():
        np.testing.assert_allclose(parts, other.parts[name + "_l0"], rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(flow["cell"].jacobian(4, 1), other.jacobian(4, 1), rtol=1e-10)


def test_it_touches_nothing():
    """No .grad, no weight, no state of the layer; and afterwards nobody listens."""
    layer = nn.LSTM(2, 3, rng=0)
    x = tg.random.normal((3, 1, 2), rng=1)
    before = layer.state_dict()
    with tg.no_grad():  # it records all the same
        tg.gradient_flow(layer, lambda: layer(x)[0].sum())
    assert all(p.grad is None for p in layer.parameters())
    assert all((w == layer.state_dict()[n]).all() for n, w in before.items())
    assert layer(x)[0]._node.parents[0].name == "lstm"
    with pytest.raises(ZeroDivisionError):
        tg.gradient_flow(layer, lambda: 1 / 0)
    assert layer(x)[0]._node.parents[0].name == "lstm"


def test_frozen_weights_have_no_ledger():
    layer = nn.GRU(2, 3, rng=0)
    layer.weight_ih_l0.requires_grad_(False)
    x = tg.random.normal((3, 1, 2), rng=1)
    flow = tg.gradient_flow(layer, lambda: layer(x)[0].sum())
    assert "weight_ih_l0" not in flow["l0"].norms
    assert flow["l0"].norms["weight_hh_l0"].shape == (3,)


def test_its_memory_without_a_ledger_holds_no_part():
    layer = nn.RNN(2, 3, rng=0)
    x = tg.random.normal((3, 1, 2), rng=1)
    assert tg.gradient_flow(layer, lambda: layer(x)[0].sum())["l0"].parts == {}


def test_a_table_of_it():
    layer = nn.RNN(2, 3, 2, rng=0)
    x = tg.random.normal((7, 1, 2), rng=1)
    text = str(tg.gradient_flow(layer, lambda: layer(x)[0].sum()))
    assert "T = 7" in text
    assert text.count("\n") == 2


def test_errors_say_what_to_do():
    layer = nn.LSTM(2, 3, rng=0)
    with pytest.raises(tg.DataError, match="ran no step"):
        tg.gradient_flow(layer, lambda: tg.ones(1, requires_grad=True).sum())
    flow = tg.gradient_flow(layer, lambda: layer(tg.zeros((3, 2, 2)))[0].sum())
    with pytest.raises(KeyError, match="there are 'l0'"):
        flow["lstm"]
    with pytest.raises(tg.ShapeError, match="T = 3, got k = 0 and t = 4"):
        flow["l0"].jacobian(4, 0)
    with pytest.raises(tg.ShapeError, match="row 2 of a batch of 2"):
        flow["l0"].jacobian(2, 0, row=2)

    def nested():
        return tg.gradient_flow(layer, lambda: layer(tg.zeros((3, 2, 2)))[0].sum())

    with pytest.raises(tg.DataError, match="one at a time"):
        tg.gradient_flow(layer, nested)


def test_training_on_does_not_change_what_was_found():
    layer = nn.GRU(2, 3, rng=0, dtype=np.float64)
    x = tg.random.normal((4, 1, 2), rng=1, dtype=np.float64)
    flow = tg.gradient_flow(layer, lambda: (layer(x)[0] ** 2).sum())["l0"]
    before = flow.jacobian(4, 0)
    for p in layer.parameters():
        p.writable()[...] += 1
    np.testing.assert_array_equal(flow.jacobian(4, 0), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_has_ended_stays_as_it_is(backend, kind):
    layer = getattr(nn, kind)(2, 3, rng=0, dtype=np.float64).to(backend.device)
    x = backend.tensor(np.random.default_rng(0).normal(size=(4, 2, 2)))
    flow = tg.gradient_flow(layer, lambda: layer(x, lengths=[2, 4])[0].sum())["l0"]
    S = 3 * layer.kinds
    np.testing.assert_array_equal(flow.jacobians(2, 4), np.broadcast_to(np.eye(S), (2, S, S)))
    np.testing.assert_array_equal(flow.jacobian(4, 0), flow.jacobian(2, 0))
    assert not np.allclose(flow.jacobian(4, 2, row=1), np.eye(S))


def test_calls_that_are_not_one_sequence_have_no_jacobian_between_them():
    layer = nn.LSTM(2, 3, rng=0, dtype=np.float64)
    x, y = (tg.random.normal((3, n, 2), rng=n, dtype=np.float64) for n in (1, 2))

    def apart():
        return layer(x)[0].sum() + layer(y)[0].sum()

    flow = tg.gradient_flow(layer, apart)["l0"]
    assert flow.steps == 6
    with pytest.raises(tg.DataError, match="called anew"):
        flow.jacobian(4, 2)
    np.testing.assert_array_equal(
        flow.jacobian(6, 4, row=1),
        tg.gradient_flow(layer, lambda: layer(y)[0].sum())["l0"].jacobian(3, 1, row=1),
    )
    with pytest.raises(tg.ShapeError, match="row 1 of a batch of 1"):
        flow.jacobian(3, 0, row=1)

    def joined():
        out, state = layer(y)
        return out.sum() + layer(y, state)[0].sum()

    assert tg.gradient_flow(layer, joined)["l0"].jacobian(5, 1).shape == (6, 6)


def test_what_has_no_gradient_counts_as_zero():
    """A frozen layer below, a call under no_grad, a layer that the loss leaves out."""
    stacked = nn.LSTM(2, 3, 2, rng=0)
    for name, p in stacked.named_parameters():
        p.requires_grad_(name.endswith("l1"))
    x = tg.random.normal((3, 1, 2), rng=1)
    flow = tg.gradient_flow(stacked, lambda: stacked(x)[0].sum())
    assert not flow["l0"].h.any()
    assert not flow["l0"].norms
    assert flow["l1"].h.all()

    layer = nn.GRU(2, 3, rng=0)

    def warmed_up():
        with tg.no_grad():
            _, state = layer(x)
        return layer(x, state)[0].sum()

    np.testing.assert_array_equal(
        tg.gradient_flow(layer, warmed_up)["l0"].h > 0, [0, 0, 0, 1, 1, 1]
    )

    def left_out():
        layer(x)
        return stacked(x)[0].sum()

    both = nn.Sequential(layer, stacked)
    flow = tg.gradient_flow(both, left_out, ledger=True)
    assert list(flow["0.l0"].parts) == list(flow["0.l0"].norms) == list(flow["0.l0"].totals)
    assert len(flow["0.l0"].parts) == 4
    assert not any(part.any() for part in flow["0.l0"].parts.values())


def test_a_bare_cell_is_called_cell():
    cell = nn.GRUCell(2, 3, rng=0)
    assert list(tg.gradient_flow(cell, lambda: cell(tg.ones((1, 2))).sum())) == ["cell"]


def test_jacobians_that_are_not_finite_are_said_to_be():
    layer = nn.RNN(1, 1, nonlinearity="relu", rng=0)
    x = tg.ones((2, 1, 1))
    flow = tg.gradient_flow(layer, lambda: layer(x)[0].sum())["l0"]
    object.__setattr__(flow, "_weights", [w * np.float32(np.nan) for w in flow._weights])
    with pytest.raises(tg.NonFiniteError, match="step 1"):
        flow.singular_values()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (lambda _: (3, lambda: 0), tg.DTypeError, "got a int and a function"),
        (lambda m: (m, m(tg.ones((1, 1, 2)))[0].sum()), tg.DTypeError, "got a GRU and a Tensor"),
        (lambda m: (m, lambda: m(tg.ones((1, 1, 2)))[0]), tg.ShapeError, r"shape \(1, 1, 3\)"),
        (lambda m: (m, lambda: 1.0), tg.ShapeError, "a float"),
    ],
)
def test_wrong_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        tg.gradient_flow(*arguments(nn.GRU(2, 3, rng=0)))
