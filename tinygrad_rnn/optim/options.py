"""What the options of optimizers and schedules may be: said once, in words and as a test.

A learning rate of NaN or a negative decay trains without a complaint, and trains nonsense. Each
class therefore declares a table ``{"lr": NON_NEGATIVE, ...}``, and the same table checks what a
person passes and what comes from a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Need:
    """What an option must be: in words, for the message, and as a test."""

    words: str
    accepts: Callable[[Any], bool]


def is_real(value: Any) -> bool:
    """Whether `value` is a number (a bool is not meant as one)."""
    return isinstance(value, Real) and not isinstance(value, bool)


# Comparisons are written so that a NaN, for which each of them is false, fails the test.
NON_NEGATIVE = Need("a finite number >= 0", lambda v: is_real(v) and 0 <= v < math.inf)
UNIT = Need("a number from 0 to 1", lambda v: is_real(v) and 0 <= v <= 1)
DECAY = Need("a number >= 0 and < 1", lambda v: is_real(v) and 0 <= v < 1)
FINITE = Need("a finite number", lambda v: is_real(v) and math.isfinite(v))
FLAG = Need("True or False", lambda v: isinstance(v, bool))
COUNT = Need("an integer >= 0", lambda v: is_real(v) and isinstance(v, int) and v >= 0)


def misfits(needs: Mapping[str, Need], values: Mapping[str, Any]) -> list[str]:
    """Every way in which the options `values` are not what `needs` asks for, in words."""
    found = [f"{name!r} is missing" for name in needs if name not in values]
    for name, value in values.items():
        if name not in needs:
            found.append(f"there is no option {name!r}, only {', '.join(needs)}")
        elif not needs[name].accepts(value):
            found.append(f"{name} is {value!r}, needed {needs[name].words}")
    return found


def plain(value: Any) -> Any:
    """An option in Python's own types: a NumPy scalar would turn float32 into float64."""
    if isinstance(value, list | tuple):
        return tuple(plain(v) for v in value)
    return value.item() if isinstance(value, np.generic) else value
