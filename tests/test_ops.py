"""What the ops compute: NumPy's values everywhere, and the agreed ones at the special points.

`tests/test_gradients.py` checks the rules where functions are smooth, `tests/test_catalogue.py` the
points where a derivative is a matter of agreement: ties, kinks, infinities. Here stand the forward
values, and what is special to single ops.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_rnn as tg
from tests import checking, domains
from tinygrad_rnn.ops.loss import softmax_cross_entropy, specification

INF, NAN = math.inf, math.nan


def assert_close(backend, seen, wanted, rtol=1e-13):
    """Values, shape and dtype."""
    wanted = np.asarray(wanted)
    host = backend.host(seen)
    assert (host.shape, host.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_allclose(host, wanted, rtol=rtol, atol=1e-13)


def gradient(backend, f, *hosts, weight=None):
    """The values of f and its gradients (summed, or against `weight`), on the host."""
    inputs = checking.leaves(backend, [np.asarray(h) for h in hosts])
    out = f(*inputs)
    seed = np.ones(out.shape) if weight is None else np.broadcast_to(weight, out.shape)
    out.backward(backend.tensor(seed.astype(out.dtype)))
    grads = [backend.host(t.grad) for t in inputs]
    return (backend.host(out), *grads)


# ---- forward values ----


def np_sigmoid(x):
    return 1 / (1 + np.exp(-x))


def np_gelu(x):
    return np.vectorize(lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))), otypes=[float])(x)


def np_gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


UNARY = [
    (tg.exp, np.exp), (tg.expm1, np.expm1), (tg.sin, np.sin), (tg.cos, np.cos), (tg.tanh, np.tanh),
    (tg.abs, np.abs), (tg.sign, np.sign), (tg.square, np.square), (tg.negative, np.negative),
    (tg.sigmoid, np_sigmoid), (tg.softplus, lambda x: np.log1p(np.exp(x))),
    (tg.relu, lambda x: np.maximum(x, 0)), (tg.gelu, np_gelu),
    (lambda x: tg.gelu(x, approximate="tanh"), np_gelu_tanh),
    (lambda x: tg.log(x + 4), lambda x: np.log(x + 4)),
    (lambda x: tg.log1p(x + 4), lambda x: np.log1p(x + 4)),
    (lambda x: tg.sqrt(x + 4), lambda x: np.sqrt(x + 4)),
    (lambda x: tg.reciprocal(x + 4), lambda x: 1 / (x + 4)),
    (lambda x: tg.clip(x, -1, 1.5), lambda x: np.clip(x, -1, 1.5)),
    (lambda x: tg.clip(x, None, 0), lambda x: np.clip(x, None, 0)),
    (lambda x: (2 - x) / 4 + 3 * x - x / 8, lambda x: (2 - x) / 4 + 3 * x - x / 8),
    (lambda x: x**3 + 2**x, lambda x: x**3 + 2**x),
    (tg.ravel, np.ravel), (tg.transpose, np.transpose),
    (tg.softmax, lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
    (tg.log_softmax, lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))),
]  # fmt: skip


@given(a=domains.shapes(1, min_side=1).flatmap(lambda s: domains.filled(s, domains.WITH_ZERO)))
def test_elementwise(backend, a):
    for ours, theirs in UNARY:
        assert_close(backend, ours(backend.tensor(a)), theirs(a))


BINARY = [
    (tg.add, np.add), (tg.subtract, np.subtract), (tg.multiply, np.multiply),
    (tg.divide, np.divide), (tg.maximum, np.maximum), (tg.minimum, np.minimum),
    (tg.equal, np.equal), (tg.not_equal, np.not_equal), (tg.less, np.less),
    (tg.less_equal, np.less_equal), (tg.greater, np.greater), (tg.greater_equal, np.greater_equal),
    (lambda a, b: (a > 0) & (b > 0), lambda a, b: (a > 0) & (b > 0)),
    (lambda a, b: (a > 0) | ~(b > 0), lambda a, b: (a > 0) | ~(b > 0)),
    (lambda a, b: tg.where(a > b, a, 0), lambda a, b: np.where(a > b, a, 0)),
    (lambda a, b: tg.abs(a) ** b, lambda a, b: np.abs(a) ** b), (tg.outer, np.outer),
]  # fmt: skip


@given(case=domains.broadcast(None, domains.NONZERO, domains.NONZERO))
def test_two_operands(backend, case):
    a, b = case.arrays
    for ours, theirs in BINARY:
        assert_close(backend, ours(backend.tensor(a), backend.tensor(b)), theirs(a, b))


REDUCTIONS = [
    (tg.sum, np.sum), (tg.mean, np.mean), (tg.max, np.max), (tg.min, np.min), (tg.prod, np.prod),
    (tg.var, np.var), (tg.std, np.std),
    (lambda x, axis, keepdims: tg.std(x, axis, correction=0.5, keepdims=keepdims),
     lambda x, axis, keepdims: np.std(x, axis, ddof=0.5, keepdims=keepdims)),
    (tg.logsumexp, lambda x, **o: np.log(np.sum(np.exp(x), **o))),
    (tg.norm, lambda x, **o: np.sqrt(np.sum(x * x, **o))),
    *((lambda x, axis, keepdims, p=p: tg.norm(x, p, axis, keepdims=keepdims),
       lambda x, p=p, **o: np.sum(np.abs(x) ** p, **o) ** (1 / p)) for p in (1, 3, 0.5)),
    (lambda x, axis, keepdims: tg.norm(x, INF, axis, keepdims=keepdims),
     lambda x, **o: np.max(np.abs(x), **o)),
    (lambda x, axis, keepdims: tg.norm(x, -INF, axis, keepdims=keepdims),
     lambda x, **o: np.min(np.abs(x), **o)),
]  # fmt: skip


@given(case=domains.reduction(None, domains.WITH_ZERO, min_side=1))
def test_reductions(backend, case):
    """Every subset of the axes, from either end, kept or not."""
    (a,) = case.arrays
    for ours, theirs in REDUCTIONS:
        assert_close(backend, ours(backend.tensor(a), **case.options), theirs(a, **case.options))


@given(a=domains.shapes(1, min_side=1).flatmap(domains.filled), data=st.data())
def test_along_one_axis(backend, a, data):
    axis = data.draw(st.one_of(st.none(), st.integers(-a.ndim, a.ndim - 1)))
    for ours, theirs in [(tg.cumsum, np.cumsum), (tg.argmax, np.argmax), (tg.argmin, np.argmin)]:
        assert_close(backend, ours(backend.tensor(a), axis), theirs(a, axis))
    wanted = np.argmax(a, axis=axis, keepdims=True)
    assert_close(backend, tg.argmax(backend.tensor(a), axis=axis, keepdims=True), wanted)


@given(a=hnp.arrays(np.bool_, domains.shapes()))
def test_bools_add_up_to_integers(backend, a):
    assert_close(backend, backend.tensor(a).sum(), a.sum())


@given(a=domains.shapes(2).flatmap(domains.filled), data=st.data())
def test_shape_ops(backend, a, data):
    draw = data.draw
    s = a.shape
    axes, axis = tuple(draw(st.permutations(range(a.ndim)))), domains.one_axis(draw, s)
    roll, pad = domains._rolled(draw, s), domains._padded(draw, s)
    n, k = draw(st.integers(0, 3)), draw(st.integers(-3, 3))
    some = draw(domains.axes(a.ndim))
    wide = domains._broadcasted(draw, s)["shape"]
    x = backend.tensor(a)
    for seen, wanted in [
        (tg.permute_dims(x, axes), a.transpose(axes)), (x.transpose(*axes), a.transpose(axes)),
        (tg.swapaxes(x, axis, 0), a.swapaxes(axis, 0)), (x.mT, a.swapaxes(-1, -2)), (x.T, a.T),
        (x.reshape(-1) if a.size else x.ravel(), a.reshape(-1)),
        (x.reshape(s[::-1]), a.reshape(s[::-1])),
        (tg.expand_dims(x, axis), np.expand_dims(a, axis)), (tg.flip(x, some), np.flip(a, some)),
        (tg.squeeze(tg.expand_dims(x, (0, 2)), 0), np.squeeze(np.expand_dims(a, (0, 2)), 0)),
        (tg.squeeze(x), np.squeeze(a)), (tg.broadcast_to(x, wide), np.broadcast_to(a, wide)),
        (tg.roll(x, **roll), np.roll(a, **roll)),
        (tg.pad(x, **pad), np.pad(a, pad["pad_width"], constant_values=pad["constant_value"])),
        (tg.tril(x, k=k), np.tril(a, k)), (tg.triu(x, k=k), np.triu(a, k)),
        (tg.repeat(x, n, axis), np.repeat(a, n, axis)), (tg.repeat(x, n), np.repeat(a, n)),
        (tg.tile(x, (n, 2)), np.tile(a, (n, 2))), (tg.tile(x, 2), np.tile(a, 2)),
        (tg.concat([x, x], axis), np.concat([a, a], axis)),
        (tg.concat([x, x], None), np.concat([a, a], None)),
        (tg.stack([x, x], axis), np.stack([a, a], axis)),
    ]:  # fmt: skip
        assert_close(backend, seen, wanted)
    for seen, wanted in zip(tg.split(x, [1, 2], axis), np.split(a, [1, 2], axis), strict=True):
        assert_close(backend, seen, wanted)
    for seen, wanted in zip(tg.unstack(x, axis), np.unstack(a, axis=axis), strict=True):
        assert_close(backend, seen, wanted)


@given(case=domains._getitem())
def test_indexing(backend, case):
    (a,), index = case.arrays, case.options["index"]
    assert_close(backend, backend.tensor(a)[index], a[index])
    parts = index if isinstance(index, tuple) else (index,)
    on_device = tuple(backend.tensor(p) if isinstance(p, np.ndarray) else p for p in parts)
    assert_close(backend, backend.tensor(a)[on_device], a[index])


@given(case=domains._take())
def test_take(backend, case):
    (a,), options = case.arrays, case.options
    assert_close(backend, tg.take(backend.tensor(a), **options), np.take(a, **options))


@given(case=domains._take_along_axis())
def test_take_along_axis(backend, case):
    (a,), options = case.arrays, case.options
    wanted = np.take_along_axis(a, **options)
    assert_close(backend, tg.take_along_axis(backend.tensor(a), **options), wanted)


@given(a=domains.of_shapes(None, domains._MATMUL.map(lambda m: m.input_shapes)))
def test_matmul(backend, a):
    x, y = a.arrays
    assert_close(backend, backend.tensor(x) @ backend.tensor(y), np.asarray(x @ y))


@given(a=domains.of_shapes(None, st.sampled_from(domains._DOT)))
def test_dot(backend, a):
    x, y = a.arrays
    assert_close(backend, tg.dot(backend.tensor(x), backend.tensor(y)), np.dot(x, y))


@given(case=domains._einsum())
def test_einsum(backend, case):
    wanted = np.einsum(case.options["s"], *case.arrays)
    assert_close(backend, case.op(*(backend.tensor(a) for a in case.arrays)), wanted)


def test_one_hot(backend):
    ids = backend.tensor(np.array([[0, 2], [1, 1]]))
    assert_close(backend, tg.one_hot(ids, 3), np.eye(3, dtype=np.float32)[[[0, 2], [1, 1]]])
    assert_close(backend, tg.one_hot(ids.data, 3), tg.one_hot(ids, 3).cpu().numpy())


# ---- corners of the definition (ties, kinks and zeros: `tests/test_catalogue.py`) ----


def test_clip_beyond_the_edges(backend):
    _, g = gradient(backend, lambda x: tg.clip(x, -1, 1), np.array([-2.0, -1, 0, 1, 2]))
    np.testing.assert_array_equal(g, [0, 1, 1, 1, 0])
    x, low = np.array([-2.0, 0.0]), np.array([-1.0, -1.0])
    _, gx, glow = gradient(backend, lambda x, low: tg.clip(x, low), x, low)
    np.testing.assert_array_equal([gx, glow], [[0, 1], [1, 0]])


def test_power_at_zero(backend):
    """0**b is flat for b > 0, and x**0 is flat everywhere, at 0 too: no NaN from 0 * log(0)."""
    a, b = np.array([0.0, 0.0, 0.0, 2.0]), np.array([0.0, 1.0, 2.0, 0.0])
    out, ga, gb = gradient(backend, tg.power, a, b)
    np.testing.assert_array_equal(out, [1, 0, 0, 1])
    np.testing.assert_array_equal(ga, [0, 1, 0, 0])
    np.testing.assert_allclose(gb, [0, 0, 0, math.log(2)])
    _, g = gradient(backend, lambda b: 0**b, b)
    np.testing.assert_array_equal(g, 0)


# ---- softmax cross entropy ----


@given(case=domains._cross_entropy())
def test_cross_entropy_equals_its_specification(backend, case):
    options = {"ignore_index": -100, **case.options}
    targets = backend.array(options.pop("targets"))
    (a,) = case.arrays
    if not a.size:
        return
    fused = gradient(backend, case.op, a)
    plain = gradient(backend, lambda x: specification(x, targets, **options), a)
    for f, p in zip(fused, plain, strict=True):
        np.testing.assert_allclose(f, p, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("form", [softmax_cross_entropy, specification])
def test_cross_entropy_of_more_rows_than_float16_can_count(backend, form):
    rows, options = 70_000, {"ignore_index": -100, "label_smoothing": 0.0}
    targets = backend.array(np.zeros(rows, np.int64))
    loss, g = gradient(
        backend,
        lambda x: form(x, targets, reduction="mean", **options),
        np.zeros((rows, 2), np.float16),
    )
    assert loss.dtype == g.dtype == np.float16
    np.testing.assert_allclose(loss, math.log(2), rtol=1e-3)
    np.testing.assert_allclose(g, np.tile([-0.5 / rows, 0.5 / rows], (rows, 1)), atol=6e-8)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_cross_entropy_refuses_logits_that_are_no_real_numbers(backend, dtype):
    logits = backend.tensor(np.array([[1, 0]], dtype))
    with pytest.raises(tg.DTypeError, match="needed floating-point logits, got"):
        softmax_cross_entropy(logits, np.array([0]))


def test_cross_entropy_refuses(backend):
    logits = backend.tensor(np.zeros((2, 3)))
    for targets, options, error in [
        (np.array([0]), {}, tg.ShapeError),
        (np.array([[0, 1]]), {}, tg.ShapeError),
        (np.array([0.0, 1.0]), {}, tg.DTypeError),
        (np.array([0, 1]), {"reduction": "max"}, tg.DTypeError),
        (np.array([0, 1]), {"label_smoothing": 2}, tg.ShapeError),
    ]:
        with pytest.raises(error, match="cross_entropy"):
            softmax_cross_entropy(logits, targets, **options)
    with pytest.raises(tg.ShapeError, match="V >= 1"):
        softmax_cross_entropy(backend.tensor(np.zeros((2, 0))), np.array([0, 0]))


# ---- single cases ----


def test_means_of_nothing_are_nan(backend):
    nothing = backend.tensor(np.zeros((0, 2)))
    for f in (tg.mean, tg.var, tg.std):
        assert np.isnan(backend.host(f(nothing, 0))).all()
    assert tg.sum(nothing).item() == 0
    assert tg.prod(nothing).item() == 1
    one = backend.tensor(np.ones(1))
    assert np.isnan(tg.var(one, correction=1).item())


def test_ids_may_be_overwritten_before_backward(backend):
    """A data loader that fills the same buffers anew must not move a gradient to other rows."""
    table = backend.tensor(np.eye(3), requires_grad=True)
    ids, targets = np.array([0, 1]), np.array([0, 1])
    picked, taken = table[ids], tg.take(table, ids, 0)
    loss = tg.nn.functional.cross_entropy(table[:2], targets)
    ids[...], targets[...] = 2, 2
    (both,) = tg.grad(picked.sum() + taken.sum(), table)
    np.testing.assert_array_equal(backend.host(both), [[2.0] * 3, [2.0] * 3, [0.0] * 3])
    (grad,) = tg.grad(loss, table)
    assert (backend.host(grad)[[0, 1], [0, 1]] < 0).all()


def test_integers_are_not_truncated_on_the_way_to_a_float():
    np.testing.assert_allclose(tg.logsumexp(tg.tensor([1, 2, 3])).numpy(), 3.40760596)
    np.testing.assert_allclose(tg.erf(tg.tensor([1, 2])).numpy(), [0.84270079, 0.99532227])
    for call in (
        lambda: tg.nn.functional.mse_loss(tg.tensor([1, 2]), [0.5, 0.5]),
        lambda: tg.nn.functional.dropout(tg.tensor([1, 2]), 0.4),
    ):
        with pytest.raises(tg.DTypeError, match="floating-point"):
            call()
    loss = tg.nn.functional.mse_loss(tg.tensor([1.0, 2.0]), tg.tensor([1, 1]))
    assert (float(loss), loss.dtype) == (0.5, np.float32)


@pytest.mark.parametrize("p", [0.5, 1.5, 3])
def test_norms_of_any_order_have_gradient_0_at_0(backend, p):
    x = backend.tensor(np.array([0.0, 2.0]), requires_grad=True)
    (g,) = tg.grad(tg.norm(x, p), x)
    np.testing.assert_allclose(backend.host(g), [0.0, 1.0])
    zero = backend.tensor(np.zeros(2), requires_grad=True)
    (g,) = tg.grad(tg.norm(zero, p), zero)
    np.testing.assert_array_equal(backend.host(g), [0.0, 0.0])


def test_smooth_l1_is_a_parabola_at_0():
    x = tg.tensor([0.0, 0.5], requires_grad=True)
    (g,) = tg.grad(
        tg.nn.functional.smooth_l1_loss(x, [0.0, 0.0], reduction="sum"), x, create_graph=True
    )
    (second,) = tg.grad(g.sum(), x)
    assert second.tolist() == [1.0, 1.0]


def test_take_refuses_masks_and_slices():
    x = tg.tensor([1.0, 2.0, 3.0])
    for wrong in (np.array([True, False, True]), True, slice(None), None):
        with pytest.raises(tg.DTypeError, match="integers"):
            tg.take(x, wrong)
        with pytest.raises(tg.DTypeError, match="integers"):
            tg.take_along_axis(x, wrong)


def test_nll_loss_of_one_sample():
    log_p = tg.log_softmax(tg.tensor([1.0, 2.0], requires_grad=True))
    loss = tg.nn.functional.nll_loss(log_p, 1)
    assert float(loss) == pytest.approx(0.3132617)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_a_matrix_transpose_needs_a_matrix(shape):
    with pytest.raises(tg.ShapeError, match=r"axis -[12] does not exist"):
        _ = tg.tensor(np.zeros(shape)).mT
