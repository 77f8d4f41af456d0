"""The backward sweep: order, ownership, what is kept and what is let go."""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import sys
import threading
import weakref

import numpy as np
import pytest

import tinygrad_rnn as tg
from tests import checking
from tinygrad_rnn.core import engine
from tinygrad_rnn.core.carriers import Part
from tinygrad_rnn.core.clock import written
from tinygrad_rnn.core.grad_mode import recording
from tinygrad_rnn.core.primitive import Node, nodes_behind
from tinygrad_rnn.ops import gru as gru_ops
from tinygrad_rnn.ops import lstm as lstm_ops
from tinygrad_rnn.ops import rnn as rnn_ops


@contextlib.contextmanager
def collector_off():
    """Only reference counting frees memory within."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def live_nodes() -> int:
    return sum(issubclass(type(o), Node) for o in gc.get_objects())


def nodes_of(tensor) -> list:
    """Every node of a graph, leaves left out."""
    return [node for node in nodes_behind([tensor]) if isinstance(node, Node)]


def window(x, w):
    h = x
    for _ in range(3):
        h = tg.tanh(h @ w)
    return (h * h).sum()


# ---- memory ----


def test_graphs_are_freed_by_reference_counting(backend):
    """A thousand windows, dropped with and without a backward pass: nothing waits for the gc."""
    x, w = (backend.tensor(np.eye(2), requires_grad=True) for _ in range(2))
    with collector_off():
        before = live_nodes()
        for k in range(1000):
            loss = window(x, w)
            if k % 2:
                loss.backward(retain_graph=bool(k % 4 == 1))
        loss = window(x, w)
        assert live_nodes() == before + 8  # the last graph, and no other
        del loss
        assert live_nodes() == before


def test_graphs_of_gradients_are_freed_by_reference_counting(backend):
    x, w = (backend.tensor(np.eye(2), requires_grad=True) for _ in range(2))
    with collector_off():
        before = live_nodes()
        for _ in range(20):
            gx, gw = tg.grad(window(x, w), [x, w], create_graph=True)
            (gx * gw).sum().backward()
        del gx, gw
        assert live_nodes() == before


def test_saved_arrays_go_with_the_backward_pass():
    x = tg.tensor(np.ones(3), requires_grad=True)
    y = tg.tanh(x)
    loss = y.sum()
    saved = weakref.ref(y._data)
    del y
    assert saved() is not None  # tanh's rule asked for its result
    loss.backward()
    assert saved() is None  # although `loss` is still here


def test_a_chain_of_100_000_nodes():
    """No recursion: not forward, not backward, and not when the chain is freed."""
    assert sys.getrecursionlimit() < 100_000
    x = tg.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(100_000):
        y = y + 1
    y.backward(retain_graph=True)
    assert x.grad == 1
    (second,) = tg.grad(y, x, create_graph=True)
    assert second.item() == 1
    del y, second


def test_nodes_hold_what_rules_ask_for():
    """Forty sums hold no array; a product holds its two factors; tanh only its result."""
    a = tg.tensor(np.ones(3), requires_grad=True)
    b = tg.tensor(np.ones(3), requires_grad=True)
    y = a
    for _ in range(40):
        y = y + b
    nodes = nodes_of(y)
    assert len(nodes) == 40
    assert sum(len(args) for n in nodes for _, _, args, _ in n.edges) == 0
    t = tg.tanh(a)
    held = [args for _, _, args, _ in t._node.edges]
    assert [[array is t._data for array in args] for args in held] == [[True]]
    held = [args for _, _, args, _ in (a * b)._node.edges]
    assert [[x._data for x in (b,)], [x._data for x in (a,)]] == [list(args) for args in held]
    # No gradient for b, so nothing keeps a alive for it.
    assert len((a * b.detach())._node.edges) == 1
    assert [x is b._data for x in (a * b.detach())._node.kept] == [True]


def test_what_to_keep_is_worked_out_once_for_each_set_of_inputs():
    product = tg.primitive(lambda a, b: a * b)
    product.vjp(a=lambda g, b: g * b, b=lambda g, a: g * a)
    a, b = (tg.tensor(np.ones(3), requires_grad=True) for _ in range(2))
    for _ in range(3):
        both, one, other = product(a, b), product(a, b.detach()), product(a.detach(), b)
        product(a.detach(), b.detach())
    plans = [node.plan for node in (both._node, one._node, other._node)]
    assert [[i for i, *_ in plan] for plan in plans] == [[0, 1], [0], [1]]
    assert [plan.edges for plan in product.plans.values()] == plans
    product.vjp(b=lambda g, a: 2 * g * a)  # a rule given later counts from the next call on
    product(a, b).sum().backward()
    np.testing.assert_array_equal(b.grad, 2 * np.ones(3))


def test_nothing_is_kept_behind_an_input_that_gets_no_gradient():
    first = tg.primitive(lambda a, b: a + 0 * b)
    first.vjp(a=lambda g: g, b=None)
    a, b = (tg.tensor(np.ones(3), requires_grad=True) for _ in range(2))
    behind = tg.tanh(b)
    y = first(a, behind)
    before = weakref.ref(behind)
    assert y._node.parents == [a._node, None]
    del behind
    assert before() is None
    y.sum().backward()
    assert b.grad is None


def test_a_slice_of_a_single_number_is_added_to_its_sum(backend):
    """NumPy's sum of two arrays without dimensions is a scalar, which cannot be written into."""
    x = backend.tensor(2.0, requires_grad=True)
    part = x[...]
    (x * 2 + x * 3 + part).backward()  # the part is oldest: it arrives at a sum of the others
    assert backend.host(x.grad) == 6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gradient_that_fits_is_passed_on_after_one_look(monkeypatch, dtype):
    """NumPy has one object for each native dtype, and the sweep asks whether it is that object.

    A leaf with a dtype object of its own would be right, and twice as slow.
    """
    fitted, fit = [], engine._fit
    monkeypatch.setattr(engine, "_fit", lambda *args: fitted.append(args) or fit(*args))
    a, b = (tg.tensor([1.0, 2.0], dtype=dtype, requires_grad=True) for _ in range(2))
    (a * b + b).sum().backward()
    assert not fitted
    (a * b.sum()).sum().backward()  # broadcast: this one has to be summed
    assert len(fitted) == 1


def test_an_op_on_a_constant_has_no_node():
    x = tg.tensor(np.ones(3))
    assert (x * 2)._node is None
    assert (x.detach() + x).is_leaf
    y = tg.tensor(np.ones(3), requires_grad=True)
    assert (y > 0)._node is None  # a bool result leads nowhere
    assert y.argmax()._node is None


def lstm_arrays(T=4, B=2, I=3, H=2):
    rng = np.random.default_rng(0)
    sizes = [(T, B, I), (B, H), (B, H), (4 * H, I), (4 * H, H), (4 * H,), (4 * H,)]
    return [rng.standard_normal(s) for s in sizes]


def test_a_window_of_an_lstm_is_one_node(backend):
    inputs = checking.leaves(backend, lstm_arrays())
    states = lstm_ops.lstm(*inputs)
    y, carry = states[1:-1], states[-2:]
    assert len(nodes_of(states)) == 1
    assert len(nodes_of(y)) == len(nodes_of(carry)) == 2


def test_nothing_is_kept_without_a_backward_to_come(backend):
    """Under no_grad a fused op is told to keep no cache, and nothing is recorded."""
    inputs = checking.leaves(backend, lstm_arrays())
    asked = []

    @tg.fused(spec=lambda x: x)
    def probe(x, *, keep):
        asked.append(keep)
        return x, None

    with tg.no_grad():
        assert not lstm_ops.lstm(*inputs).requires_grad
        probe(inputs[0])
    probe(inputs[0].detach())
    probe(inputs[0])
    assert asked == [False, False, True]


# ---- values: reuse, accumulation, ownership ----


def test_reuse(backend):
    a, b, c = (backend.tensor(v, requires_grad=True) for v in (2.0, 3.0, 4.0))
    (a + a).backward()
    assert backend.host(a.grad) == 2
    d = a + b  # the exam graph: b is used again below
    e = d + c
    (d * e * b).backward()
    # f = (a+b)(a+b+c)b at (2, 3, 4): df/da = 5*3 + 9*3, and 2 from before.
    assert backend.host(a.grad) == 2 + 42
    assert backend.host(b.grad) == 42 + 45
    assert backend.host(c.grad) == 15


def test_many_paths():
    """2**30 paths from the end to the beginning, thirty nodes: every node is visited once."""
    x = tg.tensor(np.float64(1), requires_grad=True)
    y = x
    for _ in range(30):
        y = y + y
    y.backward()
    assert x.grad == 2**30


def test_gradients_never_alias(backend):
    """`add` hands one array to both parents; what leaves keep are arrays of their own."""
    a, b = (backend.tensor(np.ones((2, 3)), requires_grad=True) for _ in range(2))
    seed = backend.tensor(np.ones((2, 3)))
    (a + b).backward(seed)
    c = a.detach().requires_grad_()
    (c.reshape(3, 2).T + 0).backward(backend.tensor(np.ones((2, 3))))
    arrays = [a.grad, b.grad, c.grad, seed.data, a.data, b.data]
    for p, q in itertools.combinations(arrays[:-1], 2):
        assert not checking.shares_memory(p, q)
    assert all(g.flags.c_contiguous for g in arrays)


def test_accumulation(backend):
    x = backend.tensor(np.arange(3.0), requires_grad=True)
    (x * x).sum().backward()
    first = x.grad
    kept = backend.host(first)
    (x * x).sum().backward()
    np.testing.assert_array_equal(backend.host(x.grad), 2 * kept)
    np.testing.assert_array_equal(backend.host(first), kept)  # a gradient once read stays
    x.grad = None
    (x * x).sum().backward()
    np.testing.assert_array_equal(backend.host(x.grad), kept)


def test_grads_are_plain_arrays_of_the_leaf(backend):
    for dtype in (np.float32, np.float64):
        x = backend.tensor(np.ones((), dtype), requires_grad=True)
        (x * 2 + x).backward()
        assert (type(x.grad), x.grad.shape, x.grad.dtype) == (type(x.data), (), dtype)


def test_zero_seed_gives_zeros(backend):
    x = backend.tensor(np.array([1.0, 2.0]), requires_grad=True)
    tg.log(x).backward(backend.tensor(np.zeros(2)))
    np.testing.assert_array_equal(backend.host(x.grad), 0)


def test_seed_forms(backend):
    x = backend.tensor(np.ones(2), requires_grad=True)
    for seed in ([1.0, 2.0], np.array([1.0, 2.0], np.float32), backend.tensor([1.0, 2.0])):
        x.grad = None
        (x * 3).backward(seed)
        np.testing.assert_array_equal(backend.host(x.grad), [3, 6])
        assert x.grad.dtype == np.float64
    with pytest.raises(tg.ShapeError, match=r"\(3,\).*\(2,\)"):
        (x * 3).backward(np.ones(3))
    with pytest.raises(tg.ShapeError, match=r"\.sum\(\)"):
        (x * 3).backward()
    for options in ({}, {"create_graph": True}):
        with pytest.raises(tg.ShapeError):
            tg.grad(x * 3, x, backend.tensor(np.ones((2, 2))), **options)


# ---- all or nothing ----


@pytest.mark.parametrize("failing", range(6))
def test_a_failing_rule_leaves_every_grad_as_it_was(backend, failing):
    """Whichever rule of the sweep raises, no `.grad` changes: not even those already computed."""
    calls = itertools.count()

    def rule(g):
        if next(calls) == failing:
            raise ArithmeticError("planted")
        return g

    op = tg.primitive(lambda x: x * 1)
    op.vjp(x=rule)
    xs = [backend.tensor(np.full(2, float(i)), requires_grad=True) for i in range(6)]
    for x in xs[::2]:
        x.grad = backend.array(np.ones(2))
    before = [x.grad for x in xs]
    loss = sum((op(x) for x in xs[1:]), op(xs[0])).sum()
    with pytest.raises(ArithmeticError, match="planted"):
        loss.backward()
    for x, was in zip(xs, before, strict=True):
        assert x.grad is was
        assert was is None or (backend.host(was) == 1).all()


def test_a_failing_hook_leaves_every_grad_as_it_was():
    a, b = (tg.tensor(np.ones(2), requires_grad=True) for _ in range(2))
    b.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        (a * b).sum().backward()
    assert a.grad is None
    assert b.grad is None


def test_wrong_rules_stop_the_sweep(backend):
    """A wrong shape or dtype never passes on in silence, and the message names the op."""
    x = backend.tensor(np.ones((2, 3), np.float32), requires_grad=True)

    def mangle(x):
        return x * 1

    for rule, error in [
        (lambda g: g[0, :2], tg.ShapeError),
        (lambda g: g.reshape((3, 2)), tg.ShapeError),
        (lambda g: g.astype(np.float64), tg.DTypeError),
        (lambda g: g.astype(np.int64), tg.DTypeError),
        (lambda g: [1.0] * len(g), tg.DTypeError),
    ]:
        op = tg.primitive(mangle)
        op.vjp(x=rule)
        with pytest.raises(error, match=r"mangle|no backend knows"):
            op(x).sum().backward()
        assert x.grad is None


def test_rules_are_read_at_import():
    """A rule that names something unknown fails where it is given, not in a backward pass."""
    op = tg.primitive(lambda a, b, *, n=1: a * b * n)
    for rule in (lambda x: x, lambda g, c: g * c, lambda g, *, m: g * m, lambda: 0):
        with pytest.raises(TypeError, match="needed 'g' first"):
            op.vjp(a=rule)
    with pytest.raises(TypeError, match="no input 'z'"):
        op.vjp(z=lambda g: g)


def test_options_left_out_reach_the_rule():
    op = tg.primitive(lambda x, *, n=3: x * n)
    op.vjp(x=lambda g, *, n: g * n)
    x = tg.tensor(1.0, requires_grad=True)
    assert tg.grad(op(x), x)[0].item() == 3
    assert tg.grad(op(x, n=5), x)[0].item() == 5


# ---- freed graphs ----


def test_a_second_backward_says_what_to_do(backend):
    x = backend.tensor(np.ones(2), requires_grad=True)
    y = x * 2
    loss = (y * y).sum()
    loss.backward()
    once = backend.host(x.grad)
    for again in (loss, y.sum()):
        with pytest.raises(tg.GraphFreedError, match=r"(?s)detach\(\).*retain_graph=True"):
            again.backward()
    np.testing.assert_array_equal(backend.host(x.grad), once)


def test_retain_graph(backend):
    x = backend.tensor(np.ones(2), requires_grad=True)
    loss = (x * x).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    np.testing.assert_array_equal(backend.host(x.grad), [4, 4])
    with pytest.raises(tg.GraphFreedError):
        loss.backward()


def test_grad_frees_unless_told_otherwise():
    x = tg.tensor(2.0, requires_grad=True)
    y = x * x
    tg.grad(y, x, retain_graph=True)
    (g,) = tg.grad(y, x, create_graph=True)
    tg.grad(g, x)
    assert tg.grad(y, x)[0].item() == 4  # g's own pass has freed g's graph, not y's
    with pytest.raises(tg.GraphFreedError):
        tg.grad(y, x)


# ---- tg.grad ----


def test_grad_of_several_outputs_and_inputs(backend):
    x, y, z = (backend.tensor(v, requires_grad=True) for v in (2.0, 3.0, 5.0))
    p, q = x * y, x * x
    gx, gp = tg.grad([p, q], [x, p])
    assert (gx.item(), gp.item()) == (3 + 4, 1)
    assert x.grad is None
    p, q = x * y, x * x
    seeds = [backend.tensor(10.0), None]
    assert [g.item() for g in tg.grad([p, q], [x, y], seeds)] == [34, 20]
    p = x * y
    with pytest.raises(tg.NotDifferentiableError, match=r"\[1\].*allow_unused"):
        tg.grad(p, [x, z])
    p = x * y
    assert tg.grad(p, [z, x], allow_unused=True)[0] is None
    with pytest.raises(tg.ShapeError, match="1 outputs but 2"):
        tg.grad([x * y], [x], [None, None])
    with pytest.raises(tg.NotDifferentiableError, match="requires_grad_"):
        tg.grad(p, x.detach())
    with pytest.raises(tg.DTypeError, match=r"ndarray|Array"):
        tg.grad(p, [x.data])


def test_a_refused_grad_frees_nothing(backend):
    """That an input is not used is found out before the first rule runs."""
    x, unused = (backend.tensor(np.ones(2), requires_grad=True) for _ in range(2))
    y = (x * x).sum()
    with pytest.raises(tg.NotDifferentiableError, match=r"\[1\]"):
        tg.grad(y, [x, unused])
    y.backward()
    np.testing.assert_array_equal(backend.host(x.grad), [2, 2])
    opaque = tg.primitive(lambda a, b: a + b)
    opaque.vjp(a=lambda g: g, b=None)  # b can be reached and is passed no gradient
    with pytest.raises(tg.NotDifferentiableError, match=r"\[0\]"):
        tg.grad(opaque(x, unused * 1.0).sum(), unused)


def test_grad_of_a_result_and_of_what_it_came_from(backend):
    """A non-leaf input gets its whole gradient, and the sweep still goes on past it."""
    x = backend.tensor(3.0, requires_grad=True)
    y = x * x
    z = y * x
    gy, gx = tg.grad(z, [y, x])
    assert (gy.item(), gx.item()) == (3, 27)


def test_create_graph_within_no_grad(backend):
    """Sums of gradients are recorded like everything else, or the second derivative is wrong."""
    x = backend.tensor(2.0, requires_grad=True)
    y = x * x * x
    with tg.no_grad():
        (g,) = tg.grad(y, x, create_graph=True)
    assert tg.grad(g, x)[0].item() == 12


def test_seeds_are_differentiable(backend):
    """d/dw <w, f(x)>' is f'(x): a seed given as a Tensor keeps its place in the graph."""
    x = backend.tensor([1.0, 2.0], requires_grad=True)
    w = backend.tensor(np.array([3, 4], np.float32), requires_grad=True)
    (g,) = tg.grad(x * x, x, w, create_graph=True)
    (gw,) = tg.grad(g.sum(), w)
    np.testing.assert_array_equal(backend.host(gw), [2, 4])
    assert gw.dtype == np.float32


def test_third_order(backend):
    x = backend.tensor(0.5, requires_grad=True)
    y = tg.sin(x)
    for expected in (np.cos(0.5), -np.sin(0.5), -np.cos(0.5), np.sin(0.5)):
        (y,) = tg.grad(y, x, create_graph=True)
        assert y.item() == pytest.approx(expected, rel=1e-14)


def test_an_input_asked_for_twice_in_a_no_grad_block_has_two_graphs(backend):
    """Found by the random machine: the second answer is a copy, made after the sweep."""
    x = backend.tensor(2.0, requires_grad=True)
    y = x * x * x
    with tg.no_grad():
        first, second = tg.grad(y, [x, x], create_graph=True)
    for g in (first, second):
        assert tg.grad(g, x, retain_graph=True)[0].item() == 12


# ---- slices ----


def test_the_gradients_of_slices_are_written_into_one_array(backend, monkeypatch):
    """A loop over T steps of x: T arrays as large as x would cost T * T."""
    began = []
    added_to = Part.added_to
    monkeypatch.setattr(
        Part, "added_to", lambda p, total: began.append(total is None) or added_to(p, total)
    )
    x = backend.tensor(np.arange(12.0).reshape(6, 2), requires_grad=True)
    whole = (x * x).sum()
    (sum((x[t] * x[t] for t in range(6)), 0.0).sum() + whole).backward()
    np.testing.assert_array_equal(backend.host(x.grad), 4 * backend.host(x))
    assert len(began) == 12  # twice x[t]
    assert sum(began) <= 1


@pytest.mark.parametrize(
    "index", [2, slice(1, None, 2), (slice(None), -1), (..., None), (0, 1), slice(0, 0)]
)
def test_slices_meet_other_gradients_in_any_order(backend, index):
    x = backend.tensor(np.arange(12.0).reshape(4, 3), requires_grad=True)
    expected = np.ones((4, 3))
    expected[index] += 2
    for parts in ((x.sum(), (x[index] * 2).sum()), ((x[index] * 2).sum(), x.sum())):
        (g,) = tg.grad(parts[0] + parts[1], x)
        np.testing.assert_array_equal(backend.host(g), expected)
    seed = backend.tensor(np.ones((4, 3)))
    (g,) = tg.grad([x * 1, x[index]], x, [seed, backend.tensor(2 * np.ones(x[index].shape))])
    np.testing.assert_array_equal(backend.host(g), expected)
    np.testing.assert_array_equal(backend.host(seed), np.ones((4, 3)))  # borrowed, not written to


# ---- double backward of fused ops ----


@pytest.mark.parametrize("which", ["rnn", "lstm", "gru"])
def test_double_backward_where_one_input_comes_from_another(backend, which):
    """The trap: h0 is computed from x, so the partial derivatives by x and h0 must not mix.

    The fused op and its specification are run through the same meta-gradient.
    """
    arrays = lstm_arrays()
    if which == "rnn":
        op, spec, options = rnn_ops.rnn, rnn_ops.specification, {"nonlinearity": "tanh"}
        arrays = [a[:2] if a.shape[0] == 8 else a for i, a in enumerate(arrays) if i != 2]
    elif which == "gru":
        op, spec, options = gru_ops.gru, gru_ops.specification, {}
        arrays = [a[:6] if a.shape[0] == 8 else a for i, a in enumerate(arrays) if i != 2]
    else:
        op, spec, options = lstm_ops.lstm, lstm_ops.specification, {}

    def meta(function):
        x, *rest = checking.leaves(backend, arrays)
        states, weights = rest[: len(rest) - 4], rest[-4:]
        # h0 from x and from a weight: three ways by which x reaches the loss.
        started = [tg.tanh(x[0, :, :2] * weights[0].sum()) + s for s in states]
        out = function(x, *started, *weights, **options)
        loss = (out * out * out).sum()
        inputs = [x, *rest]
        first = tg.grad(loss, inputs, create_graph=True)
        penalty = sum(((g * g).sum() for g in first[1:]), (first[0] * first[0]).sum())
        second = tg.grad(penalty, inputs)
        return [backend.host(t) for t in (loss, *first, *second)]

    for fused, plain in zip(meta(op), meta(spec), strict=True):
        np.testing.assert_allclose(fused, plain, rtol=1e-9, atol=1e-9 * np.abs(plain).max())


# ---- hooks ----


def test_hooks_see_and_replace(backend):
    x = backend.tensor(np.ones(2), requires_grad=True)
    y = x * 3
    seen = []
    remove = y.register_hook(lambda g: seen.append(backend.host(g)))
    y.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: g + 1)
    (y * 2).sum().backward()
    np.testing.assert_array_equal(seen, [[2, 2]])
    np.testing.assert_array_equal(backend.host(x.grad), [61, 61])
    y = x * 3
    remove()
    remove()  # twice does no harm
    (y * 2).sum().backward()
    assert len(seen) == 1


def test_removed_hooks_are_not_called():
    x = tg.tensor(1.0, requires_grad=True)
    remove = x.register_hook(lambda g: g * 100)
    remove()
    (x * 2).backward()
    assert x.grad == 2


def test_a_hook_may_keep_what_it_is_given_and_what_it_returns():
    x = tg.tensor(np.ones(3), requires_grad=True)
    given, returned = [], np.full(3, 7.0)
    x.register_hook(given.append)
    x.register_hook(lambda _: returned)
    (x * 2 + x * 3).sum().backward()  # two arrivals: the sum is the sweep's own array
    np.testing.assert_array_equal(x.grad, 7)
    assert not np.shares_memory(x.grad, returned)
    given[0][...] = -1
    np.testing.assert_array_equal(x.grad, 7)


def test_hooks_are_checked():
    for wrong in (lambda g: g[:1], lambda g: g.astype(np.float32)):
        x = tg.tensor(np.ones(3), requires_grad=True)
        x.register_hook(wrong)
        with pytest.raises(tg.ShapeError, match="hook on 'leaf'"):
            (x * 2).sum().backward()
    with pytest.raises(tg.NotDifferentiableError, match="requires_grad_"):
        tg.tensor(1.0).register_hook(print)


def test_hooks_under_create_graph_are_differentiated():
    x = tg.tensor(np.float64(3), requires_grad=True)
    x.register_hook(lambda g: g * g)
    (g,) = tg.grad(x * x, x, create_graph=True)  # (2x)**2
    assert g.item() == 36
    h = tg.grad(g, x)[0].item()  # the hook squares again: (8x)**2
    assert h == 24**2


# ---- no_grad ----


def test_no_grad_nests_and_survives_exceptions():
    x = tg.tensor(1.0, requires_grad=True)
    with tg.no_grad():
        assert not (x * 2).requires_grad
        with tg.enable_grad():
            assert (x * 2).requires_grad
            with pytest.raises(KeyError), tg.no_grad():
                raise KeyError
            assert recording.enabled
        assert not recording.enabled
    assert recording.enabled
    mode = tg.no_grad()  # one instance, entered twice
    with mode, mode:
        assert not recording.enabled
    assert recording.enabled


def test_no_grad_as_decorator():
    @tg.no_grad()
    def evaluate(x, *, fail=False):
        """Docstring."""
        if fail:
            raise KeyError
        return x * 2

    x = tg.tensor(1.0, requires_grad=True)
    assert not evaluate(x).requires_grad
    with pytest.raises(KeyError):
        evaluate(x, fail=True)
    assert recording.enabled
    assert (evaluate.__name__, evaluate.__doc__) == ("evaluate", "Docstring.")


def test_no_grad_on_a_generator_switches_step_by_step():
    """The caller, who runs between the steps, keeps the mode that is the caller's."""
    seen, closed = [], []

    @tg.no_grad()
    def samples():
        try:
            while True:
                seen.append(recording.enabled)
                try:
                    got = yield recording.enabled
                except KeyError:
                    got = "error"
                if got == "stop":
                    return "done"
        finally:
            closed.append(True)

    steps = samples()
    assert next(steps) is False
    assert recording.enabled
    assert steps.send("on") is False
    assert steps.throw(KeyError) is False
    assert recording.enabled
    with pytest.raises(StopIteration) as stop:
        steps.send("stop")
    assert stop.value.value == "done"
    other = samples()
    next(other)
    other.close()
    assert closed == [True, True]
    assert recording.enabled
    assert not any(seen)


def test_threads_have_their_own_switch():
    """Eight threads toggle at once: none sees another's mode, and their gradients are right."""
    leaks, start = [], threading.Barrier(8)

    def work(number):
        x = tg.tensor(np.float64(number), requires_grad=True)
        start.wait()
        for _ in range(500):
            with tg.no_grad():
                if (x * x).requires_grad:
                    leaks.append(number)
            y = x * x
            if not y.requires_grad:
                leaks.append(number)
            y.backward()
        if x.grad != 500 * 2 * number:
            leaks.append((number, x.grad))

    with tg.no_grad():  # a new thread starts in the default mode, whatever this one's is
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not recording.enabled
    assert not leaks


def test_one_instance_serves_many_threads():
    """A shared `no_grad()` keeps no state of its own: what to go back to belongs to the thread."""
    mode, failures = tg.no_grad(), []

    def work():
        for _ in range(3000):
            try:
                with mode:
                    pass
            except IndexError as error:
                failures.append(error)
        if not recording.enabled:
            failures.append("left off")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failures


# ---- copies ----


def test_deepcopy_of_a_leaf(backend):
    x = backend.tensor(np.ones(2), requires_grad=True)
    (x * 2).sum().backward()
    twin = copy.deepcopy(x)
    assert twin.requires_grad
    assert twin.device == x.device
    np.testing.assert_array_equal(backend.host(twin.grad), [2, 2])
    assert not checking.shares_memory(twin.data, x.data)
    assert not checking.shares_memory(twin.grad, x.grad)
    (twin * 3).sum().backward()
    np.testing.assert_array_equal(backend.host(x.grad), [2, 2])


def test_deepcopy_of_a_result_is_refused():
    x = tg.tensor(1.0, requires_grad=True)
    with pytest.raises(tg.NotDifferentiableError, match=r"'multiply'.*detach"):
        copy.deepcopy(x * 2)
    assert copy.deepcopy((x * 2).detach()).item() == 2


# ---- leaves ----


def test_what_can_require_a_gradient():
    with pytest.raises(tg.DTypeError, match="int64"):
        tg.tensor([1, 2], requires_grad=True)
    x = tg.tensor(1.0, requires_grad=True)
    with pytest.raises(tg.NotDifferentiableError, match="detach"):
        (x * 2).requires_grad_(False)
    x.requires_grad = False
    assert (x * 2).is_leaf
    with pytest.raises(tg.NotDifferentiableError, match="requires_grad_"):
        x.backward()
    with pytest.raises(tg.DTypeError, match="needed a Tensor"):
        tg.backward(x.data)


def test_assigned_grads_are_checked(backend):
    x = backend.tensor(np.ones(2), requires_grad=True)
    x.grad = backend.tensor(np.zeros(2))
    assert type(x.grad) is type(x.data)
    for wrong in (backend.array(np.zeros(3)), backend.array(np.zeros(2, np.float32)), 1.0):
        with pytest.raises(tg.ShapeError, match="float64"):
            x.grad = wrong
    y = x * 2
    assert y.grad is None
    y.grad = None
    with pytest.raises(tg.NotDifferentiableError, match="leaf"):
        y.grad = x.grad


def test_writable_is_for_leaves_and_stamps():
    x = tg.tensor(np.ones(2), requires_grad=True)
    assert written(x.data) == 0
    x.writable()[...] = 5
    assert x.tolist() == [5, 5]
    assert written(x.data[1:]) > x._node.number  # a view has been written to as well
    with pytest.raises(tg.NotDifferentiableError, match="leaf"):
        (x * 2).writable()


# ---- how an op may be called ----


def test_inputs_given_by_name_are_inputs():
    x = tg.tensor([3.0, 5.0], requires_grad=True)
    for call, expected in (
        (lambda: tg.multiply(x, b=2.0), [2.0, 2.0]),
        (lambda: tg.multiply(b=x, a=2.0), [2.0, 2.0]),
        (lambda: tg.power(x, b=2), [6.0, 10.0]),
        (lambda: tg.divide(x, b=tg.tensor([2.0, 4.0])), [0.5, 0.25]),
        (lambda: x.maximum(b=4.0), [0.0, 1.0]),
        (lambda: tg.square(x=x), [6.0, 10.0]),
    ):
        (g,) = tg.grad(call().sum(), x)
        assert g.tolist() == expected
    for wrong in (lambda: tg.multiply(x), lambda: tg.square(x, x), lambda: tg.add(x, c=1.0)):
        with pytest.raises(TypeError, match="takes the inputs"):
            wrong()


def test_an_input_with_a_default_is_refused_at_import():
    with pytest.raises(TypeError, match="keyword-only"):

        @tg.primitive
        def scale(x, k=2.0):
            return x * k


def test_what_is_no_real_array_is_refused_or_made_one():
    x = tg.tensor(np.eye(2) + 1, requires_grad=True)
    product = x * np.array([[1, 2], [3, 4]]).view(np.matrix)  # a matrix' own * is another
    assert product.tolist() == [[2.0, 2.0], [3.0, 8.0]]
    for odd in (np.ones((2, 2)) * 1j, np.complex64(1j), np.ones((2, 2), np.longdouble)):
        with pytest.raises(tg.DTypeError):
            x * odd
    with pytest.raises(tg.DTypeError, match="mask"):
        x * np.ma.masked_array(np.eye(2), np.eye(2))
    with pytest.raises(tg.DTypeError):
        tg.from_dlpack(np.ones(2) * 1j)


def test_a_fused_op_may_return_a_scalar_and_leave_a_gradient_out():
    @tg.fused(spec=lambda a, b: (a * a).sum() + 0.0 * b.sum())
    def total(a, b, *, keep):
        return (a * a).sum(), ((a,) if keep else None)

    @total.backward
    def _(g, cache, needs):
        return 2 * g * cache[0], None

    a, b = (tg.tensor([1.0, 2.0], dtype=tg.float64, requires_grad=True) for _ in range(2))
    (total(a, b) + 1.0).backward()
    assert a.grad.tolist() == [2.0, 4.0]
    assert b.grad is None


def test_grad_leaves_the_node_of_a_result_it_was_asked_about():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    h = x * x
    (g,) = tg.grad((h * 3.0).sum(), h)
    assert g.tolist() == [3.0, 3.0]
    h.sum().backward()  # the part before h was not walked, and is still there
    assert x.grad.tolist() == [2.0, 4.0]
