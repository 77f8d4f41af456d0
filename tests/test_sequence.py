"""The state on its way from step to step: gradients that are limited, rows that are turned."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.ops.sequence import limit_gradient, turned


def test_a_long_gradient_keeps_its_direction_and_a_short_one_its_bits(backend):
    x = backend.tensor(np.zeros((3, 2)), requires_grad=True)
    given_g = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    (g,) = tg.grad(limit_gradient(x, limit=1.0), x, backend.tensor(given_g))
    np.testing.assert_allclose(backend.host(g)[0], [0.6, 0.8], rtol=1e-15)
    np.testing.assert_array_equal(backend.host(g)[1:], given_g[1:])


def test_what_was_limited_cannot_be_differentiated_again(backend):
    x = backend.tensor(np.ones((1, 2)), requires_grad=True)
    for limit in (1.0, 100.0):  # of a second derivative, even one that is in bounds might not be
        loss = (limit_gradient(x, limit=limit) ** 2).sum()
        with pytest.raises(tg.NotDifferentiableError, match=f"limited to {limit:g}.*no derivative"):
            tg.grad(loss, x, create_graph=True)
    layer = nn.GRU(2, 3, clip_state_grad=5.0, rng=0).to(backend.device)
    inputs = backend.tensor(np.ones((3, 1, 2), np.float32), requires_grad=True)
    with pytest.raises(tg.NotDifferentiableError, match="clip_state_grad"):
        tg.grad(layer(inputs)[0].sum(), inputs, create_graph=True)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("size", [1e25, 1e37])
def test_a_gradient_too_long_for_float32_squares_is_limited_and_not_lost(backend, kind, size):
    layer = getattr(nn, kind)(2, 3, clip_state_grad=1.0, rng=0).to(backend.device)
    x = backend.tensor(np.ones((1, 1, 2), np.float32))
    states = [
        backend.tensor(np.zeros((1, 1, 3), np.float32), requires_grad=True)
        for _ in range(layer.kinds)
    ]
    for record in (False, True):
        state = tuple(states) if layer.kinds == 2 else states[0]
        out, *_ = layer(x, state, record=record)
        for g in tg.grad((out[-1] * size).sum(), states):
            assert np.linalg.norm(backend.host(g)) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_the_padding_is_no_step_and_limits_nothing(backend, kind, record):
    layer = getattr(nn, kind)(2, 3, clip_state_grad=0.01, rng=0, dtype=np.float64)
    layer.to(backend.device)
    x = np.random.default_rng(0).normal(size=(5, 1, 2))
    found = []
    for T in (3, 5):
        leaf = backend.tensor(x[:T])
        _, state, *_ = layer(leaf, lengths=[3], record=record)
        last = state[0] + state[1] if kind == "LSTM" else state
        found.append(tg.grad((last * 10).sum(), list(layer.parameters())))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(backend.host(a), backend.host(b), rtol=1e-12)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_no_step_sends_more_than_the_limit_to_the_one_before(kind):
    """Of a loss at the end alone, all that any h_t gets has come from the step after it."""
    flows = []
    for limit in (None, 0.5):
        layer = getattr(nn, kind)(2, 8, clip_state_grad=limit, rng=0, dtype=np.float64)
        layer.weight_hh_l0.writable()[...] *= 3  # it explodes
        x = tg.random.normal((12, 4, 2), rng=1, dtype=np.float64)

        def loss(layer=layer, x=x):
            return (layer(x)[0][-1] * 10).sum()

        _, _, record = layer(x, record=True)
        out, *_ = layer(x)
        (walked,) = tg.grad((record.h[-1] * 10).sum(), layer.weight_ih_l0)
        (fused,) = tg.grad((out[-1] * 10).sum(), layer.weight_ih_l0)
        np.testing.assert_allclose(walked.data, fused.data, rtol=1e-10)
        flows.append(tg.gradient_flow(layer, loss)["l0"].h)
    assert (flows[1][:-1] <= 0.5 * np.sqrt(4) + 1e-12).all()  # four rows of at most 0.5 each
    assert flows[0].max() > 4
    assert flows[0][-1] == flows[1][-1]  # the last step's comes from the loss


def test_rows_do_not_share_a_limit():
    """What happens in one sequence of a batch does not change the gradient of another."""
    layer = nn.RNN(2, 3, clip_state_grad=0.1, rng=0, dtype=np.float64)
    x = tg.random.normal((5, 2, 2), rng=1, dtype=np.float64)
    x = tg.tensor(x.data, requires_grad=True)
    (both,) = tg.grad((layer(x)[0] * 5).sum(), x)
    (alone,) = tg.grad((layer(x[:, :1])[0] * 5).sum(), x)
    np.testing.assert_allclose(both.data[:, 0], alone.data[:, 0], rtol=1e-12)


@given(T=st.integers(0, 5), B=st.integers(0, 3), seed=st.integers(0, 99))
def test_turning_twice_is_nothing_and_its_gradient_turns_too(backend, T, B, seed):
    rng = np.random.default_rng(seed)
    ends, steps = rng.integers(0, T + 1, B), np.arange(T)[:, None]
    order = backend.tensor(np.where(steps < ends, ends - 1 - steps, steps))._data
    x = backend.tensor(rng.normal(size=(T, B, 2)), requires_grad=True)
    once = turned(x, order=order)
    for b in range(B):
        row = backend.host(x)[:, b]
        expected = np.concatenate([row[: ends[b]][::-1], row[ends[b] :]])
        np.testing.assert_array_equal(backend.host(once)[:, b], expected)
    np.testing.assert_array_equal(backend.host(turned(once, order=order)), backend.host(x))
    seed_g = backend.tensor(rng.normal(size=(T, B, 2)))
    (g,) = tg.grad(once, x, seed_g)
    np.testing.assert_array_equal(backend.host(g), backend.host(turned(seed_g, order=order)))
