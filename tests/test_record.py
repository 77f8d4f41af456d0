"""``record=True``: every gate and state at every step, and the gradient of each."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn

NAMES = {"RNN": ["h"], "LSTM": ["i", "f", "g", "o", "c", "h"], "GRU": ["r", "z", "n", "h"]}
KINDS = list(NAMES)


def parts(state):
    return list(state) if isinstance(state, tuple) else [state]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("kind", KINDS)
@given(
    T=st.integers(1, 4), B=st.integers(1, 3), layers=st.integers(1, 2), both=st.booleans(),
    first=st.booleans(), unequal=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_recording_changes_no_result_and_no_gradient(
    backend, kind, T, B, layers, both, first, unequal, seed
):
    rng = np.random.default_rng(seed)
    layer = getattr(nn, kind)(
        2, 3, layers, bidirectional=both, batch_first=first, rng=seed, dtype=np.float64
    ).to(backend.device)
    shape = (B, T, 2) if first else (T, B, 2)
    x = backend.tensor(rng.normal(size=shape), requires_grad=True)
    lengths = rng.integers(0, T + 1, B) if unequal else None
    asked = [x, *layer.parameters()]
    results = []
    for record in (False, True):
        out, state, *written = layer(x, lengths=lengths, record=record)
        loss = (out * out).sum() + sum((s * s).sum() for s in parts(state))
        grads = tg.grad(loss, asked, allow_unused=True)
        results.append([out, *parts(state), *(g for g in grads if g is not None)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(backend.host(a), backend.host(b), rtol=1e-9, atol=1e-12)
    (record,) = written
    assert len(record) == layers * layer.directions
    width = out.shape[-1] // layer.directions
    for name, one in record.items():
        assert list(one) == NAMES[kind]
        assert all(one[n].shape == (*out.shape[:-1], width) for n in one)
        if name.startswith(f"l{layers - 1}"):  # the last layer's states are the output
            half = slice(width, None) if name.endswith("reverse") else slice(width)
            np.testing.assert_array_equal(backend.host(one.h), backend.host(out)[..., half])


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_of_no_steps_records_nothing(kind):
    layer = getattr(nn, kind)(2, 3, rng=0)
    out, state, record = layer(tg.zeros((0, 2, 2)), record=True)
    assert out.shape == record.h.shape == (0, 2, 3)
    assert not parts(state)[0].data.any()


def test_gates_are_those_of_the_equations():
    rng = np.random.default_rng(0)
    layer = nn.LSTM(2, 3, rng=0, dtype=np.float64)
    x, h, c = rng.normal(size=(4, 1, 2)), rng.normal(size=(1, 1, 3)), rng.normal(size=(1, 1, 3))
    _, _, record = layer(tg.tensor(x), (tg.tensor(h), tg.tensor(c)), record=True)
    w = layer.state_dict()
    for t in range(4):
        z = x[t] @ w["weight_ih_l0"].T + w["bias_ih_l0"] + w["bias_hh_l0"]
        z = z + (h[0] if t == 0 else record.h.data[t - 1]) @ w["weight_hh_l0"].T
        i, f, g, o = np.split(z, 4, axis=1)
        expected = {"i": sigmoid(i), "f": sigmoid(f), "g": np.tanh(g), "o": sigmoid(o)}
        before = c[0] if t == 0 else record.c.data[t - 1]
        expected["c"] = expected["f"] * before + expected["i"] * expected["g"]
        expected["h"] = expected["o"] * np.tanh(expected["c"])
        for name, value in expected.items():
            np.testing.assert_allclose(record[f"l{0}"][name].data[t], value, rtol=1e-12)


def nudged(step, name, t, push):
    """The same step, with `push` added to one of its values at the t-th call."""
    calls = []

    def other(*inputs, **options):
        now = step(*inputs, **options)
        if len(calls) == t:
            now = follow(inputs, dict(now), name, push)
        calls.append(None)
        return now

    return other


def follow(inputs, now, name, push):
    """What the rest of the step makes of a value that is `push` larger: by hand, in NumPy terms."""
    now[name] = now[name] + push
    if "c" in now:  # LSTM: h = o tanh(c), c = f c_before + i g
        if name in "ifg":
            now["c"] = now["f"] * inputs[2] + now["i"] * now["g"]
        if name != "h":
            now["h"] = now["o"] * tg.tanh(now["c"])
    elif name == "r":
        raise AssertionError("not for r, whose product is inside of n")
    elif name in "zn":
        now["h"] = (1 - now["z"]) * now["n"] + now["z"] * inputs[1]
    return now


@pytest.mark.parametrize(
    ("kind", "name"), [("RNN", "h"), *[("LSTM", n) for n in "ifgoch"], *[("GRU", n) for n in "znh"]]
)
def test_a_gradient_is_what_a_nudge_at_one_step_does_to_the_loss(monkeypatch, kind, name):
    """Central differences: push one number of one step, and run on from there."""
    layer = getattr(nn, kind)(2, 3, rng=1, dtype=np.float64)
    x = tg.random.normal((4, 2, 2), rng=2, dtype=np.float64)
    weight = tg.random.normal((4, 2, 3), rng=3, dtype=np.float64)

    def loss():
        out, _, record = layer(x, record=True)
        return (out * out * weight).sum(), record

    value, record = loss()
    (found,) = tg.grad(value, record[f"l{0}"][name])
    step, eps = type(layer).step, 1e-6
    for t, b, k in [(0, 0, 0), (1, 1, 2), (3, 0, 1)]:
        ends = []
        for sign in (1, -1):
            push = np.zeros((2, 3))
            push[b, k] = sign * eps
            monkeypatch.setattr(type(layer), "step", staticmethod(nudged(step, name, t, push)))
            ends.append(float(loss()[0]))
        assert (ends[0] - ends[1]) / (2 * eps) == pytest.approx(found.data[t, b, k], abs=1e-7)


def test_it_is_a_tensor_to_compute_with():
    """A loss on gates trains the weights: it flows through the steps that they are made of."""
    layer = nn.LSTM(2, 3, rng=0, dtype=np.float64)
    x = tg.random.normal((4, 2, 2), rng=1, dtype=np.float64)
    _, _, record = layer(x, record=True)
    (g,) = tg.grad((record.f**2).sum(), layer.weight_hh_l0)
    gradient_by_hand = []
    for push in (1e-6, -1e-6):
        layer.weight_hh_l0.writable()[4, 1] += push
        _, _, again = layer(x, record=True)
        gradient_by_hand.append(float((again.f**2).sum()))
        layer.weight_hh_l0.writable()[4, 1] -= push
    difference = (gradient_by_hand[0] - gradient_by_hand[1]) / 2e-6
    assert g.data[4, 1] == pytest.approx(difference, abs=1e-8)


def test_steps_without_influence_have_gradient_zero():
    layer = nn.GRU(2, 3, rng=0)
    out, _, record = layer(tg.random.normal((4, 2, 2), rng=1), record=True)
    (g,) = tg.grad(out[1].sum(), record.h)
    assert not g.data[2:].any()
    assert g.data[0].all()
    assert (g.data[1] == 1).all()


def test_several_at_once_beside_others_and_again(backend):
    layer = nn.LSTM(2, 3, rng=0).to(backend.device)
    x = backend.tensor(np.ones((3, 1, 2), np.float32), requires_grad=True)
    out, _, record = layer(x, record=True)
    loss = out.sum()
    one = tg.grad(loss, [x, record.c, layer.bias_ih_l0, record.o], retain_graph=True)
    assert [g.shape for g in one] == [(3, 1, 2), (3, 1, 3), (12,), (3, 1, 3)]
    assert all(g.device == x.device for g in one)
    (alone,) = tg.grad(loss, record.c)
    np.testing.assert_array_equal(backend.host(alone), backend.host(one[1]))


def test_second_derivatives():
    layer = nn.RNN(1, 2, rng=0, dtype=np.float64)
    x = tg.random.normal((3, 1, 1), rng=1, dtype=np.float64)
    x = tg.tensor(x.data, requires_grad=True)
    out, _, record = layer(x, record=True)
    (g,) = tg.grad((out**2).sum(), record.h, create_graph=True)
    (second,) = tg.grad((g * g).sum(), x)
    assert second.data.all()


def test_padding_is_zero_in_values_and_gradients(backend):
    layer = nn.LSTM(2, 3, bidirectional=True, rng=0).to(backend.device)
    x = backend.tensor(np.random.default_rng(0).normal(size=(4, 2, 2)).astype(np.float32))
    out, _, record = layer(x, lengths=[2, 4], record=True)
    for one in record.values():
        for name in one:
            values = backend.host(one[name])
            assert not values[2:, 0].any()
            assert values[:, 1].all()
            (g,) = tg.grad(out.sum(), one[name], retain_graph=True)
            assert not backend.host(g)[2:, 0].any()
            assert backend.host(g)[:2, 0].all() or name == "f"  # c_0 is 0: f_1 has no influence


def test_a_single_sequence_and_one_under_no_grad():
    layer = nn.GRU(2, 3, rng=0)
    x = tg.random.normal((4, 2), rng=1)
    out, _, record = layer(x, record=True)
    assert record.z.shape == out.shape == (4, 3)
    with tg.no_grad():
        _, _, record = layer(x, record=True)
    assert not record.z.requires_grad


def test_what_is_not_there_is_said():
    _, _, record = nn.GRU(2, 3, rng=0)(tg.zeros((1, 1, 2)), record=True)
    with pytest.raises(AttributeError, match=r"recorded r, z, n, h; there is no 'f'"):
        record.f  # noqa: B018 - the look-up is the test
    _, _, record = nn.LSTM(2, 3, 2, rng=0)(tg.zeros((1, 1, 2)), record=True)
    with pytest.raises(AttributeError, match=r"record\['l0'\].f, record\['l1'\].f"):
        record.f  # noqa: B018 - the look-up is the test
    with pytest.raises(KeyError, match="no layer 'f' has recorded; there are 'l0', 'l1'"):
        record["f"]
    assert "f" in dir(record["l0"])
    with pytest.raises(tg.NotDifferentiableError, match=r"inputs \[0\]"):
        tg.grad(tg.ones(1, requires_grad=True).sum(), record["l0"].f)
    assert repr(record) == (
        "Record({'l0': LayerRecord(i, f, g, o, c, h), 'l1': LayerRecord(i, f, g, o, c, h)})"
    )


def test_an_empty_window_and_a_first_step_without_a_gradient():
    layer = nn.LSTM(2, 3, rng=0)
    for p in layer.parameters():
        p.requires_grad_(False)
    c = tg.zeros((1, 1, 3), requires_grad=True)
    out, _, record = layer(tg.ones((3, 1, 2)), (tg.zeros((1, 1, 3)), c), record=True)
    (g,) = tg.grad(out.sum(), record.i)  # i_1 depends on x and h_0 alone, which have no gradient
    assert not g.data[0].any()
    assert g.data[1:].all()
    h = tg.zeros((1, 1, 3), requires_grad=True)
    _, (end, _), record = layer(tg.zeros((0, 1, 2)), (h, c), record=True)
    (g,) = tg.grad(end.sum(), record.h)
    assert g.shape == (0, 1, 3)


def test_a_refused_question_frees_nothing():
    layer = nn.RNN(1, 2, rng=0)
    out, _, record = layer(tg.ones((2, 1, 1)), record=True)
    loss, stranger = out.sum(), tg.ones(1, requires_grad=True)
    with pytest.raises(tg.NotDifferentiableError, match=r"inputs \[1\]"):
        tg.grad(loss, [record.h, stranger])
    (g,) = tg.grad(loss, record.h)  # the graph is still there
    assert g.data.all()


def test_create_graph_in_a_no_grad_block():
    layer = nn.RNN(1, 2, rng=0)
    out, _, record = layer(tg.ones((2, 1, 1)), record=True)
    loss = (out * out).sum()
    with tg.no_grad():
        (g,) = tg.grad(loss, record.h, create_graph=True)
    assert g.requires_grad


def test_a_hook_is_for_the_steps():
    layer = nn.RNN(1, 2, rng=0)
    out, _, record = layer(tg.ones((2, 1, 1)), record=True)
    with pytest.raises(tg.NotDifferentiableError, match=r"for step in record\.h\.steps"):
        record.h.register_hook(print)
    seen = []
    for step in record.h.steps:
        step.register_hook(lambda g: seen.append(g.shape))
    out.sum().backward()
    assert seen == [(1, 2), (1, 2)]


@pytest.mark.parametrize("kind", KINDS)
def test_states_may_be_plain_arrays(kind):
    layer = getattr(nn, kind)(2, 3, rng=0)
    h = np.ones((1, 1, 3), np.float32)
    state = (h, h) if kind == "LSTM" else h
    x = tg.ones((2, 1, 2))
    fused, walked = layer(x, state)[0], layer(x, state, record=True)[0]
    np.testing.assert_allclose(fused.data, walked.data, rtol=1e-5)


def test_a_loop_over_steps_costs_no_more_than_the_steps():
    """Counted: of all gradients of slices of x, one at most is written out with its zeros."""
    layer = nn.GRU(2, 3, rng=0)
    x = tg.zeros((50, 2, 2), requires_grad=True)
    out, _, _ = layer(x, record=True)
    whole = 0
    zeros = np.zeros

    def counted(shape, *args, **options):
        nonlocal whole
        whole += shape == x.shape
        return zeros(shape, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "zeros", counted)
        tg.grad(out.sum(), x)
    assert whole == 1
