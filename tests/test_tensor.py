"""What a Tensor is made from, turns into, and refuses."""

from __future__ import annotations

import ast
import inspect
import math
import operator
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_rnn as tg
from tests import checking
from tests.fake_device import FakeArray, sync_budget
from tinygrad_rnn import backends, ops
from tinygrad_rnn.core import tensor as tensor_module
from tinygrad_rnn.core.clock import next_number, written
from tinygrad_rnn.ops.loss import softmax_cross_entropy
from tinygrad_rnn.ops.lstm import lstm
from tinygrad_rnn.ops.rnn import rnn

# ---- making them ----


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.5, np.float32),
        (1, np.int64),
        (True, np.bool_),
        ([1.0, 2], np.float32),
        ([[1, 2], [3, 4]], np.int64),
        ([], np.float32),
        ((True, False), np.bool_),
        (range(3), np.int64),
        (np.float64(1.5), np.float64),
        (np.float32(1.5), np.float32),
        ([np.float64(1.5), 2.0], np.float64),
        (np.ones(2, np.float16), np.float16),
        (np.ones(2, np.int8), np.int8),
        (np.ones(2, ">f8"), np.float64),
        (np.ones(2, ">i4"), np.int32),
    ],
)
def test_dtypes(data, dtype):
    made = tg.tensor(data)
    assert made.dtype == dtype
    assert made.dtype.isnative
    assert made.tolist() == np.asarray(data).tolist()


def test_lists_of_tensors_keep_their_precision():
    wide = tg.tensor(np.array([1 / 3, 2 / 3]))
    assert tg.tensor([wide, wide]).dtype == np.float64
    np.testing.assert_array_equal(tg.tensor([wide, wide]).data[1], wide.data)
    assert tg.tensor([tg.tensor([1.0]), tg.tensor([2.0])]).dtype == np.float32
    with pytest.raises(tg.NotDifferentiableError, match="detach"):
        tg.tensor([wide.detach().requires_grad_()])


def test_dtype_and_copies(backend):
    host = np.arange(6.0).reshape(2, 3)
    for source in (host, host.T, host[:, ::-1], backend.array(host), backend.tensor(host)):
        made = tg.tensor(source, dtype=np.float32)
        assert made.dtype == np.float32
        made = tg.tensor(source)
        assert made.dtype == np.float64
        assert made.data.flags.c_contiguous
        wanted = source if isinstance(source, np.ndarray) else host
        np.testing.assert_array_equal(backend.host(made), wanted)
        plain = source.data if isinstance(source, tg.Tensor) else source
        assert not checking.shares_memory(made.data, plain)


def test_data_on_a_device_stays_there(backend):
    source = backend.tensor([1.0, 2.0])
    assert tg.tensor(source).device == tg.tensor(source.data).device == source.device
    assert tg.tensor(source, device="cpu").device == "cpu"
    assert type(tg.tensor(source, device="cpu").data) is np.ndarray


def test_second_device():
    assert tg.tensor([1.0], device="fake").device == "fake:0"
    first = tg.tensor([1.0], device="fake:0")
    second = tg.tensor(first, device="fake:1")
    assert second.device == "fake:1"
    assert second.to("fake").device == "fake:1"  # it is on a fake device already
    assert second.to("fake:0").device == "fake:0"
    with pytest.raises(tg.DeviceError, match=r"fake:0 and fake:1"):
        first + second


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ([[1.0, 2.0], [3.0]], tg.ShapeError),
        ("text", tg.DTypeError),
        (["a", "b"], tg.DTypeError),
        (None, tg.DTypeError),
        ([None, 1.0], tg.DTypeError),
        (1j, tg.DTypeError),
        (np.ones(2, complex), tg.DTypeError),
        (np.ones(2, np.longdouble), tg.DTypeError),
        (np.array(["2020-01-01"], "datetime64[D]"), tg.DTypeError),
        (2**70, tg.DTypeError),
        ({"a": 1}, tg.DTypeError),
    ],
)
def test_what_is_refused(data, error):
    with pytest.raises(error, match=r"(?i)needed"):
        tg.tensor(data)


def test_dtypes_that_are_refused(backend):
    for dtype in (complex, np.longdouble, "S3", object):
        with pytest.raises(tg.DTypeError):
            tg.tensor([1.0], dtype=dtype)
        with pytest.raises(tg.DTypeError):
            tg.tensor(backend.array([1.0]), dtype=dtype)
    for dtype in (complex, "S3"):
        with pytest.raises(tg.DTypeError):
            backend.tensor([1.0]).to(dtype)
    with pytest.raises(tg.DTypeError, match=r"int64.*\.to\("):
        tg.tensor([1, 2], requires_grad=True)


def test_requires_grad_from_the_start(backend):
    x = tg.tensor([1.0], device=backend.device, requires_grad=True)
    assert x.requires_grad
    assert x.is_leaf
    assert x.grad is None
    assert not tg.tensor(x).requires_grad  # a copy of the values, not of the place in a graph


def test_freezing_keeps_the_gradient_the_hooks_and_older_graphs(backend):
    x = backend.tensor([1.0, 2.0], requires_grad=True)
    seen = []
    x.register_hook(lambda g: seen.append(backend.host(g).tolist()))
    x.sum().backward()
    before = (x * 3).sum()
    assert not x.requires_grad_(False).requires_grad_(False).requires_grad
    assert x.grad is None  # optimizers pass it by
    assert not (x * 2).requires_grad
    assert x.requires_grad_().requires_grad
    np.testing.assert_array_equal(backend.host(x.grad), [1, 1])
    before.backward()
    np.testing.assert_array_equal(backend.host(x.grad), [4, 4])
    assert seen == [[1, 1], [3, 3]]


def test_an_update_in_place_is_refused_where_it_would_do_nothing():
    """A loop by hand, ``p -= lr * g``, would give the name to a new tensor and train nothing."""
    p = tg.tensor([1.0, 2.0], requires_grad=True)
    for change in ("p += 1", "p -= 1", "p *= 2", "p /= 2", "p **= 2"):
        with tg.no_grad(), pytest.raises(tg.NotDifferentiableError, match=r"writable\(\).*p\.grad"):
            exec(change, {"p": p})
    p.writable()[...] = p.data - 0.5
    assert p.tolist() == [0.5, 1.5]
    total = tg.tensor(0.0)  # a running sum is another matter: each is a new tensor, and recorded
    for _ in range(2):
        total += (p * p).sum()
    total *= 2.0
    total.backward()
    assert p.grad.tolist() == [4.0, 12.0]


def test_the_truth_of_many_is_asked_for_by_name():
    with pytest.raises(tg.ShapeError, match=r"\.data\.any\(\)"):
        bool(tg.tensor([1.0, 2.0]) > 0)
    assert bool(tg.tensor([1.0]) > 0)


def test_a_write_and_a_cleared_gradient_while_frozen_are_not_forgotten():
    x = tg.tensor([1.0], requires_grad=True)
    x.sum().backward()
    before = next_number()
    x.requires_grad_(False)
    x.grad = None
    x.writable()[...] = 5
    with pytest.raises(tg.NotDifferentiableError, match="requires a gradient"):
        x.grad = np.ones(1, np.float32)
    x.requires_grad_(True)
    assert x.grad is None
    assert written(x.data) > before


def test_creation(backend):
    d = {"device": backend.device}
    for made, wanted in [
        (tg.zeros((2, 3), **d), np.zeros((2, 3), np.float32)),
        (tg.ones(2, **d), np.ones(2, np.float32)),
        (tg.full((2,), 7, **d), np.full(2, 7)),
        (tg.full((), 0.5, **d), np.full((), 0.5, np.float32)),
        (tg.full((1,), True, **d), np.full(1, True)),
        (tg.arange(3, **d), np.arange(3)),
        (tg.arange(1.0, 2.0, 0.25, **d), np.arange(1, 2, 0.25, dtype=np.float32)),
        (tg.eye(2, 3, k=1, **d), np.eye(2, 3, k=1, dtype=np.float32)),
        (tg.zeros_like(tg.ones((2,), dtype=np.float64, **d)), np.zeros(2)),
        (tg.ones_like(tg.zeros((2,), **d), dtype=np.int64), np.ones(2, np.int64)),
    ]:
        assert made.device.startswith(backend.device)
        assert made.dtype == wanted.dtype
        np.testing.assert_array_equal(backend.host(made), wanted)
    assert tg.zeros(2, requires_grad=True, **d).requires_grad


def test_random_numbers_are_the_same_everywhere(backend):
    for name, args in [("normal", ((3,),)), ("uniform", ((3,), -1, 1)), ("permutation", (5,)),
                       ("integers", (0, 9, (4,)))]:  # fmt: skip
        draw = getattr(tg.random, name)
        tg.manual_seed(5)
        there = draw(*args, device=backend.device)
        np.testing.assert_array_equal(backend.host(there), draw(*args, rng=5).numpy())
    assert tg.random.normal((2,), rng=np.random.default_rng(0)).dtype == np.float32


# ---- reading them ----


def test_reading(backend):
    x = backend.tensor(np.array([[1.5, 2.5], [3.5, 4.5]], np.float32))
    assert (x.shape, x.ndim, x.size, x.dtype) == ((2, 2), 2, 4, np.float32)
    assert x.tolist() == [[1.5, 2.5], [3.5, 4.5]]
    assert len(x) == 2
    assert [row.tolist() for row in x] == x.tolist()
    assert x[0, 1].item() == 2.5
    assert (float(x[0, 0]), int(x[0, 0]), bool(x[0, 0])) == (1.5, 1, True)
    assert isinstance(x[0, 0].item(), float)
    copied = x.numpy()
    copied[...] = 0
    assert x[0, 0].item() == 1.5
    assert [10, 20, 30][backend.tensor(1)] == 20
    assert math.sqrt(backend.tensor(4.0)) == 2


def test_reading_refused(backend):
    x = backend.tensor([1.0, 2.0])
    with pytest.raises(tg.ShapeError, match="one element"):
        x.item()
    with pytest.raises(tg.ShapeError):
        bool(x)
    with pytest.raises(TypeError, match="no length"):
        len(backend.tensor(1.0))
    with pytest.raises(tg.DTypeError, match="integer"):
        [1, 2][backend.tensor(1.0)]
    with pytest.raises(tg.NotDifferentiableError, match=r"immutable.*tg\.where"):
        x[0] = 1
    with pytest.raises(tg.NotDifferentiableError, match=r"\.detach\(\)\.numpy\(\)"):
        x.requires_grad_().numpy()


def test_tensors_are_hashable_by_identity():
    a, b = tg.tensor([1.0]), tg.tensor([1.0])
    assert len({a, b, a}) == 2


def test_conversion_to_numpy_where_nothing_is_lost():
    x = tg.tensor([1.0, 2.0])
    np.testing.assert_array_equal(np.asarray(x), [1, 2])
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.asarray(x), x.data)
    with pytest.raises(ValueError, match="copying"):
        np.asarray(x, copy=False)
    with pytest.raises(tg.NotDifferentiableError, match="detach"):
        np.asarray(tg.tensor([1.0], requires_grad=True))
    with pytest.raises(tg.DeviceError, match=r"fake.*detach\(\)\.numpy\(\)"):
        np.asarray(tg.tensor([1.0], device="fake"))


def test_repr(backend):
    x = backend.tensor(np.array([1.5, 2.5], np.float32))
    assert repr(x) == f"tensor([1.5, 2.5], dtype=float32, device={x.device!r})"
    assert repr(x.requires_grad_()).endswith(", requires_grad=True)")
    assert repr(x * 2).endswith(", op='multiply')")
    assert len(repr(tg.zeros((1000, 1000)))) < 1000
    assert "tensor([]" in repr(tg.zeros(0))


# ---- arithmetic with other kinds ----

OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]
NUMBERS = [2, 2.0, True, np.float64(2), np.float32(2), np.int64(2), np.bool_(True), np.float16(2)]


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_float32_stays_float32(backend, op, number):
    """A number beside a Tensor is a number, whichever library it comes from: on either side, in
    the result and in the gradient."""
    for f in (lambda x: op(x, number), lambda x: op(number, x)):
        x = backend.tensor(np.array([0.5, 1.5], np.float32), requires_grad=True)
        y = f(x)
        assert isinstance(y, tg.Tensor)
        assert y.dtype == np.float32
        y.sum().backward()
        assert x.grad.dtype == np.float32
        exact = op(np.array([0.5, 1.5]), float(number)), op(float(number), np.array([0.5, 1.5]))
        near = [np.allclose(backend.host(y), e, rtol=1e-6) for e in exact]
        assert any(near)


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_functions_keep_float32_too(number):
    x = tg.tensor([0.5, 3.0], requires_grad=True)
    for f in (
        lambda: tg.maximum(x, number),
        lambda: tg.minimum(number, x),
        lambda: tg.where(x > number, x, number),
        lambda: tg.clip(x, number),
        lambda: tg.clip(x, None, number),
        lambda: tg.clip(x, -1, number),
        lambda: tg.pad(x, 1, constant_value=number),
    ):
        y = f()
        assert y.dtype == np.float32
        x.grad = None
        y.sum().backward()
        assert x.grad.dtype == np.float32


@pytest.mark.parametrize("op", [*OPERATORS, operator.matmul, operator.lt, operator.eq])
def test_arrays_on_either_side_give_tensors(backend, op):
    """`array op tensor` reaches the Tensor: never an object array, never a lost graph."""
    host = np.array([[1.0, 2.0], [3.0, 4.0]])
    plain, x = backend.array(host), backend.tensor(host + 1, requires_grad=True)
    for y, wanted in [(op(plain, x), op(host, host + 1)), (op(x, plain), op(host + 1, host))]:
        assert type(y) is tg.Tensor
        np.testing.assert_allclose(backend.host(y), wanted, rtol=1e-15)
        assert y.requires_grad == (y.dtype.kind == "f")
    for y in (op([[1.0, 2.0], [3.0, 4.0]], tg.tensor(host)), op(tg.tensor(host), host[0].tolist())):
        assert type(y) is tg.Tensor


def test_numpy_does_not_swallow_tensors():
    """Writing a Tensor into an array would lose its graph: NumPy refuses, loudly."""
    a, x = np.ones(2), tg.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(TypeError, match="__array_ufunc__"):
        a += x
    with pytest.raises(TypeError, match="__array_ufunc__"):
        np.add(a, x)
    with pytest.raises(tg.NotDifferentiableError, match="detach"):
        a[...] = x


@pytest.mark.parametrize("other", ["text", None, {}, object(), 1j])
def test_strange_operands_are_refused(other):
    x = tg.tensor([1.0])
    for op in (operator.add, operator.matmul, operator.lt):
        with pytest.raises(tg.DTypeError):
            op(x, other)


def test_shape_errors_name_op_and_shapes(backend):
    a, b = backend.tensor(np.ones((2, 3))), backend.tensor(np.ones((4,)))
    with pytest.raises(tg.ShapeError, match=r"add.*\(2, 3\).*\(4,\)"):
        a + b
    with pytest.raises(tg.ShapeError, match=r"matmul.*\(2, 3\).*\(4,\)"):
        a @ b
    with pytest.raises(tg.ShapeError, match=r"at least one dimension"):
        a @ 2.0
    with pytest.raises(tg.ShapeError, match=r"sum: axis 2"):
        a.sum(2)
    with pytest.raises(tg.ShapeError, match="twice"):
        a.sum((0, -2))
    for call in (
        lambda: a.reshape(4, 2),
        lambda: tg.concat([a, b]),
        lambda: tg.concat([]),
        lambda: tg.stack([a, b]),
        lambda: tg.squeeze(a, 0),
        lambda: tg.permute_dims(a, (0,)),
        lambda: tg.broadcast_to(a, (2, 4)),
        lambda: tg.split(a, 4, 1),
        lambda: tg.pad(a, ((1, 1),)),
        lambda: tg.pad(a, -1),
        lambda: tg.roll(a, (1, 2), 0),
        lambda: tg.repeat(a, -1),
        lambda: tg.einsum("ij,jk->ik", a),
        lambda: tg.einsum("ij,jk->ik", a, a),
        lambda: tg.einsum("ij->iz", a),
        lambda: tg.einsum("ijk->i", a),
        lambda: tg.einsum("ii->i", a),
        lambda: tg.norm(a, ord=0),
        lambda: tg.max(backend.tensor(np.ones(0))),
        lambda: tg.take_along_axis(a, np.zeros(3, int)),
    ):
        with pytest.raises(tg.ShapeError):
            call()


# ---- change of place and dtype ----


def test_to_dtype(backend):
    x = backend.tensor(np.array([1.5, -2.5], np.float32), requires_grad=True)
    for wide in (x.to(np.float64), x.to("float64"), x.to(tg.float64), x.astype(float)):
        assert wide.dtype == np.float64
        x.grad = None
        (wide * wide).sum().backward()
        assert x.grad.dtype == np.float32
        np.testing.assert_array_equal(backend.host(x.grad), [3, -5])
    whole = x.to(tg.int64)
    assert whole.tolist() == [1, -2]
    assert not whole.requires_grad
    assert x.to(tg.float32).dtype == np.float32


def test_to_device_and_back():
    """Values travel, and so do gradients, first and second."""
    x = tg.tensor(np.array([1.0, 2.0]), requires_grad=True)
    there = x.to("fake")
    assert there.device == "fake:0"
    assert type(there.data) is FakeArray
    y = (there * there * there).sum().cpu()
    assert y.device == "cpu"
    (g,) = tg.grad(y, x, create_graph=True)
    assert g.device == "cpu"
    assert g.tolist() == [3, 12]
    assert tg.grad(g.sum(), x)[0].tolist() == [6, 12]
    assert x.to("cpu") is x
    assert x.to("fake", tg.float32).dtype == np.float32
    assert x.to(device="fake", dtype=tg.float32).device == "fake:0"


MIXED = {
    "add": operator.add,
    "multiply": operator.mul,
    "power": operator.pow,
    "matmul": operator.matmul,
    "greater": operator.gt,
    "maximum": tg.maximum,
    "where": lambda a, b: tg.where(a > 0, a, b),
    "concat": lambda a, b: tg.concat([a, b]),
    "rnn": lambda a, b: rnn(
        tg.ones((1, 2, 2)).to(a.device), a, b, a, None, None, nonlinearity="relu"
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_devices(name):
    """One error for all: it names the op, both devices, and what to do."""
    a, b = tg.ones((2, 2)), tg.ones((2, 2), device="fake")
    for first, second in [(a, b), (b, a), (a, b.data), (b, a.data)]:
        with pytest.raises(
            tg.DeviceError, match=rf"{name}: .*(cpu and fake:0|fake:0 and cpu).*\.to\("
        ):
            MIXED[name](first, second)


def test_an_index_from_another_device():
    """Ids on the host travel to the tensor by themselves; ids on a device stay where they are."""
    here, there = tg.ones((2, 3)), tg.tensor([0, 1], device="fake")
    for call in (
        lambda: here[there],
        lambda: here[:, there],
        lambda: tg.take(here, there, 0),
        lambda: tg.take_along_axis(here, there[None], 1),
        lambda: softmax_cross_entropy(here, there),
    ):
        with pytest.raises(
            tg.DeviceError, match=r"index on fake:0, the tensor on cpu.*\.to\('cpu'"
        ):
            call()
    assert here.to("fake")[np.array([0, 1])].device == "fake:0"


def test_devices():
    found = {d.name: d for d in tg.devices()}
    assert found["cpu"].usable
    assert "numpy" in found["cpu"].detail
    assert found["fake:0"].usable
    assert any(name.startswith("cuda") for name in found)


def test_unknown_devices():
    for name in ("tpu", "cpux", "", "cuda:x"):
        with pytest.raises(tg.DeviceError, match=r"known: cpu.*cuda"):
            tg.tensor(1.0, device=name)
    for name in ("cpu:1", "fake:7"):
        with pytest.raises(tg.BackendUnavailable, match="usable: "):
            tg.tensor(1.0).to(name)
    with pytest.raises(tg.DTypeError, match="string"):
        backends.get(0)


def test_cuda_without_cupy(monkeypatch):
    """The request fails with cause and fix; nothing falls back to another device in silence."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    for ask in (
        lambda: tg.tensor(1.0, device="cuda"),
        lambda: tg.zeros(2, device="cuda:0"),
        lambda: tg.tensor(1.0).cuda(),
        lambda: tg.tensor(1.0).to("cuda:1"),
        lambda: tg.tensor(1.0, device="fake").to("cuda"),
    ):
        with pytest.raises(
            tg.BackendUnavailable, match=r"CuPy is not installed; .*pip install.*device='cpu'"
        ):
            ask()
    cuda = [d for d in tg.devices() if d.name == "cuda"]
    assert [d.usable for d in cuda] == [False]
    assert "device='cpu'" in cuda[0].detail


if any(d.usable and d.name.startswith("cuda") for d in tg.devices()):
    test_cuda_without_cupy = pytest.mark.skip(reason="CUDA is usable here")(test_cuda_without_cupy)


# ---- DLPack ----


@given(
    hnp.arrays(hnp.floating_dtypes(sizes=(32, 64), endianness="="), hnp.array_shapes(min_side=0))
)
def test_dlpack_round_trip(host):
    x = tg.from_dlpack(host)
    assert np.shares_memory(x.data, host) or not host.size
    np.testing.assert_array_equal(np.from_dlpack(x), host)
    assert tg.from_dlpack(x.T).shape == host.T.shape


def test_dlpack_keeps_graphs_in():
    with pytest.raises(tg.NotDifferentiableError, match="detach"):
        np.from_dlpack(tg.tensor([1.0], requires_grad=True))


# ---- names ----


def declared_names() -> set[str]:
    """The names in `tensor.py`'s TYPE_CHECKING block."""
    tree = ast.parse(inspect.getsource(tensor_module))
    (cls,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Tensor")
    (block,) = (n for n in cls.body if isinstance(n, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    return {n.name for n in block.body if isinstance(n, ast.FunctionDef)}


def test_declared_names_are_the_bound_ones():
    """Type checkers see the operators and properties that the table binds, and no others."""
    special = {
        name
        for name, op in ops.METHODS.items()
        if name.startswith("__") or isinstance(op, property)
    }
    special |= {"backward", "to", "astype", "cpu", "cuda"}
    assert declared_names() - {"__getattr__"} == special


@pytest.mark.parametrize("name", ops.METHODS)
def test_methods_are_bound(name):
    assert name in vars(tg.Tensor)
    if not name.startswith("__") and name not in ("T", "mT", "backward", "to", "cpu", "cuda"):
        assert hasattr(tg, name), f"x.{name}() has no function tg.{name}(x)"


def test_methods_equal_functions(backend):
    x = backend.tensor(np.array([[0.25, 0.5], [0.75, 1.0]]))
    for call, wanted in [
        (x.sum(0), tg.sum(x, 0)), (x.max(axis=1, keepdims=True), tg.max(x, 1, keepdims=True)),
        (x.argmax(0), tg.argmax(x, axis=0)), (x.reshape(4), tg.reshape(x, (4,))),
        (x.T, tg.transpose(x)), (x.mT, tg.matrix_transpose(x)), (abs(x), tg.abs(x)),
        (-x, tg.negative(x)), (x.clip(0.3, 0.6), tg.clip(x, 0.3, 0.6)),
        (x.tril(k=-1), tg.tril(x, k=-1)), (x.tril(), tg.tril(x)),
        (x @ x, tg.matmul(x, x)), (~(x > 0.5), tg.logical_not(tg.greater(x, 0.5))),
    ]:  # fmt: skip
        np.testing.assert_array_equal(backend.host(call), backend.host(wanted))


# ---- waiting for the device ----


def test_a_training_step_never_waits_for_the_device():
    """Forward, backward and an update leave every number on the device."""
    place = {"device": "fake"}
    x, h = tg.random.normal((3, 2, 4), rng=0, **place), tg.zeros((2, 5), **place)
    w_ih, w_hh = (
        tg.random.normal((20, 4), rng=1, **place),
        tg.random.normal((20, 5), rng=2, **place),
    )
    b, v = tg.zeros((20,), **place), tg.random.normal((5, 7), rng=3, **place)
    params = [p.requires_grad_() for p in (w_ih, w_hh, b, v)]
    targets = np.array([[0, 1], [2, -100], [6, 3]])  # ids are checked on the host
    with sync_budget(0):
        states = lstm(x, h, h, w_ih, w_hh, b, b)
        loss = softmax_cross_entropy(states[1:-1] @ v, targets)
        loss.backward()
        backends.get("fake").squared_norms([p.grad for p in params])
        for p in params:
            p.writable()[...] = p.data - 0.1 * p.grad
    with pytest.raises(AssertionError, match="1 host synchronisations"), sync_budget(0):
        loss.item()


@given(st.integers(-3, 2))
def test_integers_out_of_range_are_errors_on_every_device(number):
    """CuPy wraps an index that is out of range. Where ids come from people, we check them."""
    for device in ("cpu", "fake"):
        x = tg.tensor(np.arange(3.0), device=device)
        assert x[number].item() == x.tolist()[number]
        assert tg.take(x, number).item() == x.tolist()[number]
        for wrong in (3, -4):
            for ids in (wrong, np.array([0, wrong]), tg.tensor([0, wrong], device=device)):
                with pytest.raises(IndexError):
                    tg.take(x, ids)
            with pytest.raises(IndexError):
                x[wrong]
            with pytest.raises(IndexError):
                tg.take_along_axis(x, tg.tensor([0, wrong], device=device))
            with pytest.raises(IndexError):
                tg.one_hot(tg.tensor([0, wrong], device=device), 3)


def test_equality_with_what_is_no_number_is_plain_false():
    t = tg.tensor([1.0, 2.0])
    assert (t == None) is False  # noqa: E711 - the comparison itself is under test
    assert (t != "text") is True
    assert (t == [1.0, 3.0]).tolist() == [True, False]
