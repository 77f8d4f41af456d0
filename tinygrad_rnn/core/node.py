"""Nodes: what a graph remembers of an op that was carried out.

    x, w  --multiply-->  y          y's node:  parents   the nodes of x and w
                                               kept      (w, x), which the rules will ask for
                                               plan      for x the rule g * w, for w the rule g * x

A node is made for every recorded call, so it is small, and whatever does not differ from call to
call stands outside of it. Which arrays are worth keeping depends on the op and on which of its
inputs want a gradient, and on nothing else: a `Plan` works it out once, and all nodes of the kind
share it. A sum of two numbers, forward and backward, costs 3.0 us so, and with a list of edges made
in every call 3.5.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.clock import next_number
from tinygrad_rnn.core.operands import NUMBER_TYPES, arrays_in
from tinygrad_rnn.core.tensor import Tensor, wrap

NO_OPTIONS: dict[str, Any] = {}  # shared by all nodes whose rules want none; never written to

# An input that wants a gradient: its position, its rule, and where in `Node.kept` that rule's
# arguments begin and end.
PlannedEdge = tuple[int, "Rule", int, int]


class Node:
    """One primitive that was carried out: where its gradient goes, and what that needs.

    `kept` has what its rules asked for, one rule's arguments after the other's, and nothing else.
    """

    # `trace` is where and when the node was made; only `detect_anomaly` ever sets it.
    __slots__ = (
        "array_type", "dtype", "hooks", "kept", "number", "op", "options", "parents", "plan",
        "shape", "trace",
    )  # fmt: skip

    def __init__(
        self,
        op: Any,  # a Primitive or Fused; Any because ops live one file further up
        parents: list[Any],
        out: Array,
        plan: Sequence[PlannedEdge] = (),
        kept: tuple[Any, ...] = (),
        options: dict[str, Any] = NO_OPTIONS,
    ) -> None:
        self.number = next_number()
        self.op = op
        self.parents: list[Any] | None = parents  # one per input; None once the graph is freed
        self.plan, self.kept, self.options = plan, kept, options
        self.array_type, self.shape, self.dtype = type(out), out.shape, out.dtype
        self.hooks: dict[int, Callable[[Any], Any]] | None = None

    @property
    def name(self) -> str:
        return str(self.op.__name__)

    def gradients(self, g: Array, wanted: set[Any] | None) -> list[tuple[Any, Array]]:
        """Pass `g` to the parents: (parent, gradient) pairs, on plain arrays."""
        parents, kept, options = self.parents or (), self.kept, self.options
        pairs = []
        for i, rule, first, last in self.plan:
            parent = parents[i]
            if wanted is None or parent in wanted:
                # Two common cases without stars, which cost 0.1 us of the 0.4 that an edge takes.
                if not kept and not options:
                    passed = rule.function(g)
                elif first + 1 == last and not options:
                    passed = rule.function(g, kept[first])
                else:
                    passed = rule.function(g, *kept[first:last], **rule.of(options))
                pairs.append((parent, passed))
        return pairs

    @property
    def edges(self) -> list[tuple[Any, Rule, tuple[Any, ...], dict[str, Any]]]:
        """``(parent, rule, arguments, options)`` for each input that wants a gradient."""
        parents = self.parents or ()
        return [
            (parents[i], rule, self.kept[first:last], rule.of(self.options))
            for i, rule, first, last in self.plan
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
        self.plan, self.kept, self.options = (), (), NO_OPTIONS


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


class Rule:
    """One vjp rule, and what its signature asks for."""

    __slots__ = ("function", "option_names", "saves")

    def __init__(self, function: Callable[..., Any], op: Any) -> None:
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

    def of(self, options: dict[str, Any]) -> dict[str, Any]:
        """Of the options that a node has kept, those that this rule asks for."""
        names = self.option_names
        return options if len(options) == len(names) else {n: options[n] for n in names}


class Plan:
    """The way back through an op when certain of its inputs want a gradient: worked out once.

    `saves` and `option_names` are what its rules ask for, one after the other.
    """

    __slots__ = ("edges", "option_names", "saves", "silent")

    def __init__(self, rules: Iterable[tuple[int, Rule | None]]) -> None:
        self.edges: list[PlannedEdge] = []
        self.silent: list[int] = []  # inputs that want a gradient, and are to get none
        self.option_names: set[str] = set()
        saves: list[int] = []
        for i, rule in rules:
            if rule is None:
                self.silent.append(i)
                continue
            first = len(saves)
            saves += rule.saves
            self.edges.append((i, rule, first, len(saves)))
            self.option_names.update(rule.option_names)
        self.saves: Callable[[list[Any]], tuple[Any, ...]] | None = None
        if len(saves) == 1:
            self.saves = lambda values: (values[saves[0]],)
        elif saves:
            self.saves = operator.itemgetter(*saves)
