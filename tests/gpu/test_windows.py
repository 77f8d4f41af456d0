"""The time loop's kernels on a GPU: the CPU's numbers, every element written, equal bits twice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tinygrad_rnn as tg
from tests.test_sequence_kernels import GATES, OPS, inputs, options
from tinygrad_rnn.backends import cuda_settings
from tinygrad_rnn.backends import plan as plans

WAYS = ["fused", "step", "persistent"]


@pytest.fixture
def cp():
    return pytest.importorskip("cupy")


@pytest.fixture
def tf32():
    """Sets the switch; whatever a test leaves it at, it is off again behind it."""
    yield lambda value: setattr(cuda_settings, "tf32", value)
    cuda_settings.tf32 = False


def poison(cp):
    """Fill the memory that the next arrays will get with NaN: what is not written shows."""
    blocks = [cp.full(n, np.nan, np.float32) for n in (1 << 24, 1 << 20, 1 << 16, 1 << 12, 512)]
    del blocks


def run(op, arrays, device, **kept):
    """The states, and the gradient of every input for a gradient that differs everywhere."""
    there = tg.backends.get(device)
    if "ended" in kept:
        kept["ended"] = there.asarray(kept["ended"], device)
    tensors = [tg.tensor(a, requires_grad=True, device=device) for a in arrays]
    padded = [*tensors, *[None] * (len(op.inputs) - len(tensors))]
    states = op(*padded, **kept)
    weight = np.random.default_rng(7).standard_normal(states.shape).astype(states.dtype)
    (states * tg.tensor(weight, device=device)).sum().backward()
    return [there.to_host(a) for a in (states.data, *(t.grad for t in tensors))]


def agree(found, wanted, tolerance):
    for a, b in zip(found, wanted, strict=True):
        assert np.isfinite(a).all()
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


# (T, B, I, H): odd sizes; several slices and blocks; all warps; more rows than one launch takes.
SIZES = [(1, 1, 1, 1), (5, 3, 2, 7), (6, 33, 17, 131), (4, 70, 30, 509), (3, 300, 5, 260)]


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("cell", "way"), [*itertools.product(OPS, WAYS)])
def test_a_window_is_the_cpus_and_repeats_itself(cp, cell, way, size, ended):
    T, B, I, H = size
    for dtype, tolerance in ((np.float32, 1e-4), (np.float64, 1e-10)):
        if dtype == np.float64 and way != "fused":
            continue
        arrays = inputs(cell, T, B, I, H, dtype)
        kept = options(cell, T, B, ended=ended, seed=T)
        wanted = run(OPS[cell], arrays, "cpu", **kept)
        poison(cp)
        first = run(OPS[cell], arrays, "cuda", impl=way, **kept)
        agree(first, wanted, tolerance)
        for _ in range(5):  # a race would show as another bit, sooner or later
            poison(cp)
            for a, b in zip(run(OPS[cell], arrays, "cuda", impl=way, **kept), first, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("cell", "way"), [*itertools.product(OPS, WAYS)])
def test_tf32_is_tf32(cp, tf32, cell, way):
    arrays = inputs(cell, 6, 33, 17, 131, np.float32)
    kept = options(cell, 6, 33)
    wanted = run(OPS[cell], arrays, "cpu", **kept)
    tf32(True)
    found = run(OPS[cell], arrays, "cuda", impl=way, **kept)
    agree(found, wanted, 5e-3)
    with pytest.raises(AssertionError):
        agree(found, wanted, 1e-6)
    tf32(False)
    agree(run(OPS[cell], arrays, "cuda", impl=way, **kept), wanted, 1e-4)


def test_a_long_window(cp):
    """1,000 steps: a thousand meetings of all blocks."""
    arrays = inputs("lstm", 1000, 8, 16, 512, np.float32)
    wanted = run(OPS["lstm"], arrays, "cpu")
    agree(run(OPS["lstm"], arrays, "cuda", impl="persistent"), wanted, 1e-4)


def test_blocks_that_could_not_meet_are_refused(cp):
    """One block more than the chip runs at a time would wait forever."""
    from tinygrad_rnn.backends.cupy_kernels import CudaDevice, resident

    device = CudaDevice()
    plan = plans.plan("lstm", 64, 512, device)
    name, shared = "sequence_forward", plan.shared_forward
    room = device.processors * resident(plan.variant, name, device.number, shared)
    assert room >= plan.blocks
    device.launcher(plan.variant, name, room, shared, together=True)
    with pytest.raises(tg.DeviceError, match="they would wait forever"):
        device.launcher(plan.variant, name, room + 1, shared, together=True)
    device.launcher(plan.variant, name, room + 1, shared, together=False)


def test_a_window_on_another_stream(cp):
    arrays = inputs("lstm", 6, 33, 17, 131, np.float32)
    wanted = run(OPS["lstm"], arrays, "cuda")
    with cp.cuda.Stream(non_blocking=True):
        found = run(OPS["lstm"], arrays, "cuda")
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cell", OPS)
def test_gradcheck_on_the_device(cell):
    layer = {"rnn": tg.nn.RNN, "gru": tg.nn.GRU, "lstm": tg.nn.LSTM}[cell]
    network = layer(2, 3, rng=0, dtype=np.float64, device="cuda")
    x = tg.tensor(np.random.default_rng(0).standard_normal((4, 2, 2)), device="cuda")
    x = x.requires_grad_()
    assert set(GATES) == set(OPS)
    tg.gradcheck(lambda x: network(x)[0], [x])
    tg.gradcheck(lambda x: network(x)[0], [x], order=2)
