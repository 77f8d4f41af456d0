"""Filling parameters before training starts.

Every function writes into the array of a leaf, in place, and returns the leaf. Random numbers are
drawn on the host in float64 and copied over, so that the same seed gives the same weights on every
device. A weight matrix has shape (out, in), as in PyTorch: ``y = x @ W.T``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.errors import DataError, ShapeError
from tinygrad_rnn.ops.random import Rng, generator

# ---- matrices that keep lengths ----


def orthogonal_(tensor: Tensor, gain: float = 1.0, *, rng: Rng = None) -> Tensor:
    """A random matrix with orthonormal rows or columns, whichever are fewer, times `gain`.

    Multiplied by it, a vector keeps its length, so a recurrent network starts with gradients that
    neither vanish nor explode through it (Saxe, McClelland & Ganguli 2013, arXiv:1312.6120).

    Args:
        tensor: a leaf of 2 or more dimensions; beyond 2 it is filled as (first, all the others).
        gain: a factor for the whole matrix.
        rng: a NumPy Generator, a seed, or None for the package's own.

    Raises:
        ShapeError: fewer than 2 dimensions.
    """
    _matrix("orthogonal_", tensor)
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    gaussian = generator(rng).normal(size=(max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(gaussian)
    # QR leaves the sign of each column open. Making the diagonal of R positive settles it, and
    # only then is Q evenly distributed over all orthogonal matrices (Mezzadri 2007).
    q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return _write(tensor, gain * (q if rows >= columns else q.T).reshape(tensor.shape))


def identity_(tensor: Tensor, gain: float = 1.0, *, rng: Rng = None) -> Tensor:  # noqa: ARG001 - see `zeros_`
    """`gain` on the diagonal, 0 elsewhere: a recurrent network that at first just remembers.

    For ReLU networks (Le, Jaitly & Hinton 2015, arXiv:1504.00941). Raises ShapeError unless
    `tensor` has 2 dimensions.
    """
    if tensor.ndim != 2:
        raise ShapeError(f"identity_ needs a tensor of 2 dimensions, got shape {tensor.shape}")
    return _write(tensor, gain * np.eye(tensor.shape[0], tensor.shape[1]))


# ---- independent numbers ----


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, *, rng: Rng = None) -> Tensor:
    """Evenly from [a, b). Raises DataError unless both are finite and ``a <= b``."""
    if not -math.inf < a <= b < math.inf:
        raise DataError(f"uniform_ got a = {a!r} and b = {b!r}; needed finite numbers a <= b")
    return _write(tensor, generator(rng).uniform(a, b, tensor.shape))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, *, rng: Rng = None) -> Tensor:
    """Normally distributed. Raises DataError unless both are finite and ``std >= 0``."""
    if not (math.isfinite(mean) and 0 <= std < math.inf):
        raise DataError(
            f"normal_ got mean = {mean!r}, std = {std!r}; needed finite numbers, std >= 0"
        )
    return _write(tensor, generator(rng).normal(mean, std, tensor.shape))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, *, rng: Rng = None) -> Tensor:
    """Evenly from ±gain·sqrt(6 / (in + out)), for a variance of gain² · 2 / (in + out).

    A compromise that keeps the variance about the same forward and backward (Glorot & Bengio 2010,
    equation 16). Raises ShapeError below 2 dimensions.
    """
    fan_in, fan_out = fans("xavier_uniform_", tensor)
    bound = gain * math.sqrt(6 / (fan_in + fan_out))
    return uniform_(tensor, -bound, bound, rng=rng)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, *, rng: Rng = None) -> Tensor:
    """As `xavier_uniform_`, normally distributed with the same variance."""
    fan_in, fan_out = fans("xavier_normal_", tensor)
    return normal_(tensor, 0.0, gain * math.sqrt(2 / (fan_in + fan_out)), rng=rng)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    rng: Rng = None,
) -> Tensor:
    """Evenly from ±gain·sqrt(3 / fan), for a variance of gain² / fan.

    What He et al. 2015 (arXiv:1502.01852, equation 10) draw from a normal distribution, drawn
    evenly; one direction, forward or backward, keeps its variance exactly.

    Args:
        tensor: a leaf of shape (out, in).
        a: the slope of a leaky ReLU below 0; 0 for a plain one.
        mode: "fan_in" for the values going forward, "fan_out" for the gradients going back.
        nonlinearity: what follows the layer; sets the gain, see `calculate_gain`.
        rng: a NumPy Generator, a seed, or None for the package's own.

    Raises:
        ShapeError: fewer than 2 dimensions.
        DataError: an unknown mode or nonlinearity.
    """
    if mode not in ("fan_in", "fan_out"):
        raise DataError(f"kaiming_uniform_ got mode {mode!r}; needed 'fan_in' or 'fan_out'")
    fan_in, fan_out = fans("kaiming_uniform_", tensor)
    fan = fan_in if mode == "fan_in" else fan_out
    bound = calculate_gain(nonlinearity, a) * math.sqrt(3 / fan)
    return uniform_(tensor, -bound, bound, rng=rng)


# ---- constants ----


def constant_(tensor: Tensor, val: float, *, rng: Rng = None) -> Tensor:  # noqa: ARG001 - see `zeros_`
    """`val` everywhere."""
    return _write(tensor, np.full(tensor.shape, val))


def zeros_(tensor: Tensor, *, rng: Rng = None) -> Tensor:
    """0 everywhere.

    `rng` is not used; the functions of this module take it so that all can be called alike.
    """
    return constant_(tensor, 0.0, rng=rng)


def ones_(tensor: Tensor, *, rng: Rng = None) -> Tensor:
    """1 everywhere."""
    return constant_(tensor, 1.0, rng=rng)


# ---- what the formulas ask for ----


def calculate_gain(nonlinearity: str, param: float = 0.01) -> float:
    """The factor by which weights must be larger to make up for what follows them.

    A ReLU, for one, halves the mean square, hence sqrt(2). PyTorch's table and names; `param` is
    the slope of "leaky_relu". Raises DataError for an unknown name.
    """
    gains = {
        "linear": 1.0,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "leaky_relu": math.sqrt(2 / (1 + param**2)),
        "selu": 3 / 4,
    }
    if nonlinearity not in gains:
        raise DataError(f"no gain is known for {nonlinearity!r}; known: {', '.join(gains)}")
    return gains[nonlinearity]


def fans(op: str, tensor: Tensor) -> tuple[int, int]:
    """How many inputs an output has, and how many outputs an input feeds.

    ``(in, out)`` for a matrix of shape (out, in); further dimensions count for both, as the places
    of a convolution do in PyTorch.
    """
    _matrix(op, tensor)
    places = math.prod(tensor.shape[2:])
    return max(1, tensor.shape[1] * places), max(1, tensor.shape[0] * places)


def _matrix(op: str, tensor: Tensor) -> None:
    if tensor.ndim < 2:
        raise ShapeError(
            f"{op} needs a tensor of at least 2 dimensions, (out, in), got shape {tensor.shape}; "
            f"for a bias use zeros_ or uniform_"
        )


def _write(tensor: Tensor, host: np.ndarray) -> Tensor:
    """Copy `host` into the leaf's own array, whose dtype and device stay."""
    array: Any = tensor.writable()
    array[...] = backends.of(array).asarray(host.astype(tensor.dtype), tensor.device)
    return tensor
