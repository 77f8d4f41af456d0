"""An autograd that is slow and obviously right: the oracle of `tests/test_state_machine.py`.

A tensor is an array of *cells*. A cell is one number that remembers the cells it was computed
from, and the partial derivative with respect to each of them:

    y = f(p_1, ..., p_n)        y.edges = [(p_1, ∂f/∂p_1), ..., (p_n, ∂f/∂p_n)]

The derivative of y with respect to x is a sum over paths: for every way to walk from y to x along
edges, the product of the partials met on the way. Split each path after its first edge, and the
sum over paths is

    dy/dx  =  [y is x]  +  Σ_k  ∂f/∂p_k · dp_k/dx

`slopes` is this equation, written down. Partials are cells too (that of tanh is 1 - y·y), so a
gradient is made of cells, can be differentiated by the same equation, and so on: second and third
derivatives come for nothing. Nothing here is the engine's: there is no sweep and no order, no
gradient arrives or accumulates anywhere, and broadcasting needs no undoing, because NumPy repeats a
cell by repeating the reference to it.

Three conventions make cells speak about tensors, which is what the engine deals in:

* A **hook** that multiplies by c multiplies every path through (or from, or to) its tensor by c. So
  it matters which cells a partial is written in. As the engine's rules do, those of tanh, exp and
  division name the result y, and a second derivative passes through y's hooks.
* A **partial of zero** is an edge all the same, and a new tensor has an edge from each of its cells
  to each cell of its parents: its whole Jacobian. Then a gradient is None exactly where no path
  exists, and zeros where all paths have the weight 0 (an element that nobody picked, say).
* **Freeing** is a mark on the tensors that lie between the outputs and what was asked for. A tensor
  that a recorded gradient gave marks its relatives as *perhaps* freed: how much two gradients of
  one call share is the engine's own business. `MAYBE` lets it work or raise, never be wrong.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

NO, MAYBE, YES = 0, 1, 2  # is a graph freed? and so: does a pass over it raise?


# ---- cells: numbers that know where they come from ----


class Cell:
    """A number, and how it depends on other cells; `home` is the tensor it is an element of."""

    __slots__ = ("edges", "home", "value")

    def __init__(self, value: float, edges=()) -> None:
        self.value, self.edges = value, edges
        self.home: Tensor | None = None  # None: a number on the way, as in the middle of a product


def number(x) -> float:
    return x.value if type(x) is Cell else x


def same(x):
    return x


def dot(pairs):
    """Σ u·v over the pairs: a Cell if any factor is one, else a plain number."""
    edges = []
    for u, v in pairs:
        if type(u) is Cell:
            edges.append((u, v))
        if type(v) is Cell:
            edges.append((v, u))
    total = sum(number(u) * number(v) for u, v in pairs)
    return Cell(total, edges) if edges else total


def slopes(y: Cell, wanted: set[Cell], read, memo: dict) -> dict:
    """{x: dy/dx} for the x in `wanted` that a path leads to.

    `read` is `same`, for slopes that are cells again, or `number`, for numbers only.
    """
    if y not in memo:
        terms = defaultdict(list)  # x -> the pairs (∂y/∂p, dp/dx)
        if y in wanted:
            terms[y].append((1.0, 1.0))
        for p, partial in y.edges:
            for x, slope in slopes(p, wanted, read, memo).items():
                terms[x].append((read(partial), slope))
        hooks = math.prod(y.home.factors) if y.home else 1.0
        memo[y] = {x: dot([(hooks, dot(pairs))]) for x, pairs in terms.items()}
    return memo[y]


# ---- tensors ----


class Tensor:
    """An array of cells, and the bookkeeping of whole tensors: .grad, hooks, what was freed."""

    def __init__(self, cells: np.ndarray, parents=(), *, leaf: bool = False, kin=()) -> None:
        self.cells, self.parents, self.leaf = cells, list(parents), leaf
        self.values = np.array([c.value for c in cells.flat]).reshape(cells.shape)
        self.grad: np.ndarray | None = None
        self.factors: list[float] = []  # one per hook
        self.freed = NO
        self.generations = [cells]  # the cells from before each write, and those of today
        self.uses: list[tuple[Tensor, int]] = []  # what it was computed from, after which write
        self.kin = set(kin)  # for a recorded gradient: the calls of grad it came from
        for cell in cells.flat:
            cell.home = self

    def write(self, values: np.ndarray) -> None:
        """New values in place: new cells. What was computed before keeps those it has seen."""
        fresh = Tensor(_cells([float(v) for v in values.flat], values.shape))
        self.cells, self.values = fresh.cells, fresh.values
        self.generations.append(self.cells)
        for cell in self.cells.flat:
            cell.home = self

    writes = property(lambda self: len(self.generations))
    shape = property(lambda self: self.cells.shape)
    requires_grad = property(lambda self: self.leaf or bool(self.parents))


class Call:
    """One call of grad with create_graph: its results may share parts of their graphs."""


def leaf(values: np.ndarray, *, requires_grad: bool) -> Tensor:
    return Tensor(_cells([float(v) for v in values.flat], values.shape), leaf=requires_grad)


def apply(function, operands, *, recording: bool = True) -> Tensor:
    """The result of an op below on tensors and numbers; a constant unless something is recorded."""
    known = [t for t in operands if isinstance(t, Tensor) and t.requires_grad and recording]
    plain = [t.values.astype(object) if isinstance(t, Tensor) else t for t in operands]
    taken = [
        t.cells if any(t is k for k in known) else p for t, p in zip(operands, plain, strict=True)
    ]
    result = np.asarray(function(*taken), dtype=object)
    cells = _cells(list(result.flat), result.shape)
    for cell in cells.flat:
        met = {p for p, _ in cell.edges}
        cell.edges = [*cell.edges, *((p, 0.0) for t in known for p in t.cells.flat if p not in met)]
    out = Tensor(cells, known)
    out.uses = [(t, t.writes) for t in operands if isinstance(t, Tensor)]
    return out


def _cells(items: list, shape) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    array[:] = [x if type(x) is Cell else Cell(x) for x in items]
    return array.reshape(shape)


# ---- derivatives of tensors ----


def gradients(outputs, seeds, inputs, read=number) -> list[np.ndarray | None]:
    """Σ seed · d(output)/d(input) for each input, as an array of cells or numbers."""
    wanted = {x for t in inputs for cells in t.generations for x in cells.flat}
    memo: dict = {}
    terms = defaultdict(list)
    for out, seed in zip(outputs, seeds, strict=True):
        for y, s in zip(out.cells.flat, seed.flat, strict=True):
            for x, slope in slopes(y, wanted, read, memo).items():
                terms[x].append((read(s), slope))
    found: list[np.ndarray | None] = []
    for t in inputs:
        places = list(zip(*(cells.flat for cells in t.generations), strict=True))
        sums = [[pair for x in xs for pair in terms.get(x, ())] for xs in places]
        whole = np.array([dot(pairs) for pairs in sums], dtype=object).reshape(t.shape)
        found.append(whole if any(sums) else None)
    return found


def recorded(cells: np.ndarray, sources, call: Call) -> Tensor:
    """A gradient made of cells as a tensor. Its parents are the tensors its cells lean on.

    Where it was computed from other recorded gradients, it shares in them and in their fate.
    """
    met = behind(sources)
    kin = {c for t in met for c in t.kin}
    out = Tensor(_cells(list(cells.flat), cells.shape), _homes(cells), kin={call, *kin})
    out.freed = max((min(t.freed, MAYBE) for t in met if t.kin), default=NO)
    out.uses = [(u, u.writes) for t in met for u in (t, *(v for v, _ in t.uses))]
    return out


def _homes(cells: np.ndarray) -> list[Tensor]:
    """The tensors whose cells come first on the ways down from `cells`."""
    found, seen, stack = {}, set(), [c for c in cells.flat if type(c) is Cell]
    while stack:
        for p, _ in stack.pop().edges:
            if p.home is not None:
                found[p.home] = None
            elif p not in seen:
                seen.add(p)
                stack.append(p)
    return list(found)


def backward(output: Tensor, seed: np.ndarray) -> dict[Tensor, np.ndarray]:
    """Add to the .grad of every leaf; returns the gradient of each leaf and each hooked tensor."""
    asked = [t for t in behind([output]) if t.leaf or t.factors]
    found = gradients([output], [seed], asked)
    passed = {t: g.astype(float) for t, g in zip(asked, found, strict=True)}
    for t in asked:
        if t.leaf:
            t.grad = passed[t] if t.grad is None else t.grad + passed[t]
    return passed


# ---- which tensors hang together, and what has been freed ----


def behind(tensors, cut: int = YES + 1) -> set[Tensor]:
    """The tensors themselves and all they were computed from; what is freed (`cut`) has forgotten
    its parents.
    """
    seen = set(tensors)
    stack = list(seen)
    while stack:
        t = stack.pop()
        for parent in t.parents if t.freed < cut else ():
            if parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return seen


def between(outputs, inputs=None) -> set[Tensor]:
    """The tensors that pass something on towards `inputs` (None: to any leaf)."""
    if inputs is None:
        return {t for t in behind(outputs) if t.parents}
    return {t for t in behind(outputs) if behind(t.parents) & set(inputs)}


def verdict(outputs, inputs=None) -> int:
    """Must a pass raise (YES), or may it (MAYBE), because some graph has been freed?

    A freed tensor on the way has to raise. One that is off the way need not be noticed.
    """
    on_the_way = max((t.freed for t in between(outputs, inputs)), default=NO)
    anywhere = max(t.freed for t in behind(outputs))
    return on_the_way or min(anywhere, MAYBE)


def stale(outputs, inputs=None) -> bool:
    """May a pass be refused, because something it needs was written to since?"""
    return any(t.writes != n for out in between(outputs, inputs) for t, n in out.uses)


def free(outputs, inputs=None, relatives=(), *, certain: bool = True) -> None:
    """Mark what a pass has freed; `relatives` are all the recorded gradients there are."""
    for t in between(outputs, inputs):
        t.freed = max(t.freed, YES if certain and not t.kin else MAYBE)
        for r in relatives:
            if r.kin & t.kin:
                r.freed = max(r.freed, MAYBE)


def edges_behind(tensors) -> int:
    """How large the expressions have grown: the number of edges of all cells that are reached."""
    stack = [c for t in tensors for c in t.cells.flat]
    seen, count = set(stack), 0
    while stack:
        for p, _ in stack.pop().edges:
            count += 1
            if p not in seen:
                seen.add(p)
                stack.append(p)
    return count


# ---- the ops, on arrays of cells and numbers ----


def _tanh(x):
    y = Cell(math.tanh(number(x)))
    if type(x) is Cell:
        y.edges = [(x, dot([(1.0, 1.0), (-1.0, dot([(y, y)]))]))]
    return y


def _exp(x):
    y = Cell(math.exp(number(x)))
    if type(x) is Cell:
        y.edges = [(x, y)]
    return y


def _quotient(a, b):
    """y = a/b, with ∂y/∂a = 1/b and ∂y/∂b = -y/b."""
    y, one_over = Cell(number(a) / number(b)), 1.0 / number(b)
    if type(b) is Cell:
        one_over = Cell(one_over)
        one_over.edges = [(b, dot([(-1.0, dot([(one_over, one_over)]))]))]
        y.edges = [(b, dot([(-1.0, dot([(y, one_over)]))]))]
    if type(a) is Cell:
        y.edges = [*y.edges, (a, one_over)]
    return y


def _choose(first, a, b):
    return dot([(1.0 if first else 0.0, a), (0.0 if first else 1.0, b)])


_copy = np.frompyfunc(lambda x: dot([(1.0, x)]), 1, 1)
add = np.frompyfunc(lambda a, b: dot([(1.0, a), (1.0, b)]), 2, 1)
subtract = np.frompyfunc(lambda a, b: dot([(1.0, a), (-1.0, b)]), 2, 1)
multiply = np.frompyfunc(lambda a, b: dot([(a, b)]), 2, 1)
divide = np.frompyfunc(_quotient, 2, 1)
maximum = np.frompyfunc(lambda a, b: _choose(number(a) > number(b), a, b), 2, 1)
negative = np.frompyfunc(lambda x: dot([(-1.0, x)]), 1, 1)
square = np.frompyfunc(lambda x: dot([(x, x)]), 1, 1)
tanh = np.frompyfunc(_tanh, 1, 1)
exp = np.frompyfunc(_exp, 1, 1)


def where(a, b, condition):
    return np.frompyfunc(_choose, 3, 1)(condition, a, b)


def reshape(x, shape):
    return _copy(x.reshape(shape))


def transpose(x):
    return _copy(x.T)


def getitem(x, index):
    return _copy(x[index])


def concat(a, b, axis):
    return _copy(np.concatenate([a, b], axis))


def sum_over(x, axes, keepdims):
    rest = [i for i in range(x.ndim) if i not in axes]
    rows = x.transpose([*rest, *axes]).reshape([x.shape[i] for i in rest] + [-1])
    total = np.empty(rows.shape[:-1], dtype=object)
    for i in np.ndindex(total.shape):
        total[i] = dot([(1.0, cell) for cell in rows[i]])
    return (
        total.reshape([1 if i in axes else n for i, n in enumerate(x.shape)]) if keepdims else total
    )


def matmul(a, b):
    out = np.empty((a.shape[0], b.shape[1]), dtype=object)
    for i, j in np.ndindex(out.shape):
        out[i, j] = dot(list(zip(a[i], b[:, j], strict=True)))
    return out
