"""A graph as text: one line per node, the newest first, which is the order of the backward sweep.

    4  sum       ()      float32  from 3
    3  multiply  (3,)    float32  from 2, 1     keeps the input 'a', the input 'b'
    2  tanh      (3,)    float32  from 0        keeps its own result
    1  leaf      (3,)    float32
    0  leaf      (3,)    float32

Read from the top it is what `backward` will do: hand the gradient of each line on to the lines
named after "from". A number on several lines is a value that was used several times; its gradient
is the sum.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from tinygrad_rnn.core.primitive import nodes_behind
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.errors import DTypeError, NotDifferentiableError


def graph_lines(tensor: Tensor) -> Iterator[str]:
    """The lines of `graph_text` one by one: a graph of a million nodes need not fit in one string.

    Raises:
        NotDifferentiableError: the tensor has no graph: it was not computed from one that requires
            a gradient, or was detached.
    """
    if not isinstance(tensor, Tensor):
        raise DTypeError(f"a graph is that of a Tensor, got {type(tensor).__name__}")
    if tensor._node is None:
        raise NotDifferentiableError(
            "this tensor has no graph; it was made under no_grad, detached, or "
            "computed from tensors that require no gradient"
        )
    nodes = nodes_behind([tensor])
    number = {node: i for i, node in enumerate(nodes)}
    for node in reversed(nodes):
        yield _line(node, number)


def graph_text(tensor: Tensor, *, limit: int | None = 1000) -> str:
    """The graph behind a tensor as text, one line per node, the newest first.

    Args:
        tensor: a result of recorded operations.
        limit: lines to show at most, None for all; a last line says how many are left.
    """
    lines = graph_lines(tensor)
    shown = list(itertools.islice(lines, limit))
    left = sum(1 for _ in lines)
    return "\n".join([*shown, *([f"... and {left:,} older ones"] if left else [])])


def _line(node: Any, number: dict[Any, int]) -> str:
    text = f"{number[node]:>6}  {node.name:<14}  {node.shape!s:<16} {node.dtype!s:<8}"
    if node.parents is None:
        return f"{text} freed by a backward pass"
    if node.parents:
        text += " from " + ", ".join(str(number[p]) for p in node.parents if p is not None)
        kept = list(dict.fromkeys(what for what, _ in node.saved()))
        text += f"   keeps {', '.join(kept[:3])}" if kept else ""
        text += f" and {len(kept) - 3} more" if len(kept) > 3 else ""
    return text.rstrip()
