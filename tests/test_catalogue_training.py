"""The catalogue of silent wrongs: parameters, optimizers, and the gates of an LSTM.

For the idea see `tests/test_catalogue.py`.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.nn import functional as F
from tinygrad_rnn.nn.utils import clip_grad_norm_

IDS = np.array([[0, 1, 2], [3, 3, 0], [1, 2, 2]])  # (T, B)
TARGETS = np.array([[1, 2, -100], [3, 0, 0], [2, 2, 1]])


class Tied(nn.Module):
    """A character model whose output weight is its embedding's: one parameter, two uses."""

    def __init__(self, rng=0):
        rng = np.random.default_rng(rng)
        self.embedding = nn.Embedding(4, 4, rng=rng)
        self.lstm = nn.LSTM(4, 4, num_layers=2, rng=rng)
        self.head = nn.Linear(4, 4, rng=rng)
        self.head.weight = self.embedding.weight

    def forward(self, ids, state=None):
        out, state = self.lstm(self.embedding(ids), state)
        return self.head(out), state


def loss_of(model):
    return F.cross_entropy(model(IDS)[0], TARGETS)


# ---- tied weights ----


def test_tied_weights_get_the_sum_of_their_uses(backend):
    """Two copies of one weight get a gradient each; the tied weight gets their sum."""
    tied = Tied().to(backend.device)
    apart = Tied().to(backend.device)
    apart.head.weight = nn.Parameter(backend.host(tied.head.weight), device=backend.device)
    for model in (tied, apart):
        loss_of(model).backward()
    both = backend.host(apart.head.weight.grad) + backend.host(apart.embedding.weight.grad)
    np.testing.assert_allclose(backend.host(tied.head.weight.grad), both, rtol=1e-5, atol=1e-8)


def test_tied_weights_count_once_everywhere(backend):
    """Listed twice, a parameter was clipped twice, its norm was sqrt(2) too long, and an optimizer
    stepped twice. Here (3, 4) has norm 5 and is clipped to (0.6, 0.8)."""
    p = backend.tensor(np.zeros(2, np.float32), requires_grad=True)
    (p * backend.tensor(np.array([3, 4], np.float32))).sum().backward()
    assert float(clip_grad_norm_([p, p], 1.0)) == 5.0
    np.testing.assert_allclose(backend.host(p.grad), [0.6, 0.8], rtol=1e-6)
    optim.SGD([p, p], lr=1.0).step()
    np.testing.assert_allclose(backend.host(p), [-0.6, -0.8], rtol=1e-6)
    with pytest.raises(tg.DataError, match="another group"):
        optim.SGD([{"params": [p]}, {"params": [p]}])

    model = Tied().to(backend.device)
    names = [name for name, _ in model.named_parameters()]
    assert names.count("embedding.weight") == 1
    assert "head.weight" not in names
    assert names == list(model.state_dict())
    optimizer = optim.Adam(model.parameters())
    assert len(optimizer.param_groups[0]["params"]) == len(names) == 10
    loss_of(model).backward()
    optimizer.step()
    assert model.head.weight is model.embedding.weight
    assert optimizer.state[model.head.weight]["step"] == 1
    assert model.to(tg.float64).head.weight is model.embedding.weight


# ---- Adam's bias correction, zero gradients, low precision ----


@pytest.mark.parametrize("t", [1, 2, 10**6])
def test_adam_corrects_its_bias_at_the_first_and_the_millionth_step(backend, t):
    """Counted in float32, beta ** t was off or 0/0. With a constant gradient from the start every
    step is lr long, whatever t is: m = g (1 - b1^t) and v = g^2 (1 - b2^t)."""
    g = np.array([0.3, -5.0])
    p = backend.tensor(np.array([2.0, -2.0]), requires_grad=True)
    optimizer = optim.Adam([p], lr=0.01, eps=0.0)
    state = optimizer.state_dict()
    if t > 1:
        before = {"step": t - 1, "exp_avg": g * -np.expm1((t - 1) * np.log(0.9)),
                  "exp_avg_sq": g**2 * -np.expm1((t - 1) * np.log(0.999))}  # fmt: skip
        state["state"] = {0: before}
    optimizer.load_state_dict(state)
    (p * backend.tensor(g)).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(backend.host(p), [1.99, -1.99], rtol=1e-12)
    assert optimizer.state_dict()["state"][0]["step"] == t


@pytest.mark.parametrize("make", [optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad, optim.SGD])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_zero_gradient_moves_nothing_in_any_precision(backend, make, dtype):
    """In float16 eps = 1e-8 is 0, and a zero gradient gave 0/0: NaN in every weight. Moments and
    eps have at least float32 here, and the update is exactly 0."""
    p = backend.tensor(np.array([1.0, -2.0], dtype), requires_grad=True)
    optimizer = make([p], weight_decay=0.0)
    for _ in range(3):
        (p * 0).sum().backward()
        optimizer.step()
    np.testing.assert_array_equal(backend.host(p), [1, -2])
    assert p.dtype == p.grad.dtype == dtype
    for name, value in optimizer.state[p].items():
        assert name == "step" or value.dtype == np.promote_types(dtype, np.float32)


@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0])
def test_low_precision_adam_steps_by_the_learning_rate(backend, size):
    """The square of a float16 gradient of 1e-4 is 0 in float16, and the step was infinite."""
    p = backend.tensor(np.zeros(2, np.float16), requires_grad=True)
    (p * np.array(size, np.float16).item()).sum().backward()
    optim.Adam([p], lr=0.5).step()
    np.testing.assert_allclose(backend.host(p), [-0.5, -0.5], rtol=1e-3)


# ---- parameters without a gradient ----


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda ps: optim.SGD(ps, 0.1, momentum=0.9, weight_decay=0.1), id="SGD"),
        pytest.param(lambda ps: optim.RMSprop(ps, momentum=0.9, weight_decay=0.1), id="RMSprop"),
        pytest.param(lambda ps: optim.Adagrad(ps, weight_decay=0.1), id="Adagrad"),
        pytest.param(lambda ps: optim.Adam(ps, weight_decay=0.1), id="Adam"),
        pytest.param(lambda ps: optim.AdamW(ps), id="AdamW"),
    ],
)
def test_no_gradient_is_no_step_and_moments_do_not_decay(backend, make):
    """None taken for 0 lets momentum run on and weights decay. It is as if there were no step."""
    p, q = (backend.tensor(np.ones(2), requires_grad=True) for _ in range(2))
    optimizer = make([p, q])
    (p * q).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    value, state = backend.host(p), copy.deepcopy(optimizer.state_dict()["state"][0])
    for _ in range(3):
        (q * 2).sum().backward()
        optimizer.step()
    np.testing.assert_array_equal(backend.host(p), value)
    after = optimizer.state_dict()["state"][0]
    assert after.keys() == state.keys()
    for name, wanted in state.items():
        seen = after[name]
        assert seen == wanted if name == "step" else (backend.host(seen - wanted) == 0).all()
    assert (backend.host(q) != value).all()


def test_a_loss_that_does_not_depend_on_a_parameter_leaves_its_gradient_none(backend):
    """None and 0 say different things: not asked, and asked with the answer 0. A branch that
    was not taken gives None, and is skipped; a factor 0 gives zeros; in `grad` it is an error."""
    used, unused = (backend.tensor(np.ones(2), requires_grad=True) for _ in range(2))
    (used * 3 + (unused * 5).detach()).sum().backward()
    np.testing.assert_array_equal(backend.host(used.grad), [3, 3])
    assert unused.grad is None
    with pytest.raises(tg.NotDifferentiableError, match="allow_unused"):
        tg.grad((used * 3).sum(), [used, unused])
    found = tg.grad((used * 3).sum(), [unused, used], allow_unused=True)
    assert found[0] is None
    (unused * 0).sum().backward()
    np.testing.assert_array_equal(backend.host(unused.grad), [0, 0])
    with tg.no_grad():
        constant = (used * unused).sum()
    with pytest.raises(tg.NotDifferentiableError, match="no_grad"):
        constant.backward()


# ---- gates and biases of the LSTM ----


@pytest.mark.parametrize("forget", [1.0, 0.0, 2.5])
def test_the_forget_bias_counts_once_though_there_are_two_biases(backend, forget):
    """b_ih + b_hh add up: set in both, a forget bias of 1 was 2; set at the wrong gate, another one
    was held open. It is the second block of b_ih, in every layer and direction; the rest is 0."""
    lstm = nn.LSTM(2, 3, 2, bidirectional=True, forget_bias=forget, rng=0).to(backend.device)
    for name, p in lstm.named_parameters():
        if "bias" in name:
            wanted = np.zeros(12, np.float32)
            wanted[3:6] = forget if "bias_ih" in name else 0
            np.testing.assert_array_equal(backend.host(p), wanted)


@pytest.mark.parametrize("options", [{}, {"create_graph": True}])
def test_the_gates_come_in_the_order_i_f_g_o(backend, options):
    """Another order runs, trains a little worse, and reads other people's weights wrongly. One step
    by the equations, with weights 0: each block of biases moves its own gate, b_ih and b_hh alike.
    """
    lstm = nn.LSTM(1, 2, dtype=np.float64).to(backend.device)
    b_ih, b_hh = (np.linspace(-1, 2, 8), np.linspace(2, -0.5, 8) ** 2)
    for p, value in zip(lstm.parameters(), (0, 0, b_ih, b_hh), strict=True):
        p.writable()[...] = value if isinstance(value, int) else backend.array(value)
    c0 = np.array([0.5, -2.0])
    i, f, g, o = np.split(b_ih + b_hh, 4)
    i, f, o = (1 / (1 + np.exp(-v)) for v in (i, f, o))
    c = f * c0 + i * np.tanh(g)
    state = (backend.tensor(np.zeros((1, 1, 2))), backend.tensor(c0.reshape(1, 1, 2)))
    out, (_, cell) = lstm(backend.tensor(np.zeros((1, 1, 1))), state)
    np.testing.assert_allclose(backend.host(cell)[0, 0], c, rtol=1e-14)
    np.testing.assert_allclose(backend.host(out)[0, 0], o * np.tanh(c), rtol=1e-14)
    dc = o * (1 - np.tanh(c) ** 2)
    wanted = np.concatenate(
        [dc * np.tanh(g) * i * (1 - i), dc * c0 * f * (1 - f), dc * i * (1 - np.tanh(g) ** 2),
         np.tanh(c) * o * (1 - o)]
    )  # fmt: skip
    for found in tg.grad(out.sum(), [lstm.bias_ih_l0, lstm.bias_hh_l0], **options):
        np.testing.assert_allclose(backend.host(found), wanted, rtol=1e-12)
