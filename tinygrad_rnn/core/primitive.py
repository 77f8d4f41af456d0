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
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_rnn.backends import ARRAY_TYPES, OPERAND_TYPES
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.grad_mode import recording
from tinygrad_rnn.core.node import NO_OPTIONS, Node, Plan, Rule, nodes_behind
from tinygrad_rnn.core.operands import NUMBER_TYPES, coerce, complete, raise_explained
from tinygrad_rnn.core.tensor import Tensor, wrap
from tinygrad_rnn.errors import DTypeError, NotDifferentiableError

__all__ = ["Node", "Primitive", "Rule", "nodes_behind", "primitive"]  # nodes are in core/node.py


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
        self.rules = [None] * len(self.inputs)
        self.remembered: set[int] = set()  # the inputs that some rule saves
        self.passing_nothing: set[int] = set()  # those that were given None for a rule
        self.each: Callable[..., Any] | None = None

    @property
    def rules(self) -> Sequence[Rule | None]:
        """One per input; None where there is none. To change one, assign all or call `vjp`."""
        return self._rules

    @rules.setter
    def rules(self, rules: Sequence[Rule | None]) -> None:
        self._rules = tuple(rules)
        self.plans: dict[int, Plan] = {}  # by the bits of the inputs that want a gradient

    def vjp(self, **rules: Callable[..., Any] | None) -> None:
        """Give one rule per input, by name; None where no gradient is to flow.

        An op without any rule, a comparison say, passes nothing on. One that has rules for some of
        its inputs and is differentiated by another raises: a forgotten term is a wrong gradient.
        """
        changed = list(self.rules)
        for name, function in rules.items():
            if name not in self.inputs:
                raise TypeError(f"{self.__name__!r} has no input {name!r}, only {self.inputs}")
            if function is None:
                self.passing_nothing.add(self.inputs.index(name))
                continue
            rule = changed[self.inputs.index(name)] = Rule(function, self)
            self.remembered.update(rule.saves)
        self.rules = changed

    def vjp_each(self, rule: Callable[..., Any]) -> None:
        """For an op of any number of inputs: ``rule(g, position, **options)`` serves them all."""
        self.each, self.plans = rule, {}

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        if len(inputs) != len(self.inputs):
            inputs = complete(self, inputs, options)
        values: list[Any] = []
        parents: list[Any] = []
        is_tensor = is_raw = False
        recorded, bit = 0, 1  # the bits of the inputs that want a gradient
        for x in inputs:
            if isinstance(x, Tensor):
                is_tensor = True
                node = x._node
                values.append(x._data)
                parents.append(node)
                if node is not None:
                    recorded += bit
            else:
                values.append(x if type(x) in OPERAND_TYPES else coerce(x, inputs, self.__name__))
                parents.append(None)
                if type(x) not in NUMBER_TYPES:
                    is_raw = True
            bit += bit
        try:
            out = self.forward(*values, **options)
        except Exception as error:  # noqa: BLE001 - named, and raised again
            raise_explained(error, self, values)
        if type(out) not in ARRAY_TYPES:
            out = np.asarray(out)  # NumPy gives 0-d results as scalars: the one place that mends it
        if not is_tensor:
            return out
        if recorded and (watch := recording.enabled):
            if is_raw:
                self._own(inputs, values)
            plan = self.plans.get(recorded) or self._planned(recorded, parents)
            node = self._record(plan, values, parents, options, out) if plan.edges else None
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

    def _planned(self, recorded: int, parents: list[Any]) -> Plan:
        """The plan for some inputs that want a gradient; kept for the next call."""
        wanted = [i for i, parent in enumerate(parents) if parent is not None]
        if self.each is not None:
            return Plan((i, _Position(self.each, i, self.options)) for i in wanted)
        for i in wanted:
            if self.rules[i] is None:
                self._check_forgotten(i)
        plan = self.plans[recorded] = Plan((i, self.rules[i]) for i in wanted)
        return plan

    def _record(
        self,
        plan: Plan,
        values: list[Any],
        parents: list[Any],
        options: dict[str, Any],
        out: Array,
    ) -> Node:
        """The node of this call, of which some input with a node has a rule."""
        if out.dtype.kind != "f" or out.dtype.itemsize > 8:
            raise DTypeError(
                f"{self.__name__}: the result has dtype {out.dtype}; gradients are kept in real "
                f"numbers of up to 64 bits. Which operand is {out.dtype}?"
            )
        for i in plan.silent:
            parents[i] = None  # nothing goes there, so what is behind it need not be kept
        values.append(out)  # at index -1, where rules that name `out` look for it
        kept = () if plan.saves is None else plan.saves(values)
        names = plan.option_names
        if not names:
            options = NO_OPTIONS
        elif not len(options) == len(names) == len(self.options):  # else the call's own will do
            options = {n: (options if n in options else self.defaults)[n] for n in names}
        return Node(self, parents, out, plan.edges, kept, options)


class _Position(Rule):
    """The rule of an op of any number of inputs, bound to one of them; saves no arrays."""

    __slots__ = ()

    def __init__(self, each: Callable[..., Any], position: int, options: tuple[str, ...]) -> None:
        self.function = functools.partial(each, position=position)
        self.option_names, self.saves = options, ()


def primitive(forward: Callable[..., Any]) -> Primitive:
    """Turn ``forward(*inputs, **options)`` on plain arrays into an op that Tensors go through.

    Data is positional and metadata keyword-only. Give it its rules with ``op.vjp(...)``. The
    decorator works just as well outside this package.
    """
    return Primitive(forward)
