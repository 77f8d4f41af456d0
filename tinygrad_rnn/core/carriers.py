"""What the gradients of a sweep are made of: plain arrays, or Tensors that record themselves.

The sweep (`core/engine.py`) hands gradients on and adds them up; how, it leaves to its *carrier*.
Both do the same six things:

    pull          ask a node for the gradients of its parents
    add_in_place  add to a sum that is the sweep's own
    own           a gradient that nobody else can write to
    result        a gradient as a Tensor, another one if it has been given out before
    mend          what a rule or a hook returned, as the carrier's own kind
    kind          the array library it is held by
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from tinygrad_rnn import backends
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.fused import identity
from tinygrad_rnn.core.tensor import Tensor, wrap


class Part:
    """A gradient that is 0 but for a slice: what ``x[t]`` sends back to `x`, on plain arrays.

    The sweep adds it to the sum of `x` in place. Written out with all its zeros it would be as
    large as `x`, and a loop over T steps of `x` would cost T * T.
    """

    __slots__ = ("g", "index", "shape")

    def __init__(self, g: Array, index: Any, shape: tuple[int, ...]) -> None:
        self.g, self.index, self.shape = g, index, shape

    def added_to(self, total: Array | None) -> Array:
        """`total` with the slice added, in place; if None, the gradient written out."""
        if total is None:
            total = backends.namespace(self.g).zeros(self.shape, dtype=self.g.dtype)
            total[self.index] = self.g
        else:
            total[self.index] += self.g
        return total


class Arrays:
    """First order: gradients are plain arrays."""

    plain = True
    add_in_place: Callable[[Any, Any], Any] = staticmethod(operator.iadd)
    kind: Callable[[Any], type] = staticmethod(type)

    @staticmethod
    def pull(node: Any, g: Array, wanted: set[Any] | None) -> list[tuple[Any, Array]]:
        return node.gradients(g, wanted)  # type: ignore[no-any-return] # nodes are Any here

    @staticmethod
    def mend(g: Any) -> Array:
        return as_array(g)

    @staticmethod
    def own(g: Array, *, already: bool) -> Array:
        """`g` as a C-contiguous array that nobody else can write to."""
        return g if already and g.flags.c_contiguous else g.copy(order="C")

    @staticmethod
    def result(g: Array, *, again: bool) -> Tensor:
        return wrap(g.copy() if again else g, None)


class Tensors:
    """Any order: gradients are Tensors, and the rules record themselves as they run."""

    plain = False
    add_in_place: Callable[[Any, Any], Any] = staticmethod(operator.add)  # Tensors are immutable

    @staticmethod
    def kind(g: Tensor) -> type:
        return type(g._data)

    @staticmethod
    def pull(node: Any, g: Tensor, wanted: set[Any] | None) -> list[tuple[Any, Tensor]]:
        return node.recorded_gradients(g, wanted)  # type: ignore[no-any-return] # as above

    @staticmethod
    def mend(g: Any) -> Tensor:
        return g if isinstance(g, Tensor) else wrap(as_array(g), None)

    @staticmethod
    def own(g: Tensor, *, already: bool) -> Tensor:  # noqa: ARG004 - the other carrier's signature
        """A gradient with a graph cannot be written to; one without is a leaf, and can."""
        return g if g._node is not None else wrap(g._data.copy(), None)

    @staticmethod
    def result(g: Tensor, *, again: bool) -> Tensor:
        if not again:
            return g
        return wrap(g._data.copy(), None) if g._node is None else identity(g)


def as_array(g: Any) -> Array:
    """NumPy turns 0-d results into scalars; a gradient is always an array."""
    return g if type(g) in backends.ARRAY_TYPES else backends.namespace(g).asarray(g)


Carrier = Arrays | Tensors
