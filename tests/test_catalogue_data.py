"""The catalogue of silent wrongs: axes, sizes, views and layouts.

For the idea see `tests/test_catalogue.py`.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tests import domains
from tests.test_catalogue import gradient
from tinygrad_rnn import nn
from tinygrad_rnn.nn import functional as F

# ---- reductions over several axes ----


def one_at_a_time(op):
    """The same reduction, as a chain of reductions over single axes, last axis first."""

    def reduced(x, axes, *, keepdims=False):
        for axis in sorted(axes, reverse=True):
            x = op(x, axis, keepdims=keepdims)
        return x

    return reduced


def stepwise_var(x, axes, *, keepdims=False):
    mean = one_at_a_time(tg.mean)
    return mean(tg.square(x - mean(x, axes, keepdims=True)), axes, keepdims=keepdims)


REDUCTIONS = {
    **{op.__name__: (op, one_at_a_time(op))
       for op in (tg.sum, tg.mean, tg.max, tg.min, tg.prod, tg.logsumexp)},
    "norm": (lambda x, axes, **o: tg.norm(x, 2, axes, **o),
             one_at_a_time(lambda x, axis, **o: tg.norm(x, 2, axis, **o))),
    "norm, 3": (lambda x, axes, **o: tg.norm(x, 3, axes, **o),
                one_at_a_time(lambda x, axis, **o: tg.norm(x, 3, axis, **o))),
    "var": (tg.var, stepwise_var),
    "std": (tg.std, lambda x, axes, **o: tg.sqrt(stepwise_var(x, axes, **o))),
}  # fmt: skip


@pytest.mark.parametrize("name", REDUCTIONS)
def test_multi_axis_reductions_equal_one_axis_at_a_time(backend, name):
    """A rule that is wrong for ``axis=None`` passed every test of a course: broadcasting made its
    shape right again, and a gradient of ones hid the values. Here every subset of the axes, from
    either end, kept or not, with a different weight for every result."""
    op, stepwise = REDUCTIONS[name]
    rng = np.random.default_rng(0)
    a = rng.permutation(np.arange(1, 19)).reshape(2, 3, 3) / 8  # no two alike
    for keepdims in (False, True):
        for axes in itertools.chain(*(itertools.combinations(range(3), n) for n in range(4))):
            if name == "std" and not axes:
                continue  # the spread of single elements: 0, with gradient 0, is tested above
            slow = lambda x: stepwise(x, axes, keepdims=keepdims)  # noqa: B023, E731
            weight = rng.standard_normal(slow(tg.tensor(a)).shape)
            wanted = gradient(backend, slow, a, weight=weight)
            for form in {axes, axes[::-1], tuple(i - 3 for i in axes)}:
                for axis in (form, list(form), *form[: len(form) == 1], *[None] * (len(axes) == 3)):
                    fast = lambda x: op(x, axis, keepdims=keepdims)  # noqa: B023, E731
                    out, g = gradient(backend, fast, a, weight=weight)
                    assert out.shape == wanted[0].shape
                    np.testing.assert_allclose(out, wanted[0], rtol=1e-13)
                    np.testing.assert_allclose(g, wanted[1], rtol=1e-12, atol=1e-15)


@given(
    case=domains.reduction(None), name=st.sampled_from(["sum", "max", "prod", "logsumexp", "norm"])
)
def test_multi_axis_rules_give_full_shapes_by_themselves(backend, case, name):
    """What the rule itself returns, before the engine could broadcast or sum it into shape."""
    (a,) = case.arrays
    if name in ("max", "logsumexp") and not a.size:
        return  # the largest of nothing
    out = getattr(tg, name)(backend.tensor(a, requires_grad=True), **case.options)
    ((_, g),) = out._node.gradients(backend.array(np.ones(out.shape)), None)
    assert g.shape == a.shape


# ---- sizes 0 and 1, and no dimensions ----

WHOLE = {
    **{op.__name__: op for op in (
        tg.tanh, tg.exp, tg.sigmoid, tg.relu, tg.abs, tg.square, tg.softplus, tg.sum, tg.prod,
        tg.norm, tg.cumsum, tg.ravel, tg.flip, tg.transpose)},
    "x + x": lambda x: x + x,
    "x * 2": lambda x: x * np.float32(2),
    "x[...]": lambda x: x[...],
    "x[None]": lambda x: x[None],
    "where": lambda x: tg.where(x > 0, x, 0),
    "maximum": lambda x: tg.maximum(x, 0.5),
    "clip": lambda x: tg.clip(x, 0, 1),
    "concat": lambda x: tg.concat([x, x], None),
    "stack": lambda x: tg.stack([x, x]),
    "broadcast": lambda x: x + tg.ones((2, *[1] * x.ndim), device=x.device, dtype=np.float64),
    "x[mask]": lambda x: x[x > 0],
    "outer": lambda x: tg.outer(x, x),
    "tile": lambda x: tg.tile(x, 2),
    "dot": lambda x: tg.dot(x.ravel(), x.ravel()),
    "mse": lambda x: F.mse_loss(x, np.zeros(x.shape), reduction="sum"),
    "sum 0": lambda x: x.sum(tuple(range(min(1, x.ndim)))),
    "sum, all kept": lambda x: x.sum(keepdims=True),
}  # fmt: skip
NOT_EMPTY = {
    "max": tg.max,
    "mean": tg.mean,
    "std": tg.std,
    "logsumexp": tg.logsumexp,
    "norm, inf": lambda x: tg.norm(x, np.inf),
    "softmax": lambda x: tg.softmax(x.reshape((1, *x.shape))),
}


@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (3, 0), (1, 1), (2, 0, 3)], ids=str)
def test_small_sizes_have_gradients_of_the_datas_shape(backend, shape):
    """A scalar for a 0-d array, (1,) for (), (0,) for (0, 3): each has been seen, and broadcasting
    takes them all. The gradient has the shape of the data, always."""
    a = np.full(shape, 0.5)
    for name, f in (WHOLE | (NOT_EMPTY if a.size else {})).items():
        for options in ({}, {"create_graph": True}):
            _, g = gradient(backend, f, a, **options)
            assert (g.shape, g.dtype) == (shape, np.float64), name


def test_small_sizes_of_matrices_batches_and_windows(backend):
    """No rows, no columns, no inner size, no steps, no batch, no ids: zeros of the right shape."""
    for left, right in [((0, 3), (3, 2)), ((2, 3), (3, 0)), ((2, 0), (0, 3)), ((0,), (0,))]:
        out, a, b = gradient(backend, tg.matmul, np.ones(left), np.ones(right))
        assert (a.shape, b.shape) == (left, right)
        assert not out.any()
    table = nn.Embedding(3, 2, rng=0).to(backend.device)
    table(np.zeros((2, 0), np.int64)).sum().backward()
    np.testing.assert_array_equal(backend.host(table.weight.grad), np.zeros((3, 2)))
    for T, B in [(0, 2), (3, 0), (0, 0), (1, 1)]:
        lstm = nn.LSTM(2, 3, rng=0).to(backend.device)
        x = backend.tensor(np.ones((T, B, 2), np.float32), requires_grad=True)
        out, (h, c) = lstm(x)
        (out.sum() + h.sum() + c.sum()).backward()
        assert (x.grad.shape, out.shape, h.shape) == ((T, B, 2), (T, B, 3), (1, B, 3))
        for p in lstm.parameters():
            assert p.grad.shape == p.shape
            assert T * B or not backend.host(p.grad).any()


# ---- views and memory ----


def test_views_pass_gradients_to_their_base_and_cannot_be_written_to(backend):
    """Writing into ``y = x.T`` changes x under a graph that has saved it. There is no such write:
    results have no door, and data that a tensor is made of is copied in."""
    host = np.arange(6.0).reshape(2, 3)
    x = backend.tensor(host, requires_grad=True)
    views = (x.T, x[0], x[:, ::-1], x.reshape(6), x[None], tg.broadcast_to(x, (2, 2, 3)), x.mT)
    for y in views:
        with pytest.raises(tg.NotDifferentiableError, match="immutable"):
            y[0] = 1.0
        with pytest.raises(tg.NotDifferentiableError, match="leaf"):
            y.writable()
    sum(((y * y).sum() for y in views), x.sum()).backward()
    wanted = 1 + 2 * host * 7  # each view shows each element once, broadcast_to twice, x[0] a row
    wanted[0] += 2 * host[0]
    np.testing.assert_array_equal(backend.host(x.grad), wanted)
    host[...] = -1
    np.testing.assert_array_equal(backend.host(x), np.arange(6.0).reshape(2, 3))


def test_views_of_one_tensor_may_meet_in_one_op(backend):
    """``x - x.T`` with memory in common, ``x * x``, and an op given a tensor and its own view."""
    a = np.arange(9.0).reshape(3, 3)
    for f, wanted in [
        (lambda x: x - x.T, np.zeros((3, 3))),
        (lambda x: x * x.T, 2 * a.T),
        (lambda x: x @ x.T, 2 * a.sum(0) + np.zeros((3, 1))),
        (lambda x: x + x[::-1], np.full((3, 3), 2.0)),
        (lambda x: tg.where(x > x.T, x, x.T), 2.0 * (a > a.T) + np.eye(3)),
    ]:
        np.testing.assert_array_equal(gradient(backend, f, a)[1], wanted)


def odd_layouts(a):
    """The same values as `a` in every other way that NumPy can hold them."""
    wide = np.full((*a.shape, 2), np.nan if a.dtype.kind == "f" else 0, a.dtype)
    wide[..., 0] = a
    locked = a.copy()
    locked.flags.writeable = False
    return {
        "F order": np.asfortranarray(a),
        "negative strides": np.flip(np.flip(a).copy()),
        "strided": wide[..., 0],
        "read-only": locked,
        "big-endian": a.astype(a.dtype.newbyteorder(">")),
        "broadcast": np.broadcast_to(a[:1], a.shape),  # stride 0: rows of equal values
    }


LAYOUT = ["F order", "negative strides", "strided", "read-only", "big-endian", "broadcast"]
# Values are quarters and small: every sum and product below is exact, whatever its order.
EXACT = {
    "add": lambda x: x + 1, "multiply": lambda x: x * x, "relu": tg.relu, "abs": tg.abs,
    "sum": tg.sum, "sum 0": lambda x: tg.sum(x, 0), "mean": lambda x: tg.mean(x, 1),
    "max": lambda x: tg.max(x, 0), "cumsum": lambda x: tg.cumsum(x, 1), "ravel": tg.ravel,
    "reshape": lambda x: x.reshape(2, 8), "take": lambda x: tg.take(x, np.array([1, 1, -1]), 0),
    "mask": lambda x: x[x > 0], "matmul": lambda x: x @ x, "flip": tg.flip,
    "concat": lambda x: tg.concat([x, x], 0), "tril": tg.tril,
    "where": lambda x: tg.where(x > 0, x, 1), "clip": lambda x: tg.clip(x, -1, 1),
    "sqrt": lambda x: tg.sqrt(x * x + 1), "roll": lambda x: tg.roll(x, 1),
    "einsum": lambda x: tg.einsum("ij,kj->ik", x, x), "pad": lambda x: tg.pad(x, 1),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUT)
def test_layouts_give_the_bits_of_a_copy(backend, layout):
    """Negative strides were refused, F order was read as C order, bytes were not swapped. As data,
    as plain operand, as incoming gradient and as index: op(x) is op(copy of x), bit for bit."""
    rng = np.random.default_rng(0)
    a, weight = (rng.integers(-8, 9, (4, 4)) / 4 for _ in range(2))
    odd, odd_weight = odd_layouts(a)[layout], odd_layouts(weight)[layout]
    a, weight = (np.ascontiguousarray(v, np.float64) for v in (odd, odd_weight))
    for name, f in EXACT.items():
        x, twin = backend.tensor(odd, requires_grad=True), backend.tensor(a, requires_grad=True)
        out, wanted = f(x), f(twin)
        assert_same_bits(backend.host(out), backend.host(wanted), name)
        square = out.shape == weight.shape  # the seed in the odd layout too, where it fits
        out.backward(odd_weight if square else np.ones(out.shape))
        wanted.backward(weight if square else np.ones(out.shape))
        assert_same_bits(backend.host(x.grad), backend.host(twin.grad), name)
    if backend.device == "cpu":
        assert_same_bits(backend.host(twin * odd), backend.host(twin * a), "plain operand")
        assert_same_bits(tg.sum(odd, 0), tg.sum(a, 0), "plain input")


@pytest.mark.parametrize("layout", LAYOUT)
def test_layouts_of_ids_pick_the_same_rows(backend, layout):
    ids = np.array([[0, 3, 3], [2, 1, -1]])
    odd = odd_layouts(ids)[layout]
    ids = np.ascontiguousarray(odd, np.int64)
    rows = np.arange(8.0).reshape(4, 2)
    for f in (lambda x, i: x[i], lambda x, i: tg.take(x, i, 0), lambda x, i: x[:, i % 2]):
        seen, wanted = (gradient(backend, lambda x: f(x, i), rows) for i in (odd, ids))  # noqa: B023
        np.testing.assert_array_equal(seen[0], wanted[0])
        np.testing.assert_array_equal(seen[1], wanted[1])
    if layout != "broadcast":
        seen, wanted = (
            gradient(backend, lambda x: F.cross_entropy(x, i % 4), np.ones((2, 3, 4)))  # noqa: B023
            for i in (odd, ids)
        )
        np.testing.assert_array_equal(seen[1], wanted[1])


def assert_same_bits(seen, wanted, name):
    seen, wanted = np.ascontiguousarray(seen), np.ascontiguousarray(wanted)
    assert (seen.shape, seen.dtype) == (wanted.shape, wanted.dtype), name
    assert seen.tobytes() == wanted.tobytes(), name
