"""Noticing that a graph grows from window to window: the commonest leak of recurrent training.

A state that is carried on without a ``detach`` brings its graph along, and the arrays of every
window so far stay alive. Nothing fails until memory runs out; the gradient may even be right, of a
loss that nobody meant to differentiate that far.

Each recurrent layer writes on the node of its trajectory what lies behind it: how many windows, and
how many time steps, its own and those behind the state it was given. That is one small search per
window, and nothing is remembered between calls.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinygrad_rnn.core.grad_mode import recording
from tinygrad_rnn.core.tensor import Leaf
from tinygrad_rnn.errors import GraphGrowthWarning

# Both have to be passed. A decoder goes step by step, often for hundreds of steps, and an encoder
# before it may have read thousands in one window: the longest window does not count.
WINDOWS = 20
STEPS = 1000
NEARBY = 64  # nodes to look through for the layer that a state came from


@dataclass(frozen=True)
class Behind:
    """What the graph behind a recurrent state consists of, as far as recurrent layers know."""

    windows: int = 0
    steps: int = 0
    longest: int = 0  # of the windows, in steps
    warned: bool = False

    def and_a_window(self, T: int, *, warned: bool) -> Behind:
        """The same with a window of `T` steps on top."""
        return Behind(self.windows + 1, self.steps + T, max(self.longest, T), warned)

    @property
    def is_long(self) -> bool:
        return self.windows > WINDOWS and self.steps - self.longest > STEPS


def look_behind(states: Sequence[Any], T: int, layer: str) -> Behind:
    """What will lie behind a window of `T` steps that begins with `states`; warns if too much does.

    Args:
        states: Tensors, just before a `layer` reads the window.
        T: the length of the window.
        layer: what a warning is to call it.
    """
    nodes = [getattr(s, "_node", None) for s in states]  # a plain array has none
    if not recording.enabled or all(type(n) in (type(None), Leaf) for n in nodes):
        return Behind().and_a_window(T, warned=False)
    behind = _search(nodes)
    if behind.is_long and not behind.warned:
        from tinygrad_rnn.core.trace import user_level  # noqa: PLC0415 - 5 ms

        warnings.warn(
            f"{layer}: the graph behind the given state goes back {behind.steps:,} time steps in "
            f"{behind.windows:,} windows, and this one has {T}; the arrays of all of them are "
            f"kept. Cut it between windows with state.detach(), or evaluate under tg.no_grad(). "
            f"To go back that far on purpose, ignore tg.GraphGrowthWarning",
            GraphGrowthWarning,
            stacklevel=user_level(),
        )
    return behind.and_a_window(T, warned=behind.warned or behind.is_long)


def _search(stack: list[Any]) -> Behind:
    """The most that a recurrent layer wrote on a node near by.

    Three or four nodes cut a state out of its trajectory; behind one that says what is behind it
    nothing is searched.
    """
    seen: set[Any] = set()
    most = Behind()
    while stack and len(seen) < NEARBY:
        node = stack.pop()
        if node is None or node in seen or not node.parents:
            continue  # a leaf, or freed: nothing is kept behind it
        seen.add(node)
        behind = getattr(node, "behind", None)
        if behind is None:
            stack.extend(node.parents)
        else:
            most = max(most, behind, key=lambda b: b.steps)
    return most
