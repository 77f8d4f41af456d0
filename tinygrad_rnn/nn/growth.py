"""Noticing that a graph grows from window to window: the commonest leak of recurrent training.

A state that is carried on without a ``detach`` brings its graph along, and the arrays of every
window so far stay alive. Nothing fails until memory runs out; the gradient may even be right, of a
loss that nobody meant to differentiate that far.

Each recurrent layer writes on the node of its trajectory how many time steps lie behind it: its
own, plus those behind the state it was given. That is one small search per window, and nothing is
remembered between calls.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from tinygrad_rnn.core.grad_mode import recording
from tinygrad_rnn.core.tensor import Leaf
from tinygrad_rnn.core.trace import user_level
from tinygrad_rnn.errors import GraphGrowthWarning

LONG = 1000  # time steps: a shorter graph is never worth a warning, a decoder's in steps of 1, say
WINDOWS = 20  # nor is one of so many windows
NEARBY = 64  # nodes to look through for the layer that a state came from


def steps_behind(states: Sequence[Any], T: int, layer: str) -> int:
    """The time steps behind `states`, as far as recurrent layers know; warns where it is too many.

    Args:
        states: Tensors, just before a `layer` reads a window of `T` steps.
        T: the length of that window.
        layer: what a warning is to call it.
    """
    nodes = [getattr(s, "_node", None) for s in states]  # a plain array has none
    if not recording.enabled or all(type(n) in (type(None), Leaf) for n in nodes):
        return 0
    behind = _search(nodes)
    limit = max(LONG, WINDOWS * T)
    if behind > limit >= behind - T:  # once, on passing it
        warnings.warn(
            f"{layer}: the graph behind the given state goes back {behind:,} time steps, and this "
            f"window has {T}; the arrays of all of them are kept. Cut it between windows with "
            f"state.detach(), or evaluate under tg.no_grad(). To go back that far on purpose, "
            f"ignore tg.GraphGrowthWarning",
            GraphGrowthWarning,
            stacklevel=user_level(),
        )
    return behind


def _search(stack: list[Any]) -> int:
    """The largest number that a recurrent layer wrote on a node near by.

    Two or three nodes cut a state out of its trajectory; behind one with a number nothing is
    searched.
    """
    seen: set[Any] = set()
    longest = 0
    while stack and len(seen) < NEARBY:
        node = stack.pop()
        if node is None or node in seen or not node.parents:
            continue  # a leaf, or freed: nothing is kept behind it
        seen.add(node)
        steps = getattr(node, "steps", None)
        if steps is None:
            stack.extend(node.parents)
        else:
            longest = max(longest, steps)
    return longest
