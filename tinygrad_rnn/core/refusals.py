"""What a backward sweep refuses to do, and how it says so.

A gradient that would be wrong is not computed: the graph may be gone, an array that a rule saved
may have changed, or an output may not depend on what it is to be differentiated by. All of it is
decided before the first rule runs, as far as it can be known by then, and in any case before a
``.grad`` is touched.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.clock import writes, written
from tinygrad_rnn.core.tensor import Leaf
from tinygrad_rnn.errors import NotDifferentiableError, SavedArrayChangedError


def check_saved(order: list[Any], wanted: set[Any] | None, *, recorded: bool) -> None:
    """Refuse to sweep where a rule would read an array that was written to since it was saved.

    One comparison for the whole graph, unless something was written since its oldest node was made.
    """
    oldest = next((node.number for node in reversed(order) if type(node) is not Leaf), 0)
    if writes.last < oldest:
        return
    for node in order:
        if type(node) is Leaf or (wanted is not None and wanted.isdisjoint(node.parents)):
            continue
        for what, array in node.saved(wanted, recorded=recorded):
            if written(array) > node.number:
                raise SavedArrayChangedError(changed(node.name, what, array, "written to"))


def changed(op: str, what: str, array: Array, how: str) -> str:
    """The message for an array that is no longer what a rule saved."""
    return (
        f"{op}: {what}, of shape {array.shape} and dtype {array.dtype}, was {how} after the "
        f"forward pass, and the gradient needs the old values. Call backward() before "
        f"optimizer.step(), load_state_dict() or another write; after a write, run the forward "
        f"pass again"
    )


def freed(node: Any, *, first: bool) -> str:
    """The message for a graph that is gone: it depends on whether the sweep began there."""
    seen = f"{node.name} of shape {node.shape} and dtype {node.dtype}"
    if first:
        return (
            f"a second backward through {seen}: the first pass freed the graph. Run the forward "
            f"pass again; if this is a recurrent state, go on from its values with state.detach(). "
            f"If a second pass is meant, give the first one retain_graph=True"
        )
    return (
        f"the graph behind {seen} was freed by an earlier backward pass, and this one needs it. If "
        f"that is a recurrent state carried over from the window before, cut it with "
        f"state.detach(); if a second pass is meant, give the first one retain_graph=True"
    )


def check_unmoved(leaves: Iterable[Any]) -> None:
    """Refuse to leave a gradient where nobody will find it."""
    for leaf in leaves:
        if leaf.moved:
            raise NotDifferentiableError(
                f"backward: a parameter of shape {leaf.shape} and dtype {leaf.dtype} was converted "
                f"or moved, by .to() on its module, after the forward pass; the gradient belongs "
                f"to what it was before. Run the forward pass again"
            )


def check_used(targets: Sequence[Any], reached: Container[Any]) -> None:
    """Refuse to give no gradient where one was asked for."""
    missing = [i for i, node in enumerate(targets) if node not in reached]
    if missing:
        raise NotDifferentiableError(
            f"grad: the outputs do not depend on inputs {missing} (by position); "
            f"pass allow_unused=True to get None for them"
        )
