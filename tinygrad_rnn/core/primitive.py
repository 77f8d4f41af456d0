"""Primitives: an operation is its forward and one backward rule per input, side by side.

    @primitive
    def multiply(a, b):
        return a * b

    multiply.vjp(a=lambda g, b: g * b,      # the keyword: the input we differentiate by
                 b=lambda g, a: g * a)      # the parameters: exactly what must be remembered

`g` is the gradient of the loss with respect to the op's result; the rule turns it into the
gradient with respect to one input (a vector-Jacobian product, hence ``vjp``). A rule's signature
is read once, at import: ``g`` first, then any of the op's inputs or ``out`` (the op's own result),
then keyword-only options. What no rule names is not kept alive.

**One rule, two carriers.** A rule uses operators and our own ops only, and those work on arrays
and Tensors alike. `backward` runs it on plain arrays: fast, first order. Under
``create_graph=True`` the engine runs *the same rule* on Tensors, which record themselves: second
order, from the same line of calculus.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tinygrad_rnn.backends import ARRAY_TYPES, OPERAND_TYPES
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.clock import next_number
from tinygrad_rnn.core.grad_mode import recording
from tinygrad_rnn.core.operands import NUMBER_TYPES, arrays_in, coerce, complete, raise_explained
from tinygrad_rnn.core.tensor import Tensor, wrap
from tinygrad_rnn.errors import DTypeError, NotDifferentiableError

# ---- nodes ----


class Node:
    """One primitive that was carried out: where its gradient goes, and what that needs.

    An edge is ``(parent, rule, arguments, options)`` for an input that wants a gradient. The
    arguments are arrays, held because that rule asked for them, for no other reason.
    """

    # `trace` is where and when the node was made; only `detect_anomaly` ever sets it.
    __slots__ = (
        "array_type", "dtype", "edges", "hooks", "number", "op", "parents", "shape", "trace",
    )  # fmt: skip

    def __init__(self, op: Primitive, parents: list[Any], edges: list[Any], out: Array) -> None:
        self.number = next_number()
        self.op = op
        self.parents: list[Any] | None = parents  # one per input; None once the graph is freed
        self.edges = edges
        self.array_type, self.shape, self.dtype = type(out), out.shape, out.dtype
        self.hooks: dict[int, Callable[[Any], Any]] | None = None

    @property
    def name(self) -> str:
        return self.op.__name__

    def gradients(self, g: Array, wanted: set[Any] | None) -> list[tuple[Any, Array]]:
        """Pass `g` to the parents: (parent, gradient) pairs, on plain arrays."""
        return [
            (parent, rule.function(g, *args, **options))
            for parent, rule, args, options in self.edges
            if wanted is None or parent in wanted
        ]

    def recorded_gradients(self, g: Tensor, wanted: set[Any] | None) -> list[tuple[Any, Tensor]]:
        """The same on Tensors, so that the gradient can itself be differentiated.

        First every saved array gets back its place in the graph: an input's array is wrapped with
        its parent node, the result with this node.
        """
        places = [*(self.parents or ()), self]
        return [
            (
                parent,
                rule.function(
                    g,
                    *(_in_place_of(a, places[i]) for a, i in zip(args, rule.saves, strict=True)),
                    **options,
                ),
            )
            for parent, rule, args, options in self.edges
            if wanted is None or parent in wanted
        ]

    def saved(
        self,
        wanted: set[Any] | None = None,
        *,
        recorded: bool = True,  # noqa: ARG002 - for a FusedNode
    ) -> Iterator[tuple[str, Array]]:
        """What the rules are going to read, each array with what it is to the op.

        Only for the parents in `wanted`, if given. `recorded`: in a sweep under ``create_graph``,
        which reads the same here, and more of a fused op.
        """
        names = [*(f"the input {name!r}" for name in self.op.inputs), "its own result"]
        for parent, rule, args, options in self.edges:
            if wanted is not None and parent not in wanted:
                continue
            for place, value in zip(rule.saves, args, strict=True):  # -1 is the result
                yield from arrays_in(value, names[place])
            for name, value in options.items():
                yield from arrays_in(value, f"the {name}")

    def free(self) -> None:
        """Let go of the saved arrays and of the nodes before this one."""
        self.parents = None
        self.edges = []


def nodes_behind(tensors: Iterable[Tensor | None]) -> list[Any]:
    """Every node in the graphs of some tensors, leaves included, the oldest first.

    For whoever wants to look at a graph (draw it, check it). Where one was freed, it ends.
    """
    stack = [t._node for t in tensors if t is not None and t._node is not None]
    seen = set(stack)
    while stack:
        for parent in stack.pop().parents or ():
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return sorted(seen, key=lambda node: node.number)


def _in_place_of(value: Any, node: Any) -> Any:
    """A saved array as a Tensor at its place in the graph; a plain number stays one."""
    return value if type(value) in NUMBER_TYPES else wrap(value, node)


_NO_OPTIONS: dict[str, Any] = {}  # shared by all edges whose rule wants none; never written to


class Rule:
    """One vjp rule, and what its signature asks for."""

    __slots__ = ("function", "option_names", "saves")

    def __init__(self, function: Callable[..., Any], op: Primitive) -> None:
        self.function = function
        parameters = list(inspect.signature(function).parameters.values())
        wanted = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self.option_names = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        places = {**{name: i for i, name in enumerate(op.inputs)}, "out": -1}
        unknown = [n for n in wanted[1:] if n not in places]
        unknown += [n for n in self.option_names if n not in op.options]
        if unknown or not wanted or wanted[0] != "g":
            raise TypeError(
                f"a vjp rule of {op.__name__!r} has parameters {[p.name for p in parameters]}; "
                f"needed 'g' first, then any of {[*places]}, then keyword-only options out of "
                f"{[*op.options]}"
            )
        self.saves = tuple(places[name] for name in wanted[1:])  # -1: the result, put last


class Primitive:
    """An operation with a forward and one vjp rule per input; made by the decorator `primitive`.

    Called with Tensors it returns a Tensor, and records itself where an input wants a gradient.
    Called with plain arrays it returns a plain array: that is how rules use it in `backward`.
    """

    # Whether every gradient that its rules give is an array made for it: no view of anything, held
    # by nobody else. The sweep then takes it over, and need not copy it. In doubt it is not.
    fresh = False

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward
        self.__name__ = forward.__name__.strip("_")
        self.__doc__ = forward.__doc__
        parameters = inspect.signature(forward).parameters.values()
        self.inputs = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        self.options = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        self.defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        if set(self.defaults) & set(self.inputs):
            raise TypeError(
                f"the inputs of {self.__name__!r} are data, and data has no default; make the "
                f"parameter keyword-only to have an option"
            )
        self.rules: list[Rule | None] = [None] * len(self.inputs)
        self.remembered: set[int] = set()  # the inputs that some rule saves
        self.passing_nothing: set[int] = set()  # those that were given None for a rule
        self.each: Callable[..., Any] | None = None

    def vjp(self, **rules: Callable[..., Any] | None) -> None:
        """Give one rule per input, by name; None where no gradient is to flow.

        An op without any rule, a comparison say, passes nothing on. One that has rules for some of
        its inputs and is differentiated by another raises: a forgotten term is a wrong gradient.
        """
        for name, function in rules.items():
            if name not in self.inputs:
                raise TypeError(f"{self.__name__!r} has no input {name!r}, only {self.inputs}")
            if function is None:
                self.passing_nothing.add(self.inputs.index(name))
                continue
            rule = self.rules[self.inputs.index(name)] = Rule(function, self)
            self.remembered.update(rule.saves)

    def vjp_each(self, rule: Callable[..., Any]) -> None:
        """For an op of any number of inputs: ``rule(g, position, **options)`` serves them all."""
        self.each = rule

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        if len(inputs) != len(self.inputs):
            inputs = complete(self, inputs, options)
        values: list[Any] = []
        parents: list[Any] = []
        is_tensor = is_recorded = is_raw = False
        for x in inputs:
            if isinstance(x, Tensor):
                is_tensor = True
                node = x._node
                values.append(x._data)
                parents.append(node)
                if node is not None:
                    is_recorded = True
            else:
                values.append(x if type(x) in OPERAND_TYPES else coerce(x, inputs, self.__name__))
                parents.append(None)
                if type(x) not in NUMBER_TYPES:
                    is_raw = True
        try:
            out = self.forward(*values, **options)
        except Exception as error:  # noqa: BLE001 - named, and raised again
            raise_explained(error, self, values)
        if type(out) not in ARRAY_TYPES:
            out = np.asarray(out)  # NumPy gives 0-d results as scalars: the one place that mends it
        if not is_tensor:
            return out
        if is_recorded and (watch := recording.enabled):
            if is_raw:
                self._own(inputs, values)
            node = self._record(values, parents, options, out)
            if watch is not True and node is not None:  # the watcher of `detect_anomaly`
                watch.made(node, values, out)
            return wrap(out, node)
        return wrap(out, None)

    def _own(self, inputs: Sequence[Any], values: list[Any]) -> None:
        """Save copies of plain arrays: whoever passed them may fill them anew before backward."""
        for i in self.remembered:
            if i >= 0 and not isinstance(inputs[i], Tensor) and type(values[i]) in ARRAY_TYPES:
                values[i] = values[i].copy()

    def _check_forgotten(self, i: int) -> None:
        """Refuse an input that has no rule beside others that have one."""
        if any(self.rules) and i not in self.passing_nothing:
            name = self.inputs[i]
            raise NotDifferentiableError(
                f"{self.__name__}: there is no rule for the input {name!r}, which requires a "
                f"gradient; give it one by .vjp({name}=...), or None if no gradient is to flow"
            )

    def _record(
        self, values: list[Any], parents: list[Any], options: dict[str, Any], out: Array
    ) -> Node | None:
        """The node of this call, or None where no input with a node has a rule."""
        values.append(out)  # at index -1, where rules that name `out` look for it
        edges: list[Any] = []
        if self.each is not None:
            for i, parent in enumerate(parents):
                if parent is not None:
                    each = _Position(functools.partial(self.each, position=i))
                    edges.append((parent, each, (), {**self.defaults, **options}))
            return Node(self, parents, edges, out)
        for i, parent in enumerate(parents):
            if parent is not None:
                rule = self.rules[i]
                if rule is None:
                    self._check_forgotten(i)
                    parents[i] = None
                    continue
                args = tuple([values[k] for k in rule.saves])
                names = rule.option_names
                picked = (
                    {n: (options if n in options else self.defaults)[n] for n in names}
                    if names
                    else _NO_OPTIONS
                )
                edges.append((parent, rule, args, picked))
        if edges and (out.dtype.kind != "f" or out.dtype.itemsize > 8):
            raise DTypeError(
                f"{self.__name__}: the result has dtype {out.dtype}; gradients are kept in real "
                f"numbers of up to 64 bits. Which operand is {out.dtype}?"
            )
        return Node(self, parents, edges, out) if edges else None


class _Position:
    """The rule of an op of any number of inputs, bound to one of them; saves no arrays."""

    __slots__ = ("function",)
    saves = ()

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


def primitive(forward: Callable[..., Any]) -> Primitive:
    """Turn ``forward(*inputs, **options)`` on plain arrays into an op that Tensors go through.

    Data is positional and metadata keyword-only. Give it its rules with ``op.vjp(...)``. The
    decorator works just as well outside this package.
    """
    return Primitive(forward)
