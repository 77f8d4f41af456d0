"""Hypothesis strategies: where the inputs of a check come from.

Differences tell the truth only away from kinks, ties and poles, and a failing case is read by a
person. Two habits see to both:

* Numbers come from grids such as ..., -3/16, -1/16, 1/16, 3/16, ... A kink at 0 lies between two
  grid points, and two inputs that must not tie come from two grids that never meet: a distance of
  at least 1/32, thousands of times the step of the differences. Nothing is filtered out.
* Grid points are exact in float32, print short, and shrink towards 0.

A *domain* is where the numbers of one input lie: a name from `DOMAINS`, or a strategy of floats,
`between(0, 1)` say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygrad_rnn.errors import DataError

Strategy: TypeAlias = "st.SearchStrategy[Any]"
Shape: TypeAlias = tuple[int, ...]


def in_use(max_examples: int | None = None, **changes: Any) -> settings:
    """Hypothesis' settings as they are, without what does not suit one check for many ops.

    No deadline: a slow machine is not a wrong gradient. No database of failures: it goes by the
    test function, which is one and the same for all ops.
    """
    now = settings()
    return settings(
        now,
        max_examples=now.max_examples if max_examples is None else max_examples,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        **changes,
    )


# ---- numbers ----


def grid(low: float, high: float, *, offset: float = 1 / 16) -> Strategy:
    """Multiples of 1/8 from `low` to `high`, shifted by `offset`."""
    return st.integers(math.ceil(low * 8), math.floor(high * 8)).map(lambda k: k / 8 + offset)


def between(low: float, high: float) -> Strategy:
    """Numbers strictly between two finite bounds, on a grid of 2^k steps that touches neither."""
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise DataError(f"between: needed two finite bounds, low < high; got {low} and {high}")
    count = 64
    step = (high - low) / count
    # Counted from the middle, so that failing cases shrink towards it.
    return st.integers(-count // 2, count // 2 - 1).map(
        lambda k: low + (k + count // 2 + 0.5) * step
    )


REAL = grid(-3, 3)  # never 0
WITH_ZERO = grid(-3, 3, offset=0)  # never meets REAL: no ties between the two
POSITIVE = grid(0.5, 3)
NONZERO = st.builds(lambda x, sign: x * sign, POSITIVE, st.sampled_from([1, -1]))
MANY = grid(-6, 6)  # enough for arrays without ties

# name -> its numbers, and whether the elements of an array must all differ
DOMAINS: dict[str, tuple[Strategy, bool]] = {
    "real": (REAL, False),
    "with zero": (WITH_ZERO, False),
    "positive": (POSITIVE, False),
    "nonzero": (NONZERO, False),
    "unique": (MANY, True),
}


def _numbers(domain: Any) -> tuple[Strategy, bool]:
    """The numbers of a domain, and whether they must all differ."""
    if isinstance(domain, st.SearchStrategy):
        return domain, False
    if domain not in DOMAINS:
        raise DataError(
            f"no domain is called {domain!r}; there are {', '.join(map(repr, DOMAINS))}, "
            f"tg.testing.between(low, high), and any Hypothesis strategy of floats"
        )
    return DOMAINS[domain]


# ---- shapes, axes, indices ----


def shapes(min_dims: int = 0, max_dims: int = 3, min_side: int = 0, max_side: int = 3) -> Strategy:
    """Shapes: 0-d ones, and empty ones, included unless you say otherwise."""
    return hnp.array_shapes(
        min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side
    )


def broadcastable_shapes(count: int, *, max_dims: int = 3, min_side: int = 0) -> Strategy:
    """`count` shapes that broadcast against each other."""
    return hnp.mutually_broadcastable_shapes(
        num_shapes=count, max_dims=max_dims, min_side=min_side, max_side=3
    ).map(lambda found: found.input_shapes)


def axes(ndim: int, *, several: bool = True) -> Strategy:
    """What an ``axis=`` may be: None, one axis, or several, counted from either end."""
    if ndim == 0:
        return st.none()
    one = st.integers(-ndim, ndim - 1)
    if not several:
        return st.none() | one
    some = st.lists(one, unique_by=lambda a: a % ndim, max_size=ndim).map(tuple)
    return st.one_of(st.none(), one, some)


def indices(shape: Shape) -> Strategy:
    """An index into an array of this shape, of any form that NumPy has.

    Integers, slices of any step, None, Ellipsis; integer arrays with repeats and from either end,
    alone, together, and beside slices; masks over all axes or the first.
    """
    forms: list[Strategy] = [
        hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True),
        hnp.arrays(bool, shape),
    ]
    if shape and all(shape):
        small = shapes(0, 2)
        rows: Strategy = hnp.arrays(np.int64, small, elements=st.integers(-shape[0], shape[0] - 1))
        last = st.lists(st.integers(-shape[-1], shape[-1] - 1), max_size=3)
        forms += [
            hnp.integer_array_indices(shape, result_shape=small),
            rows,
            st.tuples(rows),
            rows.map(lambda r: (r, None, ...)),
            hnp.arrays(bool, shape[:1]),
            st.tuples(st.just(...), last),
        ]
    return st.one_of(forms)


# ---- arrays ----


def arrays(
    domain: Any = "real",
    shape: Any = None,
    *,
    unique: bool = False,
    min_dims: int = 0,
    max_dims: int = 3,
    min_side: int = 0,
) -> Strategy:
    """float64 arrays whose numbers lie in `domain`.

    Args:
        domain: a name from `DOMAINS`, or a strategy of floats.
        shape: a shape or a strategy of shapes; by default `shapes` with the three limits below.
        unique: whether all elements differ, so that a max or a sort has no ties.
        min_dims, max_dims, min_side: limits of the default shape; a side has at most 3.
    """
    values, differ = _numbers(domain)
    if shape is None:
        shape = shapes(min_dims, max_dims, min_side)
    return hnp.arrays(
        np.float64, shape, elements=values, fill=st.nothing(), unique=unique or differ
    )


def broadcastable(*domains: Any, max_dims: int = 3, min_side: int = 0) -> Strategy:
    """A tuple of arrays, one for each domain, in shapes that broadcast against each other."""

    def fill(found: Sequence[Shape]) -> Strategy:
        return st.tuples(*(arrays(d, s) for d, s in zip(domains, found, strict=True)))

    return broadcastable_shapes(len(domains), max_dims=max_dims, min_side=min_side).flatmap(fill)
