"""Random programs on random graphs, held against an oracle after every step.

Hypothesis plays a user: it makes leaves, computes with them, shares and detaches results, hooks
them, writes into leaves, runs backward passes through what may have been freed, asks for gradients
and goes on computing with those, and deletes tensors, in any order. `tests/oracle.py` plays the
same program with sums over paths. After every step the two must agree on all that a user can see:
the values of every tensor that is alive, what requires a gradient, every ``.grad``, what a hook was
shown, which call raises; and, with the garbage collector off, on which nodes are still in memory.
When they do not, Hypothesis prints the shortest program it finds, with a note for every op.

Values stay within [-3, 3]: a result that is larger is scaled down by a power of two, itself a step
of the graph. So 1e-9 is a fair tolerance for everything, second derivatives included.

`tests/test_state_machine.py` runs it, and plants faults in the engine that it has to find.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import math
import sys

import numpy as np
import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import tinygrad_rnn as tg
from tests import oracle
from tests.oracle import MAYBE, YES, verdict
from tinygrad_rnn import GraphFreedError, NotDifferentiableError, SavedArrayChangedError
from tinygrad_rnn.core.primitive import Node

TOLERANCE = 1e-9
LARGEST = 3.0
MOST_EDGES = 4000  # behind the outputs of a gradient that is recorded: cells, not tensors

SHAPES = [(), (1,), (3,), (2, 1), (2, 3)]  # any two of these broadcast


class Dice:
    """What one step decides by lot: the op, operands, axes, values.

    Hypothesis chooses which rules run, in which order, and hands each step its dice. Were operands
    its choice too, the many mutations it makes of one program would repeat them: that was tried,
    took five times as long, and 200 programs undid a broadcast 28 times where these do 255 times.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.rng = seed, np.random.default_rng(seed)

    def __repr__(self) -> str:
        return f"Dice({self.seed})"

    def one_of(self, options):
        return options[self.rng.integers(len(options))]

    def chance(self, one_in: int) -> bool:
        return int(self.rng.integers(one_in)) == 0

    def values(self, shape) -> np.ndarray:
        return self.rng.uniform(-2, 2, shape)

    def mode(self):
        """How an op is recorded: (context, whether it is). Mostly it just is."""
        return self.one_of([PLAIN] * 6 + [(tg.no_grad, False), (no_grad_but_enabled, True)])


DICE = st.integers(0, 2**24 - 1).map(Dice)


def no_grad_but_enabled():
    stack = contextlib.ExitStack()
    stack.enter_context(tg.no_grad())
    stack.enter_context(tg.enable_grad())
    return stack


PLAIN = (contextlib.nullcontext, True)


def real_where(a, b, condition):
    device = (a if isinstance(a, tg.Tensor) else b).device
    return tg.where(tg.tensor(condition, device=device), a, b)


OPS = {
    "add": (lambda a, b: a + b, oracle.add),
    "subtract": (lambda a, b: a - b, oracle.subtract),
    "multiply": (lambda a, b: a * b, oracle.multiply),
    "divide": (lambda a, b: a / b, oracle.divide),
    "maximum": (tg.maximum, oracle.maximum),
    "where": (real_where, oracle.where),
    "negative": (lambda x: -x, oracle.negative),
    "square": (tg.square, oracle.square),
    "tanh": (tg.tanh, oracle.tanh),
    "exp": (tg.exp, oracle.exp),
    "reshape": (lambda x, shape: x.reshape(shape), oracle.reshape),
    "transpose": (lambda x: x.T, oracle.transpose),
    "getitem": (lambda x, index: x[index], oracle.getitem),
    "concat": (lambda a, b, axis: tg.concat([a, b], axis), oracle.concat),
    "sum": (lambda x, axes, keepdims: x.sum(axes, keepdims=keepdims), oracle.sum_over),
    "matmul": (lambda a, b: a @ b, oracle.matmul),
}
VIEWS = ["reshape", "transpose", "getitem"]  # results that may share memory with their operand

# Every other step computes something, and three of four compute or differentiate; else programs
# would be all bookkeeping.
now_and_then = precondition(lambda machine: machine.steps % 4 == 0)
every_other_step = precondition(lambda machine: machine.steps % 2 == 0)


def values_of(x):
    return x.values if isinstance(x, oracle.Tensor) else np.float64(x)


class Stop(Exception):
    """What a failing hook raises."""


class GraphMachine(RuleBasedStateMachine):
    """A program: the oracle's tensors that are `alive`, and for each of them the engine's."""

    def __init__(self, place) -> None:
        super().__init__()
        self.place = place
        self.alive: list[oracle.Tensor] = []
        self.real: dict[oracle.Tensor, tg.Tensor] = {}
        self.viewed: set[oracle.Tensor] = set()  # others may share their memory
        self.removers: dict[oracle.Tensor, list] = {}
        self.removed: set[tuple[oracle.Tensor, int]] = set()
        self.shown: list[tuple[oracle.Tensor, int, np.ndarray]] = []  # what hooks saw in one pass
        self.gradients: list[oracle.Tensor] = []  # recorded ones: see the oracle on freeing
        self.nodes: dict[int, oracle.Tensor] = {}  # by the number of the node that an op made
        self.names: dict[oracle.Tensor, str] = {}
        self.steps, self.count_nodes = 0, False
        gc.disable()
        gc.freeze()  # so that `get_objects` lists what this program made, and no more

    def teardown(self) -> None:
        self.alive, self.real, self.removers = [], {}, {}
        try:
            if sys.exc_info()[0] is None:  # else the frames of a failure hold on to nodes
                self.check_nodes()
        finally:
            gc.unfreeze()
            gc.enable()

    # ---- which tensor ----

    def any(self, dice):
        return dice.one_of(self.alive)

    def recorded(self, dice):
        return dice.one_of([t for t in self.alive if t.requires_grad] or self.alive)

    def recent(self, dice):
        """One of the youngest results whose graph is whole, so that programs grow deep."""
        results = (t for t in reversed(self.alive) if t.parents and not verdict([t]))
        return dice.one_of(list(itertools.islice(results, 4)) or self.alive)

    def name(self, t) -> str:
        if not isinstance(t, oracle.Tensor):
            return str(t)
        return self.names.setdefault(t, f"t{len(self.names)}")

    # ---- small tools ----

    def compute(self, name: str, *operands, mode=PLAIN, **options) -> oracle.Tensor:
        """The op on both sides; the result is alive until the rule ends, unless it is kept."""
        context, recording = mode
        real_op, oracle_op = OPS[name]
        with context():
            out = real_op(*(self.real.get(t, t) for t in operands), **options)
        twin = oracle.apply(functools.partial(oracle_op, **options), operands, recording=recording)
        self.real[twin] = out
        if twin.requires_grad and out.requires_grad:
            self.nodes[out._node.number] = twin
        if name in VIEWS:
            self.viewed.update([twin, *operands])
        read = ", ".join(self.name(t) for t in operands)
        note(f"    {self.name(twin)} = {name}({read})  {options or ''} {context.__name__}")
        return twin

    def keep(self, twin: oracle.Tensor) -> None:
        """Let a result live on, made small and in a shape that the others can use."""
        twin = self.tamed(self.settled(twin))
        if twin not in self.alive:
            self.alive.append(twin)

    def tamed(self, twin):
        largest = np.abs(twin.values).max()
        if largest <= LARGEST:
            return twin
        return self.compute("multiply", twin, 2.0 ** -math.ceil(math.log2(largest / LARGEST)))

    def settled(self, twin):
        """In one of `SHAPES`, or its transpose."""
        shape = twin.shape
        if shape in SHAPES or shape[::-1] in SHAPES:
            return twin
        if len(shape) == 1:
            if shape[0] == 6:
                return self.compute("reshape", twin, shape=(2, 3))
            last = shape[0] - 1
            return self.compute("getitem", twin, index=np.array([0, last, last]))
        if 1 in shape:
            return self.settled(self.compute("reshape", twin, shape=(twin.values.size,)))
        if shape[1] < 3:
            return self.settled(self.compute("sum", twin, axes=(1,), keepdims=False))
        return self.compute("getitem", twin, index=(slice(0, 2), slice(0, 3)))

    def upright(self, twin):
        """Transposed where it needs to be for broadcasting."""
        return twin if twin.shape in SHAPES else self.compute("transpose", twin)

    def matrix(self, twin):
        if len(twin.shape) == 2:
            return twin
        return self.compute("reshape", twin, shape=(twin.values.size, 1))

    def host(self, array) -> np.ndarray:
        return self.place.host(array)

    # ---- making tensors ----

    def add_leaf(self, values, requires_grad=True) -> None:
        twin = oracle.leaf(values, requires_grad=requires_grad)
        self.real[twin] = self.place.tensor(values, requires_grad=requires_grad)
        note(f"    {self.name(twin)} = leaf({values.tolist()}, requires_grad={requires_grad})")
        self.keep(twin)

    @initialize(dice=DICE)
    def begin(self, dice):
        """A leaf of every shape, so that there is something to broadcast."""
        for shape in SHAPES:
            self.add_leaf(dice.values(shape))

    @now_and_then
    @precondition(lambda self: len(self.alive) < 12)
    @rule(dice=DICE)
    def create(self, dice):
        self.add_leaf(dice.values(dice.one_of(SHAPES)), requires_grad=not dice.chance(3))

    @rule(dice=DICE)
    def combine(self, dice):
        """Elementwise, with broadcasting; one operand may be a number."""
        name = dice.one_of(["add", "subtract", "multiply", "divide", "maximum", "where"])
        a, b = self.recent(dice), (self.recent if dice.chance(4) else self.any)(dice)
        a, b = self.upright(a), self.upright(b)
        if dice.chance(5):
            b = dice.one_of([-1.5, -0.5, 0.25, 2.0])
        a, b = (b, a) if dice.chance(2) else (a, b)
        difference = values_of(a) - values_of(b)
        if name == "divide" and np.abs(values_of(b)).min() < 0.5:
            b = self.compute("add", self.compute("square", b), 1.0)
        if name == "maximum" and np.abs(difference).min() < 1e-6:
            name = "where"  # ties have a test of their own
        options = {}
        if name == "where":
            options["condition"] = np.asarray(dice.values(difference.shape) > 0)
        self.keep(self.compute(name, a, b, mode=dice.mode(), **options))

    @rule(dice=DICE)
    def transform(self, dice):
        name = dice.one_of(["negative", "square", "tanh", "exp"])
        self.keep(self.compute(name, self.recent(dice), mode=dice.mode()))

    @rule(dice=DICE)
    def move(self, dice):
        """Elements in other places, some of them twice."""
        name = dice.one_of(["reshape", "transpose", "getitem", "getitem", "concat"])
        x, y = self.recent(dice), self.any(dice)
        operands, options = [x], {}
        if name == "reshape":
            options["shape"] = x.shape[::-1]
        elif name == "getitem":
            options["index"] = an_index(x.shape, dice)
        elif name == "concat":
            options["axis"] = axis = int(dice.rng.integers(2))
            rest = [(*t.shape[:axis], *t.shape[axis + 1 :]) for t in (x, y)]
            if min(len(x.shape), len(y.shape)) < 2 or rest[0] != rest[1]:
                options["axis"] = 0
                x, y = (self.compute("reshape", t, shape=(t.values.size,)) for t in (x, y))
            operands = [x, y]
        self.keep(self.compute(name, *operands, mode=dice.mode(), **options))

    @rule(dice=DICE)
    def sum(self, dice):
        x = self.recent(dice)
        axes = tuple(a for a in dice.one_of([(), (0,), (1,), (0, 1)]) if a < len(x.shape))
        keepdims = dice.chance(2)
        self.keep(self.compute("sum", x, axes=axes, keepdims=keepdims, mode=dice.mode()))

    @rule(dice=DICE)
    def matmul(self, dice):
        """One of the two products that fit, or none."""
        a, b = self.matrix(self.recent(dice)), self.matrix(self.any(dice))
        if a.shape[1] != b.shape[0]:
            if a.shape[1] == b.shape[1]:
                b = self.compute("transpose", b)
            elif a.shape[0] == b.shape[0]:
                a = self.compute("transpose", a)
            elif a.shape[0] == b.shape[1]:
                a, b = b, a
            else:
                return
        self.keep(self.compute("matmul", a, b, mode=dice.mode()))

    @now_and_then
    @rule(dice=DICE)
    def detach(self, dice):
        x, requires_grad = self.any(dice), dice.chance(2)
        twin = oracle.leaf(x.values, requires_grad=requires_grad)
        self.real[twin] = self.real[x].detach()
        if requires_grad:
            self.real[twin].requires_grad_()
        self.viewed.update([x, twin])
        note(f"    {self.name(twin)} = {self.name(x)}.detach(), requires_grad={requires_grad}")
        self.keep(twin)

    # ---- hooks, .grad, writing, and the end of a tensor ----

    @every_other_step
    @rule(dice=DICE)
    def hook(self, dice):
        x = (self.recorded if dice.chance(2) else self.recent)(dice)
        factor = dice.one_of([-1.0, 0.5, 1.5])
        if not x.requires_grad:
            with pytest.raises(NotDifferentiableError):
                self.real[x].register_hook(lambda g: g)
            return
        position, shown, host = len(x.factors), self.shown, self.host

        def scale(g):
            shown.append((x, position, host(g.detach() if isinstance(g, tg.Tensor) else g).copy()))
            return g * factor

        note(f"    {self.name(x)}.register_hook(times {factor})")
        x.factors.append(factor)
        self.removers.setdefault(x, []).append((position, self.real[x].register_hook(scale)))

    @precondition(lambda self: any(self.removers.values()))
    @rule(dice=DICE)
    def remove_hook(self, dice):
        x = dice.one_of([t for t, removers in self.removers.items() if removers])
        note(f"    remove a hook of {self.name(x)}")
        position, remove = self.removers[x].pop()
        remove()
        x.factors[position] = 1.0
        self.removed.add((x, position))

    @now_and_then
    @precondition(lambda self: any(t.grad is not None for t in self.alive))
    @rule(dice=DICE)
    def zero_grad(self, dice):
        x = dice.one_of([t for t in self.alive if t.grad is not None])
        note(f"    {self.name(x)}.grad = None")
        self.real[x].grad = x.grad = None

    @every_other_step
    @rule(dice=DICE)
    def write(self, dice):
        """What an optimizer does: new values in the array of a leaf."""
        used = {t for result in self.alive for t, _ in result.uses}
        own = [t for t in self.alive if t in used and not t.parents and t not in self.viewed]
        if own:
            x = dice.one_of(own)
            values = dice.values(x.shape)
            note(f"    {self.name(x)}.writable()[...] = {values.tolist()}")
            self.real[x].writable()[...] = self.place.array(values)
            x.write(values)

    @now_and_then
    @precondition(lambda self: len(self.alive) > 8)
    @rule(dice=DICE)
    def delete(self, dice):
        x = self.any(dice)
        note(f"    del {self.name(x)}")
        self.alive.remove(x)
        self.removers.pop(x, None)  # a remover keeps the node it would remove the hook from
        self.count_nodes = True

    # ---- passes ----

    @every_other_step
    @rule(dice=DICE)
    def backward(self, dice):
        y = self.recorded(dice) if dice.chance(4) else self.recent(dice)
        retain = not dice.chance(3)
        given, weight = self.seed(y, dice)
        note(f"    {self.name(y)}.backward({given}, retain_graph={retain})")
        self.shown.clear()
        if not y.requires_grad:
            with pytest.raises(NotDifferentiableError):
                self.real[y].backward(given)
            return
        raises = verdict([y])
        if dice.chance(4) and not raises and not oracle.stale([y]):
            on_the_way = oracle.behind([y])
            stop_at = dice.one_of([t for t in self.alive if t in on_the_way])
            self.stopped_backward(y, stop_at, weight, retain)
            return
        try:
            self.real[y].backward(given, retain_graph=retain)
        except GraphFreedError:
            assert raises, "a graph that is whole was called freed"
            assert not self.shown
            return
        except SavedArrayChangedError:
            assert oracle.stale([y]), "nothing that this needs was written to"
            return
        assert raises < YES, "a freed graph was differentiated"
        if given is not None:
            given[...] = math.nan  # it is the caller's again
        self.check_hooks(oracle.backward(y, weight))
        if not retain:
            oracle.free([y], relatives=self.gradients)
        self.count_nodes = True

    def stopped_backward(self, y, x, weight, retain):
        """An exception half way: no .grad may change; how far the freeing went is left open."""

        def stop(g):
            raise Stop

        note(f"    stopped by a hook on {self.name(x)}")
        remove = self.real[x].register_hook(stop)
        with contextlib.suppress(Stop):
            self.real[y].backward(weight, retain_graph=retain)
            raise AssertionError("the hook that fails was not called")
        remove()
        if not retain:
            oracle.free([y], relatives=self.gradients, certain=False)

    def check_hooks(self, passed) -> None:
        """Every hook of every tensor on the way ran once, and was shown the gradient so far."""
        shown = {(x, position): g for x, position, g in self.shown}
        assert len(shown) == len(self.shown), "a hook ran twice in one pass"
        hooks = {(x, position) for x in passed for position in range(len(x.factors))}
        assert set(shown) == hooks - self.removed
        for (x, position), g in shown.items():
            agree(g * math.prod(x.factors[position:]), passed[x], "what a hook was shown")

    def seed(self, y, dice):
        """What to pass as `gradient`, and what it means to the oracle."""
        if y.values.size == 1 and dice.chance(2):
            return None, np.ones(y.shape)
        weight = dice.values(y.shape)
        return weight.copy(), weight

    @every_other_step
    @rule(dice=DICE)
    def grad(self, dice):
        """Gradients of results by results; with a graph they go on living as tensors."""
        outputs = [self.recent(dice) for _ in range(1 + dice.chance(3))]
        near = [t for t in self.alive if t in oracle.behind(outputs)]
        inputs = [dice.one_of(near) for _ in range(dice.one_of([1, 1, 2, 3]))]
        inputs += [self.recorded(dice)] if dice.chance(4) else []
        allow_unused = not dice.chance(3)
        # Third derivatives of long programs would be expressions of millions of terms.
        create_graph = not dice.chance(3) and oracle.edges_behind(outputs) < MOST_EDGES
        retain_graph = dice.one_of([None, None, True, False])
        weight = self.any(dice)
        given, weights = zip(*(self.weight(y, dice, weight) for y in outputs), strict=True)
        mode = dice.one_of([contextlib.nullcontext, contextlib.nullcontext, tg.no_grad])
        ys, xs = (", ".join(self.name(t) for t in ts) for ts in (outputs, inputs))
        note(
            f"    grad([{ys}], [{xs}], weighted by {self.name(weight)} if it fits, "
            f"{create_graph=}, {retain_graph=}, {allow_unused=}) {mode.__name__}"
        )
        call = functools.partial(
            tg.grad,
            [self.real[y] for y in outputs],
            [self.real[x] for x in inputs],
            list(given),
            create_graph=create_graph,
            retain_graph=retain_graph,
            allow_unused=allow_unused,
        )
        if not all(t.requires_grad for t in (*outputs, *inputs)):
            with pytest.raises(NotDifferentiableError):
                call()
            return
        raises = verdict(outputs, inputs)
        complete = allow_unused or oracle.behind(outputs) >= set(inputs)
        frees = not (create_graph if retain_graph is None else retain_graph)
        try:
            with mode():
                found = call()
        except GraphFreedError:
            assert raises, "a graph that is whole was called freed"
            return
        except SavedArrayChangedError:
            assert oracle.stale(outputs, inputs), "nothing that this needs was written to"
            return
        except NotDifferentiableError:
            assert not complete, "an input that is used was called unused"
            if frees:
                oracle.free(outputs, inputs, self.gradients, certain=False)
            return
        assert raises < YES, "a freed graph was differentiated"
        assert complete, "an unused input went unnoticed"
        read = oracle.same if create_graph else oracle.number
        expected = oracle.gradients(outputs, weights, inputs, read)
        if frees:
            oracle.free(outputs, inputs, self.gradients)
        for array in given:
            if isinstance(array, np.ndarray):
                array[...] = math.nan  # as in `backward`
        self.adopt(found, expected, (*outputs, weight), create_graph)
        self.count_nodes = True

    def weight(self, y, dice, weight):
        """A seed: a tensor of the right shape, which the gradient then depends on, or an array."""
        if weight.shape == y.shape:
            cells = weight.cells if weight.requires_grad else weight.values
            return self.real[weight], cells
        return self.seed(y, dice)

    def adopt(self, found, expected, sources, create_graph):
        """Check the gradients, and take them into the program (each through an op of its own)."""
        call, twins = oracle.Call(), []
        for g, cells in zip(found, expected, strict=True):
            assert (g is None) == (cells is None), "None stands for: no path"
            if g is None:
                continue
            if create_graph:
                twin = oracle.recorded(cells, sources, call)
                self.gradients.append(twin)
            else:
                twin = oracle.leaf(cells.astype(float), requires_grad=False)
            agree(self.host(g.detach()), twin.values, "a gradient")
            assert g.requires_grad == twin.requires_grad
            self.real[twin] = g
            twins.append(twin)
        for twin in twins:
            self.keep(self.compute("multiply", twin, 1.0))

    # ---- what must hold after every step ----

    @invariant()
    def everything_alive_is_as_the_oracle_says(self):
        self.steps += 1
        self.real = {t: self.real[t] for t in self.alive}
        for t, real in self.real.items():
            assert real.requires_grad == t.requires_grad
            assert real.is_leaf == (not t.parents)
            agree(self.host(real.detach()), t.values, "the values of a tensor")
            assert (real.grad is None) == (t.grad is None)
            if t.grad is not None:
                agree(self.host(real.grad), t.grad, "a .grad")
        if self.count_nodes:
            self.count_nodes = False
            self.check_nodes()

    @invariant()
    def no_grad_array_is_shared(self):
        if self.place.device == "cpu":
            grads = [t.grad for t in self.real.values() if t.grad is not None]
            others = [t.data for t in self.real.values()]
            for i, g in enumerate(grads):
                assert not any(np.shares_memory(g, other) for other in grads[:i] + others)

    def check_nodes(self) -> None:
        """In memory are the nodes that a living tensor leads to: nobody collects garbage here."""
        found = {o.number for o in gc.get_objects() if issubclass(type(o), Node)}
        least, most = (oracle.behind(self.alive, cut) for cut in (MAYBE, YES))
        of_ops = {n for n in found if n in self.nodes}
        assert of_ops >= {n for n, t in self.nodes.items() if t in least}, "a node is missing"
        assert of_ops <= {n for n, t in self.nodes.items() if t in most}, "a node was left behind"
        if not any(t.kin for t in most):
            assert found == of_ops, "a node that a rule made was left behind"


def an_index(shape, dice):
    """Rows by number, elements by number, columns by number (one of them twice); slices; a row."""
    if not shape:
        return ()
    numbers = [dice.rng.integers(-n, n, 3) for n in shape]
    for n in numbers:
        n[2] = n[0]
    kinds = [numbers[0], tuple(numbers), (..., numbers[-1]), (slice(None, None, -1),)]
    return dice.one_of([*kinds, int(numbers[0][0])])


def agree(seen: np.ndarray, expected: np.ndarray, what: str) -> None:
    assert seen.dtype == np.float64
    assert seen.shape == expected.shape, what
    scale = max(1.0, float(np.abs(expected).max()))
    assert float(np.abs(seen - expected).max()) <= TOLERANCE * scale, (what, seen, expected)


# ---- the run ----


def run(place, examples: int, **options) -> None:
    run_state_machine_as_test(
        lambda: GraphMachine(place),
        settings=settings(max_examples=examples, stateful_step_count=40, **options),
    )
