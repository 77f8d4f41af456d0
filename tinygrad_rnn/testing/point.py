"""One op at one point: its graph, made once, and the questions that properties put to it.

With x all inputs together, J the Jacobian of ``y = f(x)`` at x, and < , > the inner product, the
backward pass with weight u gives

    J^T u  =  d<u, f> / dx                      `Point.pull`:      order 1

and that is itself a function, of x and of u, with a backward pass of its own. With coefficients c,

    d<c, J^T u> / dx ,   d<c, J^T u> / du = J c          `Gradient.pull`:   order 2

The last of these is worth a second look: the derivative of a vector-Jacobian product by its vector
is a Jacobian-vector product, exact, and made of nothing but backward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from tinygrad_rnn.core.engine import grad
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.errors import GradcheckError
from tinygrad_rnn.ops.shape import concat, ravel
from tinygrad_rnn.testing.places import Place

Host: TypeAlias = "np.ndarray[Any, Any]"
Op: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """One call: differentiable inputs, in float64, and the rest."""

    arrays: tuple[Host, ...]
    function: Op
    options: dict[str, Any] = field(default_factory=dict)

    def op(self, *tensors: Any) -> Any:
        """The function of the inputs alone."""
        return self.function(*tensors, **self.options)


class Point:
    """`op` at `arrays`, on one device; whatever several properties need is computed once."""

    def __init__(
        self, place: Place, op: Op, arrays: Sequence[Any], seed: int, layout: str = "fortran"
    ) -> None:
        self.place, self.layout = place, layout
        self.op: Op = lambda *tensors: joined(op(*tensors))
        self.arrays = [np.asarray(a) for a in arrays]
        self.inputs = place.leaves(self.arrays)
        self.out = self.op(*self.inputs)
        # All random numbers at once, so that a property finds the same whatever ran before it.
        rng = np.random.default_rng(seed)
        shapes = [*(a.shape for a in self.arrays), self.out.shape]
        drawn = [[np.asarray(rng.standard_normal(s)) for s in shapes] for _ in range(3)]
        *self.coefficients, self.weight = drawn[0]
        *self.other_coefficients, self.other_weight = drawn[1]
        self.directions = drawn[2]
        self.chosen = int(rng.integers(max(len(self.arrays), 1)))

    def value(self, arrays: Sequence[Host]) -> Host:
        """f at other inputs, with nothing recorded."""
        return self.place.host(self.op(*(self.place.tensor(a) for a in arrays)))

    def gradients(self, arrays: Sequence[Host], weight: Host) -> list[Host]:
        """J^T weight at other inputs."""
        leaves = self.place.leaves(arrays)
        return self.pull_from([self.op(*leaves)], [weight], leaves)

    def pull(self, weight: Host) -> list[Host]:
        """J^T weight, for each input; zeros where nothing depends on it."""
        return self.pull_from([self.out], [weight], self.inputs)

    def pull_both(self, outs: list[Any], weights: list[Host]) -> list[Host]:
        """The sum of J^T weight over several uses of the same inputs, in one pass."""
        return self.pull_from(outs, weights, self.inputs)

    def pull_from(self, outs: list[Any], weights: list[Host], leaves: list[Tensor]) -> list[Host]:
        """d (sum of <weight, out>) / d leaves, on the host."""
        if not outs[0].requires_grad:
            return [np.zeros(t.shape, t.dtype) for t in leaves]
        seeds = [self.place.tensor(w) for w in weights]
        found = grad(outs, leaves, seeds, allow_unused=True, retain_graph=True)
        return self.hosts(leaves, found)

    def hosts(self, inputs: Sequence[Tensor], found: Sequence[Any]) -> list[Host]:
        """Gradients on the host; zeros for None."""
        return [
            np.zeros(t.shape, t.dtype) if g is None else self.place.host(g)
            for t, g in zip(inputs, found, strict=True)
        ]

    @cached_property
    def again(self) -> Any:
        """A second use of the same inputs, built after the first."""
        return self.op(*self.inputs)

    @cached_property
    def first(self) -> list[Host]:
        """J^T weight."""
        return self.pull(self.weight)

    @cached_property
    def first_other(self) -> list[Host]:
        """J^T other_weight."""
        return self.pull(self.other_weight)

    @cached_property
    def gradient(self) -> Gradient:
        """The gradient at this point, recorded."""
        return Gradient(self, self.out)

    @cached_property
    def gradient_again(self) -> Gradient:
        """The same for the second use."""
        return Gradient(self, self.again)


class Gradient:
    """J^T weight as a function of the inputs and of the weight, recorded by ``create_graph``."""

    def __init__(self, point: Point, out: Any) -> None:
        self.point = point
        self.weight = point.place.tensor(point.weight, requires_grad=True)
        self.inputs = [*point.inputs, self.weight]
        self.found: list[Any] = [None] * len(point.inputs)
        if out.requires_grad:
            self.found = list(
                grad(out, point.inputs, self.weight, create_graph=True, allow_unused=True)
            )

    def ends(self, coefficients: list[Host]) -> list[tuple[Any, Tensor]]:
        """The gradients that depend on anything, each with its coefficients."""
        return [
            (g, self.point.place.tensor(c))
            for g, c in zip(self.found, coefficients, strict=True)
            if g is not None and g.requires_grad
        ]

    def tensors(self, coefficients: list[Host]) -> list[Any]:
        """The derivative of <coefficients, J^T weight>: by each input, and by the weight."""
        return derivatives(self.ends(coefficients), self.inputs)

    def pull(self, coefficients: list[Host]) -> list[Host]:
        """The same on the host, with zeros where nothing depends."""
        return self.point.hosts(self.inputs, self.tensors(coefficients))

    @cached_property
    def second(self) -> list[Host]:
        """For the first set of coefficients."""
        return self.pull(self.point.coefficients)

    @cached_property
    def second_other(self) -> list[Host]:
        """For the other set."""
        return self.pull(self.point.other_coefficients)


def derivatives(ends: list[tuple[Any, Tensor]], inputs: list[Tensor]) -> list[Any]:
    """The derivative of the sum of <coefficients, gradient> over `ends`, by each of `inputs`."""
    if not ends:  # gradients that do not depend on anything
        return [None] * len(inputs)
    found, seeds = ([*column] for column in zip(*ends, strict=True))
    return list(grad(found, inputs, seeds, allow_unused=True, retain_graph=True))


def joined(result: Any) -> Any:
    """One Tensor out of however many: ``(out, (h, c))`` becomes one long vector of all three."""
    if isinstance(result, Tensor):
        return result
    if not isinstance(result, tuple | list):
        raise GradcheckError(
            f"it returned {type(result).__name__}; needed a Tensor, or a tuple of Tensors"
        )
    return concat([ravel(t) for t in _flat(result)], 0)


def _flat(result: Any) -> list[Tensor]:
    if isinstance(result, tuple | list):
        return [t for part in result for t in _flat(part)]
    return [joined(result)]
