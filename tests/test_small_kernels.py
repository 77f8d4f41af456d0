"""The small kernels and their launchers, run on NumPy arrays: `tests/cuda_on_cpu` is the device.

`OnCpu` is a backend whose methods are those of a GPU, down to the last argument of each launch, and
whose arrays are NumPy's. What they compute is held against the plain bodies of the contract.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tests import cuda_on_cpu, domains
from tests.cuda_on_cpu.memory import Poisoned
from tinygrad_rnn import backends, optim
from tinygrad_rnn.backends import cupy_launch, kernels
from tinygrad_rnn.backends.base import Backend
from tinygrad_rnn.backends.cupy_launch import SmallKernels
from tinygrad_rnn.backends.cupy_update import Kernels, UpdateKernels
from tinygrad_rnn.backends.numpy_backend import NumpyBackend
from tinygrad_rnn.nn.utils import clip_report_
from tinygrad_rnn.testing.conformance import PLAIN

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="no C++ compiler")
FLOATS = st.sampled_from([np.float32, np.float64])
SEEDS = st.integers(0, 2**32 - 1)
REALS = pytest.mark.parametrize("dtype", [np.float32, np.float64])


class OnCpu(SmallKernels, NumpyBackend):
    """The kernels, on a CPU, with a new order of the threads at every launch."""

    xp = Poisoned()

    def __init__(self):
        super().__init__()
        self.launched = []

    def kernel(self, file, name, **macros):
        variant = kernels.find(file, **macros)

        def launch(grid, block, arguments, shared_mem=0):
            # The struct of addresses is a value; everything else with a dtype is an array.
            given = [a[()] if a.dtype.kind == "V" else a for a in arguments]
            seed = len(self.launched)
            self.launched.append(name)
            cuda_on_cpu.launch(
                variant, name, grid, block, given, shared_memory=shared_mem, seed=seed
            )

        return launch

    def on(self, array):
        return nullcontext()

    def address(self, array):
        return array.ctypes.data

    def stream(self):
        return 0


GPU = OnCpu()


def near(dtype):
    """A few units in the last place: the same formula, in another order of operations."""
    return {"rtol": 64 * np.finfo(dtype).eps, "atol": 64 * np.finfo(dtype).eps}


def drawn(seed, dtype, *shapes):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(s)).astype(dtype) for s in shapes]


# ---- the contract ----


def test_the_kernels_keep_the_contract():
    """Every kernel against the body it hides, in sizes from 0 to 7."""
    GPU.launched.clear()
    tg.testing.check_backend(GPU, max_examples=15)
    every = {name for names in kernels.POINTWISE.values() for name in names}
    assert set(GPU.launched) == every


def test_all_that_is_overridden_is_part_of_the_contract():
    own = {"kernel", "on", "address", "stream"}
    classes = (SmallKernels, UpdateKernels, Kernels)
    names = {n for c in classes for n, f in vars(c).items() if callable(f)}
    public = {n for n in names if not n.startswith("_")}
    assert public - own <= vars(Backend).keys()


# ---- loss.cu ----


@REALS
@pytest.mark.parametrize("shape", [(1, 1), (9, 31), (3, 33), (17, 1024), (2, 1025), (3, 2600)])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_softmax_cross_entropy(dtype, shape, smoothing):
    """Rows of a warp and of a block, the last block not full, and ignored targets of -100."""
    rows, columns = shape
    (logits,) = drawn(0, dtype, shape)
    logits *= 3
    rng = np.random.default_rng(1)
    counted = rng.random(rows) < 0.8
    targets = np.where(counted, rng.integers(0, columns, rows), -100)
    given_rows = (logits, targets, counted)
    seen = GPU.softmax_cross_entropy(*given_rows, smoothing)
    wanted = PLAIN.softmax_cross_entropy(*given_rows, smoothing)
    for a, b in zip(seen, wanted, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, **near(dtype))
    for factor in drawn(2, dtype, (1,), (rows,)):
        arguments = (wanted[1], targets, counted, factor, smoothing)
        grad = GPU.softmax_cross_entropy_backward(*arguments)
        plain = PLAIN.softmax_cross_entropy_backward(*arguments)
        assert grad.dtype == plain.dtype == dtype
        np.testing.assert_allclose(grad, plain, **near(dtype))


def test_softmax_cross_entropy_of_what_is_not_finite():
    """NaN spreads over its row and no further; -inf is a class that cannot be."""
    logits = np.zeros((4, 40), np.float32)
    logits[0, 35], logits[1, 3], logits[2] = np.nan, -np.inf, -np.inf
    arguments = (logits, np.array([0, 3, 0, 5]), np.ones(4, bool), 0.0)
    with np.errstate(all="ignore"):
        wanted = PLAIN.softmax_cross_entropy(*arguments)
    for a, b in zip(GPU.softmax_cross_entropy(*arguments), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("rows", [0, 5])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_gradient_of_the_loss_on_the_kernels(monkeypatch, dtype, rows, reduction):
    """The whole op, once on the kernels and once on NumPy; float16 has no kernel and works."""
    grads = []
    for there in (GPU, PLAIN):
        monkeypatch.setitem(backends._by_type, np.ndarray, there)
        logits = tg.tensor(drawn(3, dtype, (rows, 7))[0], requires_grad=True)
        targets = np.arange(rows) % 7
        loss = tg.nn.functional.cross_entropy(
            logits, targets, ignore_index=2, reduction=reduction, label_smoothing=0.1
        )
        loss.sum().backward()
        grads.append(logits.grad)
    assert grads[0].dtype == dtype
    np.testing.assert_allclose(*grads, **near(dtype))


# ---- scatter.cu ----


@st.composite
def scatters(draw):
    shape = draw(domains.shapes())
    return shape, draw(domains.indices(shape))


@given(case=scatters(), seed=SEEDS, dtype=st.sampled_from([np.float16, np.float32, np.int64]))
def test_scatter_add_takes_every_form_of_index(case, seed, dtype):
    """Against NumPy's add.at, in whole numbers, so that the order of adding cannot show."""
    shape, index = case
    rng = np.random.default_rng(seed)
    start = rng.integers(-9, 9, shape).astype(dtype)
    values = rng.integers(-9, 9, start[index].shape).astype(dtype)
    wanted, target = start.copy(), start.copy()
    np.add.at(wanted, index, values)
    GPU.scatter_add(target, index, values)
    np.testing.assert_array_equal(target, wanted)


def test_scatter_add_by_several_numbers_that_count_from_the_end():
    """-1 is the last of its own axis, not the one before the first."""
    index = (np.array([0, 1, -1]), np.array([-1, 0, -2]))
    target, wanted = np.zeros((2, 3)), np.zeros((2, 3))
    GPU.scatter_add(target, index, np.array([1.0, 2, 4]))
    np.add.at(wanted, index, [1, 2, 4])
    np.testing.assert_array_equal(target, wanted)


@REALS
@pytest.mark.parametrize(
    ("count", "size", "width"), [(1, 1, 1), (700, 5, 70), (300, 1000, 33), (513, 513, 1)]
)
def test_scatter_add_of_rows(dtype, count, size, width):
    """Many numbers per row and few, negative ones too, into every second row of an array."""
    (values,) = drawn(4, dtype, (count, width))
    rows = np.random.default_rng(5).integers(-size, size, count)
    wide = np.ones((2 * size, width), dtype)
    wanted = np.ones((size, width))
    np.add.at(wanted, rows, values.astype(np.float64))
    GPU.scatter_add(wide[::2], rows, values)
    np.testing.assert_allclose(wide[::2], wanted, rtol=1e-5, atol=count * np.finfo(dtype).eps)
    assert (wide[1::2] == 1).all()


def test_a_block_with_more_columns_than_it_is_wide():
    """Rows of two million columns are more blocks than a grid has; here a grid of one is given."""
    (values,) = drawn(17, np.float32, (50, 100))
    rows = np.sort(np.random.default_rng(18).integers(0, 3, 50)).astype(np.int32)
    wanted = np.zeros((3, 100))
    np.add.at(wanted, rows, values.astype(np.float64))
    for seed in range(5):
        target, order = np.zeros((3, 100), np.float32), np.arange(50, dtype=np.int32)
        sizes = [np.int32(n) for n in (50, 3, 100)]
        cuda_on_cpu.launch(
            kernels.find("scatter", REAL="float"),
            "add_rows",
            (3, 1),
            (32, 8),
            [target, rows, order, values, *sizes],
            shared_memory=kernels.POINTWISE_ROOM,
            seed=seed,
        )
        np.testing.assert_allclose(target, wanted, rtol=1e-5, atol=1e-5)


def test_sums_do_not_depend_on_the_order_of_the_threads():
    """Every launch draws its own: the same bits come out, from numbers that round."""
    values, matrix = drawn(6, np.float32, (999, 40), (3, 999))
    values *= np.float32(10.0) ** np.random.default_rng(7).integers(-6, 6, (999, 1))
    rows = np.random.default_rng(8).integers(0, 4, 999)
    seen = []
    for _ in range(5):
        target = np.zeros((4, 40), np.float32)
        GPU.scatter_add(target, rows, values)
        sums = GPU.sum_columns(matrix, rows, 4)
        squares, norm, _ = GPU.clip_factor([values, matrix], 1.0)
        loss, _ = GPU.softmax_cross_entropy(values, rows, rows < 3, 0.1)
        seen.append([a.tobytes() for a in (target, sums, squares, norm, loss)])
    assert all(s == seen[0] for s in seen)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint64])
def test_scatter_add_of_rows_numbered_in_few_bits(dtype):
    """200 rows: the number of the last does not fit into an int8, negative ones count from it."""
    rows = np.array([1, 100, 1, 0], dtype)
    if np.dtype(dtype).kind == "i":
        rows[3] = -128
    target, wanted = np.zeros((200, 2)), np.zeros((200, 2))
    GPU.scatter_add(target, rows, np.ones((4, 2)))
    np.add.at(wanted, rows, 1.0)
    np.testing.assert_array_equal(target, wanted)


@pytest.mark.parametrize("most", [0, 16384])
@given(rows=st.lists(st.integers(-6, 5), max_size=600))
def test_row_numbers_are_sorted_and_equal_ones_stay_in_order(most, rows):
    """By comparing each with each, and, for many, by the library's stable sort."""
    numbers = np.array(rows, np.int64)
    if not numbers.size:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cupy_launch, "RANKED", most)
        found, order = GPU._sorted(numbers, 6)
    wanted = np.argsort(numbers % 6, kind="stable")
    np.testing.assert_array_equal(order, wanted)
    np.testing.assert_array_equal(found, (numbers % 6)[wanted])
    assert found.dtype == order.dtype == np.int32


@REALS
@pytest.mark.parametrize(("height", "count", "size"), [(3, 400, 7), (5, 40, 300), (1, 1, 1)])
def test_take_and_sum_columns(dtype, height, count, size):
    matrix, summed = drawn(9, dtype, (height, size), (height, count))
    index = np.random.default_rng(10).integers(0, size, count).astype(np.uint16)
    out = np.full((1, height, count), np.nan, dtype)
    GPU.take_columns(matrix.T.copy().T, index[None], out)
    np.testing.assert_array_equal(out[0], matrix[:, index])
    total = GPU.sum_columns(summed, index, size)
    wanted = np.zeros((size, height))
    np.add.at(wanted, index, summed.T.astype(np.float64))
    np.testing.assert_allclose(total, wanted.T, rtol=1e-5, atol=count * np.finfo(dtype).eps)


def test_the_columns_of_all_steps_in_one_launch():
    (matrix,) = drawn(11, np.float32, (6, 9))
    index = np.random.default_rng(12).integers(0, 9, (4, 5))
    out = np.full((4, 6, 5), np.nan, np.float32)
    GPU.launched.clear()
    GPU.take_columns(matrix, index, out)
    np.testing.assert_array_equal(out, matrix[:, index].transpose(1, 0, 2))
    assert GPU.launched == ["take_columns"]


def test_with_atomics_where_asked_for():
    """Not deterministic, by choice: the library's own way, and no kernel."""
    there = OnCpu()
    there.deterministic = False
    target = np.zeros((3, 2), np.float32)
    there.scatter_add(target, np.array([2, 2]), np.ones((2, 2), np.float32))
    np.testing.assert_array_equal(target[:, 0], [0, 0, 2])
    assert not there.launched


# ---- update.cu ----

# A chunk is 4096 numbers; more than 48 arrays take a second launch.
SIZES = [(3, 5), (), (4096,), (4097,), (0,), (3 * 4096 + 1,), *[(2,)] * 60]


def updated(dtype, seed=13):
    return [drawn(seed + i, dtype, *[shape] * 4) for i, shape in enumerate(SIZES)]


@REALS
def test_squares_norm_and_factor(dtype):
    arrays = [g for g, *_ in updated(dtype)]
    arrays[-1:] = drawn(0, dtype, (40 * 4096 + 5,))  # more chunks than a warp has lanes
    GPU.launched.clear()
    for limit in (1.0, 1e9, math.inf):
        seen = GPU.clip_factor(arrays, limit)
        for a, b in zip(seen, PLAIN.clip_factor(arrays, limit), strict=True):
            assert (a.shape, a.dtype) == (b.shape, np.float64)
            np.testing.assert_allclose(a, b, rtol=1e-14)
        assert (float(seen[2]) == 1.0) == (limit > 1)
    assert GPU.launched == ["sum_squares"] * 2 * 3
    np.testing.assert_array_equal(GPU.squared_norms(arrays), seen[0])
    assert all(not counter.any() for counter in GPU._counters.values())


def test_each_stream_counts_for_itself():
    """Launches of two streams may run at the same time: each counts the blocks that are done."""
    there = OnCpu()
    for stream in (0, 1, 0):
        there.stream = lambda stream=stream: stream
        np.testing.assert_array_equal(there.squared_norms([np.ones(5000)]), [5000])
    assert len(there._counters) == 2


def test_squares_of_mixed_kinds_and_of_what_is_not_finite():
    """Each kind has a launch, and the last of them the norm; float16 counts as float32."""
    arrays = [np.ones(3, np.float16), np.ones((2, 3)).T, np.zeros(0, np.float32), np.full(5, 2.0)]
    squares, norm, factor = GPU.clip_factor(arrays, 29**0.5)
    np.testing.assert_array_equal(squares, [3, 6, 0, 20])
    assert (float(norm), float(factor)) == (29**0.5, 1)
    for bad in (np.inf, np.nan):
        arrays[2] = np.array([1, bad], np.float32)
        with np.errstate(all="ignore"):
            for limit in (1.0, math.inf):
                for a, b in zip(
                    GPU.clip_factor(arrays, limit), PLAIN.clip_factor(arrays, limit), strict=True
                ):
                    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("size", [3e38, 1e19, 1.0, 1e-19, 1e-30, 1e-38, 1e-42, 0.0])
def test_squares_of_extremes(size):
    """In float32 these squares are infinite or lost, and the smallest numbers are subnormal."""
    host = (np.array([3, -4]) * size / 5).astype(np.float32)
    exact = math.fsum(float(v) ** 2 for v in host)
    assert float(GPU.squared_norms([host])[0]) == pytest.approx(exact, rel=1e-15, abs=0)


@REALS
@pytest.mark.parametrize("factor", [0.25, 1.0, math.nan])
def test_scale_all(dtype, factor):
    """Where the factor is 1, bit for bit what it was; into arrays with gaps, too."""
    arrays = [g for g, *_ in updated(dtype)]
    arrays += [np.ones((4, 6), dtype)[:, ::2], np.ones(3, np.float16)]
    before = [a.copy() for a in arrays]
    GPU.launched.clear()
    GPU.scale_all(arrays, np.asarray(factor))
    PLAIN.scale_all(before, np.asarray(factor))
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert GPU.launched == ["scale"] * 2


def test_an_average_that_forgets_all_is_the_new_gradient():
    """Exactly, beside a large average, in which a small gradient would be lost."""
    x, g, m, v = (np.full(3, value, np.float32) for value in (1, 1e-8, 1e8, 1))
    options = {"step_size": 0.1, "eps": 1e-8, "weight_decay": 0, "shrink": 1}
    GPU.adam_step([(x, g, m, v)], betas=(0.0, 0.9), **options)
    np.testing.assert_array_equal(m, g)


@REALS
@pytest.mark.parametrize("beta1", [0.9, 0.5])
@pytest.mark.parametrize(("weight_decay", "shrink"), [(0, 1), (0.1, 1), (0, 0.99)])
def test_adam_step(dtype, beta1, weight_decay, shrink):
    here, there = updated(dtype), updated(dtype)
    for *_, v in here + there:
        np.abs(v, out=v)
    here[0] = [a.T for a in here[0]]  # not contiguous: the plain body
    there[0] = [a.T for a in there[0]]
    options = {
        "betas": (beta1, 0.999),
        "step_size": 0.01,
        "eps": 1e-8,
        "weight_decay": weight_decay,
        "shrink": shrink,
    }
    GPU.launched.clear()
    GPU.adam_step(here, **options)
    PLAIN.adam_step(there, **options)
    for mine, theirs in zip(here, there, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, **near(dtype))
    assert GPU.launched == ["adam"] * 2


@pytest.mark.parametrize(
    "make",
    [
        optim.Adam,
        optim.AdamW,
        lambda p: optim.Adam(p, betas=(0.4, 0.9), weight_decay=0.1, eps=1e-3),
    ],
)
@pytest.mark.parametrize("fused", [GPU, PLAIN], ids=["kernels", "body"])
def test_adam_at_once_is_adam_one_by_one(monkeypatch, make, fused):
    """The formula stands in optimizers.py, in base.py and in update.cu: three times the same.

    One parameter misses a step, so that two step counts are about; one is in half precision.
    """
    runs = []
    for there in (fused, PLAIN):
        monkeypatch.setitem(backends._by_type, np.ndarray, there)
        monkeypatch.setattr(there, "fused_updates", there is fused and not runs)
        params = [
            tg.tensor(a, requires_grad=True)
            for a in (*drawn(14, np.float32, (3, 4), ()), *drawn(15, np.float64, (5,)))
        ]
        params.append(tg.tensor(np.ones(3, np.float16), requires_grad=True))
        optimizer = make(params)
        for step in range(4):
            for k, p in enumerate(params):
                missing = (k, step) == (1, 1)
                p.grad = None if missing else drawn(10 * step + k, p.dtype, p.shape)[0]
            optimizer.step()
        saved = optimizer.state_dict()["state"]
        slots = [saved[k][name] for k in saved for name in ("step", "exp_avg", "exp_avg_sq")]
        runs.append([*(p.data for p in params), *slots])
    for a, b in zip(*runs, strict=True):
        dtype = getattr(a, "dtype", np.dtype(np.float64))
        np.testing.assert_allclose(a, b, **near(dtype))


def test_a_formula_of_ones_own_is_not_passed_over(monkeypatch):
    class Still(optim.Adam):
        def update(self, x, g, state, group):
            state["step"] = state.get("step", 0) + 1

    monkeypatch.setitem(backends._by_type, np.ndarray, GPU)
    p = tg.tensor(np.ones(3), requires_grad=True)
    p.grad = np.ones(3)
    Still([p]).step()
    np.testing.assert_array_equal(p.data, np.ones(3))


def test_clipping_and_adam_are_three_launches(monkeypatch):
    monkeypatch.setitem(backends._by_type, np.ndarray, GPU)
    params = [tg.tensor(a, requires_grad=True) for a in drawn(16, np.float32, *[(9, 5), (3,)] * 9)]
    for p in params:
        p.grad = np.ones(p.shape, np.float32)
    optimizer = optim.Adam(params)
    GPU.launched.clear()
    report = clip_report_(params, 1.0, error_if_nonfinite=False)
    optimizer.step()
    assert GPU.launched == ["sum_squares", "scale", "adam"]
    length = math.sqrt(9 * 48)
    assert float(report.scale.numpy()) == pytest.approx(1 / (length + 1e-6))
    np.testing.assert_allclose(params[0].grad, 1 / length, rtol=1e-6)
