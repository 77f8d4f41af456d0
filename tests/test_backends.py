"""Backends: each override computes what the body it hides computes; the fake device is strict."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_rnn as tg
from tests import domains
from tests.fake_device import FakeArray, FakeBackend, sync_budget, xp
from tinygrad_rnn import backends
from tinygrad_rnn.backends.base import Backend
from tinygrad_rnn.backends.numpy_backend import NumpyBackend
from tinygrad_rnn.ops.lstm import lstm
from tinygrad_rnn.testing import conformance
from tinygrad_rnn.testing.conformance import MUST, PLAIN

CPU = NumpyBackend()
FLOATS = st.sampled_from([np.float32, np.float64])
SIZES = st.integers(0, 9)
SEEDS = st.integers(0, 2**32 - 1)


def near(dtype) -> dict[str, float]:
    """A few units in the last place: the same formula, in another order of operations."""
    return {"rtol": 64 * np.finfo(dtype).eps, "atol": 64 * np.finfo(dtype).eps}


# ---- the contract ----


def test_the_backend_keeps_the_contract(backend):
    """Each kernel against the body it hides; copies, names, indices: `tg.testing.check_backend`."""
    tg.testing.check_backend(backends.get(backend.device))


def test_every_method_of_the_contract_is_checked():
    """A method that `check_backend` does not know of fails here."""
    methods = {n for n, f in vars(Backend).items() if inspect.isfunction(f)}
    rest = {"owner", "read_only", "synchronize", "memory", "check_index"}  # in `CHECKS`
    rest |= {"window", "on"}  # tests/test_sequence_kernels.py, tests/gpu/test_windows.py
    assert methods == MUST | conformance.KERNELS.keys() | rest
    overridden = {n for n, f in vars(NumpyBackend).items() if inspect.isfunction(f)} - MUST
    assert overridden >= {"scatter_add", "sum_columns", "take_columns", "squared_norms"}
    for name in overridden:
        assert getattr(type(PLAIN), name) is getattr(Backend, name)


def writes_into_an_argument(self, matrix, index, out):
    PLAIN.take_columns(matrix, index, out)
    matrix *= 0.5


def swaps_columns(self, matrix, index, size):
    return PLAIN.sum_columns(matrix, index, size)[:, ::-1]


def keeps_one_of_the_repeats(self, target, index, values):
    target[index] += values


def takes_nothing(self, *_):
    raise NotImplementedError("not yet")


# What is said of the fault, and the method that has it.
FAULTS = {
    "sum_columns: arguments": ("sum_columns", swaps_columns),
    "take_columns: arguments": ("take_columns", writes_into_an_argument),
    "scatter_add: arguments": ("scatter_add", keeps_one_of_the_repeats),
    "squared_norms: arguments and results are": (
        "squared_norms",
        lambda _, arrays: PLAIN.squared_norms(arrays).astype(np.float32),
    ),
    "softmax_cross_entropy: .* number": (
        "softmax_cross_entropy",
        lambda _, *rows: PLAIN.softmax_cross_entropy(*rows[:3], 0.0),
    ),
    "take_columns: NotImplementedError: not yet": ("take_columns", takes_nothing),
    "asarray shares memory": ("asarray", lambda _, host, _device: np.asarray(host)),
    "asarray turns float32": ("asarray", lambda _, host, _device: np.array(host, float, order="C")),
    "to_host gives the array's own memory": ("to_host", lambda _, array: array),
    "does not begin with the backend's name": ("device_names", lambda _: ["gpu:0"]),
    "device_of says 'mars'": ("device_of", lambda *_: "mars"),
    r"the index \(0, 3\) into 3 passes": ("check_index", lambda *_, **_options: None),
    "erf: the error function": ("erf", lambda _, x: np.tanh(1.2 * x)),
    "read_only changes values": ("read_only", lambda _, array: array + 1),
    "has another owner": ("owner", lambda _, array: array),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_backend_that_breaks_the_contract_is_rejected(fault):
    wrong = type("Wrong", (NumpyBackend,), dict([FAULTS[fault]]))()
    with pytest.raises(tg.GradcheckError, match=f"the cpu backend: .*{fault}"):
        tg.testing.check_backend(wrong)


def drawn(seed, dtype, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


# ---- windows ----


def test_two_graphs_alive_at_once_do_not_share_buffers():
    arrays = drawn(0, np.float64, (5, 30, 3), (30, 4), (30, 4), (16, 3), (16, 4), (16,), (16,))
    alone, gradients = [], []
    for scale in (1.0, 2.0):
        inputs = [tg.tensor(scale * a, requires_grad=True) for a in arrays]
        lstm(*inputs).sum().backward()
        alone.append([t.grad for t in inputs])
    both = [[tg.tensor(scale * a, requires_grad=True) for a in arrays] for scale in (1.0, 2.0)]
    losses = [lstm(*inputs).sum() for inputs in both]
    for loss in losses:
        loss.backward()
    gradients = [[t.grad for t in inputs] for inputs in both]
    for one, other in zip(alone, gradients, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


# ---- products ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_times_nan_is_nan_in_every_product(backend, dtype):
    """BLAS takes a factor of one number for a scalar, and of a scalar 0 it needs no more."""
    there, zero = backends.get(backend.device), backend.array(np.zeros((1, 1), dtype))
    for shape in ((3, 1), (1, 1), (1, 3)):
        bad = backend.array(np.full(shape, np.nan, dtype))
        product = there.matmul(bad, zero) if shape[1] == 1 else there.matmul(zero, bad)
        assert np.isnan(backend.host(product)).all()


# ---- columns of a projected table ----


@given(seed=SEEDS, dtype=FLOATS, V=st.integers(1, 6), B=st.integers(0, 9), G=SIZES)
def test_take_and_sum_columns(seed, dtype, V, B, G):
    matrix, summed = drawn(seed, dtype, (G, V), (G, B))
    index = np.random.default_rng(seed).integers(0, V, B)
    for there in (CPU, PLAIN):
        steps = np.stack([index, index[::-1]])
        out = np.full((2, G, B), np.nan, dtype)
        there.take_columns(matrix, steps, out)
        np.testing.assert_array_equal(out, [matrix[:, numbers] for numbers in steps])
        total = there.sum_columns(summed, index, V)
        expected = summed.astype(np.float64) @ np.eye(V)[index]
        assert total.dtype == dtype
        np.testing.assert_allclose(total, expected, **near(dtype))


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_what_is_not_finite_stays_in_its_column(bad):
    """As a product with one-hot columns, 0 times infinity would be NaN in every column."""
    matrix = np.ones((2, 5), np.float32)
    matrix[1, 3] = bad
    total = CPU.sum_columns(matrix, np.array([0, 1, 0, 2, 2]), 4)
    np.testing.assert_array_equal(total, [[2, 1, 2, 0], [2, 1, bad, 0]])


# ---- scatter_add ----


@st.composite
def scatters(draw):
    """A shape, and an index into it of any form, with repeats."""
    shape = draw(domains.shapes())
    return shape, draw(domains.indices(shape))


@given(case=scatters(), seed=SEEDS, dtype=st.sampled_from([np.float32, np.float64, np.int64]))
def test_scatter_add(case, seed, dtype):
    """Against NumPy's add.at, in whole numbers, so that the order of adding cannot show."""
    shape, index = case
    rng = np.random.default_rng(seed)
    start = rng.integers(-9, 9, shape).astype(dtype)
    values = rng.integers(-9, 9, start[index].shape).astype(dtype)
    wanted = start.copy()
    np.add.at(wanted, index, values)
    for there in (CPU, PLAIN):
        target, given_values = start.copy(), values.copy()
        there.scatter_add(target, index, given_values)
        np.testing.assert_array_equal(target, wanted)
        np.testing.assert_array_equal(given_values, values)


@given(rows=hnp.arrays(np.int64, 30, elements=st.integers(-4, 3)), seed=SEEDS, dtype=FLOATS)
def test_scatter_add_of_rows(rows, seed, dtype):
    """The fast way for rows, on numbers that round, into a part of a larger array."""
    (values,) = drawn(seed, dtype, (30, 3))
    wide = np.zeros((8, 3), dtype)
    target, wanted = wide[::2], np.zeros((4, 3))
    CPU.scatter_add(target, rows, values)
    np.add.at(wanted, rows, values.astype(np.float64))
    np.testing.assert_allclose(target, wanted, rtol=1e-5, atol=30 * np.finfo(dtype).eps)
    assert not wide[1::2].any()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint64])
def test_scatter_add_of_rows_numbered_in_few_bits(dtype):
    """200 rows: the number of the last does not fit into an int8, negative ones count from it."""
    rows = np.array([1, 100, 1, 0], dtype)
    if np.dtype(dtype).kind == "i":
        rows[3] = -128
    for there in (CPU, PLAIN):
        target, wanted = np.zeros((200, 2)), np.zeros((200, 2))
        there.scatter_add(target, rows, np.ones((4, 2)))
        np.add.at(wanted, rows, 1.0)
        np.testing.assert_array_equal(target, wanted)


@pytest.mark.parametrize("shape", [(4, 2), (4, 0), (0, 2)])
def test_scatter_add_refuses_rows_out_of_range(shape):
    for row in (-shape[0] - 1, -shape[0] - 2, shape[0]):
        target = np.zeros(shape)
        for there in (CPU, PLAIN):
            with pytest.raises(IndexError, match="out of "):
                there.scatter_add(target, np.array([row]), np.ones((1, shape[1])))
        assert not target.any()


def test_scatter_add_on_the_device(backend):
    there = backends.get(backend.device)
    target = backend.array(np.zeros((3, 2), np.float32))
    index = backend.array(np.array([2, 0, 2]))
    there.scatter_add(target, index, backend.array(np.ones((3, 2), np.float32)))
    np.testing.assert_array_equal(backend.host(target), [[1, 1], [0, 0], [2, 2]])


# ---- squared norms ----


@given(
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=0, min_side=0), elements=st.floats(-9, 9)),
    FLOATS,
    st.integers(1, 3),
)
def test_squared_norms(a, dtype, copies):
    """Of each array by itself: one of ones stands between the copies."""
    arrays = [a.astype(dtype), np.ones(3, dtype)] * copies
    exact = math.fsum(float(v) ** 2 for v in a.astype(dtype).ravel())
    for there, rtol in ((PLAIN, 1e-14), (CPU, 8 * np.finfo(dtype).eps)):
        squares = there.squared_norms(arrays)
        assert (squares.shape, squares.dtype) == ((2 * copies,), np.float64)
        np.testing.assert_allclose(squares, [exact, 3] * copies, rtol=rtol)


@pytest.mark.parametrize("size", [1e30, 3e38, 1e19, 1.0, 1e-15, 1e-19, 1e-23, 1e-30, 1e-38])
def test_squared_norms_of_extremes(backend, size):
    """In float32 these squares are infinite or lost; here they are neither, and no warning."""
    there = backends.get(backend.device)
    host = np.array([3, -4], np.float32) * np.float32(size / 5)
    for parts in ([host], [host[:1], host[1:]], [host.reshape(2, 1).T]):
        squares = backend.host(there.squared_norms([backend.array(p) for p in parts]))
        for square, part in zip(squares, parts, strict=True):
            exact = math.fsum(float(v) ** 2 for v in part.ravel())
            # abs=0: by default everything below 1e-12 would pass for everything else down there.
            assert float(square) == pytest.approx(exact, rel=1e-6, abs=0)


def test_squared_norms_of_many_in_float16(backend):
    """A sum of squares in float16 stops growing when the next is less than its last bit."""
    there = backends.get(backend.device)
    host = np.full(20_000, 0.1, np.float16)
    exact = float(np.square(host.astype(np.float64)).sum())
    squares = there.squared_norms([backend.array(host)])
    assert float(backend.host(squares)[0]) == pytest.approx(exact, rel=1e-5)


def test_squared_norms_beside_what_is_not_finite(backend):
    there = backends.get(backend.device)
    for value in (math.inf, math.nan):
        arrays = [np.array([1, value], np.float32), np.ones(2, np.float32), np.zeros(0)]
        squares = there.squared_norms([backend.array(a) for a in arrays])
        np.testing.assert_equal(backend.host(squares), [value, 2, 0])


# ---- the rest of the contract ----


@given(seed=SEEDS, dtype=FLOATS, N=st.integers(0, 5), V=st.integers(1, 9), share=st.floats(0, 1))
def test_softmax_cross_entropy_kernel(seed, dtype, N, V, share):
    """The same rows on every backend, against logarithms of float64 softmax."""
    rng = np.random.default_rng(seed)
    logits = (3 * rng.standard_normal((N, V))).astype(dtype)
    targets, counted = rng.integers(0, V, N), rng.random(N) < 0.7
    e = np.exp(logits.astype(np.float64))
    p = e / e.sum(1, keepdims=True)
    exact = -(1 - share) * np.log(p[np.arange(N), targets]) - share * np.log(p).mean(1)
    fake = backends.get("fake")
    for there in (CPU, PLAIN, fake):
        args = [there.asarray(a, there.name) for a in (logits, targets, counted)]
        loss, softmax = (there.to_host(a) for a in there.softmax_cross_entropy(*args, share))
        assert loss.dtype == softmax.dtype == dtype
        np.testing.assert_allclose(softmax, p, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(loss, np.where(counted, exact, 0), rtol=1e-4, atol=1e-5)


def test_erf(backend):
    x = np.array([[-3.0, -0.5, 0.0], [1e-9, 2.0, 30.0]])
    exact = [math.erf(v) for v in x.ravel()]
    for dtype in (np.float64, np.float32):
        y = backends.get(backend.device).erf(backend.array(x.astype(dtype)))
        assert (y.shape, y.dtype) == (x.shape, dtype)
        np.testing.assert_allclose(backend.host(y).ravel(), exact, rtol=1e-6)


def test_check_index(backend):
    there = backends.get(backend.device)
    there.check_index(backend.array(np.array([0, 2])), 3, "op")
    there.check_index(backend.array(np.zeros(0, int)), 0, "op")
    there.check_index(backend.array(np.array([-3])), 3, "op", lowest=-3)
    for wrong in ([0, 3], [-1, 0]):
        with pytest.raises(IndexError, match=r"op: index (3|-1) is out of range; needed 0 <="):
            there.check_index(backend.array(np.array(wrong)), 3, "op")


def test_copies_are_copies(backend):
    there = backends.get(backend.device)
    host = np.arange(6.0).reshape(2, 3).T
    device = there.asarray(host, backend.device)
    host += 1
    back = there.to_host(device)
    np.testing.assert_array_equal(back + 1, host)
    assert device.flags.c_contiguous
    assert back.flags.c_contiguous
    back += 1
    np.testing.assert_array_equal(there.to_host(device), back - 1)
    assert there.device_of(device) in there.device_names()
    there.synchronize()
    assert isinstance(there.memory(), dict)


def test_a_backend_says_what_it_must():
    class Empty(Backend):
        name = "empty"

    for call in (
        lambda: Empty().asarray(np.ones(1), "empty"),
        lambda: Empty().to_host(None),
        lambda: Empty().erf(None),
    ):
        with pytest.raises(NotImplementedError, match="the empty backend"):
            call()


def test_unknown_arrays_are_refused():
    with pytest.raises(tg.DTypeError, match=r"builtins\.list"):
        backends.namespace([1.0])
    assert backends.of(np.float64(1)).name == "cpu"
    assert backends.of(np.ones(1).view(np.recarray)).name == "cpu"


# ---- the fake device keeps CuPy's rules ----


def fake(*values, dtype=np.float64):
    return xp.asarray(np.array(values, dtype))


def test_the_fake_device_overrides_only_what_it_must():
    own = {n for n, f in vars(FakeBackend).items() if inspect.isfunction(f)}
    assert own == MUST


def test_the_fake_device_does_not_mix_with_numpy():
    a, b = fake(1, 2), np.array([1.0, 2.0])
    for call in (
        lambda: a + b,
        lambda: b + a,
        lambda: a == b,
        lambda: xp.maximum(a, b),
        lambda: xp.where(b > 0, a, a),
        lambda: xp.concatenate([a, b]),
        lambda: np.exp(a),
        lambda: np.sum(a),
        lambda: np.asarray(a),
        lambda: np.concatenate([a, a]),
        lambda: np.add(b, 1, out=a),
        lambda: a * [1, 2],
        lambda: a[np.array([0])],
        lambda: a.__setitem__(0, b[0:1]),
        lambda: b.__setitem__(..., a),
        FakeArray,
    ):
        with pytest.raises(TypeError):
            call()
    assert not isinstance(a, np.ndarray)


def test_the_fake_device_gives_arrays_not_scalars():
    a = fake(1, 2)
    for result in (xp.sum(a), a.max(), a[0], a @ a, xp.argmax(a), -a[0], a.sum() * 2, xp.exp(a[0])):
        assert type(result) is FakeArray
        assert result.shape == ()
    assert type(xp.split(a, 2)[1]) is FakeArray
    a[0] += 5
    assert a.tolist() == [6, 2]


def test_the_fake_device_promotes_as_numpy_2_does():
    a = fake(1, 2, dtype=np.float32)
    assert (a * 2.0).dtype == xp.where(a > 1, a, 0).dtype == xp.maximum(a, 0).dtype == np.float32
    assert (a * np.float64(2)).dtype == (a * fake(2)[0]).dtype == np.float64


def test_the_fake_device_wraps_indices_and_draws_winners():
    a = fake(0, 1, 2)
    index = fake(3, -4, 5, dtype=np.int64)
    assert a[index].tolist() == [0, 2, 2]
    assert a[None, index, ...].shape == (1, 3)
    with pytest.raises(IndexError):
        a[3]
    winners = set()
    for _ in range(100):
        a[fake(0, 0, dtype=np.int64)] = fake(7, 8)
        winners.add(a[0].item())
    assert winners == {7, 8}
    xp.add.at(a, fake(2, 2, 5, dtype=np.int64), fake(1, 1, 1))
    assert a[2].item() == 5


def test_the_fake_device_counts_waiting():
    a = fake(1, 2)
    waits = [
        lambda: float(a[0]), lambda: int(a[0]), lambda: bool(a[0] > 0), lambda: a[0].item(),
        a.tolist, a.get, lambda: a[a > 1], lambda: xp.nonzero(a),
        lambda: [0, 1][fake(1, dtype=np.int64)[0]], lambda: backends.get("fake").to_host(a),
    ]  # fmt: skip
    for wait in waits:
        with pytest.raises(AssertionError, match="1 host sync"), sync_budget(0):
            wait()
    with sync_budget(0):
        xp.where(a > 1, a, 0).sum() + a[0] * 2
        a[0] = 3


def test_the_fake_device_lacks_what_cupy_lacks():
    """The whole of its list is held against CuPy's own by `make test-cupy`."""
    for name in ("errstate", "unstack", "insert", "block", "vecdot", "ndenumerate"):
        assert not hasattr(xp, name)


def test_the_fake_device_never_warns():
    a = fake(0.0, -1.0)
    assert np.isnan((xp.log(a) / a).tolist()[1])
