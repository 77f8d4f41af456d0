"""Losses, activations and dropout as functions.

Every loss checks that shapes agree instead of broadcasting: (N,) against (N, 1) would silently
become an N x N table of differences, and train on nonsense.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.errors import DTypeError, ShapeError
from tinygrad_rnn.ops.arithmetic import not_equal, where
from tinygrad_rnn.ops.convert import astype
from tinygrad_rnn.ops.elementwise import abs as absolute
from tinygrad_rnn.ops.elementwise import gelu, relu, sigmoid, softplus, square, tanh
from tinygrad_rnn.ops.indexing import along_axis, as_index, one_hot
from tinygrad_rnn.ops.loss import softmax_cross_entropy as cross_entropy
from tinygrad_rnn.ops.random import Rng, generator
from tinygrad_rnn.ops.reduce import log_softmax, mean, softmax
from tinygrad_rnn.ops.reduce import sum as total
from tinygrad_rnn.ops.shape import expand_dims, squeeze

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "dropout",
    "gelu",
    "l1_loss",
    "log_softmax",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "relu",
    "sigmoid",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "tanh",
]


def _reduce(loss: Any, reduction: str, op: str) -> Any:
    if reduction == "mean":
        return mean(loss)
    if reduction == "sum":
        return total(loss)
    if reduction == "none":
        return loss
    raise DTypeError(f"{op}: reduction is 'mean', 'sum' or 'none', got {reduction!r}")


def _pair(prediction: Any, target: Any, op: str) -> tuple[Any, Any]:
    """Prediction and target of one shape; a target still on the host is brought along."""
    like = prediction._data if isinstance(prediction, Tensor) else prediction
    if like.dtype.kind != "f":
        raise DTypeError(f"{op}: needed a floating-point prediction, got {like.dtype}")
    if isinstance(target, Tensor):
        target = target if target.dtype.kind == "f" else astype(target, like.dtype)
    else:
        where_to = backends.of(like).device_of(like)
        target = Tensor(np.asarray(target, dtype=like.dtype), device=where_to)
    if prediction.shape != target.shape:
        raise ShapeError(
            f"{op}: prediction {prediction.shape} and target {target.shape} differ in shape; "
            f"nothing is broadcast here, use .reshape() on one of them"
        )
    return prediction, target


def mse_loss(prediction: Any, target: Any, *, reduction: str = "mean") -> Any:
    """The squared error ``(prediction - target)**2``, averaged, summed or as it is."""
    prediction, target = _pair(prediction, target, "mse_loss")
    return _reduce(square(prediction - target), reduction, "mse_loss")


def l1_loss(prediction: Any, target: Any, *, reduction: str = "mean") -> Any:
    """The absolute error ``|prediction - target|``, averaged, summed or as it is."""
    prediction, target = _pair(prediction, target, "l1_loss")
    return _reduce(absolute(prediction - target), reduction, "l1_loss")


def smooth_l1_loss(
    prediction: Any, target: Any, *, reduction: str = "mean", beta: float = 1.0
) -> Any:
    """Huber's compromise: squared error (over 2 beta) below `beta`, absolute error beyond it."""
    if not beta > 0:
        raise ShapeError(f"smooth_l1_loss: beta is a number > 0, got {beta}")
    prediction, target = _pair(prediction, target, "smooth_l1_loss")
    difference = prediction - target
    distance = absolute(difference)
    near = square(difference) * (0.5 / beta)  # of the difference: |d| has no slope at 0
    loss = where(distance < beta, near, distance - 0.5 * beta)
    return _reduce(loss, reduction, "smooth_l1_loss")


def binary_cross_entropy_with_logits(logits: Any, target: Any, *, reduction: str = "mean") -> Any:
    """``-t log sigmoid(z) - (1-t) log(1 - sigmoid(z))``, in nats, without overflow.

    Written as ``softplus(z) - t z``: the same, with no logarithm of a number rounded to 0.
    """
    logits, target = _pair(logits, target, "binary_cross_entropy_with_logits")
    loss = softplus(logits) - target * logits
    return _reduce(loss, reduction, "binary_cross_entropy_with_logits")


def nll_loss(
    log_probabilities: Any, targets: Any, *, ignore_index: int = -100, reduction: str = "mean"
) -> Any:
    """Minus the log probability of each target class: (..., V) and (...), classes last.

    `cross_entropy` on logits is this after log_softmax, faster. The mean is over the targets that
    count; 0 if none does.
    """
    size = log_probabilities.shape[-1]
    numbers = as_index(targets, log_probabilities, size, "nll_loss", ignore=ignore_index)
    if log_probabilities.shape[:-1] != numbers.shape:
        raise ShapeError(
            f"nll_loss: log probabilities of shape {log_probabilities.shape} need targets of "
            f"shape {log_probabilities.shape[:-1]}, got {numbers.shape}; classes are last"
        )
    counted = not_equal(numbers, ignore_index)
    index = expand_dims(where(counted, numbers, 0), -1)
    picked = along_axis(log_probabilities, index, log_probabilities.ndim - 1)
    loss = where(counted, -squeeze(picked, -1), 0)
    if reduction == "mean":
        xp = backends.namespace(numbers)
        return total(loss) / xp.maximum(xp.sum(counted), 1).astype(loss.dtype)
    return _reduce(loss, reduction, "nll_loss")


def check_probability(p: float) -> None:
    """Refuse a dropout probability outside [0, 1]."""
    if not 0 <= p <= 1:
        raise ShapeError(f"dropout: p is a probability in [0, 1], got {p}")


def dropout(x: Any, p: float = 0.5, *, training: bool = True, rng: Rng = None) -> Any:
    """Zero each element with probability `p` and scale the rest by 1/(1-p), in training only."""
    check_probability(p)
    if not training or p == 0:
        return x
    like = x._data if isinstance(x, Tensor) else x
    if like.dtype.kind != "f":
        raise DTypeError(f"dropout: needed a floating-point tensor, got {like.dtype}")
    kept = generator(rng).random(x.shape, dtype=np.float32) >= p
    mask = kept * np.asarray(1 / (1 - p) if p < 1 else 0, dtype=like.dtype)
    backend = backends.of(like)
    return x * backend.asarray(mask.astype(like.dtype), backend.device_of(like))
