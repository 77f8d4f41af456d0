"""Errors that teach: what was seen, what was needed, what to do; one table for all of them."""

from __future__ import annotations

import contextlib
import gc
import sys
import warnings

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.nn import functional as F
from tinygrad_rnn.nn.growth import STEPS, WINDOWS


def leaf(*shape, dtype=np.float32, device="cpu"):
    return tg.zeros(shape, dtype=dtype, device=device, requires_grad=True)


def twice():
    loss = (leaf(2) * leaf(2)).sum()
    loss.backward()
    loss.backward()


def carried():
    layer, state = nn.LSTM(3, 4, rng=0), None
    for _ in range(2):
        out, state = layer(leaf(5, 2, 3), state)
        out.sum().backward()


def changed():
    x = leaf(2, 3)
    loss = (x * x).sum()
    x.writable()[...] = 1
    loss.backward()


# name -> (call, error, the built-in it is, what the message has to say: the op, both operands'
# shapes and dtypes where there are two, and what to do)
LESSONS = {
    # graphs
    "a second backward": (
        twice, tg.GraphFreedError, RuntimeError, ["sum", "()", "float32", "retain_graph=True"]),
    "a state carried over": (
        carried, tg.GraphFreedError, RuntimeError,
        ["lstm", "(7, 2, 4)", "float32", "state", "window", "state.detach()", "retain_graph"]),
    "a changed array": (
        changed, tg.SavedArrayChangedError, RuntimeError,
        ["multiply", "the input", "(2, 3)", "float32", "before optimizer.step()"]),
    "backward of many": (
        lambda: (leaf(2, 3) * 2.0).backward(), tg.ShapeError, ValueError,
        ["'multiply'", "(2, 3)", "float32", "gradient", ".sum()"]),
    "a seed of another shape": (
        lambda: (leaf(2, 3) * 2.0).backward(np.ones(3)), tg.ShapeError, ValueError,
        ["'multiply'", "(3,)", "(2, 3)", "needed"]),
    "backward of a constant": (
        lambda: tg.zeros(2).sum().backward(), tg.NotDifferentiableError, RuntimeError,
        ["backward", "requires_grad_()", "detach()", "no_grad"]),
    "an unused input": (
        lambda: tg.grad(leaf(2).sum(), leaf(2)), tg.NotDifferentiableError, RuntimeError,
        ["[0]", "allow_unused=True"]),
    "a gradient of integers": (
        lambda: tg.tensor([1], requires_grad=True), tg.DTypeError, TypeError,
        ["int64", ".to(tg.float32)"]),
    "writing into a tensor": (
        lambda: leaf(2).__setitem__(0, 1.0), tg.NotDifferentiableError, RuntimeError,
        ["immutable", "tg.where"]),
    "a graph lost to NumPy": (
        lambda: np.asarray(leaf(2)), tg.NotDifferentiableError, RuntimeError,
        [".detach().numpy()"]),
    "a copy of a graph": (
        lambda: __import__("copy").deepcopy(leaf(2) * 2.0), tg.NotDifferentiableError,
        RuntimeError, ["'multiply'", "copy a leaf", ".detach()"]),
    # devices and dtypes
    "two devices": (
        lambda: leaf(2, 3) * leaf(2, 3, device="fake"), tg.DeviceError, RuntimeError,
        ["multiply", "cpu", "fake:0", "(2, 3) float32", ".to('cpu')"]),
    "two devices of one kind": (
        lambda: leaf(3, device="fake:0") @ leaf(3, device="fake:1"), tg.DeviceError, RuntimeError,
        ["matmul", "fake:0", "fake:1", ".to('fake:0')"]),
    "an index from elsewhere": (
        lambda: leaf(3)[tg.tensor([0], device="fake")], tg.DeviceError, RuntimeError,
        ["getitem", "fake:0", "cpu", ".to('cpu')"]),
    "a gradient from elsewhere": (
        lambda: (leaf(2) * 2.0).backward(tg.ones(2, device="fake")), tg.DeviceError, RuntimeError,
        ["fake:0", "cpu", ".to('cpu')"]),
    "a device nobody knows": (
        lambda: tg.zeros(2, device="tpu"), tg.DeviceError, RuntimeError, ["'tpu'", "cpu", "cuda"]),
    "dtypes in a Linear": (
        lambda: nn.Linear(3, 2)(leaf(4, 3, dtype=np.float64)), tg.DTypeError, TypeError,
        ["Linear(3, 2)", "float64", "float32", ".to()"]),
    "dtypes in an LSTM": (
        lambda: nn.LSTM(3, 4)(leaf(5, 2, 3, dtype=np.float64)), tg.DTypeError, TypeError,
        ["LSTM(3, 4)", "float64", "float32", ".to()", "Embedding"]),
    "dtype of a state": (
        lambda: nn.RNN(3, 4)(leaf(5, 2, 3), leaf(1, 2, 4, dtype=np.float64)), tg.DTypeError,
        TypeError, ["RNN(3, 4)", "state h", "float64", "float32", ".to()"]),
    "text as an operand": (
        lambda: leaf(2) + "a", tg.DTypeError, TypeError, ["add", "str", "needed a Tensor"]),
    "logits of integers": (
        lambda: F.cross_entropy(tg.zeros((2, 3), dtype=np.int64), [0, 1]), tg.DTypeError,
        TypeError, ["cross_entropy", "int64", ".astype(tg.float32)"]),
    "ids that are no integers": (
        lambda: nn.Embedding(3, 2)([0.5]), tg.DTypeError, TypeError,
        ["Embedding", "float64", ".to(tg.int64)"]),
    # shapes, op by op
    **{
        f"shapes of {op.__name__}": (
            lambda op=op: op(leaf(2, 3), leaf(4)), tg.ShapeError, ValueError,
            [op.__name__, "(2, 3) float32", "(4,) float32", "from the right", ".reshape"])
        for op in (tg.add, tg.subtract, tg.multiply, tg.divide, tg.power, tg.maximum, tg.less)
    },
    "shapes of where": (
        lambda: tg.where(tg.tensor([True, False]), leaf(3), leaf(3)), tg.ShapeError, ValueError,
        ["where", "(2,) bool", "(3,) float32", ".reshape"]),
    "inner sizes": (
        lambda: leaf(2, 3) @ leaf(2, 3), tg.ShapeError, ValueError,
        ["matmul", "(2, 3)", "float32", ".T"]),
    "stacks of matrices": (
        lambda: leaf(2, 2, 3) @ leaf(3, 3, 4), tg.ShapeError, ValueError,
        ["matmul", "(2, 2, 3) float32", "(3, 3, 4) float32", "last two"]),
    "a product with a number": (
        lambda: leaf(2, 3) @ tg.tensor(1.0), tg.ShapeError, ValueError,
        ["matmul", "(2, 3)", "()", "use *"]),
    "einsum": (
        lambda: tg.einsum("ij,jk->ik", leaf(2, 3), leaf(2, 3)), tg.ShapeError, ValueError,
        ["einsum", "'j'", "3 and 2"]),
    "concat": (
        lambda: tg.concat([leaf(2, 3), leaf(3, 2)], 0), tg.ShapeError, ValueError,
        ["concat", "(2, 3) float32", "(3, 2) float32", ".reshape()"]),
    "concat of unequal dimensions": (
        lambda: tg.concat([leaf(2, 3), leaf(3)], 0), tg.ShapeError, ValueError,
        ["concat", "(2, 3)", "(3,)", "tg.expand_dims"]),
    "stack": (
        lambda: tg.stack([leaf(2), leaf(3)]), tg.ShapeError, ValueError,
        ["stack", "(2,)", "(3,)", "tg.concat"]),
    "reshape": (
        lambda: leaf(2, 3).reshape(4, 2), tg.ShapeError, ValueError,
        ["reshape", "(4,2)", "(2, 3) float32", "-1"]),
    "broadcast_to": (
        lambda: tg.broadcast_to(leaf(3), (2, 4)), tg.ShapeError, ValueError,
        ["broadcast_to", "(2,4)", "(3,) float32", "stretched"]),
    "an axis": (
        lambda: leaf(2, 3).sum(axis=2), tg.ShapeError, ValueError, ["sum", "axis 2", "2 dim"]),
    "an axis named twice": (
        lambda: leaf(2, 3).mean(axis=(0, -2)), tg.ShapeError, ValueError, ["mean", "twice"]),
    "permute_dims": (
        lambda: tg.permute_dims(leaf(2, 3), (0,)), tg.ShapeError, ValueError,
        ["permute_dims", "(0,)", "all 2 dimensions"]),
    "squeeze": (
        lambda: tg.squeeze(leaf(2, 3), 0), tg.ShapeError, ValueError, ["squeeze", "(2, 3)"]),
    "split": (lambda: tg.split(leaf(5), 2), tg.ShapeError, ValueError, ["split", "5", "2 equal"]),
    "pad": (
        lambda: tg.pad(leaf(2, 3), (1, 2, 3)), tg.ShapeError, ValueError,
        ["pad", "(1, 2, 3)", "needed n, (before, after)"]),
    "the largest of nothing": (
        lambda: tg.max(leaf(0, 3)), tg.ShapeError, ValueError, ["max", "(0, 3) float32", "size"]),
    "an element of many": (
        lambda: leaf(2).item(), tg.ShapeError, ValueError, ["item()", "one element", "(2,)"]),
    # shapes, layer by layer
    "Linear": (
        lambda: nn.Linear(3, 2)(leaf(4, 4)), tg.ShapeError, ValueError,
        ["Linear(3, 2)", "(..., 3)", "(4, 4)"]),
    "LSTM": (
        lambda: nn.LSTM(3, 4)(leaf(5, 2, 2)), tg.ShapeError, ValueError,
        ["LSTM(3, 4)", "(T, B, I)", "I = 3", "(5, 2, 2)"]),
    "RNN, batch first": (
        lambda: nn.RNN(3, 4, batch_first=True)(leaf(5, 2, 2)), tg.ShapeError, ValueError,
        ["RNN(3, 4)", "(B, T, I)", "(5, 2, 2)"]),
    "a table": (
        lambda: nn.LSTM(3, 4)(np.zeros((2, 1), int), table=leaf(5, 2)), tg.ShapeError, ValueError,
        ["LSTM(3, 4)", "(V, 3)", "(5, 2)"]),
    "a state batch first": (
        lambda: nn.RNN(3, 4, batch_first=True)(leaf(2, 5, 3), leaf(2, 1, 4)), tg.ShapeError,
        ValueError, ["RNN(3, 4)", "state h", "(2, 1, 4)", "(1, 2, 4)", "batch_first"]),
    "a state for another batch": (
        lambda: nn.LSTM(3, 4)(leaf(5, 2, 3), (leaf(1, 3, 4), leaf(1, 3, 4))), tg.ShapeError,
        ValueError, ["LSTM(3, 4)", "state h", "(1, 3, 4)", "(1, 2, 4)", "batch size"]),
    "a state for another layer": (
        lambda: nn.RNN(3, 4)(leaf(5, 2, 3), (leaf(1, 2, 4), leaf(1, 2, 4))), tg.ShapeError,
        ValueError, ["RNN(3, 4)", "state h", "tuple", "(1, 2, 4)"]),
    "a single state for an LSTM": (
        lambda: nn.LSTM(3, 4)(leaf(5, 2, 3), leaf(1, 2, 4)), tg.ShapeError, ValueError,
        ["LSTM", "(h, c)", "Tensor", "RNN"]),
    "cross_entropy": (
        lambda: F.cross_entropy(leaf(4, 3), np.zeros(3, int)), tg.ShapeError, ValueError,
        ["cross_entropy", "(4, 3)", "(4,)", "(3,)", "last axis"]),
    "mse_loss": (
        lambda: F.mse_loss(leaf(4, 1), np.zeros(4)), tg.ShapeError, ValueError,
        ["mse_loss", "(4, 1)", "(4,)", ".reshape()"]),
    # numbers out of range
    "an index": (
        lambda: leaf(2, 3)[5], tg.IndexingError, IndexError,
        ["getitem", "5", "axis 0", "size 2", "(2, 3) float32"]),
    "an index array": (
        lambda: leaf(2, 3)[:, np.array([0, 7])], tg.IndexingError, IndexError,
        ["getitem", "7", "(2, 3) float32"]),
    "an index array on a device": (
        lambda: leaf(2, 3, device="fake")[:, np.array([0, 7])], tg.IndexingError,
        IndexError, ["getitem", "7", "-3 <= index < 3"]),
    "a mask": (
        lambda: leaf(2, 3)[np.array([True, False, True])], tg.IndexingError, IndexError,
        ["getitem", "3", "(2, 3) float32"]),
    "an id": (
        lambda: nn.Embedding(3, 2)([5]), tg.IndexingError, IndexError,
        ["Embedding", "5", "0 <= index < 3", "vocabulary"]),
    "a target": (
        lambda: F.cross_entropy(leaf(2, 3), np.array([0, 3])), tg.IndexingError,
        IndexError, ["cross_entropy", "3", "0 <= index < 3", "classes"]),
}  # fmt: skip


@pytest.mark.parametrize("name", LESSONS)
def test_errors_name_the_op_what_was_seen_and_the_fix(name):
    call, error, built_in, words = LESSONS[name]
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, tg.TinygradError)
    assert isinstance(caught.value, built_in)
    message = str(caught.value)
    for word in words:
        assert word in message, f"{word!r} is missing in: {message}"


def test_every_error_of_the_package_is_documented_and_typed():
    ours = [v for v in vars(tg).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(ours) >= 14
    for kind in ours:
        assert kind.__doc__
        assert issubclass(kind, tg.TinygradError | Warning)


# ---- the graph behind a recurrent state ----


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_a_state_that_is_never_detached_is_noticed_once(kind, layers):
    layer, state = getattr(nn, kind)(1, 1, layers, rng=0), None
    x = tg.zeros((100, 1, 1))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(WINDOWS + 5):
            _, state = layer(x, state)
    assert [w.category for w in seen] == [tg.GraphGrowthWarning]
    assert seen[0].filename == __file__  # the line of the loop, not one of the package
    for word in (kind, "2,100 time steps", "100", "state.detach()", "no_grad"):
        assert word in str(seen[0].message)


def test_steps_of_one_are_given_more_room():
    layer, h = nn.RNN(1, 1, rng=0), None
    x = tg.zeros((1, 1, 1))
    for _ in range(STEPS + 2):
        _, h = layer(x, h)
    with pytest.warns(tg.GraphGrowthWarning, match="1,002 time steps in 1,002 windows"):
        layer(x, h)


def test_windows_of_unequal_lengths_are_noticed_too():
    layer, h = nn.RNN(1, 1, rng=0), None
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for T in [1500] + [100] * 15 + [10] * 50:
            _, h = layer(tg.zeros((T, 1, 1)), h)
    assert [w.category for w in seen] == [tg.GraphGrowthWarning]


def test_a_decoder_after_a_long_encoder_is_as_it_should_be():
    layer, h = nn.RNN(1, 1, rng=0), None
    for T in [3000] + [1] * 500 + [100]:
        _, h = layer(tg.zeros((T, 1, 1)), h)


def test_what_is_as_it_should_be_is_silent():
    """Detached between windows, without a graph, freed by a backward pass, or one long window."""
    layer, state = nn.LSTM(1, 1, rng=0), None
    x = tg.zeros((100, 1, 1))
    for _ in range(WINDOWS + 5):
        out, state = layer(x, state)
        out.sum().backward()
        state = tuple(s.detach() for s in state)
    with tg.no_grad():
        for _ in range(WINDOWS + 5):
            _, state = layer(x, state)
    layer(tg.zeros((30 * STEPS, 1, 1)))
    for _ in range(WINDOWS):
        _, state = layer(x, state)
    state[0].sum().backward()  # the graph is gone, and with it its memory
    layer(x, state)


def test_memory_is_flat_over_windows_with_exceptions_in_between():
    """Ten thousand windows, two of three broken off, forward or backward; the collector is off."""
    layer = nn.RNN(1, 2, rng=0)
    sgd = tg.optim.SGD(layer.parameters(), lr=1e-3)
    x, state = tg.zeros((3, 1, 1)), None

    def window(k):
        nonlocal state
        sgd.zero_grad()
        out, ends = layer(x, state)
        loss = out.sum()
        if k % 3 == 1:
            raise KeyError("in the middle")
        if k % 3 == 2:
            out.register_hook(lambda _: 1 / 0)
        loss.backward()
        sgd.step()
        state = ends.detach()

    def blocks_after(count):
        for k in range(count):
            with contextlib.suppress(KeyError, ZeroDivisionError):
                window(k)
        return sys.getallocatedblocks()

    gc.collect()
    gc.disable()
    try:
        before = blocks_after(8_000)  # by then Python's own stores of freed objects are full
        assert blocks_after(10_000) - before < 50
    finally:
        gc.enable()
