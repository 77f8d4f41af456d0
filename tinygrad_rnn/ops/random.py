"""Random tensors, all drawn on the host.

One NumPy generator draws every random number (weights, dropout masks, shuffling, sampling) and the
result is copied to its device. So both backends start from the same weights, and a checkpoint that
holds the generator's state continues exactly. ``rng=`` takes a ``numpy.random.Generator`` or a
seed; without it the package's own generator is used, which `manual_seed` restarts.

NumPy imports its `numpy.random` when that is first asked for, and so do we: our generator is made
for the first number drawn. At import it would be a third of the time (9 of 27 ms).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from tinygrad_rnn.core.tensor import Tensor, tensor

Shape = int | Sequence[int]
Rng: TypeAlias = "np.random.Generator | int | None"


class _Default:
    generator: np.random.Generator | None = None  # until a number is drawn
    lock = threading.Lock()


def manual_seed(seed: int) -> np.random.Generator:
    """Restart the package's generator from `seed`, and return it."""
    _Default.generator = restarted = np.random.default_rng(seed)
    return restarted


def generator(rng: Rng = None) -> np.random.Generator:
    """The generator meant by `rng`: itself, a new one from a seed, or the package's own."""
    if rng is not None:
        return np.random.default_rng(rng)
    with _Default.lock:  # two threads that begin at once must not begin with two generators
        if _Default.generator is None:
            _Default.generator = np.random.default_rng()
        return _Default.generator


def _made(host: np.ndarray, dtype: Any, device: str | None, requires_grad: bool) -> Tensor:
    host = np.asarray(host).astype(np.float32 if dtype is None else dtype)
    return tensor(host, device=device, requires_grad=requires_grad)


def normal(
    shape: Shape = (),
    mean: float = 0.0,
    std: float = 1.0,
    *,
    rng: Rng = None,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Independent normal numbers; float32 unless told otherwise."""
    return _made(generator(rng).normal(mean, std, shape), dtype, device, requires_grad)


def uniform(
    shape: Shape = (),
    low: float = 0.0,
    high: float = 1.0,
    *,
    rng: Rng = None,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Independent numbers, evenly from [low, high); float32 unless told otherwise."""
    return _made(generator(rng).uniform(low, high, shape), dtype, device, requires_grad)


def integers(
    low: int, high: int, shape: Shape = (), *, rng: Rng = None, device: str | None = None
) -> Tensor:
    """Independent whole numbers, evenly from low .. high - 1, as int64."""
    return tensor(np.asarray(generator(rng).integers(low, high, shape)), device=device)


def permutation(n: int, *, rng: Rng = None, device: str | None = None) -> Tensor:
    """The numbers 0 .. n - 1 in random order, as int64."""
    return tensor(generator(rng).permutation(n), device=device)
