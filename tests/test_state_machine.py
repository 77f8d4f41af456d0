"""Random programs against an oracle (`tests/graph_machine.py`), and whether they notice a fault.

A machine that cannot fail proves nothing: each fault below is planted in the engine, and has to be
found.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings

import tinygrad_rnn as tg
from tests import oracle
from tests.conftest import Place
from tests.graph_machine import Stop, run
from tinygrad_rnn.backends.numpy_backend import NumpyBackend
from tinygrad_rnn.core import engine
from tinygrad_rnn.core import node as nodes
from tinygrad_rnn.core.carriers import Part
from tinygrad_rnn.core.primitive import Node
from tinygrad_rnn.ops import indexing


def test_random_programs_agree_with_sums_over_paths(backend):
    run(backend, settings.default.max_examples)


# ---- the oracle itself, where a closed form exists ----


def test_the_oracle_knows_three_derivatives_of_a_cube_and_of_tanh():
    x = oracle.leaf(np.array([0.5]), requires_grad=True)
    cube = oracle.apply(oracle.multiply, (oracle.apply(oracle.square, (x,)), x))
    y = oracle.apply(oracle.tanh, (x,))
    t = math.tanh(0.5)
    closed = [
        (cube, [3 * 0.5**2, 6 * 0.5, 6.0]),
        (y, [1 - t**2, -2 * t * (1 - t**2), (6 * t**2 - 2) * (1 - t**2)]),
    ]
    for out, derivatives in closed:
        for expected in derivatives:
            (cells,) = oracle.gradients([out], [np.ones(1)], [x], oracle.same)
            out = oracle.recorded(cells, [out], oracle.Call())
            assert out.values == pytest.approx([expected], rel=1e-14)


# ---- does it have teeth? faults planted in the engine, each of which it has to find ----


def second_arrival_overwrites(monkeypatch):
    def arrive(node, g, arrived, owned, carrier):
        arrived[node] = g

    monkeypatch.setattr(engine, "_arrive", arrive)


def second_arrival_is_added_into_the_borrowed_array(monkeypatch):
    def arrive(node, g, arrived, owned, carrier):
        if node not in arrived:
            arrived[node] = g
        elif carrier.plain and arrived[node].flags.writeable:  # of the others NumPy takes care
            arrived[node] += g
        else:
            arrived[node] = arrived[node] + g

    monkeypatch.setattr(engine, "_arrive", arrive)


def a_slice_overwrites(monkeypatch):
    monkeypatch.setattr(
        Part,
        "added_to",
        lambda part, _: indexing._scatter(part.g, index=part.index, shape=part.shape),
    )


def a_second_backward_overwrites_grad(monkeypatch):
    sweep = engine._sweep

    def forgetful(*args, targets, **options):
        found = sweep(*args, targets=targets, **options)
        for leaf in found if targets is None else ():
            leaf.grad = None
        return found

    monkeypatch.setattr(engine, "_sweep", forgetful)


def nodes_are_visited_as_they_are_found(monkeypatch):
    collect = engine._collect

    def unsorted(roots, floor):
        seen, queue = [], list(roots)
        for node in queue:
            if node not in seen:
                seen.append(node)
                queue += [p for p in node.parents or () if p is not None]
        whole = set(collect(roots, floor))
        return [node for node in seen if node in whole]

    monkeypatch.setattr(engine, "_collect", unsorted)


def a_hook_only_looks(monkeypatch):
    run_hooks = engine._run_hooks

    def ignore(node, g, carrier):
        run_hooks(node, g, carrier)
        return g

    monkeypatch.setattr(engine, "_run_hooks", ignore)


def a_removed_hook_stays(monkeypatch):
    register = tg.Tensor.register_hook

    def sticky(tensor, hook):
        remove = register(tensor, hook)
        return remove if hook.__name__ == "stop" else lambda: None

    monkeypatch.setattr(tg.Tensor, "register_hook", sticky)


def detach_does_not_cut(monkeypatch):
    monkeypatch.setattr(tg.Tensor, "detach", lambda t: engine.wrap(t._data, t._node))


def no_grad_records(monkeypatch):
    monkeypatch.setattr(tg.no_grad, "enabled", True)


def enable_grad_does_not(monkeypatch):
    monkeypatch.setattr(tg.enable_grad, "enabled", False)


def unbroadcast_forgets_to_sum_stretched_axes(monkeypatch):
    def first_only(g, shape):
        g = g.sum(axis=tuple(range(g.ndim - len(shape))))
        return g[tuple(slice(0, n) for n in shape)]

    monkeypatch.setattr(engine, "unbroadcast", first_only)


def unbroadcast_takes_the_mean(monkeypatch):
    unbroadcast = engine.unbroadcast

    def mean(g, shape):
        return unbroadcast(g, shape) * (math.prod(shape) / math.prod(g.shape))

    monkeypatch.setattr(engine, "unbroadcast", mean)


def a_repeated_index_counts_once(monkeypatch):
    def assign(backend, target, index, values):
        target[index] = values

    monkeypatch.setattr(NumpyBackend, "scatter_add", assign)


def saved_arrays_have_no_place_in_the_graph(monkeypatch):
    place = nodes._in_place_of
    monkeypatch.setattr(nodes, "_in_place_of", lambda value, _: place(value, None))


def a_freed_graph_ends_in_silence(monkeypatch):
    def free(node):
        node.parents, node.plan = (), ()

    monkeypatch.setattr(Node, "free", free)


def nothing_is_freed(monkeypatch):
    monkeypatch.setattr(Node, "free", lambda _: None)


def everything_is_freed(monkeypatch):
    sweep = engine._sweep

    def careless(*args, retain_graph, **options):
        return sweep(*args, retain_graph=False, **options)

    monkeypatch.setattr(engine, "_sweep", careless)


def grad_writes_dot_grad(monkeypatch):
    sweep = engine._sweep

    def leaky(*args, **options):
        found = sweep(*args, **options)
        for node, g in found.items():
            if type(node) is engine.Leaf and node.grad is None and not isinstance(g, tg.Tensor):
                node.grad = g
        return found

    monkeypatch.setattr(engine, "_sweep", leaky)


def leaves_share_one_gradient(monkeypatch):
    monkeypatch.setattr(engine.Arrays, "own", staticmethod(lambda g, **_: g))


def an_error_leaves_half_of_the_gradients(monkeypatch):
    hooks = engine._run_hooks

    def early(node, g, carrier):
        try:
            return hooks(node, g, carrier)
        except Stop:
            if type(node) is engine.Leaf:
                node.grad = g
            raise

    monkeypatch.setattr(engine, "_run_hooks", early)


def nodes_are_left_in_a_cycle(monkeypatch):
    init = Node.__init__

    def cyclic(node, *args):
        init(node, *args)
        node.hooks = {-1: lambda _: None if node else node}

    monkeypatch.setattr(Node, "__init__", cyclic)


def a_write_goes_unnoticed(monkeypatch):
    monkeypatch.setattr(engine, "check_saved", lambda *_, **__: None)


FAULTS = [
    second_arrival_overwrites,
    second_arrival_is_added_into_the_borrowed_array,
    a_slice_overwrites,
    a_second_backward_overwrites_grad,
    nodes_are_visited_as_they_are_found,
    a_hook_only_looks,
    a_removed_hook_stays,
    detach_does_not_cut,
    no_grad_records,
    enable_grad_does_not,
    unbroadcast_forgets_to_sum_stretched_axes,
    unbroadcast_takes_the_mean,
    a_repeated_index_counts_once,
    saved_arrays_have_no_place_in_the_graph,
    a_freed_graph_ends_in_silence,
    nothing_is_freed,
    everything_is_freed,
    grad_writes_dot_grad,
    leaves_share_one_gradient,
    an_error_leaves_half_of_the_gradients,
    nodes_are_left_in_a_cycle,
    a_write_goes_unnoticed,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_planted_in_the_engine_is_found(fault, monkeypatch):
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        run(
            Place("cpu"),
            2000,  # at most: the first program that shows the fault ends the search
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
