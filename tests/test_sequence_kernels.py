"""The time loop's CUDA kernels run on a CPU, inside the ops that use them, against the loops there.

`tests/cuda_on_cpu` runs the very text that a GPU would, and `backends/window.py` plans the very
launches.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from contextlib import contextmanager

import numpy as np
import pytest

import tinygrad_rnn as tg
from tests import cuda_on_cpu
from tests.cuda_on_cpu.memory import Poisoned
from tinygrad_rnn.backends import plan as plans
from tinygrad_rnn.backends import window
from tinygrad_rnn.backends.kernels import GATES, VARIANTS
from tinygrad_rnn.backends.numpy_backend import NumpyBackend
from tinygrad_rnn.ops.gru import gru
from tinygrad_rnn.ops.lstm import lstm
from tinygrad_rnn.ops.rnn import rnn

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="no C++ compiler here")

OPS = {"rnn": rnn, "gru": gru, "lstm": lstm}
KERNEL_WAYS = ["step", "persistent"]


@dataclasses.dataclass
class CpuDevice:
    """A GPU of `processors` multiprocessors, as `backends/window.py` sees one."""

    processors: int = 132
    shared_memory: int = 227 * 1024
    tf32: bool = False
    seed: int = 0
    xp = Poisoned()

    def __post_init__(self):
        self.launched = []

    def here(self):
        return contextlib.nullcontext()

    def arguments(self, *values):
        return tuple(np.int32(v) if isinstance(v, int) else v for v in values)

    def launcher(self, variant, name, blocks, shared, *, together):
        assert not together or blocks <= self.processors

        def launch(arguments):
            self.launched.append((name, blocks))
            cuda_on_cpu.launch(
                variant, name, blocks, plans.THREADS, arguments,
                shared_memory=shared, cooperative=together, seed=self.seed,
            )  # fmt: skip

        return launch

    def multiplier(self, a, b, out, *, add, transposed):
        b = b.T if transposed else b

        def multiply(t):
            to = out[t] if out.ndim == 3 else out
            to[...] = to + a[t] @ b if add else a[t] @ b

        return multiply


def inputs(cell, T, B, I, H, dtype, *, seed=0, bias=True):
    """x, first states, weights, biases: standard normal, weights smaller."""
    rng = np.random.default_rng(seed)
    G, starts = GATES[cell] * H, 2 if cell == "lstm" else 1
    shapes = [(T, B, I), *[(B, H)] * starts, (G, I), (G, H), *[(G,)] * (2 * bias)]
    arrays = [rng.standard_normal(s) / (1 if len(s) == 3 else 2) for s in shapes]
    return [(a / np.sqrt(a.shape[-1]) if a.ndim == 2 else a).astype(dtype) for a in arrays]


def options(cell, T, B, *, ended=False, seed=0):
    found = {"nonlinearity": ("tanh", "relu")[seed % 2]} if cell == "rnn" else {}
    if ended:
        lengths = np.random.default_rng(seed).integers(1, T + 1, B)
        found["ended"] = np.arange(T)[:, None] >= lengths
    return found


def run(op, arrays, through=lambda tensor: tensor, **kept):
    """The states, and the gradient of every input for a gradient of ones that differ.

    What goes in and what comes out goes `through` a function that changes no number.
    """
    tensors = [tg.tensor(a, requires_grad=True) for a in arrays]
    padded = [*map(through, tensors), *[None] * (len(op.inputs) - len(tensors))]
    states = through(op(*padded, **kept))
    weight = np.random.default_rng(7).standard_normal(states.shape).astype(states.dtype)
    (states * tg.tensor(weight)).sum().backward()
    return [states.detach().numpy(), *(t.grad for t in tensors)]


@contextmanager
def windows_on(monkeypatch, device):
    """Within it, the CPU's backend has windows of its own, on `device`."""

    def own(self, cell, impl, like, B, H, *, relu):
        return window.choose(device, cell, impl, like.dtype, B, H, relu=relu)

    with monkeypatch.context() as patch:
        patch.setattr(NumpyBackend, "window", own)
        yield


def run_on(monkeypatch, device, cell, way, arrays, **kept):
    with windows_on(monkeypatch, device):
        return run(OPS[cell], arrays, impl=way, **kept)


def compare(monkeypatch, cell, way, device, arrays, tolerance, **kept):
    wanted = run(OPS[cell], arrays, **kept)
    found = run_on(monkeypatch, device, cell, way, arrays, **kept)
    names = ["states", *OPS[cell].inputs]
    for name, a, b in zip(names, found, wanted, strict=False):
        error = np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)
        assert error < tolerance, f"{name}: {error}"


# ---- every way is the loop's equal ----

# (T, B, I, H): one row and one step; no multiple of anything; several blocks of units and of rows.
SIZES = [(1, 1, 1, 1), (3, 5, 2, 7), (4, 9, 3, 20), (3, 18, 5, 36)]


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cell", OPS)
def test_the_fused_way_in_both_precisions(monkeypatch, cell, size, ended):
    T, B, I, H = size
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 2e-5)):
        arrays = inputs(cell, T, B, I, H, dtype)
        kept = options(cell, T, B, ended=ended, seed=T)
        compare(monkeypatch, cell, "fused", CpuDevice(), arrays, tolerance, **kept)


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cell", OPS)
@pytest.mark.parametrize("way", KERNEL_WAYS)
def test_a_kernel_of_our_own(monkeypatch, way, cell, size, ended):
    T, B, I, H = size
    arrays = inputs(cell, T, B, I, H, np.float32)
    kept = options(cell, T, B, ended=ended, seed=T)
    compare(monkeypatch, cell, way, CpuDevice(seed=T), arrays, 2e-5, **kept)


@pytest.mark.parametrize("cell", OPS)
@pytest.mark.parametrize("way", KERNEL_WAYS)
def test_on_tensor_cores(monkeypatch, way, cell):
    """TF32 has 10 bits of mantissa: the error of a product is near 2^-11."""
    arrays = inputs(cell, 4, 9, 3, 20, np.float32)
    device = CpuDevice(tf32=True)
    compare(monkeypatch, cell, way, device, arrays, 2e-3, **options(cell, 4, 9))
    with pytest.raises(AssertionError):  # it was TF32 indeed
        compare(monkeypatch, cell, way, device, arrays, 1e-6, **options(cell, 4, 9))


@pytest.mark.parametrize("H", [7, 20])
def test_a_tensor_core_is_given_rounded_numbers(monkeypatch, H):
    """It ignores what TF32 has no bits for, and 1 + 0.9 * 2^-10 is nearer to 1 + 2^-10 than to 1.

    States, weights and slopes of a linear step, each off by a tenth of 2^-10 and not by nine.
    """
    number = np.float32(1 + 0.9 * 2**-10)
    h0, w_hh = (tg.tensor(np.full((n, H), number), requires_grad=True) for n in (5, H))
    x, w_ih = (tg.tensor(np.zeros(shape, np.float32)) for shape in ((1, 5, 2), (H, 2)))
    with windows_on(monkeypatch, CpuDevice(tf32=True)):
        states = rnn(x, h0, w_ih, w_hh, None, None, nonlinearity="relu", impl="step")
        (states[1] * float(number)).sum().backward()
    for found in (states.detach().numpy()[1], h0.grad):
        np.testing.assert_allclose(found, H * number**2, rtol=0.3 * 2**-10)


@pytest.mark.parametrize("cell", OPS)
def test_without_biases(monkeypatch, cell):
    arrays = inputs(cell, 3, 5, 2, 7, np.float32, bias=False)
    for way in ("fused", *KERNEL_WAYS):
        compare(monkeypatch, cell, way, CpuDevice(), arrays, 2e-5, **options(cell, 3, 5))


@pytest.mark.parametrize("cell", OPS)
def test_a_batch_too_large_for_the_chip_takes_turns(monkeypatch, cell):
    arrays = inputs(cell, 3, 70, 2, 20, np.float32)
    device = CpuDevice(processors=2)
    compare(monkeypatch, cell, "persistent", device, arrays, 2e-5, **options(cell, 3, 70))
    assert max(blocks for _, blocks in device.launched) == 2
    assert len(device.launched) == 2 * plans.plan(cell, 70, 20, device).launches > 2


def test_ids_and_a_table(monkeypatch):
    arrays = inputs("lstm", 4, 9, 6, 20, np.float32)
    arrays[0] = arrays[0][:, 0].repeat(2, 0)[:7]  # a table (V, I)
    ids = np.random.default_rng(0).integers(0, 6, (4, 9))
    for way in ("fused", *KERNEL_WAYS):
        compare(monkeypatch, "lstm", way, CpuDevice(), arrays, 2e-5, ids=ids)


@pytest.mark.parametrize("cell", OPS)
def test_views_are_made_whole(monkeypatch, cell):
    """Weights, states and gradients with gaps between their numbers: a kernel knows no strides."""

    def with_gaps(tensor):
        return tg.stack([tensor, tensor], -1)[..., 0]

    arrays = inputs(cell, 3, 5, 2, 7, np.float32)
    kept = options(cell, 3, 5, ended=True)
    kept["ended"] = np.asfortranarray(kept["ended"])
    for way in ("fused", *KERNEL_WAYS):
        compare(monkeypatch, cell, way, CpuDevice(), arrays, 2e-5, through=with_gaps, **kept)


@pytest.mark.parametrize("cell", OPS)
def test_a_nan_is_not_lost(monkeypatch, cell):
    """It spreads over its row and no further; a relu made of a comparison would turn it into 0."""
    arrays = inputs(cell, 3, 5, 2, 7, np.float32)
    arrays[0][1, 2] = np.nan
    for way in ("fused", *KERNEL_WAYS):
        states, *_ = run_on(
            monkeypatch, CpuDevice(), cell, way, arrays, **options(cell, 3, 5, seed=1)
        )
        lost = np.zeros(states.shape, bool)
        lost[2:, 2] = True
        np.testing.assert_array_equal(np.isnan(states), lost)


@pytest.mark.parametrize(("T", "B"), [(0, 5), (3, 0)])
def test_an_empty_window(monkeypatch, T, B):
    for cell in OPS:
        arrays = inputs(cell, T, B, 2, 7, np.float32)
        for way in ("fused", *KERNEL_WAYS):
            compare(monkeypatch, cell, way, CpuDevice(), arrays, 2e-5, **options(cell, T, B))


@pytest.mark.parametrize("cell", OPS)
def test_a_limit_of_gradients_is_kept_or_refused(monkeypatch, cell):
    arrays = inputs(cell, 3, 5, 2, 7, np.float32)
    kept = options(cell, 3, 5) | {"limit": 0.1}
    for way in ("auto", "fused"):
        compare(monkeypatch, cell, way, CpuDevice(), arrays, 1e-6, **kept)
    for way in KERNEL_WAYS:
        with pytest.raises(tg.DataError, match=f"impl='{way}' .*gradients"):
            run_on(monkeypatch, CpuDevice(), cell, way, arrays, **kept)


@pytest.mark.parametrize("cell", OPS)
def test_mixed_dtypes_go_through_the_loop_or_are_refused(monkeypatch, cell):
    """A kernel reads bytes, and asks no array what they mean."""
    arrays = inputs(cell, 3, 5, 2, 7, np.float32)
    arrays[-1] = arrays[-1].astype(np.float64)  # a bias
    kept = options(cell, 3, 5)
    for way in ("auto", "fused"):
        compare(monkeypatch, cell, way, CpuDevice(), arrays, 1e-6, **kept)
    for way in KERNEL_WAYS:
        with pytest.raises(tg.DataError, match=f"impl='{way}' .*dtype"):
            run_on(monkeypatch, CpuDevice(), cell, way, arrays, **kept)


SEQUENCES = [v for v in VARIANTS if v.file == "sequence"]


@pytest.mark.parametrize(
    "variant", SEQUENCES, ids=lambda v: " ".join(f"{n}={x}" for n, x in v.macros)
)
def test_every_variant(monkeypatch, variant):
    """Two blocks of units, and as many rows of the batch as the variant can have, less one."""
    macros = dict(variant.macros)
    cell = next(name for name, gates in GATES.items() if gates == macros["CELL"])
    units, tf32 = macros["UNITS"], bool(macros["TF32"])
    rows = min(32, macros["CELLS"] * plans.THREADS // units)
    # The layer has units for two blocks only: of the columns that the variant has code for, most
    # are padding, and the last warps multiply zeros.
    plan = plans.layout(cell, units, macros["KW"], macros["CELLS"], 2, rows, 1, rows, tf32=tf32)
    assert plan.variant == variant
    monkeypatch.setattr(window, "plan", lambda *_: plan)
    arrays = inputs(cell, 2, rows - 1, 2, units + 3, np.float32)
    tolerance = 2e-3 if tf32 else 2e-5
    kept = options(cell, 2, rows - 1)
    compare(monkeypatch, cell, "persistent", CpuDevice(tf32=tf32), arrays, tolerance, **kept)


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize(("cell", "H"), [("lstm", 250), ("gru", 260), ("rnn", 516)])
def test_columns_of_all_warps(monkeypatch, cell, H, tf32):
    """Every warp has columns of W_hh to multiply, and the last of them are padding.

    There are more columns, and more blocks that send something, than are loaded at the same time.
    """
    arrays = inputs(cell, 2, 8, 2, H, np.float32)
    tolerance, kept = 2e-3 if tf32 else 2e-5, options(cell, 2, 8)
    compare(monkeypatch, cell, "persistent", CpuDevice(tf32=tf32), arrays, tolerance, **kept)


def test_the_order_of_threads_does_not_matter(monkeypatch):
    """For other seeds the blocks and threads take turns in another order: not a bit changes."""
    arrays = inputs("lstm", 4, 9, 3, 36, np.float32)
    compare(monkeypatch, "lstm", "persistent", CpuDevice(), arrays, 2e-5)  # and not NaN every time
    found = []
    for seed in range(4):
        device = CpuDevice(seed=seed)
        found.append(run_on(monkeypatch, device, "lstm", "persistent", arrays))
    for others in found[1:]:
        for a, b in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(a, b)


# ---- what is chosen, and what is refused ----


def test_the_automatic_choice():
    device = CpuDevice()

    def way(dtype, B, H, cell="lstm"):
        made = window.choose(device, cell, "auto", np.dtype(dtype), B, H)
        return type(made).__name__ if made is not None else None

    assert way(np.float32, 64, 512) == way(np.float32, 32, 128) == "KernelWindow"
    assert way(np.float32, 128, 1024) == way(np.float64, 64, 512) == "FusedWindow"
    assert way(np.float32, 8, 4096) == way(np.float32, 8, 600, "gru") == "FusedWindow"
    assert way(np.float16, 8, 16) is None


def test_a_way_that_is_not_to_be_had_is_refused():
    device = CpuDevice()
    with pytest.raises(
        tg.DataError, match=r"impl='persistent' is not possible here: .*4096 hidden"
    ):
        window.choose(device, "lstm", "persistent", np.dtype(np.float32), 8, 4096)
    with pytest.raises(tg.DataError, match="not for float16"):
        window.choose(device, "lstm", "step", np.dtype(np.float16), 8, 16)
    layer = tg.nn.LSTM(3, 4)
    x = np.zeros((2, 5, 3), np.float32)
    layer.impl = "persistent"
    with pytest.raises(tg.DataError, match="which the cpu backend does not have"):
        layer(x)
    layer.impl = "quick"
    with pytest.raises(tg.DataError, match="impl is 'quick', needed one of"):
        layer(x)


@pytest.mark.parametrize("room", [227, 99, 48])
def test_plans_fit_the_chip(room):
    """Also one with less shared memory: then slices are narrower, or there is no plan."""
    device = CpuDevice(shared_memory=room * 1024)
    for cell, B, H in itertools.product(OPS, (1, 7, 64, 200, 600), (1, 100, 512, 1000)):
        made = plans.plan(cell, B, H, device)
        if made is not None:
            assert made.blocks <= device.processors
            assert made.launches * made.slices * made.slice_rows >= B
            assert made.shared_forward <= device.shared_memory
