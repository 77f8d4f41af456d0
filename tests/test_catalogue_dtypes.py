"""The catalogue of silent wrongs: integers, precision, copies.

For the idea see `tests/test_catalogue.py`.
"""

from __future__ import annotations

import copy
import pickle  # noqa: TID251 - whether tensors survive it is what is tested; files never use it

import numpy as np
import pytest

import tinygrad_rnn as tg
from tests import checking
from tinygrad_rnn import nn

# ---- integers and bools ----


def test_integer_and_bool_leaves_are_refused(backend):
    """An integer leaf took its gradient cut to whole numbers: 0.5 became 0, and nothing learned."""
    for values in ([1, 2], [True, False], np.array([1, 2], np.uint8)):
        with pytest.raises(tg.DTypeError, match=r"floating-point.*\.to\(tg\.float32\)"):
            backend.tensor(np.asarray(values), requires_grad=True)
        with pytest.raises(tg.DTypeError, match="floating-point"):
            nn.Parameter(np.asarray(values), device=backend.device)
        with pytest.raises(tg.DTypeError, match="floating-point"):
            backend.tensor(np.asarray(values)).requires_grad = True
    with pytest.raises(tg.DTypeError, match="int64"):
        nn.Linear(2, 2).to(tg.int64)


def test_integer_results_never_require_a_gradient(backend):
    """argmax and comparisons are steps: their derivative is 0 or nothing, and nothing is said."""
    x = backend.tensor(np.array([[1.0, 2.0], [3.0, 0.0]]), requires_grad=True)
    for y in (
        x.argmax(), x.argmin(1), x > 1, x >= 1, x < 1, x <= 1, x == 1, x != 1, (x > 0) & (x < 2),
        (x > 0) | (x < 2), ~(x > 0), x.to(tg.int64), x.astype(np.int8), x.astype(bool),
        tg.one_hot(x.argmax(1), 2),
    ):  # fmt: skip
        assert not y.requires_grad
        assert y.is_leaf
        with pytest.raises(tg.NotDifferentiableError):
            tg.grad(y.to(np.float64).sum(), x)
    (x.to(tg.int64) * x).sum().backward()  # the whole part is a constant factor
    np.testing.assert_array_equal(backend.host(x.grad), [[1, 2], [3, 0]])


# ---- float32 stays float32 ----


def test_float64_seeds_do_not_leak(backend):
    """A loss's gradient started as a Python 1.0 or a float64 one, and every gradient behind it was
    float64. It starts in the loss's own dtype, whatever is passed in."""
    for seed in (None, 1.0, np.float64(1), np.array(1.0), 1, backend.tensor(np.array(1.0))):
        for options in ({}, {"create_graph": True}):
            x = backend.tensor(np.ones(3, np.float32), requires_grad=True)
            y = tg.tanh(x * 2)
            gy, gx = tg.grad(y.mean(), [y, x], seed, retain_graph=True, **options)
            assert gy.dtype == gx.dtype == np.float32
            y.mean().backward(seed)
            assert x.grad.dtype == np.float32
    half = backend.tensor(np.ones(3, np.float16), requires_grad=True)
    (half * 2).sum().backward(np.float64(1))
    assert half.grad.dtype == np.float16


def operands(backend):
    """What people multiply a tensor by: numbers, NumPy's numbers, and arrays of counts."""
    place = backend.array
    return {
        "np.float64": np.float64(2), "np.int64": np.int64(3), "np.float16": np.float16(2),
        "np.bool": np.bool_(True), "int": 3, "float": 0.5,
        "0-d float64": place(np.array(2.0)), "0-d int64": place(np.array(3)),
        "int64": place(np.array([1, 2, 3])), "int32": place(np.array([1, 2, 3], np.int32)),
        "uint8": place(np.array([1, 2, 3], np.uint8)), "bool": place(np.array([True, False, True])),
        "int64 Tensor": backend.tensor(np.array([1, 2, 3])),
        "bool Tensor": backend.tensor(np.array([True, False, True])),
    }  # fmt: skip


ARITHMETIC = {
    "add": lambda x, k: x + k, "subtract": lambda x, k: k - x, "multiply": lambda x, k: x * k,
    "divide": lambda x, k: k / x, "maximum": tg.maximum,
    "where": lambda x, k: tg.where(x > 0, x, k),
}  # fmt: skip


@pytest.mark.parametrize("name", ARITHMETIC)
def test_float64_operands_do_not_leak_into_gradients(backend, name):
    """float32 times NumPy's float64 2.0 is float64, and so were gradients, moments and weights."""
    for kind, k in operands(backend).items():
        x = backend.tensor(np.array([0.5, 1.5, 2.5], np.float32), requires_grad=True)
        y = ARITHMETIC[name](x, k)
        for options in ({}, {"create_graph": True}):
            assert tg.grad(y.sum(), x, retain_graph=True, **options)[0].dtype == np.float32, kind


@pytest.mark.parametrize("name", ARITHMETIC)
def test_numbers_leave_float32_alone_and_arrays_promote_as_numpy_says(backend, name):
    """A number, Python's or NumPy's, has no precision of its own. An array has, 0-d and integer
    ones too: beside one of int64 or float64, float32 becomes float64, as NumPy's table has it.
    """
    x = backend.tensor(np.array([0.5, 1.5, 2.5], np.float32))
    for kind, k in operands(backend).items():
        number = not hasattr(k, "shape") or isinstance(k, np.generic)
        expected = np.float32 if number else np.result_type(np.float32, np.dtype(k.dtype))
        assert ARITHMETIC[name](x, k).dtype == expected, kind


# ---- copies of leaves and of results ----

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda t: pickle.loads(pickle.dumps(t))}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("cls", [tg.Tensor, nn.Parameter])
def test_copy_of_a_leaf_keeps_its_gradient_and_shares_nothing(backend, how, cls):
    """The gradient was dropped on the way. A copy is a leaf of its own class with the same values,
    dtype, place and ``.grad``; from there on the two go their own ways. Hooks stay behind: they are
    code of somebody else's run."""
    x = cls(np.array([1.0, 2.0], np.float32), device=backend.device, requires_grad=True)
    x.register_hook(lambda g: g * 10)
    (x * 3).sum().backward()
    twin = COPIES[how](x)
    assert type(twin) is cls
    assert (twin.dtype, twin.device, twin.requires_grad, twin.is_leaf) == (
        np.float32, x.device, True, True,
    )  # fmt: skip
    np.testing.assert_array_equal(backend.host(twin.grad), [30, 30])
    assert not checking.shares_memory(twin.grad, x.grad)
    assert not checking.shares_memory(twin.data, x.data)
    twin.writable()[...] = 0
    (twin * 2).sum().backward()
    np.testing.assert_array_equal(backend.host(twin.grad), [32, 32])
    np.testing.assert_array_equal(backend.host(x), [1, 2])
    np.testing.assert_array_equal(backend.host(x.grad), [30, 30])
    frozen = COPIES[how](cls([1.0], requires_grad=False))
    assert (frozen.requires_grad, frozen.grad) == (False, None)


@pytest.mark.parametrize("how", COPIES)
def test_copy_of_a_result_is_refused(backend, how):
    """Copied node by node a graph overflows the stack, and the copy's gradients reach nobody."""
    y = backend.tensor(np.ones(2), requires_grad=True) * 2
    with pytest.raises(tg.NotDifferentiableError, match=r"'multiply'.*\.detach\(\)"):
        COPIES[how](y)
    for _ in range(3000):
        y = y + 1
    with pytest.raises(tg.NotDifferentiableError, match="'add'"):
        COPIES[how]([y])
    assert COPIES[how](y.detach()).requires_grad is False


@pytest.mark.parametrize("how", COPIES)
def test_copy_of_a_module_shares_nothing_and_stays_tied(how):
    """Training the copy moved the original; or two tied weights came apart in the copy."""
    model = nn.Sequential(nn.Embedding(4, 4, rng=0), nn.LSTM(4, 4, rng=1), nn.Linear(4, 4, rng=2))
    model[2].weight = model[0].weight
    twin = COPIES[how](model)
    assert twin[2].weight is twin[0].weight
    pairs = list(zip(model.parameters(), twin.parameters(), strict=True))
    assert len(pairs) == 6
    for p, q in pairs:
        assert not np.shares_memory(p.data, q.data)
        np.testing.assert_array_equal(p.data, q.data)
    before = model.state_dict()
    optimizer = tg.optim.SGD(twin.parameters(), lr=1.0)
    twin[2](twin[1](twin[0](np.array([[1], [2]])))[0]).sum().backward()
    optimizer.step()
    assert all(p.grad is None and q.grad is not None for p, q in pairs)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
