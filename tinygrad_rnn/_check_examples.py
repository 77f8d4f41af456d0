"""What ``tinygrad-rnn check`` checks, part one: every op, called as a reader would call it.

A gradient can only be compared with differences where the function is smooth: away from the kink
of relu at 0, from a tie in a max, from the pole of a logarithm. So the points stand on grids,

    Points:     ..., -3/16, -1/16,  1/16,  3/16, ...        never 0, no number twice in one input
    between:    ..., -7/64, -3/64,  1/64,  5/64, ...        never 0 either, and never one of those

and a kink at 0, at a bound of `clip` or where two inputs meet is at least 1/64 away, thousands of
times the step of the differences. Which grid points an input gets is drawn from the seed.

Shapes are small, so that every entry of the Jacobian is compared, not a few directions. Examples of
one name are one row of the table. Layers and the model are in `_check_layers.py`. A test walks the
graphs: an op of the package that has a rule and no example here fails it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_rnn.core.engine import grad
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.ops import arithmetic, convert, elementwise, indexing, linalg, reduce, shape
from tinygrad_rnn.ops.gru import gru
from tinygrad_rnn.ops.loss import softmax_cross_entropy
from tinygrad_rnn.ops.lstm import lstm
from tinygrad_rnn.ops.norm import layer_norm
from tinygrad_rnn.ops.rnn import rnn
from tinygrad_rnn.ops.sequence import limit_gradient, turned

Array = NDArray[Any]
ORDER_ONE = {"limit_gradient"}  # what cannot be differentiated twice


@dataclass(frozen=True)
class Example:
    """One call that is to be checked.

    Attributes:
        name: of its row in the table.
        fn: a function of `inputs`, or a Module.
        inputs: arrays, pairs of them, or leaves that `fn` knows and that are moved in place.
        order: up to which it is checked.
    """

    name: str
    fn: Callable[..., Any]
    inputs: Sequence[Any]
    order: int = 2


class Points:
    """Draws inputs: ``points(2, 3)`` is an array of that shape, smooth ground for any op.

    Args:
        seed: decides which points of the grid; the grid itself never changes.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, *size: int, low: float = -2, high: float = 2) -> Array:
        """Different numbers in (low, high), none of them 0."""
        return self._drawn(np.arange(low + 1 / 16, high, 1 / 8), size)

    def positive(self, *size: int) -> Array:
        """Different numbers in (0.5, 2.5): for logarithms, roots, divisors and bases."""
        return self(*size, low=0.5, high=2.5)

    def small(self, *size: int) -> Array:
        """Different numbers in (-1, 1), never 0: where no gate is saturated."""
        return self(*size) / 2

    def between(self, *size: int) -> Array:
        """Different numbers in (-2, 2) that are never those of the other two, and never 0."""
        return self._drawn(np.arange(-2 + 1 / 64, 2, 1 / 16), size)

    def ids(self, count: int, *size: int) -> Array:
        """Integers in 0 .. count - 1, with repetitions: rows of a table, or target classes."""
        return self.rng.integers(count, size=size)

    def _drawn(self, grid: Array, size: tuple[int, ...]) -> Array:
        return self.rng.choice(grid, math.prod(size), replace=False).reshape(size)


def ops(seed: int) -> list[Example]:
    """An example or more for each op of the package."""
    points = Points(seed)
    families = (_arithmetic, _elementwise, _reductions, _shapes, _picking, _products, _fused)
    return [
        Example(name, fn, inputs, 1 if name in ORDER_ONE else 2)
        for family in families
        for name, fn, *inputs in family(points)
    ]


Row = tuple[Any, ...]  # a name, a function, and its inputs


def _arithmetic(p: Points) -> Iterator[Row]:
    """Of two numbers; the shapes broadcast, so that un-broadcasting is checked along with each."""
    a, b = p(2, 3), p.between(3)
    yield "add", arithmetic.add, a, b
    yield "add", lambda x: x + x + 1, a
    yield "subtract", arithmetic.subtract, a, p.between(2, 1)
    yield "subtract", lambda x: 1 - x, a
    yield "multiply", arithmetic.multiply, p(2, 1), p.between(1, 3)
    yield "multiply", lambda x: x * x * 3, a
    yield "divide", arithmetic.divide, a, p.positive(3)
    yield "divide", lambda x: 2 / x, p.positive(2, 3)
    yield "power", arithmetic.power, p.positive(2, 1), b
    yield "power", lambda x: x**3 + 2**x, a
    yield "maximum", arithmetic.maximum, a, b
    yield "minimum", arithmetic.minimum, a, b
    choice = np.array([[True, False, True], [False, True, True]])
    yield "where", lambda x, y: arithmetic.where(choice, x, y), a, b
    yield "negative", arithmetic.negative, a
    yield "log", arithmetic.log, p.positive(2, 3)


def _elementwise(p: Points) -> Iterator[Row]:
    """Of one number."""
    for op in (
        elementwise.exp, elementwise.expm1, elementwise.square, elementwise.sin, elementwise.cos,
        elementwise.tanh, elementwise.sigmoid, elementwise.softplus, elementwise.relu,
        elementwise.abs, elementwise.sign, elementwise.erf,
    ):  # fmt: skip
        yield op.__name__, op, p(2, 3)
    yield "log1p", elementwise.log1p, p(2, 3, low=-0.75, high=2)
    yield "reciprocal", elementwise.reciprocal, p.positive(2, 3)
    yield "sqrt", elementwise.sqrt, p.positive(2, 3)
    yield "gelu", elementwise.gelu, p(2, 3)
    yield "gelu", lambda x: elementwise.gelu(x, approximate="tanh"), p(2, 3)
    yield "clip", lambda x: elementwise.clip(x, -1, 1), p(3, 4)
    yield "clip", elementwise.clip, p(2, 3), -p.positive(3) - 1 / 32, p.positive(2, 1) - 1 / 32
    yield "astype", lambda x: convert.astype(x, np.float64), p(2, 3)
    # Where there is one device there is no way to it; moving from "cpu" to "cpu" is the same rule.
    yield "transfer", lambda x: convert._transfer(x, device="cpu", origin="cpu"), p(2, 3)


def _reductions(p: Points) -> Iterator[Row]:
    """Over several axes with the others between them, over one, and over all."""
    several: list[Any] = [reduce.sum, reduce.mean, reduce.var, reduce.std, reduce.norm]
    for op in (*several, reduce.logsumexp):
        yield op.__name__, partial(op, axis=(0, 2)), p(2, 3, 2)
        yield op.__name__, partial(op, axis=-1, keepdims=True), p(2, 3)
        yield op.__name__, op, p(2, 3)
    for op in (reduce.max, reduce.min):
        yield op.__name__, partial(op, axis=(0, 2)), p(2, 3, 2)
        yield op.__name__, partial(op, axis=0, keepdims=True), p(3, 2)
    for order in (1, 3):
        yield "norm", partial(reduce.norm, ord=order, axis=1), p(2, 3)
    yield "norm", lambda x: reduce.norm(x, math.inf, 1), p.positive(2, 3)
    zeros = np.array([[0.5, 0.0, 2.0], [0.0, 0.0, 1.5]])  # a product may hold a 0, or two
    yield "prod", lambda x: reduce.prod(x, axis=1), zeros
    yield "prod", lambda x: reduce.prod(x, axis=(0, 2)), p(2, 2, 2)
    yield "cumsum", lambda x: reduce.cumsum(x, 0), p(3, 2)
    yield "cumsum", reduce.cumsum, p(2, 3)
    for op in (reduce.softmax, reduce.log_softmax):
        yield op.__name__, op, p(2, 3)
        yield op.__name__, partial(op, axis=0), p(3, 2)


def _shapes(p: Points) -> Iterator[Row]:
    """What moves numbers and leaves them as they are."""
    yield "reshape", lambda x: shape.reshape(x, 3, 2), p(2, 3)
    yield "ravel", shape.ravel, p(2, 3)
    yield "permute_dims", lambda x: shape.permute_dims(x, (2, 0, 1)), p(2, 3, 2)
    yield "transpose", shape.transpose, p(2, 3)
    yield "matrix_transpose", shape.matrix_transpose, p(2, 1, 3)
    yield "swapaxes", lambda x: shape.swapaxes(x, 0, 2), p(2, 3, 1)
    yield "expand_dims", lambda x: shape.expand_dims(x, (0, 2)), p(2, 3)
    yield "squeeze", lambda x: shape.squeeze(x, 1), p(2, 1, 3)
    yield "broadcast_to", lambda x: shape.broadcast_to(x, (2, 2, 3)), p(2, 1)
    yield "flip", lambda x: shape.flip(x, 1), p(2, 3)
    yield "roll", lambda x: shape.roll(x, 1, 1), p(2, 3)
    yield "roll", lambda x: shape.roll(x, (1, -1), (0, 1)), p(3, 3)
    yield "tril", lambda x: shape.tril(x, -1), p(3, 3)
    yield "triu", lambda x: shape.triu(x, 1), p(3, 3)
    yield "pad", lambda x: shape.pad(x, ((1, 0), (0, 2)), constant_value=1.5), p(2, 3)
    yield "concat", lambda x, y: shape.concat([x, y, x], 1), p(2, 1), p(2, 3)
    yield "stack", lambda x, y: shape.stack([x, y], -1), p(2, 3), p(2, 3)
    yield "split", lambda x: shape.split(x, [1], 1), p(2, 3)
    yield "unstack", lambda x: shape.unstack(x, 1), p(2, 3)
    yield "repeat", lambda x: shape.repeat(x, 2, 0), p(2, 3)
    yield "tile", lambda x: shape.tile(x, (2, 2)), p(2, 2)


def _picking(p: Points) -> Iterator[Row]:
    """Elements by number; a number that comes twice gets both gradients."""
    twice, table = np.array([2, 0, 2]), Tensor(p(3, 2), requires_grad=True)
    yield "getitem", lambda x: x[1:, ::2], p(3, 4)
    yield "getitem", lambda x: x[twice, 1], p(3, 2)
    yield "getitem", lambda x: x[np.array([[True, False], [True, True]])], p(2, 2)
    # The gradient of picking is to scatter: here as a function of the gradient that comes in.
    yield "scatter", lambda g: grad(table[twice], table, g, create_graph=True), p(3, 2)
    yield "take", lambda x: indexing.take(x, twice, 1), p(2, 3)
    order = np.array([[0, 2, 2], [1, 0, 1]])
    yield "take_along_axis", lambda x: indexing.take_along_axis(x, order, 1), p(2, 3)
    turns = np.array([[1, 2], [0, 1], [2, 0]])  # a row of two steps and one of three, backwards
    yield "turned", lambda x: turned(x, order=turns), p(3, 2, 2)
    yield "limit_gradient", lambda x: limit_gradient(x, limit=1e9), p(2, 3)  # below the limit


def _products(p: Points) -> Iterator[Row]:
    """Matrices, also in stacks, and vectors on either side."""
    yield "matmul", linalg.matmul, p(2, 3), p(3, 2)
    yield "matmul", linalg.matmul, p(2, 1, 2, 3), p(3, 1)
    yield "matmul", linalg.matmul, p(3), p(2, 3, 2)
    yield "matmul", linalg.matmul, p(2, 3), p(3)
    yield "linear", linalg.linear, p(2, 2, 3), p(4, 3), p(4)
    yield "dot", linalg.dot, p(2, 3), p(3)
    yield "outer", linalg.outer, p(2), p(3)
    yield "einsum", lambda x, y: linalg.einsum("bij,kj->bki", x, y), p(2, 2, 2), p(3, 2)
    yield "einsum", lambda x: linalg.einsum("ii->i", x), p(3, 3)


def _fused(p: Points) -> Iterator[Row]:
    """What is written by hand. Order 1 checks the hand-written backward, order 2 its specification.

    The windows have T = 2 steps of B = 2 rows. The biases are off the grid by what no sum of
    products of grid points cancels, so that the first pre-activation of a relu is never 0; that a
    later one comes within 1e-5 of it is a matter of odds, and with the default seed none does.
    """
    targets = np.array([2, -100, 0])  # -100 is ignored
    for options in (
        {"reduction": "mean"},
        {"reduction": "sum", "label_smoothing": 0.25},
        {"reduction": "none"},
    ):
        yield (
            "softmax_cross_entropy",
            partial(softmax_cross_entropy, targets=targets, **options),
            p(3, 3),
        )
    yield "layer_norm", layer_norm, p(2, 3), p(3), p(3)
    yield "layer_norm", partial(layer_norm, dims=2, eps=0.5), p(2, 2, 2)
    ids = p.ids(3, 2, 2)  # (T, B) rows of a table (V, I)
    for f in ("tanh", "relu"):
        weights = p.small(2, 2), p.small(2, 2), p.small(2) + 0.0173, p.small(2) + 0.0173
        yield f"rnn ({f})", partial(rnn, nonlinearity=f), p.small(2, 2, 2), p.small(2, 2), *weights
        yield (
            f"rnn ({f})",
            partial(rnn, nonlinearity=f, ids=ids),
            p.small(3, 2),
            p.small(2, 2),
            *weights,
        )
    gates = [p.small(8, 2), p.small(8, 2), p.small(8), p.small(8)]  # I = H = 2
    yield "lstm", lstm, p.small(2, 2, 2), p.small(2, 2), p.small(2, 2), *gates
    yield "lstm", partial(lstm, ids=ids), p.small(3, 2), p.small(2, 2), p.small(2, 2), *gates
    bare = [p.small(8, 1), p.small(8, 2)]  # I = 1, H = 2, no biases
    no_bias = partial(lstm, b_ih=None, b_hh=None)
    yield "lstm", no_bias, p.small(2, 1, 1), p.small(1, 2), p.small(1, 2), *bare
    gates = [p.small(6, 2), p.small(6, 2), p.small(6), p.small(6)]
    yield "gru", gru, p.small(2, 2, 2), p.small(2, 2), *gates
    yield "gru", partial(gru, ids=ids), p.small(3, 2), p.small(2, 2), *gates
    ended = np.array([[False, False], [True, False]])  # the first row is over after one step
    yield "gru", partial(gru, ended=ended), p.small(2, 2, 2), p.small(2, 2), *gates
