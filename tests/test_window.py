"""Which time loop a recurrent layer gets, and what a loop of its own must not do to the numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn as tg
from tests import cuda_on_cpu
from tests.test_sequence_kernels import OPS, CpuDevice, inputs, options, run
from tinygrad_rnn import nn
from tinygrad_rnn.backends import window
from tinygrad_rnn.backends.numpy_backend import NumpyBackend

WAYS = ["auto", "fused", "step", "persistent"]


@pytest.fixture
def kernels(monkeypatch):
    """From here on the CPU has a GPU's windows, whose kernels run on it."""
    if cuda_on_cpu.compiler() is None:
        pytest.skip("no C++ compiler here")
    device = CpuDevice()

    def own(self, cell, impl, like, B, H, *, relu):
        return window.choose(device, cell, impl, like.dtype, B, H, relu=relu)

    monkeypatch.setattr(NumpyBackend, "window", own)
    return device


@pytest.mark.parametrize("which", ["weight_hh_l0", "bias_ih_l0", "bias_hh_l0"])
def test_mixed_dtypes_are_for_the_loop_that_asks_arrays_what_they_are(kernels, which):
    """A kernel would read a float64 weight's bytes as float32, and give numbers without a word."""
    layer = nn.LSTM(3, 4, rng=0)
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    wanted = layer(x)[0].detach().numpy()
    assert kernels.launched
    kernels.launched.clear()
    setattr(layer, which, nn.Parameter(getattr(layer, which).data.astype(np.float64)))
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), wanted, rtol=1e-5)
    assert not kernels.launched
    layer.impl = "persistent"
    with pytest.raises(tg.DataError, match=r"needs one dtype, .*float32; use impl='auto'"):
        layer(x)


@pytest.mark.parametrize("impl", ["ops", "quick"])
def test_an_op_knows_its_ways(impl):
    arrays = inputs("lstm", 2, 2, 2, 2, np.float32)
    with pytest.raises(tg.DataError, match=f"lstm: impl is '{impl}', needed 'auto'"):
        OPS["lstm"](*arrays, impl=impl)


def infinite_weight(cell, **how):
    """0 times infinity is NaN: what was not sent must not be multiplied, either."""
    arrays = inputs(cell, 4, 3, 2, 5, np.float32)
    kept = options(cell, 4, 3, seed=1) | {"ended": np.zeros((4, 3), bool)} | how
    kept["ended"][:, 1] = True  # this row never begins
    recurrent = 3 if cell == "lstm" else 2
    wanted = [a.copy() for a in run(OPS[cell], arrays, **kept)]
    arrays[1 + recurrent][...] = np.inf
    with np.errstate(all="ignore"):
        found = run(OPS[cell], arrays, **kept)
    np.testing.assert_array_equal(found[0][:, 1], wanted[0][:, 1])  # states
    np.testing.assert_array_equal(found[1][:, 1], wanted[1][:, 1])  # the gradient of x
    np.testing.assert_array_equal(found[2][1], wanted[2][1])  # and of the first state


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cell", OPS)
def test_an_infinite_weight_does_not_reach_a_row_that_has_ended(kernels, cell, way):
    infinite_weight(cell, impl=way)


@pytest.mark.parametrize("cell", OPS)
def test_nor_does_an_infinite_weight_in_the_loop_of_the_op(cell):
    infinite_weight(cell)


@pytest.mark.parametrize("way", WAYS)
def test_flags_that_are_the_same_for_all_rows_need_one_column(kernels, way):
    arrays = inputs("lstm", 4, 3, 2, 5, np.float32)
    column = np.array([[False], [False], [True], [True]])
    one = run(OPS["lstm"], arrays, impl=way, ended=column)
    each = run(OPS["lstm"], arrays, impl=way, ended=np.repeat(column, 3, axis=1))
    for a, b in zip(one, each, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("way", WAYS)
def test_the_cache_serves_a_second_backward_pass_and_a_second_derivative(kernels, way):
    layer = nn.GRU(2, 3, rng=0)
    layer.impl = way
    x = tg.tensor(np.random.default_rng(0).standard_normal((3, 2, 2)).astype(np.float32))
    x = x.requires_grad_()
    loss = (layer(x)[0] ** 2).sum()
    loss.backward(retain_graph=True)
    first = x.grad.copy()
    x.grad = None
    loss.backward(retain_graph=True)
    np.testing.assert_array_equal(x.grad, first)
    (recorded,) = tg.grad(loss, [x], create_graph=True)
    np.testing.assert_allclose(recorded.detach().numpy(), first, rtol=1e-4, atol=1e-6)
    x.grad = None
    (recorded**2).sum().backward()
    layer.impl = "ops"
    (plain,) = tg.grad((layer(x)[0] ** 2).sum(), [x], create_graph=True)
    second = x.grad.copy()
    x.grad = None
    (plain**2).sum().backward()
    np.testing.assert_allclose(x.grad, second, rtol=1e-3, atol=1e-5)


# ---- what the sweep takes over without a copy ----


@pytest.mark.parametrize("cell", ["RNN", "LSTM"])
def test_the_two_halves_of_a_bias_have_gradients_of_their_own(cell):
    """Backward gives one array for both; whatever is added to one of them must not reach the other.

    Used a second time, older or newer than the layer, b_ih gets a sum that is made in place.
    """
    layer = getattr(nn, cell)(2, 3, rng=0)
    x = np.random.default_rng(0).standard_normal((4, 2, 2)).astype(np.float32)

    def gradients(before, after):
        layer.zero_grad()
        b = layer.bias_ih_l0
        older = (before * b).sum() if before else 0.0
        loss = layer(x)[0].sum()
        loss = loss + older + ((after * b).sum() if after else 0.0)
        loss.backward()
        return b.grad, layer.bias_hh_l0.grad

    one, two = gradients(0.0, 0.0)
    assert not np.shares_memory(one, two)
    plain, other = one.copy(), two.copy()
    np.testing.assert_array_equal(plain, other)
    for before, after in ((3.0, 0.0), (0.0, 3.0), (3.0, 3.0)):
        one, two = gradients(before, after)
        assert not np.shares_memory(one, two)
        np.testing.assert_allclose(one, plain + before + after, rtol=1e-6)
        np.testing.assert_array_equal(two, other)
        one += 100
        np.testing.assert_array_equal(two, other)


def test_a_weight_used_by_two_layers_collects_both_gradients():
    """The first is taken over without a copy, and the second added to it."""
    shared = nn.Linear(3, 3, bias=False, rng=0)
    x = tg.tensor(np.random.default_rng(0).standard_normal((4, 3)), dtype=np.float64)
    shared.to(np.float64)
    w = shared.weight.data.copy()
    shared(shared(x)).sum().backward()
    ones = np.ones((4, 3))
    wanted = ones.T @ (x.numpy() @ w.T) + (ones @ w).T @ x.numpy()
    np.testing.assert_allclose(shared.weight.grad, wanted, rtol=1e-12)
    assert shared.weight.grad.flags.c_contiguous


# ---- small things ----


def test_a_smoothing_of_numpys_keeps_the_loss_in_its_dtype(backend):
    logits = backend.tensor(np.zeros((2, 3), np.float32), requires_grad=True)
    for reduction in ("mean", "sum", "none"):
        loss = nn.functional.cross_entropy(
            logits, np.array([0, 2]), label_smoothing=np.float64(0.1), reduction=reduction
        )
        assert loss.dtype == np.float32


def test_targets_on_the_device_are_checked_with_one_look(backend):
    from tests.fake_device import sync_budget

    logits = backend.tensor(np.zeros((3, 4), np.float32))
    targets = backend.tensor(np.array([0, -100, 3]))
    with sync_budget(2):  # the smallest and the largest
        nn.functional.cross_entropy(logits, targets)
    for wrong in ([0, -100, 4], [-1, -100, 0]):
        with pytest.raises(IndexError, match=r"index (4|-1) is out of range"):
            nn.functional.cross_entropy(logits, backend.tensor(np.array(wrong)))


@pytest.mark.parametrize("wrong", ["no", 1, None])
def test_a_switch_is_true_or_false_and_has_one_name(wrong):
    from tinygrad_rnn.backends import cuda_settings

    with pytest.raises(tg.DTypeError, match=r"cuda_settings\.tf32 is True or False, got"):
        cuda_settings.tf32 = wrong
    assert cuda_settings.tf32 is False
    with pytest.raises(AttributeError):
        cuda_settings.tf_32 = True


def test_a_gpus_number_alone_is_no_place():
    with pytest.raises(tg.DTypeError, match=r"devices have names, such as 'cuda:0'"):
        tg.tensor([1.0]).to(0)


def test_the_table_of_batches_in_the_documentation():
    """The most rows that "auto" gives to the persistent kernel, on 132 multiprocessors."""
    text = (Path(__file__).parents[1] / "docs" / "gpu.md").read_text(encoding="utf-8")
    table = text[text.index("| rows of a batch, at most |") :].split("\n\n")[0].splitlines()
    sizes = [int(cell.strip().removeprefix("H = ")) for cell in table[0].split("|")[2:-2]]

    def most_rows(cell, H):
        def way(B):
            made = window.choose(CpuDevice(), cell, "auto", np.dtype(np.float32), B, H)
            return type(made).__name__

        if way(1) == "FusedWindow":
            return "fused"
        rows = [B for B in range(1, 2500) if way(B) == "KernelWindow"]
        assert rows == list(range(1, rows[-1] + 1))
        return f"{rows[-1]:,}"

    for line in table[2:]:
        name, *told = (cell.strip() for cell in line.split("|")[1:-1])
        assert told[:-1] == [most_rows(name.lower(), H) for H in sizes], name
