"""Undoing broadcasting, once, on the way back.

Going forward, an input of shape (4,) may have been stretched to (3, 4); every element was then
used three times, so its gradient is the sum over the three. The rules know nothing of this:
``add``'s are simply ``g`` and ``g``. The engine calls `unbroadcast` on the edge, whenever a
gradient's shape differs from its parent's.
"""

from __future__ import annotations

from typing import Any


def unbroadcast(g: Any, shape: tuple[int, ...]) -> Any:
    """Sum `g` (array or Tensor) down to `shape`, the shape it was broadcast from.

    Returns None where `shape` cannot be broadcast to ``g.shape``: then some rule is wrong.
    """
    extra = g.ndim - len(shape)
    if extra < 0 or any(n not in (1, m) for n, m in zip(shape, g.shape[extra:], strict=True)):
        return None
    stretched = [extra + i for i, n in enumerate(shape) if n != g.shape[extra + i]]
    axes = (*range(extra), *stretched)
    return (g.sum(axis=axes) if axes else g).reshape(shape)
