"""The catalogue of silent wrongs, what a gradient is where calculus is silent.

Each class below has produced a wrong gradient, without a word, in some framework or course. A test
carries its class in its name; the docstring says what went wrong elsewhere and what is right here.
Finite differences (`tests/test_gradients.py`) cannot judge these points: at a tie, at a kink or at
infinity a derivative is agreed upon, not measured.

The other parts: `test_catalogue_indices.py` (ids), `test_catalogue_data.py` (axes, sizes, memory),
`test_catalogue_dtypes.py` (integers, precision, copies), `test_catalogue_training.py` (parameters),
`test_catalogue_failures.py` (exceptions, threads, processes).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tests import checking, domains
from tinygrad_rnn import nn
from tinygrad_rnn.nn import functional as F
from tinygrad_rnn.ops.loss import specification

INF, NAN = math.inf, math.nan


def gradient(backend, f, *hosts, weight=None, **options):
    """The value of f and the gradients of <weight, f>, on the host; `weight` is 1 if not given.

    `options` go to `tg.grad`: with ``create_graph=True`` the rules run on Tensors and the fused ops
    through their specification, which has to give the same numbers.
    """
    inputs = checking.leaves(backend, [np.asarray(h) for h in hosts])
    out = f(*inputs)
    seed = np.broadcast_to(1 if weight is None else weight, out.shape).astype(out.dtype)
    grads = tg.grad(out, inputs, backend.tensor(seed), **options)
    return (backend.host(out), *(backend.host(g) for g in grads))


# ---- ties ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_of_max_and_min_share_equally(backend, dtype):
    """Giving each winner the whole gradient is no subgradient at all: a training run diverged of
    it. Here n winners get 1/n each, over one axis, several or all."""
    a = np.array([[[1, 3, 3], [3, 0, 3]], [[2, 2, 1], [0, 1, -1]]], dtype)
    for axis, wanted in [
        (None, [[[0, 1 / 4, 1 / 4], [1 / 4, 0, 1 / 4]], [[0, 0, 0], [0, 0, 0]]]),
        (-1, [[[0, 1 / 2, 1 / 2], [1 / 2, 0, 1 / 2]], [[1 / 2, 1 / 2, 0], [0, 1, 0]]]),
        (1, [[[0, 1, 1 / 2], [1, 0, 1 / 2]], [[1, 1, 1], [0, 0, 0]]]),
        ((0, -1), [[[0, 1 / 2, 1 / 2], [1 / 2, 0, 1 / 2]], [[0, 0, 0], [0, 0, 0]]]),
        ((2, 1), [[[0, 1 / 4, 1 / 4], [1 / 4, 0, 1 / 4]], [[1 / 2, 1 / 2, 0], [0, 0, 0]]]),
    ]:
        for f, b in ((tg.max, a), (tg.min, -a)):
            for options in ({}, {"create_graph": True}):
                _, g = gradient(backend, lambda x: f(x, axis), b, **options)  # noqa: B023
                np.testing.assert_array_equal(g, np.asarray(wanted, dtype))
                assert g.dtype == dtype


@given(
    case=domains.reduction(None, st.integers(-1, 1).map(float), min_side=1),
    op=st.sampled_from([tg.max, tg.min, lambda x, **o: -tg.norm(x - 9, INF, **o)]),
)
def test_ties_get_shares_that_add_up_to_one(backend, case, op):
    """Whatever the axes and however many tie: each result's gradient is handed out exactly once."""
    (a,) = case.arrays
    _, g = gradient(backend, lambda x: op(x, **case.options), a)
    axis = case.options["axis"]
    np.testing.assert_allclose(g.sum(axis), np.ones(a.shape).max(axis), rtol=1e-15)
    wanted = a == (a.max if op is tg.max else a.min)(axis=axis, keepdims=True)  # 9 - x: the min
    np.testing.assert_array_equal(g != 0, wanted)


def test_ties_of_maximum_and_minimum_halve(backend):
    """1 and 1 counted the gradient twice, 0 and 0 lost it. Here 0.5 and 0.5, broadcast or not."""
    same = np.array([1.0, 2.0])
    for f in (tg.maximum, tg.minimum):
        np.testing.assert_array_equal(gradient(backend, f, same, same)[1:], [[0.5] * 2] * 2)
        _, row, column = gradient(backend, f, np.full((1, 3), 2.0), np.full((2, 1), 2.0))
        np.testing.assert_array_equal(row, [[1, 1, 1]])
        np.testing.assert_array_equal(column, [[1.5], [1.5]])
        np.testing.assert_array_equal(gradient(backend, lambda x: f(x, 2.0), same)[1][1], 0.5)  # noqa: B023
        np.testing.assert_array_equal(gradient(backend, lambda x: f(x, x), same)[1], [1, 1])  # noqa: B023


# ---- kinks ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kinks_have_the_agreed_slope(backend, dtype):
    """PyTorch's choices, so that a network trained there goes on here the same: relu 0 at 0,
    abs 0 at 0, clip 1 at both edges."""
    zero = np.zeros(3, dtype)
    for f, wanted in [
        (tg.relu, 0), (tg.abs, 0), (tg.sign, 0), (lambda x: tg.norm(x, 1), 0),
        (lambda x: tg.clip(x, 0, 1), 1), (lambda x: tg.clip(x, -1, 0), 1),
        (lambda x: tg.clip(x, 0, 0), 1), (lambda x: tg.clip(x, tg.zeros_like(x)), 1),
        (lambda x: x**0, 0), (lambda x: x**1, 1), (lambda x: x**2, 0),
        (lambda x: F.l1_loss(x, zero, reduction="sum"), 0),
        (lambda x: F.smooth_l1_loss(x, zero, reduction="sum"), 0),
    ]:  # fmt: skip
        for options in ({}, {"create_graph": True}):
            out, g = gradient(backend, f, zero, **options)
            np.testing.assert_array_equal(g, np.full(3, wanted))
            assert out.dtype == g.dtype == dtype


@pytest.mark.parametrize("options", [{}, {"create_graph": True}])
def test_kink_of_relu_inside_a_fused_rnn(backend, options):
    """A hand-written backward may choose otherwise than the op it stands for: 0 in both."""
    rnn = nn.RNN(1, 1, nonlinearity="relu", bias=False, dtype=np.float64).to(backend.device)
    rnn.weight_ih_l0.writable()[...] = 1
    _, g = gradient(backend, lambda x: rnn(x)[0], np.array([[[0.0]], [[2.0]]]), **options)
    np.testing.assert_array_equal(g.ravel(), [0, 1])


# ---- sqrt, log, norm and std at 0 ----


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_sqrt_and_log_at_zero_have_infinite_slopes(backend):
    """The slope is infinite, and an infinity is what shows: no NaN, no quiet large number."""
    for f, value in [(tg.sqrt, 0), (tg.log, -INF), (lambda x: x**0.5, 0)]:
        for options in ({}, {"create_graph": True}):
            out, g = gradient(backend, f, np.zeros(2), **options)
            np.testing.assert_array_equal(out, [value] * 2)
            np.testing.assert_array_equal(g, [INF] * 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norm_and_std_at_zero_are_flat(backend, dtype):
    """0/0: a network whose states are all zero, as at the start, got NaN in every weight. Here the
    smallest of the subgradients, 0; and only where the vector is 0."""
    zero = np.zeros((2, 3), dtype)
    for f in (
        tg.norm, lambda x: tg.norm(x, axis=1), lambda x: tg.norm(x, axis=(0, 1), keepdims=True),
        lambda x: tg.norm(x, 1), lambda x: tg.norm(x, 3), lambda x: tg.norm(x, 0.5),
        lambda x: tg.norm(x, INF), lambda x: tg.norm(x, -INF), lambda x: tg.norm(x, 2, ()),
        tg.std, lambda x: tg.std(x, 0), lambda x: tg.std(x + 2.5, 1, correction=1),
    ):  # fmt: skip
        for options in ({}, {"create_graph": True}):
            out, g = gradient(backend, f, zero, **options)
            np.testing.assert_array_equal(out, np.zeros(out.shape))
            np.testing.assert_array_equal(g, zero)
            assert g.dtype == dtype
    rows = np.array([[0, 0], [3, 4]], dtype)
    _, g = gradient(backend, lambda x: tg.norm(x, axis=1), rows)
    np.testing.assert_allclose(g, [[0, 0], [0.6, 0.8]], rtol=1e-6)


# ---- where, with something bad in the branch not taken ----


def test_where_keeps_out_the_nan_that_was_not_chosen(backend):
    """Multiplying by a 0/1 mask makes NaN of 0 * NaN and of 0 * inf. Here values are selected."""
    bad, x = np.array([NAN, INF, 1.0]), np.array([1.0, 2.0, 3.0])
    chosen = backend.array(np.array([False, False, True]))
    for options in ({}, {"create_graph": True}):
        f = lambda b, x: tg.where(chosen, b, x)  # noqa: E731
        out, gb, gx = gradient(backend, f, bad, x, **options)
        np.testing.assert_array_equal(out, [1, 2, 1])
        np.testing.assert_array_equal([gb, gx], [[0, 0, 1], [1, 1, 0]])


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize(
    ("f", "slope"),  # at 4
    [
        pytest.param(tg.log, 1 / 4, id="log"),
        pytest.param(tg.sqrt, 1 / 4, id="sqrt"),
        pytest.param(tg.reciprocal, -1 / 16, id="reciprocal"),
        pytest.param(lambda x: tg.exp(0.5 * tg.log(x)), 1 / 4, id="exp of log"),
    ],
)
def test_where_through_several_ops_needs_the_double_where(backend, f, slope):
    """No framework can save this one: `where` sends 0 into the branch not taken, and that branch's
    own rule makes 0 * inf = NaN of it. The rule for users: make the *argument* safe first, then
    choose. The unsafe form has to show NaN and nothing else; its other elements are right."""
    x = np.array([0.0, 4.0])
    _, g = gradient(backend, lambda x: tg.where(x > 0, f(x), 0.0), x)
    assert not np.isfinite(g[0]) or g[0] == 0
    assert g[1] == pytest.approx(slope, rel=1e-14)
    for options in ({}, {"create_graph": True}):
        safe = lambda x: tg.where(x > 0, f(tg.where(x > 0, x, 1.0)), 0.0)  # noqa: E731
        out, g = gradient(backend, safe, x, **options)
        assert np.isfinite(out).all()
        np.testing.assert_allclose(g, [0, slope], rtol=1e-14)


# ---- logsumexp at infinity ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [None, 1, (0, 1), -1])
def test_logsumexp_of_all_minus_inf(backend, dtype, axis):
    """-inf - (-inf) is NaN, in the value and in every weight behind it. The log of an empty sum is
    -inf; a row that is masked out entirely gets gradient 0."""
    a = np.full((2, 3), -INF, dtype)
    for keepdims, options in itertools.product((False, True), ({}, {"create_graph": True})):
        f = lambda x: tg.logsumexp(x, axis, keepdims=keepdims)  # noqa: B023, E731
        out, g = gradient(backend, f, a, **options)
        np.testing.assert_array_equal(out, np.full(out.shape, -INF))
        np.testing.assert_array_equal(g, np.zeros((2, 3)))
        assert out.dtype == g.dtype == dtype


def test_logsumexp_of_some_minus_inf(backend):
    """What is masked out gets 0, the rest is the softmax of the rest."""
    a = np.array([[-INF, 1.0, 1.0], [-INF, -INF, 7.0], [-INF] * 3])
    out, g = gradient(backend, lambda x: tg.logsumexp(x, 1), a)
    np.testing.assert_allclose(out, [1 + math.log(2), 7, -INF], rtol=1e-15)
    np.testing.assert_allclose(g, [[0, 0.5, 0.5], [0, 0, 1], [0, 0, 0]], rtol=1e-15)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_logsumexp_of_plus_inf(backend):
    """The value is +inf, not NaN. How an infinity shares its gradient is undefined: NaN, which
    shows, as in PyTorch; and other rows don't notice."""
    out, g = gradient(backend, lambda x: tg.logsumexp(x, 1), np.array([[INF, 0.0], [0.0, 0.0]]))
    np.testing.assert_allclose(out, [INF, math.log(2)])
    assert np.isnan(g[0, 0])
    np.testing.assert_allclose(g[1], [0.5, 0.5], rtol=1e-15)


@pytest.mark.parametrize("options", [{}, {"create_graph": True}])
def test_logsumexp_of_large_numbers_hands_its_gradient_out_once(backend, options):
    """exp(x - logsumexp(x)) as the weights: beside 1e8, log(3) is lost to rounding, and three equal
    elements got 1 each, as if the gradient were three times as long. The weights add up to 1."""
    for size in (1e4, 1e8, 1e38, -1e4, -1e8, -1e38):
        a = np.full((2, 3), size, np.float32)
        a[1, 0] *= 0.5
        for axis, keepdims in itertools.product((1, None, 0, (0, 1)), (False, True)):
            f = lambda x: tg.logsumexp(x, axis, keepdims=keepdims)  # noqa: B023, E731
            out, g = gradient(backend, f, a, **options)
            np.testing.assert_allclose(out, a.max(axis, keepdims=keepdims), rtol=1e-6, atol=2)
            np.testing.assert_allclose(g.sum(axis), 1, rtol=1e-6)
    np.testing.assert_allclose(
        gradient(backend, tg.logsumexp, np.full(3, 1e8, np.float32), **options)[1], 1 / 3, rtol=1e-6
    )


# ---- saturated softmax and cross entropy ----

EXTREMES = np.array(
    [[1e4, -1e4, 0], [-1e4, 0, 1e4], [1e38, -1e38, 0], [-1e38] * 3, [3e38, 3e38, 0]], np.float32
)


@pytest.mark.parametrize("options", [{}, {"create_graph": True}])
def test_saturated_softmax_stays_finite(backend, options):
    """exp(1e4) overflows and inf / inf is NaN. Rows of values add up to 1, of gradients to 0."""
    w = np.array([1, 2, -3], np.float32)
    for f in (tg.softmax, tg.log_softmax):
        out, g = gradient(backend, f, EXTREMES, weight=w, **options)
        assert out.dtype == g.dtype == np.float32
        assert np.isfinite(out).all()
        assert np.isfinite(g).all()
        np.testing.assert_allclose(g.sum(-1), 0, atol=1e-6)
    out = backend.host(tg.softmax(backend.tensor(EXTREMES)))
    np.testing.assert_allclose(out.sum(-1), 1, rtol=1e-6)


def test_saturated_gates_stay_finite(backend):
    """1 / (1 + exp(-x)) overflows at x = -1e4; sigmoid, tanh and softplus must not."""
    for f, low, high in ((tg.sigmoid, 0, 1), (tg.tanh, -1, 1), (tg.softplus, 0, INF)):
        out, g = gradient(backend, f, EXTREMES)
        assert ((out >= low) & (out <= high)).all()
        assert ((g >= 0) & (g <= 1)).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("options", [{}, {"create_graph": True}])
def test_saturated_cross_entropy_stays_finite(backend, reduction, smoothing, options):
    """log(softmax) is log(0) for a class that is certainly wrong: the loss was inf, its gradient
    NaN. Here the loss is the distance of the logits, and rows of its gradient add up to 0."""
    for logits, targets in ((EXTREMES[:3], [1, 2, 0]), (EXTREMES, [0, 2, 0, 1, 1])):
        loss, g = gradient(
            backend,
            lambda x: F.cross_entropy(
                x,
                np.array(targets),  # noqa: B023 - called now
                reduction=reduction,
                label_smoothing=smoothing,
            ),
            logits,
            **options,
        )
        assert loss.dtype == g.dtype == np.float32
        assert np.isfinite(loss).all()
        assert np.isfinite(g).all()
        np.testing.assert_allclose(g.sum(-1), 0, atol=1e-6)


def test_saturated_cross_entropy_of_two_rows_has_a_finite_mean(backend):
    """Two losses of 2e38 do not overflow, and neither does their mean; their sum would."""
    logits = np.array([[1e38, -1e38], [1e38, -1e38]], np.float32)
    for form in (F.cross_entropy, _plain_cross_entropy):
        loss, g = gradient(backend, lambda x: form(x, np.array([1, 1])), logits)  # noqa: B023
        np.testing.assert_allclose(loss, 2e38, rtol=1e-6)
        np.testing.assert_allclose(g, [[0.5, -0.5]] * 2)


def _plain_cross_entropy(logits, targets):
    ids = tg.tensor(targets, device=logits.device).data
    options = {"ignore_index": -100, "reduction": "mean", "label_smoothing": 0.0}
    return specification(logits, ids, **options)


# ---- all targets ignored ----


@pytest.mark.parametrize("options", [{}, {"create_graph": True}])
@pytest.mark.parametrize("form", [F.cross_entropy, F.nll_loss])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_targets_ignored_gives_zero_and_not_nan(backend, options, form, reduction):
    """The mean over no targets is 0/0: one window of padding, and the loss is NaN. Here loss and
    gradient are 0; the gradient of the other rows is untouched if only some are ignored."""
    for ids in ([-100, -100], []):
        logits, targets = np.ones((len(ids), 3)), np.array(ids, np.int64)
        f = lambda x: form(x, targets, reduction=reduction)  # noqa: B023, E731
        loss, g = gradient(backend, f, logits, **options)
        np.testing.assert_array_equal(loss, np.zeros(loss.shape))
        np.testing.assert_array_equal(g, np.zeros_like(logits))
    some = np.array([-100, 2, -100])
    f = lambda x: form(x, some, reduction=reduction)  # noqa: E731
    one = lambda x: form(x, some[1:2], reduction=reduction)  # noqa: E731
    _, g = gradient(backend, f, np.ones((3, 3)), **options)
    np.testing.assert_array_equal(g[[0, 2]], 0)
    np.testing.assert_array_equal(g[1:2], gradient(backend, one, np.ones((1, 3)), **options)[1])
