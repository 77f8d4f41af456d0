"""What several test files read off graphs; the properties of gradients are in `tg.testing`."""

from __future__ import annotations

from tinygrad_rnn.core.primitive import nodes_behind
from tinygrad_rnn.testing.places import shares_memory

__all__ = ["leaves", "ops_behind", "shares_memory"]


def leaves(backend, arrays) -> list:
    """One leaf per array, collecting gradients."""
    return backend.leaves(arrays)


def ops_behind(tensors) -> set:
    """Every op recorded in the graphs of `tensors`."""
    return {getattr(node, "op", None) for node in nodes_behind(tensors)}
