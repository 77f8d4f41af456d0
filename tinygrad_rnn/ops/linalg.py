"""Matrix products. One primitive, `matmul` on stacks of matrices; the rest is bookkeeping."""

from __future__ import annotations

import math
from typing import Any

from tinygrad_rnn import backends
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.primitive import primitive
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.errors import ShapeError
from tinygrad_rnn.ops.indexing import diagonal
from tinygrad_rnn.ops.reduce import sum
from tinygrad_rnn.ops.shape import (
    broadcast_to,
    expand_dims,
    matrix_transpose,
    permute_dims,
    ravel,
    reshape,
    squeeze,
)


@primitive
def _matmul(a: Array, b: Array) -> Array:
    return backends.of(a).matmul(a, b)


def _product(a: Any, b: Any) -> Any:
    """`_matmul` as rules call it: on arrays without the way through a primitive.

    With `_transposed` that is 6.1 us instead of 9.2 for a small product, forward and backward.
    """
    return _matmul(a, b) if isinstance(a, Tensor) else backends.of(a).matmul(a, b)


def _transposed(x: Any) -> Any:
    """`matrix_transpose` as rules call it."""
    return matrix_transpose(x) if isinstance(x, Tensor) else x.swapaxes(-1, -2)


_matmul.fresh = True
_matmul.vjp(
    a=lambda g, b: _product(g, _transposed(b)),
    b=lambda g, a: _product(_transposed(a), g),
)


def matmul(a: Any, b: Any) -> Any:
    """The matrix product ``a @ b``, as in NumPy.

    Vectors count as a row on the left and a column on the right; more than two dimensions are
    stacks of matrices, broadcast against each other.

    Raises:
        ShapeError: a 0-d operand, or inner sizes that differ.
    """
    a, b = _operand(a), _operand(b)
    left, right = a.shape, b.shape
    if not left or not right:
        raise ShapeError(
            f"matmul: needed operands of at least one dimension, got {left} and {right}; "
            f"use * for products with a number"
        )
    if left[-1] != right[-2 if len(right) > 1 else 0]:
        raise ShapeError(
            f"matmul: the last dimension of {left} has to equal the "
            f"{'last but one' if len(right) > 1 else 'only'} dimension of {right} (dtypes "
            f"{a.dtype}, {b.dtype}). Is one of them to be transposed, by .T or .mT?"
        )
    if len(right) == 1:
        return squeeze(matmul(a, expand_dims(b, 1)), -1)
    if len(left) == 1:
        return squeeze(matmul(expand_dims(a, 0), b), -2)
    if len(right) == 2 and len(left) > 2:
        # One tall product instead of a stack: and its gradient for b is one product, not a stack
        # that has to be summed afterwards.
        rows = reshape(a, (math.prod(left[:-1]), left[-1]))
        return reshape(_matmul(rows, b), (*left[:-1], right[-1]))
    return _matmul(a, b)


def _operand(x: Any) -> Any:
    return x if isinstance(x, Tensor) or hasattr(x, "ndim") else Tensor(x)


@primitive
def linear(x: Array, weight: Array, bias: Array) -> Array:
    """``x weight' + bias``: (..., I), (O, I) and (O,) to (..., O).

    As one op it costs 4 us where a transpose, two reshapes, a product and a sum cost 8: of writing
    one character at a time that is 5 %.
    """
    if not x.ndim or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise ShapeError(
            f"linear: got x {x.shape}, weight {weight.shape} and bias {bias.shape}; needed "
            f"(..., I), (O, I) and (O,)"
        )
    out = backends.of(x).matmul(_rows(x), weight.T) + bias
    return out.reshape((*x.shape[:-1], len(weight)))


linear.fresh = True
linear.vjp(
    x=lambda g, weight: _product(_rows(g), weight).reshape((*g.shape[:-1], weight.shape[-1])),
    weight=lambda g, x: _product(_transposed(_rows(g)), _rows(x)),
    bias=lambda g: sum(_rows(g), 0),
)


def _rows(x: Any) -> Any:
    """All dimensions but the last made one; an array's own method and a Tensor's do the same."""
    return x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))


def dot(a: Any, b: Any) -> Any:
    """NumPy's dot: the inner product of vectors, the product of matrices; for more dimensions the
    sum over the last axis of `a` and the last but one of `b`; with a 0-d operand, ``a * b``.
    """
    a, b = _operand(a), _operand(b)
    if a.ndim == 0 or b.ndim == 0:
        return a * b
    if b.ndim <= 2:
        return matmul(a, b)
    moved = permute_dims(b, (b.ndim - 2, *range(b.ndim - 2), b.ndim - 1))
    flat = reshape(moved, (b.shape[-2], math.prod(b.shape[:-2]) * b.shape[-1]))
    return reshape(matmul(a, flat), (*a.shape[:-1], *b.shape[:-2], b.shape[-1]))


def outer(a: Any, b: Any) -> Any:
    """Every element of `a` times every element of `b`: (M,) and (N,) to (M, N)."""
    return expand_dims(ravel(_operand(a)), 1) * expand_dims(ravel(_operand(b)), 0)


# ---- einsum: letters name axes; pairs of operands are brought to a stack of matrix products ----


def einsum(subscripts: str, *operands: Any) -> Any:
    """Einstein's summation: ``einsum("bij,bjk->bik", a, b)`` and the like, as in NumPy.

    Repeated letters are multiplied together, letters missing from the output are summed over, an
    ellipsis stands for broadcast axes. Built from ops that have gradients, it has one too.
    """
    tensors = [_operand(x) for x in operands]
    terms, output = _parse(subscripts, tensors)
    labelled = [_diagonal(x, t) for x, t in zip(tensors, terms, strict=True)]
    current, labels = labelled[0]
    for i, (other, other_labels) in enumerate(labelled[1:], start=1):
        later = set(output).union(*(t for _, t in labelled[i + 1 :]))
        current, labels = _contract(current, labels, other, other_labels, later)
    gone = tuple(i for i, name in enumerate(labels) if name not in output)
    current = sum(current, gone) if gone else current
    labels = [name for name in labels if name in output]
    return permute_dims(current, [labels.index(name) for name in output])


def _parse(subscripts: str, tensors: list[Any]) -> tuple[list[list[str]], list[str]]:
    """The letters of each operand's axes and of the output's; an ellipsis becomes digits."""
    text = subscripts.replace(" ", "")
    left, arrow, right = text.partition("->")
    parts = left.split(",")
    if len(parts) != len(tensors):
        raise ShapeError(f"einsum: {subscripts!r} names {len(parts)} operands, got {len(tensors)}")
    terms, wide = [], 0
    for part, x in zip(parts, tensors, strict=True):
        before, dots, after = part.partition("...")
        extra = x.ndim - len(before) - len(after)
        if extra < 0 or (extra and not dots) or (not (before + after).isalpha() and before + after):
            raise ShapeError(f"einsum: {part!r} does not fit an operand of shape {x.shape}")
        wide = max(wide, extra)
        # Broadcast axes are counted from the right, so that they align as in NumPy.
        terms.append([*before, *(str(k) for k in reversed(range(extra))), *after])
    ellipsis = [str(k) for k in reversed(range(wide))]
    if arrow:
        before, dots, after = right.partition("...")
        output = [*before, *(ellipsis if dots else []), *after]
    else:  # NumPy's rule: letters that occur once, in alphabetical order
        letters = [name for term in terms for name in term if name.isalpha()]
        output = [*ellipsis, *sorted(n for n in set(letters) if letters.count(n) == 1)]
    known = {name for term in terms for name in term}
    if len(set(output)) != len(output) or not set(output) <= known:
        raise ShapeError(f"einsum: the output of {subscripts!r} repeats or invents a letter")
    return terms, output


def _diagonal(x: Any, term: list[str]) -> tuple[Any, list[str]]:
    """Reduce a letter that one operand repeats to the diagonal of its axes."""
    for name in dict.fromkeys(term):  # in order: that of a set is another in every process
        if term.count(name) > 1:
            first = term.index(name)
            second = term.index(name, first + 1)
            if x.shape[first] != x.shape[second]:
                raise ShapeError(f"einsum: letter {name!r} stands for two sizes in {x.shape}")
            rest = [i for i in range(x.ndim) if i not in (first, second)]
            on_diagonal = diagonal(permute_dims(x, (first, second, *rest)))
            return _diagonal(on_diagonal, [name, *(term[i] for i in rest)])
    return x, term


def _contract(
    a: Any, a_labels: list[str], b: Any, b_labels: list[str], later: set[str]
) -> tuple[Any, list[str]]:
    """One pair: (stack, rows, summed) @ (stack, summed, columns), then the axes unfolded."""
    lonely_a = tuple(i for i, n in enumerate(a_labels) if n not in later and n not in b_labels)
    lonely_b = tuple(i for i, n in enumerate(b_labels) if n not in later and n not in a_labels)
    a, a_labels = _drop(a, a_labels, lonely_a)
    b, b_labels = _drop(b, b_labels, lonely_b)
    sizes: dict[str, int] = {}
    for x, labels in ((a, a_labels), (b, b_labels)):
        for name, n in zip(labels, x.shape, strict=True):
            if sizes.get(name, 1) != n and n != 1 and sizes.get(name, 1) != 1:
                raise ShapeError(f"einsum: letter {name!r} has sizes {sizes[name]} and {n}")
            sizes[name] = n if sizes.get(name, 1) == 1 else sizes[name]
    both = [n for n in a_labels if n in b_labels]
    a = broadcast_to(a, tuple(sizes[n] for n in a_labels))
    b = broadcast_to(b, tuple(sizes[n] for n in b_labels))
    stacked = [n for n in both if n in later]
    summed = [n for n in both if n not in later]
    rows = [n for n in a_labels if n not in both]
    columns = [n for n in b_labels if n not in both]
    fold = [math.prod(sizes[n] for n in group) for group in (stacked, rows, summed, columns)]
    left = permute_dims(a, [a_labels.index(n) for n in (*stacked, *rows, *summed)])
    right = permute_dims(b, [b_labels.index(n) for n in (*stacked, *summed, *columns)])
    product = matmul(
        reshape(left, (fold[0], fold[1], fold[2])), reshape(right, (fold[0], fold[2], fold[3]))
    )
    labels = [*stacked, *rows, *columns]
    return reshape(product, tuple(sizes[n] for n in labels)), labels


def _drop(x: Any, labels: list[str], axes: tuple[int, ...]) -> tuple[Any, list[str]]:
    """Sum away axes whose letter nobody else uses."""
    kept = [name for i, name in enumerate(labels) if i not in axes]
    return (sum(x, axes) if axes else x), kept
