"""Fused ops: a specification to read, and a hand-written forward and backward that must equal it.

A `primitive` has a rule. A fused op, an LSTM over a whole window, say, has a *specification*: the
readable composition of plain ops. Below it stands the fast version on arrays:

    def specification(x, w):                       # what it computes; Tensors in, Tensor out
        return tanh(matmul(x, w))

    @fused(spec=specification)
    def layer(x, w, *, keep):                      # arrays in, array and cache out
        out = ...
        return out, ((x, w, out) if keep else None)

    @layer.backward
    def _(g, cache, needs):                        # one gradient per input that needs one
        ...

The specification is what the tests hold the fast version against, and it is the rule for double
backward: nobody derives a second derivative by hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.grad_mode import recording
from tinygrad_rnn.core.operands import arrays_in, coerce, complete, raise_explained
from tinygrad_rnn.core.primitive import Node, primitive
from tinygrad_rnn.core.tensor import Tensor, wrap
from tinygrad_rnn.errors import NotDifferentiableError


@primitive
def identity(x: Array) -> Array:
    """The same array at a new place in the graph."""
    return x


identity.vjp(x=lambda g: g)


class FusedNode(Node):
    """A fused op that was carried out: its inputs, and the cache its backward needs."""

    # values: all inputs, for the specification.
    # behind: how far the graph goes back in time; set by recurrent layers only (`nn/growth.py`).
    __slots__ = ("behind", "cache", "values")
    behind: Any
    op: Fused

    def __init__(
        self,
        op: Fused,
        parents: list[Any],
        values: list[Any],
        cache: Any,
        options: dict[str, Any],
        out: Array,
    ) -> None:
        super().__init__(op, parents, out)
        self.values, self.cache, self.options = values, cache, options

    def _needs(self, wanted: set[Any] | None) -> tuple[bool, ...]:
        return tuple(p is not None and (wanted is None or p in wanted) for p in self.parents or ())

    def gradients(self, g: Array, wanted: set[Any] | None) -> list[tuple[Any, Array]]:
        needs = self._needs(wanted)
        if self.op.hand_backward is None:
            raise NotDifferentiableError(f"{self.name} has no backward; give it one with .backward")
        found = self.op.hand_backward(g, self.cache, needs, **self.options)
        if len(found) != len(needs):
            raise NotDifferentiableError(
                f"the backward of {self.name} returned {len(found)} gradients for "
                f"{len(needs)} inputs; needed one (or None) for each"
            )
        parents = self.parents or ()
        return [
            (p, d) for p, d, n in zip(parents, found, needs, strict=True) if n and d is not None
        ]

    def recorded_gradients(self, g: Tensor, wanted: set[Any] | None) -> list[tuple[Any, Tensor]]:
        """Differentiate the specification, recording.

        It runs on identity copies of the inputs. On the inputs themselves the partial derivatives
        would mix where one input was computed from another (an initial state from x, say): the
        sweep would run on past the input it was asked for.
        """
        from tinygrad_rnn.core.engine import grad  # noqa: PLC0415 - the engine stands above nodes

        parents = self.parents or ()
        needs = self._needs(wanted)
        copies: list[Any] = []
        for value, parent, need in zip(self.values, parents, needs, strict=True):
            if need:
                copies.append(identity(wrap(value, parent)))
            elif parent is not None:  # not asked about now, but the second derivative may go there
                copies.append(wrap(value, parent))
            else:
                copies.append(value)
        out = self.op.spec(*copies, **self.options)
        asked = [c for c, need in zip(copies, needs, strict=True) if need]
        if isinstance(out, Tensor) and out.requires_grad:
            found = grad(out, asked, g, create_graph=True, allow_unused=True)
        else:
            found = (None,) * len(asked)
        targets = [p for p, need in zip(parents, needs, strict=True) if need]
        # None: the specification did not use this input (a weight, over a window of no steps).
        return [
            (p, wrap(backends.namespace(c._data).zeros_like(c._data), None) if d is None else d)
            for p, c, d in zip(targets, asked, found, strict=True)
        ]

    def saved(
        self,
        wanted: set[Any] | None = None,  # noqa: ARG002 - a cache serves all inputs at once
        *,
        recorded: bool = True,
    ) -> Iterator[tuple[str, Array]]:
        """The cache and the options' arrays; `recorded`, also the inputs, for the specification."""
        names = {}
        for name, value in zip(self.op.inputs, self.values, strict=True):
            for what, array in arrays_in(value, f"the input {name!r}"):
                names[id(array)] = what
                if recorded:
                    yield what, array
        for name, value in self.options.items():
            yield from arrays_in(value, f"the {name}")
        for what, array in arrays_in(self.cache, "its own result"):
            if not (recorded and id(array) in names):
                yield names.get(id(array), what), array

    def free(self) -> None:
        super().free()
        self.values, self.cache = [], None


class Fused:
    """An op with a hand-written forward and backward; made by the decorator `fused`."""

    def __init__(
        self,
        spec: Callable[..., Any],
        forward: Callable[..., Any],
        gates: str = "",
        fresh: bool = False,
    ) -> None:
        self.spec, self.forward, self.gates, self.fresh = spec, forward, gates, fresh
        self.hand_backward: Callable[..., Sequence[Any]] | None = None
        self.__name__ = forward.__name__.strip("_")
        self.__doc__ = forward.__doc__
        parameters = inspect.signature(forward).parameters.values()
        self.inputs = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        if "keep" not in {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}:
            raise TypeError(
                f"the forward of the fused op {self.__name__!r} needs a keyword-only parameter "
                f"'keep': False means that no backward will come and no cache is to be made"
            )

    def backward(self, function: Callable[..., Sequence[Any]]) -> Callable[..., Sequence[Any]]:
        """Decorator for ``backward(g, cache, needs, **options)``: one gradient (or None) per input.

        `needs` says for each input whether its gradient is wanted; compute no others. `g` and the
        cache are to be left unchanged: with ``retain_graph=True`` they are used again.
        """
        self.hand_backward = function
        return function

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Like a primitive: Tensors in, Tensor out; arrays in, array out. None stays None."""
        if len(inputs) != len(self.inputs):
            inputs = complete(self, inputs, options)
        values: list[Any] = []
        parents: list[Any] = []
        is_tensor = False
        for x in inputs:
            if isinstance(x, Tensor):
                is_tensor = True
                values.append(x._data)
                parents.append(x._node)
            else:
                plain = x is None or type(x) in backends.OPERAND_TYPES
                values.append(x if plain else coerce(x, inputs, self.__name__))
                parents.append(None)
        watch = recording.enabled
        keep = bool(watch) and any(p is not None for p in parents)
        if keep:  # as in Primitive: what is saved of plain arrays is a copy
            for i, x in enumerate(inputs):
                if not isinstance(x, Tensor) and type(values[i]) in backends.ARRAY_TYPES:
                    values[i] = values[i].copy()
        try:
            out, cache = self.forward(*values, keep=keep, **options)
        except Exception as error:  # noqa: BLE001 - named and raised again
            raise_explained(error, self, values)
        if type(out) not in backends.ARRAY_TYPES:
            out = np.asarray(out)  # as in Primitive: NumPy gives 0-d results as scalars
        if not is_tensor:
            return out
        if not keep:
            return wrap(out, None)
        node = FusedNode(self, parents, values, cache, options, out)
        if watch is not True:
            watch.made(node, values, out)
        return wrap(out, node)


def fused(
    *, spec: Callable[..., Any], gates: str = "", fresh: bool = False
) -> Callable[[Callable[..., Any]], Fused]:
    """Decorator: ``forward(*arrays, keep, **options) -> (out, cache)`` becomes a fused op.

    Args:
        spec: the composition of plain ops it must equal, ``spec(*inputs, **options)``.
        gates: the letters of the gates that stand side by side in the specification's
            pre-activations, each as wide as the result; `detect_anomaly` names them.
        fresh: whether the backward makes every gradient anew, as in `Primitive.fresh`. One array
            may still be the gradient of two inputs.
    """
    return lambda forward: Fused(spec, forward, gates, fresh)
