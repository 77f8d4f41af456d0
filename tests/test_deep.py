"""Deep and wide graphs: no recursion anywhere, linear in the number of nodes, small nodes.

Counted, not timed: nodes, bytes and objects.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.core import engine
from tinygrad_rnn.core.primitive import Node
from tinygrad_rnn.viz import graph_lines, graph_text

MILLION = 1_000_000


@pytest.fixture
def counting_only():
    """Only reference counting frees memory, and the recursion limit is Python's own."""
    assert sys.getrecursionlimit() <= 10_000
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def chain(x, length):
    for _ in range(length):
        x = x + 1.0
    return x


# ---- a million deep ----


def test_a_million_nodes_forward_drawn_backward_and_freed(counting_only):
    x = tg.tensor(1.0, requires_grad=True)
    before = sys.getallocatedblocks()
    y = chain(x, MILLION)
    assert y.item() == 1.0 + MILLION
    built = sys.getallocatedblocks() - before
    lines = graph_lines(y)
    first = next(lines)
    assert first.split()[:2] == [str(MILLION), "add"]
    assert 1 + sum(1 for _ in lines) == MILLION + 1  # the chain, and its leaf
    y.backward(retain_graph=True)
    assert x.grad == 1
    x.grad = None
    y.backward()
    assert x.grad == 1
    del y, lines
    left = sys.getallocatedblocks() - before
    assert built > 3 * MILLION  # the count sees them ...
    assert left < 10_000  # ... and sees them go; Python keeps a few thousand blocks for itself


@pytest.mark.parametrize(
    "op", [tg.tanh, lambda x: x * 0.5, lambda x: x + x], ids=["f(x)", "a x", "x + x"]
)
def test_a_node_takes_less_than_a_kilobyte(counting_only, op):
    """Forward, and at the peak of the backward pass, its small arrays included."""
    n = 20_000  # of zeros, which no op makes larger
    x = tg.tensor(0.0, requires_grad=True)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        y = x
        for _ in range(n):
            y = op(y)
        built = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.reset_peak()
        tg.grad(y, x, np.float32(0.0))
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert built / n < 1000
    assert peak / n < 1000


def test_create_graph_goes_as_deep(counting_only):
    x = tg.tensor(np.float64(0.5), requires_grad=True)
    y = x
    for _ in range(30_000):
        y = y * 1.0
    (g,) = tg.grad(y * y, x, create_graph=True)
    assert tg.grad(g, x)[0].item() == 2.0


# ---- wide ----


def test_a_hundred_thousand_consumers_of_one_tensor(counting_only):
    n = 100_000
    x = tg.tensor(np.float64(1), requires_grad=True)
    total = tg.stack([x * 2.0 for _ in range(n)]).sum()
    assert total.item() == 2 * n
    total.backward()
    assert x.grad == 2 * n
    y = x * 1.0
    for _ in range(n):  # the same without a stack: every sum is a consumer
        y = y + x
    (g,) = tg.grad(y, x)
    assert g.item() == n + 1


def test_each_node_is_visited_once_however_many_paths_there_are(monkeypatch):
    """2**200 paths: the sweep pulls on each node once, which is what linear means."""
    pulled = []
    original = engine.Arrays.pull
    monkeypatch.setattr(
        engine.Arrays,
        "pull",
        staticmethod(lambda node, g, wanted: pulled.append(node) or original(node, g, wanted)),
    )
    x = tg.tensor(np.float64(1), requires_grad=True)
    y = x
    for _ in range(200):
        y = (y + y) * 0.5
    y.backward()
    assert x.grad == 1
    assert len(pulled) == len(set(pulled)) == 400


# ---- nothing is left over ----


def test_graphs_that_are_dropped_vanish_by_reference_counting_alone(counting_only):
    """Of every kind: plain, fused, of gradients, of errors in the middle, watched, drawn."""
    layer = tg.nn.LSTM(2, 2, 2, rng=0)
    x = tg.ones((3, 1, 2), requires_grad=True)

    def nodes():
        return sum(isinstance(o, Node) for o in gc.get_objects())

    def graphs():
        out, _ = layer(x)
        yield out
        (g,) = tg.grad((out * out).sum(), x, create_graph=True)
        yield g
        graph_text(g)
        with tg.detect_anomaly():
            yield layer(x)[0].sum()
            with pytest.raises(tg.NonFiniteError):
                tg.log(x * 0.0)
        out.register_hook(lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            out.sum().backward()

    before = nodes()
    for graph in graphs():
        assert nodes() > before
        del graph
    gc.collect()  # the frames of a raised exception are a cycle of Python's making
    assert nodes() == before


# ---- as text ----


def test_a_graph_as_text():
    x, w = (tg.tensor(np.ones((2, 3), np.float32), requires_grad=True) for _ in range(2))
    lines = graph_text((tg.tanh(x) * w).sum()).splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["4", "sum"], ["3", "multiply"], ["2", "tanh"], ["1", "leaf"], ["0", "leaf"],
    ]  # fmt: skip
    assert "from 2, 1   keeps the input 'b', the input 'a'" in lines[1]
    assert "(2, 3)" in lines[2]
    assert "keeps its own result" in lines[2]
    assert graph_text(chain(x, 100), limit=3).splitlines()[3] == "... and 98 older ones"
    loss = (x * x).sum()
    loss.backward()
    assert "freed" in graph_text(loss)
    with pytest.raises(tg.NotDifferentiableError, match="no graph"):
        graph_text(x.detach())
